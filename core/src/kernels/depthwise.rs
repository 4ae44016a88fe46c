//! Depthwise convolution.
//!
//! With windows of up to three by three and a horizontal step of 1 or 2, the DSP kernel brings four
//! channels at a time into planes of halves, in which neighbouring pixels share a word: then a
//! dual multiply serves two taps. Planes are whole where they are small, otherwise rings of three
//! rows. Weights have one layout for all kernels.
#![allow(unsafe_code)]

use zerocopy::{FromBytes, IntoBytes};

use super::conv::rescale;
use super::dsp::{self, DepthwiseRow};
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
/// Bytes up to which whole planes are kept rather than rings of rows.
const PLANE_LIMIT: usize = 2048;

/// How planes are laid out: for each row the four channels' words one after the other, and behind all
/// of them one row of sums.
#[derive(Clone, Copy)]
struct Planes {
    /// Words of one row of one channel.
    words: usize,
    /// Rows of a whole plane.
    rows: usize,
    /// Sums of one row of outputs.
    sums: usize,
}

impl Planes {
    /// `None` when the planar kernel does not serve the shape.
    fn new(input: &Tensor, output: &Tensor, window: &Window) -> Option<Self> {
        let served = input.channels == output.channels
            && input.channels.is_multiple_of(GROUP)
            && window.kernel[0] <= ROWS
            && window.kernel[1] <= 3
            && window.stride[1] <= 2;
        // Tensors have less than 2^16 rows and columns, and strides are below 2^8.
        let sums = output.width.wrapping_add(output.width & 1);
        let words = if window.stride[1] == 1 { sums / 2 } else { sums };
        let last = output.height.wrapping_sub(1).wrapping_mul(window.stride[0]);
        served.then_some(Self {
            words: words.wrapping_add(1),
            rows: last.wrapping_add(ROWS),
            sums,
        })
    }

    /// Words of scratch with `rows` rows.
    const fn len(&self, rows: usize) -> usize {
        self.words.saturating_mul(GROUP).saturating_mul(rows).saturating_add(self.sums)
    }
}

/// Bytes of working memory with which [`depthwise`] is fastest; with less, it may take the portable
/// kernel.
pub fn scratch_len(input: &Tensor, output: &Tensor, window: &Window) -> usize {
    Planes::new(input, output, window).map_or(0, |planes| {
        let whole = planes.len(planes.rows).saturating_mul(4);
        if whole <= PLANE_LIMIT { whole } else { planes.len(ROWS).saturating_mul(4) }
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
    let whole = scratch.len() / 4 >= planes.len(planes.rows);
    let slots = if whole { planes.rows } else { ROWS };
    let words = planes.len(slots);
    let scratch = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), words).ok()?.0;
    if !sound {
        return None;
    }
    let requantise = Requantise::new(op.channels, op.output.zero_point);
    let row_len = planes.words.wrapping_mul(GROUP);
    let base = scratch.as_mut_ptr();
    let slot = |row: usize| {
        let slot = if whole { row } else { row % ROWS };
        base.wrapping_add(slot.wrapping_mul(row_len))
    };
    let sums = base.wrapping_add(slots.wrapping_mul(row_len)).cast::<i32>();
    let stride = op.window.stride[0];
    let out_row = op.output.width.wrapping_mul(depth);
    let band = if whole { op.output.height } else { 1 };
    for first in (0..depth).step_by(GROUP) {
        let mut filled = 0usize;
        let mut oy = 0usize;
        while oy < op.output.height {
            let top = oy.wrapping_mul(stride);
            let bottom = top.wrapping_add(band.wrapping_sub(1).wrapping_mul(stride)).wrapping_add(ROWS);
            filled = filled.max(top);
            while filled < bottom {
                // SAFETY: a row of four channels fits each slot.
                unsafe { fill(op, x, filled, first, &planes, slot(filled)) };
                filled = filled.wrapping_add(1);
            }
            for (lane, channel) in part(op.channels, first, GROUP).iter().enumerate() {
                let index = first.wrapping_add(lane);
                let plane = planes.words.wrapping_mul(lane);
                let mut row = DepthwiseRow {
                    weights: unpack(op, index),
                    rows: [base; ROWS].map(<*mut u32>::cast_const),
                    sums,
                    end: sums.wrapping_add(planes.sums),
                };
                for oy in oy..oy.wrapping_add(band) {
                    let top = oy.wrapping_mul(stride);
                    for (ky, row) in row.rows.iter_mut().enumerate() {
                        *row = slot(top.wrapping_add(ky)).wrapping_add(plane);
                    }
                    // SAFETY: the rows have the words that `Planes` counts for `planes.sums` sums,
                    // which stand behind them in the scratch. The channel's outputs of row `oy` are
                    // `depth` apart within `y`.
                    unsafe {
                        if op.window.stride[1] == 1 {
                            dsp::depthwise_row_1(&row);
                        } else {
                            dsp::depthwise_row_2(&row);
                        }
                        let sums = core::slice::from_raw_parts(sums, op.output.width);
                        let out = y.as_mut_ptr().add(oy.wrapping_mul(out_row).wrapping_add(index));
                        requantise.row(channel, sums, out, depth);
                    }
                }
            }
            oy = oy.wrapping_add(band);
        }
    }
    clamp(op.clamp, y);
    Some(())
}

