//! Fused units: the steps in which a network is quantised and executed.
//!
//! Integer models have no tensor between a convolution, its batch norm and its ReLU. A unit is one
//! operation with what is fused into it; training simulates quantisation exactly at the units'
//! outputs, so that the simulation and the exported model agree on where values are rounded.

use super::shape::{Graph, Op, Source, volume};

/// One operation and what is fused into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Layer of the operation.
    pub layer: usize,
    /// Batch norm that is folded into the weights, or stands alone as the operation itself.
    pub norm: Option<usize>,
    /// ReLU or ReLU6 that clamps the output.
    pub act: Option<usize>,
    /// What the operation reads; layers are always the `output` of another unit.
    pub inputs: Vec<Source>,
    /// How the range of the output is known.
    pub range: RangeRule,
}

/// How the range of a unit's output is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeRule {
    /// Observed in training; saved as `<output layer>.range`.
    Observed,
    /// The output has the scale and zero point of what the unit reads first (pooling, flatten).
    Inherited,
    /// A softmax: probabilities, `[0, 1)` in steps of 1/256.
    Probability,
}

impl Unit {
    /// The last layer of the unit, whose result leaves it.
    pub fn output(&self) -> usize {
        self.act.or(self.norm).unwrap_or(self.layer)
    }
}

/// Groups the layers of a network into units, in the order of execution.
pub fn units(graph: &Graph) -> Vec<Unit> {
    let readers = |layer: usize| {
        let reads = |source: &&Source| **source == Source::Layer(layer);
        graph.layers.iter().map(|node| node.inputs.iter().filter(reads).count()).sum::<usize>()
    };
    // The only reader of a layer, if that is a single one which `fits`.
    let fused = |layer: usize, fits: fn(&Op) -> bool| {
        (readers(layer) == 1)
            .then(|| {
                graph.layers.iter().position(|node| node.inputs.contains(&Source::Layer(layer)))
            })
            .flatten()
            .filter(|&reader| fits(&graph.layers[reader].op))
    };
    let mut taken = vec![false; graph.layers.len()];
    let mut units = Vec::new();
    for (layer, node) in graph.layers.iter().enumerate() {
        if taken[layer] {
            continue;
        }
        let norm = match node.op {
            Op::Conv { .. } | Op::Linear { .. } => {
                fused(layer, |op| matches!(op, Op::BatchNorm { .. }))
            }
            Op::BatchNorm { .. } => Some(layer),
            _ => None,
        };
        let act = match node.op {
            Op::Conv { .. } | Op::Linear { .. } | Op::BatchNorm { .. } | Op::Add => {
                fused(norm.unwrap_or(layer), |op| matches!(op, Op::Relu | Op::Relu6))
            }
            Op::Relu | Op::Relu6 => Some(layer),
            _ => None,
        };
        let range = match node.op {
            Op::MaxPool(_) | Op::AvgPool(_) | Op::GlobalAvgPool | Op::Flatten => {
                RangeRule::Inherited
            }
            Op::Softmax => RangeRule::Probability,
            _ => RangeRule::Observed,
        };
        for fused in [norm, act].into_iter().flatten() {
            taken[fused] = true;
        }
        units.push(Unit { layer, norm, act, inputs: node.inputs.clone(), range });
    }
    // A unit runs once its operation's inputs exist, and its output is what others read; so the
    // order by operation is an order of execution only if no one reads an output "from the future".
    units.sort_by_key(Unit::output);
    units
}

/// Largest number of int8 bytes that are alive at the same time when the units run in order and
/// no unit works in place.
pub fn peak_activation_bytes(graph: &Graph, units: &[Unit]) -> usize {
    let result = Source::Layer(graph.layers.len() - 1);
    let last_use = |source: Source| {
        if source == result {
            return units.len();
        }
        units.iter().rposition(|unit| unit.inputs.contains(&source)).unwrap_or(0)
    };
    let mut tensors = vec![(Source::Input, 0)];
    tensors.extend(units.iter().enumerate().map(|(i, unit)| (Source::Layer(unit.output()), i)));
    (0..units.len())
        .map(|now| {
            tensors
                .iter()
                .filter(|&&(source, born)| born <= now && now <= last_use(source))
                .map(|&(source, _)| volume(graph.shape_of(source)))
                .sum()
        })
        .max()
        .unwrap_or(0)
}
