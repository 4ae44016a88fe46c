//! The inner parts of the sparse convolution over DSP instructions. A plane's elements take two
//! bytes; a cell of four channels holds them in the order 0, 2, 1, 3, in which bytes are widened.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv_sparse::{NOWHERE, Tiles};
#[cfg(not(niwaki_dsp))]
use super::dsp::{smlabb, smlad, smlatb};
use super::dsp::{pkhbt, pkhtb, sxtb16, sxtb16_ror8};
use super::requantise::{Requantise, Target};
use super::sparse::{ConvStream, Counts, ELEMENT, TILE};
use crate::model::Conv;
use crate::model::layout::{ALIGNMENT, ChannelRecord};

/// Working memory and constants of one convolution. See [`Tiles`].
pub(super) struct Dsp<'a, 'm, const BLOCK: usize> {
    stream: &'a ConvStream<'m>,
    channels: &'m [ChannelRecord],
    requantise: Requantise,
    /// As long as the geometry says, at a multiple of the alignment.
    planes: &'a mut [i8],
    /// Takes the outputs of cells that are no output pixels: a byte per output channel.
    nowhere: &'a mut [i8],
    /// Output pixels times output channels.
    y: &'a mut [i8],
}

impl<'a, 'm, const BLOCK: usize> Dsp<'a, 'm, BLOCK> {
    /// `None` when a slice is not as long as the stream's geometry asks for.
    pub(super) fn new(
        op: &Conv<'m>,
        stream: &'a ConvStream<'m>,
        y: &'a mut [i8],
        scratch: &'a mut [i8],
    ) -> Option<Self> {
        let g = stream.geometry();
        let outputs = g.output[2];
        let (planes, rest) = scratch.split_at_mut_checked(g.bytes())?;
        let nowhere = rest.get_mut(..outputs)?;
        let sound = planes.as_ptr().align_offset(ALIGNMENT) == 0
            && op.channels.len() == outputs
            && g.block().len() == BLOCK;
        let requantise = Requantise::new(op.output.zero_point, op.clamp);
        sound.then_some(Self { stream, channels: op.channels, requantise, planes, nowhere, y })
    }
}

impl<const BLOCK: usize> Tiles for Dsp<'_, '_, BLOCK> {
    fn fill(&mut self, value: i8) {
        // The length is a multiple of the alignment: parts have an even number of cells.
        let half = u32::from(value as i16 as u16);
        let word = (half << 16 | half).to_ne_bytes().map(|byte| byte as i8);
        for slot in self.planes.as_chunks_mut().0 {
            *slot = word;
        }
    }

    fn lay_out(&mut self, pixels: &[i8], step: usize, count: usize, first: usize) {
        let g = self.stream.geometry();
        let depth = g.input[2];
        let cell = BLOCK.wrapping_mul(ELEMENT);
        let plane = g.plane().wrapping_mul(cell);
        let read = count.wrapping_sub(1).wrapping_mul(step).wrapping_add(depth);
        if count == 0 || pixels.len() < read || first.wrapping_add(count) > g.plane() {
            return;
        }
        let to = self.planes.as_mut_ptr().wrapping_add(first.wrapping_mul(cell));
        let from = pixels.as_ptr();
        // SAFETY: the checks above: `count` pixels of `depth` bytes lie in `pixels`, and `count` cells
        // from `first` lie in each of the planes, of which the memory holds `depth / BLOCK` rounded
        // up.
        unsafe {
            match BLOCK {
                1 => {
                    let mut index = 0usize;
                    while index.wrapping_add(1) < count {
                        lay_out_pair(from.add(index * step), step, depth, to.add(index * cell), plane);
                        index = index.wrapping_add(2);
                    }
                    if index < count {
                        lay_out_one(from.add(index * step), depth, to.add(index * cell), plane);
                    }
                }
                2 => {
                    for index in 0..count {
                        lay_out_2(from.add(index * step), depth, to.add(index * cell), plane);
                    }
                }
                _ => {
                    for index in 0..count {
                        lay_out_4(from.add(index * step), depth, to.add(index * cell), plane);
                    }
                }
            }
        }
    }

