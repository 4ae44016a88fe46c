use crate::model::Lookup;

/// Replaces each element of `y` by its entry in the operator's table.
pub fn lookup(op: &Lookup<'_>, y: &mut [i8]) {
    for y in y {
        // Flipping the sign bit turns -128..=127 into 0..=255: always within the table.
        *y = op.table[usize::from(*y as u8 ^ 0x80)];
    }
}
