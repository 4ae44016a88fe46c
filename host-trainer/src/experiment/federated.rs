//! Comparison of federated methods over rounds and over bytes.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use niwaki_core::Model;
use niwaki_core::learn::Plan;
use serde::{Deserialize, Serialize};

use super::{Row, Spread, Trial};
use crate::data::Dataset;
use crate::export::analyse;
use crate::federate::{
    Aggregation, Course, Global, Learning, Method, Moon, Server, Settings, Simulation, accuracy,
    alone, parties, samples_of,
};
use crate::learn::Samples;
use crate::net::trained::write_atomically;
use crate::report::{Axis, Line, lines};
use crate::target::cost::Core;

/// The variant of federated averaging with all weights.
pub const DENSE: &str = "fedavg-dense";

/// Models, data and settings that all methods share.
pub struct Contest<'a> {
    /// The model with a sparse tail.
    pub sparse: Model<'a>,
    /// The same network with all weights.
    pub dense: Option<Model<'a>>,
    /// The data; the groups of its training split are the devices.
    pub data: &'a Dataset,
    /// Number of devices; by default one per group.
    pub clients: Option<usize>,
    /// Concentration of the Dirichlet distribution, where there are no groups.
    pub alpha: f64,
    /// Devices that are asked in a round; by default all.
    pub sampled: Option<usize>,
    /// Rounds.
    pub rounds: u32,
    /// The accuracy is measured every so many rounds.
    pub test_every: u32,
    /// How updates become one.
    pub aggregation: Aggregation,
    /// Learning on the devices.
    pub learning: Learning,
    /// Most samples that a device may count.
    pub max_samples: u32,
    /// Commit of the program, where it is known.
    pub commit: Option<String>,
}

/// Where a method stands after a round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The round; 0 before the first.
    pub round: u32,
    /// Accuracy on the test split.
    pub accuracy: f64,
    /// Bytes from all devices so far, in frames as they go over a line.
    pub bytes_up: u64,
    /// Bytes to all devices so far.
    pub bytes_down: u64,
}

/// What a run consists of.
struct Run<'a> {
    model: &'a Model<'a>,
    method: Method,
    seed: u64,
    samples: &'a Samples,
    test: &'a Samples,
    parties: &'a [Vec<usize>],
}