    fn compute(&mut self, first: usize, lanes: &[usize; TILE]) {
        let g = self.stream.geometry();
        let outputs = g.output[2];
        let Some(last) = self.y.len().checked_sub(outputs) else { return };
        if first > g.last_tile {
            return;
        }
        let y = self.y.as_mut_ptr();
        let nowhere = self.nowhere.as_mut_ptr();
        let targets: [*mut i8; TILE] = core::array::from_fn(|lane| match lanes[lane] {
            NOWHERE => nowhere,
            lane if lane > last => nowhere,
            lane => y.wrapping_add(lane),
        });
        let same;
        let (counts, count_step) = match &self.stream.counts {
            Counts::Same(count) => {
                same = count.to_le_bytes();
                (&raw const same, 0)
            }
            Counts::Each(counts) => (counts.as_ptr(), size_of::<[u8; 2]>()),
        };
        let base = self.planes.as_ptr().wrapping_add(first.wrapping_mul(BLOCK * ELEMENT)).cast();
        // SAFETY: `ConvStream::verify` has walked the stream: there are as many counts as output
        // channels (of which `self.channels` has one each), as many entries as they say and bytes
        // behind them, and the eight cells of every entry lie in the planes for every tile up to
        // `last_tile`. Each target has room for a byte per output channel.
        unsafe {
            channels::<BLOCK>(
                &self.requantise,
                self.channels,
                self.stream.entries.as_ptr(),
                (counts, count_step),
                base,
                targets,
            );
        }
    }
}

/// Computes a tile: eight pixels of every output channel.
///
/// # Safety
///
/// For every channel there is a count, `step` bytes behind the previous one, and behind each other as
/// many entries as that says, and four more bytes. The eight cells at each entry's offset from `base`
/// can be read, and a byte per channel be written at each of the targets.
#[cfg(not(niwaki_dsp))]
unsafe fn channels<const BLOCK: usize>(
    requantise: &Requantise,
    channels: &[ChannelRecord],
    mut entries: *const u8,
    (mut count, step): (*const [u8; 2], usize),
    base: *const u8,
    targets: [*mut i8; TILE],
) {
    for (index, channel) in channels.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let n = usize::from(u16::from_le_bytes(*count));
            count = count.byte_add(step);
            let bias = channel.bias.get();
            let (sums, behind) = match BLOCK {
                1 => sum_1(entries, n, base, bias.wrapping_mul(2)),
                2 => sum_2(entries, n, base, bias),
                _ => sum_4(entries, n, base, bias),
            };
            entries = behind;
            let doubled = if BLOCK == 1 { sums } else { sums.map(|sum| sum.wrapping_mul(2)) };
            requantise.store(channel, doubled, Target { lanes: &targets, offset: index });
        }
    }
}

/// What the assembly keeps in memory while it computes a tile, in this order.
#[cfg(niwaki_dsp)]
#[repr(C)]
struct Frame {
    /// Where the channel's entries end.
    end: *const u8,
    /// First cell of the tile in the first plane.
    base: *const u8,
    count: *const [u8; 2],
    count_step: usize,
    channel: *const ChannelRecord,
    /// Twice the output's zero point, plus one.
    zero_point: i32,
    /// Right shifts from 1 to this are rescaled here.
    max_shift: u32,
    /// The channel's number less the number of channels.
    index: isize,
    /// One entry ahead of `entry`.
    entries: *const u8,
    /// First word of the next entry; the distance for blocks of four.
    entry: u32,
    /// Where the outputs of each pixel end.
    targets: [*mut i8; TILE],
    /// Twice the sums of a channel that is rescaled elsewhere.
    sums: [i32; TILE],
}

