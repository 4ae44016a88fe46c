//! Depthwise convolution.
//!
//! With windows of up to three by three and a horizontal step of 1 or 2, the DSP kernel brings four
//! channels at a time into planes of halves, in which neighbouring pixels share a word: then a
//! dual multiply serves two taps. Planes are whole where they are small, otherwise rings of three
//! rows. Weights have one layout for all kernels.
#![allow(unsafe_code)]

use core::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::conv::rescale;
use super::dsp::{self, DepthwiseRows};
use super::requantise::{Requantise, clamp};
use super::{Taps, at, part, put};
use crate::model::{Depthwise, Tensor, Window};

/// Channels that are computed together, so that neighbouring elements are read in one sweep.
const TILE: usize = 16;

/// Depthwise convolution of `x` into `y`, both in the order height, width, channel.
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
pub fn depthwise(op: &Depthwise<'_>, x: &[i8], y: &mut [i8], scratch: &mut [i8]) {
    if !cfg!(niwaki_dsp) || planar(op, x, y, scratch).is_none() {
        portable(op, x, y);
    }
}

/// The kernel without the DSP instructions, for every shape.
pub(super) fn portable(op: &Depthwise<'_>, x: &[i8], y: &mut [i8]) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let [stride_h, stride_w] = op.window.stride;
    let [pad_h, pad_w] = op.window.pad;
    let (depth, outputs) = (op.input.channels, op.output.channels);
    let multiplier = outputs.checked_div(depth).unwrap_or(0);
    let padding = [op.input.zero_point; TILE];

    let mut pixel = 0usize;
    for oy in 0..op.output.height {
        let rows = Taps::new(oy, stride_h, pad_h, kernel_h, op.input.height);
        for ox in 0..op.output.width {
            let columns = Taps::new(ox, stride_w, pad_w, kernel_w, op.input.width);
            let mut first = 0usize;
            while first < outputs {
                let channels = part(op.channels, first, outputs.wrapping_sub(first).min(TILE));
                let mut sums = [0i32; TILE];
                for (sum, channel) in sums.iter_mut().zip(channels) {
                    *sum = channel.bias.get();
                }
                let mut tap = first;
                for ky in 0..kernel_h {
                    for kx in 0..kernel_w {
                        let weights = part(op.weights, tap, channels.len());
                        tap = tap.wrapping_add(outputs);
                        let position = rows.input(ky).zip(columns.input(kx));
                        let gathered;
                        let inputs = match position {
                            None => &padding[..],
                            Some((iy, ix)) => {
                                let start = iy.wrapping_mul(op.input.width).wrapping_add(ix);
                                let start = start.wrapping_mul(depth);
                                if multiplier == 1 {
                                    part(x, start.wrapping_add(first), channels.len())
                                } else {
                                    gathered = core::array::from_fn::<i8, TILE, _>(|lane| {
                                        let channel = first.wrapping_add(lane);
                                        let channel = channel.checked_div(multiplier).unwrap_or(0);
                                        at(x, start.wrapping_add(channel))
                                    });
                                    &gathered[..]
                                }
                            }
                        };
                        for ((sum, &x), &w) in sums.iter_mut().zip(inputs).zip(weights) {
                            *sum = sum.wrapping_add(i32::from(x).wrapping_mul(i32::from(w)));
                        }
                    }
                }
                let mut index = pixel.wrapping_mul(outputs).wrapping_add(first);
                for (&sum, channel) in sums.iter().zip(channels) {
                    put(y, index, rescale(channel).requantise(sum, op.output.zero_point, op.clamp));
                    index = index.wrapping_add(1);
                }
                first = first.wrapping_add(TILE);
            }
            pixel = pixel.wrapping_add(1);
        }
    }
}

/// Channels whose planes are made together: the bytes of a word.
const GROUP: usize = 4;
/// Rows of a window, and of a ring.
const ROWS: usize = 3;
/// Bytes of working memory up to which whole planes are kept rather than rings of rows.
const PLANE_LIMIT: usize = 2560;

/// How planes are laid out: for each row the four channels' words one after the other, and behind all
/// of them the sums of one channel's outputs, of one row where there is a ring.
#[derive(Clone, Copy)]
struct Planes {
    /// Words of one row of one channel.
    words: usize,
    /// Rows of a whole plane.
    rows: usize,
    /// Outputs of one row, and that rounded up to pairs.
    outputs: [usize; 2],
}

