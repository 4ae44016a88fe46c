//! The inner parts of the sparse convolution over DSP instructions. A plane's elements take two
//! bytes; a cell of four channels holds them in the order 0, 2, 1, 3, in which bytes are widened. Sums
//! are doubled for the rescaling that follows: by the stream's weights for blocks of one channel, by
//! the elements of the planes for the others.
//!
//! Pointers that step from plane to plane wrap: the last step leads outside.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::conv_sparse::{NOWHERE, Stretch, Tiles, run};
use super::dsp::{pkhbt, pkhtb, smlabb, smlad, smlatb, sxtab16, sxtab16_ror8, sxtb16, sxtb16_ror8};
use super::requantise::{Requantise, limit};
use super::sparse::{ConvStream, ELEMENT, TILE};
use crate::model::Conv;
use crate::model::layout::{ALIGNMENT, ChannelRecord};

/// The convolution by a stream whose block is `BLOCK` channels.
pub(super) fn convolve<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &ConvStream<'_>,
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    if let Some(mut tiles) = Dsp::<BLOCK>::new(op, stream, y, scratch) {
        run(op, stream.geometry(), x, &mut tiles);
        // Behind the output may be the rest of an input in its place.
        limit(op.clamp, y.get_mut(..op.output.len()).unwrap_or_default());
    }
}

/// Working memory and constants of one convolution. See [`Tiles`].
struct Dsp<'a, 'm, const BLOCK: usize> {
    stream: &'a ConvStream<'m>,
    channels: &'m [ChannelRecord],
    requantise: Requantise,
    /// As long as the geometry says, at a multiple of the alignment.
    planes: &'a mut [i8],
    /// Notes about a band's tiles, likewise.
    #[cfg(niwaki_dsp)]
    records: asm::Records<'a>,
    /// Takes the outputs of cells that are no output pixels: a byte per output channel.
    nowhere: &'a mut [i8],
    /// Output pixels times output channels, or the input in their place.
    y: &'a mut [i8],
}

impl<'a, 'm, const BLOCK: usize> Dsp<'a, 'm, BLOCK> {
    /// `None` when a slice is not as long as the stream's geometry asks for.
    fn new(
        op: &Conv<'m>,
        stream: &'a ConvStream<'m>,
        y: &'a mut [i8],
        scratch: &'a mut [i8],
    ) -> Option<Self> {
        let g = stream.geometry();
        let outputs = g.output[2];
        let (planes, rest) = scratch.split_at_mut_checked(g.bytes())?;
        let (_records, rest) = rest.split_at_mut_checked(g.records())?;
        let nowhere = rest.get_mut(..outputs)?;
        let sound = planes.as_ptr().align_offset(ALIGNMENT) == 0
            && stream.channels.as_ptr().align_offset(ALIGNMENT) == 0
            && stream.channels.len() == outputs
            && g.block().len() == BLOCK;
        sound.then_some(Self {
            stream,
            channels: stream.channels,
            requantise: Requantise::new(op.output.zero_point, op.clamp),
            planes,
            #[cfg(niwaki_dsp)]
            records: asm::Records::new(_records)?,
            nowhere,
            y,
        })
    }

    /// Where the outputs of each pixel of a tile go: a byte per output channel.
    fn targets(&mut self, lanes: &[usize; TILE]) -> Option<[*mut i8; TILE]> {
        let last = self.y.len().checked_sub(self.nowhere.len())?;
        let (y, nowhere) = (self.y.as_mut_ptr(), self.nowhere.as_mut_ptr());
        Some(lanes.map(|lane| match lane {
            NOWHERE => nowhere,
            lane if lane > last => nowhere,
            lane => y.wrapping_add(lane),
        }))
    }

    /// The tile's first cell in the first plane, if it is a tile.
    fn base(&self, first: usize) -> Option<*const u8> {
        let offset = first.wrapping_mul(BLOCK * ELEMENT);
        (first <= self.stream.geometry().last_tile)
            .then(|| self.planes.as_ptr().wrapping_add(offset).cast())
    }
}

