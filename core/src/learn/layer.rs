//! A weighted operator as learning sees it: where each of its nonzero weights is, whatever the format
//! of its stream.

use super::axis::Axis;
use crate::kernels::packed;
use crate::kernels::sparse::{Block, CONV_HEADER_LEN, ConvStream, Entry, LinearStream, Rows};
use crate::model::layout::ChannelRecord;
use crate::model::{Op, Tensor, Weights, Window};

/// A convolution, a linear operator or a depthwise convolution.
pub(super) struct Layer<'m> {
    /// Tensor read, as the operator has it.
    pub(super) input: Tensor,
    /// Tensor written.
    pub(super) output: Tensor,
    /// Bias and rescale per output channel, as the blob has them.
    pub(super) channels: &'m [ChannelRecord],
    /// Height, width and channels of the input; a linear operator's inputs are channels of one pixel.
    size: [usize; 3],
    window: Window,
    stream: Stream<'m>,
}

/// Weights in the order in which [`Layer::weights`] walks them: output channel by output channel.
enum Stream<'m> {
    Dense { weights: &'m [i8], groups: usize },
    Packed(&'m [u32]),
    Sparse(ConvStream<'m>),
    SparseLinear(LinearStream<'m>),
    Depthwise(&'m [i8]),
}

/// A nonzero weight of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    /// Row and column of the kernel.
    pub(super) tap: [usize; 2],
    /// Input channel.
    pub(super) input: usize,
    /// The blob's weight.
    pub(super) value: i8,
    /// Where it stands in the layer's stream.
    pub(super) place: Place,
}

/// Where a weight stands in the bytes of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this byte.
    Byte(usize),
    /// Doubled, in the two bytes from this one on.
    Doubled(usize),
    /// In the half word from this byte on, which holds `256 * high + low`: the low part.
    Low(usize),
    /// Likewise, the high part.
    High(usize),
}

impl Place {
    /// Place of a lane's weight in an entry of a convolution's stream that begins at byte `at`.
    fn of_entry(block: Block, at: usize, lane: usize) -> Self {
        match block {
            Block::One => Self::Doubled(at),
            Block::Two => Self::Byte(at.wrapping_add(lane)),
            Block::Four => Self::Byte(at.wrapping_add(2).wrapping_add(lane)),
        }
    }

    /// The weight at this place of `stream`.
    pub(super) fn read(self, stream: &[u8]) -> i8 {
        match self {
            Self::Byte(at) => stream.get(at).map_or(0, |&byte| byte as i8),
            Self::Doubled(at) => (half(stream, at) >> 1) as i8,
            Self::Low(at) => half(stream, at) as i8,
            Self::High(at) => {
                let half = half(stream, at);
                (half.wrapping_sub(i16::from(half as i8)) >> 8) as i8
            }
        }
    }

    /// Puts a weight in this place of `stream`.
    pub(super) fn write(self, stream: &mut [u8], weight: i8) {
        let wide = i16::from(weight);
        let (at, half) = match self {
            Self::Byte(at) => {
                if let Some(slot) = stream.get_mut(at) {
                    *slot = weight as u8;
                }
                return;
            }
            Self::Doubled(at) => (at, wide.wrapping_mul(2)),
            Self::Low(at) => {
                let high = i16::from(Self::High(at).read(stream));
                (at, high.wrapping_mul(256).wrapping_add(wide))
            }
            Self::High(at) => {
                let low = i16::from(Self::Low(at).read(stream));
                (at, wide.wrapping_mul(256).wrapping_add(low))
            }
        };
        if let Some(slot) = stream.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *slot = half.to_le_bytes();
        }
    }
}

fn half(stream: &[u8], at: usize) -> i16 {
    i16::from_le_bytes(stream.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; 2]))
}

