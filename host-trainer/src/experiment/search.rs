//! Ways of finding candidates, compared at the same number of true evaluations.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Spread, page::head};
use crate::net::trained::write_atomically;
use crate::report::{Axis, Line, lines};
use crate::search::optimiser::Algorithm;
use crate::search::study::Status;
use crate::search::surrogate::kendall_tau;
use crate::search::view::View;

/// A way of finding candidates.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// MOEA/D on what the surrogate predicts
    Surrogate,
    /// MOEA/D by breeding alone
    Moead,
    /// NSGA-II by breeding alone
    Nsga2,
    /// Candidates drawn evenly
    Random,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Surrogate, Self::Moead, Self::Nsga2, Self::Random];

    /// How candidates are found, and whether predictions choose among them.
    pub fn algorithm(self) -> (Algorithm, bool) {
        match self {
            Self::Surrogate => (Algorithm::Moead, true),
            Self::Moead => (Algorithm::Moead, false),
            Self::Nsga2 => (Algorithm::Nsga2, false),
            Self::Random => (Algorithm::Random, false),
        }
    }

    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Surrogate => "surrogate",
            Self::Moead => "moead",
            Self::Nsga2 => "nsga2",
            Self::Random => "random",
        }
    }
}

/// A finished search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRow {
    /// How candidates were found.
    pub way: Way,
    /// Seed.
    pub seed: u64,
    /// Evaluated candidates.
    pub evaluations: usize,
    /// Candidates whose evaluation failed.
    pub failed: usize,
    /// Members of the front.
    pub front: usize,
    /// Hypervolume after each evaluation.
    pub curve: Vec<f64>,
    /// What errors were predicted to be before evaluation, and what they were.
    pub predictions: Vec<(f64, f64)>,
    /// Rank correlation of these.
    pub tau: Option<f64>,
    /// What the surrogate of this seed's search, in the end, says of the errors of this way's candidates, and
    /// what they were.
    #[serde(default)]
    pub foreign: Vec<(f64, f64)>,
    /// Seconds of all evaluations.
    pub seconds: f64,
    /// Commit of the program, where it is known.
    pub commit: Option<String>,
}

impl SearchRow {
    /// The row of a study that is complete.
    pub fn new(
        way: Way,
        seed: u64,
        view: &View,
        foreign: Vec<(f64, f64)>,
        commit: Option<String>,
    ) -> Self {
        Self {
            way,
            seed,
            evaluations: view.count(Status::Done),
            failed: view.count(Status::Failed),
            front: view.front.len(),
            curve: view.curve(),
            predictions: view.predictions(),
            tau: view.tau(),
            foreign,
            seconds: view.candidates.iter().filter_map(|c| c.seconds).sum(),
            commit,
        }
    }

    /// Hypervolume in the end.
    pub fn hypervolume(&self) -> f64 {
        self.curve.last().copied().unwrap_or(0.0)
    }
}

/// One way over all its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaySummary {
    /// The way.
    pub way: Way,
    /// Hypervolume in the end.
    pub hypervolume: Spread,
    /// By how much the hypervolume of the surrogate is larger, paired by seed.
    pub surrogate_gain: Option<Spread>,
    /// By which factor the surrogate needs fewer evaluations to reach this way's final hypervolume; seeds in
    /// which it does not reach it count with a factor of 1 at most.
    pub surrogate_speed: Option<Spread>,
    /// Rank correlation of predictions with truth: of those of the surrogate for its own candidates, before
    /// they were evaluated, and for those of other ways.
    pub tau: Option<Spread>,
    /// Seconds of all evaluations.
    pub seconds: Spread,
}

/// Compares the ways by their rows.
pub fn summarise_searches(rows: &[SearchRow]) -> Vec<WaySummary> {
    let of = |way: Way| rows.iter().filter(move |row| row.way == way);
    let pair = |row: &SearchRow| of(Way::Surrogate).find(|own| own.seed == row.seed);
    let summary = |way: Way| {
        let hypervolume = Spread::of(&of(way).map(SearchRow::hypervolume).collect::<Vec<_>>())?;
        let gains: Vec<f64> =
            of(way).filter_map(|row| Some(pair(row)?.hypervolume() - row.hypervolume())).collect();
        let speeds: Vec<f64> = of(way)
            .filter_map(|row| {
                let own = pair(row)?;
                let goal = row.hypervolume();
                let needed = own.curve.iter().position(|volume| *volume >= goal);
                let first = row.curve.iter().position(|volume| *volume >= goal)? + 1;
                // Evaluations that this way needed for what it has in the end.
                Some(first as f64 / needed.map_or(own.curve.len().max(first), |at| at + 1) as f64)
            })
            .collect();
        let tau = |row: &SearchRow| row.tau.or_else(|| kendall_tau(&row.foreign));
        let taus: Vec<f64> = of(way).filter_map(tau).collect();
        let control = way != Way::Surrogate;
        Some(WaySummary {
            way,
            hypervolume,
            surrogate_gain: Spread::of(&gains).filter(|_| control),
            surrogate_speed: Spread::of(&speeds).filter(|_| control),
            tau: Spread::of(&taus),
            seconds: Spread::of(&of(way).map(|row| row.seconds).collect::<Vec<_>>())?,
        })
    };
    Way::ALL.into_iter().filter_map(summary).collect()
}

