//! The loop over output channels and tiles in assembly: eight sums and what their products need fill
//! the registers, which compilers cannot be relied on to allocate without spills.

use super::super::requantise::{Requantise, max_shift};
use super::super::sparse::TILE;
use super::sum;
use crate::model::layout::ChannelRecord;

/// What a tile needs: its first cell, and where the outputs of each pixel end.
#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    base: *const u8,
    targets: [*mut i8; TILE],
}

/// Records of a band's tiles.
pub(super) struct Records<'a> {
    memory: &'a mut [i8],
    len: usize,
}

impl<'a> Records<'a> {
    /// `None` when the memory is not aligned for records.
    pub(super) fn new(memory: &'a mut [i8]) -> Option<Self> {
        (memory.as_ptr().align_offset(align_of::<Record>()) == 0).then_some(Self { memory, len: 0 })
    }

    /// Adds a tile, unless the memory is full.
    pub(super) fn push(&mut self, base: *const u8, targets: [*mut i8; TILE]) {
        let start = self.len.wrapping_mul(size_of::<Record>());
        let end = start.wrapping_add(size_of::<Record>()).wrapping_add(size_of::<u32>());
        if end <= self.memory.len() {
            // SAFETY: the check above, and `new` has checked the alignment.
            unsafe {
                let record = self.memory.as_mut_ptr().add(start).cast::<Record>();
                record.write(Record { base, targets });
            }
            self.len = self.len.wrapping_add(1);
        }
    }

    /// Ends the band: the first record, of as many as a null pointer ends.
    pub(super) fn finish(&mut self) -> *const u8 {
        let end = self.len.wrapping_mul(size_of::<Record>());
        self.len = 0;
        if end.wrapping_add(size_of::<u32>()) > self.memory.len() {
            return core::ptr::null();
        }
        // SAFETY: the check above, and `new` has checked the alignment.
        unsafe { self.memory.as_mut_ptr().add(end).cast::<*const u8>().write(core::ptr::null()) };
        self.memory.as_ptr().cast()
    }
}

/// What the assembly keeps in memory, in this order.
#[repr(C)]
struct Frame {
    /// The channel's entries behind what is loaded of the first, what is loaded, and the bias doubled.
    first: [u32; 3],
    jump: u32,
    multiplier: i32,
    /// Right shift, less one, below the count.
    shift: i32,
    start: i32,
    /// Whether the sign of a sum matters for its rounding.
    signed: u32,
    record: *const u8,
    /// The channel's number less the number of channels.
    index: isize,
    /// First record.
    records: *const u8,
    channel: *const ChannelRecord,
    /// Twice the output's zero point, plus one.
    zero_point: i32,
    /// Where the loads of the channel's entries end, which run ahead.
    ahead: *const u8,
}

/// Computes a band's tiles: eight pixels each of every output channel.
///
/// # Safety
///
/// There are as many entries as the channels count, and four more bytes. For every record, of which one or more stand before
/// a null pointer, the eight cells at each entry's offset from its base can be read (that word by word
/// at multiples of four if they are `even`), and a byte per channel be written before each of its
/// targets.
pub(super) unsafe fn channels<const BLOCK: usize>(
    requantise: &Requantise,
    channels: &[ChannelRecord],
    entries: *const u8,
    records: *const u8,
    even: bool,
) {
    if records.is_null() {
        return;
    }
    // Bytes that the loads run ahead, and bytes of an entry.
    let (ahead, entry) = if BLOCK == 4 { (2, 6) } else { (4, 4) };
    let mut frame = Frame {
        first: [0; 3],
        jump: 0,
        multiplier: 0,
        shift: 0,
        start: 0,
        signed: requantise.signed().into(),
        record: records,
        index: (channels.len() as isize).wrapping_neg(),
        records,
        channel: channels.as_ptr(),
        zero_point: requantise.nudge(),
        ahead: entries.wrapping_add(ahead),
    };
    while frame.index < 0 {
        // SAFETY: the caller's promise.
        unsafe {
            match BLOCK {
                1 if even => channels_1_even(&mut frame),
                1 => channels_1(&mut frame),
                2 => channels_2(&mut frame),
                _ => channels_4(&mut frame),
            }
        }
        // A channel that the assembly leaves to us.
        let number = channels.len().wrapping_add_signed(frame.index);
        let Some(channel) = channels.get(number) else { return };
        let entries = frame.ahead.wrapping_sub(ahead);
        // SAFETY: the caller's promise.
        unsafe {
            unusual::<BLOCK>(requantise, channel, entries, records.cast(), frame.index);
        }
        frame.ahead = frame.ahead.wrapping_add(channel.count().wrapping_mul(entry));
        frame.channel = frame.channel.wrapping_add(1);
        frame.index = frame.index.wrapping_add(1);
    }
}

