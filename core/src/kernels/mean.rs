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

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::mean;
    use crate::kernels::Rescale;
    use crate::model::{Clamp, Mean, Tensor};

    proptest! {
        #[test]
        fn equals_the_real_mean(
            shape in [1usize..6, 1usize..6, 1usize..8],
            over: [bool; 3],
            zero: [i8; 2],
            ratio in 0.2f64..3.0,
            values in proptest::collection::vec(any::<i8>(), 6 * 6 * 8),
        ) {
            let tensor = |[height, width, channels]: [usize; 3], zero_point| Tensor {
                offset: 0, height, width, channels, zero_point, scale: 1.0
            };
            let reduced = [0, 1, 2].map(|axis| if over[axis] { 1 } else { shape[axis] });
            let (input, output) = (tensor(shape, zero[0]), tensor(reduced, zero[1]));
            let count = input.len() / output.len();
            let (multiplier, shift) = Rescale::quantise(ratio / count as f64).unwrap();
            let rescale = Rescale::new(multiplier, shift).unwrap();
            let clamp = Clamp { min: -128, max: 127 };
            let x = &values[..input.len()];
            let mut y = vec![0; output.len()];
            mean(&Mean { input, output, rescale, clamp }, x, &mut y);

            let mut sums: Vec<f64> = vec![0.0; output.len()];
            for (index, &x) in x.iter().enumerate() {
                let at = [index / (shape[1] * shape[2]), index / shape[2] % shape[1], index % shape[2]];
                let at = [0, 1, 2].map(|axis| if over[axis] { 0 } else { at[axis] });
                let at = (at[0] * reduced[1] + at[1]) * reduced[2] + at[2];
                sums[at] += f64::from(x) - f64::from(zero[0]);
            }
            for (sum, y) in sums.into_iter().zip(y) {
                let exact = (sum * ratio / count as f64 + f64::from(zero[1])).clamp(-128.0, 127.0);
                // Two roundings: a half, and at most half of a half before the shift.
                prop_assert!((exact - f64::from(y)).abs() <= 0.76, "{exact} {y}");
            }
        }
    }
}