impl Planes {
    /// `None` when the planar kernel does not serve the shape.
    fn new(input: &Tensor, output: &Tensor, window: &Window) -> Option<Self> {
        let served = input.channels == output.channels
            && input.channels.is_multiple_of(GROUP)
            && window.kernel[0] <= ROWS
            && window.kernel[1] <= 3
            && window.stride[1] <= 2;
        // No overflow: tensors have less than 2^16 rows and columns, and strides are below 2^8.
        let width = output.width;
        let sums = width.wrapping_add(width & 1);
        let words = if window.stride[1] == 1 { sums / 2 } else { sums };
        let last = output.height.wrapping_sub(1).wrapping_mul(window.stride[0]);
        served.then_some(Self {
            words: words.wrapping_add(1),
            rows: last.wrapping_add(ROWS),
            outputs: [width, sums],
        })
    }

    /// Words of the sums of `band` rows of outputs, and of working memory with them and `rows` rows.
    const fn len(&self, rows: usize, band: usize) -> [usize; 2] {
        let sums = self.outputs[0].saturating_mul(band).saturating_add(1);
        [sums, self.words.saturating_mul(GROUP).saturating_mul(rows).saturating_add(sums)]
    }

    /// Bytes of working memory with whole planes and with rings.
    const fn bytes(&self, height: usize) -> [usize; 2] {
        [self.len(self.rows, height)[1].saturating_mul(4), self.len(ROWS, 1)[1].saturating_mul(4)]
    }
}

/// Bytes of working memory with which [`depthwise`] is fastest; with less, it may take the portable
/// kernel.
pub fn scratch_len(input: &Tensor, output: &Tensor, window: &Window) -> usize {
    Planes::new(input, output, window).map_or(0, |planes| {
        let [whole, ring] = planes.bytes(output.height);
        if whole <= PLANE_LIMIT { whole } else { ring }
    })
}

/// `None`, with `y` untouched, when the shape is not served or the scratch too small.
pub(super) fn planar(
    op: &Depthwise<'_>,
    x: &[i8],
    y: &mut [i8],
    scratch: &mut [i8],
) -> Option<()> {
    let planes = Planes::new(&op.input, &op.output, &op.window)?;
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let weights = kernel_h.wrapping_mul(kernel_w).wrapping_mul(depth);
    let sound = x.len() == op.input.len()
        && y.len() == op.output.len()
        && op.weights.len() == weights
        && op.channels.len() == depth;
    let whole = scratch.len() >= planes.bytes(op.output.height)[0];
    let (slots, band) = if whole { (planes.rows, op.output.height) } else { (ROWS, 1) };
    let [sum_count, words] = planes.len(slots, band);
    let scratch = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), words).ok()?.0;
    if !sound {
        return None;
    }
    let requantise = Requantise::new(op.channels, op.output.zero_point);
    let zeros = u32::from(op.input.zero_point as u16).wrapping_mul(0x1_0001);
    // Padding is the same for all channels: it stays.
    for word in scratch.iter_mut() {
        *word = zeros;
    }
    let row_len = planes.words.wrapping_mul(GROUP);
    let base = scratch.as_mut_ptr();
    let sums = base.wrapping_add(words.wrapping_sub(sum_count)).cast::<i32>();
    let [stride_h, stride_w] = op.window.stride;
    let read = planes.words.wrapping_sub(1);
    let mut lanes = [DepthwiseRows {
        weights: [[0; 2]; ROWS],
        rows: [base.cast_const(); ROWS],
        sums,
        end: sums.wrapping_add(planes.outputs[1]),
        advance: stride_h.wrapping_mul(row_len).wrapping_sub(read).wrapping_mul(4),
        excess: planes.outputs[1].wrapping_sub(planes.outputs[0]).wrapping_mul(4),
        row_bytes: planes.outputs[0].wrapping_mul(4),
        count: band,
    }; GROUP];
    for first in (0..depth).step_by(GROUP) {
        for (lane, rows) in lanes.iter_mut().enumerate() {
            rows.weights = unpack(op, first.wrapping_add(lane));
        }
        let (mut filled, mut oy, mut top) = (0usize, 0usize, 0usize);
        while oy < op.output.height {
            let bottom = band.wrapping_sub(1).wrapping_mul(stride_h).wrapping_add(top);
            // SAFETY: rows of four channels fit the slots.
            unsafe {
                let rows = filled.max(top)..bottom.wrapping_add(ROWS);
                fill(op, x, rows.clone(), first, &planes, base, whole);
                filled = rows.end;
            }
            let mut rows = [0, 1, 2].map(|ky| {
                let row = top.wrapping_add(ky);
                let slot = if whole { row } else { row % ROWS };
                base.wrapping_add(slot.wrapping_mul(row_len)).cast_const()
            });
            let start = oy.wrapping_mul(op.output.width).wrapping_mul(depth).wrapping_add(first);
            let mut out = y.as_mut_ptr().wrapping_add(start);
            let channels = part(op.channels, first, GROUP);
            for (lane, channel) in lanes.iter_mut().zip(channels) {
                lane.rows = rows;
                rows = rows.map(|row| row.wrapping_add(planes.words));
                // SAFETY: the rows have the words that `Planes` counts for a row of outputs, and
                // `band` of them follow each other where there is no ring. The sums behind them are
                // `band` rows and one. The channel's outputs are `depth` apart within `y`.
                unsafe {
                    if stride_w == 1 {
                        dsp::depthwise_rows_1(lane);
                    } else {
                        dsp::depthwise_rows_2(lane);
                    }
                    let sums = core::slice::from_raw_parts(sums, sum_count.wrapping_sub(1));
                    requantise.row(channel, sums, out, depth);
                }
                out = out.wrapping_add(1);
            }
            oy = oy.wrapping_add(band);
            top = top.wrapping_add(stride_h);
        }
    }
    clamp(op.clamp, y);
    Some(())
}

