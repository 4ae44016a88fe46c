//! The DSP instructions of Armv7E-M and Armv8-M that the optimised kernels are written over: one
//! instruction each where the build has them, and their definition in plain Rust elsewhere, so that
//! the same kernels run in tests on the host.
//!
//! A word holds two halves (bits 0-15 and 16-31) or four bytes; all are signed.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use crate::model::layout::ChannelRecord;

macro_rules! instructions {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty =
            $asm:literal $(, $option:ident)*; $emulation:expr
    )*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name($($arg: $type),*) -> $out {
            #[cfg(niwaki_dsp)]
            {
                let result: $out;
                // SAFETY: one instruction that reads and writes registers only.
                unsafe {
                    core::arch::asm!(
                        $asm, result = lateout(reg) result, $($arg = in(reg) $arg,)*
                        options(pure, nomem, nostack $(, $option)*)
                    );
                }
                result
            }
            #[cfg(not(niwaki_dsp))]
            {
                $emulation
            }
        }
    )*};
}

#[cfg(not(niwaki_dsp))]
fn low(word: u32) -> i32 {
    i32::from(word as i16)
}

#[cfg(not(niwaki_dsp))]
fn high(word: u32) -> i32 {
    i32::from((word >> 16) as i16)
}

#[cfg(not(niwaki_dsp))]
fn halves(low: i32, high: i32) -> u32 {
    (low as u32 & 0xffff) | (high as u32) << 16
}

#[cfg(not(niwaki_dsp))]
fn bytes(word: u32) -> [i32; 4] {
    word.to_le_bytes().map(|byte| i32::from(byte as i8))
}

instructions! {
    /// Bytes 0 and 2 as halves.
    fn sxtb16(word: u32) -> u32 = "sxtb16 {result}, {word}", preserves_flags;
        halves(bytes(word)[0], bytes(word)[2])
    /// Bytes 1 and 3 as halves.
    fn sxtb16_ror8(word: u32) -> u32 = "sxtb16 {result}, {word}, ror #8", preserves_flags;
        halves(bytes(word)[1], bytes(word)[3])
    /// Adds bytes 0 and 2 to the halves of `sums`.
    fn sxtab16(sums: u32, word: u32) -> u32 = "sxtab16 {result}, {sums}, {word}", preserves_flags;
        halves(low(sums) + bytes(word)[0], high(sums) + bytes(word)[2])
    /// Adds bytes 1 and 3 to the halves of `sums`.
    fn sxtab16_ror8(sums: u32, word: u32) -> u32 =
        "sxtab16 {result}, {sums}, {word}, ror #8", preserves_flags;
        halves(low(sums) + bytes(word)[1], high(sums) + bytes(word)[3])
    /// The low half of `low` and the low half of `high`.
    fn pkhbt(low_half: u32, high_half: u32) -> u32 =
        "pkhbt {result}, {low_half}, {high_half}, lsl #16", preserves_flags;
        (low_half & 0xffff) | high_half << 16
    /// The high half of `low` and the high half of `high`.
    fn pkhtb(low_half: u32, high_half: u32) -> u32 =
        "pkhtb {result}, {high_half}, {low_half}, asr #16", preserves_flags;
        low_half >> 16 | (high_half & 0xffff_0000)
    /// `sum` plus the products of the low halves and of the high halves.
    fn smlad(sum: i32, a: u32, b: u32) -> i32 = "smlad {result}, {a}, {b}, {sum}";
        sum.wrapping_add(low(a) * low(b)).wrapping_add(high(a) * high(b))
    /// `sum` plus the product of the low halves.
    fn smlabb(sum: i32, a: u32, b: u32) -> i32 = "smlabb {result}, {a}, {b}, {sum}";
        sum.wrapping_add(low(a) * low(b))
    /// `sum` plus the product of the high half of `a` and the low half of `b`.
    fn smlatb(sum: i32, a: u32, b: u32) -> i32 = "smlatb {result}, {a}, {b}, {sum}";
        sum.wrapping_add(high(a) * low(b))
    /// `sum` plus the product of the low half of `a` and the high half of `b`.
    fn smlabt(sum: i32, a: u32, b: u32) -> i32 = "smlabt {result}, {a}, {b}, {sum}";
        sum.wrapping_add(low(a) * high(b))
    /// `sum` plus the product of the high halves.
    fn smlatt(sum: i32, a: u32, b: u32) -> i32 = "smlatt {result}, {a}, {b}, {sum}";
        sum.wrapping_add(high(a) * high(b))
    /// `sum + a * b / 2^32`, the quotient rounded to nearest, ties up.
    fn smmlar(sum: i32, a: i32, b: i32) -> i32 =
        "smmlar {result}, {a}, {b}, {sum}", preserves_flags;
        sum.wrapping_add(((i64::from(a) * i64::from(b) + (1 << 31)) >> 32) as i32)
    /// `2 * x`, saturated.
    fn double(x: i32) -> i32 = "qadd {result}, {x}, {x}";
        x.saturating_add(x)
    /// `sum + 2 * x`, saturated.
    fn add_double(sum: i32, x: i32) -> i32 = "qdadd {result}, {sum}, {x}";
        sum.saturating_add(x.saturating_add(x))
    /// `x / 2` rounded down, within the range of a byte.
    fn saturate_half(x: i32) -> i32 = "ssat {result}, #8, {x}, asr #1";
        (x >> 1).clamp(-128, 127)
    /// `x * 2^shift` for a shift below 32.
    fn lsl(x: i32, shift: i32) -> i32 = "lsl {result}, {x}, {shift}", preserves_flags;
        x.wrapping_shl(shift as u32)
    /// `x / 2^shift` rounded down, for a shift below 32.
    fn asr(x: i32, shift: i32) -> i32 = "asr {result}, {x}, {shift}", preserves_flags;
        x.wrapping_shr(shift as u32)
    /// The larger of each pair of bytes.
    fn max8(a: u32, b: u32) -> u32 = "ssub8 {result}, {a}, {b}\nsel {result}, {a}, {b}";
        {
            let (a, b) = (bytes(a), bytes(b));
            u32::from_le_bytes(core::array::from_fn(|i| a[i].max(b[i]) as u8))
        }
}

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
    /// [`tile_4`]: bytes of code that the first round leaves out. [`pixel_1`]: number of blocks.
    pub(super) count: usize,
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

