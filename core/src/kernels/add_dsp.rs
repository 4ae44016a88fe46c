//! Addition over DSP instructions.

use super::add::SPARE_BITS;
use super::dsp;
use super::requantise::limit;
use crate::model::Add;

/// For the rescales that TFLite's converter makes, about 15 instructions per element: the summand of
/// larger scale is halved exactly and the other shifts right. `None`, with `y` untouched, for others.
///
/// Everything is computed doubled, as the high multiplication wants it; [`Requantise`](super::requantise::Requantise) says
/// why its rounding is that of two roundings. Summands have 8 bits beside the spare ones, so that
/// nothing overflows.
pub(super) fn add(op: &Add, b: &[i8], y: &mut [i8]) -> Option<()> {
    const HALF: (i32, i32) = (1 << 30, 0);
    let [a_rescale, b_rescale] = op.input_rescale;
    let (a_rescale, b_rescale) = (a_rescale.normalised()?, b_rescale.normalised()?);
    let (multiplier, right) = op.output_rescale.normalised()?;
    if !(1..=20).contains(&right) {
        return None;
    }
    let round = (i32::from(op.output.zero_point) * 2 + 1).wrapping_shl(right as u32 - 1);
    let right = right - 1;
    let finish = |doubled: i32| {
        let high = dsp::smmlar(round.wrapping_add(doubled >> 31), doubled, multiplier);
        dsp::saturate_half(dsp::asr(high, right)) as i8
    };
    // An element times `2^shift`, without its zero point.
    let scaled = |zero: i8, shift: u32| {
        let offset = (-i32::from(zero)).wrapping_shl(shift);
        move |x: i8| offset.wrapping_add(i32::from(x).wrapping_shl(shift))
    };
    let [a_zero, b_zero] = op.inputs.map(|tensor| tensor.zero_point);
    // Half of twice a summand.
    let (a_half, b_half) = (scaled(a_zero, SPARE_BITS), scaled(b_zero, SPARE_BITS));
    let (a_twice, b_twice) = (scaled(a_zero, SPARE_BITS + 1), scaled(b_zero, SPARE_BITS + 1));
    let shifted = |(multiplier, right): (i32, i32)| {
        // Unsigned: half of 2^31 is positive.
        let round = (1u32.wrapping_shl(right as u32) >> 1) as i32;
        move |doubled: i32| {
            let high = dsp::smmlar(round.wrapping_add(doubled >> 31), doubled, multiplier);
            dsp::asr(high, right).wrapping_mul(2)
        }
    };
    let pairs = y.iter_mut().zip(b);
    match (a_rescale, b_rescale) {
        (HALF, HALF) => {
            for (y, &b) in pairs {
                *y = finish(a_half(*y).wrapping_add(b_half(b)));
            }
        }
        (HALF, (_, 1..)) => {
            let shifted = shifted(b_rescale);
            for (y, &b) in pairs {
                *y = finish(a_half(*y).wrapping_add(shifted(b_twice(b))));
            }
        }
        ((_, 1..), HALF) => {
            let shifted = shifted(a_rescale);
            for (y, &b) in pairs {
                *y = finish(b_half(b).wrapping_add(shifted(a_twice(*y))));
            }
        }
        _ => return None,
    }
    limit(op.clamp, y);
    Some(())
}
