//! The sparse kernels, portable and over DSP instructions, against the dense definition.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::conv_sparse::{self, Portable, Stretch, Tiles};
use super::pack_sparse::{Packed, Steps, conv_stream, linear_stream};
use super::sparse::{Block, ConvStream, Geometry, LINEAR_SHIFTS, LinearStream, TILE};
use super::{KernelId, conv, conv_in_place, conv_sparse_dsp, linear_sparse, linear_sparse_dsp};
use crate::model::layout::ChannelRecord;
use crate::model::{Clamp, Conv, Scratch, Tensor, Weights, Window};

/// A random operator with its weights in dense order.
#[derive(Debug, Clone)]
struct Case {
    input: Tensor,
    output: Tensor,
    window: Window,
    groups: usize,
    block: Block,
    /// Output columns of a strip and rows of a band.
    strip: [usize; 2],
    clamp: Clamp,
    x: Vec<i8>,
    weights: Vec<i8>,
    channels: Records,
}

/// Bytes at the alignment that streams and working memory have in a model and an arena.
struct Aligned(Vec<u32>, usize);

/// Channels' records at a multiple of four bytes, as in a blob.
#[derive(Debug, Clone)]
struct Records(Vec<[u32; 3]>);

impl FromIterator<ChannelRecord> for Records {
    fn from_iter<T: IntoIterator<Item = ChannelRecord>>(records: T) -> Self {
        Self(records.into_iter().map(|record| zerocopy::transmute!(record)).collect())
    }
}

impl core::ops::Deref for Records {
    type Target = [ChannelRecord];

    fn deref(&self) -> &Self::Target {
        zerocopy::FromBytes::ref_from_bytes(zerocopy::IntoBytes::as_bytes(&self.0[..])).unwrap()
    }
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0; bytes.len().div_ceil(4)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(4)) {
            let mut whole = [0; 4];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u32::from_ne_bytes(whole);
        }
        Self(words, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        let bytes: &[u8] = zerocopy::IntoBytes::as_bytes(&self.0[..]);
        &bytes[..self.1]
    }

    fn elements(&mut self) -> &mut [i8] {
        let bytes: &mut [i8] =
            zerocopy::FromBytes::mut_from_bytes(zerocopy::IntoBytes::as_mut_bytes(&mut self.0[..]))
                .unwrap();
        &mut bytes[..self.1]
    }
}

/// Counts the calls of the inner parts of a convolution.
struct Counter {
    /// Words of the planes.
    words: usize,
    steps: Steps,
}

impl Tiles for Counter {
    fn fill(&mut self, _: i8) {
        self.steps.fills += 1;
        self.steps.filled += self.words;
    }

    fn lay_out(&mut self, _: Option<&[i8]>, Stretch { count, .. }: Stretch) {
        self.steps.stretches += 1;
        self.steps.pairs += count / 2;
        self.steps.odd += count % 2;
    }

    fn add_tile(&mut self, _: usize, _: &[usize; TILE]) {
        self.steps.tiles += 1;
    }

    fn compute(&mut self) {
        self.steps.bands += 1;
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// Mostly any byte, often an extreme one.
    fn byte(&mut self) -> i8 {
        match self.next() >> 40 & 7 {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => (self.next() >> 32) as i8,
        }
    }

    fn record(&mut self) -> ChannelRecord {
        // Shifts that bring sums to the output's range, and any that are allowed.
        let shift = match self.below(4) {
            0 => self.below(62) as i32 - 31,
            _ => -(self.below(14) as i32),
        };
        let multiplier = match self.below(8) {
            0 => 0,
            1 => i32::MAX,
            2 => 1 << 30,
            3 => (self.next() >> 34) as i32,
            _ => 1 << 30 | (self.next() >> 34) as i32,
        };
        let bias = match self.below(6) {
            0 => (1 << 28) - 1,
            1 => 1 - (1 << 28),
            _ => (self.next() >> 47) as i32 - (1 << 16),
        };
        ChannelRecord::new(bias, multiplier, shift, 0)
    }

    /// One that linear operators take.
    fn linear_record(&mut self) -> ChannelRecord {
        let record = self.record();
        let shift = record.shift().clamp(*LINEAR_SHIFTS.start(), *LINEAR_SHIFTS.end());
        ChannelRecord::new(record.bias.get(), record.multiplier.get(), shift, 0)
    }
}

fn tensor(height: usize, width: usize, channels: usize, zero_point: i8) -> Tensor {
    Tensor { offset: 0, height, width, channels, zero_point, scale: 1.0 }
}

fn axis() -> impl Strategy<Value = [usize; 5]> {
    // Size, kernel, stride, padding before and how much of the possible output is computed.
    (1usize..20, 1usize..6, 1usize..4, 0usize..5, any::<bool>()).prop_flat_map(
        |(size, kernel, stride, pad, all)| {
            let pad = pad.min(kernel - 1);
            let most = (size + pad - 1) / stride + 1;
            let least = if all { most } else { 1 };
            (Just([size, kernel, stride, pad]), least..=most)
                .prop_map(|([a, b, c, d], output)| [a, b, c, d, output])
        },
    )
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![Just(Block::One), Just(Block::Two), Just(Block::Four)]
}

fn density() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..1.0, 0.0..0.2]
}