/// The weights of a channel as [`DepthwiseRow`] wants them.
#[inline(always)]
fn unpack(op: &Depthwise<'_>, channel: usize) -> [[u32; 2]; ROWS] {
    let [kernel_h, kernel_w] = op.window.kernel;
    let mut at_tap = channel;
    let mut rows = [[0; 2]; ROWS];
    for row in rows.iter_mut().take(kernel_h) {
        let mut taps = [0i8; 3];
        for tap in taps.iter_mut().take(kernel_w) {
            *tap = at(op.weights, at_tap);
            at_tap = at_tap.wrapping_add(op.input.channels);
        }
        let [w0, w1, w2] = taps.map(|tap| i32::from(tap) as u32);
        *row = [dsp::pkhbt(w0, w1), dsp::pkhbt(w1, w2)];
    }
    rows
}

/// Brings row `row` of the padded input, channels `first .. first + 4`, to planes at `to`.
///
/// # Safety
///
/// `to` must be valid for writes of four times `planes.words` words; `x` must be the input and
/// `first + 4` at most its channels.
#[inline(always)]
unsafe fn fill(
    op: &Depthwise<'_>,
    x: &[i8],
    row: usize,
    first: usize,
    planes: &Planes,
    mut to: *mut u32,
) {
    let (width, depth) = (op.input.width, op.input.channels);
    let words = planes.words;
    let end = to.wrapping_add(words);
    let padding = u32::from(op.input.zero_point as u8).wrapping_mul(0x0101_0101);
    let mut put = |a: u32, b: u32| {
        let (a02, a13) = (dsp::sxtb16(a), dsp::sxtb16_ror8(a));
        let (b02, b13) = (dsp::sxtb16(b), dsp::sxtb16_ror8(b));
        // SAFETY: the caller's promise: called once for each word of a row.
        unsafe {
            *to = dsp::pkhbt(a02, b02);
            *to.add(words) = dsp::pkhbt(a13, b13);
            *to.add(words.wrapping_mul(2)) = dsp::pkhtb(a02, b02);
            *to.add(words.wrapping_mul(3)) = dsp::pkhtb(a13, b13);
            to = to.add(1);
        }
        to
    };
    let iy = row.wrapping_sub(op.window.pad[0]);
    if iy >= op.input.height {
        while put(padding, padding) != end {}
        return;
    }
    let start = iy.wrapping_mul(width).wrapping_mul(depth).wrapping_add(first);
    let start = x.as_ptr().wrapping_add(start);
    // SAFETY: called for positions within the row.
    let pixel = |ix: usize| unsafe {
        start.add(ix.wrapping_mul(depth)).cast::<[i8; GROUP]>().read()
    };
    let load = |ix: usize| {
        if ix < width { u32::from_le_bytes(pixel(ix).map(|byte| byte as u8)) } else { padding }
    };
    let mut ix = 0usize.wrapping_sub(op.window.pad[1]);
    loop {
        let next = put(load(ix), load(ix.wrapping_add(1)));
        ix = ix.wrapping_add(2);
        if next == end {
            return;
        }
    }
}
