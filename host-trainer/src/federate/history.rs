//! What happened in a federation, for people and programs.

use anyhow::{Result, anyhow};
use maud::{DOCTYPE, PreEscaped, html};
use niwaki_core::federated::Update;
use serde::{Deserialize, Serialize};

use super::{Delta, DropOut};

/// One round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its number, from 1.
    pub round: u32,
    /// Accuracy of the global model after it, where it was measured.
    pub accuracy: Option<f64>,
    /// Mean loss of the devices' last epochs, weighted by samples.
    pub loss: Option<f64>,
    /// Devices that were asked.
    pub offered: usize,
    /// Updates that were received and are sound.
    pub finished: usize,
    /// Whether they were enough to be aggregated.
    pub aggregated: bool,
    /// Samples behind the updates.
    pub samples: u64,
    /// Mean norm of the updates, in steps of the int8 weights.
    pub norm: Option<f64>,
    /// Bytes from devices, in frames as they go over a line.
    pub bytes_up: u64,
    /// Bytes to devices.
    pub bytes_down: u64,
    /// Devices without a sound update, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// Devices whose update counts but that did not hear so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unacknowledged: Vec<Dropped>,
}

/// A device that failed in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The device.
    pub client: u32,
    /// What happened.
    pub reason: String,
}

impl Row {
    /// Books an update. Sums stand where means will be.
    pub(super) fn add(&mut self, update: &Update, delta: &Delta) {
        let samples = f64::from(update.samples);
        *self.loss.get_or_insert(0.0) += samples * f64::from(update.loss);
        *self.norm.get_or_insert(0.0) += f64::from(delta.norm);
        self.samples += u64::from(update.samples);
        self.finished += 1;
    }

    pub(super) fn drop_out(&mut self, client: u32, reason: &DropOut) {
        self.dropped.push(Dropped { client, reason: reason.to_string() });
    }

    /// Turns sums into means.
    pub(super) fn finish(&mut self) {
        self.loss = self.loss.map(|sum| sum / self.samples as f64);
        self.norm = self.norm.map(|sum| sum / self.finished as f64);
    }
}

/// A federation on the whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Rounds that were run.
    pub rounds: usize,
    /// The last accuracy that was measured.
    pub accuracy: Option<f64>,
    /// Bytes from devices, in all rounds.
    pub bytes_up: u64,
    /// Bytes to devices, in all rounds.
    pub bytes_down: u64,
    /// Times that a device failed in a round.
    pub dropped: usize,
}

impl Totals {
    /// Sums up rounds.
    pub fn new(rows: &[Row]) -> Self {
        Self {
            rounds: rows.len(),
            accuracy: rows.iter().rev().find_map(|row| row.accuracy),
            bytes_up: rows.iter().map(|row| row.bytes_up).sum(),
            bytes_down: rows.iter().map(|row| row.bytes_down).sum(),
            dropped: rows.iter().map(|row| row.dropped.len()).sum(),
        }
    }
}

/// A page that shows a federation: figures, charts of accuracy over rounds and over bytes, and the rounds.
///
/// # Errors
///
/// When a chart cannot be drawn.
#[cfg(unix)]
pub fn history_page(title: &str, initial: f64, rows: &[Row]) -> Result<String> {
    use crate::report::{Axis, Line, lines};

    let percent = |share: f64| 100.0 * share;
    let mut bytes = 0.0;
    let [mut over_rounds, mut over_bytes] =
        [vec![(0.0, percent(initial))], vec![(0.0, percent(initial))]];
    for row in rows {
        bytes += row.bytes_up as f64;
        if let Some(accuracy) = row.accuracy {
            over_rounds.push((row.round.into(), percent(accuracy)));
            over_bytes.push((bytes / 1024.0, percent(accuracy)));
        }
    }
    let chart = |points: Vec<(f64, f64)>, x: Axis<'_>| {
        lines(
            &[Line { name: "global model".into(), points }],
            x,
            Axis { name: "accuracy, %", log: false },
        )
        .map_err(|error| anyhow!("drawing the chart: {error}"))
    };
    let totals = Totals::new(rows);
    let share = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", percent(share)))
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p {
                    "Accuracy " (share(Some(initial))) " before, " (share(totals.accuracy)) " after "
                    (totals.rounds) " rounds; " (totals.bytes_up) " bytes up, " (totals.bytes_down)
                    " bytes down, in frames as they go over a line."
                }
                (PreEscaped(chart(over_rounds, Axis { name: "round", log: false })?))
                (PreEscaped(chart(over_bytes, Axis { name: "KiB up, all devices", log: false })?))
                table {
                    tr {
                        @for name in ["round", "accuracy", "loss", "updates", "norm", "bytes up", "bytes down", "failed"] {
                            th { (name) }
                        }
                    }
                    @for row in rows {
                        tr {
                            td { (row.round) }
                            td { (share(row.accuracy)) }
                            td { (number(row.loss)) }
                            td { (row.finished) "/" (row.offered) @if !row.aggregated { ", lost" } }
                            td { (number(row.norm)) }
                            td { (row.bytes_up) }
                            td { (row.bytes_down) }
                            td {
                                @for Dropped { client, reason } in row.dropped.iter().chain(&row.unacknowledged) {
                                    div { "device " (client) ": " (reason) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    .into_string())
}

#[cfg(unix)]
const STYLE: &str = "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;color:#222}\
    table{border-collapse:collapse;font-size:.85rem}td,th{padding:.15rem .6rem;text-align:right;\
    border-bottom:1px solid #ddd;vertical-align:top}td:last-child{text-align:left}svg{max-width:100%}";
