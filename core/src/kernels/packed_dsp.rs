//! The packed operators over DSP instructions: inputs are widened once for all output channels, four
//! pixels at a time.
#![allow(unsafe_code)]

use zerocopy::little_endian::{I16, I32, U16};
use zerocopy::{FromBytes, IntoBytes};

use super::packed::{BLOCK, CHUNK, TILE, blocks, conv_scratch_len, packed_len, runs};
use super::requantise::{Requantise, all_saturate, limit};
use super::{conv_in_place, dsp, packed_asm};
use crate::model::layout::ChannelRecord;
use crate::model::{Conv, Window};

/// Stands for a group of channels whose sums begin at 0.
static NO_CHANNEL: ChannelRecord = ChannelRecord {
    bias: I32::ZERO,
    multiplier: I32::ZERO,
    right_less_one: I16::ZERO,
    count: U16::ZERO,
};

/// What the kernels below rely on, checked once per operator.
struct Packed<'a> {
    words: &'a [u32],
    channels: &'a [ChannelRecord],
    blocks: usize,
    requantise: Requantise,
    /// What [`all_saturate`] says of the channels.
    saturating: bool,
}

impl<'a> Packed<'a> {
    /// `None` when a length does not fit the shape: never for a checked model.
    #[inline(always)]
    fn new(op: &Conv<'a>, words: &'a [u32]) -> Option<Self> {
        let per_channel = op.weights_per_channel();
        let blocks = blocks(per_channel);
        let requantise = Requantise::new(op.output.zero_point, op.clamp);
        let saturating = all_saturate(op.channels);
        let sound = blocks > 0
            && packed_len(op.channels.len(), per_channel) == Some(words.len())
            && op.channels.len() == op.output.channels;
        sound.then_some(Self { words, channels: op.channels, blocks, requantise, saturating })
    }

    /// Whether the inner loops may requantise: sums need not be taken apart in between.
    #[inline(always)]
    fn whole(&self) -> bool {
        self.saturating && self.blocks <= CHUNK
    }

    /// The inner loop's view of all channels.
    #[inline(always)]
    fn inner(&self, x: *const u32, y: *mut i8) -> packed_asm::Packed {
        packed_asm::Packed {
            x,
            w: self.words.as_ptr(),
            x_end: x,
            entry: 0,
            channel: self.channels.as_ptr(),
            y,
            step: 0,
            nudge: self.requantise.nudge(),
            rounds: 0,
            sums: [0; 8],
        }
    }

    /// The outputs of a pixel whose inputs stand in `column`, of `2 * blocks` words.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes of all output channels.
    #[inline(never)]
    unsafe fn pixel(&self, column: *const u32, y: *mut i8) {
        let pair_len = self.blocks.wrapping_mul(2);
        let mut inner = self.inner(column, y);
        let mut rest = self.channels;
        // SAFETY: each four channels have two pairs of `2 * blocks` words in `words`, the last at
        // least one; `column` has as many. `y` is valid for one output per channel.
        unsafe {
            if self.whole() {
                let fours;
                (fours, rest) = rest.as_chunks::<4>();
                inner.rounds = fours.len();
                if inner.rounds > 0 {
                    inner.x_end = column.add(pair_len);
                    inner.entry = packed_asm::pixel_entry(self.blocks);
                    inner.step = pair_len.wrapping_mul(4);
                    packed_asm::pixel_1(&mut inner);
                }
            }
            let mut w = inner.w;
            let mut y = inner.y;
            for channels in rest.chunks(4) {
                // Where the second pair is missing, the first stands in.
                let distance = if channels.len() > 2 { pair_len } else { 0 };
                let mut sums = [0i32; 4];
                let mut done = 0usize;
                while done < self.blocks {
                    let count = self.blocks.wrapping_sub(done).min(CHUNK);
                    let at = done.wrapping_mul(2);
                    inner.x = column.add(at);
                    inner.x_end = inner.x.add(count.wrapping_mul(2));
                    inner.w = w.add(at);
                    inner.entry = packed_asm::pixel_entry(count);
                    inner.step = distance.wrapping_mul(4);
                    packed_asm::pixel_1(&mut inner);
                    for (sum, &more) in sums.iter_mut().zip(&inner.sums) {
                        *sum = sum.wrapping_add(more);
                    }
                    done = done.wrapping_add(count);
                }
                for (channel, sum) in channels.iter().zip(&sums) {
                    self.requantise.row(self.saturating, channel, core::slice::from_ref(sum), y, 0);
                    y = y.add(1);
                }
                w = w.add(distance.wrapping_add(pair_len));
            }
        }
    }

