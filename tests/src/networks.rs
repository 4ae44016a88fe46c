//! Networks with random weights: they classify nothing, but they use every operator.

use niwaki::export::{
    AlignedVec, Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted, write,
};
use niwaki_core::kernels::Rescale;
use niwaki_core::model::{Clamp, FeatureKind, FrontEnd, Window};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const FULL: Clamp = Clamp { min: i8::MIN, max: i8::MAX };
const ACTIVATION: Quantisation = Quantisation { scale: 0.05, zero_point: -9 };

/// A residual network on 28x28x1 inputs with every operator: dense and sparse convolution, depthwise,
/// add, both pools, dense and sparse linear, a table and softmax. The same seed gives the same blob.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn residual(seed: u64) -> AlignedVec {
    let mut net = Builder::new(seed, [28, 28, 1]);
    let stem = net.conv("stem", net.input, 8, [3, 3], [2, 2], [1, 1], 1.0);
    let sparse = net.conv("sparse", stem, 8, [3, 3], [1, 1], [1, 1], 0.1);
    let sum = net.add("sum", sparse, stem);
    let depthwise = net.depthwise("depthwise", sum, 3);
    let pointwise = net.conv("pointwise", depthwise, 16, [1, 1], [1, 1], [0, 0], 0.2);
    let smaller = net.pool("max", pointwise, true, [2, 2]);
    let table = net.lookup("tanh", smaller);
    let pooled = net.pool("average", table, false, [7, 7]);
    let hidden = net.linear("hidden", pooled, 24, 0.15);
    let scores = net.linear("scores", hidden, 10, 1.0);
    let output = net.softmax("softmax", scores);
    net.export(output)
}

/// A random sparse network: ordinary, depthwise-separable and residual blocks of random widths and
/// densities, some of them without the weights of whole channels.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn sparse(seed: u64) -> AlignedVec {
    let mut random = Pcg64::seed_from_u64(seed);
    let size = random.random_range(12..=32);
    let depth = [1, 3][random.random_range(0..2)];
    let mut net = Builder::new(seed, [size, size, depth]);
    let mut density = move || random.random_range(0.02f64.ln()..0.5f64.ln()).exp();
    let mut random = Pcg64::seed_from_u64(seed + 1);
    let mut last = net.conv("stem", net.input, 8, [3, 3], [1, 1], [1, 1], 1.0);
    for block in 0..4 {
        let channels = [8, 16, 24, 32, 48, 64][random.random_range(block..block + 3)];
        let name = |layer: &str| format!("block {block}: {layer}");
        let stride = if block % 2 == 0 { [2, 2] } else { [1, 1] };
        last = match random.random_range(0..3) {
            0 => net.conv(&name("conv"), last, channels, [3, 3], stride, [1, 1], density()),
            1 => {
                let depthwise = net.depthwise(&name("depthwise"), last, 3);
                let pointwise = name("pointwise");
                net.conv(&pointwise, depthwise, channels, [1, 1], stride, [0, 0], density())
            }
            _ => {
                let a = net.conv(&name("first"), last, channels, [3, 3], stride, [1, 1], density());
                let b = net.conv(&name("second"), a, channels, [3, 3], [1, 1], [1, 1], density());
                net.add(&name("sum"), b, a)
            }
        };
    }
    let [height, width, _] = net.shape(last);
    let pooled = net.pool("average", last, false, [height, width]);
    let hidden = net.linear("hidden", pooled, 64, density());
    let scores = net.linear("scores", hidden, 10, 0.5);
    let output = net.softmax("softmax", scores);
    net.export(output)
}

/// Every kind of weighted layer, a depthwise one with a large window among them, with channels whose sums are shifted so little that kernels take another
/// way for them.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn unusual(seed: u64) -> AlignedVec {
    let mut net = Builder::new(seed, [16, 16, 3]);
    net.unusual = 0.15;
    let stem = net.conv("stem", net.input, 16, [3, 3], [1, 1], [1, 1], 1.0);
    let whole = net.depthwise("depthwise", stem, 3);
    let sparse = net.conv("sparse", whole, 32, [1, 1], [2, 2], [0, 0], 0.2);
    let depthwise = net.depthwise("large depthwise", sparse, 5);
    let block = net.conv("dense", depthwise, 20, [3, 3], [2, 2], [1, 1], 1.0);
    let scores = net.linear("scores", block, 10, 1.0);
    let output = net.softmax("softmax", scores);
    net.export(output)
}

