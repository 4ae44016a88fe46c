//! Random layers of every kernel, small and large, to measure and to test on.

use niwaki_core::kernels::{KernelId, Rescale};
use niwaki_core::model::{Clamp, Place, Window};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::export::{
    Constant, Function, Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted,
};

/// Most multiply-accumulates of a layer, so that an emulator executes it in a moment.
const MAX_MACS: u64 = 200_000;
/// Most elements of its tensors.
const MAX_ELEMENTS: usize = 60_000;

fn pick(choices: &[usize], random: &mut Pcg64) -> usize {
    choices[random.random_range(0..choices.len())]
}

/// A network that ends in a random layer which `kernel` can execute.
pub fn random_layer(kernel: KernelId, random: &mut Pcg64) -> Graph {
    // Chosen once, so that the limits below do not prefer small images: large ones get fewer channels.
    let largest = pick(&[3, 6, 12, 24, 48], random);
    loop {
        let graph = Layer::random(kernel, largest, random).graph(random);
        let macs = graph.nodes.last().map_or(0, |node| graph.macs(node));
        let elements: usize = graph.tensors.iter().map(TensorInfo::len).sum();
        if macs <= MAX_MACS && elements <= MAX_ELEMENTS {
            return graph;
        }
    }
}

/// One network of several, each of which works on a copy of the input's beginning, and the number of the
/// node that each of them ends in.
pub(super) fn together<'g>(graphs: impl Iterator<Item = &'g Graph> + Clone) -> (Graph, Vec<usize>) {
    let input_len = graphs.clone().map(|graph| graph.tensor(graph.input).len()).max().unwrap_or(1);
    let mut all = Graph {
        name: "random layers".to_owned(),
        tensors: vec![TensorInfo {
            name: "input".to_owned(),
            shape: [1, 1, input_len],
            quantisation: Quantisation { scale: 0.05, zero_point: 0 },
            view_of: None,
        }],
        nodes: Vec::new(),
        input: TensorId(0),
        output: TensorId(0),
        labels: Vec::new(),
        normalisation: Vec::new(),
        front_end: None,
    };
    let mut ends = Vec::new();
    for graph in graphs {
        let first = all.tensors.len();
        let moved = |tensor: TensorId| TensorId(first + tensor.0);
        let len = graph.tensor(graph.input).len();
        let whole = Place { first: 0, strides: [len, len, 1] };
        let copy =
            Operator::Copy { counts: [1, 1, len], source: whole, destination: whole, fill: None };
        all.nodes.push(Node {
            name: "copy".to_owned(),
            inputs: vec![all.input],
            output: moved(graph.input),
            operator: copy,
        });
        all.tensors.extend(graph.tensors.iter().cloned());
        all.nodes.extend(graph.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            inputs: node.inputs.iter().map(|&input| moved(input)).collect(),
            output: moved(node.output),
            operator: node.operator.clone(),
        }));
        ends.push(all.nodes.len() - 1);
        all.output = moved(graph.output);
    }
    (all, ends)
}

/// Shapes and constants of a layer.
struct Layer {
    kernel: KernelId,
    input: [usize; 3],
    output: [usize; 3],
    quantisations: [Quantisation; 2],
    operator: Operator,
}

