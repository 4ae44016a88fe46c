//! Rescaling of eight accumulators of an output channel at once, over DSP instructions.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv;
#[cfg(not(niwaki_dsp))]
use super::dsp::{saturate, smmlar};
use super::sparse::TILE;
use crate::model::Clamp;
use crate::model::layout::ChannelRecord;

/// Largest right shift for which the zero point can be added before the shift.
const MAX_SHIFT: u32 = 20;

/// What the outputs of an operator have in common.
pub(super) struct Requantise {
    zero_point: i8,
    clamp: Clamp,
    /// Whether the clamp is a byte's range.
    full: bool,
}

impl Requantise {
    pub(super) fn new(zero_point: i8, clamp: Clamp) -> Self {
        Self { zero_point, clamp, full: clamp.min == i8::MIN && clamp.max == i8::MAX }
    }

    /// Largest right shift that [`store`](Self::store) rescales fast.
    pub(super) fn max_shift(&self) -> u32 {
        if self.full { MAX_SHIFT } else { 0 }
    }

    /// The zero point and one half, doubled.
    pub(super) fn rounding_zero_point(&self) -> i32 {
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
        let shift = channel.shift.get().wrapping_neg() as u32;
        if shift.wrapping_sub(1) >= self.max_shift() {
            // SAFETY: the caller's promise.
            unsafe { self.store_unusual(channel, doubled, targets) };
            return;
        }
        for (sum, target) in doubled.into_iter().zip(targets) {
            // SAFETY: the caller's promise.
            unsafe { target.write(rescale(sum, channel, self.rounding_zero_point())) };
        }
    }

    /// The output for one accumulator below 2^29.
    #[inline(always)]
    pub(super) fn one(&self, channel: &ChannelRecord, sum: i32) -> i8 {
        conv::rescale(channel).requantise(sum, self.zero_point, self.clamp)
    }

    /// The same for shifts to the left, none, or far to the right, and for any clamp.
    ///
    /// # Safety
    ///
    /// A byte can be written at each of the targets.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn store_unusual(
        &self,
        channel: &ChannelRecord,
        doubled: [i32; TILE],
        targets: &[*mut i8; TILE],
    ) {
        let rescale = conv::rescale(channel);
        for (sum, target) in doubled.into_iter().zip(targets) {
            let value = rescale.requantise(sum >> 1, self.zero_point, self.clamp);
            // SAFETY: the caller's promise.
            unsafe { target.write(value) };
        }
    }
}

/// Rescales an accumulator below 2^29, given doubled, for a right shift from 1 to 20. `zero_point` is
/// [`Requantise::rounding_zero_point`].
#[cfg(not(niwaki_dsp))]
pub(super) fn rescale(doubled: i32, channel: &ChannelRecord, zero_point: i32) -> i8 {
    // The product rounded, half of the divisor less one for negative numbers (ties go away from
    // zero), and the zero point, all before one shift. The accumulator's sign serves for the
    // product's: where the product is 0, half less one still rounds to 0.
    let shift = channel.shift.get().wrapping_neg() as u32;
    let start = zero_point.wrapping_shl(shift.wrapping_sub(1)).wrapping_add(doubled >> 31);
    saturate(smmlar(start, doubled, channel.multiplier.get()).wrapping_shr(shift)) as i8
}