impl<'m> Layer<'m> {
    /// `None` for an operator without weights.
    pub(super) fn new(op: &Op<'m>) -> Option<Self> {
        let size = |tensor: &Tensor| [tensor.height, tensor.width, tensor.channels];
        Some(match op {
            Op::Conv(conv) | Op::Linear(conv) => {
                let linear = matches!(op, Op::Linear(_));
                Self {
                    input: conv.input,
                    output: conv.output,
                    channels: conv.channels,
                    size: if linear { [1, 1, conv.input.len()] } else { size(&conv.input) },
                    window: if linear {
                        Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] }
                    } else {
                        conv.window
                    },
                    stream: match conv.weights {
                        Weights::Dense(weights) => Stream::Dense { weights, groups: conv.groups },
                        Weights::Packed(words) => Stream::Packed(words),
                        Weights::Sparse(stream) => Stream::Sparse(stream),
                        Weights::SparseLinear(stream) => Stream::SparseLinear(stream),
                    },
                }
            }
            Op::Depthwise(op) => Self {
                input: op.input,
                output: op.output,
                channels: op.channels,
                size: size(&op.input),
                window: op.window,
                stream: Stream::Depthwise(op.weights),
            },
            _ => return None,
        })
    }

    /// Output pixels.
    pub(super) fn pixels(&self) -> usize {
        self.output.height.wrapping_mul(self.output.width)
    }

    /// Walks the nonzero weights, channel by channel.
    pub(super) fn weights(&self) -> Walk<'_, 'm> {
        let rows = match &self.stream {
            Stream::SparseLinear(stream) => Some(stream.rows()),
            _ => None,
        };
        Walk { layer: self, channel: 0, entry: 0, rows, position: 0 }
    }

    /// Number of nonzero weights.
    pub(super) fn weight_count(&self) -> usize {
        let mut count = 0usize;
        let mut walk = self.weights();
        for _ in 0..self.channels.len() {
            walk.channel(|_| count = count.wrapping_add(1));
        }
        count
    }

    /// Calls `f` with the output pixel and the input element of each position of the output at which
    /// the weight lies over the input, in the order of the pixels.
    #[inline(always)]
    pub(super) fn positions(&self, weight: &Weight, mut f: impl FnMut(usize, usize)) {
        let [height, width, depth] = self.size;
        let (down, across) = (Axis::rows(&self.window), Axis::columns(&self.window));
        let [tap_row, tap_column] = weight.tap;
        let rows = down.outputs(tap_row, height, self.output.height);
        let columns = across.outputs(tap_column, width, self.output.width);
        let step = across.stride().wrapping_mul(depth);
        let row_step = down.stride().wrapping_mul(width).wrapping_mul(depth);
        let mut row = down
            .input(rows.start, tap_row)
            .wrapping_mul(width)
            .wrapping_add(across.input(columns.start, tap_column))
            .wrapping_mul(depth)
            .wrapping_add(weight.input);
        for oy in rows {
            let first = oy.wrapping_mul(self.output.width);
            let mut element = row;
            for ox in columns.clone() {
                f(first.wrapping_add(ox), element);
                element = element.wrapping_add(step);
            }
            row = row.wrapping_add(row_step);
        }
    }
}

/// A walk over the nonzero weights of a layer.
pub(super) struct Walk<'l, 'm> {
    layer: &'l Layer<'m>,
    channel: usize,
    /// First byte of the next channel's entries, of a convolution's sparse stream.
    entry: usize,
    /// Next channels of a linear operator's sparse stream.
    rows: Option<Rows<'m>>,
    /// The last block there.
    position: usize,
}

