use crate::model::Clamp;

/// Multiplication by a positive real number as TFLite writes it: a multiplier with 31 fractional
/// bits and a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescale {
    multiplier: i32,
    left: u8,
    right: u8,
}

impl Rescale {
    /// Multiplication by zero.
    pub const ZERO: Self = Self { multiplier: 0, left: 0, right: 0 };

    /// `multiplier / 2^31 * 2^shift`. `None` when the multiplier is negative or the shift is not
    /// within -31 to 30.
    pub const fn new(multiplier: i32, shift: i32) -> Option<Self> {
        if multiplier < 0 || shift < -31 || shift > 30 {
            return None;
        }
        let (left, right) = if shift > 0 { (shift as u8, 0) } else { (0, -shift as u8) };
        Some(Self { multiplier, left, right })
    }

    /// Multiplier and shift, as [`new`](Self::new) takes them.
    pub const fn parts(self) -> (i32, i32) {
        (self.multiplier, self.left as i32 - self.right as i32)
    }

    /// The real number as multiplier and shift, the multiplier in `[2^30, 2^31)` unless it is zero.
    /// Numbers too small for a shift of -31 become zero. `None` for a number that is negative, not
    /// finite or 2^30 and more.
    ///
    /// The source is `QuantizeMultiplier` of TFLite; it runs on the host, at export.
    pub fn quantise(real: f64) -> Option<(i32, i32)> {
        if !real.is_finite() || real < 0.0 {
            return None;
        }
        if real == 0.0 {
            return Some((0, 0));
        }
        // real = fraction * 2^exponent with fraction in [0.5, 1): exact, so by repeated halving.
        let (mut fraction, mut exponent) = (real, 0i32);
        while fraction >= 1.0 {
            fraction *= 0.5;
            exponent += 1;
        }
        while fraction < 0.5 {
            fraction *= 2.0;
            exponent -= 1;
        }
        // Round half away from zero; the product is exact in f64.
        let mut multiplier = (fraction * 2_147_483_648.0 + 0.5) as i64;
        if multiplier == 1 << 31 {
            multiplier >>= 1;
            exponent += 1;
        }
        match exponent {
            ..-31 => Some((0, 0)),
            -31..=30 => Some((multiplier as i32, exponent)),
            _ => None,
        }
    }

    /// The real number that it multiplies by.
    #[cfg(feature = "learn")]
    pub(crate) fn real(self) -> f32 {
        // Powers of two are exact.
        let power = |exponent: u8| (1u64 << (exponent & 63)) as f32;
        self.multiplier as f32 / 2_147_483_648.0 * power(self.left) / power(self.right)
    }

    /// Multiplier and right shift, where the multiplier is normalised, in `[2^30, 2^31)`, and the
    /// power of two does not go left.
    #[cfg(any(niwaki_dsp, test))]
    pub(super) const fn normalised(self) -> Option<(i32, i32)> {
        if self.multiplier >= 1 << 30 && self.left == 0 {
            Some((self.multiplier, self.right as i32))
        } else {
            None
        }
    }

    /// Rescales: a high multiplication rounded to nearest with ties up, then a right shift rounded
    /// to nearest with ties away from zero.
    #[inline(always)]
    pub const fn apply(self, x: i32) -> i32 {
        let x = x.wrapping_shl(self.left as u32);
        rounding_shift_right(high_multiply(x, self.multiplier), self.right as u32)
    }

    /// Rescales an accumulator and brings it to an output's zero point and range.
    #[inline(always)]
    pub(super) fn requantise(self, accumulator: i32, zero_point: i8, clamp: Clamp) -> i8 {
        limit(self.apply(accumulator).saturating_add(i32::from(zero_point)), clamp)
    }
}

/// The value within the clamp's range.
#[inline(always)]
pub(super) fn limit(value: i32, clamp: Clamp) -> i8 {
    // `Ord::clamp` panics when the range is empty.
    value.max(i32::from(clamp.min)).min(i32::from(clamp.max)) as i8
}

/// `a * b / 2^31` rounded to nearest, ties up, saturated. For all arguments this equals gemmlowp's
/// `SaturatingRoundingDoublingHighMul`, whose truncating division of `a * b + nudge` also sends ties
/// up.
#[inline(always)]
pub const fn high_multiply(a: i32, b: i32) -> i32 {
    let product = (a as i64 * b as i64 + (1 << 30)) >> 31;
    // Only MIN * MIN reaches 2^31.
    if product > i32::MAX as i64 { i32::MAX } else { product as i32 }
}

/// `x / 2^shift` rounded to nearest, ties away from zero (gemmlowp's `RoundingDivideByPOT`).
#[inline(always)]
pub const fn rounding_shift_right(x: i32, shift: u32) -> i32 {
    let mask = (1i32.wrapping_shl(shift)).wrapping_sub(1);
    let threshold = (mask >> 1).wrapping_add((x < 0) as i32);
    (x >> (shift & 31)).wrapping_add(((x & mask) > threshold) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// gemmlowp's definition, word for word.
    fn doubling_high_mul(a: i32, b: i32) -> i32 {
        if a == i32::MIN && b == i32::MIN {
            return i32::MAX;
        }
        let product = i64::from(a) * i64::from(b);
        let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
        ((product + nudge) / (1 << 31)) as i32
    }

    proptest! {
        #[test]
        fn high_multiply_is_gemmlowps(a: i32, b: i32, tie in -4i32..4) {
            prop_assert_eq!(high_multiply(a, b), doubling_high_mul(a, b));
            // Ties: a * b = (2 tie + 1) * 2^30.
            prop_assert_eq!(high_multiply(2 * tie + 1, 1 << 30), doubling_high_mul(2 * tie + 1, 1 << 30));
        }

        #[test]
        fn shift_rounds_ties_away_from_zero(x: i32, shift in 0u32..32) {
            // Not `exp2`, whose last digits the platform may choose.
            let exact = f64::from(x) / (1u64 << shift) as f64;
            prop_assert_eq!(rounding_shift_right(x, shift), exact.round() as i32);
        }

        #[test]
        fn rescale_is_close_to_the_real_product(x in -1_000_000i32..1_000_000, real in 1e-7f64..64.0) {
            let (multiplier, shift) = Rescale::quantise(real).unwrap();
            let rescaled = Rescale::new(multiplier, shift).unwrap().apply(x);
            prop_assert!((f64::from(rescaled) - f64::from(x) * real).abs() <= 1.01);
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(high_multiply(i32::MIN, i32::MIN), i32::MAX);
        assert_eq!(high_multiply(i32::MIN, i32::MAX), doubling_high_mul(i32::MIN, i32::MAX));
        assert_eq!(Rescale::quantise(0.5), Some((1 << 30, 0)));
        assert_eq!(Rescale::quantise(1.0 - f64::EPSILON / 2.0), Some((1 << 30, 1)));
        assert_eq!(Rescale::quantise(1e-12), Some((0, 0)));
        assert_eq!(Rescale::quantise(f64::NAN), None);
        assert_eq!(Rescale::quantise(1e12), None);
        assert!(Rescale::new(-1, 0).is_none() && Rescale::new(1, 31).is_none());
    }
}
