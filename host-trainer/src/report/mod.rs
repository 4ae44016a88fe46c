//! A training run and its model as one self-contained HTML page; break-even curves as a table and a chart.

mod break_even;
mod chart;
mod search;

pub use search::search_html;

pub use break_even::{break_even_csv, break_even_markdown, break_even_svg};
pub use chart::{Axis, Line, lines};

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use crate::export::Analysis;
use crate::net::{RunFile, Summary};
use crate::sparse::EpochRow;
use crate::sparse::layerwise::Choice;
use crate::target::Validation;

/// All that a report shows.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The figures that matter most.
    pub result: Outcome,
    /// Settings of the training, the network and the data.
    pub run: RunFile,
    /// The training, epoch by epoch.
    pub epochs: Vec<EpochRow>,
    /// The exported model, layer by layer.
    pub analysis: Analysis,
    /// The comparison of a device with the host.
    pub validation: Validation,
    /// Strategies of the layers, where they were searched for.
    pub choice: Option<Choice>,
}

/// The figures that matter most, from data to device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Samples of the test split on which host and device were compared.
    pub samples: usize,
    /// Accuracy of the float network on the test split.
    pub accuracy_float: Option<f64>,
    /// Accuracy of the int8 model on the host, over the samples.
    pub accuracy_host: Option<f64>,
    /// Accuracy of the int8 model on the device, over the samples.
    pub accuracy_target: Option<f64>,
    /// Output bytes that differ between host and device.
    pub mismatched_bytes: usize,
    /// Bytes of features of sound that differ between host and device; none for other models.
    pub mismatched_feature_bytes: Option<usize>,
    /// Nonzero weights / weights.
    pub density: f64,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// Multiply-accumulates of one inference over nonzero weights.
    pub macs: u64,
    /// Size of the model in flash.
    pub model_bytes: usize,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Most stack that an inference took.
    pub stack_bytes: Option<u32>,
    /// Mean executed instructions of an inference.
    pub instructions_per_inference: Option<u64>,
    /// Memory in which features of sound are computed.
    pub front_end_bytes: Option<usize>,
    /// Mean executed instructions of the features of a clip.
    pub instructions_per_clip: Option<u64>,
}

impl Outcome {
    /// Gathers the figures.
    pub fn new(summary: &Summary, analysis: &Analysis, validation: &Validation) -> Self {
        Self {
            samples: validation.samples,
            accuracy_float: summary.accuracy_float.test,
            accuracy_host: validation.accuracy_host,
            accuracy_target: validation.accuracy_target,
            mismatched_bytes: validation.mismatched_bytes,
            mismatched_feature_bytes: validation.mismatched_feature_bytes,
            density: analysis.density,
            nonzeros: analysis.nonzeros,
            macs: analysis.macs_nonzero,
            model_bytes: analysis.model_bytes,
            arena_bytes: analysis.arena_bytes,
            stack_bytes: validation.stack_bytes,
            instructions_per_inference: validation.instructions_per_inference,
            front_end_bytes: analysis.front_end_bytes,
            instructions_per_clip: validation.instructions_per_clip,
        }
    }

    /// Names and values for a table.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", 100.0 * share))
        };
        let bytes = |count: u64| format!("{} bytes", grouped(count));
        let optional = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), grouped);
        let mut rows = vec![
            ("accuracy, float", percent(self.accuracy_float)),
            ("accuracy, int8 on the host", percent(self.accuracy_host)),
            ("accuracy, int8 on the device", percent(self.accuracy_target)),
            (
                "bytes that differ",
                format!("{} in {} inferences", self.mismatched_bytes, grouped(self.samples as u64)),
            ),
            ("density", format!("{:.3}", self.density)),
            ("nonzero weights", grouped(self.nonzeros as u64)),
            ("MACs over nonzero weights", grouped(self.macs)),
            ("flash of the model", bytes(self.model_bytes as u64)),
            ("arena", bytes(self.arena_bytes as u64)),
            ("stack", self.stack_bytes.map_or_else(|| "-".to_owned(), |n| bytes(n.into()))),
            ("instructions per inference", optional(self.instructions_per_inference)),
        ];
        if let (Some(differing), Some(memory)) =
            (self.mismatched_feature_bytes, self.front_end_bytes)
        {
            rows.extend([
                ("feature bytes that differ", differing.to_string()),
                ("memory for features", bytes(memory as u64)),
                ("instructions per clip's features", optional(self.instructions_per_clip)),
            ]);
        }
        rows
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The page.
///
/// # Errors
///
/// When a chart cannot be drawn.
pub fn html(report: &Report) -> Result<String> {
    let title = format!("{} on {}", report.run.net.name, report.run.data.name);
    let training = chart::training(&report.epochs)?;
    let arena = chart::arena(&report.analysis)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " - Niwaki" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p {
                    "Trained, exported and run on " code { (report.validation.target) }
                    ". Instructions are those that the emulator executes; they are not clock cycles."
                }
                (table(&report.result))
                h2 { "Training" }
                figure { (PreEscaped(training)) }
                @if let Some(choice) = &report.choice {
                    h2 { "Strategies" }
                    (strategies(choice)?)
                }
                h2 { "Layers" }
                (layers(report))
                h2 { "Arena" }
                p { "Which bytes each layer's output and working memory take, while they are needed." }
                figure { (PreEscaped(arena)) }
                h2 { "Settings" }
                pre { (serde_json::to_string_pretty(&report.run.config)?) }
            }
        }
    };
    Ok(page.into_string())
}

