//! Functions of one value as tables, filled with the integer arithmetic of TensorFlow Lite Micro's
//! reference kernels. `None` stands for a scale that the arithmetic is not defined for.

use niwaki_core::kernels::Rescale;
use niwaki_core::kernels::fixed::{
    exp_of_negative, one_minus_over_one_plus, one_over_one_plus, rounding_shift_right,
};
use niwaki_core::model::Clamp;

use crate::export::Quantisation;

pub(super) type Table = Box<[i8; 256]>;

/// All int8 values.
pub(super) const WHOLE: Clamp = Clamp { min: i8::MIN, max: i8::MAX };

/// The table of a function, clamped.
pub(super) fn tabulate(clamp: Clamp, function: impl Fn(i32) -> i32) -> Table {
    let mut table = Box::new([0; 256]);
    for (entry, stored) in table.iter_mut().zip(-128..) {
        *entry = function(stored).max(clamp.min.into()).min(clamp.max.into()) as i8;
    }
    table
}

pub(super) fn rescale(real: f64) -> Option<Rescale> {
    let (multiplier, shift) = Rescale::quantise(real)?;
    Rescale::new(multiplier, shift)
}

/// Change of scale and zero point, then a clamp: QUANTIZE, RELU.
pub(super) fn requantise(input: Quantisation, output: Quantisation, clamp: Clamp) -> Option<Table> {
    let rescale = rescale(f64::from(input.scale) / f64::from(output.scale))?;
    let zero = [input.zero_point, output.zero_point].map(i32::from);
    Some(tabulate(clamp, |x| rescale.apply(x - zero[0]).saturating_add(zero[1])))
}

/// Identity above zero, multiplication by `alpha` below. The multipliers are computed in single
/// precision.
pub(super) fn leaky_relu(input: Quantisation, output: Quantisation, alpha: f32) -> Option<Table> {
    let negative = rescale(f64::from(input.scale * alpha / output.scale))?;
    let positive = rescale(f64::from(input.scale / output.scale))?;
    let zero = [input.zero_point, output.zero_point].map(i32::from);
    Some(tabulate(WHOLE, |x| {
        let x = x - zero[0];
        let rescale = if x >= 0 { positive } else { negative };
        rescale.apply(x).saturating_add(zero[1])
    }))
}

/// Integer bits of an input to sigmoid and tanh.
const INTEGER_BITS: u32 = 4;

/// The table of a function on `Q4`, for inputs that are brought there and that fit.
fn of_q4(input: Quantisation, function: impl Fn(i32) -> i32) -> Option<Table> {
    let real = f64::from(input.scale) * f64::from(1u32 << (31 - INTEGER_BITS));
    let (multiplier, shift) = Rescale::quantise(real)?;
    let rescale = Rescale::new(multiplier, shift).filter(|_| shift >= 0)?;
    let most = f64::from((1 << INTEGER_BITS) - 1) * f64::from(1u32 << (31 - INTEGER_BITS));
    let radius = (most / f64::from(shift).exp2()).floor() as i32;
    let zero = i32::from(input.zero_point);
    Some(tabulate(WHOLE, |x| match x - zero {
        x if x <= -radius => i8::MIN.into(),
        x if x >= radius => i8::MAX.into(),
        x => function(rescale.apply(x)),
    }))
}

/// Sigmoid with an output scale of 1/256 and a zero point of -128.
pub(super) fn logistic(input: Quantisation) -> Option<Table> {
    of_q4(input, |x| {
        let positive = one_over_one_plus(exp_of_negative::<INTEGER_BITS>(-x.abs()));
        let sigmoid = match x {
            0 => 1 << 30,
            1.. => positive,
            _ => i32::MAX - positive,
        };
        rounding_shift_right(sigmoid, 31 - 8) - 128
    })
}

/// Hyperbolic tangent with an output scale of 1/128 and a zero point of 0.
pub(super) fn tanh(input: Quantisation) -> Option<Table> {
    of_q4(input, |x| {
        // exp(-2 |x|): one more integer bit doubles.
        let e = exp_of_negative::<{ INTEGER_BITS + 1 }>(-x.abs());
        let tanh = x.signum() * one_minus_over_one_plus(e);
        rounding_shift_right(tanh, 31 - 7)
    })
}

/// `x * relu6(x + 3) / 6`, in 16-bit fixed point.
pub(super) fn hard_swish(input: Quantisation, output: Quantisation) -> Option<Table> {
    // The scale of inputs with seven more bits, computed in single precision.
    let fine_scale = (1.0 / 128.0) * input.scale;
    let (output_multiplier, output_shift) =
        Rescale::quantise(f64::from(fine_scale / output.scale))?;
    let (relu_multiplier, relu_shift) =
        Rescale::quantise(f64::from(fine_scale / (3.0f32 / 32768.0)))?;
    if output_shift > 0 {
        return None;
    }
    let [output_multiplier, relu_multiplier] =
        [output_multiplier, relu_multiplier].map(|m| ((m.saturating_add(1 << 15)) >> 16) as i16);
    let zero = [input.zero_point, output.zero_point].map(i32::from);
    Some(tabulate(WHOLE, |x| {
        let fine = ((x - zero[0]) * 128) as i16;
        let unshifted = high_multiply(fine, output_multiplier);
        // 3 is 2^15: from -3..3 to -1..1, saturated.
        let mut relu = fine;
        if relu_shift > 0 {
            relu = saturating_shift_left(relu, relu_shift - 1);
        }
        relu = high_multiply(relu, relu_multiplier);
        if relu_shift > 0 {
            relu = saturating_shift_left(relu, 1);
        }
        if relu_shift < 0 {
            relu = rounding_shift_right(relu.into(), -relu_shift as u32) as i16;
        }
        let relu = (i32::from(relu) + (1 << 15)) >> 1;
        // Rounded towards zero, which cancels the biases of the multiplications above.
        let product = (relu * i32::from(unshifted) / (1 << 15)) as i16;
        rounding_shift_right(product.into(), -output_shift as u32) + zero[1]
    }))
}

/// `a * b / 2^15`, rounded to nearest, saturated (gemmlowp's `SaturatingRoundingDoublingHighMul`).
fn high_multiply(a: i16, b: i16) -> i16 {
    let product = i32::from(a) * i32::from(b);
    let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
    ((product + nudge) / (1 << 15)).min(i16::MAX.into()) as i16
}

fn saturating_shift_left(x: i16, shift: i32) -> i16 {
    let shifted = i64::from(x) << shift;
    shifted.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}