impl<const BLOCK: usize> Tiles for Dsp<'_, '_, BLOCK> {
    #[inline(never)]
    fn fill(&mut self, value: i8) {
        let value = i16::from(value).wrapping_mul(if BLOCK == 1 { 1 } else { 2 });
        let half = u32::from(value as u16);
        let word = (half << 16 | half).to_ne_bytes().map(|byte| byte as i8);
        // The length is a multiple of a word: parts have an even number of cells.
        let (rows, rest) = self.planes.as_chunks_mut::<4>().0.as_chunks_mut::<8>();
        #[cfg(niwaki_dsp)]
        if !rows.is_empty() {
            let word = u32::from_ne_bytes(word.map(|byte| byte as u8));
            // SAFETY: writes `rows`, whose words are aligned like the planes.
            unsafe {
                core::arch::asm!(
                    "2:",
                    "stm {to}!, {{r2-r5}}",
                    "stm {to}!, {{r2-r5}}",
                    "subs {count}, #1",
                    "bne 2b",
                    to = inout(reg) rows.as_mut_ptr() => _,
                    count = inout(reg) rows.len() => _,
                    in("r2") word, in("r3") word, in("r4") word, in("r5") word,
                    options(nostack)
                );
            }
        }
        #[cfg(not(niwaki_dsp))]
        rows.fill([word; 8]);
        rest.fill(word);
    }

    #[inline(never)]
    fn lay_out(&mut self, x: Option<&[i8]>, Stretch { start, step, count, first }: Stretch) {
        let g = self.stream.geometry();
        let pixels = x.unwrap_or(self.y).get(start..).unwrap_or(&[]);
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
            let at = |index: usize| (from.add(index * step), to.add(index * cell));
            for pair in 0..if BLOCK == 2 { 0 } else { count / 2 } {
                let (from, to) = at(2 * pair);
                match BLOCK {
                    1 => lay_out_pair_1(from, step, depth, to, plane),
                    _ => lay_out_pair_4(from, step, depth, to, plane),
                }
            }
            for index in if BLOCK == 2 { 0 } else { count & !1 }..count {
                let (from, to) = at(index);
                match BLOCK {
                    1 => lay_out_1(from, depth, to, plane),
                    2 => lay_out_2(from, depth, to, plane),
                    _ => lay_out_4(from, depth, to, plane),
                }
            }
        }
    }

    #[cfg(niwaki_dsp)]
    #[inline(never)]
    fn add_tile(&mut self, first: usize, lanes: &[usize; TILE]) {
        let outputs = self.nowhere.len();
        if let (Some(base), Some(targets)) = (self.base(first), self.targets(lanes)) {
            self.records.push(base, targets.map(|target| target.wrapping_add(outputs)));
        }
    }

    #[cfg(niwaki_dsp)]
    #[inline(never)]
    fn compute(&mut self) {
        let entries = self.stream.entries.as_ptr();
        // SAFETY: `ConvStream::verify` has walked the stream: there are as many entries as the channels
        // count and four bytes behind them, and the eight cells of every entry lie in the planes for every tile up to
        // `last_tile`, at even cells where the geometry says so. A byte per output channel ends at each
        // of the records' targets.
        unsafe {
            asm::channels::<BLOCK>(
                &self.requantise,
                self.channels,
                entries,
                self.records.finish(),
                self.stream.geometry().even,
            );
        }
    }

    #[cfg(not(niwaki_dsp))]
    fn add_tile(&mut self, first: usize, lanes: &[usize; TILE]) {
        let (Some(base), Some(targets)) = (self.base(first), self.targets(lanes)) else { return };
        let mut entries = self.stream.entries.as_ptr();
        for (index, channel) in self.channels.iter().enumerate() {
            // SAFETY: `ConvStream::verify` has walked the stream: there are as many entries as the channels
            // count, and the eight cells of every entry lie in the planes for every tile up to `last_tile`. There is
            // room for a byte per output channel at each target.
            unsafe {
                let (sums, behind) = sum::<BLOCK>(entries, channel, base);
                entries = behind;
                self.requantise.store(channel, sums, &targets.map(|target| target.add(index)));
            }
        }
    }

    #[cfg(not(niwaki_dsp))]
    fn compute(&mut self) {}
}

