//! `niwaki export`: from a training run to a model for devices.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use niwaki::export;
use niwaki::target::cost::Core;
use niwaki_core::Model;

use crate::output::{self, Format};
use crate::{analyze, output::print_table, quantity};

/// Arguments of `niwaki export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Folds batch norms and input normalisation, quantises to int8, chooses a kernel for each layer by its
predicted cost, plans the arena and writes a .niwaki file.

Examples:
  niwaki export runs/digits
  niwaki export runs/digits -o model.niwaki
  niwaki export runs/digits --rust firmware/src/model   # a Rust module for firmware that links it
  niwaki export runs/digits --arena-limit 8K            # what is fastest within so much memory
  niwaki export runs/digits --tunable 2                 # the last two layers can be tuned on the device")]
pub(crate) struct ExportArgs {
    /// Folder of a complete training run
    run: PathBuf,
    /// File to write [default: model.niwaki in the run's folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write a Rust module with the model and its sizes into this folder
    #[arg(long, value_name = "DIR")]
    rust: Option<PathBuf>,
    /// Weighted layers, counted from the last, that may be tuned on the device [default: none]
    #[arg(long, value_name = "LAYERS")]
    tunable: Option<usize>,
    /// Most bytes of the arena, such as 64K: what is fastest within them [default: a balance of both]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    arena_limit: Option<u64>,
    /// Core that kernels are chosen for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
}

/// Runs `niwaki export`.
pub(crate) fn run(args: &ExportArgs, format: Format) -> Result<()> {
    let path = args.output.clone().unwrap_or_else(|| args.run.join("model.niwaki"));
    export::export_run(
        &args.run,
        &path,
        args.target,
        args.arena_limit.map(|limit| limit as usize),
        args.tunable,
    )?;
    let blob = export::read_model(&path)?;
    let model = Model::new(blob.as_bytes()).context("the written model is refused")?;
    eprintln!("wrote {}", path.display());
    if let Some(folder) = &args.rust {
        let module = export::write_rust_module(&model, blob.as_bytes(), folder)?;
        eprintln!("wrote {}", module.display());
    }
    let analysis = export::analyse(&model, args.target);
    match format {
        Format::Json => output::print_json(&analysis),
        Format::Table => print_table(&analyze::totals(&analysis)),
    }
}
