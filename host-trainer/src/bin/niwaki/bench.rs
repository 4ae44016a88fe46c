//! `niwaki bench`: what a model, or the kernels over density, cost on an emulated board.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use niwaki::export;
use niwaki::report;
use niwaki::target::{Bench, Board, Engine, Firmware, Target, bench, bench_attached, sweep};
use niwaki_core::Model;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::inputs;
use crate::output::{self, Format};

/// Arguments of `niwaki bench`.
#[derive(Debug, Args)]
#[command(
    override_usage = "niwaki bench [OPTIONS] <MODEL>\n       niwaki bench [OPTIONS] --kernels"
)]
#[command(after_help = "\
Counts the instructions that the emulator executes: exact and repeatable, but no clock cycles. Cycles are
estimated from the kinds of the executed instructions, without waiting for memory. `code_bytes` is the flash of
a firmware that links what this model needs and no more, without the model, the vectors and the start-up code.

With --kernels it measures random layers in every format of weights over density, and where sparse kernels
begin to beat the dense one. --out BASE writes BASE.md, BASE.csv and BASE.svg.

Examples:
  niwaki bench model.niwaki --target qemu-cortex-m4
  niwaki bench kws.niwaki --target qemu-cortex-m4 --inputs kws_inputs.npy --limit 20 --format json
  niwaki bench model.niwaki --target nrf52840-dk --port /dev/ttyACM0
  niwaki bench --kernels --target qemu-cortex-m4 --out docs/results/break-even-cortex-m4")]
pub(crate) struct BenchArgs {
    /// The model, as `niwaki export` or `niwaki import` wrote it
    #[arg(required_unless_present = "kernels", conflicts_with = "kernels")]
    model: Option<PathBuf>,
    /// Where to run it: a board; `niwaki targets` lists them
    #[arg(long, default_value = "qemu-cortex-m4")]
    target: String,
    /// Serial port of a real board that runs the agent with the model: it counts clock cycles
    #[arg(long, value_name = "PORT", conflicts_with_all = ["kernels", "no_cycles"])]
    port: Option<String>,
    /// Take quantised inputs from this file instead of a random one: int8, one sample after the other
    #[arg(long, value_name = "X.npy", conflicts_with = "kernels")]
    inputs: Option<PathBuf>,
    /// Use only the first N of the inputs
    #[arg(long, value_name = "N", requires = "inputs", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Do not estimate clock cycles, which takes a second run that logs every instruction
    #[arg(long, conflicts_with = "kernels")]
    no_cycles: bool,
    /// Measure the kernels over density instead of a model
    #[arg(long)]
    kernels: bool,
    /// Write the curves of --kernels to BASE.md, BASE.csv and BASE.svg
    #[arg(long, value_name = "BASE", requires = "kernels")]
    out: Option<PathBuf>,
}

/// Runs `niwaki bench`.
pub(crate) fn run(args: &BenchArgs, format: Format) -> Result<()> {
    let target = Target::find(&args.target)?.at(args.port.as_deref())?;
    let board = match &target {
        Target::Board(board) | Target::Attached { board, .. } => board,
        Target::Host => bail!(
            "--target host: times on this computer say nothing about a microcontroller; \
             take an emulated board, or a real one with --port (`niwaki targets` lists them)"
        ),
    };
    match &args.model {
        Some(path) => model(args, path, board, format),
        None => kernels(args, board, format),
    }
}

fn firmware(board: &Board) -> Result<Firmware> {
    output::firmware(&Target::Board(board.clone()))?.context("a board has a firmware")
}

fn model(args: &BenchArgs, path: &Path, board: &Board, format: Format) -> Result<()> {
    let blob = export::read_model(path)?;
    let model =
        Model::new(blob.as_bytes()).with_context(|| format!("{} is refused", path.display()))?;
    let inputs = match &args.inputs {
        Some(file) => {
            let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
            inputs::of_file(file, model.input().len(), limit)?
        }
        None => {
            let mut random = Pcg64::seed_from_u64(1);
            vec![(0..model.input().len()).map(|_| random.random()).collect()]
        }
    };
    let engine =
        output::spin("linking the engine", |say| Engine::measure(board, model.kernels(), say))?;
    let firmware = if args.port.is_some() { None } else { Some(firmware(board)?) };
    let found =
        output::spin(&format!("running on {}", args.target), |_| match (&firmware, &args.port) {
            (Some(firmware), _) => bench(board, firmware, engine, &model, &inputs, !args.no_cycles),
            (None, port) => {
                let port = port.as_deref().unwrap_or_default();
                bench_attached(board, port, engine, &model, &inputs)
            }
        })?;
    match format {
        Format::Json => output::print_json(&found),
        Format::Table => {
            output::print_table(&totals(&found))?;
            output::print_table(&layers(&found))
        }
    }
}

