//! Channels that carry nothing are removed from the network, so that nothing is multiplied by zero.
//!
//! A channel may go when it is always zero in every tensor that has it, or when nothing reads it.
//! What an operator writes and what reads it share channels, and so do the operands of an addition and
//! an image and its flattened view: they form a set, from which a channel goes everywhere or nowhere.
//! Removing is exact: the products that go are zero. Some may stay, where kernels take channels by fours.

use niwaki_core::kernels::Rescale;
use niwaki_core::model::Clamp;

use super::graph::{Graph, Node, Operator, TensorId, Weighted};

/// Removes such channels, until there are none.
pub(super) fn remove_channels(graph: &mut Graph) {
    while remove_once(graph) {}
}

/// Removes the channels that can be seen to carry nothing now; whether there were any.
fn remove_once(graph: &mut Graph) -> bool {
    let sets = Sets::new(graph);
    let zero = zero_channels(graph);
    let mut keep: Vec<Vec<bool>> = sets
        .base
        .iter()
        .enumerate()
        .map(|(set, &channels)| {
            let go = |channel: usize| {
                let tensors = || sets.tensors(set);
                let places =
                    |tensor: usize| (channel..graph.tensors[tensor].shape[2]).step_by(channels);
                let all_zero = tensors().all(|tensor| places(tensor).all(|at| zero[tensor][at]));
                all_zero
                    || tensors().all(|tensor| !places(tensor).any(|at| is_read(graph, tensor, at)))
            };
            (0..channels).map(|channel| sets.fixed[set] || !go(channel)).collect()
        })
        .collect();
    for keep in &mut keep {
        // A tensor has at least one channel.
        if !keep.contains(&true)
            && let Some(first) = keep.first_mut()
        {
            *first = true;
        }
    }
    for node in graph.nodes.iter().filter(|node| goes_by_fours(node)) {
        fill_up(&mut keep[sets.of[node.output.0]]);
    }
    let any = keep.iter().any(|keep| keep.contains(&false));
    if any {
        let of = |tensor: usize| -> Vec<bool> {
            let keep = &keep[sets.of[tensor]];
            keep.iter().copied().cycle().take(graph.tensors[tensor].shape[2]).collect()
        };
        let keep: Vec<Vec<bool>> = (0..graph.tensors.len()).map(of).collect();
        graph.nodes.iter_mut().for_each(|node| shrink(node, &keep));
        for (tensor, keep) in graph.tensors.iter_mut().zip(&keep) {
            tensor.shape[2] = keep.iter().filter(|&&keep| keep).count();
        }
    }
    any
}

/// Whether the fast kernel of an operator, several times as fast as the other, needs channels to be a multiple
/// of [`LANES`].
fn goes_by_fours(node: &Node) -> bool {
    matches!(node.operator, Operator::Depthwise { .. })
}

/// Channels that kernels over DSP instructions take at a time.
const LANES: usize = 4;

/// Keeps channels that could go, until what is kept is a multiple of [`LANES`] or all.
fn fill_up(keep: &mut [bool]) {
    let kept = keep.iter().filter(|&&keep| keep).count();
    let missing = kept.next_multiple_of(LANES) - kept;
    keep.iter_mut().filter(|keep| !**keep).take(missing).for_each(|keep| *keep = true);
}

/// Sets of tensors that share channels. Channel `c` of a set is every channel `c + n * base` of its
/// tensors: a flattened image has the channels of its pixels one after the other.
struct Sets {
    /// Set of each tensor.
    of: Vec<usize>,
    /// Number of channels of each set.
    base: Vec<usize>,
    /// Whether a set keeps all of them.
    fixed: Vec<bool>,
}

impl Sets {
    fn new(graph: &Graph) -> Self {
        let mut of: Vec<usize> = (0..graph.tensors.len()).collect();
        let join = |of: &mut Vec<usize>, a: TensorId, b: TensorId| {
            let (from, to) = (of[a.0], of[b.0]);
            of.iter_mut().filter(|set| **set == from).for_each(|set| *set = to);
        };
        let mut fixed_tensors = vec![graph.input, graph.output];
        for node in &graph.nodes {
            match &node.operator {
                Operator::Conv { groups: 1, .. } | Operator::Linear { .. } => {}
                _ if keeps_channels(graph, node) => {
                    for &input in &node.inputs {
                        join(&mut of, input, node.output);
                    }
                }
                _ => {
                    fixed_tensors.extend(&node.inputs);
                    fixed_tensors.push(node.output);
                }
            }
        }
        // What nothing reads is a result of its own.
        let read = |tensor: TensorId| {
            graph.nodes.iter().any(|node| node.inputs.contains(&tensor))
                || graph.tensors.iter().any(|other| other.view_of == Some(tensor))
        };
        fixed_tensors.extend(graph.nodes.iter().map(|node| node.output).filter(|t| !read(*t)));
        for (index, tensor) in graph.tensors.iter().enumerate() {
            if let Some(viewed) = tensor.view_of {
                join(&mut of, TensorId(index), viewed);
                let flat = tensor.shape[..2] == [1, 1];
                if !flat && tensor.shape != graph.tensor(viewed).shape {
                    fixed_tensors.push(viewed);
                }
            }
        }
        let mut base = vec![usize::MAX; graph.tensors.len()];
        for (tensor, &set) in graph.tensors.iter().zip(&of) {
            base[set] = base[set].min(tensor.shape[2]);
        }
        let mut fixed = vec![false; graph.tensors.len()];
        for tensor in fixed_tensors {
            fixed[of[tensor.0]] = true;
        }
        for (tensor, &set) in graph.tensors.iter().zip(&of) {
            fixed[set] |= !tensor.shape[2].is_multiple_of(base[set]);
        }
        for base in base.iter_mut().filter(|base| **base == usize::MAX) {
            *base = 0;
        }
        // Numbers without tensors have no channels and are never asked for.
        Self { of, base, fixed }
    }

