//! Writes the streams of [`sparse`](super::sparse) from dense weights: for exporters, on the host.

use alloc::vec::Vec;

use super::sparse::{Block, ELEMENT, Entry, Geometry, MAX_WEIGHTS, TILE};
use crate::model::layout::ALIGNMENT;
use crate::model::{Tensor, Window};

/// A stream, and what the records of the output channels count of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The stream.
    pub bytes: Vec<u8>,
    /// The [count](crate::model::layout::ChannelRecord::count) of each output channel.
    pub counts: Vec<u16>,
}

/// The stream of a convolution from its weights, output channel by output channel in the order kernel
/// row, kernel column, input channel of the group. A block is kept when any of its weights is not
/// zero.
///
/// `None` when the weights are not as many as the shapes say, an output channel has
/// [`MAX_WEIGHTS`] or more, or the geometry's numbers do not fit the stream's header.
pub fn conv_stream(weights: &[i8], groups: usize, geometry: &Geometry) -> Option<Packed> {
    let g = geometry;
    let block = g.block();
    let [kernel_h, kernel_w] = g.kernel;
    let (depth, outputs) = (g.input[2].checked_div(groups)?, g.output[2]);
    let channel_len = kernel_h * kernel_w * depth;
    if weights.len() != channel_len * outputs || channel_len == 0 || outputs % groups != 0 {
        return None;
    }
    // A multiple of what distances are multiples of.
    let longest = usize::from(u16::MAX) / 16 * 16;
    let mut channels = Vec::with_capacity(outputs);
    for (output, weights) in weights.chunks(channel_len).enumerate() {
        // Offset, lane of the block and weight.
        let mut nonzeros = Vec::new();
        for (position, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0) {
            let (tap, channel) = (position / depth, position % depth);
            let channel = output / (outputs / groups) * depth + channel;
            let offset = g.offset([tap / kernel_w, tap % kernel_w], channel);
            nonzeros.push((offset, channel % block.len(), weight));
        }
        nonzeros.sort_unstable_by_key(|&(offset, ..)| offset);
        let mut entries = Vec::new();
        let mut last = 0;
        for same_cell in nonzeros.chunk_by(|a, b| a.0 == b.0) {
            let mut distance = same_cell[0].0 - last;
            while distance > longest {
                entries.push(Entry { distance: longest, weights: [0; 4] });
                distance -= longest;
            }
            let mut entry = Entry { distance, weights: [0; 4] };
            for &(_, lane, weight) in same_cell {
                entry.weights[lane] = weight;
            }
            entries.push(entry);
            last = same_cell[0].0;
        }
        channels.push(entries);
    }
    if channels.iter().any(|entries| entries.len() * block.len() >= MAX_WEIGHTS) {
        return None;
    }
    let counts = channels.iter().map(|entries| entries.len() as u16).collect();
    let mut stream = Vec::new();
    stream.extend(u16::try_from(g.columns).ok()?.to_le_bytes());
    stream.extend(u16::try_from(g.rows).ok()?.to_le_bytes());
    for entry in channels.iter().flatten() {
        stream.extend_from_slice(&entry.write(block)[..block.entry()]);
    }
    stream.resize((stream.len() + ALIGNMENT).next_multiple_of(ALIGNMENT), 0);
    Some(Packed { bytes: stream, counts })
}

/// The stream of a linear operator from its weights, output by output. A block is kept when any of its
/// weights is not zero.
///
/// `None` when the weights are not a multiple of `inputs` or the inputs not a multiple of the block,
/// or an output has [`MAX_WEIGHTS`] or more.
pub fn linear_stream(weights: &[i8], inputs: usize, block: Block) -> Option<Packed> {
    let len = block.len();
    if inputs == 0 || !weights.len().is_multiple_of(inputs) || !inputs.is_multiple_of(len) {
        return None;
    }
    let zeros = &[0; 4][..len];
    // A distance of each block and its weights.
    let mut channels: Vec<Vec<(isize, &[i8])>> = Vec::new();
    let mut counts = Vec::new();
    let mut last = 0;
    for weights in weights.chunks(inputs) {
        let mut blocks = Vec::new();
        last = if block.goes_on() { last } else { 0 };
        for (index, weights) in weights.chunks(len).enumerate() {
            if weights.iter().any(|&weight| weight != 0) {
                let longest = block.max_distance() as isize;
                let mut distance = index as isize - last;
                while distance.abs() > longest {
                    blocks.push((longest * distance.signum(), zeros));
                    distance -= longest * distance.signum();
                }
                blocks.push((distance, weights));
                last = index as isize;
            }
        }
        counts.push(match block {
            Block::One | Block::Four => blocks.len(),
            Block::Two => blocks.len().div_ceil(block.group()),
        });
        match block {
            Block::Four if !blocks.len().is_multiple_of(2) => blocks.insert(0, (0, zeros)),
            Block::Two => blocks.resize(blocks.len().next_multiple_of(block.group()), (0, zeros)),
            _ => {}
        }
        channels.push(blocks);
    }
    if channels.iter().any(|blocks| blocks.len() * len >= MAX_WEIGHTS) {
        return None;
    }
    let (mut stream, mut singles) = (Vec::new(), Vec::new());
    for blocks in &channels {
        let (single, blocks) = blocks.split_at(blocks.len() % block.group());
        singles.extend(single.iter().map(|block| [block.0 as u8, block.1[0] as u8]));
        for group in blocks.chunks(block.group()) {
            let mut bytes = [0; 12];
            for (index, &(distance, weights)) in group.iter().enumerate() {
                match block {
                    Block::One => bytes[2 * index] = distance as u8,
                    Block::Two => bytes[index] = distance as u8,
                    Block::Four => {
                        let distance = distance as i16 * (4 * ELEMENT) as i16;
                        bytes[2 * index..][..2].copy_from_slice(&distance.to_le_bytes());
                    }
                }
                for (lane, &weight) in weights.iter().enumerate() {
                    bytes[block.weight(index, lane)] = weight as u8;
                }
            }
            stream.extend_from_slice(&bytes[..block.group_bytes()]);
        }
    }
    if block == Block::Four {
        stream.resize(stream.len() + block.group_bytes(), 0);
    }
    stream.extend(singles.iter().rev().flatten());
    Some(Packed { bytes: stream, counts: counts.into_iter().map(|count| count as u16).collect() })
}

