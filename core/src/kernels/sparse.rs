//! The streams of nonzero weights of convolutions and linear operators, and the order in which the
//! sparse convolution lays out its input.
//!
//! # Convolution
//!
//! Output pixels are computed in *tiles* of eight neighbours, for which an entry of the stream is
//! decoded once. For that the input is laid out in *planes* in the working memory: a plane holds
//! [`Block::len`] channels, pixel beside pixel, so that the eight inputs that an entry needs lie side
//! by side whatever the kernel's width. Strides are taken apart into phases: a plane has one part for
//! each remainder of the padded row and column by the stride, and within a part the next output pixel
//! is the next cell. [`Geometry`] is that layout.
//!
//! The memory holds the rows under a *band* of output rows of a *strip* of output columns; the stream
//! names the two, so that the exporter can trade memory for speed.
//!
//! A stream, little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 2 | columns of a strip |
//! | 2 | rows of a band |
//! | | entries of the output channels in order, as many as their records [count](ChannelRecord::count) |
//! | 4 | zero; more zeros up to the alignment |
//!
//! An entry holds the distance in bytes of its cell from the previous entry's (from the first plane's
//! first cell for the first) in memory whose elements take two bytes, and the block's weights:
//!
//! | block | bytes | |
//! |---|---|---|
//! | 1 | 4 | twice the weight (`i16`), distance (`u16`) |
//! | 2 | 4 | weights (`i8`, `i8`), distance (`u16`) |
//! | 4 | 6 | distance (`u16`), weights (four `i8`) |
//!
//! Where two cells are further apart than a distance can say, entries with zero weights stand between.
//!
//! # Linear operator
//!
//! | bytes | |
//! |---|---|
//! | | groups of the output channels in order |
//! | 12 | zero, behind blocks of four |
//! | 2 per output channel with an odd count | for blocks of one: distance and weight of its first block, the last channel's first |
//!
//! A group holds the distances and weights of some blocks. A distance is that from the previous block
//! (from the first inputs for the first). In groups of single weights each stands behind its distance,
//! in others all distances stand first.
//!
//! | block | [count](ChannelRecord::count) | blocks of a group | distances | weights (`i8`) |
//! |---|---|---|---|---|
//! | 1 | of blocks | 2 | two `u8` | two |
//! | 2 | of groups | 4 | four `u8`, in blocks | of two blocks in turn: both first ones, both second ones |
//! | 4 | of blocks | 2 | two `i16`, in blocks times eight | block by block |
//!
//! For blocks of four the distance of an output channel's first block is that from the last one of the
//! channel before; it may be negative.
//!
//! Blocks with zero weights bridge distances that are too long and fill groups: at the end, or for
//! blocks of four at the beginning, at distance 0.

use core::ops::RangeInclusive;

use crate::model::layout::{ALIGNMENT, ChannelRecord};
use crate::model::{Tensor, Window};

/// Output pixels that are computed together.
pub const TILE: usize = 8;

/// Most weights of an output channel, zeros in blocks included: together with [`MAX_BIAS`] this keeps
/// accumulators below 2^29, which the kernels' rescaling relies on.
pub const MAX_WEIGHTS: usize = 1 << 14;

/// Biases of operators with sparse weights lie below this.
pub const MAX_BIAS: u32 = 1 << 28;

/// Shifts of linear operators with sparse weights, as [`ChannelRecord::shift`] says them:
/// right by one and more. Their kernels have no time to look for others, which no ordinary model has.
pub const LINEAR_SHIFTS: RangeInclusive<i32> = -20..=-1;

/// Bytes of a convolution's stream before the first entry.
pub(crate) const CONV_HEADER_LEN: usize = 4;

/// Bytes of an element in the distances of a convolution's stream.
pub(super) const ELEMENT: usize = 2;

/// Bytes of what the kernel notes about a tile: where its cells begin and each pixel's outputs end.
const RECORD: usize = size_of::<u32>() * (1 + TILE);

