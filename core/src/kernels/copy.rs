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