/// One sparse linear layer from 784 inputs to 10 outputs: next to no work for its input's size.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn classifier(seed: u64) -> AlignedVec {
    let mut net = Builder::new(seed, [28, 28, 1]);
    let output = net.linear("scores", net.input, 10, 0.05);
    net.export(output)
}

/// Features of one second of sound, as the reference keyword spotter of MLPerf Tiny takes them.
pub const FRONT_END: FrontEnd = FrontEnd {
    kind: FeatureKind::Mfcc { coefficients: 10 },
    sample_rate: 16_000,
    samples: 16_000,
    window: 480,
    hop: 320,
    fft: 512,
    mel_bins: 40,
    low_hz: 20,
    high_hz: 4000,
};

/// A small network on the features of a second of sound.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn keywords(seed: u64, front_end: FrontEnd) -> AlignedVec {
    let (rows, columns) = (front_end.rows(), front_end.row_len());
    let mut net = Builder::new(seed, [rows, columns, 1]);
    // The loudness varies more than the shape of the spectrum.
    let scale = |column: usize| if column == 0 { (1.0, 30.0) } else { (6.0, 0.0) };
    net.graph.normalisation = (0..columns).map(scale).collect();
    net.graph.front_end = Some(front_end);
    let stem = net.conv("stem", net.input, 8, [10, 4], [2, 2], [4, 1], 1.0);
    let depthwise = net.depthwise("depthwise", stem, 3);
    let pointwise = net.conv("pointwise", depthwise, 8, [1, 1], [1, 1], [0, 0], 0.3);
    let output = net.linear("scores", pointwise, 10, 0.1);
    net.export(output)
}

/// A pool over a large image: next to no model, but an arena that small devices have no room for.
///
/// # Panics
///
/// When the exporter refuses it.
pub fn wide(seed: u64) -> AlignedVec {
    let mut net = Builder::new(seed, [128, 128, 4]);
    let output = net.pool("average", net.input, false, [8, 8]);
    net.export(output)
}

/// `count` random inputs of `len` values.
pub fn inputs(seed: u64, count: usize, len: usize) -> Vec<Vec<i8>> {
    let mut rng = Pcg64::seed_from_u64(seed);
    (0..count).map(|_| (0..len).map(|_| rng.random()).collect()).collect()
}

struct Builder {
    rng: Pcg64,
    graph: Graph,
    input: TensorId,
    /// Share of channels whose sums are hardly shifted.
    unusual: f64,
}

impl Builder {
    fn new(seed: u64, shape: [usize; 3]) -> Self {
        let input = TensorId(0);
        let mut net = Self {
            rng: Pcg64::seed_from_u64(seed),
            graph: Graph {
                name: "random".into(),
                tensors: Vec::new(),
                nodes: Vec::new(),
                input,
                output: input,
                labels: (0..10).map(|class| format!("class {class}")).collect(),
                normalisation: vec![(1.0, -128.0)],
                front_end: None,
            },
            input,
            unusual: 0.0,
        };
        net.tensor("input", shape, ACTIVATION);
        net
    }

    fn tensor(&mut self, name: &str, shape: [usize; 3], quantisation: Quantisation) -> TensorId {
        let tensor = TensorInfo { name: name.into(), shape, quantisation, view_of: None };
        self.graph.tensors.push(tensor);
        TensorId(self.graph.tensors.len() - 1)
    }

    fn shape(&self, tensor: TensorId) -> [usize; 3] {
        self.graph.tensor(tensor).shape
    }

