//! Small networks as blobs, with a float reference that shares no code with what is tested.
#![allow(clippy::arithmetic_side_effects)]

use std::vec;
use std::vec::Vec;

use zerocopy::IntoBytes;

use crate::kernels::pack_sparse::{self, Packed};
use crate::kernels::sparse::{Block, Geometry, linear_scratch_len};
use crate::kernels::{KernelId, Rescale, packed};
use crate::model::layout::{
    AddRecord, ChannelRecord, Header, MAGIC, MeanRecord, OpRecord, SoftmaxRecord, Span,
    TensorRecord, VERSION, WindowRecord,
};
use crate::model::{Tensor, Window, checksum};

/// A generator of test values: xorshift (Marsaglia, 2003).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Dense,
    Packed,
    Sparse(Block),
}

pub(crate) const FORMATS: [Format; 5] = [
    Format::Dense,
    Format::Packed,
    Format::Sparse(Block::One),
    Format::Sparse(Block::Two),
    Format::Sparse(Block::Four),
];

#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    /// Output channel by output channel, kernel row, kernel column, input channel of the group (one
    /// for a depthwise convolution).
    pub(crate) weights: Vec<i8>,
    pub(crate) bias: Vec<i32>,
    pub(crate) steps: Vec<f64>,
    pub(crate) window: Window,
    pub(crate) groups: usize,
    pub(crate) relu: bool,
    pub(crate) format: Format,
    pub(crate) depthwise: bool,
    pub(crate) linear: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Weighted(Weighted),
    AvgPool(Window),
    MaxPool(Window),
    Mean,
    Add {
        other: usize,
        relu: bool,
    },
    /// Doubling as a table.
    Lookup,
    Softmax,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) input: usize,
    pub(crate) output: usize,
}

/// A tensor's shape, quantisation and real values for the input it was calibrated with.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) shape: [usize; 3],
    pub(crate) scale: f64,
    pub(crate) zero: i8,
    pub(crate) real: Vec<f64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    /// Scores can be at least this large, as those of a trained network.
    pub(crate) score_range: f64,
}

impl Net {
    pub(crate) fn new(shape: [usize; 3], random: &mut Random) -> Self {
        let len = shape.iter().product();
        let (scale, zero) = (0.02, random.below(40) as i8 - 20);
        let stored = |random: &mut Random| random.below(255) as f64 - 127.0;
        let real = (0..len).map(|_| (stored(random) - f64::from(zero)) * scale).collect();
        Self { values: vec![Value { shape, scale, zero, real }], nodes: vec![], score_range: 0.0 }
    }

    pub(crate) fn last(&self) -> usize {
        self.values.len() - 1
    }