/// Bytes of a block of four inputs of a linear operator where an input takes two.
const WIDE: usize = 4 * ELEMENT;

/// Neighbouring input channels (of a linear operator: inputs) that are kept or dropped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Block {
    /// Each weight for itself: unstructured sparsity.
    One = 1,
    /// Two.
    Two = 2,
    /// Four.
    Four = 4,
}

impl Block {
    /// Number of weights.
    pub const fn len(self) -> usize {
        self as usize
    }

    /// Never: a block has weights.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Bytes of an entry of a convolution's stream.
    pub const fn entry(self) -> usize {
        match self {
            Self::One | Self::Two => 4,
            Self::Four => 6,
        }
    }

    /// Blocks of a group of a linear operator's stream.
    pub(crate) const fn group(self) -> usize {
        match self {
            Self::One | Self::Four => 2,
            Self::Two => 4,
        }
    }

    /// Bytes of such a group.
    pub(crate) const fn group_bytes(self) -> usize {
        match self {
            Self::One => 4,
            Self::Two | Self::Four => 12,
        }
    }

    /// Largest distance between blocks of a linear operator's stream.
    #[cfg(any(test, feature = "pack"))]
    pub(super) const fn max_distance(self) -> usize {
        match self {
            Self::One | Self::Two => u8::MAX as usize,
            Self::Four => i16::MAX as usize / WIDE,
        }
    }

    /// Whether an output channel's distances in a linear operator's stream go on from the one before.
    pub(crate) const fn goes_on(self) -> bool {
        matches!(self, Self::Four)
    }

    /// Distance of the block `index` of a group, to be added with wrapping. `None` when it is not a whole
    /// number of blocks.
    #[inline(always)]
    pub(crate) fn distance(self, group: &[u8], index: usize) -> Option<usize> {
        match self {
            Self::One => Some((*group.get(index.wrapping_mul(2))?).into()),
            Self::Two => Some((*group.get(index)?).into()),
            Self::Four => {
                let &bytes = group.as_chunks().0.get(index)?;
                let distance = i16::from_le_bytes(bytes);
                let whole = usize::from(distance as u16).is_multiple_of(WIDE);
                whole.then_some((distance >> WIDE.trailing_zeros()) as usize)
            }
        }
    }

    /// Place of a weight in a group.
    #[inline(always)]
    pub(crate) const fn weight(self, index: usize, lane: usize) -> usize {
        match self {
            Self::One => index.wrapping_mul(2).wrapping_add(1),
            Self::Two => {
                let pair = (index & 2).wrapping_mul(2).wrapping_add(4);
                pair.wrapping_add(lane.wrapping_mul(2)).wrapping_add(index & 1)
            }
            Self::Four => index.wrapping_mul(4).wrapping_add(lane).wrapping_add(4),
        }
    }
}

/// How the sparse convolution lays out its input: see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Height, width and channels of the input. A pointwise convolution's pixels form one row.
    pub(super) input: [usize; 3],
    /// Height, width and channels of the output, likewise.
    pub(super) output: [usize; 3],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) pad: [usize; 2],
    /// Whether output pixels look beyond the input's borders.
    pub(super) padded: bool,
    block: Block,
    /// Output columns of a strip.
    pub(super) columns: usize,
    /// Output rows of a band.
    pub(super) rows: usize,
    /// Parts of a plane: remainders of row and column by the stride that kernel taps have.
    pub(super) phases: [usize; 2],
    /// Cells of a row in a part.
    pub(super) width: usize,
    /// Cells of a part.
    pub(super) part: usize,
    /// Planes.
    planes: usize,
    /// Whether the tiles of a band run on from row to row; otherwise each row has its own.
    pub(super) flat: bool,
    /// First cell of the last tile of a band.
    pub(super) last_tile: usize,
    /// Tiles of a band.
    tiles: usize,
    /// Whether all cells that tiles and taps begin with are even.
    pub(super) even: bool,
    /// Bytes of the planes where an element takes two.
    bytes: usize,
}

