//! Which weights of a sparse network lie on a path from its input to its result.
//!
//! All others change nothing but constants: what they read is the same for every input, or nobody reads what they
//! write. The density of those on a path is what Vysogorets and Kempe, "Connectivity matters: neural network
//! pruning through the lens of effective sparsity" (JMLR 2023), call effective.

use super::mask::{Layout, Mask};
use crate::net::{
    Graph,
    shape::{Node, Op, ParamSpec, Role},
};

/// Where a weight lies, whether it is kept or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// Whether what it reads depends on the input.
    pub(super) reached: bool,
    /// Whether the result depends on what it writes.
    pub(super) read: bool,
}

impl Ends {
    /// Whether a weight that is kept there lies on a path.
    pub(super) fn live(self) -> bool {
        self.reached && self.read
    }
}

/// The ends of every weight of every layer; none for a layer without weights. A layer without a mask keeps all its
/// weights.
pub(super) fn ends(graph: &Graph, params: &[ParamSpec], masks: &[Option<&Mask>]) -> Vec<Vec<Ends>> {
    let mut weights: Vec<Option<Layout>> = vec![None; graph.layers.len()];
    for param in params.iter().filter(|param| param.role == Role::Weight) {
        weights[param.layer] = Some(Layout::of(graph, param));
    }
    // For every layer the tensors and their channels that it reads, each with the channel that it writes from it.
    let edges = |(at, node): (usize, &Node)| -> Vec<[usize; 3]> {
        if let Some(layout) = &weights[at] {
            let kept = |weight: &usize| masks[at].is_none_or(|mask| mask.keeps(*weight));
            let joined = (0..layout.len()).filter(kept).map(|weight| joined(node, layout, weight));
            return joined.map(|[from, to]| [node.inputs[0].slot(), from, to]).collect();
        }
        // All others keep channels apart, but a flattened image has one of each pixel.
        let pixels = node.output[2] / node.input[2];
        let sources = node.inputs.iter().map(|source| source.slot());
        sources
            .flat_map(|slot| (0..node.output[2]).map(move |to| [slot, to / pixels, to]))
            .collect()
    };
    let edges: Vec<Vec<[usize; 3]>> = graph.layers.iter().enumerate().map(edges).collect();
    let written = graph.layers.iter().map(|node| node.output[2]);
    let none: Vec<Vec<bool>> =
        std::iter::once(graph.input[2]).chain(written).map(|count| vec![false; count]).collect();
    // What depends on the input, and what the result depends on.
    let (mut reached, mut read) = (none.clone(), none);
    reached[0].fill(true);
    for (at, edges) in edges.iter().enumerate() {
        edges.iter().for_each(|&[slot, from, to]| reached[at + 1][to] |= reached[slot][from]);
    }
    read[graph.layers.len()].fill(true);
    for (at, edges) in edges.iter().enumerate().rev() {
        edges.iter().for_each(|&[slot, from, to]| read[slot][from] |= read[at + 1][to]);
    }
    let ends = |(at, node): (usize, &Node)| {
        let Some(layout) = &weights[at] else { return Vec::new() };
        let (input, output) = (&reached[node.inputs[0].slot()], &read[at + 1]);
        let places = (0..layout.len()).map(|weight| joined(node, layout, weight));
        places.map(|[from, to]| Ends { reached: input[from], read: output[to] }).collect()
    };
    graph.layers.iter().enumerate().map(ends).collect()
}

/// Input and output channel of a weight.
fn joined(node: &Node, layout: &Layout, weight: usize) -> [usize; 2] {
    let to = weight / layout.fan_in();
    let from = match node.op {
        Op::Conv { groups, .. } => {
            to * groups / layout.outputs * layout.depth + layout.input_channel(weight)
        }
        _ => weight % layout.fan_in(),
    };
    [from, to]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NetSpec;

    /// Two input channels, a depthwise layer in a residual branch, and a flattened image of two pixels.
    #[test]
    fn dead_ends_are_found() {
        let spec: NetSpec = toml::from_str(
            "name = \"t\"\n\
             [[layers]]\nname = \"pw\"\nkind = \"pointwise\"\nout = 3\n\
             [[layers]]\nname = \"dw\"\nkind = \"depthwise\"\nkernel = 1\n\
             [[layers]]\nname = \"sum\"\nkind = \"add\"\ninputs = [\"pw\", \"dw\"]\n\
             [[layers]]\nname = \"flat\"\nkind = \"flatten\"\n\
             [[layers]]\nname = \"fc\"\nkind = \"linear\"\nout = \"classes\"\n",
        )
        .unwrap();
        let graph = Graph::new(&spec.for_data([1, 2, 2], 2).unwrap()).unwrap();
        let flags = |text: &str| -> Vec<bool> {
            text.bytes().filter(|b| *b != b' ').map(|b| b == b'1').collect()
        };
        // Channel 0 is written and read, channel 1 written but not read, channel 2 read but not written.
        let [pw, dw, fc] =
            ["10 01 00", "111", "100010 000000"].map(|text| Mask::from_flags(flags(text)));
        let live = |masks: &[Option<&Mask>]| -> Vec<Vec<bool>> {
            let layers = ends(&graph, &graph.params(), masks).into_iter();
            layers.map(|ends| ends.iter().map(|ends| ends.live()).collect()).collect()
        };
        // Places that are on a path if a weight is kept there.
        let expected = ["11 00 11", "100", "", "", "111100 111100"].map(flags);
        assert_eq!(live(&[Some(&pw), Some(&dw), None, None, Some(&fc)]), expected);
        assert!(live(&[None; 5]).iter().flatten().all(|&live| live));
    }
}
