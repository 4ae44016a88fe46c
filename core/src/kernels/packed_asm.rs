//! The inner loops of the packed operators.
#![allow(unsafe_code)]

#[cfg(not(niwaki_dsp))]
use super::dsp::{double, smlad, sxtb16};
#[cfg(not(niwaki_dsp))]
use super::requantise::Usual;
use crate::model::layout::ChannelRecord;

/// What the inner loops of the packed operators work on: see [`packed`](super::packed).
///
/// They either requantise `rounds` groups of channels, one after the other, or, where `rounds` is 0,
/// compute one group's `sums`; these begin at the bias of `channel`, of which nothing else is read.
#[repr(C)]
pub(super) struct Packed {
    /// The inputs as halves.
    pub(super) x: *const u32,
    /// Weights of the group's first pair; advances.
    pub(super) w: *const u32,
    /// The end of the inputs.
    pub(super) x_end: *const u32,
    /// Bytes of code that the loop leaves out at first.
    pub(super) entry: usize,
    /// The group's first channel; advances.
    pub(super) channel: *const ChannelRecord,
    /// The group's first output; advances.
    pub(super) y: *mut i8,
    /// [`tile_4`]: outputs from a pixel to the next. [`pixel_1`]: bytes from a pair's weights to the
    /// next pair's.
    pub(super) step: usize,
    /// Twice the output's zero point, plus one.
    pub(super) nudge: i32,
    /// Number of groups.
    pub(super) rounds: usize,
    /// Sums of one group.
    pub(super) sums: [i32; 8],
}

/// What [`Packed::entry`] must hold for [`tile_4`] with this number of blocks: the loop is unrolled four
/// times, 24 instructions each.
pub(super) const fn tile_entry(blocks: usize) -> usize {
    (blocks.wrapping_neg() & 3).wrapping_mul(24 * 4)
}

/// What [`Packed::entry`] must hold for [`pixel_1`] with this number of blocks: the loop is unrolled
/// four times, 15 instructions each.
pub(super) const fn pixel_entry(blocks: usize) -> usize {
    (blocks.wrapping_neg() & 3).wrapping_mul(15 * 4)
}

/// Requantises a register with the multiplier in r3, one less than the shift in lr and the rounding
/// constant in r1; r0 is lost.
#[cfg(niwaki_dsp)]
macro_rules! requantise_register {
    ($register:literal) => {
        concat!(
            "qadd ",
            $register,
            ", ",
            $register,
            ", ",
            $register,
            "
            add r0, r1, ",
            $register,
            ", asr #31
            smmlar ",
            $register,
            ", ",
            $register,
            ", r3, r0
            asr ",
            $register,
            ", ",
            $register,
            ", lr
            ssat ",
            $register,
            ", #8, ",
            $register,
            ", asr #1"
        )
    };
}

