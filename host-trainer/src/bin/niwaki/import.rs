//! `niwaki import`: a model of another tool becomes a blob.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use niwaki::export::{self, AlignedVec, Exported, Graph, KernelChoice};
use niwaki::target::cost::Core;
use niwaki_core::Model;

use crate::analyze;
use crate::output::{self, Format};

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
    /// Refuse a model that needs a larger arena; K and M stand for 1024 and 1024 * 1024 bytes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    arena_limit: Option<usize>,
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
    let exported = export::write_with(&graph, choice)
        .with_context(|| format!("exporting {}", path.display()))?;
    if let Some(limit) = args.arena_limit {
        check_arena(&graph, &exported, limit)?;
    }
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

fn check_arena(graph: &Graph, exported: &Exported, limit: usize) -> Result<()> {
    let plan = &exported.plan;
    if plan.arena_len <= limit {
        return Ok(());
    }
    let mut needs: Vec<(usize, &str)> =
        plan.needed.iter().copied().zip(graph.nodes.iter().map(|node| &node.name[..])).collect();
    needs.sort_by_key(|&(needed, _)| std::cmp::Reverse(needed));
    let largest: Vec<String> = needs
        .iter()
        .take(3)
        .take_while(|(needed, _)| *needed > limit.min(plan.lower_bound - 1))
        .map(|(needed, name)| format!("`{name}` {needed} bytes"))
        .collect();
    let advice = if plan.lower_bound > limit {
        "no plan can do with less: make these layers or the input smaller"
    } else {
        "no better plan was found: a slightly higher limit or smaller layers would do"
    };
    bail!(
        "the model needs an arena of {} bytes, the limit is {limit}; most is needed by {}: {advice}",
        plan.arena_len,
        largest.join(", ")
    );
}

/// A number of bytes: 65536, 64K or 1M.
fn bytes(text: &str) -> Result<usize> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1024),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let count: Option<usize> = digits.parse().ok();
    let count = count.and_then(|count| count.checked_mul(unit));
    let count =
        count.with_context(|| format!("expected bytes such as 65536 or 64K, found `{text}`"))?;
    ensure!(count > 0, "expected more than 0 bytes");
    Ok(count)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        assert_eq!(super::bytes("64K").unwrap(), 65_536);
        assert_eq!(super::bytes("1m").unwrap(), 1 << 20);
        assert_eq!(super::bytes("4096").unwrap(), 4096);
        for wrong in ["", "K", "-1", "0", "1G", "64 K", "99999999999999999999M"] {
            assert!(super::bytes(wrong).is_err(), "{wrong}");
        }
    }
}