impl Contest<'_> {
    /// What is compared.
    pub fn variants(&self) -> Vec<&'static str> {
        let mut all = vec!["contrastive", "fedavg", "fedprox", "moon", "local", "central"];
        if self.dense.is_some() {
            all.push(DENSE);
        }
        all
    }

    /// The trials, by seed.
    pub fn trials(&self, seeds: u64) -> Vec<Trial> {
        let trial = |seed: u64, variant: &str| {
            let density = match variant == DENSE {
                true => 1.0,
                false => (1000.0 * analyse(&self.sparse, Core::CortexM4).density).round() / 1000.0,
            };
            Trial { variant: variant.to_owned(), density, seed }
        };
        let variants = self.variants();
        (1..=seeds)
            .flat_map(|seed| variants.iter().map(move |variant| (seed, *variant)))
            .map(|(seed, variant)| trial(seed, variant))
            .collect()
    }

    /// Runs one method with one seed: of the division of data without groups, of the devices that are asked,
    /// and of the order of their samples.
    ///
    /// # Errors
    ///
    /// When the model, the data and the settings do not fit each other.
    pub fn run(&self, trial: &Trial) -> Result<Row> {
        let start = Instant::now();
        let (model, method) = match trial.variant.as_str() {
            DENSE => (self.dense.context("there is no dense model")?, Method::FedAvg),
            name => {
                let method = clap::ValueEnum::from_str(name, false);
                (self.sparse, method.map_err(anyhow::Error::msg)?)
            }
        };
        let plan = Plan::new(&model)?;
        let (samples, test) = samples_of(&model, self.data)?;
        let parties = parties::divide(self.data, self.clients, self.alpha, trial.seed)?;
        let before = accuracy(&model, &Global::new(&plan).parameters(), &test)?;
        let mut points = vec![Point { round: 0, accuracy: before, bytes_up: 0, bytes_down: 0 }];
        let run = Run {
            model: &model,
            method,
            seed: trial.seed,
            samples: &samples,
            test: &test,
            parties: &parties,
        };
        match method {
            Method::Local | Method::Central => self.run_alone(&run, &mut points)?,
            _ => self.run_together(&run, &mut points)?,
        }
        let last = points[points.len() - 1];
        let analysis = analyse(&model, Core::CortexM4);
        Ok(Row {
            trial: trial.clone(),
            density_real: analysis.density,
            nonzeros: analysis.nonzeros,
            float: last.accuracy,
            int8: last.accuracy,
            instructions: analysis.instructions,
            flash_bytes: analysis.model_bytes,
            arena_bytes: analysis.arena_bytes,
            seconds: start.elapsed().as_secs_f64(),
            commit: self.commit.clone(),
            details: serde_json::json!({
                "tunable_weights": plan.weight_count(),
                "devices": parties.len(),
                "points": points,
            }),
        })
    }

    fn run_alone(&self, run: &Run<'_>, points: &mut Vec<Point>) -> Result<()> {
        let Run { model, method, seed, samples, test, parties } = *run;
        let offer = self.learning.offer(method, model.id(), self.max_samples);
        let parties = match method {
            Method::Central => vec![parties.concat()],
            _ => parties.to_vec(),
        };
        let course = Course { offer, rounds: self.rounds, seed };
        alone(model, &parties, samples, test, &course, |round, accuracy| {
            if round % self.test_every == 0 || round == self.rounds {
                points.push(Point { round, accuracy, bytes_up: 0, bytes_down: 0 });
            }
        })
    }

    fn run_together(&self, run: &Run<'_>, points: &mut Vec<Point>) -> Result<()> {
        let Run { model, method, seed, samples, test, parties } = *run;
        let mut fleet = Simulation::new(model, samples, parties, seed, None)?;
        if method == Method::Moon {
            let Learning { contrast_weight: weight, temperature, .. } = self.learning;
            fleet = fleet.with_moon(Moon { weight, temperature });
        }
        let settings = Settings {
            offer: self.learning.offer(method, model.id(), self.max_samples),
            sampled: self.sampled.unwrap_or(parties.len()).min(parties.len()),
            minimum: 1,
            deadline_seconds: 600.0,
            aggregation: self.aggregation,
            seed,
        };
        let mut server = Server::open(model, settings, None)?;
        let (mut bytes_up, mut bytes_down) = (0, 0);
        while server.round() < self.rounds {
            let row = server.run_round(&fleet, &|round, global| {
                let due = round % self.test_every == 0 || round == self.rounds;
                due.then(|| accuracy(model, &global.parameters(), test)).transpose()
            })?;
            bytes_up += row.bytes_up;
            bytes_down += row.bytes_down;
            if let Some(accuracy) = row.accuracy {
                points.push(Point { round: row.round, accuracy, bytes_up, bytes_down });
            }
        }
        Ok(())
    }
}

/// A method over its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    /// The method.
    pub variant: String,
    /// Weights that devices tune.
    pub tunable_weights: u64,
    /// Accuracy after the last round.
    pub last: Spread,
    /// Best accuracy of any round that was measured.
    pub best: Spread,
    /// Bytes from all devices.
    pub bytes_up: Spread,
    /// Bytes to all devices.
    pub bytes_down: Spread,
    /// Bytes up until the accuracy was first that of the dense model's last round, less half a point, over
    /// the seeds that got there; absent where none did.
    pub bytes_up_to_dense: Option<Spread>,
    /// Accuracy after the last round within the bytes up that every federation of the sparse model has sent in the
    /// end; absent where nothing is sent.
    pub at_equal_bytes: Option<Spread>,
    /// Mean over the seeds after each round that was measured.
    pub curve: Vec<Point>,
}

