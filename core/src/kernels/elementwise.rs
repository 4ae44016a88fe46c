use super::add::SPARE_BITS;
use super::at;
use super::rescale::limit;
use crate::model::{Elementwise, Function};

/// Combines each element of `y`, where the first operand stands, with the second operand's: `b` has
/// one element on the axes along which it repeats.
pub fn elementwise(op: &Elementwise<'_>, b: &[i8], y: &mut [i8]) {
    let [height, width, channels] = op.operand.dimensions;
    let stride = |dimension: usize, stride: usize| if dimension == 1 { 0 } else { stride };
    let row_stride = stride(height, width.wrapping_mul(channels));
    let column_stride = stride(width, channels);
    let channel_stride = stride(channels, 1);
    let zero = [op.input.zero_point, op.operand.zero_point].map(i32::from);
    let output_zero = op.output.zero_point;

    let mut y = y.iter_mut();
    for row in 0..op.output.height {
        for column in 0..op.output.width {
            let mut index =
                row.wrapping_mul(row_stride).wrapping_add(column.wrapping_mul(column_stride));
            for y in y.by_ref().take(op.output.channels) {
                let (a, b) = (i32::from(*y) - zero[0], i32::from(at(b, index)) - zero[1]);
                *y = match op.function {
                    Function::Mul(rescale) => {
                        rescale.requantise(a.wrapping_mul(b), output_zero, op.clamp)
                    }
                    Function::Add { inputs, output } => {
                        let a = inputs[0].apply(a.wrapping_shl(SPARE_BITS));
                        let b = inputs[1].apply(b.wrapping_shl(SPARE_BITS));
                        let sum = output.apply(a.wrapping_add(b));
                        limit(sum.saturating_add(i32::from(output_zero)), op.clamp)
                    }
                };
                index = index.wrapping_add(channel_stride);
            }
        }
    }
}
