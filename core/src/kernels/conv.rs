use super::rescale::Rescale;
use super::{Taps, part, put};
use crate::model::layout::ChannelRecord;
use crate::model::{Conv, Tensor, Weights, Window};

/// Whether a convolution can replace its input by its output: that of a pointwise one with no more output
/// channels than input channels never stands before inputs that are still to be read, because kernels read
/// some pixels before they write the first of these pixels' outputs.
pub fn conv_in_place(input: &Tensor, output: &Tensor, window: &Window) -> bool {
    let Window { kernel, stride, pad } = *window;
    let pointwise = (kernel, stride, pad) == ([1, 1], [1, 1], [0, 0]);
    let same = (input.height, input.width) == (output.height, output.width);
    pointwise && same && output.channels <= input.channels
}

/// Convolution (cross-correlation) of `x` into `y`, both in the order height, width, channel.
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
pub fn conv(op: &Conv<'_>, x: &[i8], y: &mut [i8], _scratch: &mut [i8]) {
    if let Weights::Dense(weights) = op.weights {
        dense(op, weights, x, y);
    }
}

fn dense(op: &Conv<'_>, weights: &[i8], x: &[i8], y: &mut [i8]) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let [stride_h, stride_w] = op.window.stride;
    let [pad_h, pad_w] = op.window.pad;
    let (height, width, depth) = (op.input.height, op.input.width, op.input.channels);
    let group_depth = depth.checked_div(op.groups).unwrap_or(0);
    let group_outputs = op.output.channels.checked_div(op.groups).unwrap_or(0);
    let row_len = kernel_w.wrapping_mul(group_depth);
    let channel_len = kernel_h.wrapping_mul(row_len);
    let zero = i32::from(op.input.zero_point);

    let mut pixel = 0usize;
    for oy in 0..op.output.height {
        let rows = Taps::new(oy, stride_h, pad_h, kernel_h, height);
        for ox in 0..op.output.width {
            let columns = Taps::new(ox, stride_w, pad_w, kernel_w, width);
            let mut weight = 0usize;
            let mut output = 0usize;
            for group in 0..op.groups {
                let group_start = group.wrapping_mul(group_depth);
                for _ in 0..group_outputs {
                    let Some(channel) = op.channels.get(output) else { return };
                    let mut sum = channel.bias.get();
                    for ky in 0..kernel_h {
                        let row =
                            part(weights, weight.wrapping_add(ky.wrapping_mul(row_len)), row_len);
                        let Some(iy) = rows.input(ky) else {
                            sum = sum.wrapping_add(zero.wrapping_mul(total(row)));
                            continue;
                        };
                        // Taps of one row that lie over the input; without groups they are one run.
                        let first = columns.first.wrapping_mul(group_depth);
                        let end = columns.end.wrapping_mul(group_depth);
                        let outside = total(part(row, 0, first))
                            .wrapping_add(total(row.get(end..).unwrap_or(&[])));
                        sum = sum.wrapping_add(zero.wrapping_mul(outside));
                        let start = iy
                            .wrapping_mul(width)
                            .wrapping_add(columns.origin)
                            .wrapping_mul(depth)
                            .wrapping_add(group_start);
                        let taps = columns.end.saturating_sub(columns.first);
                        if op.groups == 1 {
                            let len = taps.wrapping_mul(depth);
                            sum = dot(sum, part(x, start, len), part(row, first, len));
                        } else {
                            for tap in 0..taps {
                                let x = part(
                                    x,
                                    start.wrapping_add(tap.wrapping_mul(depth)),
                                    group_depth,
                                );
                                let at = first.wrapping_add(tap.wrapping_mul(group_depth));
                                sum = dot(sum, x, part(row, at, group_depth));
                            }
                        }
                    }
                    let index = pixel.wrapping_mul(op.output.channels).wrapping_add(output);
                    put(y, index, requantise(op, channel, sum));
                    weight = weight.wrapping_add(channel_len);
                    output = output.wrapping_add(1);
                }
            }
            pixel = pixel.wrapping_add(1);
        }
    }
}

#[inline(always)]
fn requantise(op: &Conv<'_>, channel: &ChannelRecord, sum: i32) -> i8 {
    rescale(channel).requantise(sum, op.output.zero_point, op.clamp)
}

/// The channel's rescale; checked models have no other kind.
#[inline(always)]
pub(super) fn rescale(channel: &ChannelRecord) -> Rescale {
    Rescale::new(channel.multiplier.get(), channel.shift()).unwrap_or(Rescale::ZERO)
}

#[inline(always)]
fn dot(sum: i32, x: &[i8], weights: &[i8]) -> i32 {
    let products = x.iter().zip(weights).map(|(&x, &w)| i32::from(x).wrapping_mul(i32::from(w)));
    products.fold(sum, i32::wrapping_add)
}

#[inline(always)]
fn total(weights: &[i8]) -> i32 {
    weights.iter().fold(0i32, |sum, &w| sum.wrapping_add(i32::from(w)))
}