    /// The outputs of [`TILE`] pixels whose inputs stand in `columns`, word by word beside each other:
    /// `2 * TILE * blocks` words.
    ///
    /// # Safety
    ///
    /// `y` must be valid for writes of `TILE` times all output channels.
    #[inline(never)]
    unsafe fn tile(&self, columns: *const u32, y: *mut i8) {
        let mut inner = self.inner(columns, y);
        let mut rest = self.channels;
        inner.step = self.channels.len();
        // SAFETY: each two channels have a pair of `2 * blocks` words in `words`; the chunks cover
        // `columns` and a pair. `y` is valid for `TILE` outputs of each channel.
        unsafe {
            if self.whole() {
                let twos;
                (twos, rest) = rest.as_chunks::<2>();
                inner.rounds = twos.len();
                if inner.rounds > 0 {
                    inner.x_end = columns.add(self.blocks.wrapping_mul(2 * TILE));
                    inner.entry = packed_asm::tile_entry(self.blocks);
                    packed_asm::tile_4(&mut inner);
                }
            }
            let mut y = inner.y;
            inner.channel = &raw const NO_CHANNEL;
            for channels in rest.chunks(2) {
                let mut sums = [0i32; 2 * TILE];
                let mut left = self.blocks;
                inner.x = columns;
                while left > 0 {
                    let count = left.min(CHUNK);
                    inner.x_end = inner.x.add(count.wrapping_mul(2 * TILE));
                    inner.entry = packed_asm::tile_entry(count);
                    packed_asm::tile_4(&mut inner);
                    for (sum, &more) in sums.iter_mut().zip(&inner.sums) {
                        *sum = sum.wrapping_add(more);
                    }
                    inner.x = inner.x_end;
                    left = left.wrapping_sub(count);
                }
                for (channel, sums) in channels.iter().zip(sums.as_chunks::<TILE>().0) {
                    self.requantise.row(self.saturating, channel, sums, y, self.channels.len());
                    y = y.add(1);
                }
            }
        }
    }
}

/// [`linear`](super::packed::linear).
pub(super) fn linear(
    op: &Conv<'_>,
    words: &[u32],
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let Some(packed) = Packed::new(op, words) else { return };
    let inputs = op.weights_per_channel();
    let needed = packed.blocks.wrapping_mul(2);
    let bytes = scratch.len();
    let Ok((column, _)) = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), bytes / 4)
    else {
        return;
    };
    let sound = column.len() >= needed
        && x.map_or(bytes.is_multiple_of(4), |x| x.len() == inputs)
        && y.len() == op.channels.len();
    if !sound {
        return;
    }
    let column = column.as_mut_ptr();
    let end = column.cast::<i8>().wrapping_add(bytes);
    let x = x.map_or(end.wrapping_sub(inputs).cast_const(), <[i8]>::as_ptr);
    // SAFETY: `column` has `2 * blocks` words, `y` as many elements as there are channels. Inputs at
    // the end of the scratch are read before they are overwritten: a block of four becomes eight
    // bytes, and of those there are as many as the scratch has at least.
    unsafe {
        widen(x, inputs, column, 1);
        packed.pixel(column, y.as_mut_ptr());
    }
    limit(op.clamp, y);
}

