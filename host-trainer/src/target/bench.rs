//! Measures a model on an emulated board, layer by layer.

use niwaki_core::Model;
use niwaki_core::link::CounterUnit;
use serde::Serialize;

use super::cost::Core;
use super::{Board, Device, Engine, Firmware, LayerMix, TargetError, Timing, trace};
use crate::export::{LayerAnalysis, analyse};

/// What [`bench`](fn@bench) found.
#[derive(Debug, Clone, Serialize)]
pub struct Bench {
    /// Name of the target.
    pub target: String,
    /// Its processor core.
    pub core: String,
    /// The model's name.
    pub model: String,
    /// What the board counts: `instructions` on an emulator, `cycles` on a real one.
    pub unit: &'static str,
    /// Mean number of executed instructions (or cycles: see `unit`) of an inference.
    pub instructions_per_inference: u64,
    /// Instructions that the cost model predicts; absent where the core has no calibration.
    pub predicted: Option<f64>,
    /// Estimated clock cycles of an inference, where the core has an estimate.
    pub cycles_estimated: Option<f64>,
    /// Memory for the model's tensors.
    pub arena_bytes: usize,
    /// Size of the model in flash.
    pub model_bytes: usize,
    /// Code and constants of a firmware that runs this model, without the model.
    pub code_bytes: u64,
    /// `code_bytes`, taken apart.
    pub engine: Engine,
    /// Most stack that an inference took.
    pub stack_bytes: u32,
    /// Multiply-accumulates of one inference when zero weights are executed too.
    pub macs: u64,
    /// Weights that are not zero.
    pub nonzeros: usize,
    /// The operators in order of execution.
    pub layers: Vec<LayerBench>,
}

/// One operator of a [`Bench`].
#[derive(Debug, Clone, Serialize)]
pub struct LayerBench {
    /// Name of the layer that it stands for.
    pub name: String,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// Shapes of what it reads and writes.
    pub shape: Shape,
    /// Executed instructions, or cycles.
    pub instructions: u64,
    /// Predicted instructions; absent where the core has no calibration.
    pub predicted: Option<f64>,
    /// Estimated clock cycles, where the core has an estimate.
    pub cycles_estimated: Option<f64>,
    /// Multiply-accumulates when zero weights are executed too.
    pub macs: u64,
    /// Weights that are not zero.
    pub nonzeros: usize,
}

/// Height, width and channels of an operator's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// What it reads.
    pub input: [usize; 3],
    /// What it writes.
    pub output: [usize; 3],
}

/// Runs `model` on `inputs` on an emulated board and counts instructions: of whole inferences, and of every
/// operator in the first. With `cycles` the first is run once more and its instructions are logged, for an
/// estimate of clock cycles where the core's [`Timing`] is known.
///
/// # Errors
///
/// When the board cannot be started or refuses the model, or an input has a wrong length.
pub fn bench(
    board: &Board,
    firmware: &Firmware,
    engine: Engine,
    model: &Model<'_>,
    inputs: &[Vec<i8>],
    cycles: bool,
) -> Result<Bench, TargetError> {
    let device = Device::start(board, firmware, model)?;
    let mixes = match (inputs.first(), Timing::of(&board.about.core)) {
        (Some(input), Some(_)) if cycles => trace(board, firmware, model, input)?,
        _ => Vec::new(),
    };
    measure(board, device, engine, model, inputs, &mixes)
}

/// As [`bench`](fn@bench), on a real board at the serial port `port`, which counts clock cycles.
///
/// # Errors
///
/// When the board does not answer or holds another model, or an input has a wrong length.
pub fn bench_attached(
    board: &Board,
    port: &str,
    engine: Engine,
    model: &Model<'_>,
    inputs: &[Vec<i8>],
) -> Result<Bench, TargetError> {
    let device = Device::connect_untuned(board, port, model)?;
    measure(board, device, engine, model, inputs, &[])
}

fn measure(
    board: &Board,
    mut device: Device,
    engine: Engine,
    model: &Model<'_>,
    inputs: &[Vec<i8>],
    mixes: &[LayerMix],
) -> Result<Bench, TargetError> {
    let mut total = 0;
    for input in inputs {
        total += device.run(input)?.count;
    }
    let counts = match inputs.first() {
        Some(input) => device.profile(input)?,
        None => Vec::new(),
    };
    let core = &board.about.core;
    let cycles: Vec<Option<f64>> = mixes.iter().map(|mix| LayerMix::cycles(mix, core)).collect();
    let calibrated = Core::from_name(core);
    let analysis = analyse(model, calibrated.unwrap_or(Core::CortexM4));
    // The cost model predicts instructions.
    let unit = device.about().counter;
    let calibrated = calibrated.filter(|_| unit == CounterUnit::Instructions);
    let predicted = |instructions: f64| calibrated.map(|_| instructions);
    let layer = |(index, (layer, instructions)): (usize, (&LayerAnalysis, u64))| LayerBench {
        name: layer.name.clone(),
        kernel: layer.kernel,
        shape: Shape { input: layer.input, output: layer.output },
        instructions,
        predicted: predicted(layer.instructions),
        cycles_estimated: cycles.get(index).copied().flatten(),
        macs: layer.macs,
        nonzeros: layer.nonzeros,
    };
    Ok(Bench {
        target: board.about.target.clone(),
        core: core.clone(),
        unit: unit_name(unit),
        model: analysis.name.clone(),
        instructions_per_inference: total / inputs.len().max(1) as u64,
        predicted: predicted(analysis.instructions),
        cycles_estimated: cycles
            .iter()
            .copied()
            .sum::<Option<f64>>()
            .filter(|_| !cycles.is_empty()),
        arena_bytes: analysis.arena_bytes,
        model_bytes: analysis.model_bytes,
        code_bytes: engine.bytes(),
        engine,
        stack_bytes: device.stack_bytes()?,
        macs: analysis.macs,
        nonzeros: analysis.nonzeros,
        layers: analysis.layers.iter().zip(counts).enumerate().map(layer).collect(),
    })
}

/// What a counter counts, as results name it.
pub(super) fn unit_name(unit: CounterUnit) -> &'static str {
    match unit {
        CounterUnit::Instructions => "instructions",
        CounterUnit::Cycles => "cycles",
    }
}