/// Four pixels of pairs of output channels. Of each pair the sums of the first channel stand before
/// those of the second.
///
/// # Safety
///
/// `x` must be valid for reads up to `x_end`, eight words for each block, at least one; `w` for two
/// words for each block and round, or for one round; `channel` for two records for each round, or for
/// one record; `y` for writes of two outputs for each round at four places `step` apart. `entry`
/// must be the [`tile_entry`] for the number of blocks, and the channels must be
/// such as [`all_saturate`](super::requantise::all_saturate) accepts where rounds are not 0.
#[inline(never)]
pub(super) unsafe fn tile_4(packed: &mut Packed) {
    #[cfg(niwaki_dsp)]
    // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps for
    // itself, and the stack pointer are restored.
    unsafe {
        core::arch::asm!(
            "push {{r0, r6, r7}}",
            "ldr r1, [r0, #8]",
            "push {{r1}}",
            "1:",
            "ldm r0, {{r1, r2}}",
            "ldrd r3, r12, [r0, #12]",
            "ldr r4, [r12]",
            "mov r5, r4",
            "mov r6, r4",
            "mov r7, r4",
            "mov r8, r4",
            "mov r9, r4",
            "mov r10, r4",
            "mov r11, r4",
            "adr.w r0, 2f",
            "add r0, r3",
            "mov pc, r0",
            ".p2align 2",
            "2:",
            ".rept 8",
            "ldr.w r0, [r2], #4",
            "sxtb16 r3, r0",
            "ldrd r12, lr, [r1], #8",
            "smlad r8, r0, r12, r8",
            "smlad r4, r3, r12, r4",
            "smlad r9, r0, lr, r9",
            "smlad r5, r3, lr, r5",
            "ldrd r12, lr, [r1], #8",
            "smlad r10, r0, r12, r10",
            "smlad r6, r3, r12, r6",
            "smlad r11, r0, lr, r11",
            "smlad r7, r3, lr, r7",
            ".endr",
            "ldr r0, [sp]",
            "cmp r1, r0",
            "bne.w 2b",
            "ldr r0, [sp, #4]",
            "sub r8, r8, r4",
            "sub r9, r9, r5",
            "sub r10, r10, r6",
            "sub r11, r11, r7",
            "str r2, [r0, #4]",
            "ldr r1, [r0, #32]",
            "cmp r1, #0",
            "beq.w 4f",
            "ldr r12, [r0, #16]",
            "ldr r3, [r12, #12]",
            "add r8, r3, r8, asr #8",
            "add r9, r3, r9, asr #8",
            "add r10, r3, r10, asr #8",
            "add r11, r3, r11, asr #8",
            "ldr r3, [r12, #4]",
            "ldr lr, [r12, #8]",
            "ldr r2, [r0, #20]",
            "ldrd r12, r1, [r0, #24]",
            "lsl r1, r1, lr",
            requantise_register!("r4"),
            requantise_register!("r5"),
            requantise_register!("r6"),
            requantise_register!("r7"),
            "strb r4, [r2]",
            "strb r5, [r2, r12]",
            "add r2, r2, r12, lsl #1",
            "strb r6, [r2]",
            "strb r7, [r2, r12]",
            "ldr r0, [sp, #4]",
            "ldrd r2, r4, [r0, #16]",
            "ldr r3, [r2, #16]",
            "ldr lr, [r2, #20]",
            "ldr r1, [r0, #28]",
            "lsl r1, r1, lr",
            requantise_register!("r8"),
            requantise_register!("r9"),
            requantise_register!("r10"),
            requantise_register!("r11"),
            "strb r8, [r4, #1]!",
            "strb r9, [r4, r12]",
            "add r3, r4, r12, lsl #1",
            "strb r10, [r3]",
            "strb r11, [r3, r12]",
            "ldr r0, [sp, #4]",
            "adds r2, #24",
            "adds r4, #1",
            "ldr r3, [r0, #32]",
            "strd r2, r4, [r0, #16]",
            "subs r3, #1",
            "str r3, [r0, #32]",
            "bne.w 1b",
            "b 5f",
            "4:",
            "asr r8, r8, #8",
            "asr r9, r9, #8",
            "asr r10, r10, #8",
            "asr r11, r11, #8",
            "add r0, #36",
            "stm r0, {{r4-r11}}",
            "5:",
            "pop {{r1}}",
            "pop {{r0, r6, r7}}",
            inout("r0") packed => _,
            out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
        );
    }
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        emulate::<4, 1>(packed);
    }
}

/// Adds the bias of the channel at r10 to `$sum`, requantises it with the constant in lr and writes it
/// to r11.
#[cfg(niwaki_dsp)]
macro_rules! finish_1 {
    ($sum:literal) => {
        concat!(
            "ldm r10!, {{r1-r3}}
            add r1, r1, ",
            $sum,
            "
            lsl r12, lr, r3
            qadd r1, r1, r1
            add r12, r12, r1, asr #31
            smmlar r1, r1, r2, r12
            asr r1, r1, r3
            ssat r1, #8, r1, asr #1
            strb r1, [r11], #1"
        )
    };
}