fn clamp() -> impl Strategy<Value = Clamp> {
    let ordered = |(a, b): (i8, i8)| Clamp { min: a.min(b), max: a.max(b) };
    prop_oneof![Just(Clamp { min: i8::MIN, max: i8::MAX }), any::<(i8, i8)>().prop_map(ordered)]
}

fn conv_case() -> impl Strategy<Value = Case> {
    let shape =
        (axis(), axis(), 1usize..10, 1usize..6, prop_oneof![3 => Just(1usize), 1 => 2usize..4]);
    let quantisation = (any::<[i8; 2]>(), clamp());
    (shape, any::<bool>(), quantisation, block(), density(), 1u64..).prop_map(
        |((v, h, depth, outputs, groups), pointwise, (zero, clamp), block, density, seed)| {
            let mut random = Random(seed);
            let mut window =
                Window { kernel: [v[1], h[1]], stride: [v[2], h[2]], pad: [v[3], h[3]] };
            let input = tensor(v[0], h[0], depth * groups, zero[0]);
            let mut output = tensor(v[4], h[4], outputs * groups, zero[1]);
            if pointwise {
                window = Window { kernel: [1; 2], stride: [1; 2], pad: [0; 2] };
                (output.height, output.width) = (input.height, input.width);
            }
            let per_channel = window.kernel[0] * window.kernel[1] * depth;
            let weights = weights(&mut random, output.channels, per_channel, depth, block, density);
            let flat = window.kernel == [1; 2]
                && window.stride == [1; 2]
                && [input.height, input.width] == [output.height, output.width];
            let flattened =
                if flat { [1, input.height * input.width] } else { [output.height, output.width] };
            let strip = [1 + random.below(flattened[1]), 1 + random.below(flattened[0])];
            Case {
                input,
                output,
                window,
                groups,
                block,
                strip,
                clamp,
                x: (0..input.len()).map(|_| random.byte()).collect(),
                weights,
                channels: (0..output.channels).map(|_| random.record()).collect(),
            }
        },
    )
}

fn linear_case() -> impl Strategy<Value = Case> {
    let shape = (1usize..200, 1usize..12, any::<bool>());
    (shape, any::<[i8; 2]>(), clamp(), block(), density(), 1u64..).prop_map(
        |((blocks, outputs, long), zero, clamp, block, density, seed)| {
            let mut random = Random(seed);
            let inputs = blocks * block.len() * if long { 6 } else { 1 };
            let weights = weights(&mut random, outputs, inputs, inputs, block, density);
            linear([inputs, outputs], zero, block, clamp, weights, &mut random)
        },
    )
}

/// A linear operator with these weights.
fn linear(
    [inputs, outputs]: [usize; 2],
    zero: [i8; 2],
    block: Block,
    clamp: Clamp,
    weights: Vec<i8>,
    random: &mut Random,
) -> Case {
    Case {
        input: tensor(1, 1, inputs, zero[0]),
        output: tensor(1, 1, outputs, zero[1]),
        window: Window { kernel: [1; 2], stride: [1; 2], pad: [0; 2] },
        groups: 1,
        block,
        strip: [1; 2],
        clamp,
        x: (0..inputs).map(|_| random.byte()).collect(),
        weights,
        channels: (0..outputs).map(|_| random.linear_record()).collect(),
    }
}

