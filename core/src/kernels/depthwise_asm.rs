//! The inner loops of the depthwise convolution.
#![allow(unsafe_code)]

#[cfg(not(niwaki_dsp))]
use super::dsp::{pkhbt, pkhtb, smlabt, smlad, smlatb, sxtb16, sxtb16_ror8};

/// Brings pixels of four channels to planes: of each channel `count` words of two neighbouring pixels.
///
/// # Safety
///
/// `from` must be valid for reads of four bytes at `2 * count` places `step` bytes apart, and `to` for
/// writes of `count` words at four places `words` words apart. `count` is not 0.
#[inline(always)]
pub(super) unsafe fn planes(
    from: *const i8,
    step: usize,
    to: *mut u32,
    words: usize,
    count: usize,
) {
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

/// Rows of sums of a depthwise convolution over three by three taps, for one channel.
///
/// A word of an input row holds two neighbouring pixels, a pair of weight words the taps (0, 1) and
/// (1, 2) of a kernel row. Sums are made two at a time; where a row's number is odd, the next row
/// overwrites the last.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct DepthwiseRows {
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
    /// The weights of three kernel rows.
    pub(super) weights: *const [[u32; 2]; 3],
}

#[cfg(niwaki_dsp)]
macro_rules! depthwise_rows {
    ($rows:ident, $($body:expr),*) => {
        // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps for
        // itself, and the stack pointer are restored.
        unsafe {
            core::arch::asm!(
                "push {{r6, r7}}",
                "add r12, r0, #16",
                "ldm r12, {{r1-r6}}",
                "push {{r1-r5}}",
                "ldm r0, {{r7-r10}}",
                "ldm r6, {{r1-r6}}",
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

/// A row of three taps with horizontal step 1, added to the two sums in lr and r0: the register of its
/// pixels, and those of its pairs of weights.
#[cfg(niwaki_dsp)]
macro_rules! row_1 {
    ($row:literal, $w01:literal, $w12:literal) => {
        concat!(
            "ldrd r11, r12, [",
            $row,
            "], #4\n",
            "smlad lr, r11, ",
            $w01,
            ", lr\n",
            "smlatb r0, r11, ",
            $w01,
            ", r0\n",
            "smlabt lr, r12, ",
            $w12,
            ", lr\n",
            "smlad r0, r12, ",
            $w12,
            ", r0",
        )
    };
}

/// The same with horizontal step 2.
#[cfg(niwaki_dsp)]
macro_rules! row_2 {
    ($row:literal, $w01:literal, $w12:literal) => {
        concat!(
            "ldrd r11, r12, [",
            $row,
            "], #4\n",
            "smlad lr, r11, ",
            $w01,
            ", lr\n",
            "smlabt lr, r12, ",
            $w12,
            ", lr\n",
            "smlad r0, r12, ",
            $w01,
            ", r0\n",
            "ldr r12, [",
            $row,
            ", #4]!\n",
            "smlabt r0, r12, ",
            $w12,
            ", r0",
        )
    };
}

/// The definition of the functions below: `step` words further per two sums, which are added to those of
/// passes before where it is a further one.
#[cfg(not(niwaki_dsp))]
unsafe fn depthwise_rows(
    rows: &DepthwiseRows,
    further: bool,
    step: usize,
    sums_of: impl Fn([i32; 2], [u32; 3], [u32; 2]) -> [i32; 2],
) {
    let (mut inputs, mut sums, mut end) = (rows.rows, rows.sums, rows.end);
    // SAFETY: the caller's promise.
    let weights = unsafe { *rows.weights };
    for _ in 0..rows.count {
        while sums != end {
            // SAFETY: the caller's promise.
            let mut pair = if further { unsafe { [*sums, *sums.add(1)] } } else { [0; 2] };
            for (x, weights) in inputs.iter_mut().zip(weights) {
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

#[cfg(not(niwaki_dsp))]
fn step_1([first, second]: [i32; 2], [x01, x23, _]: [u32; 3], [w01, w12]: [u32; 2]) -> [i32; 2] {
    let second = smlad(smlatb(second, x01, w01), x23, w12);
    [smlabt(smlad(first, x01, w01), x23, w12), second]
}

#[cfg(not(niwaki_dsp))]
fn step_2([first, second]: [i32; 2], [x01, x23, x45]: [u32; 3], [w01, w12]: [u32; 2]) -> [i32; 2] {
    let second = smlabt(smlad(second, x23, w01), x45, w12);
    [smlabt(smlad(first, x01, w01), x23, w12), second]
}

/// Sums with horizontal step 1.
///
/// # Safety
///
/// From `sums` on, `count` rows of `row_bytes` and `excess` must be valid for writes, and each of the
/// input rows for reads of one word for each two sums and one more. `weights` must be valid for reads.
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
        row_1!("r8", "r3", "r4"),
        row_1!("r9", "r5", "r6")
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, false, 1, step_1);
    }
}

/// The same, added to sums that are there.
///
/// # Safety
///
/// As for [`depthwise_rows_1`]; the sums must be valid for reads, too.
#[inline(never)]
pub(super) unsafe fn add_depthwise_rows_1(rows: &DepthwiseRows) {
    #[cfg(niwaki_dsp)]
    depthwise_rows!(
        rows,
        "ldrd lr, r0, [r10]",
        row_1!("r7", "r1", "r2"),
        row_1!("r8", "r3", "r4"),
        row_1!("r9", "r5", "r6")
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, true, 1, step_1);
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
        row_2!("r8", "r3", "r4"),
        row_2!("r9", "r5", "r6")
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, false, 2, step_2);
    }
}

/// The same, added to sums that are there.
///
/// # Safety
///
/// As for [`depthwise_rows_2`]; the sums must be valid for reads, too.
#[inline(never)]
pub(super) unsafe fn add_depthwise_rows_2(rows: &DepthwiseRows) {
    #[cfg(niwaki_dsp)]
    depthwise_rows!(
        rows,
        "ldrd lr, r0, [r10]",
        row_2!("r7", "r1", "r2"),
        row_2!("r8", "r3", "r4"),
        row_2!("r9", "r5", "r6")
    );
    #[cfg(not(niwaki_dsp))]
    // SAFETY: the caller's promise.
    unsafe {
        depthwise_rows(rows, true, 2, step_2);
    }
}
