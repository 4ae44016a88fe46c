//! Channels that are removed together: what a layer writes and all that reads it see the same
//! channels, and so do the branches of a residual addition.
//!
//! Such sets are those of Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023).

use crate::net::{
    Graph,
    shape::{Op, ParamSpec, Role, Source},
};

/// The sets of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroups {
    /// The sets.
    pub groups: Vec<ChannelGroup>,
    /// For each layer of the network, the set that its output belongs to.
    pub output: Vec<usize>,
    /// For each layer of the network, the set that its (first) input belongs to.
    pub input: Vec<usize>,
}

/// Channels that several layers have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// How many.
    pub channels: usize,
    /// Whether some may be removed: not from the network's input and its result, nor where a
    /// convolution divides them into groups.
    pub removable: bool,
}

impl ChannelGroups {
    /// Finds the sets.
    pub fn new(graph: &Graph) -> Self {
        // Every tensor begins with a set of its own; equal ones are then joined. 0 is the input.
        let mut parent: Vec<usize> = (0..=graph.layers.len()).collect();
        fn root(parent: &[usize], mut node: usize) -> usize {
            while parent[node] != node {
                node = parent[node];
            }
            node
        }
        let mut fixed = vec![0, graph.layers.len()];
        for (layer, node) in graph.layers.iter().enumerate() {
            match node.op {
                Op::Conv { weight, groups, .. }
                    if node.op.is_depthwise() && weight[0] == groups => {}
                Op::Conv { groups: 1, .. } | Op::Linear { .. } => continue,
                Op::Conv { .. } => {
                    fixed.extend([node.inputs[0].slot(), layer + 1]);
                    continue;
                }
                _ => {}
            }
            for source in &node.inputs {
                let (a, b) = (root(&parent, source.slot()), root(&parent, layer + 1));
                parent[a.max(b)] = a.min(b);
            }
        }
        let roots: Vec<usize> = (0..parent.len()).map(|node| root(&parent, node)).collect();
        let mut numbers: Vec<usize> = roots.clone();
        numbers.sort_unstable();
        numbers.dedup();
        let number =
            |slot: usize| numbers.binary_search(&roots[slot]).expect("the list holds every root");
        let groups = numbers
            .iter()
            .map(|&root| ChannelGroup {
                // The first tensor of a set is never a flattened one, unless it is the input.
                channels: match root {
                    0 => graph.input[2],
                    _ => graph.layers[root - 1].output[2],
                },
                removable: !fixed.iter().any(|&slot| roots[slot] == root),
            })
            .collect();
        Self {
            groups,
            output: (0..graph.layers.len()).map(|layer| number(layer + 1)).collect(),
            input: graph.layers.iter().map(|node| number(node.inputs[0].slot())).collect(),
        }
    }
}

/// The parameters that are added to what a weighted layer computes, by index: its bias and the shift of
/// the batch norm behind it. A channel without weights and without these is zero, and export removes
/// it from the network.
pub fn shifts(graph: &Graph, params: &[ParamSpec], layer: usize) -> Vec<usize> {
    let norm = norm_of(graph, layer);
    let adds = |param: &ParamSpec| match param.role {
        Role::Bias => param.layer == layer,
        Role::Beta => Some(param.layer) == norm,
        Role::Weight | Role::Gamma | Role::Gate => false,
    };
    (0..params.len()).filter(|&index| adds(&params[index])).collect()
}

/// The batch norm that alone reads a layer, if there is one.
pub fn norm_of(graph: &Graph, layer: usize) -> Option<usize> {
    let reads = |other: &usize| graph.layers[*other].inputs.contains(&Source::Layer(layer));
    let mut readers = (0..graph.layers.len()).filter(reads);
    let reader = readers.next()?;
    let norm = matches!(graph.layers[reader].op, Op::BatchNorm { .. });
    (norm && readers.next().is_none()).then_some(reader)
}
