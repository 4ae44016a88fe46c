//! `niwaki import`: a model of another tool becomes a blob.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use niwaki::export::{self, AlignedVec, KernelChoice};
use niwaki::target::cost::Core;
use niwaki_core::Model;

use crate::output::{self, Format};
use crate::{analyze, quantity};

/// Arguments of `niwaki import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads full-integer int8 TensorFlow Lite models. The result computes what the reference
kernels of TensorFlow Lite Micro compute, byte for byte. Operators that cannot be imported
are all named at once. Inputs and outputs in floating point or uint8 become int8: the
caller quantises.

Examples:
  niwaki import kws.tflite -o kws.niwaki
  niwaki import person.tflite -o person.niwaki --arena-limit 64K
  niwaki import kws.tflite -o kws.niwaki --rust firmware/src/model   # a Rust module for firmware that links it
  niwaki import kws.tflite -o kws.niwaki --format json")]
pub(crate) struct ImportArgs {
    /// The model: a .tflite file
    model: PathBuf,
    /// Where to write the blob
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Also write a Rust module with the model, its sizes and its set of kernels into this folder
    #[arg(long, value_name = "DIR")]
    rust: Option<PathBuf>,
    /// Name that the model carries [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Most bytes of the arena, such as 64K: what is fastest within them [default: a balance of both]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    arena_limit: Option<u64>,
    /// Core that kernels are chosen for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
}

/// Runs `niwaki import`.
pub(crate) fn run(args: &ImportArgs, format: Format) -> Result<()> {
    let path = &args.model;
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let name = match (&args.name, path.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) => stem.to_string_lossy().into_owned(),
        (None, None) => bail!("{} has no file name: give one with --name", path.display()),
    };
    let graph = niwaki::import::tflite(&bytes, &name)
        .with_context(|| format!("importing {}", path.display()))?;
    let choice = KernelChoice::Cheapest(args.target);
    let exported =
        export::write_within(&graph, choice, args.arena_limit.map(|limit| limit as usize))
            .with_context(|| format!("exporting {}", path.display()))?;
    let blob = AlignedVec::new(&exported.bytes);
    let model = Model::new(blob.as_bytes()).context("the written model is refused")?;
    export::write_model(&args.output, &exported.bytes)?;
    eprintln!("wrote {}", args.output.display());
    if let Some(folder) = &args.rust {
        let module = export::write_rust_module(&model, &exported.bytes, folder)?;
        eprintln!("wrote {}", module.display());
    }

    let analysis = export::analyse(&model, args.target);
    match format {
        Format::Json => output::print_json(&analysis),
        Format::Table => {
            output::print_table(&analyze::totals(&analysis))?;
            output::print_table(&analyze::layers(&analysis))
        }
    }
}
