//! Linear operator over the nonzero weights, over DSP instructions. For blocks of two and four the
//! inputs are widened once, to two bytes each; those of four in the order 0, 2, 1, 3.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::dsp::{pkhbt, pkhtb, sxtb16, sxtb16_ror8};
#[cfg(not(niwaki_dsp))]
use super::dsp::{smlabb, smlabt, smlad};
#[cfg(not(niwaki_dsp))]
use super::requantise::Usual;
use super::requantise::{Requantise, limit};
use super::sparse::LinearStream;
use crate::model::Conv;
use crate::model::layout::{ALIGNMENT, ChannelRecord};

pub(super) fn linear<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let aligned = |address: *const u8| address.align_offset(ALIGNMENT) == 0;
    let sound = stream.block().len() == BLOCK
        && x.len() >= stream.inputs
        && scratch.len() >= stream.scratch_len()
        && (BLOCK == 1 || aligned(scratch.as_ptr().cast()))
        && aligned(stream.channels.as_ptr().cast())
        && y.len() == stream.channels.len();
    let (Some(last), true) = (stream.channels.last(), sound) else { return };
    let x: *const u8 = match BLOCK {
        1 => x.as_ptr().cast(),
        _ => {
            widen::<BLOCK>(x, scratch);
            scratch.as_ptr().cast()
        }
    };
    // The loop reads a bias ahead: behind the last row's channel stands a copy.
    let ahead = Aligned([*last; 2]);
    let outputs = y.as_mut_ptr_range();
    let last = outputs.end.wrapping_sub(1);
    let mut frame = Frame {
        groups: stream.bytes.as_ptr(),
        channel: stream.channels.as_ptr(),
        singles: stream.bytes.as_ptr_range().end,
        y: outputs.start,
        x,
        y_end: outputs.start,
        zero_point: Requantise::new(op.output.zero_point, op.clamp).nudge(),
    };
    while frame.y != outputs.end {
        if frame.y == last {
            frame.channel = ahead.0.as_ptr();
            frame.y_end = outputs.end;
        } else {
            frame.y_end = last;
        }
        // SAFETY: `LinearStream::verify` has walked the stream: there are as many groups and single
        // blocks as the channels count, of which there is one for each output, and every block lies
        // within the inputs, of which there are enough. Behind the channel of every row but the last
        // stands that of the next.
        unsafe {
            match BLOCK {
                1 => rows_1(&mut frame),
                2 => rows_2(&mut frame),
                _ => rows_4(&mut frame),
            }
        }
    }
    limit(op.clamp, y);
}

/// A value where words can be read.
#[repr(align(4))]
struct Aligned<T>(T);

/// Where the computation is. The assembly relies on the order.
#[repr(C)]
struct Frame {
    groups: *const u8,
    channel: *const ChannelRecord,
    /// Where the single blocks that are still to come end.
    singles: *const u8,
    y: *mut i8,
    /// The first input; for blocks of four, where distances count from.
    x: *const u8,
    y_end: *mut i8,
    /// Twice the output's zero point, plus one.
    zero_point: i32,
}

/// Sixteen inputs from r0 on, widened from r12 on.
#[cfg(niwaki_dsp)]
macro_rules! sixteen_wide {
    () => {
        "ldm r0!, {{r3, r5, r9, r11}}
        sxtb16 r2, r3
        sxtb16 r3, r3, ror #8
        sxtb16 r4, r5
        sxtb16 r5, r5, ror #8
        sxtb16 r8, r9
        sxtb16 r9, r9, ror #8
        sxtb16 r10, r11
        sxtb16 r11, r11, ror #8
        stm r12!, {{r2-r5, r8-r11}}\n"
    };
}

