//! Ways in which parties learn one network together, compared over rounds and over bytes.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Row, Spread, page::head};
use crate::net::trained::write_atomically;
use crate::report::{Axis, Line, lines};
use crate::sparse::multiparty::Round;

/// A way over its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartiesSummary {
    /// The way.
    pub variant: String,
    /// Density of the networks.
    pub density: f64,
    /// Accuracy of the global network on the test split after the last round.
    pub global: Spread,
    /// The same of its int8 model.
    pub int8: Spread,
    /// Accuracy of the parties' own models on their own test samples after the last round.
    pub personal: Spread,
    /// Bytes from all parties.
    pub bytes_up: Spread,
    /// Bytes to all parties.
    pub bytes_down: Spread,
    /// Share of the weights that some party keeps in the end.
    pub kept_by_any: Spread,
    /// Predicted instructions of an inference of the global network.
    pub instructions: f64,
    /// Bytes of its model.
    pub flash_bytes: f64,
    /// Mean over the seeds after each round: bytes from all parties, accuracy of the global network if it was
    /// tested, accuracy on own test samples.
    pub curve: Vec<(f64, Option<f64>, f64)>,
}

/// Sums up rows, way by way in order of appearance.
///
/// # Errors
/// When a row is not one of this experiment.
pub fn summarise_parties(rows: &[Row]) -> Result<Vec<PartiesSummary>> {
    let mut variants: Vec<(&str, f64)> = Vec::new();
    for row in rows {
        let variant = (row.trial.variant.as_str(), row.trial.density);
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    let summary = |(variant, density): (&str, f64)| -> Result<PartiesSummary> {
        let own =
            || rows.iter().filter(|r| (&*r.trial.variant, r.trial.density) == (variant, density));
        let rounds = own().map(|row| {
            let rounds = serde_json::from_value(row.details["rounds"].clone());
            rounds.with_context(|| format!("row of {variant} seed {}", row.trial.seed))
        });
        let rounds: Vec<Vec<Round>> = rounds.collect::<Result<_>>()?;
        let spread = |values: Vec<f64>| Spread::of(&values).context("no row");
        let last = |of: fn(&Round) -> f64| -> Result<Spread> {
            spread(rounds.iter().filter_map(|rounds| rounds.last().map(of)).collect())
        };
        let length = rounds.iter().map(Vec::len).min().unwrap_or(0);
        let curve = (0..length).map(|at| {
            let mean = |of: fn(&Round) -> Option<f64>| -> Option<f64> {
                let all: Option<Vec<f64>> = rounds.iter().map(|rounds| of(&rounds[at])).collect();
                Some(all?.iter().sum::<f64>() / rounds.len() as f64)
            };
            let bytes = mean(|round| Some(round.bytes_up as f64)).unwrap_or(0.0);
            let personal = mean(|round| Some(round.personal)).unwrap_or(0.0);
            (bytes, mean(|round| round.accuracy), personal)
        });
        Ok(PartiesSummary {
            variant: variant.to_owned(),
            density,
            global: spread(own().map(|row| row.float).collect())?,
            int8: spread(own().map(|row| row.int8).collect())?,
            personal: last(|round| round.personal)?,
            bytes_up: last(|round| round.bytes_up as f64)?,
            bytes_down: last(|round| round.bytes_down as f64)?,
            kept_by_any: last(|round| round.kept_by_any)?,
            instructions: spread(own().map(|row| row.instructions).collect())?.mean,
            flash_bytes: spread(own().map(|row| row.flash_bytes as f64).collect())?.mean,
            curve: curve.collect(),
        })
    };
    variants.into_iter().map(summary).collect()
}

/// Writes `README.md` and charts into the folder of an experiment.
///
/// # Errors
/// When a file cannot be written or a chart not be drawn.
pub fn write_parties_page(
    folder: &Path,
    title: &str,
    command: &str,
    about: &str,
    rows: &[Row],
    summaries: &[PartiesSummary],
) -> Result<()> {
    let percent = |name: &'static str| Axis { name, log: false };
    let curves = |points: &dyn Fn(&PartiesSummary) -> Vec<(f64, f64)>| -> Vec<Line> {
        let line = |s: &PartiesSummary| Line { name: s.variant.clone(), points: points(s) };
        summaries.iter().map(line).filter(|line| line.points.len() > 1).collect()
    };
    let over_bytes = curves(&|summary| {
        let sent = summary.curve.iter().filter(|(bytes, ..)| *bytes > 0.0);
        let points =
            sent.filter_map(|(bytes, global, _)| Some((bytes / 1024.0, 100.0 * (*global)?)));
        points.collect()
    });
    let over_rounds = curves(&|summary| {
        let personal = (1..).zip(&summary.curve);
        personal.map(|(round, (.., own))| (f64::from(round), 100.0 * own)).collect()
    });
    let write = |name: &str, text: &str| write_atomically(&folder.join(name), text.as_bytes());
    let bytes = Axis { name: "KiB up, all parties, logarithmic", log: true };
    write("global.svg", &lines(&over_bytes, bytes, percent("test accuracy, %"))?)?;
    let round = Axis { name: "round", log: false };
    write("personal.svg", &lines(&over_rounds, round, percent("own samples, %"))?)?;

    let commits = rows.iter().map(|row| row.commit.as_deref());
    let mut text = head(title, command, commits, about);
    text += "\n\nMeans and standard deviations over the seeds. *Global* is the one network that all have in the end, on the \
             test split (of `local`, the mean of the parties' own ones); *own samples* are those that each party keeps back, \
             for its own model after its round. Bytes are those of all parties together, as messages are encoded.\n\n\
             | | density | seeds | global, % | int8, % | own samples, % | KiB up | KiB down | kept by any | instructions | flash, bytes |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for s in summaries {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.3} | {:.0} | {:.0} |",
            s.variant,
            s.density,
            s.global.n,
            s.global.text(100.0, 2),
            s.int8.text(100.0, 2),
            s.personal.text(100.0, 2),
            s.bytes_up.mean / 1024.0,
            s.bytes_down.mean / 1024.0,
            s.kept_by_any.mean,
            s.instructions,
            s.flash_bytes,
        )?;
    }
    text += "\n![accuracy of the global network over bytes](global.svg)\n\n\
             ![accuracy of the parties' own models over rounds](personal.svg)\n";
    write("README.md", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::rows::tests::row;

    #[test]
    fn parties_are_summed_up() {
        let with = |variant: &str, seed: u64, merit: f64, bytes: u64| {
            let rounds: Vec<Round> = (1..=2)
                .map(|round| Round {
                    round,
                    accuracy: (bytes > 0 || round == 2).then_some(merit),
                    personal: merit / 2.0,
                    bytes_up: bytes * round as u64,
                    bytes_down: bytes,
                    kept_by_any: 0.25,
                })
                .collect();
            Row {
                details: serde_json::json!({ "rounds": rounds }),
                ..row(variant, 0.1, seed, merit)
            }
        };
        let rows = [
            with("personal", 1, 0.8, 1024),
            with("personal", 2, 0.6, 1024),
            with("local", 1, 0.5, 0),
        ];
        let summaries = summarise_parties(&rows).unwrap();
        assert_eq!(summaries[0].curve[1], (2048.0, Some(0.7), 0.35));
        assert_eq!(summaries[1].curve[0].1, None);
        let folder = tempfile::tempdir().unwrap();
        write_parties_page(folder.path(), "T", "niwaki x", "About.", &rows, &summaries).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        let expected = "| personal | 0.1 | 2 | 70.00 ± 14.14 | 69.00 ± 14.14 | 35.00 ± 7.07 | 2.0 | 1.0 | 0.250 |";
        assert!(page.contains(expected), "{page}");
        assert!(summarise_parties(&[row("local", 0.1, 1, 0.5)]).is_err());
    }
}
