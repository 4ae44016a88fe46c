//! `niwaki eval`: accuracy of a model, computed on this computer by the code that devices run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use niwaki::data::{LoadOptions, Split, load};
use niwaki::export::{self, Card, Merit};
use niwaki_core::Model;
use serde::Serialize;

use crate::inputs;
use crate::output::{self, Format};

/// Arguments of `niwaki eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  niwaki eval runs/digits/model.niwaki --data digits
  niwaki eval model.niwaki --data fashion-mnist --split test --format json")]
pub(crate) struct EvalArgs {
    /// The model, as `niwaki export` wrote it
    model: PathBuf,
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(long, default_value = "digits")]
    data: String,
    /// Split of the data set
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Use only the first N samples of the split
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    options: LoadOptions,
}

#[derive(Debug, Serialize)]
struct Evaluation {
    samples: usize,
    /// Share of right classifications.
    accuracy: Option<f64>,
    /// The same of the float network that the model was made from, over its whole split.
    accuracy_float: Option<f64>,
    /// For models that reconstruct their input: mean squared error in normalised units.
    mean_squared_error: Option<f64>,
    model_bytes: usize,
}

/// Runs `niwaki eval`.
pub(crate) fn run(args: &EvalArgs, format: Format) -> Result<()> {
    let blob = export::read_model(&args.model)?;
    let model = Model::new(blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let data = load(&args.data, &args.options.for_model(&model))?;
    let samples = inputs::samples(&data, args.split, args.limit)?;
    let (accuracy, mean_squared_error) = match export::evaluate(&model, &blob, &data, &samples)? {
        Merit::Accuracy(accuracy) => (Some(accuracy), None),
        Merit::MeanSquaredError(error) => (None, Some(error)),
    };
    let card = Card::find(&args.model, &model);
    let evaluation = Evaluation {
        samples: samples.len(),
        accuracy,
        accuracy_float: card.and_then(|card| match args.split {
            Split::Val => card.accuracy_float.val,
            Split::Test => card.accuracy_float.test,
            Split::Train => None,
        }),
        mean_squared_error,
        model_bytes: model.len(),
    };
    match format {
        Format::Json => output::print_json(&evaluation),
        Format::Table => {
            let mut table = output::table(["evaluation", model.name()]);
            let percent = |share: f64| format!("{:.2} %", 100.0 * share);
            table.add_row(["samples".to_owned(), evaluation.samples.to_string()]);
            for (name, value) in [
                ("accuracy", evaluation.accuracy.map(percent)),
                ("accuracy, float", evaluation.accuracy_float.map(percent)),
                (
                    "mean squared error",
                    evaluation.mean_squared_error.map(|error| format!("{error:.5}")),
                ),
            ] {
                if let Some(value) = value {
                    table.add_row([name.to_owned(), value]);
                }
            }
            table.add_row(["model".to_owned(), format!("{} bytes", evaluation.model_bytes)]);
            output::print_table(&table)
        }
    }
}