/// The weights of a channel as [`DepthwiseRows`] wants them.
#[inline(always)]
fn unpack(op: &Depthwise<'_>, channel: usize) -> [[u32; 2]; ROWS] {
    let [kernel_h, kernel_w] = op.window.kernel;
    let mut rest = op.weights.get(channel..).unwrap_or(&[]);
    let mut next = || {
        let tap = rest.first().copied().unwrap_or(0);
        rest = rest.get(op.input.channels..).unwrap_or(&[]);
        tap
    };
    let mut rows = [[0; 2]; ROWS];
    for row in rows.iter_mut().take(kernel_h) {
        let mut taps = [0i8; 3];
        for tap in taps.iter_mut().take(kernel_w) {
            *tap = next();
        }
        let [w0, w1, w2] = taps.map(|tap| i32::from(tap) as u32);
        *row = [dsp::pkhbt(w0, w1), dsp::pkhbt(w1, w2)];
    }
    rows
}

/// Brings rows of the padded input, channels `first .. first + 4`, to their slots. Columns of padding
/// stand there already, and in whole planes rows of padding do.
///
/// # Safety
///
/// `base` must be valid for writes of the rows' slots; `x` must be the input and `first + 4` at most
/// its channels.
#[inline(never)]
unsafe fn fill(
    op: &Depthwise<'_>,
    x: &[i8],
    rows: Range<usize>,
    first: usize,
    planes: &Planes,
    base: *mut u32,
    whole: bool,
) {
    let depth = op.input.channels;
    let words = planes.words;
    let [pad_h, pad_w] = op.window.pad;
    let row_len = words.wrapping_mul(GROUP);
    let row_step = op.input.width.wrapping_mul(depth);
    // The first word is half padding where the padding is odd, the last where pixels are left over.
    let odd = pad_w & 1;
    let pairs = op.input.width.wrapping_sub(odd) / 2;
    let room = words.saturating_sub(pad_w / 2).saturating_sub(odd);
    let leftover = pairs < room && pairs.wrapping_mul(2).wrapping_add(odd) < op.input.width;
    let pairs = pairs.min(room);
    let padding = u32::from(op.input.zero_point as u8).wrapping_mul(0x0101_0101);
    for row in rows {
        let slot = if whole { row } else { row % ROWS };
        let mut to = base.wrapping_add(slot.wrapping_mul(row_len));
        let iy = row.wrapping_sub(pad_h);
        if iy >= op.input.height {
            if !whole {
                for _ in 0..row_len {
                    // SAFETY: the caller's promise.
                    unsafe { *to = dsp::sxtb16(padding) };
                    to = to.wrapping_add(1);
                }
            }
            continue;
        }
        let mut from = x.as_ptr().wrapping_add(iy.wrapping_mul(row_step).wrapping_add(first));
        to = to.wrapping_add(pad_w / 2);
        // SAFETY: `from` runs over pixels of row `iy`, `to` over words of its slot.
        unsafe {
            if odd != 0 {
                let pixels = [padding, from.cast::<u32>().read_unaligned()];
                dsp::planes(pixels.as_ptr().cast(), GROUP, to, words, 1);
                from = from.wrapping_add(depth);
                to = to.wrapping_add(1);
            }
            if pairs > 0 {
                dsp::planes(from, depth, to, words, pairs);
                from = from.wrapping_add(pairs.wrapping_mul(depth).wrapping_mul(2));
                to = to.wrapping_add(pairs);
            }
            if leftover {
                let pixels = [from.cast::<u32>().read_unaligned(), padding];
                dsp::planes(pixels.as_ptr().cast(), GROUP, to, words, 1);
            }
        }
    }
}
