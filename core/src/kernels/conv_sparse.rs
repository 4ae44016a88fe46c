//! Convolution over the nonzero weights. How the input is laid out for it: see
//! [`sparse`](super::sparse).

use super::conv::rescale;
use super::rescale::Rescale;
use super::sparse::{ConvStream, Geometry, TILE};
#[cfg(any(not(niwaki_dsp), test))]
use super::{
    part, put,
    sparse::{Block, ELEMENT},
};
use crate::model::{Conv, layout::ChannelRecord};

/// Convolution of `x` into `y`, both in the order height, width, channel, by a stream whose block is
/// `BLOCK` channels. Where `x` is `None`, the input stands in `y`, which then has its length, and the
/// output replaces its beginning: see [`conv_in_place`](super::conv_in_place).
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
pub fn conv_sparse<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &ConvStream<'_>,
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    #[cfg(niwaki_dsp)]
    super::conv_sparse_dsp::convolve::<BLOCK>(op, stream, x, y, scratch);
    #[cfg(not(niwaki_dsp))]
    if let Some(mut tiles) = Portable::<BLOCK>::new(op, stream, y, scratch) {
        run(op, stream.geometry(), x, &mut tiles);
    }
}

/// The inner parts of the convolution.
pub(super) trait Tiles {
    /// Fills the planes with a value.
    fn fill(&mut self, value: i8);

    /// Lays out some pixels of `x`, or of the output's memory where the input stands there, as cells of
    /// every plane.
    fn lay_out(&mut self, x: Option<&[i8]>, stretch: Stretch);

    /// Adds to the band the tile of output pixels whose first cell is `first`. `lanes` says where each
    /// pixel's channels begin in the output, if anywhere.
    fn add_tile(&mut self, first: usize, lanes: &[usize; TILE]);

    /// Computes all channels of the band's tiles.
    fn compute(&mut self);
}

/// Neighbouring pixels of a row and phase, and the cells that they become.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    /// Where the first pixel's channels begin in the input.
    pub(super) start: usize,
    /// How far behind each other the pixels are there.
    pub(super) step: usize,
    /// Pixels.
    pub(super) count: usize,
    /// The first one's cell.
    pub(super) first: usize,
}

/// No output pixel.
pub(super) const NOWHERE: usize = usize::MAX;

/// Lays out band after band and computes its tiles. In place, outputs never stand before inputs that are
/// still to be laid out: those of a pointwise convolution are in the order of the bands.
pub(super) fn run(op: &Conv<'_>, g: &Geometry, x: Option<&[i8]>, tiles: &mut impl Tiles) {
    let [output_h, output_w, _] = g.output;
    let mut column = 0usize;
    while column < output_w {
        let columns = g.columns.min(output_w.wrapping_sub(column));
        let mut row = 0usize;
        while row < output_h {
            let rows = g.rows.min(output_h.wrapping_sub(row));
            lay_out_band(op, g, x, [row, column], [rows, columns], tiles);
            let corner = row.wrapping_mul(output_w).wrapping_add(column);
            compute_band(g, corner, [rows, columns], tiles);
            row = row.wrapping_add(g.rows);
        }
        column = column.wrapping_add(g.columns);
    }
}

fn lay_out_band(
    op: &Conv<'_>,
    g: &Geometry,
    x: Option<&[i8]>,
    [row, column]: [usize; 2],
    [rows, columns]: [usize; 2],
    tiles: &mut impl Tiles,
) {
    let [height, width, depth] = g.input;
    let [stride_h, stride_w] = g.stride;
    // Rows and columns of the padded input.
    let top = row.wrapping_mul(stride_h);
    let needed = rows.wrapping_sub(1).wrapping_mul(stride_h).wrapping_add(g.kernel[0]);
    // Padding stays filled from band to band, except where rows below the input follow others.
    let bottom = height.wrapping_add(g.pad[0]);
    if g.padded && (row == 0 || top.wrapping_add(needed) > bottom) {
        tiles.fill(op.input.zero_point);
    }
    let left = column.wrapping_mul(stride_w);
    let reach = columns.wrapping_sub(1).wrapping_mul(stride_w).wrapping_add(g.kernel[1]);
    let right = left.wrapping_add(reach).min(width.wrapping_add(g.pad[1]));

    let (mut phase_h, mut cell_row) = (0usize, 0usize);
    for padded_row in top..top.wrapping_add(needed).min(bottom) {
        if phase_h < g.phases[0] && padded_row >= g.pad[0] {
            let start = padded_row.wrapping_sub(g.pad[0]).wrapping_mul(width).wrapping_mul(depth);
            for phase_w in 0..g.phases[1] {
                // The first cell that lies over the input, and the number of such cells.
                let first = left.wrapping_add(phase_w);
                let skipped = g.pad[1].saturating_sub(first).div_ceil(stride_w.max(1));
                let first = first.wrapping_add(skipped.wrapping_mul(stride_w));
                let count = right.saturating_sub(first).div_ceil(stride_w.max(1));
                let from = first.wrapping_sub(g.pad[1]).wrapping_mul(depth);
                let phase = phase_h.wrapping_mul(g.phases[1]).wrapping_add(phase_w);
                let cell = phase
                    .wrapping_mul(g.part)
                    .wrapping_add(cell_row.wrapping_mul(g.width))
                    .wrapping_add(skipped);
                if count > 0 {
                    let start = start.wrapping_add(from);
                    let step = stride_w.wrapping_mul(depth);
                    tiles.lay_out(x, Stretch { start, step, count, first: cell });
                }
            }
        }
        phase_h = phase_h.wrapping_add(1);
        if phase_h == stride_h {
            phase_h = 0;
            cell_row = cell_row.wrapping_add(1);
        }
    }
}

