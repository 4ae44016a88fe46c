//! Statistics of rows.

use serde::Serialize;

use super::Row;
use crate::net::spec::Task;

/// One thing that is compared, with its place in the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Name, as in the rows.
    pub name: String,
    /// Whether others are measured against it.
    pub control: bool,
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; absent for a single value.
    pub std: Option<f64>,
    /// Number of values.
    pub n: usize,
}

impl Spread {
    /// Of these values, if there are any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// Of figures of merit: accuracies in percent.
    pub fn merit(&self, task: Task) -> String {
        match task {
            Task::Classify => self.text(100.0, 2),
            Task::Reconstruct => self.text(1.0, 4),
        }
    }

    /// Mean and deviation times a factor, with so many digits after the point.
    pub fn text(&self, factor: f64, digits: usize) -> String {
        let std = self.std.map(|std| format!(" ± {:.digits$}", factor * std));
        format!("{:.digits$}{}", factor * self.mean, std.unwrap_or_default())
    }
}

/// Differences to another variant at the same density over the seeds that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The other variant.
    pub with: String,
    /// Of the float network; positive is better.
    pub float: Spread,
    /// Of the int8 model; positive is better.
    pub int8: Spread,
}

/// All seeds of a variant at a density.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// What was trained.
    pub variant: String,
    /// Whether others are measured against it.
    pub control: bool,
    /// Density that was asked for.
    pub density: f64,
    /// Density that came out.
    pub density_real: f64,
    /// Figure of merit of the float network.
    pub float: Spread,
    /// Figure of merit of the int8 model.
    pub int8: Spread,
    /// Mean predicted instructions.
    pub instructions: f64,
    /// Mean bytes of the model.
    pub flash_bytes: f64,
    /// Mean bytes of its arena.
    pub arena_bytes: f64,
    /// Mean seconds of a training.
    pub seconds: f64,
    /// Against the best control at this density; absent for that itself.
    pub best_control: Option<Comparison>,
    /// Against the baseline of the experiment; absent for that itself.
    pub baseline: Option<Comparison>,
}

/// A comparison of all variants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What the figures of merit are.
    pub task: Task,
    /// By falling density, then in the order of the variants.
    pub cells: Vec<Cell>,
}

/// Compares variants; rows of others are left out.
pub fn summarise(
    rows: &[Row],
    variants: &[Variant],
    baseline: Option<&str>,
    task: Task,
) -> Summary {
    let mut densities: Vec<f64> = rows.iter().map(|row| row.trial.density).collect();
    densities.sort_by(|a, b| b.total_cmp(a));
    densities.dedup();
    // Positive differences are better, whatever the figure is.
    let sign = match task {
        Task::Classify => 1.0,
        Task::Reconstruct => -1.0,
    };
    let mut cells = Vec::new();
    for density in densities {
        let of = |name: &str| -> Vec<&Row> {
            let rows = rows.iter().filter(|row| row.trial.density == density);
            rows.filter(|row| row.trial.variant == name).collect()
        };
        let float =
            |name: &str| Spread::of(&of(name).iter().map(|row| row.float).collect::<Vec<_>>());
        let controls = variants.iter().filter(|variant| variant.control);
        let best = controls
            .filter_map(|variant| Some((&variant.name, sign * float(&variant.name)?.mean)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(name, _)| name.as_str());
        let compare = |name: &str, with: Option<&str>| -> Option<Comparison> {
            let with = with.filter(|with| *with != name)?;
            let (ours, others) = (of(name), of(with));
            let differences = |merit: fn(&Row) -> f64| {
                let pairs = ours.iter().filter_map(|row| {
                    let other = others.iter().find(|other| other.trial.seed == row.trial.seed)?;
                    Some(sign * (merit(row) - merit(other)))
                });
                Spread::of(&pairs.collect::<Vec<_>>())
            };
            Some(Comparison {
                with: with.to_owned(),
                float: differences(|row| row.float)?,
                int8: differences(|row| row.int8)?,
            })
        };
        for Variant { name, control } in variants {
            let rows = of(name);
            let spread = |value: fn(&Row) -> f64| {
                Spread::of(&rows.iter().map(|row| value(row)).collect::<Vec<_>>())
            };
            let mean = |value: fn(&Row) -> f64| spread(value).map_or(0.0, |spread| spread.mean);
            let (Some(float), Some(int8)) = (spread(|row| row.float), spread(|row| row.int8))
            else {
                continue;
            };
            cells.push(Cell {
                variant: name.clone(),
                control: *control,
                density,
                density_real: mean(|row| row.density_real),
                float,
                int8,
                instructions: mean(|row| row.instructions),
                flash_bytes: mean(|row| row.flash_bytes as f64),
                arena_bytes: mean(|row| row.arena_bytes as f64),
                seconds: mean(|row| row.seconds),
                best_control: compare(name, best),
                baseline: compare(name, baseline),
            });
        }
    }
    Summary { task, cells }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::rows::tests::row;

    #[test]
    fn differences_are_paired_by_seed() {
        let rows = [
            row("static", 0.1, 1, 0.80),
            row("static", 0.1, 2, 0.70),
            row("gmp", 0.1, 1, 0.85),
            row("gmp", 0.1, 2, 0.75),
            row("ours", 0.1, 1, 0.86),
            row("ours", 0.1, 2, 0.78),
            row("ours", 0.1, 3, 0.10),
        ];
        let variants = [("static", true), ("gmp", true), ("ours", false)]
            .map(|(name, control)| Variant { name: name.to_owned(), control });
        let summary = summarise(&rows, &variants, Some("static"), Task::Classify);
        let [fixed, gmp, ours] = &summary.cells[..] else { panic!("{summary:?}") };
        assert_eq!((fixed.baseline.clone(), gmp.best_control.clone()), (None, None));
        let best = ours.best_control.clone().unwrap();
        assert_eq!((best.with.as_str(), best.float.n), ("gmp", 2));
        assert!((best.float.mean - 0.02).abs() < 1e-12);
        assert!((best.float.std.unwrap() - 0.02 / 2.0_f64.sqrt()).abs() < 1e-12);
        assert!((ours.baseline.clone().unwrap().float.mean - 0.07).abs() < 1e-12);

        // A smaller error is better.
        let summary = summarise(&rows, &variants, None, Task::Reconstruct);
        let best = summary.cells[2].best_control.clone().unwrap();
        assert_eq!(best.with, "static");
        assert!((best.float.mean + 0.07).abs() < 1e-12);
    }
}