/// [`conv`](super::packed::conv).
pub(super) fn conv(
    op: &Conv<'_>,
    words: &[u32],
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let Some(packed) = Packed::new(op, words) else { return };
    let outputs = op.channels.len();
    let needed = conv_scratch_len(op.input.channels, op.weights_per_channel());
    let Ok((scratch, _)) = <[u32]>::mut_from_prefix_with_elems(scratch.as_mut_bytes(), needed / 4)
    else {
        return;
    };
    let sound = match x {
        Some(x) => x.len() == op.input.len() && y.len() == op.output.len(),
        None => {
            let in_place = conv_in_place(&op.input, &op.output, &op.window);
            in_place && y.len() == op.input.len() && y.len() >= op.output.len()
        }
    };
    if !sound {
        return;
    }
    let columns = scratch.as_mut_ptr();
    let mut out = y.as_mut_ptr();
    let x = x.map_or(out.cast_const(), <[i8]>::as_ptr);
    let mut left = op.output.height.wrapping_mul(op.output.width);
    // SAFETY: `scratch` has room for the columns of a tile and the bytes behind them. `out` advances
    // by `outputs` elements for each of the output's pixels.
    unsafe {
        let bytes = columns.add(packed.blocks.wrapping_mul(2 * TILE)).cast::<i8>();
        let mut walk = Walk::new(op, x, bytes);
        while left >= TILE {
            for pixel in 0..TILE {
                walk.gather(columns.add(pixel));
            }
            packed.tile(columns, out);
            out = out.add(outputs.wrapping_mul(TILE));
            left = left.wrapping_sub(TILE);
        }
        while left > 0 {
            walk.gather_any(columns, 1);
            walk.advance();
            packed.pixel(columns, out);
            out = out.add(outputs);
            left = left.wrapping_sub(1);
        }
    }
    limit(op.clamp, y.get_mut(..op.output.len()).unwrap_or_default());
}

/// The windows of a convolution, one output position after the other.
struct Walk<'a> {
    op: &'a Conv<'a>,
    x: *const i8,
    bytes: *mut i8,
    /// Whether runs are whole blocks.
    aligned: bool,
    position: [usize; 2],
    /// Input column under the window's first, and the first that leaves the window no room; 0 where
    /// the window's rows are not all over the input.
    column: usize,
    limit: usize,
    /// Input element under the window's first, where all of it lies over the input.
    start: usize,
    /// Elements of a row of the window, of a row of the input, and of a horizontal step.
    row_len: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Walk<'a> {
    /// `x` is the input; `bytes` has room for the inputs of a pixel where the channels are no multiple of [`BLOCK`].
    fn new(op: &'a Conv<'a>, x: *const i8, bytes: *mut i8) -> Self {
        let depth = op.input.channels;
        let mut walk = Self {
            op,
            x,
            bytes,
            aligned: depth.is_multiple_of(BLOCK),
            position: [0, 0],
            column: 0,
            limit: 0,
            start: 0,
            row_len: op.window.kernel[1].wrapping_mul(depth),
            row_step: op.input.width.wrapping_mul(depth),
            column_step: op.window.stride[1].wrapping_mul(depth),
        };
        walk.enter_row();
        walk
    }

    fn enter_row(&mut self) {
        let Window { kernel, stride, pad } = self.op.window;
        let top = self.position[0].wrapping_mul(stride[0]).wrapping_sub(pad[0]);
        let room = |axis: usize, size: usize| size.wrapping_add(1).saturating_sub(kernel[axis]);
        self.column = 0usize.wrapping_sub(pad[1]);
        let inside = top < room(0, self.op.input.height);
        self.limit = if inside { room(1, self.op.input.width) } else { 0 };
        let before = pad[1].wrapping_mul(self.op.input.channels);
        self.start = top.wrapping_mul(self.row_step).wrapping_sub(before);
    }

    /// Moves on to the next output position.
    #[inline(always)]
    fn advance(&mut self) {
        self.start = self.start.wrapping_add(self.column_step);
        self.column = self.column.wrapping_add(self.op.window.stride[1]);
        self.position[1] = self.position[1].wrapping_add(1);
        if self.position[1] == self.op.output.width {
            self.position = [self.position[0].wrapping_add(1), 0];
            self.enter_row();
        }
    }

    /// Writes the inputs under the window into every [`TILE`]th word of `column` and moves on.
    ///
    /// # Safety
    ///
    /// `column` must be valid for writes of `2 * blocks` words that are [`TILE`] apart.
    #[inline(never)]
    unsafe fn gather(&mut self, column: *mut u32) {
        // SAFETY: the caller's promise and that of `new`; a window inside the input is read.
        unsafe {
            if self.column < self.limit {
                let mut from = self.x.add(self.start);
                let mut column = column;
                let mut at = self.bytes;
                for _ in 0..self.op.window.kernel[0] {
                    if self.aligned {
                        column = widen(from, self.row_len, column, TILE);
                    } else {
                        at = copy(core::slice::from_raw_parts(from, self.row_len), at);
                    }
                    from = from.wrapping_add(self.row_step);
                }
                if !self.aligned {
                    self.widen_bytes(column, TILE);
                }
            } else {
                self.gather_any(column, TILE);
            }
        }
        self.advance();
    }

    /// Writes the inputs under the window into every `step`th word of `column`, wherever it lies.
    ///
    /// # Safety
    ///
    /// `column` must be valid for writes of `2 * blocks` words that are `step` apart.
    #[inline(never)]
    unsafe fn gather_any(&self, mut column: *mut u32, step: usize) {
        let zero = self.op.input.zero_point;
        let mut at = self.bytes;
        // SAFETY: nothing is written to the input while the slice exists.
        let x = unsafe { core::slice::from_raw_parts(self.x, self.op.input.len()) };
        runs(self.op, x, self.position, |run| {
            // SAFETY: the runs have as many elements as a channel has weights, whole blocks where the
            // columns are written directly.
            unsafe {
                match run {
                    Ok(run) if self.aligned => {
                        column = widen(run.as_ptr(), run.len(), column, step);
                    }
                    Ok(run) => at = copy(run, at),
                    Err(len) if self.aligned => {
                        let zeros = u32::from(zero as u16).wrapping_mul(0x1_0001);
                        for _ in 0..len / 2 {
                            *column = zeros;
                            column = column.wrapping_add(step);
                        }
                    }
                    Err(len) => {
                        for _ in 0..len {
                            *at = zero;
                            at = at.add(1);
                        }
                    }
                }
            }
        });
        if !self.aligned {
            // SAFETY: the runs filled the bytes.
            unsafe { self.widen_bytes(column, step) };
        }
    }

    /// # Safety
    ///
    /// The bytes must be filled; otherwise as for [`gather_any`](Self::gather_any).
    #[inline(always)]
    unsafe fn widen_bytes(&self, column: *mut u32, step: usize) {
        let len = self.row_len.wrapping_mul(self.op.window.kernel[0]);
        // SAFETY: the caller's promise.
        unsafe {
            widen(self.bytes, len, column, step);
        }
    }
}

