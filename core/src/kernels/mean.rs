use super::{part, put};
use crate::model::Mean;

/// Mean of `x` over each axis on which the output has one element, brought to the output's scale.
pub fn mean(op: &Mean, x: &[i8], y: &mut [i8]) {
    let [rows, columns, depths] = op.spans();
    let (width, depth) = (op.input.width, op.input.channels);
    let count = rows.wrapping_mul(columns).wrapping_mul(depths) as i32;
    let offset = i32::from(op.input.zero_point).wrapping_mul(count);
    let mut index = 0usize;
    for oy in 0..op.output.height {
        for ox in 0..op.output.width {
            for channel in 0..op.output.channels {
                let mut sum = 0i32;
                for row in oy..oy.wrapping_add(rows) {
                    for column in ox..ox.wrapping_add(columns) {
                        let pixel = row.wrapping_mul(width).wrapping_add(column);
                        let start = pixel.wrapping_mul(depth).wrapping_add(channel);
                        for &x in part(x, start, depths) {
                            sum = sum.wrapping_add(i32::from(x));
                        }
                    }
                }
                let sum = sum.wrapping_sub(offset);
                put(y, index, op.rescale.requantise(sum, op.output.zero_point, op.clamp));
                index = index.wrapping_add(1);
            }
        }
    }
}
