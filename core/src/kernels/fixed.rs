//! Functions in fixed point that round as gemmlowp's `fixedpoint.h` does, for softmax and for the
//! tables that an exporter makes of sigmoid and tanh. `Qn` means a signed 32-bit number with `n`
//! integer bits.

pub use super::rescale::{high_multiply, rounding_shift_right};

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

/// `exp(a)` in Q0 for `a <= 0` with at most 5 integer bits (gemmlowp's `exp_on_negative_values`).
pub fn exp_of_negative<const INTEGER_BITS: u32>(a: i32) -> i32 {
    /// `exp(-2^k)` in Q0 for k from -2 to 4.
    const POWERS: [i32; 7] =
        [1_672_461_947, 1_302_514_674, 790_015_084, 290_630_308, 39_332_535, 720_401, 242];
    let quarter = const { 1i32 << (31 - INTEGER_BITS - 2) };
    if a == 0 {
        return i32::MAX;
    }
    let remainder = (a & quarter.wrapping_sub(1)).wrapping_sub(quarter);
    let mut result = exp_near_zero(saturating_shift_left(remainder, INTEGER_BITS));
    let whole = remainder.wrapping_sub(a);
    // Powers that the integer bits can express: from -2 to `INTEGER_BITS - 1`.
    let powers = POWERS.into_iter().take(INTEGER_BITS.wrapping_add(2) as usize);
    for (bit, power) in powers.enumerate() {
        if whole & quarter.wrapping_shl(bit as u32) != 0 {
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

/// 1 in Q2.
const ONE: i32 = 1 << 29;

/// `1 / (1 + a)` in Q0 for `a` in Q0 from 0 to 1 (gemmlowp's `one_over_one_plus_x_for_x_in_0_1`).
pub fn one_over_one_plus(a: i32) -> i32 {
    saturating_shift_left(two_over_one_plus(a), 1)
}

/// `(1 - a) / (1 + a)` in Q0 for `a` in Q0 from 0 to 1 (gemmlowp's
/// `one_minus_x_over_one_plus_x_for_x_in_0_1`).
pub fn one_minus_over_one_plus(a: i32) -> i32 {
    saturating_shift_left(two_over_one_plus(a).wrapping_sub(ONE), 2)
}

/// `2 / (1 + a)` in Q2 for `a` in Q0 from 0 to 1, by three steps of Newton and Raphson.
fn two_over_one_plus(a: i32) -> i32 {
    const FORTY_EIGHT_SEVENTEENTHS: i32 = 1_515_870_810; // Q2
    const MINUS_THIRTY_TWO_SEVENTEENTHS: i32 = -1_010_580_540; // Q2
    let sum = i64::from(a) + i64::from(i32::MAX);
    let half_denominator = ((sum + if sum >= 0 { 1 } else { -1 }) / 2) as i32;
    let mut x = FORTY_EIGHT_SEVENTEENTHS
        .wrapping_add(high_multiply(half_denominator, MINUS_THIRTY_TWO_SEVENTEENTHS));
    for _ in 0..3 {
        let error = ONE.wrapping_sub(high_multiply(half_denominator, x));
        x = x.wrapping_add(saturating_shift_left(high_multiply(x, error), 2));
    }
    x
}
