//! The cost model against measurements on emulated boards, layer by layer.

use std::path::Path;

use anyhow::{Context, Result};
use niwaki::export::{AlignedVec, write};
use niwaki::target::cost::{Core, CostModel};
use niwaki::target::{Board, Firmware, Target, trace};
use niwaki_core::Model;
use niwaki_tests::networks;

/// Largest relative error of a prediction.
fn tolerance(core: Core) -> f64 {
    if core == Core::CortexM4 { 0.10 } else { 0.15 }
}

/// A board, its core and its agent.
struct Bench {
    core: Core,
    board: Board,
    firmware: Firmware,
}

fn bench(core: Core) -> Result<Bench> {
    match Target::find(&format!("qemu-{core}"))? {
        Target::Board(board) => {
            let firmware = Firmware::build(&board, &|line| eprintln!("{line}"))?;
            Ok(Bench { core, board, firmware })
        }
        other => anyhow::bail!("{other} is no emulated board"),
    }
}

/// The layers whose prediction is too far from what was measured.
fn wrong(
    Bench { core, board, firmware }: &Bench,
    network: &str,
    model: &Model<'_>,
    input: &[i8],
) -> Result<Vec<String>> {
    let costs = CostModel::of(*core);
    // Not the board's own counter: it goes in steps of 40 instructions and takes its reading, which may be more
    // than a tenth of the shortest layers.
    let measured = trace(board, firmware, model, input)?;
    let mut wrong = Vec::new();
    let mut worst: f64 = 0.0;
    for (index, mix) in measured.into_iter().enumerate() {
        let measured = mix.instructions as f64;
        let predicted = costs.predict_operator(model, index, *core).instructions;
        let error = (predicted / measured - 1.0).abs();
        worst = worst.max(error);
        let kernel = model.kernel(index).context("an operator has a kernel")?;
        let line = format!(
            "{core:?}, {network}, {} ({}): measured {measured:.0}, predicted {predicted:.0}, {:+.1} %",
            model.op_name(index),
            kernel.name(),
            100.0 * (predicted / measured - 1.0)
        );
        println!("{line}");
        if error > tolerance(*core) {
            wrong.push(line);
        }
    }
    println!("{core:?}, {network}: the worst error is {:.1} %", 100.0 * worst);
    Ok(wrong)
}

#[test]
fn layers_of_random_sparse_networks_are_predicted() -> Result<()> {
    let mut found = Vec::new();
    // Of the Cortex-M55 no costs of its own are measured.
    let cores = [
        Core::CortexM4,
        Core::CortexM0,
        Core::CortexM3,
        Core::CortexM7,
        Core::CortexM33,
        Core::Riscv32,
    ];
    for core in cores {
        let bench = bench(core)?;
        let mut measured = 0;
        let networks = (0..5).map(|seed| (seed, networks::sparse(seed)));
        for (seed, blob) in networks.chain([(5, networks::unusual(5))]) {
            let model = Model::new(blob.as_bytes())?;
            let arena = &bench.firmware.arena;
            if model.arena_len() as u64 > arena.end - arena.start {
                continue;
            }
            let input = &networks::inputs(seed, 1, model.input().len())[0];
            found.extend(wrong(&bench, &format!("random network {seed}"), &model, input)?);
            measured += 1;
        }
        assert!(measured > 0, "no network fits the board with the {core:?}");
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// The MLPerf Tiny reference models, under `NIWAKI_DATA` or beside the repository.
#[test]
fn layers_of_mlperf_tiny_are_predicted() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = std::env::var_os("NIWAKI_DATA").map_or_else(|| root.join("shared/data"), Into::into);
    let folder = data.join("mlperf-tiny");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there; NIWAKI_DATA names its parent", folder.display());
        return Ok(());
    }
    let bench = bench(Core::CortexM4)?;
    let mut found = Vec::new();
    let models = [
        ("ic", "resnet8_int8"),
        ("kws", "dscnn_kws_int8"),
        ("vww", "mobilenet_vww_int8"),
        ("ad", "autoencoder_ad_int8"),
    ];
    for (prefix, name) in models {
        let path = folder.join(format!("{name}.tflite"));
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let blob = AlignedVec::new(&write(&niwaki::import::tflite(&bytes, name)?)?.bytes);
        let model = Model::new(blob.as_bytes())?;
        let inputs = std::fs::File::open(folder.join(format!("{prefix}_inputs.npy")))?;
        let inputs: Vec<i8> = npyz::NpyFile::new(std::io::BufReader::new(inputs))?.into_vec()?;
        let input = inputs.get(..model.input().len()).context("the file holds a sample")?;
        found.extend(wrong(&bench, prefix, &model, input)?);
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}