impl Layer {
    /// Of an image with up to `largest` rows and columns.
    fn random(kernel: KernelId, largest: usize, random: &mut Pcg64) -> Self {
        use KernelId::{
            Add, AddBroadcast, AvgPool, ConvBlock2, ConvBlock4, ConvDense, ConvPacked, ConvSparse,
            Copy, Depthwise, DepthwiseLarge, LinearBlock2, LinearBlock4, LinearDense, LinearPacked,
            LinearSparse, Lookup, MaxPool, Mean, Mul, Softmax,
        };
        let conv = matches!(kernel, ConvDense | ConvPacked | ConvSparse | ConvBlock2 | ConvBlock4);
        let linear = matches!(
            kernel,
            LinearDense | LinearPacked | LinearSparse | LinearBlock2 | LinearBlock4
        );
        let size = random_size(largest, random);
        let window = random_window(kernel, size, random);
        let after = |axis: usize| {
            (size[axis] + 2 * window.pad[axis] - window.kernel[axis]) / window.stride[axis] + 1
        };
        let depth = match kernel {
            Depthwise | DepthwiseLarge | MaxPool | AvgPool => {
                pick(&[4, 8, 16, 16, 32, 64, 128, 7, 10], random)
            }
            _ if conv => pick(&[1, 3, 4, 8, 16, 24, 32, 64, 128], random),
            _ => pick(&[1, 3, 8, 10, 16, 24, 32, 64], random),
        };
        let outputs = match kernel {
            Softmax => pick(&[2, 3, 8, 10, 12, 16, 64], random),
            _ => pick(&[1, 2, 8, 10, 16, 24, 32, 64, 128, 256], random),
        };
        let image = [size[0], size[1], depth];
        let output_size = [after(0), after(1)];
        let (input, output) = match kernel {
            _ if conv => (image, [output_size[0], output_size[1], outputs]),
            _ if linear => {
                // Blocks of four want inputs by fours.
                let inputs = depth.next_multiple_of(4) * pick(&[1, 4, 8, 16], random);
                // The plain kernel goes row by row over images.
                let side = if kernel == LinearDense { pick(&[1, 2, 4], random) } else { 1 };
                ([side, side, inputs], [1, 1, outputs])
            }
            Depthwise | DepthwiseLarge => {
                let multiplier = pick(&[1, 1, 1, 1, 2], random);
                (image, [output_size[0], output_size[1], depth * multiplier])
            }
            MaxPool | AvgPool => (image, [output_size[0], output_size[1], depth]),
            Softmax => ([1, 1, outputs], [1, 1, outputs]),
            Mean => {
                let means =
                    [[1, 1, depth], [1, 1, depth], [size[0], size[1], 1], [1, size[1], depth]];
                (image, means[random.random_range(0..means.len())])
            }
            _ => (image, image),
        };
        let quantisation = |random: &mut Pcg64, smallest: bool| Quantisation {
            scale: random.random_range(0.02..0.2),
            zero_point: if smallest { -128 } else { random.random_range(-20..20) },
        };
        let relu = random.random_bool(0.5);
        let quantisations = [quantisation(random, false), quantisation(random, relu)];
        // After a ReLU whose zero is the smallest number, or six, nothing is left to clamp.
        let whole = Clamp { min: -128, max: 127 };
        let clamp = match random.random_range(0..4) {
            0 => Clamp { min: quantisations[1].zero_point, max: 100 },
            1 => Clamp { min: quantisations[1].zero_point, max: 127 },
            _ => whole,
        };
        let area = window.kernel[0] * window.kernel[1];
        let (operator, output) = match kernel {
            _ if conv => {
                let groups = match kernel {
                    ConvDense if depth.is_multiple_of(2) && outputs.is_multiple_of(2) => {
                        pick(&[1, 2], random)
                    }
                    _ => 1,
                };
                let weighted = weighted(kernel, area * depth / groups, outputs, clamp, random);
                (Operator::Conv { weighted, window, groups }, output)
            }
            _ if linear => {
                let per_output = input.iter().product();
                let weighted = weighted(kernel, per_output, outputs, clamp, random);
                (Operator::Linear { weighted }, output)
            }
            Depthwise | DepthwiseLarge => {
                let weighted = weighted(kernel, area, output[2], clamp, random);
                (Operator::Depthwise { weighted, window }, output)
            }
            MaxPool => (Operator::MaxPool { window, clamp }, output),
            AvgPool => (Operator::AvgPool { window, clamp }, output),
            Softmax => {
                let scale = f64::exp(random.random_range(0.03f64.ln()..1.5f64.ln()));
                let softmax = Operator::softmax(scale as f32, 1.0);
                (softmax.expect("the scale is positive"), output)
            }
            Lookup => (Operator::lookup(quantisations[0], quantisations[1], f64::tanh), output),
            Add => (sum(quantisations, clamp, random), output),
            Copy => random_copy(input, random),
            Mean => {
                let rescale = Rescale::quantise(random.random_range(0.001..0.1));
                let rescale = rescale.expect("a positive number");
                (Operator::Mean { rescale, clamp }, output)
            }
            _ => {
                let function = match (kernel, sum(quantisations, clamp, random)) {
                    (AddBroadcast, Operator::Add { inputs, output, .. }) => {
                        Function::Add { inputs, output }
                    }
                    _ => {
                        let rescale = Rescale::quantise(random.random_range(0.001..0.1));
                        Function::Mul { rescale: rescale.expect("a positive number") }
                    }
                };
                let shapes = [[1, 1, depth], [1, 1, 1], image];
                let shape = shapes[random.random_range(0..shapes.len())];
                let values = (0..shape.iter().product()).map(|_| random.random()).collect();
                let constant = Constant { shape, zero_point: 3, values };
                // A product may also be that of two tensors; a sum of two is another kernel's.
                let constant = (kernel != Mul || random.random_bool(0.7)).then_some(constant);
                (Operator::Elementwise { function, constant, clamp }, output)
            }
        };
        Self { kernel, input, output, quantisations, operator }
    }