/// Weights of which blocks are kept with a probability, in some cases as many in each channel.
fn weights(
    random: &mut Random,
    outputs: usize,
    per_channel: usize,
    depth: usize,
    block: Block,
    density: f64,
) -> Vec<i8> {
    let fan_in = random.below(3) == 0;
    let mut weights = Vec::new();
    for _ in 0..outputs {
        let start = weights.len();
        let mut keep = false;
        for position in 0..per_channel {
            if (position % depth).is_multiple_of(block.len()) {
                keep = (random.next() >> 11) as f64 / (1u64 << 53) as f64 <= density;
            }
            weights.push(if keep && !fan_in { random.byte() } else { 0 });
        }
        if fan_in {
            for index in 0..(per_channel as f64 * density) as usize {
                weights[start + index] = random.byte() | 1;
            }
        }
    }
    weights
}

impl Case {
    fn op<'a>(&'a self, weights: Weights<'a>) -> Conv<'a> {
        Conv {
            input: self.input,
            output: self.output,
            window: self.window,
            groups: self.groups,
            clamp: self.clamp,
            channels: &self.channels,
            weights,
            scratch: Scratch::default(),
        }
    }

    /// The stream of the weights, whose counts the channels get.
    fn pack(&mut self, linear: bool) -> Vec<u8> {
        let Packed { bytes, counts } = match linear {
            true => linear_stream(&self.weights, self.input.len(), self.block).unwrap(),
            false => conv_stream(&self.weights, self.groups, &self.geometry()).unwrap(),
        };
        self.set_counts(|channel, _| counts[channel]);
        bytes
    }

    /// Gives each channel the count that `f` makes of its number and count.
    fn set_counts(&mut self, mut f: impl FnMut(usize, u16) -> u16) {
        let records: Vec<ChannelRecord> = self.channels.to_vec();
        let recount = |(channel, record): (usize, ChannelRecord)| {
            let count = f(channel, record.count.get()).into();
            ChannelRecord { count, ..record }
        };
        self.channels = records.into_iter().enumerate().map(recount).collect();
    }

    /// Sometimes moves entries from one channel to another, or changes a count.
    fn damage_counts(&mut self, random: &mut Random) {
        let [from, to] = [(); 2].map(|()| random.below(self.channels.len()));
        let kind = random.below(8);
        self.set_counts(|channel, count| match kind {
            0 if channel == from => random.below(1 << 16) as u16,
            1 | 2 if channel == from => count.saturating_sub(2),
            1 if channel == to => count.saturating_add(2),
            _ => count,
        });
    }

    fn conv_stream<'a>(&'a self, bytes: &'a [u8]) -> Option<ConvStream<'a>> {
        let Self { input, output, window, block, .. } = self;
        ConvStream::new(bytes, &self.channels, input, output, window, *block)
    }

    fn linear_stream<'a>(&'a self, bytes: &'a [u8]) -> Option<LinearStream<'a>> {
        LinearStream::new(bytes, &self.channels, self.input.len(), self.block)
    }

    fn geometry(&self) -> Geometry {
        let [columns, rows] = self.strip;
        Geometry::new(&self.input, &self.output, &self.window, self.block, columns, rows).unwrap()
    }

    /// The dense kernel, which is tested against the definition of a convolution.
    fn expected(&self) -> Vec<i8> {
        let mut y = vec![0; self.output.len()];
        conv(&self.op(Weights::Dense(&self.weights)), &self.x, &mut y, &mut []);
        y
    }

    /// Outputs of the portable kernel and of the one over DSP instructions, which must be the same when they
    /// replace the input.
    fn convolve(&self, stream: &ConvStream<'_>) -> [Vec<i8>; 2] {
        match self.block {
            Block::One => self.convolve_blocks::<1>(stream),
            Block::Two => self.convolve_blocks::<2>(stream),
            Block::Four => self.convolve_blocks::<4>(stream),
        }
    }

