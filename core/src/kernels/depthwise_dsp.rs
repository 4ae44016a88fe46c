//! The depthwise convolution over DSP instructions.
#![allow(unsafe_code)]

use core::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::depthwise::{GROUP, Planes, ROWS};
use super::depthwise_asm::{self, DepthwiseRows};
use super::requantise::{Requantise, all_saturate, limit};
use super::{dsp, part};
use crate::model::Depthwise;

/// `None`, with `y` untouched, when the shape is not served or the scratch too small.
pub(super) fn planar(
    op: &Depthwise<'_>,
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) -> Option<()> {
    let planes = Planes::new(&op.input, &op.output, &op.window)?;
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let weights = kernel_h.wrapping_mul(kernel_w).wrapping_mul(depth);
    let whole = scratch.len() >= planes.bytes(op.output.height)[0];
    // In place, a group's inputs must all be read before its outputs are written.
    let sound = x.map_or(whole && op.output.len() == op.input.len(), |x| x.len() == op.input.len())
        && y.len() == op.output.len()
        && op.weights.len() == weights
        && op.channels.len() == depth;
    let (slots, band) = if whole { (planes.rows, op.output.height) } else { (ROWS, 1) };
    let [sum_count, words] = planes.len(slots, band);
    let scratch = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), words).ok()?.0;
    if !sound {
        return None;
    }
    let y_start = y.as_mut_ptr();
    let x = x.map_or(y_start.cast_const(), <[i8]>::as_ptr);
    let requantise = Requantise::new(op.output.zero_point, op.clamp);
    let saturating = all_saturate(op.channels);
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
            let mut out = y_start.wrapping_add(start);
            let channels = part(op.channels, first, GROUP);
            for (lane, channel) in lanes.iter_mut().zip(channels) {
                lane.rows = rows;
                rows = rows.map(|row| row.wrapping_add(planes.words));
                // SAFETY: the rows have the words that `Planes` counts for a row of outputs, and
                // `band` of them follow each other where there is no ring. The sums behind them are
                // `band` rows and one. The channel's outputs are `depth` apart within `y`.
                unsafe {
                    if stride_w == 1 {
                        depthwise_asm::depthwise_rows_1(lane);
                    } else {
                        depthwise_asm::depthwise_rows_2(lane);
                    }
                    let sums = core::slice::from_raw_parts(sums, sum_count.wrapping_sub(1));
                    requantise.row(saturating, channel, sums, out, depth);
                }
                out = out.wrapping_add(1);
            }
            oy = oy.wrapping_add(band);
            top = top.wrapping_add(stride_h);
        }
    }
    limit(op.clamp, y);
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
    x: *const i8,
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
        let mut from = x.wrapping_add(iy.wrapping_mul(row_step).wrapping_add(first));
        to = to.wrapping_add(pad_w / 2);
        // SAFETY: `from` runs over pixels of row `iy`, `to` over words of its slot.
        unsafe {
            if odd != 0 {
                let pixels = [padding, from.cast::<u32>().read_unaligned()];
                depthwise_asm::planes(pixels.as_ptr().cast(), GROUP, to, words, 1);
                from = from.wrapping_add(depth);
                to = to.wrapping_add(1);
            }
            if pairs > 0 {
                depthwise_asm::planes(from, depth, to, words, pairs);
                from = from.wrapping_add(pairs.wrapping_mul(depth).wrapping_mul(2));
                to = to.wrapping_add(pairs);
            }
            if leftover {
                let pixels = [from.cast::<u32>().read_unaligned(), padding];
                depthwise_asm::planes(pixels.as_ptr().cast(), GROUP, to, words, 1);
            }
        }
    }
}