    /// Input as integers.
    pub(crate) fn input(&self) -> Vec<i8> {
        let value = &self.values[0];
        value.real.iter().map(|x| (x / value.scale).round() as i8 + value.zero).collect()
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn weighted(
        &mut self,
        random: &mut Random,
        outputs: usize,
        window: Option<Window>,
        groups: usize,
        depthwise: bool,
        relu: bool,
        format: Format,
        density: f64,
    ) {
        let input = self.values.last().unwrap().clone();
        let linear = window.is_none();
        let [h, w, c] = if linear { [1, 1, input.real.len()] } else { input.shape };
        let window = window.unwrap_or(Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] });
        let depth = if depthwise { 1 } else { c / groups };
        let per_channel = window.kernel[0] * window.kernel[1] * depth;
        let block = match format {
            Format::Sparse(block) => block.len(),
            _ => 1,
        };
        let mut weights = vec![0i8; outputs * per_channel];
        for chunk in weights.chunks_mut(per_channel).flat_map(|row| row.chunks_mut(block)) {
            if random.between(0.0, 1.0) < density {
                chunk.iter_mut().for_each(|w| *w = (random.below(255) as i32 - 127) as i8);
            }
        }
        let step = |random: &mut Random| {
            random.between(2.0, 4.0) / (127.0 * (per_channel as f64 * density).sqrt())
        };
        let steps: Vec<f64> = (0..outputs).map(|_| step(random)).collect();
        let bias = steps
            .iter()
            .map(|step| (random.between(-0.3, 0.3) / (input.scale * step)).round() as i32);
        let weighted = Weighted {
            bias: bias.collect(),
            weights,
            steps,
            window,
            groups,
            relu,
            format,
            depthwise,
            linear,
        };
        let span = |axis: usize, size: usize| {
            (size + 2 * window.pad[axis] - window.kernel[axis]) / window.stride[axis] + 1
        };
        self.push(Kind::Weighted(weighted), [span(0, h), span(1, w), outputs]);
    }

    pub(crate) fn push(&mut self, kind: Kind, shape: [usize; 3]) {
        let input = self.last();
        let node = Node { kind, input, output: input + 1 };
        self.values.push(Value { shape, scale: 1.0, zero: 0, real: vec![] });
        let real = self.evaluate(&node, |_, real| real, &self.values[input].real, shape);
        let value = &self.values[input];
        let largest = real.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
        let (scale, zero) = match node.kind {
            Kind::AvgPool(_) | Kind::MaxPool(_) => (value.scale, value.zero),
            Kind::Weighted(Weighted { relu: true, .. }) | Kind::Add { relu: true, .. } => {
                (largest / 250.0, -128)
            }
            Kind::Softmax => (1.0 / 256.0, -128),
            Kind::Weighted(Weighted { linear: true, .. }) => {
                ((largest / 120.0).max(self.score_range / 127.0), 3)
            }
            _ => (largest / 120.0, 3),
        };
        // As the blob stores it.
        let scale = f64::from(scale as f32);
        *self.values.last_mut().unwrap() = Value { shape, scale, zero, real };
        self.nodes.push(node);
    }

    /// A node's real outputs; `weight` may replace weights, given by their index.
    pub(crate) fn evaluate(
        &self,
        node: &Node,
        weight: impl Fn(usize, f64) -> f64,
        x: &[f64],
        out: [usize; 3],
    ) -> Vec<f64> {
        let input = &self.values[node.input];
        let [h, w, c] = input.shape;
        let mut y = vec![0.0; out.iter().product()];
        match &node.kind {
            Kind::Weighted(op) => {
                let [h, w, c] = if op.linear { [1, 1, h * w * c] } else { [h, w, c] };
                let [kh, kw] = op.window.kernel;
                let depth = if op.depthwise { 1 } else { c / op.groups };
                for (index, y) in y.iter_mut().enumerate() {
                    let (oy, ox, o) =
                        (index / out[2] / out[1], index / out[2] % out[1], index % out[2]);
                    let first = if op.depthwise {
                        o / (out[2] / c)
                    } else {
                        o / (out[2] / op.groups) * depth
                    };
                    let step = op.steps[o];
                    *y = f64::from(op.bias[o]) * input.scale * step;
                    for position in 0..kh * kw * depth {
                        let (ky, kx, i) =
                            (position / depth / kw, position / depth % kw, position % depth);
                        let iy = (oy * op.window.stride[0] + ky).wrapping_sub(op.window.pad[0]);
                        let ix = (ox * op.window.stride[1] + kx).wrapping_sub(op.window.pad[1]);
                        let at = o * kh * kw * depth + position;
                        if iy < h && ix < w {
                            let q = weight(at, f64::from(op.weights[at]));
                            *y += q * step * x[(iy * w + ix) * c + first + i];
                        }
                    }
                    if op.relu {
                        *y = y.max(0.0);
                    }
                }
            }
            Kind::AvgPool(window) | Kind::MaxPool(window) => {
                for (index, y) in y.iter_mut().enumerate() {
                    let (oy, ox, o) = (index / c / out[1], index / c % out[1], index % c);
                    let mut under = vec![];
                    for tap in 0..window.kernel[0] * window.kernel[1] {
                        let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
                        let iy = (oy * window.stride[0] + ky).wrapping_sub(window.pad[0]);
                        let ix = (ox * window.stride[1] + kx).wrapping_sub(window.pad[1]);
                        if iy < h && ix < w {
                            under.push(x[(iy * w + ix) * c + o]);
                        }
                    }
                    *y = match node.kind {
                        Kind::MaxPool(_) => under.iter().fold(f64::MIN, |a, &b| a.max(b)),
                        _ => under.iter().sum::<f64>() / under.len() as f64,
                    };
                }
            }
            Kind::Mean => {
                for (index, x) in x.iter().enumerate() {
                    y[index % c] += x / (h * w) as f64;
                }
            }
            Kind::Add { other, relu } => {
                for ((y, a), b) in y.iter_mut().zip(x).zip(&self.values[*other].real) {
                    *y = if *relu { (a + b).max(0.0) } else { a + b };
                }
            }
            Kind::Lookup => y.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x),
            Kind::Softmax => {
                let largest = x.iter().fold(f64::MIN, |a, &b| a.max(b));
                let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - largest).exp() / sum);
            }
        }
        y
    }

    /// The blob, with the last `tunable` weighted nodes marked.
    pub(crate) fn blob(&self, tunable: u16) -> Vec<u8> {
        let mut arena = 0usize;
        let mut tensors = vec![];
        for value in &self.values {
            tensors.push(Tensor {
                offset: arena,
                height: value.shape[0],
                width: value.shape[1],
                channels: value.shape[2],
                zero_point: value.zero,
                scale: value.scale as f32,
            });
            arena += value.shape.iter().product::<usize>().next_multiple_of(4);
        }
        let mut bytes = vec![0u8; size_of::<Header>()];
        let append = |bytes: &mut Vec<u8>, data: &[u8]| {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let span = Span::new(bytes.len() as u32, data.len() as u32);
            bytes.extend(data);
            span
        };
        let mut ops = vec![];
        let (mut kernels, mut longest) = (0, 0);
        for node in &self.nodes {
            let (from, to) = (&tensors[node.input], &tensors[node.output]);
            let mut record = OpRecord {
                inputs: [(node.input as u16).into(); 2],
                output: (node.output as u16).into(),
                groups: 1.into(),
                clamp_min: -128,
                clamp_max: 127,
                ..OpRecord::default()
            };
            let mut scratch = 0;
            let mut window = None;
            let rescale = |real: f64| Rescale::quantise(real).unwrap();
            let (kernel, constants, weights) = match &node.kind {
                Kind::Weighted(op) => {
                    if !op.linear {
                        window = Some(op.window);
                    }
                    record.groups = (op.groups as u16).into();
                    if op.relu {
                        record.clamp_min = to.zero_point;
                    }
                    let per_channel = op.weights.len() / to.channels;
                    let mut records: Vec<ChannelRecord> = op
                        .weights
                        .chunks(per_channel)
                        .enumerate()
                        .map(|(o, weights)| {
                            let real = self.values[node.input].scale * op.steps[o]
                                / self.values[node.output].scale;
                            let (multiplier, shift) = rescale(real);
                            let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
                            let bias = op.bias[o] - i32::from(from.zero_point) * sum;
                            ChannelRecord::new(bias, multiplier, shift, 0)
                        })
                        .collect();
                    let (kernel, Packed { bytes, counts }) =
                        kernel(op, from, to, per_channel, &mut scratch);
                    for (record, count) in records.iter_mut().zip(counts) {
                        record.count = count.into();
                    }
                    (kernel, records.as_bytes().to_vec(), bytes)
                }
                Kind::AvgPool(w) | Kind::MaxPool(w) => {
                    window = Some(*w);
                    let kernel = match node.kind {
                        Kind::AvgPool(_) => KernelId::AvgPool,
                        _ => KernelId::MaxPool,
                    };
                    (kernel, vec![], vec![])
                }
                Kind::Mean => {
                    let count = (from.height * from.width) as f64;
                    let real = f64::from(from.scale) / f64::from(to.scale) / count;
                    let (multiplier, shift) = rescale(real);
                    let record = MeanRecord { multiplier: multiplier.into(), shift: shift.into() };
                    (KernelId::Mean, record.as_bytes().to_vec(), vec![])
                }
                Kind::Add { other, relu } => {
                    if *relu {
                        record.clamp_min = to.zero_point;
                    }
                    record.inputs[1] = (*other as u16).into();
                    let scales = [f64::from(from.scale), f64::from(tensors[*other].scale)];
                    let twice = 2.0 * scales[0].max(scales[1]);
                    let inputs = scales.map(|scale| rescale(scale / twice));
                    let output = rescale(twice / (f64::from(1 << 20) * f64::from(to.scale)));
                    let record = AddRecord {
                        input_multipliers: inputs.map(|input| input.0.into()),
                        input_shifts: inputs.map(|input| input.1.into()),
                        output_multiplier: output.0.into(),
                        output_shift: output.1.into(),
                    };
                    (KernelId::Add, record.as_bytes().to_vec(), vec![])
                }
                Kind::Lookup => {
                    let table: Vec<i8> = (-128..128)
                        .map(|x| {
                            let real = 2.0 * f64::from(x - i32::from(from.zero_point));
                            let y = real * f64::from(from.scale) / f64::from(to.scale);
                            (y.round() + f64::from(to.zero_point)).clamp(-128.0, 127.0) as i8
                        })
                        .collect();
                    (KernelId::Lookup, table.as_bytes().to_vec(), vec![])
                }
                Kind::Softmax => {
                    let (multiplier, shift) =
                        rescale((f64::from(from.scale) * f64::from(1 << 26)).min(1e9));
                    let record = SoftmaxRecord {
                        multiplier: multiplier.into(),
                        left_shift: shift.into(),
                        diff_min: (-(1 << 20)).into(),
                    };
                    (KernelId::Softmax, record.as_bytes().to_vec(), vec![])
                }
            };
            kernels |= kernel.bit();
            record.kernel = kernel as u8;
            record.constants = append(&mut bytes, &constants);
            record.weights = append(&mut bytes, &weights);
            record.scratch = Span::new(arena as u32, scratch as u32);
            if let Some(w) = window {
                record.window = WindowRecord {
                    kernel_h: w.kernel[0] as u8,
                    kernel_w: w.kernel[1] as u8,
                    stride_h: w.stride[0] as u8,
                    stride_w: w.stride[1] as u8,
                    pad_top: w.pad[0] as u8,
                    pad_left: w.pad[1] as u8,
                    reserved: [0; 2],
                };
            }
            longest = longest.max(scratch);
            ops.push(record);
        }
        let records: Vec<TensorRecord> = tensors
            .iter()
            .map(|t| TensorRecord {
                offset: (t.offset as u32).into(),
                height: (t.height as u16).into(),
                width: (t.width as u16).into(),
                channels: (t.channels as u16).into(),
                reserved: 0,
                zero_point: t.zero_point,
                scale: t.scale.into(),
            })
            .collect();
        let tensors = append(&mut bytes, records.as_bytes());
        let ops = append(&mut bytes, ops.as_bytes());
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            header_len: (size_of::<Header>() as u16).into(),
            total_len: (bytes.len() as u32).into(),
            checksum: 0.into(),
            model_id: *b"testtest",
            arena_len: ((arena + longest) as u32).into(),
            kernels: kernels.into(),
            input: 0.into(),
            output: (self.last() as u16).into(),
            label_count: 0.into(),
            tunable: tunable.into(),
            tensors,
            ops,
            strings: Span::default(),
            normalisation: Span::default(),
        };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        header.checksum = checksum(&bytes).into();
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        bytes
    }
}