/// Computes a tile: eight pixels of every output channel.
///
/// # Safety
///
/// For every channel there is a count, `step` bytes behind the previous one, and behind each other as
/// many entries as that says, and four more bytes. The eight cells at each entry's offset from `base`
/// can be read, and a byte per channel be written at each of the targets.
#[cfg(niwaki_dsp)]
unsafe fn channels<const BLOCK: usize>(
    requantise: &Requantise,
    channels: &[ChannelRecord],
    entries: *const u8,
    (count, count_step): (*const [u8; 2], usize),
    base: *const u8,
    targets: [*mut i8; TILE],
) {
    // SAFETY: there is an entry or the bytes behind the last.
    let (entries, entry) = unsafe {
        match BLOCK {
            4 => (entries.add(2), u32::from(entries.cast::<u16>().read())),
            _ => (entries.add(4), entries.cast::<u32>().read()),
        }
    };
    let mut frame = Frame {
        end: entries,
        base,
        count,
        count_step,
        channel: channels.as_ptr(),
        zero_point: requantise.rounding_zero_point(),
        max_shift: requantise.max_shift(),
        index: (channels.len() as isize).wrapping_neg(),
        entries,
        entry,
        targets: targets.map(|target| target.wrapping_add(channels.len())),
        sums: [0; TILE],
    };
    while frame.index < 0 {
        // SAFETY: the caller's promise.
        unsafe {
            match BLOCK {
                1 => channels_1(&mut frame),
                2 => channels_2(&mut frame),
                _ => channels_4(&mut frame),
            }
        }
        // A channel that the assembly leaves to us.
        let number = channels.len().wrapping_add_signed(frame.index);
        if let Some(channel) = channels.get(number) {
            let target = Target { lanes: &targets, offset: number };
            // SAFETY: the caller's promise.
            unsafe { requantise.store_unusual(channel, frame.sums, target) };
            frame.index = frame.index.wrapping_add(1);
        }
    }
}

/// An entry of one channel, and the next entry into another register.
#[cfg(niwaki_dsp)]
macro_rules! step_1 {
    ($entry:literal, $next:literal) => {
        concat!(
            "ldr.n r4, [r0]\n",
            "ldr.n r5, [r0, #4]\n",
            "smlabb r6, r4, ", $entry, ", r6\n",
            "smlatb r7, r4, ", $entry, ", r7\n",
            "smlabb r8, r5, ", $entry, ", r8\n",
            "smlatb r9, r5, ", $entry, ", r9\n",
            "ldr.n r4, [r0, #8]\n",
            "ldr.n r5, [r0, #12]\n",
            "ldr.w ", $next, ", [r1], #4\n",
            "smlabb r10, r4, ", $entry, ", r10\n",
            "smlatb r11, r4, ", $entry, ", r11\n",
            "smlabb r12, r5, ", $entry, ", r12\n",
            "smlatb lr, r5, ", $entry, ", lr\n",
            "add.w r0, r0, ", $next, ", lsr #16",
        )
    };
}

