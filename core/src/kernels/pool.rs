use super::rescale::limit;
use super::{Taps, at, put};
use crate::model::Pool;

/// Largest value under the window, per channel. Padding takes no part.
pub fn max_pool(op: &Pool, x: &[i8], y: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    if super::pool_dsp::max_pool(op, x, y).is_some() {
        return;
    }
    max_pool_portable(op, x, y);
}

/// Mean under the window, per channel, rounded half away from zero. Padding takes no part.
pub fn avg_pool(op: &Pool, x: &[i8], y: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    if super::pool_dsp::avg_pool(op, x, y).is_some() {
        return;
    }
    avg_pool_portable(op, x, y);
}

pub(super) fn max_pool_portable(op: &Pool, x: &[i8], y: &mut [i8]) {
    pool(op, x, y, i32::from(i8::MIN), i32::max, |largest, _| largest);
}

pub(super) fn avg_pool_portable(op: &Pool, x: &[i8], y: &mut [i8]) {
    pool(op, x, y, 0, i32::wrapping_add, mean);
}

#[inline(always)]
pub(super) fn mean(sum: i32, count: i32) -> i32 {
    let half = count / 2;
    let nudged = if sum > 0 { sum.wrapping_add(half) } else { sum.wrapping_sub(half) };
    nudged.checked_div(count).unwrap_or(0)
}

#[inline(always)]
fn pool(
    op: &Pool,
    x: &[i8],
    y: &mut [i8],
    start: i32,
    fold: impl Fn(i32, i32) -> i32,
    finish: impl Fn(i32, i32) -> i32,
) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let [stride_h, stride_w] = op.window.stride;
    let [pad_h, pad_w] = op.window.pad;
    let depth = op.input.channels;
    let mut index = 0usize;
    for oy in 0..op.output.height {
        let rows = Taps::new(oy, stride_h, pad_h, kernel_h, op.input.height);
        for ox in 0..op.output.width {
            let columns = Taps::new(ox, stride_w, pad_w, kernel_w, op.input.width);
            let (height, width) =
                (rows.end.saturating_sub(rows.first), columns.end.saturating_sub(columns.first));
            let count = height.wrapping_mul(width) as i32;
            for channel in 0..depth {
                let mut value = start;
                for iy in rows.origin..rows.origin.wrapping_add(height) {
                    let row = iy.wrapping_mul(op.input.width).wrapping_add(columns.origin);
                    let mut at_tap = row.wrapping_mul(depth).wrapping_add(channel);
                    for _ in 0..width {
                        value = fold(value, i32::from(at(x, at_tap)));
                        at_tap = at_tap.wrapping_add(depth);
                    }
                }
                put(y, index, limit(finish(value, count), op.clamp));
                index = index.wrapping_add(1);
            }
        }
    }
}
