//! Linear operator over the nonzero weights.

use super::conv_sparse::requantise;
use super::sparse::{Block, GROUP, LinearStream};
use super::{part, put};
use crate::model::Conv;

/// Linear operator from `x` to `y` by a stream whose block is `BLOCK` inputs.
pub fn linear_sparse<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    scratch: &mut [i8],
) {
    #[cfg(niwaki_dsp)]
    super::linear_sparse_dsp::linear::<BLOCK>(op, stream, x, y, scratch);
    #[cfg(not(niwaki_dsp))]
    portable::<BLOCK>(op, stream, x, y, scratch);
}

/// The operator in safe Rust, for every target.
pub(super) fn portable<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    _scratch: &mut [i8],
) {
    for (output, (channel, (groups, len))) in op.channels.iter().zip(stream.channels()).enumerate()
    {
        let mut sum = channel.bias.get();
        let mut position = 0usize;
        for group in groups.chunks_exact(len) {
            let (distances, weights) = group.split_at_checked(GROUP).unwrap_or((&[], &[]));
            for (block, &distance) in distances.iter().enumerate() {
                position = position.wrapping_add(usize::from(distance).wrapping_mul(BLOCK));
                for (lane, &x) in part(x, position, BLOCK).iter().enumerate() {
                    let index = weight_index(stream.block(), block, lane);
                    let weight = weights.get(index).copied().unwrap_or(0) as i8;
                    sum = sum.wrapping_add(i32::from(weight).wrapping_mul(i32::from(x)));
                }
            }
        }
        put(y, output, requantise(op, channel, sum));
    }
}

/// Place of a weight among a group's: block by block, but for blocks of two the first and second
/// weights of two blocks alternate, so that one instruction widens a block's.
#[inline(always)]
pub(super) fn weight_index(block: Block, index: usize, lane: usize) -> usize {
    match block {
        Block::One => index,
        Block::Two => (index & 2).wrapping_mul(2).wrapping_add(lane.wrapping_mul(2)).wrapping_add(index & 1),
        Block::Four => index.wrapping_mul(4).wrapping_add(lane),
    }
}
