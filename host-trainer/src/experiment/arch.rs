//! Two stages of architecture search compared with one, at equal epochs and at equal time.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Spread, page::head};
use crate::net::trained::write_atomically;
use crate::report::{Axis, Line, lines};
use crate::search::study::Status;
use crate::search::view::View;

/// How the evaluations of a search are divided, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Staging {
    /// Two stages.
    Two,
    /// One, with evaluations for as many epochs.
    One,
    /// One, with evaluations for as long a time.
    OneLonger,
}

impl Staging {
    /// Every one, in an order in which what they depend on comes first.
    pub const ALL: [Self; 3] = [Self::Two, Self::One, Self::OneLonger];

    /// The number of stages.
    pub fn stages(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::One | Self::OneLonger => 1,
        }
    }

    /// Name of a study's folder, before the seed.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Two => "2",
            Self::One => "1",
            Self::OneLonger => "1-longer",
        }
    }

    /// What it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Two => "two stages",
            Self::One => "single stage",
            Self::OneLonger => "single stage, longer",
        }
    }
}

/// Evaluations with which a search in one stage takes about as long as `two`, by what `one` took. They are a tenth
/// more: the control must not be the one that had less time.
pub fn evaluations_for_time(two: &ArchRow, one: &ArchRow) -> usize {
    const MARGIN: f64 = 1.1;
    let ratio = (MARGIN * two.seconds() / one.seconds()).max(1.0);
    (ratio * (one.evaluations + one.failed) as f64).ceil() as usize
}

/// A finished search for architectures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchRow {
    /// Its stages.
    pub staging: Staging,
    /// Seed.
    pub seed: u64,
    /// Evaluated candidates.
    pub evaluations: usize,
    /// Candidates whose evaluation failed.
    pub failed: usize,
    /// After each evaluation, seconds of all evaluations so far and hypervolume.
    pub curve: Vec<(f64, f64)>,
    /// The most accurate candidate.
    pub best: Option<Best>,
    /// Commit of the program, where it is known.
    pub commit: Option<String>,
}

/// The most accurate candidate of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its number.
    pub id: i64,
    /// Accuracy of its model on the validation split.
    pub accuracy: f64,
    /// Predicted instructions of an inference.
    pub instructions: f64,
    /// Bytes of its model.
    pub flash_bytes: u64,
    /// Bytes of its arena.
    pub arena_bytes: u64,
}

impl ArchRow {
    /// The row of a study that is complete.
    ///
    /// # Errors
    /// When a candidate's details are damaged.
    pub fn new(staging: Staging, seed: u64, view: &View, commit: Option<String>) -> Result<Self> {
        let mut elapsed = 0.0;
        let seconds = view.done().into_iter().map(|(candidate, _)| {
            elapsed += candidate.seconds.unwrap_or(0.0);
            elapsed
        });
        let curve = seconds.zip(view.curve()).collect();
        // The front is in the order of errors.
        let best = view.front.first().and_then(|&id| view.candidate(id));
        let best = match best {
            None => None,
            Some(candidate) => view.details(candidate)?.map(|details| Best {
                id: candidate.id,
                accuracy: details.merit,
                instructions: details.needs.instructions,
                flash_bytes: details.needs.flash as u64,
                arena_bytes: details.needs.ram as u64,
            }),
        };
        Ok(Self {
            staging,
            seed,
            evaluations: view.count(Status::Done),
            failed: view.count(Status::Failed),
            curve,
            best,
            commit,
        })
    }

    /// Seconds of all evaluations.
    pub fn seconds(&self) -> f64 {
        self.curve.last().map_or(0.0, |(seconds, _)| *seconds)
    }

    /// Hypervolume of all that was evaluated.
    pub fn hypervolume(&self) -> f64 {
        self.curve.last().map_or(0.0, |(_, volume)| *volume)
    }
}

/// One way over all its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagesSummary {
    /// Its stages.
    pub staging: Staging,
    /// Evaluated candidates.
    pub evaluations: Spread,
    /// Hypervolume in the end.
    pub hypervolume: Spread,
    /// By how much two stages with the same seed reach more.
    pub two_stages_ahead: Option<Spread>,
    /// Accuracy of the best candidate on the validation split.
    pub accuracy: Option<Spread>,
    /// Seconds of all evaluations.
    pub seconds: Spread,
}

/// Compares the searches by their rows.
pub fn summarise_stages(rows: &[ArchRow]) -> Vec<StagesSummary> {
    let summary = |staging: Staging| {
        let of = |staging: Staging| rows.iter().filter(move |row| row.staging == staging);
        let ahead = of(Staging::Two).filter_map(|two| {
            let own = of(staging).find(|own| own.seed == two.seed)?;
            Some(two.hypervolume() - own.hypervolume())
        });
        let spread = |values: Vec<f64>| Spread::of(&values);
        let accuracies = of(staging).filter_map(|row| Some(row.best.as_ref()?.accuracy));
        Some(StagesSummary {
            staging,
            evaluations: spread(of(staging).map(|row| row.evaluations as f64).collect())?,
            hypervolume: spread(of(staging).map(ArchRow::hypervolume).collect())?,
            two_stages_ahead: spread(ahead.collect()).filter(|_| staging != Staging::Two),
            accuracy: spread(accuracies.collect()),
            seconds: spread(of(staging).map(ArchRow::seconds).collect())?,
        })
    };
    Staging::ALL.into_iter().filter_map(summary).collect()
}