/// Computes one channel that has an unusual rescaling.
///
/// # Safety
///
/// As for [`channels`].
#[cold]
#[inline(never)]
unsafe fn unusual<const BLOCK: usize>(
    requantise: &Requantise,
    channel: &ChannelRecord,
    entries: *const u8,
    mut record: *const Record,
    index: isize,
) {
    // SAFETY: the caller's promise; the last record is a null pointer only.
    unsafe {
        while !(*record.cast::<*const u8>()).is_null() {
            let (sums, _) = sum::<BLOCK>(entries, channel, (*record).base);
            let targets = (*record).targets.map(|target| target.offset(index));
            requantise.store_unusual(channel, sums, &targets);
            record = record.add(1);
        }
    }
}

/// An entry of one channel in a register, which leaves the next in another.
macro_rules! step_1 {
    ($entry:literal, $next:literal, first) => {
        concat!(step_1!($entry, $next, "lr", "lr", "lr", "lr", "lr", "lr", "lr"), "\nmov r2, r3")
    };
    ($entry:literal, $next:literal) => {
        step_1!($entry, $next, "r6", "r7", "r8", "r9", "r10", "r11", "r12")
    };
    (
        $entry:literal, $next:literal,
        $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal
    ) => {
        concat!(
            "ldr.n r4, [r0]\n",
            "ldr.n r5, [r0, #4]\n",
            "smlabb r6, r4, ",
            $entry,
            ", ",
            $a,
            "\n",
            "smlatb r7, r4, ",
            $entry,
            ", ",
            $b,
            "\n",
            "smlabb r8, r5, ",
            $entry,
            ", ",
            $c,
            "\n",
            "smlatb r9, r5, ",
            $entry,
            ", ",
            $d,
            "\n",
            "ldr.n r4, [r0, #8]\n",
            "ldr.n r5, [r0, #12]\n",
            "ldr.w ",
            $next,
            ", [r1], #4\n",
            "smlabb r10, r4, ",
            $entry,
            ", ",
            $e,
            "\n",
            "smlatb r11, r4, ",
            $entry,
            ", ",
            $f,
            "\n",
            "smlabb r12, r5, ",
            $entry,
            ", ",
            $g,
            "\n",
            "smlatb lr, r5, ",
            $entry,
            ", lr\n",
            "add.w r0, r0, ",
            $next,
            ", lsr #16",
        )
    };
}

/// The same for cells at multiples of four bytes.
macro_rules! step_1_even {
    ($entry:literal, $next:literal, first) => {
        concat!(
            step_1_even!($entry, $next, "lr", "lr", "lr", "lr", "lr", "lr", "lr"),
            "\nmov r2, r3"
        )
    };
    ($entry:literal, $next:literal) => {
        step_1_even!($entry, $next, "r6", "r7", "r8", "r9", "r10", "r11", "r12")
    };
    (
        $entry:literal, $next:literal,
        $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal
    ) => {
        concat!(
            "ldrd r4, r5, [r0]\n",
            "smlabb r6, r4, ",
            $entry,
            ", ",
            $a,
            "\n",
            "smlatb r7, r4, ",
            $entry,
            ", ",
            $b,
            "\n",
            "smlabb r8, r5, ",
            $entry,
            ", ",
            $c,
            "\n",
            "smlatb r9, r5, ",
            $entry,
            ", ",
            $d,
            "\n",
            "ldrd r4, r5, [r0, #8]\n",
            "ldr.w ",
            $next,
            ", [r1], #4\n",
            "smlabb r10, r4, ",
            $entry,
            ", ",
            $e,
            "\n",
            "smlatb r11, r4, ",
            $entry,
            ", ",
            $f,
            "\n",
            "smlabb r12, r5, ",
            $entry,
            ", ",
            $g,
            "\n",
            "smlatb lr, r5, ",
            $entry,
            ", lr\n",
            "add.w r0, r0, ",
            $next,
            ", lsr #16",
        )
    };
}