    fn tensors(&self, set: usize) -> impl Iterator<Item = usize> {
        (0..self.of.len()).filter(move |&tensor| self.of[tensor] == set)
    }
}

/// Whether a node computes each channel of its output from the same channel of its inputs.
fn keeps_channels(graph: &Graph, node: &Node) -> bool {
    let channels = graph.tensor(node.output).shape[2];
    let same = node.inputs.iter().all(|&input| graph.tensor(input).shape[2] == channels);
    let by_channel = matches!(
        node.operator,
        Operator::Depthwise { .. }
            | Operator::MaxPool { .. }
            | Operator::AvgPool { .. }
            | Operator::Add { .. }
            | Operator::Lookup { .. }
    );
    same && by_channel
}

/// For each tensor, the channels that are zero (that is, the zero point) whatever the input is.
fn zero_channels(graph: &Graph) -> Vec<Vec<bool>> {
    let mut zero: Vec<Vec<bool>> =
        graph.tensors.iter().map(|tensor| vec![false; tensor.shape[2]]).collect();
    for node in &graph.nodes {
        let channels = graph.tensor(node.output).shape[2];
        let zero_point = |tensor: TensorId| graph.tensor(tensor).quantisation.zero_point;
        let output = i32::from(zero_point(node.output));
        let inside =
            |clamp: &Clamp| (i32::from(clamp.min)..=i32::from(clamp.max)).contains(&output);
        let inputs: Vec<Vec<bool>> =
            node.inputs.iter().map(|&input| seen(graph, &zero, input)).collect();
        let all = |channel: usize| inputs.iter().all(|input| input[channel]);
        let result: Vec<bool> = match &node.operator {
            Operator::Conv { weighted, groups: 1, .. } | Operator::Linear { weighted } => {
                let per_channel = weighted.weights.len() / channels;
                let rows = weighted.weights.chunks(per_channel).enumerate();
                rows.map(|(channel, row)| {
                    let read = |(at, weight): (usize, &i8)| {
                        *weight == 0 || inputs[0][at % inputs[0].len()]
                    };
                    row.iter().enumerate().all(read)
                        && bias_alone(weighted, channel, output) == Some(output)
                })
                .collect()
            }
            Operator::Depthwise { weighted, .. } if keeps_channels(graph, node) => (0..channels)
                .map(|channel| {
                    let mut weights = weighted.weights.iter().skip(channel).step_by(channels);
                    (inputs[0][channel] || weights.all(|&weight| weight == 0))
                        && bias_alone(weighted, channel, output) == Some(output)
                })
                .collect(),
            Operator::MaxPool { clamp, .. } | Operator::AvgPool { clamp, .. }
                if keeps_channels(graph, node) =>
            {
                let same = i32::from(zero_point(node.inputs[0])) == output && inside(clamp);
                (0..channels).map(|channel| same && all(channel)).collect()
            }
            Operator::Add { clamp, .. } if keeps_channels(graph, node) => {
                (0..channels).map(|channel| inside(clamp) && all(channel)).collect()
            }
            Operator::Lookup { table } if keeps_channels(graph, node) => {
                let entry = table[usize::from(zero_point(node.inputs[0]).cast_unsigned() ^ 0x80)];
                (0..channels).map(|channel| i32::from(entry) == output && all(channel)).collect()
            }
            _ => continue,
        };
        zero[node.output.0] = result;
    }
    (0..graph.tensors.len()).map(|tensor| seen(graph, &zero, TensorId(tensor))).collect()
}

/// The zero channels of a tensor, which may be a view of another.
fn seen(graph: &Graph, zero: &[Vec<bool>], tensor: TensorId) -> Vec<bool> {
    let viewed = &zero[graph.memory_of(tensor).0];
    viewed.iter().copied().cycle().take(graph.tensor(tensor).shape[2]).collect()
}

/// What a channel is when its sum is nothing but the bias.
fn bias_alone(weighted: &Weighted, channel: usize, zero_point: i32) -> Option<i32> {
    let (multiplier, shift) = *weighted.rescale.get(channel)?;
    let value = Rescale::new(multiplier, shift)?.apply(*weighted.bias.get(channel)?);
    let Clamp { min, max } = weighted.clamp;
    Some(value.saturating_add(zero_point).max(i32::from(min)).min(i32::from(max)))
}