/// An entry of two channels.
#[cfg(niwaki_dsp)]
macro_rules! step_2 {
    () => {
        "pkhbt r3, r2, r2, lsl #8
        sxtb16 r3, r3
        ldrd r4, r5, [r0]
        smlad r6, r4, r3, r6
        smlad r7, r5, r3, r7
        ldrd r4, r5, [r0, #8]
        smlad r8, r4, r3, r8
        smlad r9, r5, r3, r9
        ldrd r4, r5, [r0, #16]
        smlad r10, r4, r3, r10
        smlad r11, r5, r3, r11
        ldrd r4, r5, [r0, #24]
        ldr.w r2, [r1], #4
        smlad r12, r4, r3, r12
        smlad lr, r5, r3, lr
        add.w r0, r0, r2, lsr #16"
    };
}

/// An entry of four channels.
#[cfg(niwaki_dsp)]
macro_rules! step_4 {
    () => {
        "ldr.w r2, [r1], #4
        sxtb16 r3, r2, ror #8
        sxtb16 r2, r2
        ldrd r4, r5, [r0]
        smlad r6, r4, r2, r6
        smlad r6, r5, r3, r6
        ldrd r4, r5, [r0, #8]
        smlad r7, r4, r2, r7
        smlad r7, r5, r3, r7
        ldrd r4, r5, [r0, #16]
        smlad r8, r4, r2, r8
        smlad r8, r5, r3, r8
        ldrd r4, r5, [r0, #24]
        smlad r9, r4, r2, r9
        smlad r9, r5, r3, r9
        ldrd r4, r5, [r0, #32]
        smlad r10, r4, r2, r10
        smlad r10, r5, r3, r10
        ldrd r4, r5, [r0, #40]
        smlad r11, r4, r2, r11
        smlad r11, r5, r3, r11
        ldrd r4, r5, [r0, #48]
        smlad r12, r4, r2, r12
        smlad r12, r5, r3, r12
        ldrd r4, r5, [r0, #56]
        smlad lr, r4, r2, lr
        smlad lr, r5, r3, lr
        ldrh.w r2, [r1], #2
        add.w r0, r0, r2"
    };
}

/// Rescales two sums, doubled if that says so, by the multiplier in r0, the shift in r1 and what is
/// added before it in r3, and stores them at r2 from the targets at an offset from the stack pointer.
#[cfg(niwaki_dsp)]
macro_rules! rescale_pair {
    ($a:literal, $b:literal, $target:literal, doubled) => {
        concat!(
            "add r4, r3, ", $a, ", asr #31\n",
            "smmlar ", $a, ", ", $a, ", r0, r4\n",
            "add r4, r3, ", $b, ", asr #31\n",
            "smmlar ", $b, ", ", $b, ", r0, r4\n",
            "asr ", $a, ", ", $a, ", r1\n",
            "asr ", $b, ", ", $b, ", r1\n",
            "ssat ", $a, ", #8, ", $a, "\n",
            "ssat ", $b, ", #8, ", $b, "\n",
            "ldrd r4, r5, [sp, #", $target, "]\n",
            "strb ", $a, ", [r4, r2]\n",
            "strb ", $b, ", [r5, r2]",
        )
    };
    ($a:literal, $b:literal, $target:literal, single) => {
        concat!(
            "lsl ", $a, ", ", $a, ", #1\n",
            "lsl ", $b, ", ", $b, ", #1\n",
            rescale_pair!($a, $b, $target, doubled)
        )
    };
}

/// Defines the loop over the output channels of a tile, which ends before the first channel whose
/// rescaling is unusual, with its sums.
///
/// r0 is the cell, r1 points into the stream, r2 holds the entry; r6 to r12 and lr hold the sums. The
/// steps for entries are unrolled; the first round enters behind those that are too many.
#[cfg(niwaki_dsp)]
macro_rules! channels_loop {
    (
        $(#[$doc:meta])* $name:ident,
        start: [$($start:literal),*], entries_end: [$($end:literal),*],
        first_cell: $first:literal, enter: [$($enter:literal),*],
        steps: [$($step:expr),*], sums: $sums:ident
    ) => {
        $(#[$doc])*
        #[inline(never)]
        unsafe fn $name(frame: &mut Frame) {
            // SAFETY: reads and writes what the caller promises. r6 and r7, which the compiler keeps
            // for itself, and the stack pointer are restored. Offsets from the stack pointer are those
            // of `Frame`, whose first 18 words are copied; the pointer to it is at 72.
            unsafe {
                core::arch::asm!(
                    "push {{r0, r6, r7}}",
                    "sub sp, #72",
                    "ldm r0!, {{r1-r5, r8-r12}}",
                    "stm sp, {{r1-r5, r8-r12}}",
                    "add r12, sp, #40",
                    "ldm r0, {{r1-r5, r8-r10}}",
                    "stm r12, {{r1-r5, r8-r10}}",
                    "ldrd r1, r2, [sp, #32]",
                    // The next channel's count, bias and end of entries.
                    "2:",
                    "ldr r3, [sp, #8]",
                    "ldr r5, [sp, #12]",
                    "ldrh r4, [r3]",
                    "add r3, r5",
                    "str r3, [sp, #8]",
                    "ldr r3, [sp, #16]",
                    "ldr r6, [r3]",
                    $($start,)*
                    "mov r7, r6",
                    "mov r8, r6",
                    "mov r9, r6",
                    "mov r10, r6",
                    "mov r11, r6",
                    "mov r12, r6",
                    "mov lr, r6",
                    $($end,)*
                    "str r3, [sp]",
                    "cmp r3, r1",
                    "beq.w 4f",
                    "rsb r4, r4, #0",
                    $($enter,)*
                    "ldr r0, [sp, #4]",
                    "mov r3, r2",
                    $first,
                    "mov pc, r5",
                    ".p2align 2",
                    "3:",
                    $($step,)*
                    "ldr r4, [sp]",
                    "cmp r1, r4",
                    "bne.w 3b",
                    // Rescales: see `Requantise::store`.
                    "4:",
                    "strd r1, r2, [sp, #32]",
                    "ldr r3, [sp, #16]",
                    "ldr r1, [r3, #8]",
                    "ldr r5, [sp, #24]",
                    "ldr r0, [r3, #4]",
                    "rsb r1, r1, #0",
                    "subs r2, r1, #1",
                    "cmp r2, r5",
                    "bhs.w 5f",
                    "adds r3, #12",
                    "str r3, [sp, #16]",
                    "ldr r3, [sp, #20]",
                    "lsls r3, r2",
                    "ldr r2, [sp, #28]",
                    rescale_pair!("r6", "r7", "40", $sums),
                    rescale_pair!("r8", "r9", "48", $sums),
                    rescale_pair!("r10", "r11", "56", $sums),
                    rescale_pair!("r12", "lr", "64", $sums),
                    "adds r2, #1",
                    "str r2, [sp, #28]",
                    "ldrd r1, r2, [sp, #32]",
                    "bne.w 2b",
                    "ldr r0, [sp, #72]",
                    "movs r1, #0",
                    "str r1, [r0, #28]",
                    "b 6f",
                    // Leaves the channel to the caller.
                    "5:",
                    "adds r3, #12",
                    "ldr r0, [sp, #72]",
                    "str r3, [r0, #16]",
                    "ldr r1, [sp, #8]",
                    "str r1, [r0, #8]",
                    "ldrd r1, r2, [sp, #28]",
                    "strd r1, r2, [r0, #28]",
                    "ldr r1, [sp, #36]",
                    "str r1, [r0, #36]",
                    "adds r0, #72",
                    "stm r0, {{r6-r12, lr}}",
                    "6:",
                    "add sp, #72",
                    "pop {{r0, r6, r7}}",
                    inout("r0") frame => _,
                    out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _,
                    out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("lr") _,
                );
            }
        }
    };
}

/// Eight steps for entries of one channel; the sums are doubled.
#[cfg(niwaki_dsp)]
channels_loop! {
    channels_1,
    start: ["lsl r6, r6, #1"],
    entries_end: ["add r3, r1, r4, lsl #2"],
    first_cell: "add r0, r0, r2, lsr #16",
    // 48 bytes of code each. An odd step expects its entry in r3.
    enter: ["and r4, r4, #7", "add r4, r4, r4, lsl #1", "adr.w r5, 3f", "add r5, r5, r4, lsl #4"],
    steps: [step_1!("r2", "r3"), step_1!("r3", "r2"), step_1!("r2", "r3"), step_1!("r3", "r2"),
            step_1!("r2", "r3"), step_1!("r3", "r2"), step_1!("r2", "r3"), step_1!("r3", "r2")],
    sums: doubled
}

/// Steps for entries of two channels.
#[cfg(niwaki_dsp)]
channels_loop! {
    channels_2,
    start: [],
    entries_end: ["add r3, r1, r4, lsl #2"],
    first_cell: "add r0, r0, r2, lsr #16",
    // 64 bytes of code each.
    enter: ["and r4, r4, #7", "adr.w r5, 3f", "add r5, r5, r4, lsl #6"],
    steps: [step_2!(), step_2!(), step_2!(), step_2!(),
            step_2!(), step_2!(), step_2!(), step_2!()],
    sums: single
}

/// Steps for entries of four channels.
#[cfg(niwaki_dsp)]
channels_loop! {
    channels_4,
    start: [],
    entries_end: ["add r3, r4, r4, lsl #1", "add r3, r1, r3, lsl #1"],
    first_cell: "add r0, r2",
    // 116 bytes of code each.
    enter: ["and r4, r4, #3", "add r5, r4, r4, lsl #1", "rsb r4, r5, r4, lsl #5", "adr.w r5, 3f",
            "add r5, r5, r4, lsl #2"],
    steps: [step_4!(), step_4!(), step_4!(), step_4!()],
    sums: single
}

/// # Safety
///
/// `at + offset` and the three bytes behind it can be read.
#[inline(always)]
unsafe fn word(at: *const u8, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { at.add(offset).cast::<u32>().read_unaligned() })
}

/// As [`word`], at a multiple of four bytes.
///
/// # Safety
///
/// `at + offset` is aligned, and it and the three bytes behind it can be read.
#[cfg(not(niwaki_dsp))]
unsafe fn aligned(at: *const u8, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { at.add(offset).cast::<u32>().read() })
}

/// Twice the sums of eight pixels over `count` entries of one channel each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_1(
    mut entries: *const u8,
    count: usize,
    mut cell: *const u8,
    start: i32,
) -> ([i32; TILE], *const u8) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [start; TILE];
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..count {
            let entry = aligned(entries, 0);
            entries = entries.add(4);
            cell = cell.add((entry >> 16) as usize);
            let (ab, cd) = (word(cell, 0), word(cell, 4));
            a = smlabb(a, ab, entry);
            b = smlatb(b, ab, entry);
            c = smlabb(c, cd, entry);
            d = smlatb(d, cd, entry);
            let (ef, gh) = (word(cell, 8), word(cell, 12));
            e = smlabb(e, ef, entry);
            f = smlatb(f, ef, entry);
            g = smlabb(g, gh, entry);
            h = smlatb(h, gh, entry);
        }
    }
    ([a, b, c, d, e, f, g, h], entries)
}

/// The sums of eight pixels over `count` entries of two channels each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_2(
    mut entries: *const u8,
    count: usize,
    mut cell: *const u8,
    start: i32,
) -> ([i32; TILE], *const u8) {
    let mut sums = [start; TILE];
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..count {
            let entry = aligned(entries, 0);
            entries = entries.add(4);
            cell = cell.add((entry >> 16) as usize);
            // Bytes 0 and 1 as halves.
            let weights = sxtb16((entry & 0xffff) | (entry << 8 & 0xffff_0000));
            for half in 0..2 {
                let x: [u32; 4] = core::array::from_fn(|i| aligned(cell, 16 * half + 4 * i));
                for i in 0..4 {
                    sums[4 * half + i] = smlad(sums[4 * half + i], x[i], weights);
                }
            }
        }
    }
    (sums, entries)
}

/// The sums of eight pixels over `count` entries of four channels each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
#[cfg(not(niwaki_dsp))]
unsafe fn sum_4(
    mut entries: *const u8,
    count: usize,
    mut cell: *const u8,
    start: i32,
) -> ([i32; TILE], *const u8) {
    let mut sums = [start; TILE];
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..count {
            let distance = u16::from_le(entries.cast::<u16>().read());
            let weights = word(entries, 2);
            entries = entries.add(6);
            cell = cell.add(distance.into());
            let (even, odd) = (sxtb16(weights), sxtb16_ror8(weights));
            for (pixel, sum) in sums.iter_mut().enumerate() {
                let (x, z) = (aligned(cell, 8 * pixel), aligned(cell, 8 * pixel + 4));
                *sum = smlad(smlad(*sum, x, even), z, odd);
            }
        }
    }
    (sums, entries)
}

/// Lays out two pixels as neighbouring cells of one-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` and at `from + step` can be read, and four at `to + c * plane` be written
/// for every `c` below `depth`.
#[inline(always)]
unsafe fn lay_out_pair(
    from: *const i8,
    step: usize,
    depth: usize,
    to: *mut i8,
    plane: usize,
) {
    let (mut first, mut to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..depth / 4 {
            let (a, b) = (word(first, 0), word(first, step));
            first = first.add(4);
            let (a02, b02) = (sxtb16(a), sxtb16(b));
            put_word(to, pkhbt(a02, b02));
            put_word(to.add(2 * plane), pkhtb(a02, b02));
            to = to.add(plane);
            let (a13, b13) = (sxtb16_ror8(a), sxtb16_ror8(b));
            put_word(to, pkhbt(a13, b13));
            put_word(to.add(2 * plane), pkhtb(a13, b13));
            to = to.add(3 * plane);
        }
        for _ in 0..depth % 4 {
            let (a, b) = (first.cast::<i8>().read(), first.add(step).cast::<i8>().read());
            first = first.add(1);
            put_word(to, pkhbt(a as u32, b as u32));
            to = to.add(plane);
        }
    }
}

/// Lays out a pixel as a cell of one-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` can be read, and two at `to + c * plane` be written for every `c` below
/// `depth`.
unsafe fn lay_out_one(from: *const i8, depth: usize, to: *mut i8, plane: usize) {
    for channel in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let value = i16::from(from.add(channel).read());
            to.add(channel * plane).cast::<i16>().write_unaligned(value.to_le());
        }
    }
}

/// Lays out a pixel as a cell of two-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` can be read, and four at `to + c / 2 * plane` be written for every `c`
/// below `depth`.
#[inline(always)]
unsafe fn lay_out_2(from: *const i8, depth: usize, to: *mut i8, plane: usize) {
    let (mut from, mut to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..depth / 4 {
            let x = word(from, 0);
            from = from.add(4);
            let (even, odd) = (sxtb16(x), sxtb16_ror8(x));
            put_word(to, pkhbt(even, odd));
            put_word(to.add(plane), pkhtb(even, odd));
            to = to.add(2 * plane);
        }
        if depth % 4 > 0 {
            let byte = |index| u32::from(from.add(index).read());
            let x = match depth % 4 {
                1 => byte(0),
                2 => byte(0) | byte(1) << 8,
                _ => byte(0) | byte(1) << 8 | byte(2) << 16,
            };
            let (even, odd) = (sxtb16(x), sxtb16_ror8(x));
            put_word(to, pkhbt(even, odd));
            if depth % 4 == 3 {
                put_word(to.add(plane), pkhtb(even, odd));
            }
        }
    }
}

/// Lays out a pixel as a cell of four-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` can be read, and eight at `to + c / 4 * plane` be written for every `c`
/// below `depth`.
#[inline(always)]
unsafe fn lay_out_4(from: *const i8, depth: usize, to: *mut i8, plane: usize) {
    let (mut from, mut to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..depth / 4 {
            let x = word(from, 0);
            from = from.add(4);
            put_word(to, sxtb16(x));
            put_word(to.add(4), sxtb16_ror8(x));
            to = to.add(plane);
        }
        if depth % 4 > 0 {
            let byte = |index| u32::from(from.add(index).read());
            let x = match depth % 4 {
                1 => byte(0),
                2 => byte(0) | byte(1) << 8,
                _ => byte(0) | byte(1) << 8 | byte(2) << 16,
            };
            put_word(to, sxtb16(x));
            put_word(to.add(4), sxtb16_ror8(x));
        }
    }
}

/// # Safety
///
/// Four bytes at `to` can be written.
#[inline(always)]
unsafe fn put_word(to: *mut u8, word: u32) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<u32>().write_unaligned(word.to_le()) };
}
