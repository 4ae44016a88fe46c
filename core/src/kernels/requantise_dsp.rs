//! Requantisation with Cortex-M's DSP instructions.
#![allow(unsafe_code)]

use super::conv::rescale;
use super::dsp;
use crate::model::Clamp;
use crate::model::layout::ChannelRecord;

/// Brings accumulators of an operator to its output's zero point and to the range of int8.
///
/// Rounding twice takes six instructions per element when a channel's multiplier is normalised and its
/// shift goes right by 1 to [`MAX_SHIFT`]; all channels of ordinary models are like that. With
/// `p = x * multiplier / 2^31` rounded, `p / 2^shift` rounded with ties away from zero is
/// `(p + 2^(shift-1) - (x < 0)) >> shift`: a negative `p` must lose one for its ties, and where `x` is
/// negative but `p` zero the loss changes nothing. The zero point, shifted left, joins the constant.
/// Sums beyond 2^30 saturate when they are doubled; with a normalised multiplier the result then lies
/// beyond int8 both ways.
pub(super) struct Requantise {
    /// Twice the zero point, plus one.
    nudge: i32,
    zero_point: i8,
    simple: bool,
}

/// Right shifts up to here neither overflow the rounding constant nor bring saturated sums back into
/// the range of int8.
const MAX_SHIFT: i32 = 20;

impl Requantise {
    #[inline(never)]
    pub(super) fn new(channels: &[ChannelRecord], zero_point: i8) -> Self {
        let simple = channels.iter().all(|channel| {
            channel.multiplier.get() >= 1 << 30
                && (-MAX_SHIFT..0).contains(&channel.shift.get())
                && channel.bias.get().unsigned_abs() < 1 << 30
        });
        Self { nudge: i32::from(zero_point) * 2 + 1, zero_point, simple }
    }

    /// Twice the output's zero point, plus one.
    pub(super) fn nudge(&self) -> i32 {
        self.nudge
    }

    /// Whether the short way serves all channels.
    pub(super) fn simple(&self) -> bool {
        self.simple
    }

    /// Outputs of one channel, `step` apart, from sums without the bias.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes at `0, step ..` for each of the sums.
    #[inline(never)]
    pub(super) unsafe fn row(
        &self,
        channel: &ChannelRecord,
        sums: &[i32],
        mut y: *mut i8,
        step: usize,
    ) {
        let bias = channel.bias.get();
        let twice = dsp::double(bias);
        let multiplier = channel.multiplier.get();
        let right = !channel.shift.get();
        let round = dsp::lsl(self.nudge, right);
        if !self.simple {
            for &sum in sums {
                // SAFETY: the caller's promise; `wrapping_add` because the last step leads outside.
                unsafe { *y = general(channel, bias.wrapping_add(sum), self.zero_point) };
                y = y.wrapping_add(step);
            }
            return;
        }
        let requantise = |sum: i32| {
            let x = dsp::add_double(twice, sum);
            let high = dsp::smmlar(round.wrapping_add(x >> 31), x, multiplier);
            dsp::saturate_half(dsp::asr(high, right)) as i8
        };
        let two_steps = step.wrapping_mul(2);
        let (pairs, rest) = sums.as_chunks::<2>();
        for &[a, b] in pairs {
            // SAFETY: as above.
            unsafe {
                *y = requantise(a);
                *y.wrapping_add(step) = requantise(b);
            }
            y = y.wrapping_add(two_steps);
        }
        for &sum in rest {
            // SAFETY: as above.
            unsafe { *y = requantise(sum) };
        }
    }
}

#[cold]
#[inline(never)]
fn general(channel: &ChannelRecord, sum: i32, zero_point: i8) -> i8 {
    rescale(channel).requantise(sum, zero_point, Clamp { min: i8::MIN, max: i8::MAX })
}

/// Narrows outputs within int8 to an operator's range.
#[inline(never)]
pub(super) fn clamp(clamp: Clamp, y: &mut [i8]) {
    if clamp.min > i8::MIN || clamp.max < i8::MAX {
        for y in y {
            *y = (*y).max(clamp.min).min(clamp.max);
        }
    }
}