const PLOT_FILE: &str = "hypervolume.svg";

/// Writes `README.md` and a plot of the hypervolume over evaluations into the folder of an experiment.
///
/// # Errors
/// When a file cannot be written or the plot not be drawn.
pub fn write_search_page(
    folder: &Path,
    title: &str,
    command: &str,
    about: &[String],
    rows: &[SearchRow],
) -> Result<()> {
    let mean = |way: Way| -> Vec<(f64, f64)> {
        let curves: Vec<&Vec<f64>> =
            rows.iter().filter(|row| row.way == way).map(|row| &row.curve).collect();
        let count = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
        let at = |index: usize| {
            let sum: f64 = curves.iter().map(|curve| curve[index]).sum();
            (index as f64 + 1.0, sum / curves.len() as f64)
        };
        (0..count).map(at).collect()
    };
    let curves: Vec<Line> = Way::ALL
        .into_iter()
        .map(|way| Line { name: way.name().to_owned(), points: mean(way) })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    let axis = |name: &'static str| Axis { name, log: false };
    let svg = lines(&curves, axis("true evaluations"), axis("hypervolume"))?;
    write_atomically(&folder.join(PLOT_FILE), svg.as_bytes())?;

    let commits = rows.iter().map(|row| row.commit.as_deref());
    let mut text = head(title, command, commits, &about.join(" "));
    text += &format!(
        "\n\n![hypervolume over evaluations]({PLOT_FILE})\n\n\
         Mean ± standard deviation over seeds. Differences are paired by seed: how much larger the hypervolume \
         of the surrogate is, and by which factor fewer evaluations it needs for the control's final one. \
         Tau is Kendall's rank correlation of predicted errors with true ones: for the surrogate, of each \
         prediction made before its candidate was evaluated; for the other ways, of what the surrogate with the \
         same seed says in the end of their candidates, which it was not fitted to.\n\n\
         | | searches | hypervolume | surrogate's gain | fewer evaluations | tau | seconds |\n\
         |---|---:|---:|---:|---:|---:|---:|\n"
    );
    let spread = |spread: Option<Spread>, digits: usize| {
        spread.map_or_else(String::new, |spread| spread.text(1.0, digits))
    };
    for summary in summarise_searches(rows) {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            summary.way.name(),
            summary.hypervolume.n,
            spread(Some(summary.hypervolume), 4),
            spread(summary.surrogate_gain, 4),
            spread(summary.surrogate_speed, 2),
            spread(summary.tau, 3),
            spread(Some(summary.seconds), 0),
        );
    }
    write_atomically(&folder.join("README.md"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_compared_by_seed() {
        let row = |way, seed, curve: &[f64]| SearchRow {
            way,
            seed,
            evaluations: curve.len(),
            failed: 0,
            front: 1,
            curve: curve.to_vec(),
            predictions: vec![(0.1, 0.2)],
            tau: (way == Way::Surrogate).then_some(0.8),
            foreign: vec![(0.1, 0.2), (0.2, 0.3), (0.3, 0.25)],
            seconds: 10.0,
            commit: None,
        };
        let rows = [
            row(Way::Surrogate, 1, &[0.1, 0.4, 0.6, 0.7]),
            row(Way::Random, 1, &[0.1, 0.2, 0.3, 0.4]),
            row(Way::Surrogate, 2, &[0.1, 0.1, 0.1, 0.3]),
            row(Way::Random, 2, &[0.1, 0.5, 0.5, 0.5]),
        ];
        let [own, random] = &summarise_searches(&rows)[..] else { panic!() };
        assert!(own.surrogate_gain.is_none() && (own.hypervolume.mean - 0.5).abs() < 1e-9);
        assert!((random.surrogate_gain.unwrap().mean - 0.05).abs() < 1e-9);
        // Twice as fast with the first seed; never there with the second, where chance needed 2 of 4.
        assert_eq!(random.surrogate_speed.unwrap().mean, (2.0 + 0.5) / 2.0);

        assert_eq!(own.tau.unwrap().mean, 0.8);
        assert!((random.tau.unwrap().mean - 1.0 / 3.0).abs() < 1e-9);

        let folder = tempfile::tempdir().unwrap();
        write_search_page(folder.path(), "T", "niwaki x", &["About.".to_owned()], &rows).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        assert!(page.contains("| random | 2 | 0.4500 ± 0.0707 | 0.0500 ± "), "{page}");
        let svg = std::fs::read_to_string(folder.path().join(PLOT_FILE)).unwrap();
        assert!(svg.contains("surrogate") && svg.contains("random"));
    }
}