    fn node(
        &mut self,
        name: &str,
        inputs: Vec<TensorId>,
        shape: [usize; 3],
        operator: Operator,
    ) -> TensorId {
        let quantisation = match operator {
            Operator::Softmax { .. } => Quantisation { scale: 1.0 / 256.0, zero_point: -128 },
            _ => ACTIVATION,
        };
        let output = self.tensor(name, shape, quantisation);
        self.graph.nodes.push(Node { name: name.into(), inputs, output, operator });
        output
    }

    /// Random weights of which about `density` are not zero, rescaled so that outputs use the range.
    fn weighted(&mut self, channels: usize, per_channel: usize, density: f64) -> Weighted {
        let weights = (0..channels * per_channel)
            .map(|_| if self.rng.random_bool(density) { self.rng.random() } else { 0 })
            .collect();
        let bias = (0..channels).map(|_| self.rng.random_range(-2000..2000)).collect();
        let spread = (per_channel as f64 * density).sqrt() * 74.0;
        let rescale = (0..channels)
            .map(|_| {
                let unusual = self.unusual > 0.0 && self.rng.random_bool(self.unusual);
                let spread = if unusual { 1.0 } else { spread };
                let real = self.rng.random_range(0.5..1.5) / spread;
                Rescale::quantise(real).expect("a positive number")
            })
            .collect();
        Weighted { weights, bias, rescale, clamp: FULL }
    }

    #[expect(clippy::too_many_arguments, reason = "a convolution has that many")]
    fn conv(
        &mut self,
        name: &str,
        input: TensorId,
        channels: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
        density: f64,
    ) -> TensorId {
        let [height, width, depth] = self.shape(input);
        let weighted = self.weighted(channels, kernel[0] * kernel[1] * depth, density);
        let shape = [height.div_ceil(stride[0]), width.div_ceil(stride[1]), channels];
        let window = Window { kernel, stride, pad };
        self.node(name, vec![input], shape, Operator::Conv { weighted, window, groups: 1 })
    }

    fn depthwise(&mut self, name: &str, input: TensorId, kernel: usize) -> TensorId {
        let shape = self.shape(input);
        let weighted = self.weighted(shape[2], kernel * kernel, 1.0);
        let window = Window { kernel: [kernel; 2], stride: [1, 1], pad: [kernel / 2; 2] };
        self.node(name, vec![input], shape, Operator::Depthwise { weighted, window })
    }

    fn linear(&mut self, name: &str, input: TensorId, outputs: usize, density: f64) -> TensorId {
        let per_output = self.graph.tensor(input).len();
        let weighted = self.weighted(outputs, per_output, density);
        self.node(name, vec![input], [1, 1, outputs], Operator::Linear { weighted })
    }

    fn pool(&mut self, name: &str, input: TensorId, max: bool, kernel: [usize; 2]) -> TensorId {
        let [height, width, channels] = self.shape(input);
        let window = Window { kernel, stride: kernel, pad: [0, 0] };
        let operator = if max {
            Operator::MaxPool { window, clamp: FULL }
        } else {
            Operator::AvgPool { window, clamp: FULL }
        };
        let shape = [height / kernel[0], width / kernel[1], channels];
        self.node(name, vec![input], shape, operator)
    }

    fn add(&mut self, name: &str, a: TensorId, b: TensorId) -> TensorId {
        let operator = Operator::add([ACTIVATION; 2], ACTIVATION, FULL).expect("positive scales");
        self.node(name, vec![a, b], self.shape(a), operator)
    }

    fn lookup(&mut self, name: &str, input: TensorId) -> TensorId {
        let operator = Operator::lookup(ACTIVATION, ACTIVATION, |x| 4.0 * f64::tanh(x / 4.0));
        self.node(name, vec![input], self.shape(input), operator)
    }

    fn softmax(&mut self, name: &str, input: TensorId) -> TensorId {
        let operator = Operator::softmax(ACTIVATION.scale, 1.0).expect("a positive scale");
        self.node(name, vec![input], self.shape(input), operator)
    }

    fn export(mut self, output: TensorId) -> AlignedVec {
        self.graph.output = output;
        let exported = write(&self.graph).expect("a network within the format's limits");
        AlignedVec::new(&exported.bytes)
    }
}