/// Sums up rows, method by method in order of appearance.
///
/// # Errors
///
/// When a row is not one of this experiment.
pub fn standings(rows: &[Row]) -> Result<Vec<Standing>> {
    let points = |row: &Row| -> Result<Vec<Point>> {
        let points = serde_json::from_value(row.details["points"].clone());
        points.with_context(|| format!("row of {} seed {}", row.trial.variant, row.trial.seed))
    };
    let goal = Spread::of(
        &rows
            .iter()
            .filter(|row| row.trial.variant == DENSE)
            .map(|row| row.int8)
            .collect::<Vec<_>>(),
    );
    // Every method of the sparse model has sent so many bytes. Frames of the same contents differ by a few.
    let mut sent_by_all = u64::MAX;
    for row in rows.iter().filter(|row| row.trial.variant != DENSE) {
        let sent = points(row)?.last().map_or(0, |last| last.bytes_up);
        sent_by_all = sent_by_all.min(if sent > 0 { sent } else { u64::MAX });
    }
    let sent_by_all = sent_by_all.saturating_add(sent_by_all / 100);
    let mut variants: Vec<&str> = Vec::new();
    for row in rows {
        if !variants.contains(&row.trial.variant.as_str()) {
            variants.push(&row.trial.variant);
        }
    }
    let standing = |variant: &str| -> Result<Standing> {
        let own: Vec<&Row> = rows.iter().filter(|row| row.trial.variant == variant).collect();
        let curves: Vec<Vec<Point>> = own.iter().map(|row| points(row)).collect::<Result<_>>()?;
        let spread = |of: &dyn Fn(&[Point]) -> Option<f64>| {
            Spread::of(&curves.iter().filter_map(|curve| of(curve)).collect::<Vec<_>>())
        };
        let last = |of: fn(&Point) -> f64| {
            spread(&|curve| curve.last().map(of)).context("a row has no rounds")
        };
        let length = curves.iter().map(Vec::len).min().unwrap_or(0);
        let curve = (0..length)
            .map(|index| {
                let mean = |of: fn(&Point) -> f64| {
                    curves.iter().map(|curve| of(&curve[index])).sum::<f64>() / curves.len() as f64
                };
                Point {
                    round: curves[0][index].round,
                    accuracy: mean(|point| point.accuracy),
                    bytes_up: mean(|point| point.bytes_up as f64) as u64,
                    bytes_down: mean(|point| point.bytes_down as f64) as u64,
                }
            })
            .collect();
        Ok(Standing {
            variant: variant.to_owned(),
            tunable_weights: own[0].details["tunable_weights"].as_u64().unwrap_or(0),
            last: last(|point| point.accuracy)?,
            best: spread(&|curve| curve.iter().map(|point| point.accuracy).reduce(f64::max))
                .context("a row has no rounds")?,
            bytes_up: last(|point| point.bytes_up as f64)?,
            bytes_down: last(|point| point.bytes_down as f64)?,
            at_equal_bytes: spread(&|curve| {
                let sends = curve.last().is_some_and(|last| last.bytes_up > 0);
                let within = curve.iter().rfind(|point| point.bytes_up <= sent_by_all);
                within.filter(|_| sends).map(|point| point.accuracy)
            }),
            bytes_up_to_dense: goal.and_then(|goal| {
                spread(&|curve| {
                    // Methods without a federation send nothing.
                    let mut sent = curve.iter().filter(|point| point.bytes_up > 0);
                    let there = sent.find(|point| point.accuracy >= goal.mean - 0.005);
                    there.map(|point| point.bytes_up as f64)
                })
            }),
            curve,
        })
    };
    variants.into_iter().map(standing).collect()
}

