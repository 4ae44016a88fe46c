//! Linear operator over the nonzero weights, over DSP instructions. For blocks of two and four the
//! inputs are widened once, to two bytes each; those of four in the order 0, 2, 1, 3.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::dsp::{pkhbt, pkhtb, sxtb16, sxtb16_ror8};
#[cfg(not(niwaki_dsp))]
use super::dsp::{smlabb, smlabt, smlad};
#[cfg(niwaki_dsp)]
use super::requantise::max_shift;
use super::requantise::{Requantise, limit};
#[cfg(not(niwaki_dsp))]
use super::requantise::{is_usual, rescale};
use super::sparse::{Counts, LinearStream};
use crate::model::Conv;
use crate::model::layout::{ALIGNMENT, ChannelRecord};

pub(super) fn linear<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let requantise = Requantise::new(op.output.zero_point, op.clamp);
    let aligned = |address: *const u8| address.align_offset(ALIGNMENT) == 0;
    let sound = stream.block().len() == BLOCK
        && x.len() >= stream.inputs
        && scratch.len() >= stream.scratch_len()
        && (BLOCK == 1 || aligned(scratch.as_ptr().cast()))
        && aligned(op.channels.as_ptr().cast())
        && y.len() == stream.outputs
        && op.channels.len() == stream.outputs;
    if !sound {
        return;
    }
    let x: *const u8 = match BLOCK {
        1 => x.as_ptr().cast(),
        _ => {
            widen::<BLOCK>(x, scratch);
            scratch.as_ptr().cast()
        }
    };
    let (count, count_step) = match &stream.counts {
        Counts::Same(count) => (&raw const *count, 0),
        Counts::Each(counts) => (counts.as_ptr(), size_of::<[u8; 2]>()),
    };
    let outputs = y.as_mut_ptr_range();
    let mut frame = Frame {
        groups: stream.groups.as_ptr(),
        channel: op.channels.as_ptr(),
        count,
        y: outputs.start,
        x,
        y_end: outputs.end,
        count_step,
        zero_point: requantise.rounding_zero_point(),
        sum: 0,
    };
    while frame.y != frame.y_end {
        // SAFETY: `LinearStream::verify` has walked the stream: there are as many counts as outputs (of
        // which `op.channels` has one each), as many groups as they say, and every block lies within
        // the inputs, of which there are enough.
        unsafe {
            match BLOCK {
                1 => rows_1(&mut frame),
                2 => rows_2(&mut frame),
                _ => rows_4(&mut frame),
            }
            // A row whose rescaling is left to us.
            if frame.y != frame.y_end {
                *frame.y = requantise.one(&*frame.channel, frame.sum);
                frame.y = frame.y.add(1);
                frame.channel = frame.channel.add(1);
            }
        }
    }
    limit(op.clamp, y);
}

/// Where the computation is. The assembly relies on the order.
#[repr(C)]
struct Frame {
    groups: *const u8,
    channel: *const ChannelRecord,
    count: *const [u8; 2],
    y: *mut i8,
    x: *const u8,
    y_end: *mut i8,
    count_step: usize,
    /// Twice the output's zero point, plus one.
    zero_point: i32,
    /// The row's sum, where its rescaling is left to the caller.
    sum: i32,
}

/// Writes the inputs in two bytes each.
fn widen<const BLOCK: usize>(x: &[i8], wide: &mut [i8]) {
    let word = |bytes: [i8; 4]| u32::from_le_bytes(bytes.map(|byte| byte as u8));
    let bytes = |word: u32| word.to_le_bytes().map(|byte| byte as i8);
    let (fours, rest) = x.as_chunks::<4>();
    let (slots, slots_left) = wide.as_chunks_mut::<4>().0.as_chunks_mut::<2>();
    let (slots, slots_left) = match slots.split_at_mut_checked(fours.len()) {
        Some((slots, behind)) => {
            (slots, behind.as_flattened_mut().first_mut().or(slots_left.first_mut()))
        }
        None => return,
    };
    for (&x, slots) in fours.iter().zip(slots) {
        let (even, odd) = (sxtb16(word(x)), sxtb16_ror8(word(x)));
        *slots = match BLOCK {
            2 => [bytes(pkhbt(even, odd)), bytes(pkhtb(even, odd))],
            _ => [bytes(even), bytes(odd)],
        };
    }
    // Blocks of two may leave two.
    if let ([a, b], Some(slot)) = (rest, slots_left) {
        *slot = bytes(pkhbt(*a as u32, *b as u32));
    }
}

/// Eight steps, of which the last `r2` are taken first, and the check that ends the row.
#[cfg(niwaki_dsp)]
macro_rules! eight {
    ($step:expr) => {
        concat!(
            "tbh [pc, r2, lsl #1]\n3:\n",
            ".2byte (20f - 3b) / 2, (21f - 3b) / 2, (22f - 3b) / 2, (23f - 3b) / 2\n",
            ".2byte (24f - 3b) / 2, (25f - 3b) / 2, (26f - 3b) / 2, (27f - 3b) / 2\n",
            "28:\n", $step, "\n27:\n", $step, "\n26:\n", $step, "\n25:\n", $step, "\n",
            four!(@$step),
        )
    };
}

