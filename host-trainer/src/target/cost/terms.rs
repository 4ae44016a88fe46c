//! How often each part of a kernel's work is done: its loops, counted from the shape, the format and the
//! number of nonzero weights.
//!
//! The names and the counts follow the kernels in `niwaki-core`, those over DSP instructions where they
//! differ from the portable ones: tiles of pixels and what is left of them, loops that are unrolled,
//! channels without a weight, windows over the border.

use std::collections::BTreeMap;

use niwaki_core::Model;
use niwaki_core::kernels::sparse::{Block, Geometry};
use niwaki_core::kernels::{Rescale, depthwise};
use niwaki_core::model::layout::ChannelRecord;
use niwaki_core::model::{
    Add, BlockCopy, Clamp, Conv, Depthwise, Elementwise, Function, Op, OperandSource, Pool,
    Softmax, Tensor, Weights, Window,
};

/// The terms of an operator's cost and how often each counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms(BTreeMap<&'static str, f64>);

impl Terms {
    fn add(&mut self, term: &'static str, count: usize) {
        self.add_real(term, count as f64);
    }

    fn add_real(&mut self, term: &'static str, count: f64) {
        *self.0.entry(term).or_default() += count;
    }

    /// Every term with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().map(|(&term, &count)| (term, count))
    }

    /// How often a term counts.
    pub fn get(&self, term: &str) -> f64 {
        self.0.get(term).copied().unwrap_or(0.0)
    }

    /// The terms of operator `index` of a model; `None` if it has no such operator. `dsp` says whether
    /// the core has DSP instructions.
    pub fn of_model(model: &Model<'_>, index: usize, dsp: bool) -> Option<Self> {
        let op = model.op(index)?;
        let Op::Conv(conv) = &op else { return Some(Self::of(&op, dsp)) };
        let Some(row) = model.row_buffer(index, &conv.output) else {
            return Some(Self::of(&op, dsp));
        };
        let mut terms = Self::default();
        for index in 0..conv.output.height {
            terms.conv(&conv.row(index));
            terms.add("row", 1);
            terms.add("row copied", row.len);
        }
        // Decoded once, whatever the rows.
        terms.0.insert("operator", 1.0);
        Some(terms)
    }

    /// The terms of an operator that is not executed row by row.
    pub fn of(op: &Op<'_>, dsp: bool) -> Self {
        let mut terms = Self::default();
        match op {
            Op::Conv(conv) => terms.conv(conv),
            Op::Linear(linear) => terms.linear(linear),
            Op::Depthwise(depthwise) => terms.depthwise(depthwise, dsp),
            // Sums of larger windows do not fit the halves that the fast average adds up in.
            Op::MaxPool(pool) => terms.pool(pool, dsp),
            Op::AvgPool(pool) => {
                let small = pool.window.kernel[0] * pool.window.kernel[1] <= 255;
                terms.pool(pool, dsp && small);
            }
            Op::Softmax(softmax) => terms.softmax(softmax),
            Op::Add(add) => {
                terms.add_kernel(add, dsp);
                terms.brought(&add.inputs[0], &add.output);
            }
            Op::Lookup(lookup) => {
                terms.add("output", lookup.output.len());
                terms.brought(&lookup.input, &lookup.output);
            }
            Op::Copy(copy) => terms.copy(copy),
            Op::Mean(mean) => {
                let [rows, columns, depths] = mean.spans();
                let outputs = mean.output.len();
                terms.add("output", outputs);
                terms.add("pixel", mean.output.height * mean.output.width);
                terms.add("row", outputs * rows);
                terms.add("run", outputs * rows * columns);
                // Short runs and long ones are summed up differently.
                terms.add("long run", outputs * rows * columns * usize::from(depths >= 4));
                terms.add("run of 4", outputs * rows * columns * (depths / 4));
                terms.add("element of the rest", outputs * rows * columns * (depths % 4));
            }
            Op::Elementwise(elementwise) => terms.elementwise(elementwise),
        }
        // A kernel's ways that have no term in common are fitted apart: some have a call of their own.
        if !terms.0.keys().any(|term| term.starts_with("operator")) {
            terms.add("operator", 1);
        }
        terms
    }

    fn conv(&mut self, conv: &Conv<'_>) {
        match conv.weights {
            Weights::Sparse(stream) => {
                let counts = ChannelCounts::new(stream.counts());
                self.sparse(conv, stream.geometry(), &counts);
            }
            Weights::Packed(_) => self.packed_conv(conv),
            _ => self.plain(conv),
        }
    }

    fn linear(&mut self, linear: &Conv<'_>) {
        match linear.weights {
            Weights::SparseLinear(stream) => {
                // What a step takes of the count, steps that are taken before the first round, steps of a round.
                let (of_step, first, round) = match stream.block() {
                    Block::One => (8, 12, 4),
                    Block::Two => (1, 0, 8),
                    Block::Four => (1, 32, 2),
                };
                for count in stream.counts() {
                    let steps = count / of_step;
                    self.add("step", steps);
                    self.add("odd step", count % of_step / 2);
                    self.add("single step", count % of_step % 2);
                    self.add("round", steps.saturating_sub(first).div_ceil(round));
                }
                self.add("output", linear.output.len());
                let widened = if stream.scratch_len() > 0 { linear.input.len() } else { 0 };
                self.add("input", widened);
            }
            Weights::Packed(_) => {
                let blocks = linear.weights_per_channel().div_ceil(4);
                self.widened(blocks * 4);
                self.packed_pixels(linear, 1, blocks);
                self.add("channel", linear.output.channels);
            }
            _ => self.plain(linear),
        }
        self.clamped(linear.clamp, linear.output.len());
    }

    /// The terms of a convolution by the geometry of a stream and the entries of its channels, whatever
    /// its weights.
    pub fn sparse_conv(conv: &Conv<'_>, geometry: &Geometry, counts: &ChannelCounts) -> Self {
        let mut terms = Self::default();
        terms.add("operator", 1);
        terms.sparse(conv, geometry, counts);
        terms
    }

    fn sparse(&mut self, conv: &Conv<'_>, geometry: &Geometry, counts: &ChannelCounts) {
        let steps = geometry.steps();
        let depth = geometry.depth();
        let even = geometry.block() == Block::One && geometry.is_even();
        // Each tile and channel begins with an entry of its own kind; the rest is unrolled.
        let entry = if even { "entry, even" } else { "entry" };
        self.add(entry, steps.tiles * counts.further);
        let unrolled =
            if geometry.block() == Block::Four { counts.rounds[0] } else { counts.rounds[1] };
        self.add("round", steps.tiles * unrolled);
        self.add("tile channel", steps.tiles * counts.used);
        self.add("tile channel without entries", steps.tiles * counts.empty);
        self.add("band channel", steps.bands * counts.used);
        self.add("band channel without entries", steps.bands * counts.empty);
        if conv.output.zero_point > i8::MIN && conv.clamp.min < conv.output.zero_point {
            self.add("signed tile channel", steps.tiles * (counts.used + counts.empty));
        }
        // Channels of unusual shifts take a slower way, which is not unrolled.
        let unusual = conv.channels.iter().filter(|channel| !is_usual(channel.shift()));
        for channel in unusual {
            self.add("unusual channel", steps.bands);
            self.add("unusual entry", steps.tiles * channel.count());
            self.add("unusual output", steps.tiles * 8);
        }
        self.add("band", steps.bands);
        self.add("tile", steps.tiles);
        self.add("fill", steps.fills);
        self.add("filled", steps.filled);
        self.add("input row", steps.rows);
        self.add("stretch", steps.stretches);
        // The portable kernel goes plane by plane, and makes no outputs but those of real pixels.
        self.add("plane of a stretch", steps.stretches * depth.div_ceil(geometry.block().len()));
        self.add("output", conv.output.len());
        self.add("pixel", conv.output.height * conv.output.width);
        // Channels are laid out by four, some kernels by eight.
        let (fours, rest) = (depth / 4, depth % 4);
        self.add("pair", steps.pairs);
        self.add("pair of 4", steps.pairs * fours);
        self.add("pair of 8", steps.pairs * fours.div_ceil(2));
        self.add("odd", steps.odd);
        match geometry.block() {
            Block::One => {
                self.add("pair of the rest", steps.pairs * rest);
                self.add("odd element", steps.odd * depth);
            }
            Block::Two | Block::Four => {
                let name = ["", "rest of 1", "rest of 2", "rest of 3"][rest];
                if rest > 0 {
                    self.add(name, 2 * steps.pairs + steps.odd);
                }
                self.add("odd of 4", steps.odd * fours);
            }
        }
        self.clamped(conv.clamp, conv.output.len());
    }

    fn packed_conv(&mut self, conv: &Conv<'_>) {
        let per_channel = conv.weights_per_channel();
        let blocks = per_channel.div_ceil(4);
        let pixels = conv.output.height * conv.output.width;
        let (tiles, left) = (pixels / 4, pixels % 4);
        self.gather(conv, tiles * 4);
        let channels = conv.output.channels;
        let pairs = channels.div_ceil(2);
        self.add("block", tiles * pairs * blocks);
        self.add("round", tiles * pairs * rounds(blocks));
        if blocks <= CHUNK && conv.channels.iter().all(is_simple) {
            self.add("pair", tiles * (channels / 2));
            self.add("odd channel", tiles * (channels % 2));
        } else {
            self.add("partial pair", tiles * pairs * blocks.div_ceil(CHUNK));
            self.add("partial channel", tiles * channels);
            self.add("unusual output", tiles * 4 * unusual(conv.channels));
        }
        self.add("tile", tiles);
        self.add("channel", channels);
        self.packed_pixels(conv, left, blocks);
        self.clamped(conv.clamp, conv.output.len());
    }

    /// The outputs of `pixels` that are computed one by one.
    fn packed_pixels(&mut self, conv: &Conv<'_>, pixels: usize, blocks: usize) {
        let channels = conv.output.channels;
        let fours = channels.div_ceil(4);
        self.add("pixel", pixels);
        self.add("pixel block", pixels * fours * blocks);
        self.add("pixel round", pixels * fours * rounds(blocks));
        let (whole, rest) = match blocks <= CHUNK && conv.channels.iter().all(is_simple) {
            true => (channels / 4, channels % 4),
            false => (0, channels),
        };
        self.add("pixel four", pixels * whole);
        self.add("partial four", pixels * rest.div_ceil(4) * blocks.div_ceil(CHUNK));
        self.add("partial pixel channel", pixels * rest);
        self.add("unusual output", pixels * unusual(conv.channels));
    }

    /// Windows brought into columns: of the first `tiled` pixels, and of those that are left.
    fn gather(&mut self, conv: &Conv<'_>, tiled: usize) {
        let Window { kernel, .. } = conv.window;
        let depth = conv.input.channels;
        let aligned = depth.is_multiple_of(4);
        let row_len = kernel[1] * depth;
        let taps = |axis: usize, out: usize| taps(&conv.input, &conv.window, axis, out);
        let columns: Vec<Taps> = (0..conv.output.width).map(|out| taps(1, out)).collect();
        let mut pixel = 0;
        for row in (0..conv.output.height).map(|out| taps(0, out)) {
            for column in &columns {
                let inside = row.over == kernel[0] && column.over == kernel[1];
                if inside && pixel < tiled {
                    self.add("inside", 1);
                    self.add("inside row", kernel[0]);
                    for _ in 0..kernel[0] {
                        self.run(row_len, aligned);
                    }
                } else {
                    self.add("border", 1);
                    self.add("border row", row.over);
                    self.add("row outside", kernel[0] - row.over);
                    let zeros = (kernel[0] - row.over) * row_len
                        + row.over * (kernel[1] - column.over) * depth;
                    self.add(if aligned { "zero" } else { "zero byte" }, zeros);
                    self.add("border run", row.over * if column.over == kernel[1] { 1 } else { 3 });
                    for _ in 0..row.over {
                        self.run(column.over * depth, aligned);
                    }
                }
                if !aligned {
                    self.widened(kernel[0] * row_len);
                    self.add("bytes widened", 1);
                }
                pixel += 1;
            }
        }
    }

    /// A run of inputs under a window.
    fn run(&mut self, len: usize, aligned: bool) {
        match len {
            _ if aligned => self.widened(len),
            4.. => {
                self.add("run", 1);
                self.add("run word", len / 4);
            }
            _ => {
                self.add("short run", 1);
                self.add("short run byte", len);
            }
        }
    }

    /// Bytes widened to halves, sixteen at a time and then four.
    fn widened(&mut self, len: usize) {
        self.add("widened 16", len / 16);
        self.add("widened 4", len / 4 % 4);
        if !len.is_multiple_of(4) {
            self.add("widened rest", 1);
        }
    }

    /// The plain kernel: every weight, and the sum of those over the padding.
    fn plain(&mut self, conv: &Conv<'_>) {
        let [kernel_h, kernel_w] = conv.window.kernel;
        let outputs = conv.output.channels;
        let over = |axis: usize| over(&conv.input, &conv.output, &conv.window, axis);
        let (rows, columns) = (over(0), over(1));
        let group_depth = conv.input.channels / conv.groups.max(1);
        self.add("output", conv.output.len());
        self.add("pixel", conv.output.height * conv.output.width);
        let kernel_rows = rows * conv.output.width * outputs;
        self.add("kernel row", kernel_rows);
        self.add("row outside", conv.output.len() * kernel_h - kernel_rows);
        // Runs of products of fewer than four are not unrolled.
        let taps = rows * columns * outputs;
        let macs = taps * group_depth;
        if conv.groups == 1 {
            self.add("mac", macs);
        } else {
            self.add("grouped tap", taps);
            self.add("grouped mac of 4", taps * (group_depth / 4));
            self.add("grouped mac of the rest", taps * (group_depth % 4));
        }
        let all = conv.output.len() * kernel_h * kernel_w * group_depth;
        self.add("weight outside", all - macs);
    }

    fn depthwise(&mut self, op: &Depthwise<'_>, dsp: bool) {
        let (input, output, window) = (&op.input, &op.output, &op.window);
        let [kernel_h, kernel_w] = window.kernel;
        let pixels = output.height * output.width;
        let channels = output.channels;
        let layout = depthwise::layout(op).filter(|_| dsp);
        let Some(layout) = layout else {
            let in_place = op.input.offset == op.output.offset;
            let names = match (in_place, input.channels == channels) {
                (true, _) => [
                    "operator, in place",
                    "in place: mac",
                    "in place: odd mac",
                    "in place: tap",
                    "in place: tap over the input",
                    "in place: output",
                    "in place: tile",
                    "in place: pixel",
                ],
                (_, true) => [
                    "operator, portable",
                    "portable mac",
                    "portable odd mac",
                    "portable tap",
                    "portable tap over the input",
                    "portable output",
                    "portable tile",
                    "portable pixel",
                ],
                _ => [
                    "operator, multiplier",
                    "multiplier: mac",
                    "multiplier: odd mac",
                    "multiplier: tap",
                    "multiplier: tap over the input",
                    "multiplier: output",
                    "multiplier: tile",
                    "multiplier: pixel",
                ],
            };
            let area = kernel_h * kernel_w;
            let over = |axis: usize| over(input, output, window, axis);
            // Channels go by sixteen, their products by four.
            let (tiles, odd) = (channels.div_ceil(16), channels % 16 % 4);
            let counts = [
                1,
                pixels * (channels - odd) * area,
                pixels * odd * area,
                pixels * tiles * area,
                over(0) * over(1) * tiles,
                output.len(),
                pixels * tiles,
                pixels,
            ];
            for (name, count) in names.into_iter().zip(counts) {
                self.add(name, count);
            }
            return;
        };
        let groups = channels / 4;
        // Planes hold all rows, or rows of outputs are made one by one.
        let (calls, call_len) = match layout.whole {
            true => (1, pixels),
            false => (output.height, output.width),
        };
        let [row_passes, column_passes] = layout.passes;
        let further = row_passes * column_passes - 1;
        let two = window.stride[1] > 1;
        let pairs = channels * output.height * output.width.div_ceil(2);
        self.add(if two { "pair of sums, step 2" } else { "pair of sums, step 1" }, pairs);
        let name =
            if two { "further pair of sums, step 2" } else { "further pair of sums, step 1" };
        self.add(name, pairs * further);
        self.add("row of sums", channels * output.height * (1 + further));
        self.add("further pass", channels * calls * further);
        self.add("weight", channels * kernel_h * kernel_w);
        self.add("weight row", channels * kernel_h * column_passes);
        self.add("call", channels * calls);
        let unusual = unusual(op.channels);
        let usual = channels.saturating_sub(unusual);
        self.add("requantised pair", usual * calls * (call_len / 2));
        self.add("requantised rest", usual * calls * (call_len % 2));
        self.add("unusual output", pixels * unusual);
        self.add("fill", groups * calls);
        let inside = (window.pad[0]..window.pad[0] + input.height).filter(|&row| row < layout.rows);
        let inside = inside.count();
        self.add("input row", groups * inside);
        let outside = groups * (layout.rows - inside);
        self.add("row outside", outside);
        self.add("word outside", if layout.whole { 0 } else { outside * layout.words * 4 });
        // Words of two pixels; those at the ends may be half padding.
        let odd = window.pad[1] % 2;
        let words = input.width.saturating_sub(odd) / 2;
        let room = layout.words.saturating_sub(window.pad[1] / 2 + odd);
        let leftover = words < room && words * 2 + odd < input.width;
        self.add("word", groups * inside * words.min(room));
        self.add("half word", groups * inside * (odd + usize::from(leftover)));
        self.add("scratch word", layout.scratch_words);
        self.add("group", groups);
        self.clamped(op.clamp, output.len());
    }

    fn pool(&mut self, pool: &Pool, dsp: bool) {
        let over = |axis: usize| over(&pool.input, &pool.output, &pool.window, axis);
        let (rows, columns) = (over(0), over(1));
        let channels = pool.output.channels;
        let by_four = dsp && channels.is_multiple_of(4);
        let (names, lanes) = match by_four {
            true => (["word", "row of words", "output word"], channels / 4),
            false => (["portable element", "portable row", "portable output"], channels),
        };
        let places = match by_four {
            true => ["pixel", "output row"],
            false => ["portable pixel", "portable output row"],
        };
        self.add(names[0], lanes * rows * columns);
        self.add(names[1], lanes * rows * pool.output.width);
        self.add(names[2], lanes * pool.output.height * pool.output.width);
        self.add(places[0], pool.output.height * pool.output.width);
        self.add(places[1], pool.output.height);
        if !by_four {
            self.add("operator, portable", 1);
        }
    }

    fn softmax(&mut self, softmax: &Softmax) {
        let rows = softmax.input.height * softmax.input.width;
        let depth = softmax.input.channels;
        self.add("row", rows);
        self.add("output", rows * depth);
        // This kernel's work depends on its input. An exponential that is too small is not computed: the scores
        // of a trained network are close enough to each other that all of them count. Each but that of the
        // largest score is a product of up to seven powers, of which two are usual.
        let exponentials = rows * depth.saturating_sub(1);
        self.add("exponential", exponentials);
        self.add("power", exponentials * 2);
    }

    /// The same with a known number of exponentials and of powers that they are products of, for a softmax.
    pub(in crate::target) fn with_exponentials(mut self, [count, powers]: [usize; 2]) -> Self {
        self.0.insert("exponential", count as f64);
        self.0.insert("power", powers as f64);
        self
    }

    fn add_kernel(&mut self, add: &Add, dsp: bool) {
        let half = Rescale::new(1 << 30, 0);
        let halved = add.input_rescale.map(|rescale| Some(rescale) == half);
        let shifted = add.input_rescale.map(|rescale| {
            let (multiplier, shift) = rescale.parts();
            multiplier >= 1 << 30 && shift < 0
        });
        let (multiplier, shift) = add.output_rescale.parts();
        let fast = dsp && multiplier >= 1 << 30 && (-20..=-1).contains(&shift);
        let name = match (halved, shifted) {
            ([true, true], _) if fast => "output, equal scales",
            ([true, _], [_, true]) if fast => "output, second rescaled",
            ([_, true], [true, _]) if fast => "output, first rescaled",
            _ => "portable output",
        };
        self.add(name, add.output.len());
        if name != "portable output" {
            self.clamped(add.clamp, add.output.len());
        }
    }

    fn elementwise(&mut self, op: &Elementwise<'_>) {
        let name = match op.function {
            Function::Mul(_) => "product",
            Function::Add { .. } => "sum",
        };
        self.add(name, op.output.len());
        self.add("pixel", op.output.height * op.output.width);
        self.add("row", op.output.height);
        if let OperandSource::Tensor(_) = op.operand.source {
            self.add("operand in memory", 1);
        }
        self.brought(&op.input, &op.output);
    }

    fn copy(&mut self, copy: &BlockCopy) {
        let [rows, columns, elements] = copy.counts;
        let runs = rows * columns;
        self.add("row", rows);
        if copy.source.strides[2] == 1 && copy.destination.strides[2] == 1 {
            // As `memcpy` does it: bytes of short runs, words of long ones.
            self.add("run", runs);
            self.add("run of 4", if elements < 4 { 0 } else { runs });
            self.add("run byte", if elements < 16 { runs * elements } else { 0 });
            self.add("run element", if elements < 16 { 0 } else { runs * elements });
            self.add("long run", if elements < 16 { 0 } else { runs });
        } else {
            self.add("run of single elements", runs);
            self.add("single element", runs * elements);
        }
        if copy.fill.is_some() {
            self.add("fill", 1);
            self.add("filled", copy.output.len());
        }
    }

    /// An input that is copied to the output, for a kernel that works in place.
    fn brought(&mut self, input: &Tensor, output: &Tensor) {
        if input.offset != output.offset {
            self.add("copy", 1);
            self.add("copied", output.len());
        }
    }

    /// Outputs that are limited after they are made.
    fn clamped(&mut self, clamp: Clamp, outputs: usize) {
        if clamp.min > i8::MIN || clamp.max < i8::MAX {
            self.add("clamped", outputs);
        }
    }
}