fn kernel(
    op: &Weighted,
    from: &Tensor,
    to: &Tensor,
    per_channel: usize,
    scratch: &mut usize,
) -> (KernelId, Packed) {
    let whole = |bytes: Vec<u8>| Packed { bytes, counts: vec![] };
    let plain = || whole(op.weights.as_bytes().to_vec());
    if op.depthwise {
        let outputs = to.channels;
        let by_tap =
            (0..op.weights.len()).map(|i| op.weights[i % outputs * per_channel + i / outputs]);
        return (KernelId::Depthwise, whole(by_tap.map(|w| w as u8).collect()));
    }
    match (op.format, op.linear) {
        (Format::Dense, false) => (KernelId::ConvDense, plain()),
        (Format::Dense, true) => (KernelId::LinearDense, plain()),
        (Format::Packed, linear) => {
            let len = packed::packed_len(to.channels, per_channel).unwrap();
            let mut words = vec![0; len];
            let weight = |o: usize, i: usize| op.weights[o * per_channel + i];
            packed::pack(to.channels, per_channel, weight, &mut words).unwrap();
            if linear {
                *scratch = packed::linear_scratch_len(per_channel);
                (KernelId::LinearPacked, whole(words.as_bytes().to_vec()))
            } else {
                *scratch = packed::conv_scratch_len(from.channels, per_channel);
                (KernelId::ConvPacked, whole(words.as_bytes().to_vec()))
            }
        }
        (Format::Sparse(block), true) => {
            *scratch = linear_scratch_len(per_channel, block);
            let kernel = match block {
                Block::One => KernelId::LinearSparse,
                Block::Two => KernelId::LinearBlock2,
                Block::Four => KernelId::LinearBlock4,
            };
            (kernel, pack_sparse::linear_stream(&op.weights, per_channel, block).unwrap())
        }
        (Format::Sparse(block), false) => {
            let rows = to.height.min(2);
            let geometry = Geometry::new(from, to, &op.window, block, 1, 1)
                .and_then(|_| {
                    let pointwise = op.window.kernel == [1, 1];
                    let columns = if pointwise { to.height * to.width } else { to.width };
                    Geometry::new(
                        from,
                        to,
                        &op.window,
                        block,
                        columns,
                        if pointwise { 1 } else { rows },
                    )
                })
                .unwrap_or_else(|| Geometry::new(from, to, &op.window, block, 1, 1).unwrap());
            *scratch = geometry.scratch_len();
            let kernel = match block {
                Block::One => KernelId::ConvSparse,
                Block::Two => KernelId::ConvBlock2,
                Block::Four => KernelId::ConvBlock4,
            };
            (kernel, pack_sparse::conv_stream(&op.weights, op.groups, &geometry).unwrap())
        }
    }
}
