//! Dense convolution and linear operators whose weights are packed for Cortex-M's dual multiplies.
//!
//! # Layout
//!
//! Output channels come in pairs; where their number is odd, a channel of zeros completes the last.
//! A pair's stream holds its weights in the order kernel row, kernel column, input channel, filled
//! with zeros to a multiple of four. Four consecutive weights `0..4` of a pair become two words; the
//! halves of the first stand for weights 0 and 2, those of the second for 1 and 3, which is the order
//! that `SXTB16` brings four input bytes into. A half holds one weight of each channel:
//! `256 * high + low`, where `low` belongs to the pair's first channel.
//!
//! One dual multiply of such a word with two inputs adds `256 * (high · x) + low · x` to a sum, and
//! one with the word's sign-extended low bytes adds `low · x` to another; the difference of the sums
//! is `256 * (high · x)`. Thus a pair needs one extension for two multiplies where bytes would need
//! two, at one byte of flash per weight. The difference is exact while `|high · x| < 2^23`, which
//! [`CHUNK`] sees to.
//!
//! A half cannot hold `high = -128` beside a negative `low`; TFLite's weights are never -128.
//! [`pack`] says so, and such an operator takes the plain layout.
#![allow(unsafe_code)]

use zerocopy::little_endian::I32;
use zerocopy::{FromBytes, IntoBytes};

use super::conv::rescale;
use super::requantise::{Requantise, clamp};
use super::{Taps, dsp, part, put};
use crate::model::layout::ChannelRecord;
use crate::model::{Conv, Window};

/// Weights of an output channel are counted in blocks of this many.
const BLOCK: usize = 4;
/// Output pixels that the convolution computes together.
const TILE: usize = 4;
/// Blocks after which the sums are taken apart: `BLOCK * CHUNK * 128 * 128 < 2^23`.
const CHUNK: usize = 127;

/// Words of the packed weights of `outputs` channels with `per_channel` weights each; `None` when
/// they are too many to count.
pub const fn packed_len(outputs: usize, per_channel: usize) -> Option<usize> {
    match words_per_pair(per_channel).checked_mul(outputs.div_ceil(2)) {
        Some(words) if per_channel <= isize::MAX as usize => Some(words),
        _ => None,
    }
}

/// Words of one pair of output channels.
const fn words_per_pair(per_channel: usize) -> usize {
    blocks(per_channel).wrapping_mul(2)
}

const fn blocks(per_channel: usize) -> usize {
    per_channel.div_ceil(BLOCK)
}

/// Packs the weights of `outputs` channels with `per_channel` weights each into `words`, of
/// [`packed_len`]. `None` when `words` has another length, or when -128 stands where the layout
/// cannot hold it: see the [module](self).
pub fn pack(
    outputs: usize,
    per_channel: usize,
    weight: impl Fn(usize, usize) -> i8,
    words: &mut [u32],
) -> Option<()> {
    if packed_len(outputs, per_channel) != Some(words.len()) {
        return None;
    }
    for (index, word) in words.iter_mut().enumerate() {
        let pair = index / words_per_pair(per_channel);
        let within = index % words_per_pair(per_channel);
        let half = |second: usize| {
            let position = within / 2 * BLOCK + within % 2 + 2 * second;
            let weight = |output| {
                let inside = output < outputs && position < per_channel;
                if inside { i16::from(weight(output, position)) } else { 0 }
            };
            let (low, high) = (weight(2 * pair), weight(2 * pair + 1));
            high.checked_mul(256)?.checked_add(low)
        };
        *word = u32::from(half(0)? as u16) | u32::from(half(1)? as u16) << 16;
    }
    Some(())
}

/// Bytes of working memory that [`conv`] needs: a tile of inputs as halves and, where the input's
/// channels are no multiple of four, one pixel's inputs as bytes.
pub const fn conv_scratch_len(depth: usize, per_channel: usize) -> usize {
    let bytes = if depth.is_multiple_of(BLOCK) { 0 } else { 1 };
    blocks(per_channel).saturating_mul(BLOCK * (2 * TILE + bytes))
}

/// Bytes of working memory that [`linear`] needs: its inputs as halves.
pub const fn linear_scratch_len(inputs: usize) -> usize {
    blocks(inputs).saturating_mul(BLOCK * 2)
}

/// Convolution of `x` into `y` with packed weights.
pub fn conv(op: &Conv<'_>, words: &[u32], x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    if cfg!(niwaki_dsp) {
        conv_dsp(op, words, x, y, scratch);
    } else {
        portable(op, words, x, y, scratch);
    }
}

