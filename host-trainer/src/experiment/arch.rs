//! Two stages of architecture search compared with one, at equal time.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Spread, page::head};
use crate::net::trained::write_atomically;
use crate::report::{Axis, Line, lines};
use crate::search::study::Status;
use crate::search::view::View;

/// A finished search for architectures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchRow {
    /// Number of its stages.
    pub stages: u8,
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
    pub fn new(stages: u8, seed: u64, view: &View, commit: Option<String>) -> Result<Self> {
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
            stages,
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

    /// Hypervolume of what was evaluated within so many seconds.
    pub fn hypervolume_at(&self, seconds: f64) -> f64 {
        let within = self.curve.iter().rev().find(|(at, _)| *at <= seconds);
        within.map_or(0.0, |(_, volume)| *volume)
    }
}

/// One number of stages over all its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagesSummary {
    /// Number of stages.
    pub stages: u8,
    /// Evaluated candidates.
    pub evaluations: Spread,
    /// Hypervolume in the end.
    pub hypervolume: Spread,
    /// Hypervolume after the seconds that the quicker one of the two searches with the same seed took.
    pub hypervolume_at_equal_time: Option<Spread>,
    /// Accuracy of the best candidate on the validation split.
    pub accuracy: Option<Spread>,
    /// Seconds of all evaluations.
    pub seconds: Spread,
}

/// Compares the searches by their rows.
pub fn summarise_stages(rows: &[ArchRow]) -> Vec<StagesSummary> {
    let summary = |stages: u8| {
        let of = || rows.iter().filter(|row| row.stages == stages);
        let equal = of().filter_map(|row| {
            let other = rows.iter().find(|o| (o.stages != stages) && o.seed == row.seed)?;
            Some(row.hypervolume_at(row.seconds().min(other.seconds())))
        });
        let spread = |values: Vec<f64>| Spread::of(&values);
        Some(StagesSummary {
            stages,
            evaluations: spread(of().map(|row| row.evaluations as f64).collect())?,
            hypervolume: spread(of().map(|row| row.hypervolume_at(f64::INFINITY)).collect())?,
            hypervolume_at_equal_time: spread(equal.collect()),
            accuracy: spread(of().filter_map(|r| Some(r.best.as_ref()?.accuracy)).collect()),
            seconds: spread(of().map(ArchRow::seconds).collect())?,
        })
    };
    [2, 1].into_iter().filter_map(summary).collect()
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
            name: format!("{}, seed {}", stages_of(row.stages), row.seed),
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
         the searches see. Equal time is that of the quicker search with the same seed.\n\n\
         | | searches | evaluations | seconds | hypervolume | at equal time | best accuracy, % |\n\
         |---|---:|---:|---:|---:|---:|---:|\n"
    );
    let figure = |spread: Option<Spread>, factor: f64, digits: usize| {
        spread.map_or_else(String::new, |spread| spread.text(factor, digits))
    };
    for summary in summarise_stages(rows) {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            stages_of(summary.stages),
            summary.hypervolume.n,
            figure(Some(summary.evaluations), 1.0, 0),
            figure(Some(summary.seconds), 1.0, 0),
            figure(Some(summary.hypervolume), 1.0, 4),
            figure(summary.hypervolume_at_equal_time, 1.0, 4),
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
            stages_of(row.stages),
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

fn stages_of(stages: u8) -> &'static str {
    if stages == 1 { "single stage" } else { "two stages" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_compared_at_equal_time() {
        let row = |stages, curve: &[(f64, f64)]| ArchRow {
            stages,
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
        let rows =
            [row(2, &[(5.0, 0.2), (9.0, 0.5)]), row(1, &[(6.0, 0.1), (9.5, 0.4), (20.0, 0.6)])];
        let [two, one] = &summarise_stages(&rows)[..] else { panic!() };
        assert_eq!((two.hypervolume.mean, one.hypervolume.mean), (0.5, 0.6));
        let equal = |summary: &StagesSummary| summary.hypervolume_at_equal_time.unwrap().mean;
        assert_eq!((equal(two), equal(one)), (0.5, 0.1));
        assert!(summarise_stages(&rows[..1])[0].hypervolume_at_equal_time.is_none());

        let folder = tempfile::tempdir().unwrap();
        write_arch_page(folder.path(), "T", "niwaki x", &["About.".to_owned()], &rows).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        assert!(page.contains("| single stage | 1 | 3 | 20 | 0.6000 | 0.1000 | 75.00 |"), "{page}");
        assert!(page.contains("| two stages | 1 | 3 | 75.00 | 1000000 | 1000 | 2000 |"), "{page}");
    }
}