    fn convolve_blocks<const BLOCK: usize>(&self, stream: &ConvStream<'_>) -> [Vec<i8>; 2] {
        let g = stream.geometry();
        let op = self.op(Weights::Sparse(*stream));
        // Working memory holds anything.
        let mut scratch = [0x5a, 0xa5].map(|byte| Aligned::new(&vec![byte; g.scratch_len()]));
        let mut convolve = |x: Option<&[i8]>, [portable, dsp]: [&mut [i8]; 2]| {
            let memory = scratch[0].elements();
            let mut tiles = Portable::<BLOCK>::new(&op, stream, portable, memory).unwrap();
            conv_sparse::run(&op, g, x, &mut tiles);
            conv_sparse_dsp::convolve::<BLOCK>(&op, stream, x, dsp, scratch[1].elements());
        };
        let mut outputs = [vec![0; self.output.len()], vec![0; self.output.len()]];
        convolve(Some(&self.x), outputs.each_mut().map(Vec::as_mut_slice));
        if conv_in_place(&self.input, &self.output, &self.window) {
            let mut in_place = [self.x.clone(), self.x.clone()];
            convolve(None, in_place.each_mut().map(Vec::as_mut_slice));
            for (output, in_place) in outputs.iter().zip(&in_place) {
                assert_eq!(output, &in_place[..output.len()]);
            }
        }
        outputs
    }

    fn multiply(&self, stream: &LinearStream<'_>) -> [Vec<i8>; 2] {
        let op = self.op(Weights::SparseLinear(*stream));
        let mut outputs = [vec![0; self.output.len()], vec![0; self.output.len()]];
        let mut scratch = Aligned::new(&vec![0xa5; stream.scratch_len()]);
        let [portable, dsp] = &mut outputs;
        let scratch = scratch.elements();
        match self.block {
            Block::One => {
                linear_sparse::portable::<1>(&op, stream, &self.x, portable, scratch);
                linear_sparse_dsp::linear::<1>(&op, stream, &self.x, dsp, scratch);
            }
            Block::Two => {
                linear_sparse::portable::<2>(&op, stream, &self.x, portable, scratch);
                linear_sparse_dsp::linear::<2>(&op, stream, &self.x, dsp, scratch);
            }
            Block::Four => {
                linear_sparse::portable::<4>(&op, stream, &self.x, portable, scratch);
                linear_sparse_dsp::linear::<4>(&op, stream, &self.x, dsp, scratch);
            }
        }
        outputs
    }
}

/// Shortens the bytes or changes some of them.
fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if random.below(4) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    for _ in 0..random.below(4) {
        if !bytes.is_empty() {
            let index = random.below(bytes.len());
            // Small changes often survive verification.
            bytes[index] = match random.below(3) {
                0 => random.byte() as u8,
                1 => bytes[index].wrapping_add(random.below(9) as u8).wrapping_sub(4),
                _ => bytes[index] ^ 1 << random.below(8),
            };
        }
    }
    bytes
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig::with_cases(if cfg!(miri) { 10 } else { count })
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn sparse_convolutions_equal_the_dense(mut case in conv_case()) {
        let bytes = Aligned::new(&case.pack(false));
        let stream = case.conv_stream(bytes.bytes()).unwrap();
        prop_assert_eq!(stream.nonzeros(), case.weights.iter().filter(|&&w| w != 0).count());
        let expected = case.expected();
        let [portable, dsp] = case.convolve(&stream);
        prop_assert_eq!(&portable, &expected);
        prop_assert_eq!(&dsp, &expected);
    }

    #[test]
    fn sparse_linear_operators_equal_the_dense(mut case in linear_case()) {
        let bytes = Aligned::new(&case.pack(true));
        let stream = case.linear_stream(bytes.bytes()).unwrap();
        prop_assert_eq!(stream.nonzeros(), case.weights.iter().filter(|&&w| w != 0).count());
        let expected = case.expected();
        let [portable, dsp] = case.multiply(&stream);
        prop_assert_eq!(&portable, &expected);
        prop_assert_eq!(&dsp, &expected);
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn damaged_streams_are_refused_or_harmless(
        mut conv in conv_case(), mut linear in linear_case(), seed in 1u64..
    ) {
        let mut random = Random(seed);
        let bytes = damage(&conv.pack(false), &mut random);
        let bytes = Aligned::new(&bytes);
        conv.damage_counts(&mut random);
        let stream = conv.conv_stream(bytes.bytes());
        // A damaged header may ask for much working memory.
        if let Some(stream) = stream.filter(|s| s.geometry().scratch_len() < 1 << 20) {
            conv.convolve(&stream);
        }
        let bytes = damage(&linear.pack(true), &mut random);
        let bytes = Aligned::new(&bytes);
        linear.damage_counts(&mut random);
        if let Some(stream) = linear.linear_stream(bytes.bytes()) {
            let [portable, dsp] = linear.multiply(&stream);
            prop_assert_eq!(portable, dsp);
        }
    }

    #[test]
    fn taps_are_found_again(case in conv_case()) {
        let g = case.geometry();
        for ky in 0..case.window.kernel[0] {
            for kx in 0..case.window.kernel[1] {
                for channel in (0..case.input.channels).step_by(case.block.len()) {
                    prop_assert_eq!(g.tap(g.offset([ky, kx], channel)), Some(([ky, kx], channel)));
                }
            }
        }
    }

    /// The steps that costs are predicted from are those that the kernel takes.
    #[test]
    fn steps_are_those_of_the_kernel(case in conv_case()) {
        let g = case.geometry();
        let weights = Weights::Dense(&case.weights);
        let conv = Conv {
            input: case.input,
            output: case.output,
            window: case.window,
            groups: case.groups,
            clamp: case.clamp,
            channels: &case.channels,
            weights,
            scratch: Scratch::default(),
        };
        let mut counted = Counter { words: g.bytes() / 4, steps: Steps::default() };
        conv_sparse::run(&conv, &g, Some(&case.x), &mut counted);
        // The rows are not told to the inner parts.
        counted.steps.rows = g.steps().rows;
        prop_assert_eq!(counted.steps, g.steps());
    }
}

