//! Linear operator over the nonzero weights.

use super::conv_sparse::requantise;
use super::sparse::LinearStream;
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
#[cfg_attr(niwaki_dsp, allow(dead_code))]
pub(super) fn portable<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    _scratch: &mut [i8],
) {
    let block = stream.block();
    let mut position = 0usize;
    for (output, (channel, row)) in stream.channels.iter().zip(stream.rows()).enumerate() {
        let mut sum = channel.bias.get();
        if !block.goes_on() {
            position = 0;
        }
        row.blocks(block, |_, group, index| {
            let distance = block.distance(group, index).unwrap_or(0);
            position = position.wrapping_add(distance.wrapping_mul(BLOCK));
            for (lane, &x) in part(x, position, BLOCK).iter().enumerate() {
                let weight = group.get(block.weight(index, lane)).copied().unwrap_or(0) as i8;
                sum = sum.wrapping_add(i32::from(weight).wrapping_mul(i32::from(x)));
            }
        });
        put(y, output, requantise(op, channel, sum));
    }
}
