//! Rescaling of accumulators to outputs, over DSP instructions.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv;
use super::dsp::{add_double, asr, double, lsl, saturate_half, smmlar};
use super::sparse::TILE;
use crate::model::Clamp;
use crate::model::layout::ChannelRecord;

/// Right shifts up to this and not zero are usual: the zero point can be added before the shift, and
/// saturated sums stay outside the range of int8. As assembly reads it.
macro_rules! max_shift {
    () => {
        20
    };
}
#[cfg(niwaki_dsp)]
pub(super) use max_shift;

/// What the outputs of an operator have in common.
///
/// Rounding twice takes four instructions per accumulator where a channel's shift is usual, as in all
/// ordinary models. With `p = x * multiplier / 2^31` rounded, `p / 2^shift` rounded with ties away from
/// zero is `(p + 2^(shift-1) - (x < 0)) >> shift`: a negative `p` must lose one for its ties, and where
/// `x` is negative but `p` zero the loss changes nothing. The zero point, shifted left, joins the
/// constant. All is computed doubled, as the high multiplication wants it, and halved by the saturation.
pub(super) struct Requantise {
    zero_point: i8,
    signed: bool,
}

impl Requantise {
    pub(super) fn new(zero_point: i8, clamp: Clamp) -> Self {
        Self { zero_point, signed: zero_point > i8::MIN && clamp.min < zero_point }
    }

    /// Whether negative sums can lead to outputs other than the zero point, or less, for which
    /// [`limit`] puts the smallest output. After a ReLU they cannot, and their ties need no care.
    #[cfg(niwaki_dsp)]
    pub(super) fn signed(&self) -> bool {
        self.signed
    }

    /// Twice the zero point, plus one: the zero point and one half, doubled.
    pub(super) fn nudge(&self) -> i32 {
        i32::from(self.zero_point).wrapping_mul(2).wrapping_add(1)
    }

    /// The output for one accumulator, whatever the channel's rescaling.
    #[cold]
    #[inline(never)]
    pub(super) fn one(&self, channel: &ChannelRecord, sum: i32) -> i8 {
        let whole = Clamp { min: i8::MIN, max: i8::MAX };
        conv::rescale(channel).requantise(sum, self.zero_point, whole)
    }

    /// Rescales eight accumulators below 2^29, given doubled, and stores the outputs.
    ///
    /// # Safety
    ///
    /// A byte can be written at each of the targets.
    #[cfg(not(niwaki_dsp))]
    pub(super) unsafe fn store(
        &self,
        channel: &ChannelRecord,
        doubled: [i32; TILE],
        targets: &[*mut i8; TILE],
    ) {
        if is_usual(channel) {
            let usual = Usual::new(channel, self.nudge());
            for (sum, target) in doubled.into_iter().zip(targets) {
                let y = if self.signed { usual.rescale(sum) } else { usual.rescale_unsigned(sum) };
                // SAFETY: the caller's promise.
                unsafe { target.write(y) };
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.store_unusual(channel, doubled, targets) };
        }
    }

    /// The same for shifts to the left, none, or far to the right.
    ///
    /// # Safety
    ///
    /// A byte can be written at each of the targets.
    pub(super) unsafe fn store_unusual(
        &self,
        channel: &ChannelRecord,
        doubled: [i32; TILE],
        targets: &[*mut i8; TILE],
    ) {
        for (sum, target) in doubled.into_iter().zip(targets) {
            // SAFETY: the caller's promise.
            unsafe { target.write(self.one(channel, sum >> 1)) };
        }
    }

    /// Outputs of one channel, `step` apart, from any sums without the bias. `saturating` is what
    /// [`all_saturate`] says of the operator's channels; where it is false, each is looked at by itself.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes at `0, step ..` for each of the sums.
    #[inline(never)]
    pub(super) unsafe fn row(
        &self,
        saturating: bool,
        channel: &ChannelRecord,
        sums: &[i32],
        mut y: *mut i8,
        step: usize,
    ) {
        let bias = channel.bias.get();
        if !saturating && !saturates(channel) {
            for &sum in sums {
                // SAFETY: the caller's promise; `wrapping_add` because the last step leads outside.
                unsafe { *y = self.one(channel, bias.wrapping_add(sum)) };
                y = y.wrapping_add(step);
            }
            return;
        }
        let twice = double(bias);
        let usual = Usual::new(channel, self.nudge());
        let two_steps = step.wrapping_mul(2);
        let (pairs, rest) = sums.as_chunks::<2>();
        for &[a, b] in pairs {
            // SAFETY: as above.
            unsafe {
                *y = usual.rescale(add_double(twice, a));
                *y.wrapping_add(step) = usual.rescale(add_double(twice, b));
            }
            y = y.wrapping_add(two_steps);
        }
        for &sum in rest {
            // SAFETY: as above.
            unsafe { *y = usual.rescale(add_double(twice, sum)) };
        }
    }
}

/// Whether the channel's sums are rescaled by [`Usual`].
pub(super) fn is_usual(channel: &ChannelRecord) -> bool {
    (channel.right_less_one.get() as u32) < max_shift!()
}

/// Whether [`saturates`] holds for all channels.
#[inline(never)]
pub(super) fn all_saturate(channels: &[ChannelRecord]) -> bool {
    channels.iter().all(saturates)
}

/// Whether [`Usual`] serves sums of the channel that saturate when they are doubled: those are beyond
/// 2^30, and a normalised multiplier leaves their outputs beyond int8 both ways.
fn saturates(channel: &ChannelRecord) -> bool {
    is_usual(channel)
        && channel.multiplier.get() >= 1 << 30
        && channel.bias.get().unsigned_abs() < 1 << 30
}

/// A channel's rescaling by a usual shift.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    multiplier: i32,
    /// The right shift, less one.
    right: i32,
    /// Half of the divisor and the zero point, as they are added before the shift.
    start: i32,
}

impl Usual {
    /// `nudge` is that of the operator's [`Requantise`].
    #[inline(always)]
    pub(super) fn new(channel: &ChannelRecord, nudge: i32) -> Self {
        let right = channel.right_less_one.get().into();
        Self { multiplier: channel.multiplier.get(), right, start: lsl(nudge, right) }
    }

    /// The output for a doubled sum.
    #[inline(always)]
    pub(super) fn rescale(self, doubled: i32) -> i8 {
        let signed = Self { start: self.start.wrapping_add(doubled >> 31), ..self };
        signed.rescale_unsigned(doubled)
    }

    /// The same where ties of negative sums do not matter.
    #[inline(always)]
    fn rescale_unsigned(self, doubled: i32) -> i8 {
        let high = smmlar(self.start, doubled, self.multiplier);
        saturate_half(asr(high, self.right)) as i8
    }
}

/// Brings outputs in the range of a byte to an operator's range.
#[inline(never)]
pub(super) fn limit(clamp: Clamp, y: &mut [i8]) {
    if clamp.min > i8::MIN || clamp.max < i8::MAX {
        for y in y {
            *y = (*y).max(clamp.min).min(clamp.max);
        }
    }
}