/// Four steps, of which the last `r2` are taken first, and the check that ends the row.
#[cfg(niwaki_dsp)]
macro_rules! four {
    ($step:expr) => {
        concat!(
            "tbh [pc, r2, lsl #1]\n3:\n",
            ".2byte (20f - 3b) / 2, (21f - 3b) / 2, (22f - 3b) / 2, (23f - 3b) / 2\n",
            "28:\n", four!(@$step),
        )
    };
    (@$step:expr) => {
        concat!(
            "24:\n", $step, "\n23:\n", $step, "\n22:\n", $step, "\n21:\n", $step,
            "\n20:\ncmp r1, r7\nbne.w 28b",
        )
    };
}

/// Four inputs with distances in one register and weights in another.
#[cfg(niwaki_dsp)]
macro_rules! four_inputs {
    ($distances:literal, $weights:literal) => {
        concat!(
            "sxtb16 r8, ",
            $weights,
            "\n",
            "sxtb16 ",
            $weights,
            ", ",
            $weights,
            ", ror #8\n",
            "uxtab r9, r0, ",
            $distances,
            "\n",
            "uxtab r0, r9, ",
            $distances,
            ", ror #8\n",
            "ldrsb r9, [r9]\n",
            "ldrsb lr, [r0]\n",
            "smlabb r6, r9, r8, r6\n",
            "smlabb r6, lr, ",
            $weights,
            ", r6\n",
            "uxtab r9, r0, ",
            $distances,
            ", ror #16\n",
            "add r0, r9, ",
            $distances,
            ", lsr #24\n",
            "ldrsb r9, [r9]\n",
            "ldrsb lr, [r0]\n",
            "smlabt r6, r9, r8, r6\n",
            "smlabt r6, lr, ",
            $weights,
            ", r6\n",
        )
    };
}