    fn graph(self, random: &mut Pcg64) -> Graph {
        let [quantisation, quantisation_output] = self.quantisations;
        let tensor = |name: &str, shape: [usize; 3], quantisation: Quantisation| TensorInfo {
            name: name.to_owned(),
            shape,
            quantisation,
            view_of: None,
        };
        let node = |name: &str, inputs: Vec<TensorId>, output: TensorId, operator: Operator| Node {
            name: name.to_owned(),
            inputs,
            output,
            operator,
        };
        let (input, output, between) = (TensorId(0), TensorId(1), TensorId(2));
        let table = Operator::lookup(quantisation, quantisation, f64::tanh);
        let binary = match &self.operator {
            Operator::Add { .. } => true,
            Operator::Elementwise { constant, .. } => constant.is_none(),
            _ => false,
        };
        let alone = matches!(self.operator, Operator::Elementwise { .. } | Operator::Lookup { .. });
        // Half of the operators that can work in place do: those whose first input nothing else reads.
        let first = if random.random_bool(0.5) { between } else { input };
        let nodes = if binary {
            vec![
                node("before", vec![input], between, table),
                node("layer", vec![first, input], output, self.operator),
            ]
        } else if alone && first == between {
            vec![
                node("before", vec![input], between, table),
                node("layer", vec![between], output, self.operator),
            ]
        } else {
            vec![node("layer", vec![input], output, self.operator)]
        };
        let tensors = vec![
            tensor("input", self.input, quantisation),
            tensor("output", self.output, quantisation_output),
            tensor("between", self.input, quantisation),
        ];
        Graph {
            name: self.kernel.name().to_owned(),
            tensors,
            nodes,
            input,
            output,
            labels: Vec::new(),
            normalisation: Vec::new(),
            front_end: None,
        }
    }
}

/// Height and width, at least half of the largest but for narrow images now and then.
fn random_size(largest: usize, random: &mut Pcg64) -> [usize; 2] {
    let height = random.random_range(largest / 2..=largest);
    let width = match random.random_range(0..4) {
        0 => random.random_range(1..=largest),
        1 => random.random_range(largest / 2..=largest),
        _ => height,
    };
    [height, width]
}

fn random_window(kernel: KernelId, size: [usize; 2], random: &mut Pcg64) -> Window {
    let pool = matches!(kernel, KernelId::MaxPool | KernelId::AvgPool);
    // A global pool now and then.
    if pool && random.random_bool(0.3) {
        return Window { kernel: size, stride: [1, 1], pad: [0, 0] };
    }
    let len = match kernel {
        _ if pool => pick(&[2, 2, 3, 4], random),
        KernelId::DepthwiseLarge => pick(&[4, 5, 5], random),
        _ => pick(&[1, 1, 3, 3, 3, 5], random),
    };
    let stride = pick(&[1, 1, 2], random);
    let pad = if random.random_bool(0.8) { len / 2 } else { 0 };
    let kernel = [0, 1].map(|axis| len.min(size[axis]));
    Window { kernel, stride: [stride; 2], pad: [0, 1].map(|axis| pad.min(kernel[axis] / 2)) }
}

