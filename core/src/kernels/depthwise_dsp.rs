//! The depthwise convolution over DSP instructions.
#![allow(unsafe_code)]

use core::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::depthwise::{GROUP, Planes, REACH, taps_of};
use super::depthwise_asm::{self, DepthwiseRows};
use super::requantise::{Requantise, all_saturate, limit};
use super::{at, dsp, part};
use crate::model::Depthwise;

/// `None`, with `y` untouched, when the shape is not served or the scratch too small.
pub(super) fn planar<const PASSES: usize>(
    op: &Depthwise<'_>,
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) -> Option<()> {
    let planes = Planes::new(&op.input, &op.output, &op.window, PASSES > 1 && op.large)?;
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let weights = kernel_h.wrapping_mul(kernel_w).wrapping_mul(depth);
    let whole = planes.whole(op.output.height).is_some_and(|whole| scratch.len() >= whole);
    // In place, a group's inputs must all be read before its outputs are written.
    let sound = x.map_or(whole && op.output.len() == op.input.len(), |x| x.len() == op.input.len())
        && y.len() == op.output.len()
        && op.weights.len() == weights
        && op.channels.len() == depth;
    let [rows, ring] = planes.rows;
    let (slots, band) = if whole { (rows, op.output.height) } else { (ring, 1) };
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
    let read = planes.words.wrapping_sub(planes.passes[1]);
    let mut weights = [[[[0; 2]; REACH]; PASSES]; GROUP];
    let mut job = DepthwiseRows {
        rows: [base.cast_const(); REACH],
        sums,
        end: sums.wrapping_add(planes.outputs[1]),
        advance: stride_h.wrapping_mul(row_len).wrapping_sub(read).wrapping_mul(4),
        excess: planes.outputs[1].wrapping_sub(planes.outputs[0]).wrapping_mul(4),
        row_bytes: planes.outputs[0].wrapping_mul(4),
        count: band,
        weights: core::ptr::null(),
    };
    for first in (0..depth).step_by(GROUP) {
        for (lane, weights) in weights.iter_mut().enumerate() {
            for pass in 0..planes.passes() {
                let unpacked = unpack(op, first.wrapping_add(lane), planes.pass(pass));
                if let Some(weights) = weights.get_mut(pass) {
                    *weights = unpacked;
                }
            }
        }
        let (mut filled, mut oy, mut top) = (0usize, 0usize, 0usize);
        while oy < op.output.height {
            let bottom = band.wrapping_sub(1).wrapping_mul(stride_h).wrapping_add(top);
            // SAFETY: rows of four channels fit the slots.
            unsafe {
                let rows = filled.max(top)..bottom.wrapping_add(ring);
                fill(op, x, rows.clone(), first, &planes, base, whole);
                filled = rows.end;
            }
            let start = oy.wrapping_mul(op.output.width).wrapping_mul(depth).wrapping_add(first);
            let mut out = y_start.wrapping_add(start);
            let channels = part(op.channels, first, GROUP);
            let mut lane = base.cast_const();
            let mut rows = planes.rows_from(top, whole).map(|row| lane.wrapping_add(row));
            for (weights, channel) in weights.iter().zip(channels) {
                (job.rows, job.weights) = (rows, &weights[0]);
                // SAFETY: the rows have the words that `Planes` counts for a row of outputs and one more for
                // a second pass along it, and `band` of them follow each other where there is no ring. The
                // sums behind them are `band` rows and one.
                unsafe {
                    if stride_w == 2 {
                        depthwise_asm::depthwise_rows_2(&job);
                    } else {
                        depthwise_asm::depthwise_rows_1(&job);
                    }
                    if PASSES > 1 && planes.passes() > 1 {
                        add_further(&mut job, weights, &planes, stride_w, lane, top, whole);
                    }
                }
                rows = rows.map(|row| row.wrapping_add(planes.words));
                lane = lane.wrapping_add(planes.words);
                // SAFETY: all of the sums were written. The channel's outputs are `depth` apart within
                // `y`.
                unsafe {
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

/// All passes but the first over the channel that stands at `lane`, from the row `top` on.
///
/// # Safety
///
/// As for [`DepthwiseRows`] for every pass. The sums were written by the first one, but for the last one
/// of an odd row: then there is a ring, and it is the one behind the row.
#[inline(never)]
unsafe fn add_further<const PASSES: usize>(
    job: &mut DepthwiseRows,
    weights: &[[[u32; 2]; REACH]; PASSES],
    planes: &Planes,
    stride_w: usize,
    lane: *const u32,
    top: usize,
    whole: bool,
) {
    for pass in 1..planes.passes() {
        let [row_pass, column_pass] = planes.pass(pass);
        let lane = lane.wrapping_add(column_pass);
        let top = row_pass.wrapping_mul(REACH).wrapping_add(top);
        job.rows = planes.rows_from(top, whole).map(|row| lane.wrapping_add(row));
        job.weights = weights.as_ptr().wrapping_add(pass);
        // SAFETY: the caller's promise; there are at most as many passes as weights of some.
        unsafe {
            if stride_w == 2 {
                depthwise_asm::add_depthwise_rows_2(job);
            } else {
                depthwise_asm::add_depthwise_rows_1(job);
            }
        }
    }
}

/// The weights of a channel in a pass along rows and columns as [`DepthwiseRows`] wants them.
#[inline(never)]
fn unpack(op: &Depthwise<'_>, channel: usize, pass: [usize; 2]) -> [[u32; 2]; REACH] {
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = op.input.channels;
    let [first_row, row_count] = taps_of(0, kernel_h, pass[0]);
    let [first_column, column_count] = taps_of(1, kernel_w, pass[1]);
    let tap = first_row.wrapping_mul(kernel_w).wrapping_add(first_column);
    let mut start = tap.wrapping_mul(depth).wrapping_add(channel);
    let mut rows = [[0; 2]; REACH];
    for row in rows.iter_mut().take(row_count) {
        let mut index = start;
        let mut taps = [0i8; REACH];
        for tap in taps.iter_mut().take(column_count) {
            *tap = at(op.weights, index);
            index = index.wrapping_add(depth);
        }
        start = start.wrapping_add(kernel_w.wrapping_mul(depth));
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
        let mut to = base.wrapping_add(planes.row_at(row, whole));
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