/// An entry of two channels.
macro_rules! step_2 {
    (first) => {
        step_2!("lr", "lr", "lr", "lr", "lr", "lr", "lr")
    };
    () => {
        step_2!("r6", "r7", "r8", "r9", "r10", "r11", "r12")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal) => {
        concat!(
            // Bytes 0 and 1 as halves.
            "pkhbt r3, r2, r2, lsl #8\n",
            "sxtb16 r3, r3\n",
            "ldrd r4, r5, [r0]\n",
            "smlad r6, r4, r3, ",
            $a,
            "\n",
            "smlad r7, r5, r3, ",
            $b,
            "\n",
            "ldrd r4, r5, [r0, #8]\n",
            "smlad r8, r4, r3, ",
            $c,
            "\n",
            "smlad r9, r5, r3, ",
            $d,
            "\n",
            "ldrd r4, r5, [r0, #16]\n",
            "smlad r10, r4, r3, ",
            $e,
            "\n",
            "smlad r11, r5, r3, ",
            $f,
            "\n",
            "ldrd r4, r5, [r0, #24]\n",
            "ldr.w r2, [r1], #4\n",
            "smlad r12, r4, r3, ",
            $g,
            "\n",
            "smlad lr, r5, r3, lr\n",
            "add.w r0, r0, r2, lsr #16",
        )
    };
}

/// An entry of four channels.
macro_rules! step_4 {
    (first) => {
        step_4!("lr", "lr", "lr", "lr", "lr", "lr", "lr")
    };
    () => {
        step_4!("r6", "r7", "r8", "r9", "r10", "r11", "r12")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal) => {
        concat!(
            "ldr.w r2, [r1], #4\n",
            "sxtb16 r3, r2, ror #8\n",
            "sxtb16 r2, r2\n",
            step_4!("r6", $a, "0"),
            step_4!("r7", $b, "8"),
            step_4!("r8", $c, "16"),
            step_4!("r9", $d, "24"),
            step_4!("r10", $e, "32"),
            step_4!("r11", $f, "40"),
            step_4!("r12", $g, "48"),
            step_4!("lr", "lr", "56"),
            "ldrh.w r2, [r1], #2\n",
            "add.w r0, r0, r2",
        )
    };
    ($sum:literal, $start:literal, $offset:literal) => {
        concat!(
            "ldrd r4, r5, [r0, #",
            $offset,
            "]\n",
            "smlad ",
            $sum,
            ", r4, r2, ",
            $start,
            "\n",
            "smlad ",
            $sum,
            ", r5, r3, ",
            $sum,
            "\n",
        )
    };
}

/// Rescales a doubled sum by the multiplier in r0, the shift less one in r1 and what is added before it
/// in r2: see [`Usual`](super::super::requantise::Usual).
macro_rules! rescale {
    ($sum:literal) => {
        concat!("add r3, r2, ", $sum, ", asr #31\n", rescale!(@$sum, "r3"))
    };
    (unsigned $sum:literal) => {
        rescale!(@$sum, "r2")
    };
    (@$sum:literal, $start:literal) => {
        concat!(
            "smmlar ", $sum, ", ", $sum, ", r0, ", $start, "\n",
            "asrs ", $sum, ", r1\n",
            "ssat ", $sum, ", #8, ", $sum, ", asr #1",
        )
    };
}