/// Writes the page of the experiment, `README.md`, and its charts.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_federated_page(
    folder: &Path,
    title: &str,
    command: &str,
    about: &str,
    standings: &[Standing],
) -> Result<()> {
    let line = |standing: &Standing, x: fn(&Point) -> f64| Line {
        name: standing.variant.clone(),
        points: standing.curve.iter().map(|p| (x(p), 100.0 * p.accuracy)).collect(),
    };
    let y = Axis { name: "test accuracy, %", log: false };
    let over_rounds: Vec<Line> = standings.iter().map(|s| line(s, |p| p.round.into())).collect();
    let sent = standings.iter().filter(|standing| standing.bytes_up.mean > 0.0);
    let over_bytes: Vec<Line> = sent.map(|s| line(s, |p| p.bytes_up as f64 / 1024.0)).collect();
    let write = |name: &str, text: &str| write_atomically(&folder.join(name), text.as_bytes());
    write("rounds.svg", &lines(&over_rounds, Axis { name: "round", log: false }, y)?)?;
    let bytes = Axis { name: "KiB up, all devices, logarithmic", log: true };
    write("bytes.svg", &lines(&over_bytes, bytes, y)?)?;

    let percent = |spread: Spread| spread.text(100.0, 2);
    let mut text = format!("# {title}\n\n{about}\n\n```\n{command}\n```\n\n");
    text += "| method | seeds | tunable weights | last accuracy, % | at equal bytes up, % | best, % | KiB up | KiB down | KiB up to the dense accuracy |\n";
    text += "|---|---|---|---|---|---|---|---|---|\n";
    for standing in standings {
        let kib = |spread: Spread| spread.text(1.0 / 1024.0, 1);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            standing.variant,
            standing.last.n,
            standing.tunable_weights,
            percent(standing.last),
            standing.at_equal_bytes.map_or_else(|| "-".to_owned(), percent),
            percent(standing.best),
            kib(standing.bytes_up),
            kib(standing.bytes_down),
            standing.bytes_up_to_dense.map_or_else(
                || "-".to_owned(),
                |spread| format!("{} ({} seeds)", kib(spread), spread.n)
            ),
        )?;
    }
    text += "\nMeans and standard deviations over the seeds. Bytes are those of all devices together, in frames as\n\
             they go over a serial line. Equal bytes are what the thriftiest federation of the sparse model has sent in the end,\n\
             and 1 % more: the accuracy is that after the last round within them. The last column is of the seeds that came within half a point of what\n\
             `fedavg-dense` has after its last round. Best accuracies are chosen on the test samples and are\n\
             optimistic.\n\n![Accuracy over rounds](rounds.svg)\n\n![Accuracy over bytes](bytes.svg)\n";
    write("README.md", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::rows::tests::row;

    #[test]
    fn methods_are_compared_by_bytes_to_the_dense_accuracy() {
        let with = |variant: &str, seed: u64, accuracies: [f64; 3], bytes: u64| {
            let points: Vec<Point> = (0..)
                .zip(accuracies)
                .map(|(round, accuracy)| Point {
                    round,
                    accuracy,
                    bytes_up: u64::from(round) * bytes,
                    bytes_down: 0,
                })
                .collect();
            Row {
                details: serde_json::json!({ "points": points, "tunable_weights": 9 }),
                ..row(variant, 0.1, seed, accuracies[2] + 0.01)
            }
        };
        let mut rows = vec![
            with("fedavg", 1, [0.5, 0.9, 0.8], 10),
            with("fedavg", 2, [0.5, 0.6, 0.6], 10),
            with(DENSE, 1, [0.5, 0.6, 0.7], 100),
        ];
        // `row` takes a hundredth off.
        assert_eq!(rows[2].int8, 0.7);
        let found = standings(&rows).unwrap();
        assert_eq!(found[0].last.mean, 0.7);
        assert_eq!(found[0].best.mean, 0.75);
        let needed = found[0].bytes_up_to_dense.unwrap();
        assert_eq!((needed.mean, needed.n), (10.0, 1));
        assert_eq!(found[1].bytes_up_to_dense.unwrap().mean, 200.0);
        assert_eq!(found[0].curve[1].accuracy, 0.75);
        // Both rounds of the sparse model, none of the dense one.
        assert_eq!(found[0].at_equal_bytes.unwrap().mean, 0.7);
        assert_eq!(found[1].at_equal_bytes.unwrap().mean, 0.5);
        let folder = tempfile::tempdir().unwrap();
        write_federated_page(folder.path(), "Title", "niwaki", "About.", &found).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        assert!(page.contains("| fedavg | 2 | 9 | 70.00 ± 14.14 | 70.00 ± 14.14 |"), "{page}");
        rows[0].details = serde_json::Value::Null;
        assert!(format!("{:#}", standings(&rows).unwrap_err()).contains("fedavg seed 1"));
    }
}
