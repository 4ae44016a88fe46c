//! The cost model against measurements on the emulated Cortex-M4, layer by layer.

use std::path::Path;

use anyhow::{Context, Result};
use niwaki::export::{AlignedVec, write};
use niwaki::target::cost::{Core, CostModel};
use niwaki::target::{Board, Device, Firmware, Target};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_tests::networks;

/// Largest relative error of a prediction, by kernel. The work of a softmax depends on its input, which a
/// prediction does not know; depthwise convolutions over few pixels are the least well predicted.
fn tolerance(kernel: KernelId) -> f64 {
    match kernel {
        KernelId::Softmax => 0.35,
        KernelId::Depthwise => 0.16,
        _ => 0.10,
    }
}

/// Instructions that may be missing or too many in any layer: its call, the reading of the counter and its
/// steps of 40, which outweigh a layer of a few hundred instructions.
const SLACK: f64 = 250.0;

fn board() -> Result<(Board, Firmware)> {
    match Target::find("qemu-cortex-m4")? {
        Target::Board(board) => {
            let firmware = Firmware::build(&board, &|line| eprintln!("{line}"))?;
            Ok((board, firmware))
        }
        other => anyhow::bail!("{other} is no emulated board"),
    }
}

/// The layers whose prediction is too far from what was measured.
fn wrong(
    (board, firmware): &(Board, Firmware),
    network: &str,
    model: &Model<'_>,
    input: &[i8],
) -> Result<Vec<String>> {
    let costs = CostModel::of(Core::CortexM4);
    let measured = Device::start(board, firmware, model)?.profile(input)?;
    let mut wrong = Vec::new();
    let mut worst: f64 = 0.0;
    for (index, measured) in measured.into_iter().enumerate() {
        let measured = measured as f64;
        let predicted = costs.predict_operator(model, index, Core::CortexM4).instructions;
        let beyond = ((predicted - measured).abs() - SLACK).max(0.0) / measured;
        worst = worst.max(beyond);
        let kernel = model.kernel(index).context("an operator has a kernel")?;
        let line = format!(
            "{network}, {} ({}): measured {measured}, predicted {predicted:.0}, {:+.1} %",
            model.op_name(index),
            kernel.name(),
            100.0 * (predicted / measured - 1.0)
        );
        println!("{line}");
        if beyond > tolerance(kernel) {
            wrong.push(line);
        }
    }
    println!("{network}: the worst error beyond {SLACK} instructions is {:.1} %", 100.0 * worst);
    Ok(wrong)
}

#[test]
fn layers_of_random_sparse_networks_are_predicted() -> Result<()> {
    let board = board()?;
    let mut found = Vec::new();
    for seed in 0..5 {
        let blob = networks::sparse(seed);
        let model = Model::new(blob.as_bytes())?;
        let input = &networks::inputs(seed, 1, model.input().len())[0];
        found.extend(wrong(&board, &format!("random network {seed}"), &model, input)?);
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
    let board = board()?;
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
        found.extend(wrong(&board, prefix, &model, input)?);
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}