impl Geometry {
    /// The layout for an operator's shape, with strips of `columns` and bands of `rows` of the
    /// output. `None` when those are zero or beyond the output, or memory of that size cannot exist.
    pub fn new(
        input: &Tensor,
        output: &Tensor,
        window: &Window,
        block: Block,
        columns: usize,
        rows: usize,
    ) -> Option<Self> {
        let Window { kernel, stride, pad } = *window;
        let (mut input, mut output) = (
            [input.height, input.width, input.channels],
            [output.height, output.width, output.channels],
        );
        let pointwise = kernel == [1, 1] && stride == [1, 1] && pad == [0, 0];
        if pointwise && input[..2] == output[..2] {
            input = [1, input[0].checked_mul(input[1])?, input[2]];
            output = [1, output[0].checked_mul(output[1])?, output[2]];
        }
        if !(1..=output[1]).contains(&columns) || !(1..=output[0]).contains(&rows) {
            return None;
        }
        let mut phases = [1; 2];
        let mut extra = [0; 2];
        let mut padded = pad != [0, 0];
        for axis in 0..2 {
            phases[axis] = stride[axis].min(kernel[axis]);
            extra[axis] = kernel[axis].checked_sub(1)?.checked_div(stride[axis])?;
            let reach = output[axis].checked_sub(1)?.checked_mul(stride[axis])?;
            let reach = reach.checked_add(kernel[axis])?;
            padded |= reach > input[axis].checked_add(pad[axis])?;
        }
        // The padding right of a row also serves as the padding left of the next, as far as the taps
        // of a row keep cells of their own.
        let needed = columns.checked_add(extra[1])?;
        let shared = if columns == output[1] {
            let right =
                needed.checked_mul(stride[1])?.saturating_sub(pad[1].checked_add(input[1])?);
            let left = pad[1].checked_div(stride[1])?;
            extra[1].min(left).min(right.checked_div(stride[1])?).min(columns.checked_sub(1)?)
        } else {
            0
        };
        let width = needed.checked_sub(shared)?;
        let run = rows.checked_sub(1)?.checked_mul(width)?.checked_add(columns)?;
        let flat = run.div_ceil(TILE) < columns.div_ceil(TILE).checked_mul(rows)?;
        let last_tile = if flat {
            run.div_ceil(TILE).checked_sub(1)?.checked_mul(TILE)?
        } else {
            let row = columns.div_ceil(TILE).checked_sub(1)?.checked_mul(TILE)?;
            rows.checked_sub(1)?.checked_mul(width)?.checked_add(row)?
        };
        let reach = extra[0].checked_mul(width)?.checked_add(extra[1])?;
        // Even, so that parts of one-channel planes begin at words.
        let part = last_tile.checked_add(TILE)?.checked_add(reach)?.checked_next_multiple_of(2)?;
        let planes = input[2].div_ceil(block.len());
        let cell = block.len().checked_mul(ELEMENT)?;
        let parts = planes.checked_mul(phases[0])?.checked_mul(phases[1])?;
        let bytes = parts.checked_mul(part)?.checked_mul(cell)?;
        let tiles =
            if flat { run.div_ceil(TILE) } else { columns.div_ceil(TILE).checked_mul(rows)? };
        let records = tiles.checked_mul(RECORD)?.checked_add(RECORD)?;
        isize::try_from(bytes.checked_add(records)?.checked_add(output[2])?).ok()?;
        let even = extra[1] == 0 && (width % 2 == 0 || (rows == 1 && extra[0] == 0));
        Some(Self {
            input,
            output,
            kernel,
            stride,
            pad,
            padded,
            block,
            columns,
            rows,
            phases,
            width,
            part,
            planes,
            flat,
            last_tile,
            tiles,
            even,
            bytes,
        })
    }