/// The entries of a sparse convolution's output channels, as its cost depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// Channels with entries.
    used: usize,
    /// Channels without.
    empty: usize,
    /// Entries beside the first of each channel.
    further: usize,
    /// Rounds of loops over these that are unrolled four times and eight times.
    rounds: [usize; 2],
}

impl ChannelCounts {
    /// From the number of entries of each channel.
    pub fn new(counts: impl Iterator<Item = usize>) -> Self {
        let mut sums = Self::default();
        for count in counts {
            let Some(further) = count.checked_sub(1) else {
                sums.empty += 1;
                continue;
            };
            sums.used += 1;
            sums.further += further;
            sums.rounds[0] += further.div_ceil(4).max(1);
            sums.rounds[1] += further.div_ceil(8).max(1);
        }
        sums
    }
}

/// Blocks of four weights after which the packed kernels take their sums apart.
const CHUNK: usize = 127;

/// Rounds of the packed kernels' loop over blocks, which is unrolled four times.
fn rounds(blocks: usize) -> usize {
    blocks / CHUNK * CHUNK.div_ceil(4) + (blocks % CHUNK).div_ceil(4)
}

/// Whether the kernels' short way of rescaling serves a channel with this shift.
fn is_usual(shift: i32) -> bool {
    (-20..=-1).contains(&shift)
}

/// Whether it also serves a channel whose sums may be large.
fn is_simple(channel: &ChannelRecord) -> bool {
    let short = channel.bias.get().unsigned_abs() < 1 << 30;
    short && channel.multiplier.get() >= 1 << 30 && is_usual(channel.shift())
}

/// Channels that go the long way.
fn unusual(channels: &[ChannelRecord]) -> usize {
    channels.iter().filter(|channel| !is_simple(channel)).count()
}

/// Taps of a window on one axis.
struct Taps {
    /// Those over the input.
    over: usize,
}

fn taps(input: &Tensor, window: &Window, axis: usize, out: usize) -> Taps {
    let size = [input.height, input.width][axis];
    let Window { kernel, stride, pad } = *window;
    let start = out * stride[axis];
    let first = pad[axis].saturating_sub(start).min(kernel[axis]);
    let end = (size + pad[axis]).saturating_sub(start).min(kernel[axis]);
    Taps { over: end.saturating_sub(first) }
}

/// Taps over the input on one axis, summed up over the output's positions.
fn over(input: &Tensor, output: &Tensor, window: &Window, axis: usize) -> usize {
    let outputs = [output.height, output.width][axis];
    (0..outputs).map(|out| taps(input, window, axis, out).over).sum()
}