#[cfg(niwaki_dsp)]
#[path = "conv_sparse_asm.rs"]
mod asm;

/// Twice the sums of eight pixels over a channel's entries, and where the entries end.
///
/// # Safety
///
/// As many entries as the channel counts can be read, and from `cell` the eight cells at each of their offsets.
unsafe fn sum<const BLOCK: usize>(
    entries: *const u8,
    channel: &ChannelRecord,
    cell: *const u8,
) -> ([i32; TILE], *const u8) {
    let (count, start) = (channel.count(), channel.bias.get().wrapping_mul(2));
    // SAFETY: the caller's promise.
    unsafe {
        match BLOCK {
            1 => sum_1(entries, count, cell, start),
            2 => sum_2(entries, count, cell, start),
            _ => sum_4(entries, count, cell, start),
        }
    }
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
#[inline(always)]
unsafe fn aligned(at: *const u8, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { at.add(offset).cast::<u32>().read() })
}

/// Twice the sums of eight pixels over `count` entries of one channel each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
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

/// Twice the sums of eight pixels over `count` entries of two channels each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
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

/// Twice the sums of eight pixels over `count` entries of four channels each, and where the entries end.
///
/// # Safety
///
/// The entries can be read, and from `cell` the eight cells at each of their offsets.
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

/// Four channels of [`lay_out_pair_1`].
#[cfg(niwaki_dsp)]
macro_rules! lay_out_pair_1 {
    () => {
        "ldr {a}, [{first}], #4
        ldr {b}, [{second}], #4
        pkhbt {c}, {a}, {b}, lsl #16
        pkhtb {d}, {b}, {a}, asr #16
        sxtb16 {a}, {c}
        sxtb16 {c}, {c}, ror #8
        sxtb16 {b}, {d}
        sxtb16 {d}, {d}, ror #8
        str {a}, [{to}]
        str {c}, [{to}, {plane}]
        str {b}, [{to}, {plane}, lsl #1]
        str {d}, [{to}, {third}]
        add {to}, {to}, {plane}, lsl #2"
    };
}
/// Lays out two pixels as neighbouring cells of one-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` and at `from + step` can be read, and four at `to + c * plane` be written
/// for every `c` below `depth`.
#[inline(always)]
unsafe fn lay_out_pair_1(from: *const i8, step: usize, depth: usize, to: *mut i8, plane: usize) {
    let (mut first, mut to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(niwaki_dsp)]
        if depth / 4 > 0 {
            // As below, twice; the compiler spends more instructions on the addresses.
            core::arch::asm!(
                "tst {count}, #1",
                "bne 3f",
                "2:",
                lay_out_pair_1!(),
                "3:",
                lay_out_pair_1!(),
                "subs {count}, #2",
                "bgt 2b",
                first = inout(reg) first,
                second = inout(reg) first.add(step) => _,
                to = inout(reg) to,
                plane = in(reg) plane,
                third = in(reg) 3 * plane,
                count = inout(reg) depth / 4 => _,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                options(nostack)
            );
        }
        #[cfg(not(niwaki_dsp))]
        for _ in 0..depth / 4 {
            let (a, b) = (word(first, 0), word(first, step));
            first = first.add(4);
            let (low, high) = (pkhbt(a, b), pkhtb(a, b));
            put_word(to, sxtb16(low));
            put_word(to.add(plane), sxtb16_ror8(low));
            put_word(to.add(2 * plane), sxtb16(high));
            put_word(to.add(3 * plane), sxtb16_ror8(high));
            to = to.wrapping_add(4 * plane);
        }
        for _ in 0..depth % 4 {
            let (a, b) = (first.cast::<i8>().read(), first.add(step).cast::<i8>().read());
            first = first.add(1);
            put_word(to, pkhbt(a as u32, b as u32));
            to = to.wrapping_add(plane);
        }
    }
}