    /// Bytes of working memory that the kernel needs: the planes; nine words for each tile of a band
    /// and one more; and a place for the outputs of a tile's cells that are no output pixels.
    pub fn scratch_len(&self) -> usize {
        // No overflow: proven in `new`.
        self.bytes.wrapping_add(self.records()).wrapping_add(self.output[2])
    }

    /// Bytes of the records of a band's tiles.
    pub(super) fn records(&self) -> usize {
        self.tiles.wrapping_mul(RECORD).wrapping_add(size_of::<u32>())
    }

    /// What offsets in bytes are multiples of.
    fn alignment(&self) -> usize {
        let cell = self.block.len().wrapping_mul(ELEMENT);
        if self.even { cell.wrapping_mul(2) } else { cell }
    }

    /// Bytes of the planes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The block that a cell holds.
    pub fn block(&self) -> Block {
        self.block
    }

    /// Cells of a plane.
    pub(super) fn plane(&self) -> usize {
        self.phases[0].wrapping_mul(self.phases[1]).wrapping_mul(self.part)
    }

    /// Bytes from the first plane's first cell to the one that holds the input under a kernel tap for
    /// the first output pixel, for the block that `channel` belongs to.
    pub fn offset(&self, tap: [usize; 2], channel: usize) -> usize {
        let phase = [0, 1].map(|axis| tap[axis].checked_rem(self.stride[axis]).unwrap_or(0));
        let step = [0, 1].map(|axis| tap[axis].checked_div(self.stride[axis]).unwrap_or(0));
        let part = phase[0].wrapping_mul(self.phases[1]).wrapping_add(phase[1]);
        (channel / self.block.len())
            .wrapping_mul(self.plane())
            .wrapping_add(part.wrapping_mul(self.part))
            .wrapping_add(step[0].wrapping_mul(self.width))
            .wrapping_add(step[1])
            .wrapping_mul(self.block.len().wrapping_mul(ELEMENT))
    }

    /// Kernel tap and first channel of the block at an offset: the inverse of
    /// [`offset`](Self::offset). `None` for an offset that it does not give.
    pub fn tap(&self, offset: usize) -> Option<([usize; 2], usize)> {
        let cell = offset.checked_div(self.block.len().wrapping_mul(ELEMENT))?;
        let (plane, cell) = (cell.checked_div(self.plane())?, cell.checked_rem(self.plane())?);
        let (part, cell) = (cell.checked_div(self.part)?, cell.checked_rem(self.part)?);
        let phase = [part.checked_div(self.phases[1])?, part.checked_rem(self.phases[1])?];
        let step = [cell.checked_div(self.width)?, cell.checked_rem(self.width)?];
        let tap =
            [0, 1].map(|axis| step[axis].wrapping_mul(self.stride[axis]).wrapping_add(phase[axis]));
        let channel = plane.wrapping_mul(self.block.len());
        let sound = (0..2).all(|axis| tap[axis] < self.kernel[axis]) && channel < self.input[2];
        (sound && self.offset(tap, channel) == offset).then_some((tap, channel))
    }

    /// Largest offset of an entry whose eight inputs lie in the planes for every tile.
    fn max_offset(&self) -> usize {
        let cell = self.block.len().wrapping_mul(ELEMENT);
        self.bytes.wrapping_sub(self.last_tile.wrapping_add(TILE).wrapping_mul(cell))
    }
}

/// The verified stream of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvStream<'m> {
    geometry: Geometry,
    pub(super) channels: &'m [ChannelRecord],
    pub(super) entries: &'m [u8],
}

impl<'m> ConvStream<'m> {
    /// Verifies the stream of a convolution with these output channels, tensors and window. `None` when
    /// it ends early or late, or an entry leaves the planes.
    pub fn new(
        bytes: &'m [u8],
        channels: &'m [ChannelRecord],
        input: &Tensor,
        output: &Tensor,
        window: &Window,
        block: Block,
    ) -> Option<Self> {
        let stream = Self::parse(bytes, channels, input, output, window, block)?;
        stream.verify()?;
        Some(stream)
    }