/// Bytes of code of two words of weights in [`tile_4`]; it unrolls four such blocks.
const BLOCK_BYTES: usize = 96;

/// What [`Packed::count`] must hold for [`tile_4`] with this number of blocks.
pub(super) const fn entry(blocks: usize) -> usize {
    (blocks.wrapping_neg() & 3).wrapping_mul(BLOCK_BYTES)
}

/// Requantises a register with the multiplier in r3, one less than the shift in lr and the rounding
/// constant in r1; r0 is lost.
#[cfg(niwaki_dsp)]
macro_rules! requantise_register {
    ($register:literal) => {
        concat!(
            "qadd ", $register, ", ", $register, ", ", $register, "
            add r0, r1, ", $register, ", asr #31
            smmlar ", $register, ", ", $register, ", r3, r0
            asr ", $register, ", ", $register, ", lr
            ssat ", $register, ", #8, ", $register, ", asr #1"
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
/// one record; `y` for writes of two outputs for each round at four places `step` apart. `count`
/// must be the [`entry`] for the number of blocks, and the channels must be
/// [simple](super::requantise::Requantise) where rounds are not 0.
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
            "mvn lr, lr",
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
            "mvn lr, lr",
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

/// Two blocks of [`pixel_1`], or their second half.
#[cfg(niwaki_dsp)]
macro_rules! block_1 {
    () => {
        "ldrd r1, r2, [r8], #8
        ldrd r3, r12, [r10], #8
        smlad r5, r1, r3, r5
        sxtb16 r1, r1
        smlad r4, r1, r3, r4
        smlad r5, r2, r12, r5
        sxtb16 r2, r2
        smlad r4, r2, r12, r4
        ldrd r1, r2, [r9], #8
        smlad r7, r1, r3, r7
        sxtb16 r1, r1
        smlad r6, r1, r3, r6
        smlad r7, r2, r12, r7
        sxtb16 r2, r2
        smlad r6, r2, r12, r6"
    };
}

/// Adds the bias of the channel at r10 to `$sum`, requantises it with the constant in lr and writes it
/// to r11.
#[cfg(niwaki_dsp)]
macro_rules! finish_1 {
    ($sum:literal) => {
        concat!(
            "ldm r10!, {{r1-r3}}
            add r1, r1, ", $sum, "
            mvn r3, r3
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
/// `x` must be valid for reads up to `x_end`, two words for each block, `count` of them; `w` and what
/// lies `step` behind it for as many, and each further round likewise behind the second; `channel` for four records for each round; `y`
/// for writes of as many outputs. `count` is not 0, and the channels must be
/// [simple](super::requantise::Requantise) where rounds are not 0.
#[inline(never)]
pub(super) unsafe fn pixel_1(packed: &mut Packed) {
    #[cfg(niwaki_dsp)]
    // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps for
    // itself, and the stack pointer are restored. Two blocks are unrolled; an odd number enters between.
    unsafe {
        core::arch::asm!(
            "push {{r6, r7}}",
            "1:",
            "ldr r11, [r0, #12]",
            "ldr r10, [r0]",
            "ldr r8, [r0, #4]",
            "ldr r9, [r0, #24]",
            "add r9, r8",
            "mov r4, #0",
            "mov r5, #0",
            "mov r6, #0",
            "mov r7, #0",
            "lsrs r11, r11, #1",
            "bcs 3f",
            "2:",
            block_1!(),
            "subs r11, #1",
            "3:",
            block_1!(),
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
                let right = !record.shift.get();
                let round = lsl(packed.nudge, right);
                for pixel in 0..P {
                    let begun_at_bias = P > 1 && channel == 0;
                    let bias = if begun_at_bias { 0 } else { record.bias.get() };
                    let x = double(packed.sums[P * channel + pixel].wrapping_add(bias));
                    let high = smmlar(round.wrapping_add(x >> 31), x, record.multiplier.get());
                    let y = saturate_half(asr(high, right)) as i8;
                    *packed.y.add(pixel * packed.step + channel) = y;
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

/// Brings pixels of four channels to planes: of each channel `count` words of two neighbouring pixels.
///
/// # Safety
///
/// `from` must be valid for reads of four bytes at `2 * count` places `step` bytes apart, and `to` for
/// writes of `count` words at four places `words` words apart. `count` is not 0.
#[inline(always)]
pub(super) unsafe fn planes(from: *const i8, step: usize, to: *mut u32, words: usize, count: usize) {
    #[cfg(niwaki_dsp)]
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        core::arch::asm!(
            "2:",
            "ldr {a}, [{from}]",
            "ldr {b}, [{from}, {step}]",
            "add {from}, {from}, {step}, lsl #1",
            "sxtb16 {c}, {a}",
            "sxtb16 {d}, {b}",
            "sxtb16 {a}, {a}, ror #8",
            "sxtb16 {b}, {b}, ror #8",
            "pkhbt {e}, {a}, {b}, lsl #16",
            "pkhtb {b}, {b}, {a}, asr #16",
            "pkhbt {a}, {c}, {d}, lsl #16",
            "pkhtb {d}, {d}, {c}, asr #16",
            "str {e}, [{to}, {one}]",
            "str {d}, [{to}, {one}, lsl #1]",
            "str {b}, [{to}, {three}]",
            "str {a}, [{to}], #4",
            "subs {count}, {count}, #1",
            "bne 2b",
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, e = out(reg) _,
            from = inout(reg) from => _, to = inout(reg) to => _,
            count = inout(reg) count => _,
            step = in(reg) step, one = in(reg) words.wrapping_mul(4),
            three = in(reg) words.wrapping_mul(12),
            options(nostack)
        );
    }
    #[cfg(not(niwaki_dsp))]
    for index in 0..count {
        let load = |pixel: usize| {
            let from = from.wrapping_add((2 * index + pixel).wrapping_mul(step));
            // SAFETY: the caller's promise.
            u32::from_le_bytes(unsafe { from.cast::<[u8; 4]>().read() })
        };
        let (a, b) = (load(0), load(1));
        let (a02, a13) = (sxtb16(a), sxtb16_ror8(a));
        let (b02, b13) = (sxtb16(b), sxtb16_ror8(b));
        let lanes = [pkhbt(a02, b02), pkhbt(a13, b13), pkhtb(a02, b02), pkhtb(a13, b13)];
        for (lane, word) in lanes.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *to.add(lane * words + index) = word };
        }
    }
}

/// Rows of the depthwise convolution with a window of three by three, for one channel.
///
/// A word of an input row holds two neighbouring pixels, a pair of weight words the taps (0, 1) and
/// (1, 2) of a kernel row. Sums are made two at a time; where a row's number is odd, the next row
/// overwrites the last.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct DepthwiseRows {
    pub(super) weights: [[u32; 2]; 3],
    /// The input rows under the first output row.
    pub(super) rows: [*const u32; 3],
    /// The first sum.
    pub(super) sums: *mut i32,
    /// Behind the first row's last pair of sums.
    pub(super) end: *mut i32,
    /// Bytes from where the reading of an input row ends to where it starts for the next row.
    pub(super) advance: usize,
    /// Bytes of sums in a pair that do not belong to the row: 0 or 4.
    pub(super) excess: usize,
    /// Bytes of a row of sums.
    pub(super) row_bytes: usize,
    /// Number of output rows, not 0.
    pub(super) count: usize,
}

#[cfg(niwaki_dsp)]
macro_rules! depthwise_rows {
    ($rows:ident, $($body:literal),*) => {
        // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps for
        // itself, and the stack pointer are restored.
        unsafe {
            core::arch::asm!(
                "push {{r6, r7}}",
                "add r12, r0, #40",
                "ldm r12, {{r1-r5}}",
                "push {{r1-r5}}",
                "ldm r0, {{r1-r10}}",
                "2:",
                $($body,)*
                "strd lr, r0, [r10], #8",
                "ldr r12, [sp]",
                "cmp r10, r12",
                "bne 2b",
                "ldrd r0, r11, [sp, #4]",
                "add r7, r0",
                "add r8, r0",
                "add r9, r0",
                "sub r10, r11",
                "ldrd r0, r11, [sp, #12]",
                "add r12, r0",
                "str r12, [sp]",
                "subs r11, #1",
                "str r11, [sp, #16]",
                "bne 2b",
                "add sp, #20",
                "pop {{r6, r7}}",
                inout("r0") $rows => _,
                out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
            );
        }
    };
}

/// The definition of the two functions below: `step` words further per two sums.
#[cfg(not(niwaki_dsp))]
unsafe fn depthwise_rows(
    rows: &DepthwiseRows,
    step: usize,
    sums_of: impl Fn([i32; 2], [u32; 3], [u32; 2]) -> [i32; 2],
) {
    let (mut inputs, mut sums, mut end) = (rows.rows, rows.sums, rows.end);
    for _ in 0..rows.count {
        while sums != end {
            let mut pair = [0; 2];
            for (x, weights) in inputs.iter_mut().zip(rows.weights) {
                // SAFETY: the caller's promise; the third word is read where it is used only.
                let words = unsafe { [**x, *x.add(1), *x.add(step)] };
                pair = sums_of(pair, words, weights);
                *x = x.wrapping_add(step);
            }
            // SAFETY: the caller's promise: an even number of sums.
            unsafe {
                *sums = pair[0];
                *sums.add(1) = pair[1];
                sums = sums.add(2);
            }
        }
        sums = sums.wrapping_byte_sub(rows.excess);
        end = end.wrapping_byte_add(rows.row_bytes);
        for x in &mut inputs {
            *x = x.wrapping_byte_add(rows.advance);
        }
    }
}

/// Sums with horizontal step 1.
///
/// # Safety
///
/// From `sums` on, `count` rows of `row_bytes` and `excess` must be valid for writes, and each of the
/// input rows for reads of one word for each two sums and one more.
#[inline(never)]
pub(super) unsafe fn depthwise_rows_1(rows: &DepthwiseRows) {
    #[cfg(niwaki_dsp)]
    depthwise_rows!(
        rows,
        "ldrd r11, r12, [r7], #4",
        "smuad lr, r11, r1",
        "smultb r0, r11, r1",
        "smlabt lr, r12, r2, lr",
        "smlad r0, r12, r2, r0",
        "ldrd r11, r12, [r8], #4",
        "smlad lr, r11, r3, lr",
        "smlatb r0, r11, r3, r0",
        "smlabt lr, r12, r4, lr",
        "smlad r0, r12, r4, r0",
        "ldrd r11, r12, [r9], #4",
        "smlad lr, r11, r5, lr",
        "smlatb r0, r11, r5, r0",
        "smlabt lr, r12, r6, lr",
        "smlad r0, r12, r6, r0"
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, 1, |[first, second], [x01, x23, _], [w01, w12]| {
            let second = smlad(smlatb(second, x01, w01), x23, w12);
            [smlabt(smlad(first, x01, w01), x23, w12), second]
        });
    }
}

/// Sums with horizontal step 2.
///
/// # Safety
///
/// As for [`depthwise_rows_1`], with one word for each sum.
#[inline(never)]
pub(super) unsafe fn depthwise_rows_2(rows: &DepthwiseRows) {
    #[cfg(niwaki_dsp)]
    depthwise_rows!(
        rows,
        "ldrd r11, r12, [r7], #4",
        "smuad lr, r11, r1",
        "smlabt lr, r12, r2, lr",
        "smuad r0, r12, r1",
        "ldr r12, [r7, #4]!",
        "smlabt r0, r12, r2, r0",
        "ldrd r11, r12, [r8], #4",
        "smlad lr, r11, r3, lr",
        "smlabt lr, r12, r4, lr",
        "smlad r0, r12, r3, r0",
        "ldr r12, [r8, #4]!",
        "smlabt r0, r12, r4, r0",
        "ldrd r11, r12, [r9], #4",
        "smlad lr, r11, r5, lr",
        "smlabt lr, r12, r6, lr",
        "smlad r0, r12, r5, r0",
        "ldr r12, [r9, #4]!",
        "smlabt r0, r12, r6, r0"
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, 2, |[first, second], [x01, x23, x45], [w01, w12]| {
            let second = smlabt(smlad(second, x23, w01), x45, w12);
            [smlabt(smlad(first, x01, w01), x23, w12), second]
        });
    }
}