/// Whether a convolution or linear operator has a weight for this channel of a tensor.
fn is_read(graph: &Graph, tensor: usize, channel: usize) -> bool {
    let channels = graph.tensors[tensor].shape[2];
    let readers = graph.nodes.iter().filter(|node| node.inputs.contains(&TensorId(tensor)));
    let mut weighted = readers.filter_map(|node| match &node.operator {
        Operator::Conv { weighted, .. } | Operator::Linear { weighted } => Some(weighted),
        _ => None,
    });
    weighted.any(|weighted| {
        weighted.weights.iter().skip(channel).step_by(channels).any(|&weight| weight != 0)
    })
}

/// Removes the weights of channels that are not kept.
fn shrink(node: &mut Node, keep: &[Vec<bool>]) {
    let (input, output) = (&keep[node.inputs[0].0], &keep[node.output.0]);
    let weighted = match &mut node.operator {
        Operator::Conv { weighted, groups: 1, .. } | Operator::Linear { weighted } => {
            let per_channel = weighted.weights.len() / output.len();
            retain(&mut weighted.weights, |at| {
                output[at / per_channel] && input[at % per_channel % input.len()]
            });
            weighted
        }
        Operator::Depthwise { weighted, .. } => {
            retain(&mut weighted.weights, |at| output[at % output.len()]);
            weighted
        }
        _ => return,
    };
    retain(&mut weighted.bias, |channel| output[channel]);
    retain(&mut weighted.rescale, |channel| output[channel]);
}

fn retain<T: Copy>(values: &mut Vec<T>, keep: impl Fn(usize) -> bool) {
    let kept = values.iter().enumerate().filter(|(index, _)| keep(*index));
    *values = kept.map(|(_, value)| *value).collect();
}

#[cfg(test)]
mod tests {
    use niwaki_core::Model;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;
    use crate::export::blob::write_simplified;
    use crate::export::estimate::made_up;
    use crate::export::{AlignedVec, KernelChoice, run_all};
    use crate::net::{preset, shape};
    use crate::sparse::mask::{Budget, Distribution, Structure};
    use crate::target::cost::Core;

    /// A network under a random mask.
    fn network(name: &str, input: [usize; 3], density: f64, structure: Structure) -> Graph {
        let spec = preset(name).unwrap().for_data(input, 10).unwrap();
        let graph = shape::Graph::new(&spec).unwrap();
        let budget =
            Budget::new(&graph, &graph.params(), density, Distribution::Erk, structure).unwrap();
        let masks = budget.random(&graph, &graph.params(), &mut Pcg64::seed_from_u64(5));
        made_up(&spec, &budget.layer_masks(masks), None).unwrap()
    }

    /// Networks that have lost channels, behind residual additions, depthwise convolutions and a
    /// flattened image, are as narrow as the mask says and compute the same bytes as before.
    #[test]
    fn narrow_networks_compute_the_same() {
        for (name, input, density) in [
            ("resnet8:width=8", [16, 16, 3], 0.3),
            ("ds-cnn:width=16", [20, 10, 1], 0.4),
            ("lenet", [12, 12, 1], 0.2),
        ] {
            let graph = network(name, input, density, Structure::Channels);
            let mut narrow = graph.clone();
            remove_channels(&mut narrow);
            let weights = |graph: &Graph| {
                let operators = graph.nodes.iter().filter_map(|node| node.operator.weighted());
                operators.map(|weighted| weighted.weights.len()).sum::<usize>()
            };
            let share = weights(&narrow) as f64 / weights(&graph) as f64;
            // Some channels stay for depthwise kernels that take them by fours.
            let most = if name.starts_with("ds-cnn") { 1.5 } else { 1.05 };
            assert!(share < most * density, "{name}: {share}");
            same_outputs(&graph, &narrow);
        }
        // Single weights: few channels are silent, but what goes is exact all the same.
        let graph = network("lenet", [12, 12, 1], 0.02, Structure::Unstructured);
        let mut narrow = graph.clone();
        remove_channels(&mut narrow);
        same_outputs(&graph, &narrow);
    }

    fn same_outputs(wide: &Graph, narrow: &Graph) {
        let len = wide.tensor(wide.input).len();
        let mut rng = Pcg64::seed_from_u64(6);
        let inputs: Vec<i8> = (0..20 * len).map(|_| rng.random()).collect();
        let outputs = [wide, narrow].map(|graph| {
            let written =
                write_simplified(graph, KernelChoice::Cheapest(Core::CortexM4), None).unwrap();
            let blob = AlignedVec::new(&written.bytes);
            Model::new(blob.as_bytes()).unwrap();
            run_all(blob.as_bytes(), &inputs).unwrap()
        });
        assert_eq!(outputs[0], outputs[1]);
        assert!(outputs[0].iter().any(|&value| value != outputs[0][0]));
    }
}
