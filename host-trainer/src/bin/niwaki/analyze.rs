//! `niwaki analyze`: what a model holds and costs, layer by layer.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use niwaki::export::{self, Analysis};
use niwaki::target::cost::Core;
use niwaki_core::Model;

use crate::output::{self, Format};

/// Arguments of `niwaki analyze`.
#[derive(Debug, Args)]
#[command(after_help = "\
Flash and arena are exact. Instructions and clock cycles are predicted by the cost model of the core;
`niwaki validate` measures instructions on an emulator. Cycles are estimated from the documented timing of
the core's instructions and count no waiting for memory.

Examples:
  niwaki analyze model.niwaki
  niwaki analyze model.niwaki --target cortex-m4 --format json")]
pub(crate) struct AnalyzeArgs {
    /// The model, as `niwaki export` wrote it
    model: PathBuf,
    /// Core that the estimates hold for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
}

/// Runs `niwaki analyze`.
pub(crate) fn run(args: &AnalyzeArgs, format: Format) -> Result<()> {
    let blob = export::read_model(&args.model)?;
    let model = Model::new(blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let analysis = export::analyse(&model, args.target);
    match format {
        Format::Json => output::print_json(&analysis),
        Format::Table => {
            output::print_table(&totals(&analysis))?;
            output::print_table(&layers(&analysis))
        }
    }
}

/// The figures of the whole model.
pub(crate) fn totals(analysis: &Analysis) -> Table {
    let mut table = output::table(["model", &analysis.name]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("id", analysis.id.clone());
    row("flash", format!("{} bytes", analysis.model_bytes));
    row("arena", format!("{} bytes", analysis.arena_bytes));
    if let Some(bytes) = analysis.front_end_bytes {
        row("memory for features", format!("{bytes} bytes"));
    }
    row(
        "weights",
        format!(
            "{} of {} not zero (density {:.3})",
            analysis.nonzeros, analysis.weights, analysis.density
        ),
    );
    row("MACs", format!("{} of {} with nonzero weights", analysis.macs_nonzero, analysis.macs));
    row("instructions", format!("{:.0} predicted for {}", analysis.instructions, analysis.target));
    row("cycles", format!("{:.0} estimated", analysis.cycles));
    table
}

pub(crate) fn layers(analysis: &Analysis) -> Table {
    let mut table = output::table([
        "layer",
        "kernel",
        "output",
        "density",
        "MACs",
        "nonzeros",
        "flash",
        "arena",
        "live",
        "scratch",
        "est. instr.",
        "est. cycles",
    ]);
    for layer in &analysis.layers {
        let [height, width, channels] = layer.output;
        table.add_row([
            layer.name.clone(),
            layer.kernel.to_owned(),
            format!("{height}x{width}x{channels}"),
            layer.density.map_or(String::new(), |density| format!("{density:.3}")),
            layer.macs.to_string(),
            layer.nonzeros.to_string(),
            layer.flash_bytes.to_string(),
            format!("{}..{}", layer.arena[0], layer.arena[1]),
            format!("{}..{}", layer.live[0], layer.live[1]),
            layer.scratch_bytes.to_string(),
            format!("{:.0}", layer.instructions),
            format!("{:.0}", layer.cycles),
        ]);
    }
    for index in 3..12 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