/// Defines the loop over output channels and, for each, tiles. It ends before the first channel that
/// has an unusual rescaling.
///
/// In the loop over entries r0 is the cell, r1 points into the stream, r2 (or r3) holds the entry; r6
/// to r12 and lr hold the sums. The first entry's step begins with the bias in lr. The steps of the
/// others are unrolled; the first round enters behind those that are too many.
macro_rules! channels_loop {
    (
        $(#[$doc:meta])* $name:ident, load: [$first_entry:literal, $first_cell:literal],
        end: [$($end:literal),*], enter: [$($enter:literal),*],
        first: $first:expr, steps: [$($step:expr),*]
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// As for [`channels`], for the channels that the frame tells of.
        #[inline(never)]
        unsafe fn $name(frame: &mut Frame) {
            // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps
            // for itself, and the stack pointer are restored. Offsets from the stack pointer are those
            // in `Frame`, of which a copy lies there; the pointer to it is at 56.
            unsafe {
                core::arch::asm!(
                    "push {{r0, r6, r7}}",
                    "sub sp, #56",
                    "ldm r0!, {{r1-r5, r8-r10}}",
                    "stm sp, {{r1-r5, r8-r10}}",
                    "ldm r0, {{r1-r5, r8}}",
                    "add r11, sp, #32",
                    "stm r11, {{r1-r5, r8}}",
                    // The next channel's bias, rescaling and count, which is the upper half of r9 and
                    // does not matter when the lower one shifts.
                    "2:",
                    "ldrd r6, r11, [sp, #44]",
                    "ldm r6!, {{r7-r9}}",
                    "uxth r4, r9",
                    concat!("cmp r4, #", max_shift!()),
                    "bhs.w 6f",
                    "str r6, [sp, #44]",
                    "lsl r11, r11, r9",
                    "lsl r7, r7, #1",
                    "lsrs r4, r9, #16",
                    "beq.w 5f",
                    "strd r8, r9, [sp, #16]",
                    "str r11, [sp, #24]",
                    "ldr r1, [sp, #52]",
                    $first_entry,
                    "stm sp, {{r1, r2, r7}}",
                    // Where its entries end, and where to enter the loop for all but the first.
                    $($end,)*
                    "str r3, [sp, #52]",
                    "subs r4, #1",
                    $($enter,)*
                    "adds r5, #1",
                    "str r5, [sp, #12]",
                    "ldr r0, [sp, #40]",
                    "ldr r6, [r0], #4",
                    "str r0, [sp, #32]",
                    // The next tile.
                    "3:",
                    "ldm sp, {{r1, r2, lr}}",
                    $first_cell,
                    $first,
                    "ldr pc, [sp, #12]",
                    ".p2align 2",
                    "4:",
                    $($step,)*
                    "ldr r4, [sp, #52]",
                    "cmp r1, r4",
                    "bne.w 4b",
                    "ldrd r0, r1, [sp, #16]",
                    "ldrd r2, r3, [sp, #24]",
                    "cbz r3, 8f",
                    rescale!("r6"),
                    rescale!("r7"),
                    rescale!("r8"),
                    rescale!("r9"),
                    rescale!("r10"),
                    rescale!("r11"),
                    rescale!("r12"),
                    rescale!("lr"),
                    "b.n 9f",
                    "8:",
                    rescale!(unsigned "r6"),
                    rescale!(unsigned "r7"),
                    rescale!(unsigned "r8"),
                    rescale!(unsigned "r9"),
                    rescale!(unsigned "r10"),
                    rescale!(unsigned "r11"),
                    rescale!(unsigned "r12"),
                    rescale!(unsigned "lr"),
                    "9:",
                    "ldrd r0, r1, [sp, #32]",
                    "ldm r0!, {{r2-r5}}",
                    "strb r6, [r2, r1]",
                    "strb r7, [r3, r1]",
                    "strb r8, [r4, r1]",
                    "strb r9, [r5, r1]",
                    "ldm r0!, {{r2-r6}}",
                    "strb r10, [r2, r1]",
                    "strb r11, [r3, r1]",
                    "strb r12, [r4, r1]",
                    "strb lr, [r5, r1]",
                    "str r0, [sp, #32]",
                    "cmp r6, #0",
                    "bne.w 3b",
                    "adds r1, #1",
                    "str r1, [sp, #36]",
                    "bne.w 2b",
                    "b 6f",
                    // No entries: all outputs are that of the bias.
                    "5:",
                    "mov r0, r8",
                    "mov r1, r9",
                    "mov r2, r11",
                    rescale!("r7"),
                    "ldrd r1, r0, [sp, #36]",
                    "7:",
                    "adds r0, #4",
                    "ldm r0!, {{r2-r5}}",
                    "strb r7, [r2, r1]",
                    "strb r7, [r3, r1]",
                    "strb r7, [r4, r1]",
                    "strb r7, [r5, r1]",
                    "ldm r0!, {{r2-r5}}",
                    "strb r7, [r2, r1]",
                    "strb r7, [r3, r1]",
                    "strb r7, [r4, r1]",
                    "strb r7, [r5, r1]",
                    "ldr r3, [r0]",
                    "cmp r3, #0",
                    "bne.n 7b",
                    "adds r1, #1",
                    "str r1, [sp, #36]",
                    "bne.w 2b",
                    "6:",
                    "ldr r0, [sp, #56]",
                    "ldr r1, [sp, #36]",
                    "ldr r2, [sp, #44]",
                    "ldr r3, [sp, #52]",
                    "str r1, [r0, #36]",
                    "str r2, [r0, #44]",
                    "str r3, [r0, #52]",
                    "add sp, #56",
                    "pop {{r0, r6, r7}}",
                    inout("r0") frame => _,
                    out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _,
                    out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
                );
            }
        }
    };
}

channels_loop! {
    /// Entries of one channel.
    channels_1, load: ["ldr r2, [r1, #-4]", "add r0, r6, r2, lsr #16"],
    end: ["add r3, r1, r4, lsl #2"],
    // 48 bytes of code each. Odd steps expect their entry in r3.
    enter: ["and r4, r4, #7", "rsb r4, r4, #8", "add r4, r4, r4, lsl #1", "adr.w r5, 4f",
            "add r5, r5, r4, lsl #4"],
    first: step_1!("r2", "r3", first),
    steps: [step_1!("r2", "r3"), step_1!("r3", "r2"), step_1!("r2", "r3"), step_1!("r3", "r2"),
            step_1!("r2", "r3"), step_1!("r3", "r2"), step_1!("r2", "r3"), step_1!("r3", "r2")]
}

channels_loop! {
    /// The same for cells at multiples of four bytes.
    channels_1_even, load: ["ldr r2, [r1, #-4]", "add r0, r6, r2, lsr #16"],
    end: ["add r3, r1, r4, lsl #2"],
    // 48 bytes of code each. Odd steps expect their entry in r3.
    enter: ["and r4, r4, #7", "rsb r4, r4, #8", "add r4, r4, r4, lsl #1", "adr.w r5, 4f",
            "add r5, r5, r4, lsl #4"],
    first: step_1_even!("r2", "r3", first),
    steps: [
        step_1_even!("r2", "r3"), step_1_even!("r3", "r2"), step_1_even!("r2", "r3"),
        step_1_even!("r3", "r2"), step_1_even!("r2", "r3"), step_1_even!("r3", "r2"),
        step_1_even!("r2", "r3"), step_1_even!("r3", "r2")
    ]
}

channels_loop! {
    /// Entries of two channels.
    channels_2, load: ["ldr r2, [r1, #-4]", "add r0, r6, r2, lsr #16"],
    end: ["add r3, r1, r4, lsl #2"],
    // 64 bytes of code each.
    enter: ["and r4, r4, #7", "rsb r4, r4, #8", "adr.w r5, 4f", "add r5, r5, r4, lsl #6"],
    first: step_2!(first),
    steps: [step_2!(), step_2!(), step_2!(), step_2!(), step_2!(), step_2!(), step_2!(), step_2!()]
}

channels_loop! {
    /// Entries of four channels.
    channels_4, load: ["ldrh r2, [r1, #-2]", "add r0, r6, r2"],
    end: ["add r3, r4, r4, lsl #1", "add r3, r1, r3, lsl #1"],
    // 116 bytes of code each.
    enter: ["and r4, r4, #3", "rsb r4, r4, #4", "add r5, r4, r4, lsl #1",
            "rsb r4, r5, r4, lsl #5", "adr.w r5, 4f", "add r5, r5, r4, lsl #2"],
    first: step_4!(first),
    steps: [step_4!(), step_4!(), step_4!(), step_4!()]
}