/// Four channels of [`lay_out_pair_4`].
#[cfg(niwaki_dsp)]
macro_rules! lay_out_pair_4 {
    () => {
        "ldr {a}, [{first}], #4
        ldr {b}, [{second}], #4
        sxtb16 r2, {a}
        sxtb16 r3, {a}, ror #8
        sxtb16 r4, {b}
        sxtb16 r5, {b}, ror #8
        sxtab16 r2, r2, {a}
        sxtab16 r3, r3, {a}, ror #8
        sxtab16 r4, r4, {b}
        sxtab16 r5, r5, {b}, ror #8
        stm {to}, {{r2-r5}}
        add {to}, {plane}"
    };
}
/// Lays out two pixels as neighbouring cells of four-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` and at `from + step` can be read, and 16 at `to + c / 4 * plane` be written
/// for every `c` below `depth`. `to` and `plane` are multiples of four.
#[inline(always)]
unsafe fn lay_out_pair_4(from: *const i8, step: usize, depth: usize, to: *mut i8, plane: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(niwaki_dsp)]
        let (from, to) = {
            let (mut from, mut to) = (from, to);
            if depth / 4 > 0 {
                core::arch::asm!(
                    "tst {count}, #1",
                    "bne 3f",
                    "2:",
                    lay_out_pair_4!(),
                    "3:",
                    lay_out_pair_4!(),
                    "subs {count}, #2",
                    "bgt 2b",
                    first = inout(reg) from,
                    second = inout(reg) from.add(step) => _,
                    to = inout(reg) to,
                    plane = in(reg) plane,
                    count = inout(reg) depth / 4 => _,
                    a = out(reg) _, b = out(reg) _,
                    out("r2") _, out("r3") _, out("r4") _, out("r5") _,
                    options(nostack)
                );
            }
            (from, to)
        };
        #[cfg(niwaki_dsp)]
        let depth = depth % 4;
        lay_out_4(from, depth, to, plane);
        lay_out_4(from.add(step), depth, to.add(8), plane);
    }
}

/// Lays out a pixel as a cell of one-channel planes.
///
/// # Safety
///
/// `depth` bytes at `from` can be read, and two at `to + c * plane` be written for every `c` below
/// `depth`.
unsafe fn lay_out_1(from: *const i8, depth: usize, to: *mut i8, plane: usize) {
    for channel in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let value = i16::from(from.add(channel).read());
            to.add(channel * plane).cast::<i16>().write_unaligned(value.to_le());
        }
    }
}

/// Twice the even bytes and twice the odd bytes of a word.
#[inline(always)]
fn double(x: u32) -> (u32, u32) {
    (sxtab16(sxtb16(x), x), sxtab16_ror8(sxtb16_ror8(x), x))
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
            let (even, odd) = double(x);
            put_word(to, pkhbt(even, odd));
            put_word(to.add(plane), pkhtb(even, odd));
            to = to.wrapping_add(2 * plane);
        }
        if !depth.is_multiple_of(4) {
            let byte = |index| u32::from(from.add(index).read());
            let x = match depth % 4 {
                1 => byte(0),
                2 => byte(0) | byte(1) << 8,
                _ => byte(0) | byte(1) << 8 | byte(2) << 16,
            };
            let (even, odd) = double(x);
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
            let (even, odd) = double(x);
            put_word(to, even);
            put_word(to.add(4), odd);
            to = to.wrapping_add(plane);
        }
        if !depth.is_multiple_of(4) {
            let byte = |index| u32::from(from.add(index).read());
            let x = match depth % 4 {
                1 => byte(0),
                2 => byte(0) | byte(1) << 8,
                _ => byte(0) | byte(1) << 8 | byte(2) << 16,
            };
            let (even, odd) = double(x);
            put_word(to, even);
            put_word(to.add(4), odd);
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