/// Copies bytes and returns the end of the copy.
///
/// # Safety
///
/// `to` must be valid for writes of as many bytes.
#[inline(always)]
unsafe fn copy(bytes: &[i8], mut to: *mut i8) -> *mut i8 {
    // The last word overlaps the one before it: no loop over single bytes.
    if let (words, Some(last)) = (bytes.as_chunks::<BLOCK>().0, bytes.last_chunk::<BLOCK>()) {
        // SAFETY: the caller's promise.
        unsafe {
            let end = to.add(bytes.len());
            for &word in words {
                to.cast::<[i8; BLOCK]>().write(word);
                to = to.add(BLOCK);
            }
            end.sub(BLOCK).cast::<[i8; BLOCK]>().write(*last);
            end
        }
    } else {
        for &byte in bytes {
            // SAFETY: the caller's promise.
            unsafe {
                *to = byte;
                to = to.add(1);
            }
        }
        to
    }
}

/// Widens bytes to halves, in the order of `SXTB16` and filled with zeros to whole blocks, into every
/// `step`th word of `column`, and returns the end of what is written.
///
/// # Safety
///
/// `from` must be valid for reads of `len` bytes and `column` for writes of two words for each block
/// of bytes, `step` apart. What is written must not reach bytes that are still to be read.
#[inline(always)]
unsafe fn widen(mut from: *const i8, len: usize, mut column: *mut u32, step: usize) -> *mut u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let load = |from: *const i8| from.cast::<u32>().read_unaligned().to_le();
        let put = |column: *mut u32, word: u32| {
            *column = dsp::sxtb16(word);
            *column.add(step) = dsp::sxtb16_ror8(word);
            // The last step may lead outside.
            column.wrapping_add(step.wrapping_mul(2))
        };
        for _ in 0..len / (4 * BLOCK) {
            let words = [0, 1, 2, 3].map(|block| load(from.add(block * BLOCK)));
            for word in words {
                column = put(column, word);
            }
            from = from.add(4 * BLOCK);
        }
        for _ in 0..len / BLOCK % 4 {
            column = put(column, load(from));
            from = from.add(BLOCK);
        }
        let rest = len % BLOCK;
        if rest > 0 {
            let mut last = u32::from(*from as u8);
            if rest > 1 {
                last |= u32::from(*from.add(1) as u8) << 8;
            }
            if rest > 2 {
                last |= u32::from(*from.add(2) as u8) << 16;
            }
            column = put(column, last);
        }
        column
    }
}