    /// The stream of bytes that [`verify`](Self::verify) has accepted, or will before a kernel runs.
    pub(crate) fn parse(
        bytes: &'m [u8],
        channels: &'m [ChannelRecord],
        input: &Tensor,
        output: &Tensor,
        window: &Window,
        block: Block,
    ) -> Option<Self> {
        let (header, entries) = bytes.split_first_chunk::<CONV_HEADER_LEN>()?;
        let [c0, c1, r0, r1] = *header;
        let columns = u16::from_le_bytes([c0, c1]).into();
        let rows = u16::from_le_bytes([r0, r1]).into();
        let geometry = Geometry::new(input, output, window, block, columns, rows)?;
        (channels.len() == output.channels).then_some(Self { geometry, channels, entries })
    }

    /// Walks the whole stream.
    pub(crate) fn verify(&self) -> Option<()> {
        let block = self.geometry.block;
        let alignment = self.geometry.alignment();
        let max_offset = self.geometry.max_offset();
        let mut rest = self.entries;
        if rest.as_ptr().align_offset(ALIGNMENT) != 0 {
            return None;
        }
        for channel in self.channels {
            let count = channel.count();
            if count.checked_mul(block.len())? >= MAX_WEIGHTS {
                return None;
            }
            let (entries, behind) = rest.split_at_checked(count.checked_mul(block.entry())?)?;
            let mut offset = 0usize;
            for entry in entries.chunks_exact(block.entry()) {
                let entry = Entry::read(block, entry)?;
                offset = offset.checked_add(entry.distance)?;
                if offset > max_offset || !entry.distance.is_multiple_of(alignment) {
                    return None;
                }
            }
            rest = behind;
        }
        // The kernels load an entry ahead.
        is_padding(rest.get(ALIGNMENT..)?)?;
        rest.iter().all(|&byte| byte == 0).then_some(())
    }

    /// The bytes of all entries, and what follows them: the stream's end.
    #[cfg(feature = "learn")]
    pub(crate) fn entry_bytes(&self) -> &'m [u8] {
        self.entries
    }

    /// The layout of the kernel's working memory.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The entries of each output channel, in order.
    pub fn channels(&self) -> impl Iterator<Item = impl Iterator<Item = Entry> + 'm> + '_ {
        let block = self.geometry.block;
        let mut rest = self.entries;
        self.channels.iter().map(move |channel| {
            let bytes = channel.count().wrapping_mul(block.entry());
            let (entries, behind) = rest.split_at_checked(bytes).unwrap_or((&[], &[]));
            rest = behind;
            entries.chunks_exact(block.entry()).filter_map(move |entry| Entry::read(block, entry))
        })
    }

    /// Number of entries of each output channel.
    pub fn counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.channels.iter().map(ChannelRecord::count)
    }

    /// Number of weights that are not zero.
    pub fn nonzeros(&self) -> usize {
        self.channels().flatten().map(|entry| entry.nonzeros()).fold(0, usize::wrapping_add)
    }
}

/// One block of a convolution's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes from the previous entry's cell.
    pub distance: usize,
    /// Weights; those beyond the block are 0.
    pub weights: [i8; 4],
}

impl Entry {
    /// Reads the entry that `bytes` begins with. `None` when a weight is not representable.
    #[inline(always)]
    pub(crate) fn read(block: Block, bytes: &[u8]) -> Option<Self> {
        let (&[a, b, c, d], rest) = bytes.split_first_chunk::<4>()?;
        let (distance, weights) = match block {
            Block::One => {
                let doubled = i16::from_le_bytes([a, b]);
                if doubled & 1 != 0 || !(-256..256).contains(&doubled) {
                    return None;
                }
                ([c, d], [(doubled >> 1) as i8, 0, 0, 0])
            }
            Block::Two => ([c, d], [a as i8, b as i8, 0, 0]),
            Block::Four => {
                let (&[e, f], _) = rest.split_first_chunk::<2>()?;
                ([a, b], [c as i8, d as i8, e as i8, f as i8])
            }
        };
        Some(Self { distance: u16::from_le_bytes(distance).into(), weights })
    }

