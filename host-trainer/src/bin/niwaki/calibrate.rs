//! `niwaki calibrate`: fits the cost model of a core to measurements on its emulated board.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use niwaki::target::{Firmware, Target, calibrate, cost};

use crate::output::{self, Format};

/// Arguments of `niwaki calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Traces random layers of every kernel on the emulated board, fits the cost model (instructions, and the
clock cycles estimated from them) and stores it in the checkout, from where the next build takes it. This
takes some minutes.

Example:
  niwaki calibrate --target qemu-cortex-m4")]
pub(crate) struct CalibrateArgs {
    /// The emulated board to measure on
    #[arg(long, default_value = "qemu-cortex-m4")]
    target: String,
    /// Keep the measurements in this file, or take them from it where it exists: they hold as long as
    /// neither the kernels nor the exporter change
    #[arg(long, value_name = "FILE")]
    measurements: Option<PathBuf>,
    /// File to write [default: the core's file under host-trainer/src/target/cost]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs `niwaki calibrate`.
pub(crate) fn run(args: &CalibrateArgs, format: Format) -> Result<()> {
    let Target::Board(board) = Target::find(&args.target)? else {
        bail!("--target host: only an emulated board counts instructions");
    };
    let firmware = Firmware::build(&board, &|line| eprintln!("{}", line.trim()))?;
    let measurements = match &args.measurements {
        Some(path) if path.exists() => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_str(&text)
                .with_context(|| format!("{} holds no measurements", path.display()))?
        }
        path => {
            let bar = output::bar(calibrate::measurement_count() as u64, "layers");
            let measurements = calibrate::measure(&board, &firmware, &|layers| {
                bar.inc(layers as u64);
            })?;
            bar.finish_and_clear();
            if let Some(path) = path {
                std::fs::write(path, serde_json::to_string(&measurements)?)
                    .with_context(|| format!("writing {}", path.display()))?;
            }
            measurements
        }
    };
    let command = format!("niwaki calibrate --target {}", args.target);
    let model = calibrate::model(&board, &firmware, &measurements, command)?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => niwaki::target::checkout()?
            .join("host-trainer/src/target/cost")
            .join(format!("{}.json", board.about.core)),
    };
    let text = serde_json::to_string_pretty(&model)? + "\n";
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    match format {
        Format::Json => output::print_json(&model),
        Format::Table => {
            let mut table =
                output::table(["kernel", "worst error", "of cycles", "instructions per term"]);
            for (kernel, coefficients) in &model.instructions.kernels {
                let percent = |fit: &cost::Fit| {
                    let error = fit.worst_error.get(kernel);
                    error.map_or("-".to_owned(), |error| format!("{:.1} %", 100.0 * error))
                };
                let terms: Vec<String> =
                    coefficients.iter().map(|(term, value)| format!("{term}: {value}")).collect();
                table.add_row([
                    kernel.clone(),
                    percent(&model.instructions),
                    percent(&model.cycles),
                    terms.join(", "),
                ]);
            }
            output::print_table(&table)
        }
    }
}
