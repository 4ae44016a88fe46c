//! Rescaling of eight accumulators of an output channel at once, over DSP instructions.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv::rescale;
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

/// Where the outputs of eight pixels go: a byte `offset` behind each pointer.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) lanes: &'a [*mut i8; TILE],
    pub(super) offset: usize,
}

impl Requantise {
    pub(super) fn new(zero_point: i8, clamp: Clamp) -> Self {
        Self { zero_point, clamp, full: clamp.min == i8::MIN && clamp.max == i8::MAX }
    }

    /// Rescales eight accumulators below 2^29, given doubled for `BLOCK` 1, and stores the outputs.
    ///
    /// # Safety
    ///
    /// Each of the target's bytes can be written.
    #[inline(always)]
    pub(super) unsafe fn store<const BLOCK: usize>(
        &self,
        channel: &ChannelRecord,
        sums: [i32; TILE],
        target: Target<'_>,
    ) {
        let doubled = if BLOCK == 1 { sums } else { sums.map(|sum| sum.wrapping_mul(2)) };
        let shift = channel.shift.get().wrapping_neg() as u32;
        if shift.wrapping_sub(1) >= MAX_SHIFT {
            // SAFETY: the caller's promise.
            unsafe { self.store_unusual(channel, doubled, target) };
            return;
        }
        // The product rounded, half of the divisor less one for negative numbers (ties go away from
        // zero), and the zero point, all before one shift. The accumulator's sign serves for the
        // product's: where the product is 0, half less one still rounds to 0.
        let multiplier = channel.multiplier.get();
        let half = 1i32.wrapping_shl(shift.wrapping_sub(1));
        let start = i32::from(self.zero_point).wrapping_shl(shift).wrapping_add(half);
        let output = |sum: i32| {
            let start = start.wrapping_add(sum >> 31);
            saturate(smmlar(start, sum, multiplier).wrapping_shr(shift))
        };
        // SAFETY: the caller's promise.
        unsafe {
            if self.full {
                for (sum, lane) in doubled.into_iter().zip(target.lanes) {
                    lane.add(target.offset).write(output(sum) as i8);
                }
            } else {
                let (min, max) = (i32::from(self.clamp.min), i32::from(self.clamp.max));
                for (sum, lane) in doubled.into_iter().zip(target.lanes) {
                    lane.add(target.offset).write(output(sum).max(min).min(max) as i8);
                }
            }
        }
    }

    /// The output for one accumulator below 2^29.
    #[inline(always)]
    pub(super) fn one(&self, channel: &ChannelRecord, sum: i32) -> i8 {
        rescale(channel).requantise(sum, self.zero_point, self.clamp)
    }

    /// The same for shifts to the left, none, or far to the right.
    ///
    /// # Safety
    ///
    /// Each of the target's bytes can be written.
    #[cold]
    #[inline(never)]
    unsafe fn store_unusual(
        &self,
        channel: &ChannelRecord,
        doubled: [i32; TILE],
        target: Target<'_>,
    ) {
        let rescale = rescale(channel);
        for (sum, lane) in doubled.into_iter().zip(target.lanes) {
            let value = rescale.requantise(sum >> 1, self.zero_point, self.clamp);
            // SAFETY: the caller's promise.
            unsafe { lane.add(target.offset).write(value) };
        }
    }
}
