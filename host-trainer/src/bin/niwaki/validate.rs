//! `niwaki validate`: compares a target's outputs with this computer's.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use niwaki::data::{LoadOptions, Split, load};
use niwaki::export;
use niwaki::target::{Firmware, Samples, Target, Validation, clips, validate};
use niwaki_core::Model;

use crate::inputs;
use crate::output::{self, Format};

/// Arguments of `niwaki validate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Runs the model on the target and on this computer and compares every output byte. The exit code is not 0
when a byte differs. A model of sound gets raw samples: the target computes the features, which are compared
too. Instructions are those that the emulator executes; they are not clock cycles. A real board counts cycles.

Examples:
  niwaki validate model.niwaki --target qemu-cortex-m4 --data digits
  niwaki validate model.niwaki --target qemu-cortex-m4 --data fashion-mnist --limit 1000 --format json
  niwaki validate model.niwaki --target host --data digits
  niwaki validate model.niwaki --target nrf52840-dk --port /dev/ttyACM0 --data digits
  niwaki validate speech.niwaki --target qemu-cortex-m4 --data ../shared/data/arabic-speech --limit 20
  niwaki validate kws.niwaki --inputs kws_inputs.npy --golden kws_golden.npy --limit 20")]
pub(crate) struct ValidateArgs {
    /// The model, as `niwaki export` wrote it
    model: PathBuf,
    /// Where to run it: a board, or `host`; `niwaki targets` lists them
    #[arg(long, default_value = "qemu-cortex-m4")]
    target: String,
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(long, default_value = "digits")]
    data: String,
    /// Split of the data set that the inputs come from
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Use only the first N samples of the split
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Take quantised inputs from this file instead: int8, one sample after the other
    #[arg(long, value_name = "X.npy", conflicts_with = "data")]
    inputs: Option<PathBuf>,
    /// Also compare with the outputs that another engine gave for the inputs
    #[arg(long, value_name = "Y.npy", requires = "inputs")]
    golden: Option<PathBuf>,
    /// Serial port of a real board that runs the agent with the model, such as /dev/ttyACM0
    #[arg(long, value_name = "PORT", conflicts_with = "firmware")]
    port: Option<String>,
    /// Use this ELF file of the emulated board's firmware instead of building it
    #[arg(long, value_name = "ELF")]
    firmware: Option<PathBuf>,
    #[command(flatten)]
    options: LoadOptions,
}

/// Runs `niwaki validate`.
pub(crate) fn run(args: &ValidateArgs, format: Format) -> Result<()> {
    let target = Target::find(&args.target)?.at(args.port.as_deref())?;
    let blob = export::read_model(&args.model)?;
    let model = Model::new(blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let dataset = match &args.inputs {
        Some(_) => None,
        None => Some(load(&args.data, &args.options.for_model(&model))?),
    };
    let (inputs, labels, clips) = match (&args.inputs, &dataset) {
        (Some(path), _) => (inputs::of_file(path, model.input().len(), args.limit)?, None, None),
        (None, Some(dataset)) => {
            let samples = inputs::samples(dataset, args.split, args.limit)?;
            let (inputs, labels) = inputs::of_samples(&model, dataset, &samples)?;
            (inputs, Some(labels), clips(&model, dataset, &samples))
        }
        (None, None) => (Vec::new(), None, None),
    };
    let golden = match &args.golden {
        Some(path) => Some(inputs::of_file(path, model.output().len(), args.limit)?),
        None => None,
    };
    if let Some(golden) = &golden {
        ensure!(
            golden.len() == inputs.len(),
            "{} inputs, but {} golden outputs",
            inputs.len(),
            golden.len()
        );
    }
    let firmware = firmware(&target, args)?;

    let bar = output::bar(inputs.len() as u64, "samples");
    bar.set_message(target.name().to_owned());
    let samples = Samples {
        inputs: &inputs,
        labels: labels.as_deref(),
        golden: golden.as_deref(),
        clips: clips.as_deref(),
    };
    let found = validate(&target, firmware.as_ref(), &model, samples, &|| bar.inc(1))?;
    bar.finish_and_clear();

    match format {
        Format::Json => output::print_json(&found)?,
        Format::Table => {
            output::print_table(&facts(&found))?;
            output::print_table(&layers(&found))?;
        }
    }
    match found.first_mismatch {
        None => Ok(()),
        Some(sample) => bail!(
            "{} output bytes and {} feature bytes of {} differ from the host's and {} output bytes from the golden \
             outputs, first in sample {sample}",
            found.mismatched_bytes,
            found.mismatched_feature_bytes.unwrap_or(0),
            target.name(),
            found.golden_mismatched_bytes.unwrap_or(0)
        ),
    }
}

fn firmware(target: &Target, args: &ValidateArgs) -> Result<Option<Firmware>> {
    let Target::Board(_) = target else {
        ensure!(args.firmware.is_none(), "--firmware: it is for an emulated board");
        return Ok(None);
    };
    if let Some(elf) = &args.firmware {
        return Ok(Some(Firmware::open(elf)?));
    }
    output::firmware(target)
}

fn facts(found: &Validation) -> comfy_table::Table {
    let mut table = output::table(["validation", &found.target]);
    let mut row = |name: &str, value: Option<String>| {
        table.add_row([name.to_owned(), value.unwrap_or_else(|| "-".to_owned())]);
    };
    let percent = |share: Option<f64>| share.map(|share| format!("{:.2} %", 100.0 * share));
    let bytes = |count: u64| format!("{count} bytes");
    row("samples", Some(found.samples.to_string()));
    row("mismatched bytes", Some(found.mismatched_bytes.to_string()));
    row("mismatched feature bytes", found.mismatched_feature_bytes.map(|count| count.to_string()));
    row("differ from golden", found.golden_mismatched_bytes.map(|count| count.to_string()));
    row("accuracy, host", percent(found.accuracy_host));
    row("accuracy, target", percent(found.accuracy_target));
    let unit = found.unit.unwrap_or("instructions");
    row(
        &format!("{unit} per inference"),
        found.instructions_per_inference.map(|count| count.to_string()),
    );
    row(
        &format!("{unit} per clip's features"),
        found.instructions_per_clip.map(|count| count.to_string()),
    );
    row("model", Some(bytes(found.model_bytes as u64)));
    row("code of the firmware", found.code_bytes.map(bytes));
    row("arena", Some(bytes(found.arena_bytes as u64)));
    row("stack of an inference", found.stack_bytes.map(|count| bytes(count.into())));
    table
}

fn layers(found: &Validation) -> comfy_table::Table {
    let mut table = output::table(["", "layer", "kernel", found.unit.unwrap_or("instructions")]);
    for (index, layer) in found.layers.iter().enumerate() {
        let count = layer.instructions.map_or_else(|| "-".to_owned(), |count| count.to_string());
        table.add_row([index.to_string(), layer.name.clone(), layer.kernel.to_owned(), count]);
    }
    for column in [0, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table
}