/// Linear operator with packed weights.
pub fn linear(op: &Conv<'_>, words: &[u32], x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    if cfg!(niwaki_dsp) {
        linear_dsp(op, words, x, y, scratch);
    } else {
        portable(op, words, x, y, scratch);
    }
}

/// Hands the inputs under the window at output position `oy`, `ox` to `sink`, run by run in the order
/// of the weights: a slice, or the length of a run that lies in the padding.
#[inline(always)]
fn runs(op: &Conv<'_>, x: &[i8], [oy, ox]: [usize; 2], mut sink: impl FnMut(Result<&[i8], usize>)) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let rows = Taps::new(oy, op.window.stride[0], op.window.pad[0], kernel_h, op.input.height);
    let columns = Taps::new(ox, op.window.stride[1], op.window.pad[1], kernel_w, op.input.width);
    let row_len = kernel_w.wrapping_mul(depth);
    let first = columns.first.wrapping_mul(depth);
    let len = columns.end.wrapping_sub(columns.first).wrapping_mul(depth);
    let row_step = op.input.width.wrapping_mul(depth);
    let mut start = rows
        .origin
        .wrapping_mul(row_step)
        .wrapping_add(columns.origin.wrapping_mul(depth));
    for ky in 0..kernel_h {
        if ky < rows.first || ky >= rows.end {
            sink(Err(row_len));
            continue;
        }
        let run = part(x, start, len);
        start = start.wrapping_add(row_step);
        if len == row_len {
            sink(Ok(run));
        } else {
            sink(Err(first));
            sink(Ok(run));
            sink(Err(row_len.wrapping_sub(first).wrapping_sub(len)));
        }
    }
}

/// The kernels without the DSP instructions: one pixel at a time.
fn portable(op: &Conv<'_>, words: &[u32], x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    let per_channel = op.weights_per_channel();
    let Ok((column, _)) = <[i16]>::mut_from_prefix_with_elems(
        scratch.as_mut_bytes(),
        words_per_pair(per_channel).wrapping_mul(2),
    ) else {
        return;
    };
    let zero = op.input.zero_point.into();
    let mut index = 0usize;
    for oy in 0..op.output.height {
        for ox in 0..op.output.width {
            let mut position = 0usize;
            let mut push = |value: i16| {
                // The order of `SXTB16`.
                let within = [0, 2, 1, 3][position % BLOCK];
                if let Some(slot) = column.get_mut((position & !3).wrapping_add(within)) {
                    *slot = value;
                }
                position = position.wrapping_add(1);
            };
            runs(op, x, [oy, ox], |run| match run {
                Ok(run) => run.iter().for_each(|&x| push(x.into())),
                Err(len) => (0..len).for_each(|_| push(zero)),
            });
            for _ in per_channel..blocks(per_channel).wrapping_mul(BLOCK) {
                push(0);
            }
            let pairs = words.chunks_exact(words_per_pair(per_channel).max(1));
            for (pair, channels) in pairs.zip(op.channels.chunks(2)) {
                let [mut low, mut high] = [0i32; 2];
                for (&word, &[x0, x1]) in pair.iter().zip(column.as_chunks().0) {
                    for (half, x) in [(word as i16, x0), ((word >> 16) as i16, x1)] {
                        let w = i32::from(half as i8);
                        low = low.wrapping_add(w.wrapping_mul(x.into()));
                        let w = (i32::from(half).wrapping_sub(w)) >> 8;
                        high = high.wrapping_add(w.wrapping_mul(x.into()));
                    }
                }
                for (channel, sum) in channels.iter().zip([low, high]) {
                    let sum = sum.wrapping_add(channel.bias.get());
                    put(y, index, rescale(channel).requantise(sum, op.output.zero_point, op.clamp));
                    index = index.wrapping_add(1);
                }
            }
        }
    }
}

/// Stands for a group of channels whose sums begin at 0.
static NO_CHANNEL: ChannelRecord =
    ChannelRecord { bias: I32::ZERO, multiplier: I32::ZERO, shift: I32::ZERO };

/// What the kernels below rely on, checked once per operator.
struct Packed<'a> {
    words: &'a [u32],
    channels: &'a [ChannelRecord],
    blocks: usize,
    requantise: Requantise,
    /// The inner loops may requantise: sums need not be taken apart in between.
    whole: bool,
}