/// Writes the inputs in two bytes each.
fn widen<const BLOCK: usize>(x: &[i8], wide: &mut [i8]) {
    let word = |bytes: [i8; 4]| u32::from_le_bytes(bytes.map(|byte| byte as u8));
    let bytes = |word: u32| word.to_le_bytes().map(|byte| byte as i8);
    #[cfg(niwaki_dsp)]
    let (mut x, mut wide) = (x, wide);
    #[cfg(niwaki_dsp)]
    if BLOCK == 4 && x.as_ptr().align_offset(ALIGNMENT) == 0 {
        let rounds = (x.len() / 16).min(wide.len() / 32);
        if rounds > 0 {
            // SAFETY: reads 16 bytes and writes 32 per round, at multiples of four. Of the first four
            // rounds those that make `rounds` no multiple of four are jumped over.
            unsafe {
                core::arch::asm!(
                    "tbb [pc, r2]",
                    "3:",
                    ".byte (24f - 3b) / 2, (21f - 3b) / 2, (22f - 3b) / 2, (23f - 3b) / 2",
                    concat!("24:\n", sixteen_wide!(), "23:\n", sixteen_wide!()),
                    concat!("22:\n", sixteen_wide!(), "21:\n", sixteen_wide!()),
                    "subs r1, #1",
                    "bne 24b",
                    inout("r0") x.as_ptr() => _,
                    inout("r12") wide.as_mut_ptr() => _,
                    inout("r1") rounds.div_ceil(4) => _,
                    inout("r2") rounds % 4 => _,
                    out("r3") _, out("r4") _, out("r5") _,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                    options(nostack)
                );
            }
            x = x.get(16 * rounds..).unwrap_or_default();
            wide = wide.get_mut(32 * rounds..).unwrap_or_default();
        }
    }
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

/// Entries of a jump table, whose distances count from it.
#[cfg(niwaki_dsp)]
macro_rules! jump_table {
    ($($label:literal)*) => {
        concat!("3:\n", $(".2byte (", $label, "f - 3b) / 2\n",)*)
    };
}

/// A step behind each label, one after the other.
#[cfg(niwaki_dsp)]
macro_rules! steps {
    ($step:expr, $($label:literal)*) => {
        concat!($($label, ":\n", $step, "\n",)*)
    };
}

/// Two inputs with distances and weights in a register.
#[cfg(niwaki_dsp)]
macro_rules! two_inputs {
    ($entries:literal) => {
        concat!(
            "uxtab r9, r0, ",
            $entries,
            "\n",
            "uxtab r0, r9, ",
            $entries,
            ", ror #16\n",
            "sxtb16 ",
            $entries,
            ", ",
            $entries,
            ", ror #8\n",
            "ldrsb r9, [r9]\n",
            "ldrsb lr, [r0]\n",
            "smlabb r6, r9, ",
            $entries,
            ", r6\n",
            "smlabt r6, lr, ",
            $entries,
            ", r6\n",
        )
    };
}

/// Eight inputs.
#[cfg(niwaki_dsp)]
macro_rules! eight_inputs {
    () => {
        concat!(
            "ldm r1!, {{r2-r5}}\n",
            two_inputs!("r2"),
            two_inputs!("r3"),
            two_inputs!("r4"),
            two_inputs!("r5"),
        )
    };
}

/// Four blocks of two inputs.
#[cfg(niwaki_dsp)]
macro_rules! four_twos {
    () => {
        "ldm r1!, {{r2-r4}}
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
        smlad r6, r5, r4, r6"
    };
}

/// Two blocks of four inputs, each behind a label.
#[cfg(niwaki_dsp)]
macro_rules! two_fours {
    ($first:literal, $second:literal) => {
        concat!(
            $first,
            ":
            sxtah r0, r0, r2
            ldrd r5, r9, [r0]
            sxtb16 lr, r3
            sxtb16 r3, r3, ror #8
            smlad r11, r5, lr, r11
            smlad r11, r9, r3, r11\n",
            $second,
            ":
            add r0, r0, r2, asr #16
            ldrd r5, r9, [r0]
            sxtb16 lr, r4
            sxtb16 r4, r4, ror #8
            smlad r11, r5, lr, r11
            smlad r11, r9, r4, r11
            ldm r1!, {{r2-r4}}\n",
        )
    };
}

/// Defines the loop over rows.
///
/// In the loop over groups r0 is the input or its number, r1 points to the group and a register holds
/// the sum, which begins with the bias that came with the multiplier and shift of the row before. The
/// stack holds the first input, the end of the outputs and the zero point. Before the sum, r5 is the
/// channel's count, which stands above its shift and does not matter when that shifts.
macro_rules! rows {
    (
        $(#[$doc:meta])* $name:ident, before: [$($before:literal),*], sum: $sum:expr,
        rescale: [
            $accumulator:literal, $multiplier:literal, $shift:literal, $doubled:literal,
            $zero_point:literal, $start:literal
        ],
        end: [$($end:literal),*], behind: $behind:literal, else: $emulation:ident
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// For every row from the frame's to the last there is a channel with another one behind it, and
        /// as many groups and single blocks as it counts, of which all inputs can be read.
        #[cfg(niwaki_dsp)]
        #[inline(never)]
        unsafe fn $name(frame: &mut Frame) {
            // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps
            // for itself, and the stack pointer are restored. Offsets from r0 are those in `Frame`.
            unsafe {
                core::arch::asm!(
                    "push {{r0, r6, r7}}",
                    "add r6, r0, #16",
                    "ldm r6, {{r2-r4}}",
                    "push {{r2-r4}}",
                    "ldm r0, {{r1, r10-r12}}",
                    $($before,)*
                    concat!("ldr ", $accumulator, ", [r10], #4"),
                    "2:",
                    "ldrh r5, [r10, #6]",
                    $sum,
                    // Rescales: see `requantise::Usual`.
                    concat!("add ", $doubled, ", ", $accumulator, ", ", $accumulator),
                    concat!("ldm r10!, {{", $multiplier, ", ", $shift, ", ", $accumulator, "}}"),
                    $zero_point,
                    concat!("add ", $start, ", ", $start, ", ", $doubled, ", asr #31"),
                    concat!("smmlar ", $doubled, ", ", $doubled, ", ", $multiplier, ", ", $start),
                    concat!("asr ", $doubled, ", ", $shift),
                    concat!("ssat ", $doubled, ", #8, ", $doubled, ", asr #1"),
                    concat!("strb ", $doubled, ", [r12], #1"),
                    $($end,)*
                    "bne.w 2b",
                    $behind,
                    "sub r10, #4",
                    "ldr r0, [sp, #12]",
                    "stm r0, {{r1, r10-r12}}",
                    "add sp, #12",
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
        /// For every row from the frame's to the last there is a channel, and as many groups and single
        /// blocks as it counts, of which all inputs can be read.
        #[cfg(not(niwaki_dsp))]
        unsafe fn $name(frame: &mut Frame) {
            while frame.y != frame.y_end {
                // SAFETY: the caller's promise.
                unsafe {
                    let channel = &*frame.channel;
                    let sum = $emulation(frame, channel.count(), channel.bias.get());
                    *frame.y = Usual::new(channel, frame.zero_point).rescale(sum.wrapping_mul(2));
                    frame.y = frame.y.add(1);
                    frame.channel = frame.channel.add(1);
                }
            }
        }
    };
}

rows! {
    /// A single input, which r11 points behind, and groups of two, four at once, the first ones one and
    /// two at once. No loop over up to 103 inputs; r7 is the zero point and r8 the end of the outputs.
    rows_1,
    before: ["ldr r7, [sp, #8]", "ldr r8, [sp, #4]"],
    sum: concat!(
        "ldr r0, [sp]
        lsls r2, r5, #31
        usat r2, #5, r5, asr #3
        bpl 8f
        ldrh r4, [r11, #-2]!
        uxtab r0, r0, r4
        sxtb r4, r4, ror #8
        ldrsb r9, [r0]
        smlabb r6, r9, r4, r6
        8:
        bcc 8f
        ldr r4, [r1], #4\n",
        two_inputs!("r4"),
        "8:
        tst r5, #4
        beq 9f
        ldrd r4, r5, [r1], #8\n",
        two_inputs!("r4"), two_inputs!("r5"),
        "9:
        tbh [pc, r2, lsl #1]\n",
        jump_table!(20 21 22 23 24 25 26 27 28 29 30 31 32),
        ".rept 19
        .2byte (8f - 3b) / 2
        .endr
        8:
        ldrh r7, [r10, #6]
        lsrs r7, #3
        and r2, r7, #3
        subs r7, #9
        lsrs r7, #2
        tbh [pc, r2, lsl #1]\n",
        jump_table!(44 41 42 43),
        steps!(eight_inputs!(), 44 43 42 41),
        "subs r7, #1
        bne.w 44b
        ldr r7, [sp, #8]\n",
        steps!(eight_inputs!(), 32 31 30 29 28 27 26 25 24 23 22 21),
        "20:\n",
    ),
    rescale: ["r6", "r2", "r3", "r4", "lsl r5, r7, r3", "r5"],
    end: ["cmp r12, r8"], behind: "",
    else: sum_1
}

rows! {
    /// Groups of four blocks of two inputs, for which r7 is the end of the groups and lr the first
    /// input.
    rows_2,
    before: ["ldr lr, [sp]"],
    sum: concat!(
        "add r7, r5, r5, lsl #1
        and r2, r5, #7
        add r7, r1, r7, lsl #2
        mov r0, #0
        tbh [pc, r2, lsl #1]\n",
        jump_table!(20 21 22 23 24 25 26 27),
        steps!(four_twos!(), 28 27 26 25 24 23 22 21),
        "20:
        cmp r1, r7
        bne.w 28b",
    ),
    rescale: ["r6", "r2", "r3", "r4", "ldr r5, [sp, #8]\nlsls r5, r3", "r5"],
    end: ["ldr r2, [sp, #4]", "cmp r12, r2"], behind: "",
    else: sum_2
}

rows! {
    /// Groups of two blocks of four inputs, of which the next is always loaded. The filling that an odd
    /// number of blocks begins with is jumped over. No loop over up to 32 of them; r7 is the zero point,
    /// r8 the end of the outputs, and r0 stays from row to row.
    rows_4,
    before: ["ldr r7, [sp, #8]", "ldr r8, [sp, #4]", "ldr r0, [sp]", "ldm r1!, {{r2-r4}}"],
    sum: concat!(
        "usat r5, #6, r5
        tbh [pc, r5, lsl #1]\n",
        jump_table!(
            20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
            37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52
        ),
        ".rept 31
        .2byte (8f - 3b) / 2
        .endr
        8:
        ldrh r7, [r10, #6]
        adds r7, #1
        bic r7, #1
        7:\n",
        two_fours!("18", "19"),
        "subs r7, #2
        cmp r7, #32
        bne 7b
        ldr r7, [sp, #8]\n",
        two_fours!("52", "51"),
        two_fours!("50", "49"),
        two_fours!("48", "47"),
        two_fours!("46", "45"),
        two_fours!("44", "43"),
        two_fours!("42", "41"),
        two_fours!("40", "39"),
        two_fours!("38", "37"),
        two_fours!("36", "35"),
        two_fours!("34", "33"),
        two_fours!("32", "31"),
        two_fours!("30", "29"),
        two_fours!("28", "27"),
        two_fours!("26", "25"),
        two_fours!("24", "23"),
        two_fours!("22", "21"),
        "20:\n",
    ),
    rescale: ["r11", "r5", "r9", "lr", "lsl r6, r7, r9", "r6"],
    end: ["cmp r12, r8"], behind: "sub r1, #12\nldr r2, [sp, #12]\nstr r0, [r2, #16]",
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

/// A row's sum; moves the frame behind its blocks.
///
/// # Safety
///
/// `count` blocks can be read, and the input of each.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_1(frame: &mut Frame, count: usize, mut sum: i32) -> i32 {
    let mut x = frame.x;
    // SAFETY: the caller's promise.
    unsafe {
        if count % 2 == 1 {
            frame.singles = frame.singles.sub(2);
            x = x.add(usize::from(*frame.singles));
            let weight = *frame.singles.add(1) as i8;
            sum = smlabb(sum, i32::from(x.cast::<i8>().read()) as u32, i32::from(weight) as u32);
        }
        for _ in 0..count / 2 {
            let entries = word(frame.groups);
            let weights = sxtb16_ror8(entries);
            x = x.add((entries & 0xff) as usize);
            sum = smlabb(sum, i32::from(x.cast::<i8>().read()) as u32, weights);
            x = x.add((entries >> 16 & 0xff) as usize);
            sum = smlabt(sum, i32::from(x.cast::<i8>().read()) as u32, weights);
            frame.groups = frame.groups.add(4);
        }
    }
    sum
}

/// A row's sum; moves the frame behind its groups.
///
/// # Safety
///
/// `count` groups can be read, and the widened inputs of each of their blocks.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_2(frame: &mut Frame, count: usize, mut sum: i32) -> i32 {
    let mut x = frame.x;
    for _ in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let group = frame.groups;
            let (distances, first, second) = (word(group), word(group.add(4)), word(group.add(8)));
            let mut next = |shift: u32| {
                x = x.add(4 * (distances >> shift & 0xff) as usize);
                word(x)
            };
            sum = smlad(sum, next(0), sxtb16(first));
            sum = smlad(sum, next(8), sxtb16_ror8(first));
            sum = smlad(sum, next(16), sxtb16(second));
            sum = smlad(sum, next(24), sxtb16_ror8(second));
            frame.groups = group.add(12);
        }
    }
    sum
}

/// A row's sum; moves the frame behind its groups and to its last block.
///
/// # Safety
///
/// `count` blocks can be read, in whole groups, and the widened inputs of each.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_4(frame: &mut Frame, count: usize, mut sum: i32) -> i32 {
    for _ in 0..count.div_ceil(2) {
        // SAFETY: the caller's promise.
        unsafe {
            let group = frame.groups;
            let distances = word(group);
            for (distance, weights) in [(distances as i16, 4), ((distances >> 16) as i16, 8)] {
                frame.x = frame.x.offset(distance.into());
                let weights = word(group.add(weights));
                sum = smlad(sum, word(frame.x), sxtb16(weights));
                sum = smlad(sum, word(frame.x.add(4)), sxtb16_ror8(weights));
            }
            frame.groups = group.add(12);
        }
    }
    sum
}