#[test]
#[cfg_attr(miri, ignore = "planes of 64 KiB take an interpreter an hour")]
fn distances_beyond_an_entry_are_bridged() {
    // Planes of 2 KiB: the two weights are 62 KiB and more apart.
    let (input, output) = (tensor(1, 1000, 64, 3), tensor(1, 1000, 2, -7));
    let window = Window { kernel: [1; 2], stride: [1; 2], pad: [0; 2] };
    let mut random = Random(1);
    for block in [Block::One, Block::Two, Block::Four] {
        let mut weights = vec![0; 128];
        (weights[0], weights[63], weights[127]) = (5, -7, 9);
        let mut case = Case {
            input,
            output,
            window,
            groups: 1,
            block,
            strip: [1000, 1],
            clamp: Clamp { min: i8::MIN, max: i8::MAX },
            x: (0..input.len()).map(|_| random.byte()).collect(),
            weights,
            channels: (0..2).map(|_| random.record()).collect(),
        };
        let bytes = Aligned::new(&case.pack(false));
        let stream = case.conv_stream(bytes.bytes()).unwrap();
        assert_eq!(stream.nonzeros(), 3);
        assert!(stream.channels().map(Iterator::count).sum::<usize>() > 3);
        let [portable, dsp] = case.convolve(&stream);
        assert_eq!(portable, case.expected());
        assert_eq!(dsp, case.expected());
    }
}

#[test]
#[cfg_attr(miri, ignore = "rows of 40,000 inputs take an interpreter an hour")]
fn distances_beyond_a_group_are_bridged_both_ways() {
    let inputs = 40_000;
    let mut random = Random(2);
    for block in [Block::One, Block::Two, Block::Four] {
        let mut weights = vec![0; 3 * inputs];
        // From the first inputs to the last, back, and there again.
        (weights[0], weights[inputs - 1], weights[inputs + 5], weights[3 * inputs - 9]) =
            (5, -7, 9, 2);
        let whole = Clamp { min: i8::MIN, max: i8::MAX };
        let mut case = linear([inputs, 3], [3, -7], block, whole, weights, &mut random);
        let bytes = Aligned::new(&case.pack(true));
        let stream = case.linear_stream(bytes.bytes()).unwrap();
        assert_eq!(stream.nonzeros(), 4);
        assert!(stream.counts().sum::<usize>() > 4);
        let [portable, dsp] = case.multiply(&stream);
        assert_eq!(portable, case.expected());
        assert_eq!(dsp, case.expected());
    }
}

#[test]
fn every_sparse_kernel_has_a_number() {
    let names: Vec<_> = KernelId::ALL.iter().map(|kernel| kernel.name()).collect();
    for kernel in ["conv", "linear"] {
        for format in ["sparse", "block 1x2", "block 1x4"] {
            assert!(names.contains(&&*std::format!("{kernel} {format}")));
        }
    }
}
