//! The DSP instructions of Armv7E-M and Armv8-M that the optimised kernels are written over: one
//! instruction each where the build has them, and their definition in plain Rust elsewhere, so that
//! the same kernels run in tests on the host.
//!
//! A word holds two halves (bits 0-15 and 16-31) or four bytes; all are signed.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
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

/// Low and high sums of four pixels, as [`mac_4`] leaves them.
pub(super) type Sums = [[i32; 4]; 2];

/// The inner loop of the packed convolution: one pair of output channels for four pixels.
///
/// The sums start with what the first of them holds, the bias. Per pixel the low sum becomes that plus the dot product with the low weights, the high one 256
/// times the dot product with the high weights, modulo 2^32: see [`packed`](super::packed).
///
/// # Safety
///
/// `x` must be valid for reads of `8 * blocks` words and `w` for `2 * blocks`; `blocks` is not 0.
#[inline(never)]
pub(super) unsafe fn mac_4(sums: &mut Sums, x: *const u32, w: *const u32, blocks: usize) {
    #[cfg(niwaki_dsp)]
    {
        // SAFETY: reads what the caller promises and writes `sums`. r6 and r7, which the compiler
        // keeps for itself, and the stack pointer are restored. Four blocks are unrolled, 96 bytes
        // of code each; the first round enters behind those that are too many.
        unsafe {
            core::arch::asm!(
                "push {{r0, r6, r7}}",
                "ldr r4, [r0]",
                "add r0, r1, r3, lsl #5",
                "push {{r0}}",
                "rsb r3, r3, #0",
                "and r3, r3, #3",
                "add r3, r3, r3, lsl #1",
                "mov r5, r4",
                "mov r6, r4",
                "mov r7, r4",
                "mov r8, r4",
                "mov r9, r4",
                "mov r10, r4",
                "mov r11, r4",
                "adr.w r0, 2f",
                "add r0, r0, r3, lsl #5",
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
                "pop {{r3}}",
                "pop {{r0}}",
                "sub r8, r8, r4",
                "sub r9, r9, r5",
                "sub r10, r10, r6",
                "sub r11, r11, r7",
                "stm r0, {{r4-r11}}",
                "pop {{r6, r7}}",
                inout("r0") sums => _,
                inout("r1") x => _,
                inout("r2") w => _,
                inout("r3") blocks => _,
                out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("lr") _,
            );
        }
    }
    #[cfg(not(niwaki_dsp))]
    {
        let [mut low, mut high] = [[sums[0][0]; 4]; 2];
        for word in 0..2 * blocks {
            // SAFETY: `word` is below `2 * blocks`.
            let pair = unsafe { *w.add(word) };
            for pixel in 0..4 {
                // SAFETY: the index is below `8 * blocks`.
                let x = unsafe { *x.add(4 * word + pixel) };
                low[pixel] = smlad(low[pixel], sxtb16(pair), x);
                high[pixel] = smlad(high[pixel], pair, x);
            }
        }
        for (high, low) in high.iter_mut().zip(low) {
            *high = high.wrapping_sub(low);
        }
        *sums = [low, high];
    }
}

#[cfg(niwaki_dsp)]
macro_rules! block_1 {
    () => {
        "ldrd {w0}, {w1}, [{p}], #8
        ldrd {x0}, {x1}, [{x}], #8
        smlad {h0}, {w0}, {x0}, {h0}
        sxtb16 {w0}, {w0}
        smlad {l0}, {w0}, {x0}, {l0}
        smlad {h0}, {w1}, {x1}, {h0}
        sxtb16 {w1}, {w1}
        smlad {l0}, {w1}, {x1}, {l0}
        ldrd {w0}, {w1}, [{q}], #8
        smlad {h1}, {w0}, {x0}, {h1}
        sxtb16 {w0}, {w0}
        smlad {l1}, {w0}, {x0}, {l1}
        smlad {h1}, {w1}, {x1}, {h1}
        sxtb16 {w1}, {w1}
        smlad {l1}, {w1}, {x1}, {l1}"
    };
}

/// The inner loop for two pairs of output channels and one pixel: the dot products with the four
/// channels' weights.
///
/// # Safety
///
/// `x`, `w[0]` and `w[1]` must be valid for reads of `2 * blocks` words; `blocks` is not 0.
#[inline(always)]
pub(super) unsafe fn mac_1(
    x: *const u32,
    w: [*const u32; 2],
    blocks: usize,
) -> [i32; 4] {
    let [mut low, mut high] = [[0i32; 2]; 2];
    #[cfg(niwaki_dsp)]
    // SAFETY: reads what the caller promises. Two blocks are unrolled; an odd number enters between.
    unsafe {
        core::arch::asm!(
            "lsrs {blocks}, {blocks}, #1",
            "bcs 3f",
            "2:",
            "subs {blocks}, {blocks}, #1",
            "bmi 4f",
            block_1!(),
            "3:",
            block_1!(),
            "b 2b",
            "4:",
            w0 = out(reg) _, w1 = out(reg) _, x0 = out(reg) _, x1 = out(reg) _,
            l0 = inout(reg) low[0], l1 = inout(reg) low[1],
            h0 = inout(reg) high[0], h1 = inout(reg) high[1],
            p = inout(reg) w[0] => _, q = inout(reg) w[1] => _, x = inout(reg) x => _,
            blocks = inout(reg) blocks => _,
            options(readonly, nostack)
        );
    }
    #[cfg(not(niwaki_dsp))]
    for word in 0..2 * blocks {
        for pair in 0..2 {
            // SAFETY: `word` is below `2 * blocks`.
            let (x, w) = unsafe { (*x.add(word), *w[pair].add(word)) };
            low[pair] = smlad(low[pair], sxtb16(w), x);
            high[pair] = smlad(high[pair], w, x);
        }
    }
    let high = |pair: usize| high[pair].wrapping_sub(low[pair]) >> 8;
    [low[0], high(0), low[1], high(1)]
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