impl<'a> Packed<'a> {
    /// `None` when a length does not fit the shape: never for a checked model.
    #[inline(always)]
    fn new(op: &Conv<'a>, words: &'a [u32]) -> Option<Self> {
        let per_channel = op.weights_per_channel();
        let blocks = blocks(per_channel);
        let requantise = Requantise::new(op.channels, op.output.zero_point);
        let whole = requantise.simple() && blocks <= CHUNK;
        let sound = blocks > 0
            && packed_len(op.channels.len(), per_channel) == Some(words.len())
            && op.channels.len() == op.output.channels;
        sound.then_some(Self { words, channels: op.channels, blocks, requantise, whole })
    }

    /// The inner loop's view of all channels.
    #[inline(always)]
    fn inner(&self, x: *const u32, y: *mut i8) -> dsp::Packed {
        dsp::Packed {
            x,
            w: self.words.as_ptr(),
            x_end: x,
            count: 0,
            channel: self.channels.as_ptr(),
            y,
            step: 0,
            nudge: self.requantise.nudge(),
            rounds: 0,
            sums: [0; 8],
        }
    }

    /// The outputs of a pixel whose inputs stand in `column`, of `2 * blocks` words.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes of all output channels.
    #[inline(never)]
    unsafe fn pixel(&self, column: *const u32, y: *mut i8) {
        let pair_len = self.blocks.wrapping_mul(2);
        let mut inner = self.inner(column, y);
        let mut rest = self.channels;
        // SAFETY: each four channels have two pairs of `2 * blocks` words in `words`, the last at
        // least one; `column` has as many. `y` is valid for one output per channel.
        unsafe {
            if self.whole {
                let fours;
                (fours, rest) = rest.as_chunks::<4>();
                inner.rounds = fours.len();
                if inner.rounds > 0 {
                    inner.x_end = column.add(pair_len);
                    inner.count = self.blocks;
                    inner.step = pair_len.wrapping_mul(4);
                    dsp::pixel_1(&mut inner);
                }
            }
            let mut w = inner.w;
            let mut y = inner.y;
            for channels in rest.chunks(4) {
                // Where the second pair is missing, the first stands in.
                let distance = if channels.len() > 2 { pair_len } else { 0 };
                let mut sums = [0i32; 4];
                let mut done = 0usize;
                while done < self.blocks {
                    let count = self.blocks.wrapping_sub(done).min(CHUNK);
                    let at = done.wrapping_mul(2);
                    inner.x = column.add(at);
                    inner.x_end = inner.x.add(count.wrapping_mul(2));
                    inner.w = w.add(at);
                    inner.count = count;
                    inner.step = distance.wrapping_mul(4);
                    dsp::pixel_1(&mut inner);
                    for (sum, &more) in sums.iter_mut().zip(&inner.sums) {
                        *sum = sum.wrapping_add(more);
                    }
                    done = done.wrapping_add(count);
                }
                for (channel, sum) in channels.iter().zip(&sums) {
                    self.requantise.row(channel, core::slice::from_ref(sum), y, 0);
                    y = y.add(1);
                }
                w = w.add(distance.wrapping_add(pair_len));
            }
        }
    }

    /// The outputs of [`TILE`] pixels whose inputs stand in `columns`, word by word beside each other:
    /// `2 * TILE * blocks` words.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes of `TILE` times all output channels.
    #[inline(never)]
    unsafe fn tile(&self, columns: *const u32, y: *mut i8) {
        let mut inner = self.inner(columns, y);
        let mut rest = self.channels;
        inner.step = self.channels.len();
        // SAFETY: each two channels have a pair of `2 * blocks` words in `words`; the chunks cover
        // `columns` and a pair. `y` is valid for `TILE` outputs of each channel.
        unsafe {
            if self.whole {
                let twos;
                (twos, rest) = rest.as_chunks::<2>();
                inner.rounds = twos.len();
                if inner.rounds > 0 {
                    inner.x_end = columns.add(self.blocks.wrapping_mul(2 * TILE));
                    inner.count = dsp::entry(self.blocks);
                    dsp::tile_4(&mut inner);
                }
            }
            let mut y = inner.y;
            inner.channel = &raw const NO_CHANNEL;
            for channels in rest.chunks(2) {
                let mut sums = [0i32; 2 * TILE];
                let mut left = self.blocks;
                inner.x = columns;
                while left > 0 {
                    let count = left.min(CHUNK);
                    inner.x_end = inner.x.add(count.wrapping_mul(2 * TILE));
                    inner.count = dsp::entry(count);
                    dsp::tile_4(&mut inner);
                    for (sum, &more) in sums.iter_mut().zip(&inner.sums) {
                        *sum = sum.wrapping_add(more);
                    }
                    inner.x = inner.x_end;
                    left = left.wrapping_sub(count);
                }
                for (channel, sums) in channels.iter().zip(sums.as_chunks::<TILE>().0) {
                    self.requantise.row(channel, sums, y, self.channels.len());
                    y = y.add(1);
                }
            }
        }
    }
}

