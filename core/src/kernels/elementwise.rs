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

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::elementwise;
    use crate::kernels::{Rescale, add};
    use crate::model::{Add, Clamp, Elementwise, Function, Operand, OperandSource, Tensor};

    const CLAMP: Clamp = Clamp { min: -100, max: 120 };

    fn tensor([height, width, channels]: [usize; 3], zero_point: i8) -> Tensor {
        Tensor { offset: 0, height, width, channels, zero_point, scale: 1.0 }
    }

    fn rescale(real: f64) -> Rescale {
        let (multiplier, shift) = Rescale::quantise(real).unwrap();
        Rescale::new(multiplier, shift).unwrap()
    }

    proptest! {
        /// A repeated operand gives what the same operand gives when it is written out.
        #[test]
        fn repetition_and_functions(
            shape in [1usize..5, 1usize..5, 1usize..6],
            repeats: [bool; 3],
            zero: [i8; 3],
            reals in [0.01f64..0.5, 0.01f64..0.5, 1e-8f64..1e-5, 1e-4f64..2.0],
            values in proptest::collection::vec(any::<[i8; 2]>(), 4 * 4 * 5),
        ) {
            let input = tensor(shape, zero[0]);
            let output = tensor(shape, zero[2]);
            let dimensions = [0, 1, 2].map(|axis| if repeats[axis] { 1 } else { shape[axis] });
            let a: Vec<i8> = values[..input.len()].iter().map(|pair| pair[0]).collect();
            let few: Vec<i8> =
                values[..dimensions.iter().product()].iter().map(|pair| pair[1]).collect();
            let all: Vec<i8> = (0..input.len())
                .map(|index| {
                    let at = [index / (shape[1] * shape[2]), index / shape[2] % shape[1], index % shape[2]];
                    let at = [0, 1, 2].map(|axis| if repeats[axis] { 0 } else { at[axis] });
                    few[(at[0] * dimensions[1] + at[1]) * dimensions[2] + at[2]]
                })
                .collect();
            let run = |function| {
                let operand = Operand {
                    dimensions, zero_point: zero[1], source: OperandSource::Constant(&few)
                };
                let mut y = a.clone();
                elementwise(&Elementwise { input, operand, output, function, clamp: CLAMP }, &few, &mut y);
                y
            };

            let (inputs, sum) = ([rescale(reals[0]), rescale(reals[1])], rescale(reals[2]));
            let op = Add {
                inputs: [input, tensor(shape, zero[1])],
                output,
                input_rescale: inputs,
                output_rescale: sum,
                clamp: CLAMP,
            };
            let mut expected = a.clone();
            add(&op, &all, &mut expected);
            prop_assert_eq!(run(Function::Add { inputs, output: sum }), expected);

            let product = rescale(reals[3]);
            let mut expected = vec![];
            for (&a, &b) in a.iter().zip(&all) {
                let (a, b) = (i32::from(a) - i32::from(zero[0]), i32::from(b) - i32::from(zero[1]));
                let real = product.apply(a * b) + i32::from(zero[2]);
                expected.push(real.clamp(CLAMP.min.into(), CLAMP.max.into()) as i8);
            }
            prop_assert_eq!(run(Function::Mul(product)), expected);
        }
    }
}