fn totals(found: &Bench) -> Table {
    let mut table = output::table([found.model.as_str(), &found.target]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row(&format!("{} per inference", found.unit), found.instructions_per_inference.to_string());
    if let Some(predicted) = found.predicted {
        let error = deviation(predicted, found.instructions_per_inference);
        row("predicted", format!("{predicted:.0} ({error})"));
    }
    if let Some(cycles) = found.cycles_estimated {
        row("estimated cycles", format!("{cycles:.0}"));
    }
    row("MACs, dense", found.macs.to_string());
    row("weights that are not zero", found.nonzeros.to_string());
    row("arena", format!("{} bytes", found.arena_bytes));
    row("stack of an inference", format!("{} bytes", found.stack_bytes));
    if let Some(bound) = found.engine.stack_bound {
        row("stack, bound by the code", format!("{bound} bytes"));
    }
    row("model", format!("{} bytes", found.model_bytes));
    row(
        "engine for this model",
        format!(
            "{} bytes ({} code, {} constants)",
            found.code_bytes, found.engine.text, found.engine.constants
        ),
    );
    table
}

fn layers(found: &Bench) -> Table {
    let cycles = found.cycles_estimated.is_some();
    let mut header = vec!["layer", "kernel", "output", "MACs", "nonzeros", found.unit];
    if found.predicted.is_some() {
        header.extend(["predicted", "error"]);
    }
    if cycles {
        header.push("~cycles");
    }
    let columns = header.len();
    let mut table = output::table(header);
    for layer in &found.layers {
        let [height, width, channels] = layer.shape.output;
        let mut row = vec![
            layer.name.clone(),
            layer.kernel.to_owned(),
            format!("{height}x{width}x{channels}"),
            layer.macs.to_string(),
            layer.nonzeros.to_string(),
            layer.instructions.to_string(),
        ];
        if let Some(predicted) = layer.predicted {
            row.extend([format!("{predicted:.0}"), deviation(predicted, layer.instructions)]);
        }
        if let Some(cycles) = layer.cycles_estimated {
            row.push(format!("{cycles:.0}"));
        }
        table.add_row(row);
    }
    for index in 3..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// How far a prediction is from the measurement.
fn deviation(predicted: f64, measured: u64) -> String {
    format!("{:+.1} %", 100.0 * (predicted / measured.max(1) as f64 - 1.0))
}

fn kernels(args: &BenchArgs, board: &Board, format: Format) -> Result<()> {
    let firmware = firmware(board)?;
    let bar = output::bar(sweep::point_count() as u64, "layers").with_message(args.target.clone());
    let found = sweep::sweep(board, &firmware, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let mut command = format!("niwaki bench --kernels --target {}", args.target);
    if let Some(base) = &args.out {
        command += &format!(" --out {}", base.display());
        write(base, &found, &command)?;
    }
    match format {
        Format::Json => output::print_json(&found),
        Format::Table => {
            let formats = sweep::Format::ALL.map(sweep::Format::name);
            for layer in &found.layers {
                output::print(&layer.layer)?;
                let mut table = output::table(std::iter::once("density").chain(formats));
                for density in sweep::DENSITIES {
                    let cells = sweep::Format::ALL.map(|format| {
                        let mut points = layer.of(format);
                        let point = points.find(|point| point.density_percent == density);
                        point.map_or(String::new(), |p| format!("{:.3}", p.instructions_per_mac))
                    });
                    table.add_row(std::iter::once(format!("{density} %")).chain(cells));
                }
                let cells = layer.break_even.iter().map(|at| {
                    at.instructions.map_or("never".to_owned(), |density| format!("{density:.0} %"))
                });
                table.add_row(["break-even".to_owned(), String::new()].into_iter().chain(cells));
                output::print_table(&table)?;
            }
            Ok(())
        }
    }
}

fn write(base: &Path, found: &sweep::Sweep, command: &str) -> Result<()> {
    let file = |extension: &str| {
        let mut name = base.as_os_str().to_owned();
        name.push(extension);
        PathBuf::from(name)
    };
    let chart = file(".svg");
    let chart_name = chart.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(folder) = base.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
    }
    for (path, text) in [
        (file(".md"), report::break_even_markdown(found, command, &chart_name)),
        (file(".csv"), report::break_even_csv(found)?),
        (chart, report::break_even_svg(found)?),
    ] {
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