/// One pixel of fours of output channels, which are two pairs. Where rounds are 0, the sums are those
/// of the four channels, without a bias.
///
/// # Safety
///
/// `x` must be valid for reads up to `x_end`, two words for each block, at least one; `w` and what
/// lies `step` behind it for as many, and each further round likewise behind the second; `channel` for four records for each round; `y`
/// for writes of as many outputs. `entry` must be the [`pixel_entry`] for the number of blocks, and the
/// channels must be
/// such as [`all_saturate`](super::requantise::all_saturate) accepts where rounds are not 0.
#[inline(never)]
pub(super) unsafe fn pixel_1(packed: &mut Packed) {
    #[cfg(niwaki_dsp)]
    // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps for
    // itself, and the stack pointer are restored.
    unsafe {
        core::arch::asm!(
            "push {{r6, r7}}",
            "1:",
            "ldr r10, [r0]",
            "ldr r8, [r0, #4]",
            "ldrd r11, r12, [r0, #8]",
            "ldr r9, [r0, #24]",
            "add r9, r8",
            "mov r4, #0",
            "mov r5, #0",
            "mov r6, #0",
            "mov r7, #0",
            "adr.w r1, 2f",
            "add r1, r12",
            "mov pc, r1",
            ".p2align 2",
            "2:",
            ".rept 4",
            "ldrd r1, r2, [r8], #8",
            "ldrd r3, r12, [r10], #8",
            "smlad r5, r1, r3, r5",
            "sxtb16 r1, r1",
            "smlad r4, r1, r3, r4",
            "smlad r5, r2, r12, r5",
            "sxtb16 r2, r2",
            "smlad r4, r2, r12, r4",
            "ldrd r1, r2, [r9], #8",
            "smlad r7, r1, r3, r7",
            "sxtb16 r1, r1",
            "smlad r6, r1, r3, r6",
            "smlad r7, r2, r12, r7",
            "sxtb16 r2, r2",
            "smlad r6, r2, r12, r6",
            ".endr",
            "cmp r10, r11",
            "bne.w 2b",
            "sub r5, r5, r4",
            "sub r7, r7, r6",
            "ldrd r10, r11, [r0, #16]",
            "ldrd lr, r1, [r0, #28]",
            "str r9, [r0, #4]",
            "cmp r1, #0",
            "beq.w 4f",
            finish_1!("r4"),
            finish_1!("r5, asr #8"),
            finish_1!("r6"),
            finish_1!("r7, asr #8"),
            "ldr r1, [r0, #32]",
            "strd r10, r11, [r0, #16]",
            "subs r1, #1",
            "str r1, [r0, #32]",
            "bne.w 1b",
            "b 5f",
            "4:",
            "asr r5, r5, #8",
            "asr r7, r7, #8",
            "add r0, #36",
            "stm r0, {{r4-r7}}",
            "5:",
            "pop {{r6, r7}}",
            inout("r0") packed => _,
            out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
        );
    }
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        emulate::<1, 2>(packed);
    }
}

/// The definition of [`tile_4`] and [`pixel_1`]: `P` pixels of `G` pairs of output channels.
///
/// # Safety
///
/// As theirs.
#[cfg(not(niwaki_dsp))]
unsafe fn emulate<const P: usize, const G: usize>(packed: &mut Packed) {
    // SAFETY: the caller's promise.
    unsafe {
        let words = packed.x_end.offset_from_unsigned(packed.x) / P;
        loop {
            let mut w = packed.w;
            for pair in 0..G {
                let bias = if P > 1 { (*packed.channel).bias.get() } else { 0 };
                if P == 1 {
                    w = packed.w.byte_add(pair * packed.step);
                }
                let [mut low, mut high] = [[bias; P]; 2];
                for word in 0..words {
                    let weights = *w;
                    w = w.add(1);
                    for pixel in 0..P {
                        let x = *packed.x.add(P * word + pixel);
                        low[pixel] = smlad(low[pixel], sxtb16(weights), x);
                        high[pixel] = smlad(high[pixel], weights, x);
                    }
                }
                for pixel in 0..P {
                    packed.sums[2 * P * pair + pixel] = low[pixel];
                    let high = high[pixel].wrapping_sub(low[pixel]) >> 8;
                    packed.sums[2 * P * pair + P + pixel] = high;
                }
            }
            packed.w = w;
            if packed.rounds == 0 {
                return;
            }
            for channel in 0..2 * G {
                let record = &*packed.channel.add(channel);
                let usual = Usual::new(record, packed.nudge);
                for pixel in 0..P {
                    let begun_at_bias = P > 1 && channel == 0;
                    let bias = if begun_at_bias { 0 } else { record.bias.get() };
                    let sum = packed.sums[P * channel + pixel].wrapping_add(bias);
                    *packed.y.add(pixel * packed.step + channel) = usual.rescale(double(sum));
                }
            }
            packed.channel = packed.channel.add(2 * G);
            packed.y = packed.y.add(2 * G);
            packed.rounds -= 1;
            if packed.rounds == 0 {
                return;
            }
        }
    }
}