fn compute_band(g: &Geometry, corner: usize, [rows, columns]: [usize; 2], tiles: &mut impl Tiles) {
    let [_, output_w, outputs] = g.output;
    let (runs, run) = if g.flat {
        (1, rows.wrapping_sub(1).wrapping_mul(g.width).wrapping_add(columns))
    } else {
        (rows, columns)
    };
    for first_row in 0..runs {
        let (mut row, mut column) = (first_row, 0usize);
        let first = first_row.wrapping_mul(g.width);
        let mut cell = 0usize;
        while cell < run {
            let mut lanes = [NOWHERE; TILE];
            for lane in &mut lanes {
                if column < columns && row < rows {
                    let pixel = row.wrapping_mul(output_w).wrapping_add(column);
                    *lane = corner.wrapping_add(pixel).wrapping_mul(outputs);
                }
                column = column.wrapping_add(1);
                if g.flat && column == g.width {
                    column = 0;
                    row = row.wrapping_add(1);
                }
            }
            tiles.add_tile(first.wrapping_add(cell), &lanes);
            cell = cell.wrapping_add(TILE);
        }
    }
    tiles.compute();
}

/// The inner parts in safe Rust, for every target. A plane's elements take one byte.
#[cfg(any(not(niwaki_dsp), test))]
pub(super) struct Portable<'a, 'm, const BLOCK: usize> {
    op: &'a Conv<'m>,
    stream: &'a ConvStream<'m>,
    planes: &'a mut [i8],
    y: &'a mut [i8],
}

#[cfg(any(not(niwaki_dsp), test))]
impl<'a, 'm, const BLOCK: usize> Portable<'a, 'm, BLOCK> {
    pub(super) fn new(
        op: &'a Conv<'m>,
        stream: &'a ConvStream<'m>,
        y: &'a mut [i8],
        scratch: &'a mut [i8],
    ) -> Option<Self> {
        let planes = scratch.get_mut(..stream.geometry().bytes() / ELEMENT)?;
        (stream.geometry().block().len() == BLOCK).then_some(Self { op, stream, planes, y })
    }

    const KIND: Block = match BLOCK {
        1 => Block::One,
        2 => Block::Two,
        _ => Block::Four,
    };
}

#[cfg(any(not(niwaki_dsp), test))]
impl<const BLOCK: usize> Tiles for Portable<'_, '_, BLOCK> {
    fn fill(&mut self, value: i8) {
        self.planes.fill(value);
    }

    fn lay_out(&mut self, x: Option<&[i8]>, Stretch { start, step, count, first }: Stretch) {
        let g = self.stream.geometry();
        let x = x.unwrap_or(self.y);
        let plane = g.plane().wrapping_mul(BLOCK);
        let first = first.wrapping_mul(BLOCK);
        let len = count.wrapping_mul(BLOCK);
        for (index, plane) in self.planes.chunks_exact_mut(plane.max(1)).enumerate() {
            let channel = index.wrapping_mul(BLOCK);
            let channels = g.input[2].wrapping_sub(channel).min(BLOCK);
            let cells = plane.get_mut(first..first.wrapping_add(len)).unwrap_or_default();
            let mut from = start.wrapping_add(channel);
            for cell in cells.as_chunks_mut::<BLOCK>().0 {
                for (slot, &value) in cell.iter_mut().zip(part(x, from, channels)) {
                    *slot = value;
                }
                from = from.wrapping_add(step);
            }
        }
    }

    fn add_tile(&mut self, first: usize, lanes: &[usize; TILE]) {
        let mut rest = self.stream.entries;
        for (output, channel) in self.stream.channels.iter().enumerate() {
            let bytes = channel.count().wrapping_mul(Self::KIND.entry());
            let Some((entries, behind)) = rest.split_at_checked(bytes) else { return };
            rest = behind;
            let mut sums = [channel.bias.get(); TILE];
            let mut position = first.wrapping_mul(BLOCK);
            for entry in entries.chunks_exact(Self::KIND.entry()) {
                let Some(entry) = super::sparse::Entry::read(Self::KIND, entry) else { return };
                position = position.wrapping_add(entry.distance / ELEMENT);
                let inputs = part(self.planes, position, BLOCK.wrapping_mul(TILE));
                for (sum, inputs) in sums.iter_mut().zip(inputs.as_chunks::<BLOCK>().0) {
                    for (&x, &weight) in inputs.iter().zip(&entry.weights) {
                        *sum = sum.wrapping_add(i32::from(weight).wrapping_mul(i32::from(x)));
                    }
                }
            }
            for (sum, &lane) in sums.into_iter().zip(lanes) {
                if lane != NOWHERE {
                    let value = requantise(self.op, channel, sum);
                    put(self.y, lane.wrapping_add(output), value);
                }
            }
        }
    }

    fn compute(&mut self) {}
}

/// The output for an accumulator.
pub(super) fn requantise(op: &Conv<'_>, channel: &ChannelRecord, sum: i32) -> i8 {
    let rescale: Rescale = rescale(channel);
    rescale.requantise(sum, op.output.zero_point, op.clamp)
}