    /// The bytes of the entry, of which the first [`Block::entry`] count.
    #[cfg(any(test, feature = "pack"))]
    pub(super) fn write(&self, block: Block) -> [u8; 6] {
        let [a, b, c, d] = self.weights.map(|weight| weight as u8);
        let [low, high] = (self.distance as u16).to_le_bytes();
        match block {
            Block::One => {
                let [a, b] = (i16::from(self.weights[0]) * 2).to_le_bytes();
                [a, b, low, high, 0, 0]
            }
            Block::Two => [a, b, low, high, 0, 0],
            Block::Four => [low, high, a, b, c, d],
        }
    }

    fn nonzeros(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight != 0).count()
    }
}

/// The verified stream of a linear operator.
#[derive(Clone, Copy, Debug)]
pub struct LinearStream<'m> {
    pub(super) inputs: usize,
    block: Block,
    pub(super) channels: &'m [ChannelRecord],
    pub(super) bytes: &'m [u8],
}

impl<'m> LinearStream<'m> {
    /// Verifies the stream of a linear operator with these output channels. `None` when it ends early or
    /// late, or a block leaves the inputs.
    pub fn new(
        bytes: &'m [u8],
        channels: &'m [ChannelRecord],
        inputs: usize,
        block: Block,
    ) -> Option<Self> {
        let stream = Self::unverified(bytes, channels, inputs, block);
        stream.verify()?;
        Some(stream)
    }

    /// The stream of bytes that [`verify`](Self::verify) has accepted, or will before a kernel runs.
    pub(crate) fn unverified(
        bytes: &'m [u8],
        channels: &'m [ChannelRecord],
        inputs: usize,
        block: Block,
    ) -> Self {
        Self { inputs, block, channels, bytes }
    }

    /// Walks the whole stream.
    pub(crate) fn verify(&self) -> Option<()> {
        let block = self.block;
        let blocks = self.inputs / block.len();
        let whole = blocks.wrapping_mul(block.len()) == self.inputs;
        if self.bytes.as_ptr().align_offset(ALIGNMENT) != 0 || !whole {
            return None;
        }
        let mut rows = self.rows();
        let mut position = 0usize;
        for channel in self.channels {
            let row = rows.next()?;
            let per_group = block.group().wrapping_mul(block.len());
            let weights = (row.groups.len() / block.group_bytes()).checked_mul(per_group)?;
            if weights.checked_add(row.single.len() / 2)? >= MAX_WEIGHTS {
                return None;
            }
            // The kernels need not read what fills the first group.
            if block == Block::Four && !channel.count().is_multiple_of(2) {
                let weights = row.groups.get(block.weight(0, 0)..block.weight(1, 0))?;
                if block.distance(row.groups, 0)? != 0 || weights != [0; 4] {
                    return None;
                }
            }
            if !block.goes_on() {
                position = 0;
            }
            let mut sound = true;
            row.blocks(block, |_, group, index| {
                if let Some(distance) = block.distance(group, index) {
                    position = position.wrapping_add(distance);
                    sound &= position < blocks;
                } else {
                    sound = false;
                }
            });
            if !sound {
                return None;
            }
        }
        // For blocks of four the kernels load a group ahead.
        let ahead = if block == Block::Four { block.group_bytes() } else { 0 };
        (rows.between() == Some(&[0; 12][..ahead])).then_some(())
    }