fn table(result: &Outcome) -> Markup {
    html! {
        table {
            @for (name, value) in result.rows() {
                tr { th { (name) } td.number { (value) } }
            }
        }
    }
}

fn layers(report: &Report) -> Markup {
    let counts: Vec<u64> = report
        .validation
        .layers
        .iter()
        .map(|layer| layer.instructions.unwrap_or_default())
        .collect();
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    html! {
        table.wide {
            tr {
                th { "layer" } th { "kernel" } th { "output" } th { "density" } th { "MACs" }
                th { "flash" } th { "predicted" } th { "instructions" } th {}
            }
            @for (layer, &count) in report.analysis.layers.iter().zip(&counts) {
                @let [height, width, channels] = layer.output;
                @let share = 100.0 * count as f64 / most as f64;
                tr {
                    td { (layer.name) }
                    td { (layer.kernel) }
                    td { (height) "x" (width) "x" (channels) }
                    td.number { @if let Some(density) = layer.density { (format!("{density:.3}")) } }
                    td.number { (grouped(layer.macs_nonzero)) }
                    td.number { (grouped(layer.flash_bytes as u64)) }
                    td.number { (grouped(layer.instructions.round() as u64)) }
                    td.number { (grouped(count)) }
                    td.bar { div style=(format!("width:{share:.1}%")) {} }
                }
            }
        }
    }
}

/// What was chosen for each layer, and how the weights of its strategies moved.
fn strategies(choice: &Choice) -> Result<Markup> {
    let charts: Vec<Option<String>> = (0..choice.layers.len())
        .map(|layer| match choice.records.is_empty() {
            true => Ok(None),
            false => chart::strategies(choice, layer).map(Some),
        })
        .collect::<Result<_>>()?;
    let cost = grouped(choice.cost.round() as u64);
    let asked = grouped(choice.cost_target.round() as u64);
    let dense = grouped(choice.cost_dense.round() as u64);
    Ok(html! {
        p {
            "Predicted instructions: " (cost) "; asked for were " (asked) ", and the dense network takes "
            (dense) ". A strategy is a criterion, a structure and the share of weights that is kept."
        }
        table {
            tr { th { "layer" } th { "strategy" } th { "kept" } th { "weights" } }
            @for layer in &choice.layers {
                tr {
                    td { (layer.name) }
                    td { (layer.strategy) }
                    td.number { (grouped(layer.kept as u64)) }
                    td.number { (grouped(layer.weights as u64)) }
                }
            }
        }
        @if !choice.finalists.is_empty() {
            p { "The final: each network was tuned for the same number of steps, and the best on held-out samples retrained." }
            table {
                tr { th { "structure of its layers" } th { "instructions" } th { "held-out samples" } }
                @for finalist in &choice.finalists {
                    tr {
                        td { (finalist.name()) }
                        td.number { (grouped(finalist.cost.round() as u64)) }
                        td.number { (format!("{:.4}", finalist.merit)) }
                    }
                }
            }
        }
        @for (layer, chart) in choice.layers.iter().zip(&charts) {
            @if let Some(chart) = chart {
                figure {
                    figcaption { "Weights of the strategies of " code { (layer.name) } }
                    (PreEscaped(chart))
                }
            }
        }
    })
}

const STYLE: &str = "
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1,h2{font-weight:600;line-height:1.2}
table{border-collapse:collapse;margin:1rem 0}
th{text-align:left;font-weight:500;color:#555}
th,td{padding:.25rem .75rem .25rem 0;border-bottom:1px solid #e4e4e0}
.number{text-align:right;font-variant-numeric:tabular-nums}
.wide{width:100%;font-size:.875rem}
.bar{width:20%}
.bar div{background:#4a7c59;height:.7rem;border-radius:2px}
figure{margin:1rem 0}
svg{max-width:100%;height:auto}
pre{background:#f5f5f2;padding:1rem;overflow:auto;font-size:.8125rem}
";

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_stand_apart() {
        let grouped = |n| super::grouped(n);
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1,234,567"]);
    }
}
