//! Which weights of a sparse network lie on a path from its input to its result.
//!
//! All others change nothing but constants: what they read is the same for every input, or nobody reads what they
//! write. The density of those on a path is what Vysogorets and Kempe, "Connectivity matters: neural network
//! pruning through the lens of effective sparsity" (JMLR 2023), call effective.

use super::mask::Mask;
use crate::net::{
    Graph,
    shape::{Node, Op, Source},
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
pub(super) fn ends(graph: &Graph, masks: &[Option<&Mask>]) -> Vec<Vec<Ends>> {
    let kept = |layer: usize, weight: usize| masks[layer].is_none_or(|mask| mask.keeps(weight));
    let slot = |source: &Source| match source {
        Source::Input => 0,
        Source::Layer(layer) => layer + 1,
    };
    // Channels of the input and of every layer that depend on the input.
    let mut reached = vec![vec![true; graph.input[2]]];
    for (layer, node) in graph.layers.iter().enumerate() {
        let mut channels = vec![false; node.output[2]];
        if let Some(wires) = Wires::of(&node.op) {
            let input = &reached[slot(&node.inputs[0])];
            for (weight, [from, to]) in wires.ends().enumerate() {
                channels[to] |= input[from] && kept(layer, weight);
            }
        } else {
            let pixels = node.output[2] / node.input[2];
            for source in &node.inputs {
                let input = &reached[slot(source)];
                channels.iter_mut().enumerate().for_each(|(at, c)| *c |= input[at / pixels]);
            }
        }
        reached.push(channels);
    }
    // Those that the result depends on.
    let mut read: Vec<Vec<bool>> =
        reached.iter().map(|channels| vec![false; channels.len()]).collect();
    read[graph.layers.len()].fill(true);
    for (layer, node) in graph.layers.iter().enumerate().rev() {
        let output = std::mem::take(&mut read[layer + 1]);
        if let Some(wires) = Wires::of(&node.op) {
            let input = &mut read[slot(&node.inputs[0])];
            for (weight, [from, to]) in wires.ends().enumerate() {
                input[from] |= output[to] && kept(layer, weight);
            }
        } else {
            let pixels = node.output[2] / node.input[2];
            for source in &node.inputs {
                let input = &mut read[slot(source)];
                output.iter().enumerate().for_each(|(at, &c)| input[at / pixels] |= c);
            }
        }
        read[layer + 1] = output;
    }
    let ends = |(layer, node): (usize, &Node)| {
        let Some(wires) = Wires::of(&node.op) else { return Vec::new() };
        let (input, output) = (&reached[slot(&node.inputs[0])], &read[layer + 1]);
        wires.ends().map(|[from, to]| Ends { reached: input[from], read: output[to] }).collect()
    };
    graph.layers.iter().enumerate().map(ends).collect()
}

/// Which channels the weights of a layer join.
struct Wires {
    outputs: usize,
    groups: usize,
    /// Input channels that an output channel reads.
    depth: usize,
    /// Weights per input channel.
    pixels: usize,
}

impl Wires {
    fn of(op: &Op) -> Option<Self> {
        match *op {
            Op::Conv { weight: [outputs, depth, height, width], groups, .. } => {
                Some(Self { outputs, groups, depth, pixels: height * width })
            }
            Op::Linear { weight: [outputs, depth], .. } => {
                Some(Self { outputs, groups: 1, depth, pixels: 1 })
            }
            _ => None,
        }
    }

    /// Input and output channel of each weight.
    fn ends(&self) -> impl Iterator<Item = [usize; 2]> {
        let fan_in = self.depth * self.pixels;
        (0..self.outputs * fan_in).map(move |weight| {
            let to = weight / fan_in;
            let group = to * self.groups / self.outputs;
            [group * self.depth + weight % fan_in / self.pixels, to]
        })
    }
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
            let layers = ends(&graph, masks).into_iter();
            layers.map(|ends| ends.iter().map(|ends| ends.live()).collect()).collect()
        };
        // Places that are on a path if a weight is kept there.
        let expected = ["11 00 11", "100", "", "", "111100 111100"].map(flags);
        assert_eq!(live(&[Some(&pw), Some(&dw), None, None, Some(&fc)]), expected);
        assert!(live(&[None; 5]).iter().flatten().all(|&live| live));
    }
}
