//! What a blob holds and costs, layer by layer, read from the blob alone.

use niwaki_core::Model;
use niwaki_core::kernels::packed;
use niwaki_core::learn::Plan;
use niwaki_core::model::{Op, Tensor, Weights};
use serde::Serialize;

use super::hexadecimal;
use crate::target::cost::{Core, CostModel};

/// A model, layer by layer.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// The model's name.
    pub name: String,
    /// The model's id in hexadecimal.
    pub id: String,
    /// Core that the estimates hold for.
    pub target: Core,
    /// Size of the blob in bytes.
    pub model_bytes: usize,
    /// Size of the arena in bytes.
    pub arena_bytes: usize,
    /// Bytes of memory in which features of sound are computed; none for other models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front_end_bytes: Option<usize>,
    /// Bytes of RAM that learning needs beside the arena; absent where no layer is tunable.
    pub learner_bytes: Option<usize>,
    /// Most bytes of tensors that any operator reads and writes: no arena can be smaller.
    pub largest_operator_bytes: usize,
    /// Multiply-accumulates of one inference when zero weights are executed too.
    pub macs: u64,
    /// Multiply-accumulates of one inference over nonzero weights.
    pub macs_nonzero: u64,
    /// Weights of all weighted layers.
    pub weights: usize,
    /// Those that are not zero.
    pub nonzeros: usize,
    /// `nonzeros / weights`.
    pub density: f64,
    /// Predicted instructions of one inference.
    pub instructions: f64,
    /// Predicted clock cycles of one inference, where memory does not make the core wait.
    pub cycles: f64,
    /// The layers in order of execution.
    pub layers: Vec<LayerAnalysis>,
}

/// A layer of an [`Analysis`].
#[derive(Clone, Debug, Serialize)]
pub struct LayerAnalysis {
    /// Name.
    pub name: String,
    /// Kernel, which implies the format of the weights.
    pub kernel: &'static str,
    /// Height, width and channels of what it reads.
    pub input: [usize; 3],
    /// Height, width and channels of what it writes.
    pub output: [usize; 3],
    /// Weights, if it has any.
    pub weights: usize,
    /// Weights that are not zero.
    pub nonzeros: usize,
    /// `nonzeros / weights`; absent without weights.
    pub density: Option<f64>,
    /// Multiply-accumulates when zero weights are executed too.
    pub macs: u64,
    /// Multiply-accumulates over nonzero weights.
    pub macs_nonzero: u64,
    /// Bytes of weights and constants.
    pub flash_bytes: usize,
    /// First byte of its output in the arena and the one behind the last.
    pub arena: [usize; 2],
    /// First and last operator that needs its output.
    pub live: [usize; 2],
    /// First byte of its working memory in the arena and the one behind the last.
    pub scratch: [usize; 2],
    /// Bytes of working memory.
    pub scratch_bytes: usize,
    /// Predicted instructions.
    pub instructions: f64,
    /// Predicted clock cycles, where memory does not make the core wait.
    pub cycles: f64,
}

/// Analyses a model for a core.
pub fn analyse(model: &Model<'_>, core: Core) -> Analysis {
    let costs = CostModel::of(core);
    let ops: Vec<Op<'_>> = (0..model.op_count()).map_while(|index| model.op(index)).collect();
    let layers: Vec<LayerAnalysis> = ops
        .iter()
        .enumerate()
        .map(|(index, op)| {
            let (weights, nonzeros) = count(op);
            let predicted = costs.predict_operator(model, index, core);
            let output = op.output();
            // Each weight of a channel is used once per output position.
            let positions = (output.height * output.width) as u64;
            let reads = |op: &Op<'_>| {
                op.inputs().iter().flatten().any(|input| input.offset == output.offset)
            };
            let writes = |op: &Op<'_>| op.output().offset == output.offset;
            let later = &ops[index + 1..];
            let overwritten = later.iter().position(writes).unwrap_or(later.len());
            let last = match later.iter().take(overwritten + 1).rposition(reads) {
                Some(reader) => index + 1 + reader,
                None => ops.len() - 1,
            };
            LayerAnalysis {
                name: model.op_name(index).to_owned(),
                kernel: model.kernel(index).map_or("", |kernel| kernel.name()),
                input: op.inputs()[0].map_or([0; 3], |input| shape(&input)),
                output: shape(&output),
                weights,
                nonzeros,
                density: (weights > 0).then(|| nonzeros as f64 / weights as f64),
                macs: positions * weights as u64,
                macs_nonzero: positions * nonzeros as u64,
                flash_bytes: model.constant_bytes(index),
                arena: [output.range().start, output.range().end],
                live: [index, last],
                scratch: [op.scratch().range().start, op.scratch().range().end],
                scratch_bytes: op.scratch().len,
                instructions: predicted.instructions,
                cycles: predicted.cycles,
            }
        })
        .collect();
    let largest_operator_bytes = ops
        .iter()
        .map(|op| {
            let inputs: usize = op
                .inputs()
                .iter()
                .flatten()
                .filter(|input| input.offset != op.output().offset)
                .map(Tensor::len)
                .sum();
            inputs + op.output().len() + op.scratch().len
        })
        .max()
        .unwrap_or(0);
    let sum = |of: fn(&LayerAnalysis) -> u64| layers.iter().map(of).sum::<u64>();
    let (weights, nonzeros) =
        (sum(|layer| layer.weights as u64) as usize, sum(|layer| layer.nonzeros as u64) as usize);
    Analysis {
        name: model.name().to_owned(),
        id: hexadecimal(&model.id()),
        target: core,
        model_bytes: model.len(),
        arena_bytes: model.arena_len(),
        front_end_bytes: model.front_end().map(|front_end| front_end.memory_len()),
        learner_bytes: Plan::new(model).ok().map(|plan| plan.learner_len()),
        largest_operator_bytes,
        macs: sum(|layer| layer.macs),
        macs_nonzero: sum(|layer| layer.macs_nonzero),
        weights,
        nonzeros,
        density: nonzeros as f64 / weights.max(1) as f64,
        instructions: layers.iter().map(|layer| layer.instructions).sum(),
        cycles: layers.iter().map(|layer| layer.cycles).sum(),
        layers,
    }
}

fn shape(tensor: &Tensor) -> [usize; 3] {
    [tensor.height, tensor.width, tensor.channels]
}

/// Weights of an operator and how many of them are not zero.
fn count(op: &Op<'_>) -> (usize, usize) {
    let nonzero = |weights: &[i8]| weights.iter().filter(|&&weight| weight != 0).count();
    match op {
        Op::Conv(conv) | Op::Linear(conv) => {
            let weights = conv.weights_per_channel() * conv.output.channels;
            match conv.weights {
                Weights::Dense(dense) => (weights, nonzero(dense)),
                Weights::Packed(words) => (weights, packed::nonzeros(words)),
                Weights::Sparse(stream) => (weights, stream.nonzeros()),
                Weights::SparseLinear(stream) => (weights, stream.nonzeros()),
            }
        }
        Op::Depthwise(depthwise) => (depthwise.weights.len(), nonzero(depthwise.weights)),
        _ => (0, 0),
    }
}
