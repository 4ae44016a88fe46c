//! Pools over DSP instructions: four channels at a time.

use super::pool::mean;
use super::rescale::limit;
use super::{Taps, dsp, part};
use crate::model::Pool;

/// Channels that the DSP kernels pool together: the bytes of a word.
const GROUP: usize = 4;
/// Elements under a window whose sum a half holds in any case.
const SUMMED: usize = 255;

/// `None`, with `y` untouched, where the channels are no multiple of a word.
pub(super) fn max_pool(op: &Pool, x: &[i8], y: &mut [i8]) -> Option<()> {
    if !op.input.channels.is_multiple_of(GROUP) {
        return None;
    }
    pool_words(op, x, y, 0x8080_8080, dsp::max8, |largest, _| {
        largest.to_le_bytes().map(|byte| i32::from(byte as i8))
    });
    Some(())
}

/// `None`, with `y` untouched, where the channels are no multiple of a word or the window is large.
pub(super) fn avg_pool(op: &Pool, x: &[i8], y: &mut [i8]) -> Option<()> {
    let [kernel_h, kernel_w] = op.window.kernel;
    if kernel_h.wrapping_mul(kernel_w) > SUMMED || !op.input.channels.is_multiple_of(GROUP) {
        return None;
    }
    let add =
        |[even, odd]: [u32; 2], word| [dsp::sxtab16(even, word), dsp::sxtab16_ror8(odd, word)];
    pool_words(op, x, y, [0; 2], add, |[even, odd], count| {
        let halves = [even, odd, even >> 16, odd >> 16];
        halves.map(|half| mean(i32::from(half as i16), count))
    });
    Some(())
}

#[inline(always)]
fn pool_words<T: Copy>(
    op: &Pool,
    x: &[i8],
    y: &mut [i8],
    start: T,
    fold: impl Fn(T, u32) -> T,
    finish: impl Fn(T, i32) -> [i32; GROUP],
) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let [stride_h, stride_w] = op.window.stride;
    let [pad_h, pad_w] = op.window.pad;
    let depth = op.input.channels;
    let mut outputs = y.as_chunks_mut::<GROUP>().0.iter_mut();
    for oy in 0..op.output.height {
        let rows = Taps::new(oy, stride_h, pad_h, kernel_h, op.input.height);
        for ox in 0..op.output.width {
            let columns = Taps::new(ox, stride_w, pad_w, kernel_w, op.input.width);
            let (height, width) =
                (rows.end.saturating_sub(rows.first), columns.end.saturating_sub(columns.first));
            let count = height.wrapping_mul(width) as i32;
            for channel in (0..depth).step_by(GROUP) {
                let mut value = start;
                for iy in rows.origin..rows.origin.wrapping_add(height) {
                    let row = iy.wrapping_mul(op.input.width).wrapping_add(columns.origin);
                    let start = row.wrapping_mul(depth).wrapping_add(channel);
                    let mut rest = x.get(start..).unwrap_or(&[]);
                    for _ in 0..width {
                        let word = part(rest, 0, GROUP).first_chunk::<GROUP>();
                        let word = word.copied().unwrap_or_default().map(|byte| byte as u8);
                        value = fold(value, u32::from_le_bytes(word));
                        rest = rest.get(depth..).unwrap_or(&[]);
                    }
                }
                let Some(outputs) = outputs.next() else { return };
                *outputs = finish(value, count).map(|value| limit(value, op.clamp));
            }
        }
    }
}
