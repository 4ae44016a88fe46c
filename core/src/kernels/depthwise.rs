use super::conv::rescale;
use super::{Taps, at, part, put};
use crate::model::Depthwise;

/// Channels that are computed together, so that neighbouring elements are read in one sweep.
const TILE: usize = 16;

/// Depthwise convolution of `x` into `y`, both in the order height, width, channel.
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
pub fn depthwise(op: &Depthwise<'_>, x: &[i8], y: &mut [i8], _scratch: &mut [i8]) {
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