const PLOT_FILE: &str = "hypervolume.svg";

/// Writes `README.md` and a plot of the hypervolume over time into the folder of an experiment.
///
/// # Errors
/// When a file cannot be written or the plot not be drawn.
pub fn write_arch_page(
    folder: &Path,
    title: &str,
    command: &str,
    about: &[String],
    rows: &[ArchRow],
) -> Result<()> {
    let curves: Vec<Line> = rows
        .iter()
        .map(|row| Line {
            name: format!("{}, seed {}", row.staging.name(), row.seed),
            points: row.curve.clone(),
        })
        .collect();
    let axis = |name: &'static str| Axis { name, log: false };
    let svg = lines(&curves, axis("seconds of evaluations"), axis("hypervolume"))?;
    write_atomically(&folder.join(PLOT_FILE), svg.as_bytes())?;

    let commits = rows.iter().map(|row| row.commit.as_deref());
    let mut text = head(title, command, commits, &about.join(" "));
    text += &format!(
        "\n\n![hypervolume over seconds]({PLOT_FILE})\n\n\
         Mean ± standard deviation over seeds. Accuracies are those of int8 models on the validation split, which \
         the searches see. The single stage has as many epochs, the longer one about as many seconds, rather more. Ahead \
         are two stages, by hypervolume, paired by seed.\n\n\
         | | searches | evaluations | seconds | hypervolume | two stages ahead | best accuracy, % |\n\
         |---|---:|---:|---:|---:|---:|---:|\n"
    );
    let figure = |spread: Option<Spread>, factor: f64, digits: usize| {
        spread.map_or_else(String::new, |spread| spread.text(factor, digits))
    };
    for summary in summarise_stages(rows) {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            summary.staging.name(),
            summary.hypervolume.n,
            figure(Some(summary.evaluations), 1.0, 0),
            figure(Some(summary.seconds), 1.0, 0),
            figure(Some(summary.hypervolume), 1.0, 4),
            figure(summary.two_stages_ahead, 1.0, 4),
            figure(summary.accuracy, 100.0, 2),
        );
    }
    text += "\nThe most accurate candidate of each search:\n\n\
             | | seed | candidate | accuracy, % | instructions | flash, bytes | arena, bytes |\n\
             |---|---:|---:|---:|---:|---:|---:|\n";
    for row in rows {
        let Some(best) = &row.best else { continue };
        text += &format!(
            "| {} | {} | {} | {:.2} | {:.0} | {} | {} |\n",
            row.staging.name(),
            row.seed,
            best.id,
            100.0 * best.accuracy,
            best.instructions,
            best.flash_bytes,
            best.arena_bytes,
        );
    }
    write_atomically(&folder.join("README.md"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_compared_at_equal_epochs_and_time() {
        let row = |staging, curve: &[(f64, f64)]| ArchRow {
            staging,
            seed: 1,
            evaluations: curve.len(),
            failed: 0,
            curve: curve.to_vec(),
            best: Some(Best {
                id: 3,
                accuracy: 0.75,
                instructions: 1e6,
                flash_bytes: 1000,
                arena_bytes: 2000,
            }),
            commit: None,
        };
        let two = row(Staging::Two, &[(5.0, 0.2), (19.0, 0.75)]);
        let one = row(Staging::One, &[(6.0, 0.1), (9.5, 0.25)]);
        // 1.1 * 19 / 9.5 = 2.2 times as many; never fewer than at equal epochs.
        assert_eq!((evaluations_for_time(&two, &one), evaluations_for_time(&one, &two)), (5, 2));
        // Those that failed count as evaluations: they were part of what it took.
        let failing = ArchRow { failed: 2, ..one.clone() };
        assert_eq!(evaluations_for_time(&two, &failing), 9);
        let longer = row(Staging::OneLonger, &[(6.0, 0.1), (9.5, 0.4), (20.0, 0.5)]);
        let rows = [two, one, longer];
        let summary = summarise_stages(&rows);
        let ahead: Vec<Option<f64>> =
            summary.iter().map(|way| way.two_stages_ahead.map(|spread| spread.mean)).collect();
        assert_eq!(ahead, [None, Some(0.5), Some(0.25)]);

        let folder = tempfile::tempdir().unwrap();
        write_arch_page(folder.path(), "T", "niwaki x", &["About.".to_owned()], &rows).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        let line = "| single stage, longer | 1 | 3 | 20 | 0.5000 | 0.2500 | 75.00 |";
        assert!(page.contains(line), "{page}");
        assert!(page.contains("| two stages | 1 | 3 | 75.00 | 1000000 | 1000 | 2000 |"), "{page}");
    }
}