fn weighted(
    kernel: KernelId,
    per_channel: usize,
    channels: usize,
    clamp: Clamp,
    random: &mut Pcg64,
) -> Weighted {
    use KernelId::{ConvBlock2, ConvBlock4, ConvSparse, LinearBlock2, LinearBlock4, LinearSparse};
    let block = match kernel {
        ConvBlock2 | LinearBlock2 => 2,
        ConvBlock4 | LinearBlock4 => 4,
        _ => 1,
    };
    let sparse = block > 1 || matches!(kernel, ConvSparse | LinearSparse);
    // Evenly over the orders of magnitude.
    let density = if sparse { random.random_range(0.003f64.ln()..0.0).exp() } else { 1.0 };
    // Some layers have channels without weights, which take a way of their own.
    let empty = if sparse && random.random_bool(0.4) { random.random_range(0.0..0.8) } else { 0.0 };
    let mut weights = vec![0i8; per_channel * channels];
    for channel in weights.chunks_mut(per_channel) {
        if random.random_bool(empty) {
            continue;
        }
        for kept in channel.chunks_mut(block) {
            if random.random_bool(density) {
                kept.fill(random.random_range(1..=127));
            }
        }
    }
    let mut rescale = vec![(1 << 30, -9); channels];
    // In some layers, some channels' sums are shifted so little or so far that they take another way. Not
    // every linear kernel has one.
    if !matches!(kernel, LinearSparse | LinearBlock2 | LinearBlock4) && random.random_bool(0.2) {
        let share = random.random_range(0.02..0.6);
        for rescale in &mut rescale {
            if random.random_bool(share) {
                *rescale = (1 << 30, [0, -25][random.random_range(0..2)]);
            }
        }
    }
    Weighted { weights, bias: vec![100; channels], rescale, clamp }
}

/// A sum, of equal scales or of others.
fn sum([a, out]: [Quantisation; 2], clamp: Clamp, random: &mut Pcg64) -> Operator {
    let factor = [0.4, 1.0, 2.3][random.random_range(0..3)];
    let b = Quantisation { scale: a.scale * factor, zero_point: a.zero_point };
    Operator::add([a, b], out, clamp).expect("the scales are positive")
}

/// A copy with the shape of its output: with padding, of a part, or with axes exchanged.
fn random_copy([height, width, depth]: [usize; 3], random: &mut Pcg64) -> (Operator, [usize; 3]) {
    let row = width * depth;
    let source = Place { first: 0, strides: [row, depth, 1] };
    let (counts, source, destination, fill, output) = match random.random_range(0..4) {
        // Padding, row by row.
        0 => {
            let wide = (width + 2) * depth;
            let source = Place { first: 0, strides: [row, row, 1] };
            let destination = Place { first: wide + depth, strides: [wide, wide, 1] };
            let output = [height + 2, width + 2, depth];
            ([height, 1, row], source, destination, Some(-1), output)
        }
        // Part of the rows.
        1 => {
            let rows = height.div_ceil(2);
            let whole = Place { first: 0, strides: [rows * row, rows * row, 1] };
            ([1, 1, rows * row], whole, whole, None, [rows, width, depth])
        }
        // Some of the channels.
        2 => {
            let channels = depth.div_ceil(2);
            let destination = Place { first: 0, strides: [width * channels, channels, 1] };
            ([height, width, channels], source, destination, None, [height, width, channels])
        }
        // Channels to the front.
        _ => {
            let destination = Place { first: 0, strides: [width, 1, height * width] };
            ([height, width, depth], source, destination, None, [depth, height, width])
        }
    };
    (Operator::Copy { counts, source, destination, fill }, output)
}