fn linear_dsp(op: &Conv<'_>, words: &[u32], x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    let Some(packed) = Packed::new(op, words) else { return };
    let len = packed.blocks.wrapping_mul(2);
    let Ok((column, _)) = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), len) else {
        return;
    };
    if x.len() != op.weights_per_channel() || y.len() != op.channels.len() {
        return;
    }
    // SAFETY: `column` has `2 * blocks` words, `y` as many elements as there are channels.
    unsafe {
        widen::<1>(x, column.as_mut_ptr());
        packed.pixel(column.as_ptr(), y.as_mut_ptr());
    }
    clamp(op.clamp, y);
}

fn conv_dsp(op: &Conv<'_>, words: &[u32], x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    let Some(packed) = Packed::new(op, words) else { return };
    let outputs = op.channels.len();
    let needed = conv_scratch_len(op.input.channels, op.weights_per_channel());
    let Ok((scratch, _)) =
        <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), needed / 4)
    else {
        return;
    };
    if y.len() != op.output.len() || x.len() != op.input.len() {
        return;
    }
    let columns = scratch.as_mut_ptr();
    let mut out = y.as_mut_ptr();
    let mut left = op.output.height.wrapping_mul(op.output.width);
    // SAFETY: `scratch` has room for the columns of a tile and the bytes behind them. `out` advances
    // by `outputs` elements for each of the output's pixels.
    unsafe {
        let bytes = columns.add(packed.blocks.wrapping_mul(2 * TILE)).cast::<i8>();
        let mut walk = Walk::new(op, x, bytes);
        while left >= TILE {
            for pixel in 0..TILE {
                walk.gather::<TILE>(columns.add(pixel));
            }
            packed.tile(columns, out);
            out = out.add(outputs.wrapping_mul(TILE));
            left = left.wrapping_sub(TILE);
        }
        while left > 0 {
            walk.gather::<1>(columns);
            packed.pixel(columns, out);
            out = out.add(outputs);
            left = left.wrapping_sub(1);
        }
    }
    clamp(op.clamp, y);
}