/// Defines the loop over rows, which ends before the first whose rescaling is unusual, with its sum.
///
/// In the loop over groups r0 is the input or its number, r1 points to the group, r6 holds the sum, r7
/// the end of the groups and lr the first input.
macro_rules! rows {
    (
        $(#[$doc:meta])* $name:ident, start: [$($start:literal),*], steps: $steps:expr,
        else: $emulation:ident
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// For every row from the frame's to the last there is a count, a channel and as many groups
        /// as the count says, and the inputs of all of their blocks can be read.
        #[cfg(niwaki_dsp)]
        #[inline(never)]
        unsafe fn $name(frame: &mut Frame) {
            // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps
            // for itself, and the stack pointer are restored. Offsets from r0 are those in `Frame`;
            // its second half is copied to the stack: the inputs, the end of the outputs, the step
            // from count to count and the zero point.
            unsafe {
                core::arch::asm!(
                    "push {{r0, r6, r7}}",
                    "add r6, r0, #16",
                    "ldm r6, {{r2-r5}}",
                    "push {{r2-r5}}",
                    "ldm r0, {{r1, r10-r12, lr}}",
                    "2:",
                    "ldrh r7, [r11]",
                    "ldr r2, [sp, #8]",
                    "ldr r6, [r10], #4",
                    "add r11, r2",
                    $($start,)*
                    $steps,
                    // Rescales: see `requantise::rescale`.
                    "ldrd r2, r3, [r10], #8",
                    "ldr r5, [sp, #12]",
                    "mvns r3, r3",
                    concat!("cmp r3, #", max_shift!()),
                    "bhs 4f",
                    "adds r6, r6, r6",
                    "lsls r5, r3",
                    "add r5, r5, r6, asr #31",
                    "smmlar r6, r6, r2, r5",
                    "ldr r2, [sp, #4]",
                    "asrs r6, r3",
                    "ssat r6, #8, r6, asr #1",
                    "strb r6, [r12], #1",
                    "cmp r12, r2",
                    "bne.w 2b",
                    "b 5f",
                    "4:",
                    "sub r10, #12",
                    "5:",
                    "ldr r0, [sp, #16]",
                    "stm r0, {{r1, r10-r12}}",
                    "str r6, [r0, #32]",
                    "add sp, #16",
                    "pop {{r0, r6, r7}}",
                    inout("r0") frame => _,
                    out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _,
                    out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
                );
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// For every row from the frame's to the last there is a count, a channel and as many groups
        /// as the count says, and the inputs of all of their blocks can be read.
        #[cfg(not(niwaki_dsp))]
        unsafe fn $name(frame: &mut Frame) {
            while frame.y != frame.y_end {
                // SAFETY: the caller's promise.
                unsafe {
                    let channel = &*frame.channel;
                    let count = usize::from(u16::from_le_bytes(*frame.count));
                    frame.count = frame.count.byte_add(frame.count_step);
                    let (sum, behind) = $emulation(frame.groups, count, frame.x, channel.bias.get());
                    frame.groups = behind;
                    if !is_usual(channel) {
                        frame.sum = sum;
                        return;
                    }
                    *frame.y = rescale(sum.wrapping_mul(2), channel, frame.zero_point);
                    frame.y = frame.y.add(1);
                    frame.channel = frame.channel.add(1);
                }
            }
        }
    };
}

rows! {
    /// Groups of four inputs, two at once.
    rows_1,
    start: ["lsrs r2, r7, #1", "add r7, r1, r7, lsl #3", "ldr r0, [sp]"],
    steps: concat!(
        "bcc 9f\nldrd r4, r5, [r1], #8\n", four_inputs!("r4", "r5"), "9:\nand r2, r2, #3\n",
        four!(concat!("ldm r1!, {{r2-r5}}\n", four_inputs!("r2", "r3"), four_inputs!("r4", "r5")))
    ),
    else: sum_1
}

rows! {
    /// Groups of four blocks of two inputs.
    rows_2,
    start: ["and r2, r7, #7", "add r7, r7, r7, lsl #1", "add r7, r1, r7, lsl #2", "mov r0, #0"],
    steps: eight!("ldm r1!, {{r2-r4}}
        uxtab r5, r0, r2
        uxtab r8, r5, r2, ror #8
        uxtab r9, r8, r2, ror #16
        add r0, r9, r2, lsr #24
        ldr r5, [lr, r5, lsl #2]
        ldr r8, [lr, r8, lsl #2]
        ldr r9, [lr, r9, lsl #2]
        sxtb16 r2, r3
        smlad r6, r5, r2, r6
        sxtb16 r3, r3, ror #8
        smlad r6, r8, r3, r6
        ldr r5, [lr, r0, lsl #2]
        sxtb16 r2, r4
        smlad r6, r9, r2, r6
        sxtb16 r4, r4, ror #8
        smlad r6, r5, r4, r6"),
    else: sum_2
}

rows! {
    /// Groups of two blocks of four inputs.
    rows_4,
    start: ["and r2, r7, #7", "add r7, r7, r7, lsl #1", "add r7, r1, r7, lsl #2", "mov r0, lr"],
    steps: eight!("ldm r1!, {{r2-r4}}
        uxtah r0, r0, r2
        ldrd r5, r8, [r0]
        sxtb16 r9, r3
        sxtb16 r3, r3, ror #8
        smlad r6, r5, r9, r6
        smlad r6, r8, r3, r6
        add r0, r0, r2, lsr #16
        ldrd r5, r8, [r0]
        sxtb16 r9, r4
        sxtb16 r4, r4, ror #8
        smlad r6, r5, r9, r6
        smlad r6, r8, r4, r6"),
    else: sum_4
}

/// The word at an address.
///
/// # Safety
///
/// The address is aligned and can be read.
#[cfg(not(niwaki_dsp))]
unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { at.cast::<u32>().read() })
}

/// A row's sum, and where its groups end.
///
/// # Safety
///
/// `count` groups can be read, and the input of each of their blocks.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_1(
    mut group: *const u8,
    count: usize,
    mut x: *const u8,
    mut sum: i32,
) -> (i32, *const u8) {
    for _ in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let (distances, weights) = (word(group), word(group.add(4)));
            let (even, odd) = (sxtb16(weights), sxtb16_ror8(weights));
            let mut next = |shift: u32| {
                x = x.add((distances >> shift & 0xff) as usize);
                i32::from(x.cast::<i8>().read()) as u32
            };
            sum = smlabb(sum, next(0), even);
            sum = smlabb(sum, next(8), odd);
            sum = smlabt(sum, next(16), even);
            sum = smlabt(sum, next(24), odd);
            group = group.add(8);
        }
    }
    (sum, group)
}

/// A row's sum, and where its groups end.
///
/// # Safety
///
/// `count` groups can be read, and the widened inputs of each of their blocks.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_2(
    mut group: *const u8,
    count: usize,
    mut x: *const u8,
    mut sum: i32,
) -> (i32, *const u8) {
    for _ in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let (distances, first, second) = (word(group), word(group.add(4)), word(group.add(8)));
            let mut next = |shift: u32| {
                x = x.add(4 * (distances >> shift & 0xff) as usize);
                word(x)
            };
            sum = smlad(sum, next(0), sxtb16(first));
            sum = smlad(sum, next(8), sxtb16_ror8(first));
            sum = smlad(sum, next(16), sxtb16(second));
            sum = smlad(sum, next(24), sxtb16_ror8(second));
            group = group.add(12);
        }
    }
    (sum, group)
}

/// A row's sum, and where its groups end.
///
/// # Safety
///
/// `count` groups can be read, and the widened inputs of each of their blocks.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_4(
    mut group: *const u8,
    count: usize,
    mut x: *const u8,
    mut sum: i32,
) -> (i32, *const u8) {
    for _ in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let distances = word(group);
            for (distance, weights) in [(distances & 0xffff, 4), (distances >> 16, 8)] {
                x = x.add(distance as usize);
                let weights = word(group.add(weights));
                sum = smlad(sum, word(x), sxtb16(weights));
                sum = smlad(sum, word(x.add(4)), sxtb16_ror8(weights));
            }
            group = group.add(12);
        }
    }
    (sum, group)
}
