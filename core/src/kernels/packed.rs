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
//! `CHUNK` sees to.
//!
//! A half cannot hold `high = -128` beside a negative `low`; TFLite's weights are never -128.
//! [`pack`] says so, and such an operator takes the plain layout.

#[cfg(not(niwaki_dsp))]
use zerocopy::{FromBytes, IntoBytes};

use super::{Taps, part};
#[cfg(not(niwaki_dsp))]
use super::{at, conv::rescale, put};
use crate::model::Conv;

/// Weights of an output channel are counted in blocks of this many.
pub(crate) const BLOCK: usize = 4;
/// Output pixels that the convolution computes together.
pub(super) const TILE: usize = 4;
/// Blocks after which the sums are taken apart: `BLOCK * CHUNK * 128 * 128 < 2^23`.
#[cfg(any(niwaki_dsp, test))]
pub(super) const CHUNK: usize = 127;

/// Words of the packed weights of `outputs` channels with `per_channel` weights each; `None` when
/// they are too many to count.
pub const fn packed_len(outputs: usize, per_channel: usize) -> Option<usize> {
    match words_per_pair(per_channel).checked_mul(outputs.div_ceil(2)) {
        Some(words) if per_channel <= isize::MAX as usize => Some(words),
        _ => None,
    }
}

/// Words of one pair of output channels.
pub(crate) const fn words_per_pair(per_channel: usize) -> usize {
    blocks(per_channel).wrapping_mul(2)
}

pub(super) const fn blocks(per_channel: usize) -> usize {
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

/// Number of weights that are not zero.
pub fn nonzeros(words: &[u32]) -> usize {
    let halves = words.iter().flat_map(|&word| [word as i16, (word >> 16) as i16]);
    let weights = halves.flat_map(|half| {
        let low = half as i8;
        [low, (half.wrapping_sub(low.into()) >> 8) as i8]
    });
    weights.filter(|&weight| weight != 0).count()
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

/// Convolution of `x` into `y` with packed weights. Where `x` is `None`, the input stands in `y`, which
/// then has its length, and the output replaces its beginning: see
/// [`conv_in_place`](super::conv_in_place).
pub fn conv(op: &Conv<'_>, words: &[u32], x: Option<&[i8]>, y: &mut [i8], scratch: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    super::packed_dsp::conv(op, words, x, y, scratch);
    #[cfg(not(niwaki_dsp))]
    conv_portable(op, words, x, y, scratch);
}

/// Linear operator with packed weights. Where `x` is `None`, the input is the end of `scratch`, and
/// what the kernel makes of it overwrites it.
pub fn linear(op: &Conv<'_>, words: &[u32], x: Option<&[i8]>, y: &mut [i8], scratch: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    super::packed_dsp::linear(op, words, x, y, scratch);
    #[cfg(not(niwaki_dsp))]
    linear_portable(op, words, x, y, scratch);
}

/// Hands the inputs under the window at output position `oy`, `ox` to `sink`, run by run in the order
/// of the weights: a slice, or the length of a run that lies in the padding.
#[inline(always)]
pub(super) fn runs(
    op: &Conv<'_>,
    x: &[i8],
    [oy, ox]: [usize; 2],
    mut sink: impl FnMut(Result<&[i8], usize>),
) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let rows = Taps::new(oy, op.window.stride[0], op.window.pad[0], kernel_h, op.input.height);
    let columns = Taps::new(ox, op.window.stride[1], op.window.pad[1], kernel_w, op.input.width);
    let row_len = kernel_w.wrapping_mul(depth);
    let first = columns.first.wrapping_mul(depth);
    let len = columns.end.wrapping_sub(columns.first).wrapping_mul(depth);
    let row_step = op.input.width.wrapping_mul(depth);
    let mut start =
        rows.origin.wrapping_mul(row_step).wrapping_add(columns.origin.wrapping_mul(depth));
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

/// [`conv`] without the DSP instructions: one pixel at a time.
#[cfg(not(niwaki_dsp))]
pub(super) fn conv_portable(
    op: &Conv<'_>,
    words: &[u32],
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let len = blocks(op.weights_per_channel()).wrapping_mul(BLOCK);
    let Ok((column, _)) = <[i16]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), len) else {
        return;
    };
    let zero = op.input.zero_point.into();
    let mut index = 0usize;
    for oy in 0..op.output.height {
        for ox in 0..op.output.width {
            let mut position = 0usize;
            let mut push = |value: i16| {
                put_half(column, position, value);
                position = position.wrapping_add(1);
            };
            runs(op, x.unwrap_or(y), [oy, ox], |run| match run {
                Ok(run) => run.iter().for_each(|&x| push(x.into())),
                Err(len) => (0..len).for_each(|_| push(zero)),
            });
            for position in position..len {
                put_half(column, position, 0);
            }
            outputs(op, words, column, y.get_mut(index..).unwrap_or_default());
            index = index.wrapping_add(op.output.channels);
        }
    }
}

/// [`linear`] without the DSP instructions.
#[cfg(not(niwaki_dsp))]
pub(super) fn linear_portable(
    op: &Conv<'_>,
    words: &[u32],
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let inputs = op.weights_per_channel();
    let from = scratch.len().wrapping_sub(inputs);
    let len = blocks(inputs).wrapping_mul(BLOCK);
    for block in 0..blocks(inputs) {
        let first = block.wrapping_mul(BLOCK);
        // Read before the block is written: what is written never reaches inputs still to be read.
        let element = |k: usize| {
            let position = first.wrapping_add(k);
            match x {
                _ if position >= inputs => 0,
                Some(x) => at(x, position).into(),
                None => at(scratch, from.wrapping_add(position)).into(),
            }
        };
        let values = [0, 1, 2, 3].map(element);
        let Ok((column, _)) = <[i16]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), len)
        else {
            return;
        };
        for (k, value) in values.into_iter().enumerate() {
            put_half(column, first.wrapping_add(k), value);
        }
    }
    if let Ok((column, _)) = <[i16]>::ref_from_prefix_with_elems(scratch.as_bytes(), len) {
        outputs(op, words, column, y);
    }
}

/// Writes a half in the order of `SXTB16`.
#[cfg(not(niwaki_dsp))]
fn put_half(column: &mut [i16], position: usize, value: i16) {
    let within = [0, 2, 1, 3][position % BLOCK];
    if let Some(slot) = column.get_mut((position & !3).wrapping_add(within)) {
        *slot = value;
    }
}

/// The outputs of a pixel whose inputs stand in `column`.
#[cfg(not(niwaki_dsp))]
fn outputs(op: &Conv<'_>, mut words: &[u32], column: &[i16], y: &mut [i8]) {
    let len = words_per_pair(op.weights_per_channel());
    let mut index = 0usize;
    for channels in op.channels.chunks(2) {
        let Some((pair, rest)) = words.split_at_checked(len) else { return };
        words = rest;
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