/// How often each part of the sparse convolution's work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steps {
    /// Bands of output rows, over all strips of columns.
    pub bands: usize,
    /// Tiles of output pixels.
    pub tiles: usize,
    /// Bands before which the planes are filled with the zero point.
    pub fills: usize,
    /// Words that these fill.
    pub filled: usize,
    /// Rows of the padded input that are looked at.
    pub rows: usize,
    /// Stretches of pixels of one row and phase that are brought into planes.
    pub stretches: usize,
    /// Pairs of pixels of these stretches.
    pub pairs: usize,
    /// Stretches of an odd number of pixels.
    pub odd: usize,
}

impl Geometry {
    /// How often each part of the work is done with this layout: the loops of the kernel without what
    /// they do.
    pub fn steps(&self) -> Steps {
        let [output_h, output_w, _] = self.output;
        let mut steps = Steps::default();
        for column in (0..output_w).step_by(self.columns) {
            let columns = self.columns.min(output_w - column);
            let left = column * self.stride[1];
            let reach = (columns - 1) * self.stride[1] + self.kernel[1];
            let right = (left + reach).min(self.input[1] + self.pad[1]);
            // Of a row: stretches, pairs of pixels, odd numbers of them.
            let mut row = [0; 3];
            for phase in 0..self.phases[1] {
                let first = left + phase;
                let skipped = self.pad[1].saturating_sub(first).div_ceil(self.stride[1]);
                let first = first + skipped * self.stride[1];
                let count = right.saturating_sub(first).div_ceil(self.stride[1]);
                row[0] += usize::from(count > 0);
                row[1] += count / 2;
                row[2] += count % 2;
            }
            for first_row in (0..output_h).step_by(self.rows) {
                let rows = self.rows.min(output_h - first_row);
                let top = first_row * self.stride[0];
                let needed = (rows - 1) * self.stride[0] + self.kernel[0];
                let bottom = self.input[0] + self.pad[0];
                let filled = self.padded && (first_row == 0 || top + needed > bottom);
                let looked_at = top..(top + needed).min(bottom);
                let laid_out = looked_at.clone().filter(|&row| {
                    (row - top) % self.stride[0] < self.phases[0] && row >= self.pad[0]
                });
                let laid_out = laid_out.count();
                steps.bands += 1;
                steps.fills += usize::from(filled);
                steps.filled += if filled { self.bytes() / 4 } else { 0 };
                steps.rows += looked_at.len();
                steps.stretches += laid_out * row[0];
                steps.pairs += laid_out * row[1];
                steps.odd += laid_out * row[2];
                steps.tiles += match self.flat {
                    true => ((rows - 1) * self.width + columns).div_ceil(TILE),
                    false => columns.div_ceil(TILE) * rows,
                };
            }
        }
        steps
    }

    /// Channels of the input.
    pub fn depth(&self) -> usize {
        self.input[2]
    }

    /// Whether the cells of tiles and taps begin at even places, which the kernel makes use of.
    pub fn is_even(&self) -> bool {
        self.even
    }
}

/// Strips and bands for a convolution: those that can be of use, whatever memory they need.
pub fn geometries(
    input: &Tensor,
    output: &Tensor,
    window: &Window,
    block: Block,
) -> impl Iterator<Item = Geometry> {
    let smallest = Geometry::new(input, output, window, block, 1, 1);
    let [output_h, output_w, _] = smallest.map_or([0; 3], |geometry| geometry.output);
    (1..TILE.min(output_w))
        .chain((TILE..output_w).step_by(TILE))
        .chain([output_w])
        .filter(|&columns| columns <= usize::from(u16::MAX))
        .flat_map(move |columns| (1..=output_h).map(move |rows| (columns, rows)))
        .filter_map(move |(c, r)| Geometry::new(input, output, window, block, c, r))
}
