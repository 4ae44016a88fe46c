use super::{at, part, put};
use crate::model::BlockCopy;

/// Copies a block of `x` to a block of `y`: padding, concatenation, slices and transposition.
pub fn copy(op: &BlockCopy, x: &[i8], y: &mut [i8]) {
    if let Some(fill) = op.fill {
        y.fill(fill);
    }
    let [rows, columns, elements] = op.counts;
    let [from_step, to_step] = [op.source.strides[2], op.destination.strides[2]];
    for row in 0..rows {
        for column in 0..columns {
            let (mut from, mut to) = (op.source.at(row, column), op.destination.at(row, column));
            if from_step == 1 && to_step == 1 {
                let y = y.get_mut(to..).unwrap_or(&mut []);
                for (y, &x) in y.iter_mut().zip(part(x, from, elements)) {
                    *y = x;
                }
                continue;
            }
            for _ in 0..elements {
                put(y, to, at(x, from));
                from = from.wrapping_add(from_step);
                to = to.wrapping_add(to_step);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::copy;
    use crate::model::{BlockCopy, Place, Tensor};

    fn place() -> impl Strategy<Value = Place> {
        (0usize..20, [1usize..40, 1usize..12, 1usize..4])
            .prop_map(|(first, strides)| Place { first, strides })
    }

    proptest! {
        #[test]
        fn every_element_goes_to_its_place(
            counts in [1usize..5, 1usize..5, 1usize..9],
            source in place(),
            destination in place(),
            fill in any::<Option<i8>>(),
            seed: u8,
        ) {
            let positions = |place: &Place| -> Vec<usize> {
                let mut positions = vec![];
                for a in 0..counts[0] {
                    for b in 0..counts[1] {
                        for c in 0..counts[2] {
                            let [x, y, z] = place.strides;
                            positions.push(place.first + a * x + b * y + c * z);
                        }
                    }
                }
                positions
            };
            let len = |place: &Place| positions(place).iter().max().unwrap() + 1;
            let tensor = |channels| Tensor {
                offset: 0, height: 1, width: 1, channels, zero_point: 0, scale: 1.0
            };
            let (input, output) = (tensor(len(&source)), tensor(len(&destination)));
            let x: Vec<i8> = (0..input.channels).map(|i| (i as u8 ^ seed) as i8).collect();
            let before: Vec<i8> = vec![-7; output.channels];
            let mut expected = fill.map_or(before.clone(), |fill| vec![fill; before.len()]);
            for (from, to) in positions(&source).into_iter().zip(positions(&destination)) {
                expected[to] = x[from];
            }
            let mut y = before;
            copy(&BlockCopy { input, output, counts, source, destination, fill }, &x, &mut y);
            prop_assert_eq!(y, expected);
        }
    }
}