    /// The bytes of each output channel, in order.
    #[inline(always)]
    pub(crate) fn rows(&self) -> Rows<'m> {
        Rows { stream: *self, channel: 0, groups: 0, singles: self.bytes.len() }
    }

    /// Neighbouring inputs that are kept or dropped together.
    pub fn block(&self) -> Block {
        self.block
    }

    /// Bytes of working memory that the kernel needs.
    pub fn scratch_len(&self) -> usize {
        linear_scratch_len(self.inputs, self.block)
    }

    /// Count of each output channel: of groups for blocks of two, else of blocks.
    pub fn counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.channels.iter().map(ChannelRecord::count)
    }

    /// Number of weights that are not zero.
    pub fn nonzeros(&self) -> usize {
        let mut nonzeros = 0usize;
        for row in self.rows() {
            row.blocks(self.block, |_, group, index| {
                let weight = |lane| group.get(self.block.weight(index, lane));
                let weights = (0..self.block.len()).filter_map(weight);
                nonzeros = nonzeros.wrapping_add(weights.filter(|&&weight| weight != 0).count());
            });
        }
        nonzeros
    }
}

/// A walk over the output channels of a linear operator's stream. It ends early where the stream does.
#[derive(Clone)]
pub(crate) struct Rows<'m> {
    stream: LinearStream<'m>,
    channel: usize,
    /// First byte of the next channel's groups.
    groups: usize,
    /// End of its single block.
    singles: usize,
}

impl<'m> Rows<'m> {
    /// What lies between the groups and the single blocks of the channels so far.
    fn between(&self) -> Option<&'m [u8]> {
        self.stream.bytes.get(self.groups..self.singles)
    }
}

impl<'m> Iterator for Rows<'m> {
    type Item = Row<'m>;

    #[inline(always)]
    fn next(&mut self) -> Option<Row<'m>> {
        let LinearStream { block, channels, bytes, .. } = self.stream;
        let count = channels.get(self.channel)?.count();
        let (groups, single) = match block {
            Block::One => (count / 2, count % 2),
            Block::Two => (count, 0),
            Block::Four => (count.div_ceil(2), 0),
        };
        let groups_at = self.groups;
        let end = groups_at.checked_add(groups.checked_mul(block.group_bytes())?)?;
        let single_at = self.singles.checked_sub(single.wrapping_mul(2))?;
        let row = Row {
            single_at,
            single: bytes.get(single_at..self.singles)?,
            groups_at,
            groups: bytes.get(groups_at..end)?,
        };
        self.channel = self.channel.wrapping_add(1);
        (self.groups, self.singles) = (end, single_at);
        Some(row)
    }
}

/// The bytes of an output channel in a linear operator's stream.
pub(crate) struct Row<'m> {
    /// Where the single block begins in the stream.
    single_at: usize,
    /// The first part of a group: the first block, where their number is odd.
    pub(super) single: &'m [u8],
    /// Where the groups begin in the stream.
    groups_at: usize,
    pub(super) groups: &'m [u8],
}

impl<'m> Row<'m> {
    /// Calls `f` for each block with where its group begins in the stream, the group, and its index there.
    #[inline(always)]
    pub(crate) fn blocks(&self, block: Block, mut f: impl FnMut(usize, &'m [u8], usize)) {
        if !self.single.is_empty() {
            f(self.single_at, self.single, 0);
        }
        let mut at = self.groups_at;
        for group in self.groups.chunks_exact(block.group_bytes()) {
            for index in 0..block.group() {
                f(at, group, index);
            }
            at = at.wrapping_add(block.group_bytes());
        }
    }
}

/// Bytes of working memory of a sparse linear operator: blocks read their inputs widened.
pub const fn linear_scratch_len(inputs: usize, block: Block) -> usize {
    match block {
        Block::One => 0,
        Block::Two | Block::Four => inputs.wrapping_mul(ELEMENT),
    }
}

/// Whether what is left of a stream only fills it up to the alignment.
fn is_padding(rest: &[u8]) -> Option<()> {
    (rest.len() < ALIGNMENT && rest.iter().all(|&byte| byte == 0)).then_some(())
}
