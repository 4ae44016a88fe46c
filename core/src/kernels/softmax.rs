//! TFLite's integer softmax: exponentials and a reciprocal in fixed point. `Qn` below means a signed
//! 32-bit number with `n` integer bits.

use super::fixed::{exp_of_negative, high_multiply, one_over_one_plus, rounding_shift_right};
use super::rescale::limit;
use super::{part, put};
use crate::model::{Clamp, Softmax};

/// Integer bits of a rescaled difference.
const DIFFERENCE_BITS: u32 = 5;
/// Integer bits of the sum of exponentials.
const SUM_BITS: u32 = 12;

/// Softmax of `x` into `y` over the channels of each position.
pub fn softmax(op: &Softmax, x: &[i8], y: &mut [i8]) {
    let depth = op.input.channels;
    let positions = op.input.height.wrapping_mul(op.input.width);
    let whole = Clamp { min: i8::MIN, max: i8::MAX };
    for position in 0..positions {
        let start = position.wrapping_mul(depth);
        let row = part(x, start, depth);
        let largest = row.iter().copied().max().unwrap_or(0);
        // Exponential in Q0 of an input; nothing when it is too small to count.
        let exponential = |x: i8| {
            let difference = i32::from(x) - i32::from(largest);
            (difference >= op.diff_min)
                .then(|| exp_of_negative::<DIFFERENCE_BITS>(op.rescale.apply(difference)))
        };
        let sum = row
            .iter()
            .filter_map(|&x| exponential(x))
            .fold(0i32, |sum, e| sum.wrapping_add(rounding_shift_right(e, SUM_BITS)));
        let (reciprocal, bits_over_unit) = reciprocal(sum);
        for (channel, &x) in row.iter().enumerate() {
            let value = exponential(x).map_or(i32::from(i8::MIN), |e| {
                let shift = bits_over_unit.wrapping_add(31 - 8);
                let scaled = rounding_shift_right(high_multiply(reciprocal, e), shift.min(31));
                scaled.wrapping_add(i32::from(i8::MIN))
            });
            put(y, start.wrapping_add(channel), limit(value, whole));
        }
    }
}

/// `1 / sum` for a sum in Q12: a number in Q0 between one half and one, and the power of two that is
/// still to be divided by.
fn reciprocal(sum: i32) -> (i32, u32) {
    // The largest input contributes exp(0): the sum of a real row has at most 12 integer bits.
    let headroom = sum.leading_zeros().min(SUM_BITS);
    let normalised = (sum as u32).wrapping_shl(headroom).wrapping_sub(1 << 31) as i32;
    (one_over_one_plus(normalised), SUM_BITS.wrapping_sub(headroom))
}