impl<'m> Walk<'_, 'm> {
    /// Calls `f` for each nonzero weight of the next output channel, in the order of the stream.
    pub(super) fn channel(&mut self, mut f: impl FnMut(Weight)) {
        let layer = self.layer;
        let channel = self.channel;
        self.channel = channel.wrapping_add(1);
        let outputs = layer.channels.len();
        let depth = layer.size[2];
        match &layer.stream {
            Stream::Dense { weights, groups } => {
                let depth = depth.checked_div(*groups).unwrap_or(0);
                let group_outputs = outputs.checked_div(*groups).unwrap_or(0);
                let group = channel.checked_div(group_outputs).unwrap_or(0);
                let per_channel = layer.taps().wrapping_mul(depth);
                let base = channel.wrapping_mul(per_channel);
                layer.each_position(depth, |position, tap, input| {
                    let at = base.wrapping_add(position);
                    let value = weights.get(at).copied().unwrap_or(0);
                    if value != 0 {
                        let input = group.wrapping_mul(depth).wrapping_add(input);
                        f(Weight { tap, input, value, place: Place::Byte(at) });
                    }
                });
            }
            Stream::Packed(words) => {
                let per_channel = layer.taps().wrapping_mul(depth);
                let pair = (channel / 2).wrapping_mul(packed::words_per_pair(per_channel));
                layer.each_position(depth, |position, tap, input| {
                    let within = position % packed::BLOCK;
                    let word = pair
                        .wrapping_add((position / packed::BLOCK).wrapping_mul(2))
                        .wrapping_add(within % 2);
                    let at = word.wrapping_mul(4).wrapping_add((within / 2).wrapping_mul(2));
                    let place =
                        if channel.is_multiple_of(2) { Place::Low(at) } else { Place::High(at) };
                    let bytes = words.get(word).copied().unwrap_or(0).to_le_bytes();
                    let here = match place {
                        Place::Low(_) => Place::Low(at % 4),
                        _ => Place::High(at % 4),
                    };
                    let value = here.read(&bytes);
                    if value != 0 {
                        f(Weight { tap, input, value, place });
                    }
                });
            }
            Stream::Depthwise(weights) => {
                let multiplier = outputs.checked_div(depth).unwrap_or(0);
                let input = channel.checked_div(multiplier).unwrap_or(0);
                layer.each_position(1, |position, tap, _| {
                    let at = position.wrapping_mul(outputs).wrapping_add(channel);
                    let value = weights.get(at).copied().unwrap_or(0);
                    if value != 0 {
                        f(Weight { tap, input, value, place: Place::Byte(at) });
                    }
                });
            }
            Stream::Sparse(stream) => {
                let geometry = stream.geometry();
                let block = geometry.block();
                let first = self.entry;
                let count = layer.channels.get(channel).map_or(0, ChannelRecord::count);
                let end = first.wrapping_add(count.wrapping_mul(block.entry()));
                self.entry = end;
                let entries = stream.entry_bytes().get(first..end);
                // What stands before the entries does not change.
                let start = first.wrapping_add(CONV_HEADER_LEN);
                let mut offset = 0usize;
                for (index, bytes) in
                    entries.unwrap_or_default().chunks_exact(block.entry().max(1)).enumerate()
                {
                    let Some(entry) = Entry::read(block, bytes) else { continue };
                    offset = offset.wrapping_add(entry.distance);
                    if entry.weights == [0; 4] {
                        continue;
                    }
                    let Some((tap, input)) = geometry.tap(offset) else { continue };
                    let at = start.wrapping_add(index.wrapping_mul(block.entry()));
                    for (lane, &value) in entry.weights.iter().enumerate() {
                        // A lane beyond the last channel reads the next plane's filling.
                        let input = input.wrapping_add(lane);
                        if value != 0 && input < depth {
                            f(Weight {
                                tap,
                                input,
                                value,
                                place: Place::of_entry(block, at, lane),
                            });
                        }
                    }
                }
            }
            Stream::SparseLinear(stream) => {
                let block = stream.block();
                let Some(row) = self.rows.as_mut().and_then(Iterator::next) else { return };
                if !block.goes_on() {
                    self.position = 0;
                }
                row.blocks(block, |at, group, index| {
                    let distance = block.distance(group, index).unwrap_or(0);
                    self.position = self.position.wrapping_add(distance);
                    for lane in 0..block.len() {
                        let within = block.weight(index, lane);
                        let value = group.get(within).map_or(0, |&byte| byte as i8);
                        let input = self.position.wrapping_mul(block.len()).wrapping_add(lane);
                        if value != 0 {
                            let place = Place::Byte(at.wrapping_add(within));
                            f(Weight { tap: [0, 0], input, value, place });
                        }
                    }
                });
            }
        }
    }
}

impl Layer<'_> {
    fn taps(&self) -> usize {
        self.window.kernel[0].wrapping_mul(self.window.kernel[1])
    }

    /// Positions of a dense channel's weights with their tap and channel of `depth`.
    fn each_position(&self, depth: usize, mut f: impl FnMut(usize, [usize; 2], usize)) {
        let mut position = 0usize;
        for ky in 0..self.window.kernel[0] {
            for kx in 0..self.window.kernel[1] {
                for input in 0..depth {
                    f(position, [ky, kx], input);
                    position = position.wrapping_add(1);
                }
            }
        }
    }
}
