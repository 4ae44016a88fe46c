//! Rescaling of eight accumulators of an output channel at once, over DSP instructions.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv;
#[cfg(not(niwaki_dsp))]
use super::dsp::{asr, lsl, saturate_half, smmlar};
use super::sparse::TILE;
use crate::model::Clamp;
use crate::model::layout::ChannelRecord;

/// Largest right shift for which the zero point is added before the shift, as assembly reads it.
macro_rules! max_shift {
    () => {
        20
    };
}
#[cfg(niwaki_dsp)]
pub(super) use max_shift;

/// What the outputs of an operator have in common.
pub(super) struct Requantise {
    zero_point: i8,
    signed: bool,
}

impl Requantise {
    pub(super) fn new(zero_point: i8, clamp: Clamp) -> Self {
        Self { zero_point, signed: zero_point > i8::MIN && clamp.min < zero_point }
    }

    /// Whether negative numbers can lead to outputs other than the zero point, or less, for which
    /// [`limit`] puts the smallest output: after a ReLU they cannot.
    pub(super) fn signed(&self) -> bool {
        self.signed
    }

    /// The zero point and one half, doubled.
    pub(super) fn nudge(&self) -> i32 {
        i32::from(self.zero_point).wrapping_mul(2).wrapping_add(1)
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
            for (sum, target) in doubled.into_iter().zip(targets) {
                // SAFETY: the caller's promise.
                unsafe { target.write(rescale(sum, channel, self.nudge())) };
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.store_unusual(channel, doubled, targets) };
        }
    }

    /// The output for one accumulator below 2^29.
    #[cold]
    #[inline(never)]
    pub(super) fn one(&self, channel: &ChannelRecord, sum: i32) -> i8 {
        conv::rescale(channel).requantise(sum, self.zero_point, FULL)
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
}

/// Whether the channel's sums are rescaled by [`rescale`].
#[cfg(not(niwaki_dsp))]
pub(super) fn is_usual(channel: &ChannelRecord) -> bool {
    (!channel.shift.get() as u32) < max_shift!()
}

/// Rescales an accumulator below 2^29, given doubled, for a right shift from 1 to [`max_shift`].
/// `zero_point` is [`Requantise::nudge`].
///
/// The product rounded, half of the divisor less one for negative numbers (ties go away from zero) and
/// the zero point are added before the shift. The accumulator's sign serves for the product's: where
/// the product is 0, half less one still rounds to 0. The last step of the shift comes with the
/// saturation.
#[cfg(not(niwaki_dsp))]
pub(super) fn rescale(doubled: i32, channel: &ChannelRecord, zero_point: i32) -> i8 {
    let shift = !channel.shift.get();
    let start = lsl(zero_point, shift).wrapping_add(doubled >> 31);
    saturate_half(asr(smmlar(start, doubled, channel.multiplier.get()), shift)) as i8
}

/// The range of a byte.
const FULL: Clamp = Clamp { min: i8::MIN, max: i8::MAX };

/// Brings outputs in the range of a byte to an operator's range.
pub(super) fn limit(clamp: Clamp, y: &mut [i8]) {
    if clamp.min > i8::MIN || clamp.max < i8::MAX {
        for y in y {
            *y = (*y).max(clamp.min).min(clamp.max);
        }
    }
}
