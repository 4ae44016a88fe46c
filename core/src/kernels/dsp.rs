//! The DSP instructions of Armv7E-M and Armv8-M that the optimised kernels are written over: one
//! instruction each where the build has them, and their definition in plain Rust elsewhere, so that
//! the same kernels run in tests on the host.
//!
//! A word holds two halves (bits 0-15 and 16-31) or four bytes; all are signed.
#![allow(dead_code, reason = "a set of instructions, whatever kernels use of it")]
#![allow(unsafe_code)]

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
    /// `x` within the range of a byte.
    fn saturate(x: i32) -> i32 = "ssat {result}, #8, {x}";
        x.clamp(-128, 127)
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
}

/// The larger of each pair of bytes.
#[inline(always)]
pub(super) fn max8(a: u32, b: u32) -> u32 {
    #[cfg(niwaki_dsp)]
    {
        let result: u32;
        // SAFETY: two instructions that read and write registers only. The first leaves in the GE flags
        // which bytes of `a` are not smaller; its own result must not overwrite what the second reads.
        unsafe {
            core::arch::asm!(
                "ssub8 {difference}, {a}, {b}",
                "sel {result}, {a}, {b}",
                difference = out(reg) _, result = lateout(reg) result, a = in(reg) a, b = in(reg) b,
                options(pure, nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(niwaki_dsp))]
    {
        let (a, b) = (bytes(a), bytes(b));
        u32::from_le_bytes(core::array::from_fn(|i| a[i].max(b[i]) as u8))
    }
}
