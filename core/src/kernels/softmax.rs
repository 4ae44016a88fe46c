//! TFLite's integer softmax: exponentials and a reciprocal in fixed point, after gemmlowp's
//! `fixedpoint.h`. `Qn` below means a signed 32-bit number with `n` integer bits.

use super::rescale::{high_multiply, limit, rounding_shift_right};
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
            (difference >= op.diff_min).then(|| exp_of_negative(op.rescale.apply(difference)))
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

/// `x * 2^exponent` saturated (gemmlowp's `SaturatingRoundingMultiplyByPOT` with a positive power).
fn saturating_shift_left(x: i32, exponent: u32) -> i32 {
    let limit = i32::MAX >> exponent;
    if x > limit {
        i32::MAX
    } else if x < -limit - 1 {
        i32::MIN
    } else {
        x.wrapping_shl(exponent)
    }
}

/// `exp(a)` in Q0 for `a <= 0` in Q5 (gemmlowp's `exp_on_negative_values`).
fn exp_of_negative(a: i32) -> i32 {
    const FRACTION: u32 = 31 - DIFFERENCE_BITS;
    const QUARTER: i32 = 1 << (FRACTION - 2);
    /// `exp(-2^k)` in Q0 for k from -2 to 4.
    const POWERS: [i32; 7] =
        [1_672_461_947, 1_302_514_674, 790_015_084, 290_630_308, 39_332_535, 720_401, 242];
    if a == 0 {
        return i32::MAX;
    }
    let remainder = (a & (QUARTER - 1)).wrapping_sub(QUARTER);
    let mut result = exp_near_zero(saturating_shift_left(remainder, DIFFERENCE_BITS));
    let whole = remainder.wrapping_sub(a);
    for (bit, power) in POWERS.into_iter().enumerate() {
        if whole & QUARTER.wrapping_shl(bit as u32) != 0 {
            result = high_multiply(result, power);
        }
    }
    result
}

/// `exp(a)` in Q0 for `a` in Q0 from -1/4 to 0: a Taylor series around -1/8.
fn exp_near_zero(a: i32) -> i32 {
    const EXP_OF_MINUS_EIGHTH: i32 = 1_895_147_668;
    const THIRD: i32 = 715_827_883;
    let x = a.wrapping_add(1 << 28);
    let x2 = high_multiply(x, x);
    let x3 = high_multiply(x2, x);
    let x4 = high_multiply(x2, x2);
    let x4_over_4 = rounding_shift_right(x4, 2);
    let series = high_multiply(x4_over_4.wrapping_add(x3), THIRD).wrapping_add(x2);
    let series = rounding_shift_right(series, 1);
    EXP_OF_MINUS_EIGHTH.saturating_add(high_multiply(EXP_OF_MINUS_EIGHTH, x.wrapping_add(series)))
}

/// `1 / (1 + a)` in Q0 for `a` in Q0 from 0 to 1, by three steps of Newton and Raphson (gemmlowp's
/// `one_over_one_plus_x_for_x_in_0_1`).
fn one_over_one_plus(a: i32) -> i32 {
    const FORTY_EIGHT_SEVENTEENTHS: i32 = 1_515_870_810; // Q2
    const MINUS_THIRTY_TWO_SEVENTEENTHS: i32 = -1_010_580_540; // Q2
    const ONE: i32 = 1 << 29; // Q2
    let sum = i64::from(a) + i64::from(i32::MAX);
    let half_denominator = ((sum + if sum >= 0 { 1 } else { -1 }) / 2) as i32;
    let mut x = FORTY_EIGHT_SEVENTEENTHS
        .wrapping_add(high_multiply(half_denominator, MINUS_THIRTY_TWO_SEVENTEENTHS));
    for _ in 0..3 {
        let error = ONE.wrapping_sub(high_multiply(half_denominator, x));
        x = x.wrapping_add(saturating_shift_left(high_multiply(x, error), 2));
    }
    saturating_shift_left(x, 1)
}