/// The windows of a convolution, one output position after the other.
struct Walk<'a> {
    op: &'a Conv<'a>,
    x: &'a [i8],
    bytes: *mut i8,
    /// Whether runs are whole blocks.
    aligned: bool,
    position: [usize; 2],
    /// Input column under the window's first, and the first that leaves the window no room; 0 where
    /// the window's rows are not all over the input.
    column: usize,
    limit: usize,
    /// Input element under the window's first, where all of it lies over the input.
    start: usize,
    /// Elements of a row of the window, of a row of the input, and of a horizontal step.
    row_len: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Walk<'a> {
    /// `bytes` has room for the inputs of a pixel where the channels are no multiple of [`BLOCK`].
    fn new(op: &'a Conv<'a>, x: &'a [i8], bytes: *mut i8) -> Self {
        let depth = op.input.channels;
        let mut walk = Self {
            op,
            x,
            bytes,
            aligned: depth.is_multiple_of(BLOCK),
            position: [0, 0],
            column: 0,
            limit: 0,
            start: 0,
            row_len: op.window.kernel[1].wrapping_mul(depth),
            row_step: op.input.width.wrapping_mul(depth),
            column_step: op.window.stride[1].wrapping_mul(depth),
        };
        walk.enter_row();
        walk
    }

    fn enter_row(&mut self) {
        let Window { kernel, stride, pad } = self.op.window;
        let top = self.position[0].wrapping_mul(stride[0]).wrapping_sub(pad[0]);
        let room = |axis: usize, size: usize| size.wrapping_add(1).saturating_sub(kernel[axis]);
        self.column = 0usize.wrapping_sub(pad[1]);
        let inside = top < room(0, self.op.input.height);
        self.limit = if inside { room(1, self.op.input.width) } else { 0 };
        let before = pad[1].wrapping_mul(self.op.input.channels);
        self.start = top.wrapping_mul(self.row_step).wrapping_sub(before);
    }

    /// Writes the inputs under the window into every `STEP`th word of `column` and moves on.
    ///
    /// # Safety
    ///
    /// `column` must be valid for writes of `2 * blocks` words that are `STEP` apart.
    #[inline(never)]
    unsafe fn gather<const STEP: usize>(&mut self, column: *mut u32) {
        // SAFETY: the caller's promise and that of `new`; a window inside the input is read.
        unsafe {
            if self.column < self.limit {
                let mut from = self.x.as_ptr().add(self.start);
                let mut column = column;
                let mut at = self.bytes;
                for _ in 0..self.op.window.kernel[0] {
                    let run = core::slice::from_raw_parts(from, self.row_len);
                    if self.aligned {
                        column = widen::<STEP>(run, column);
                    } else {
                        at = copy(run, at);
                    }
                    from = from.wrapping_add(self.row_step);
                }
                if !self.aligned {
                    self.widen_bytes::<STEP>(column);
                }
            } else {
                self.gather_padded::<STEP>(column);
            }
        }
        self.start = self.start.wrapping_add(self.column_step);
        self.column = self.column.wrapping_add(self.op.window.stride[1]);
        self.position[1] = self.position[1].wrapping_add(1);
        if self.position[1] == self.op.output.width {
            self.position = [self.position[0].wrapping_add(1), 0];
            self.enter_row();
        }
    }

    /// # Safety
    ///
    /// As for [`gather`](Self::gather).
    #[inline(never)]
    unsafe fn gather_padded<const STEP: usize>(&self, mut column: *mut u32) {
        let zero = self.op.input.zero_point;
        if self.aligned {
            let zeros = u32::from(zero as u16).wrapping_mul(0x1_0001);
            runs(self.op, self.x, self.position, |run| match run {
                // SAFETY: the runs have as many elements as a channel has weights, whole blocks here.
                Ok(run) => column = unsafe { widen::<STEP>(run, column) },
                Err(len) => {
                    for _ in 0..len / 2 {
                        // SAFETY: as above.
                        unsafe {
                            *column = zeros;
                            column = column.add(STEP);
                        }
                    }
                }
            });
        } else {
            let mut at = self.bytes;
            runs(self.op, self.x, self.position, |run| match run {
                // SAFETY: the runs have as many elements as a channel has weights.
                Ok(run) => at = unsafe { copy(run, at) },
                Err(len) => {
                    for _ in 0..len {
                        // SAFETY: as above.
                        unsafe {
                            *at = zero;
                            at = at.add(1);
                        }
                    }
                }
            });
            // SAFETY: the runs filled the bytes.
            unsafe { self.widen_bytes::<STEP>(column) };
        }
    }

    /// # Safety
    ///
    /// The bytes must be filled; otherwise as for [`gather`](Self::gather).
    #[inline(always)]
    unsafe fn widen_bytes<const STEP: usize>(&self, column: *mut u32) {
        let len = self.row_len.wrapping_mul(self.op.window.kernel[0]);
        // SAFETY: the caller's promise.
        unsafe {
            widen::<STEP>(core::slice::from_raw_parts(self.bytes, len), column);
        }
    }
}

/// Copies a few bytes and returns the end of the copy.
///
/// # Safety
///
/// `to` must be valid for writes of as many bytes.
#[inline(always)]
unsafe fn copy(bytes: &[i8], mut to: *mut i8) -> *mut i8 {
    let (words, rest) = bytes.as_chunks::<BLOCK>();
    for &word in words {
        // SAFETY: the caller's promise.
        unsafe {
            to.cast::<[i8; BLOCK]>().write(word);
            to = to.add(BLOCK);
        }
    }
    for &byte in rest {
        // SAFETY: the caller's promise.
        unsafe {
            *to = byte;
            to = to.add(1);
        }
    }
    to
}

/// Widens bytes to halves, in the order of `SXTB16` and filled with zeros to whole blocks, into every
/// `STEP`th word of `column`, and returns the end of what is written.
///
/// # Safety
///
/// `column` must be valid for writes of two words for each block of bytes, `STEP` apart.
#[inline(always)]
unsafe fn widen<const STEP: usize>(bytes: &[i8], mut column: *mut u32) -> *mut u32 {
    let mut push = |word: [i8; BLOCK]| {
        let word = u32::from_le_bytes(word.map(|byte| byte as u8));
        // SAFETY: the caller's promise.
        unsafe {
            *column = dsp::sxtb16(word);
            *column.add(STEP) = dsp::sxtb16_ror8(word);
            column = column.add(2 * STEP);
        }
    };
    let (words, rest) = bytes.as_chunks::<BLOCK>();
    let (groups, words) = words.as_chunks::<4>();
    for &[a, b, c, d] in groups {
        push(a);
        push(b);
        push(c);
        push(d);
    }
    for &word in words {
        push(word);
    }
    match *rest {
        [] => {}
        [a] => push([a, 0, 0, 0]),
        [a, b] => push([a, b, 0, 0]),
        [a, b, ref c @ ..] => push([a, b, c.first().copied().unwrap_or(0), 0]),
    }
    column
}
