use crate::model::Copy;

/// Copies a block of `x` to a block of `y`, axis by axis: padding, concatenation, slices and
/// transposition.
pub fn copy(op: &Copy, x: &[i8], y: &mut [i8]) {
    if let Some(fill) = op.fill {
        y.fill(fill);
    }
    let [rows, columns, elements] = op.counts;
    for row in 0..rows {
        for column in 0..columns {
            let from = op.source.at(row, column);
            let to = op.destination.at(row, column);
            let x = x.get(from..).unwrap_or(&[]).iter().step_by(op.source.strides[2]);
            let y = y.get_mut(to..).unwrap_or(&mut []).iter_mut();
            for (y, &x) in y.step_by(op.destination.strides[2]).zip(x).take(elements) {
                *y = x;
            }
        }
    }
}
