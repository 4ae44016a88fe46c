//! Which kernel executes a convolution or linear layer, and the weights in the order it reads them.
//!
//! Every kernel that can execute a layer makes bids: its cost on the target core as predicted, and the
//! working memory that it takes, which sparse convolutions trade for time. [`assign`](super::assign) takes
//! one for each layer.

use anyhow::{Context, Result, ensure};
use niwaki_core::kernels::pack_sparse::{self, Packed};
use niwaki_core::kernels::sparse::{Block, Geometry, LINEAR_SHIFTS, LinearStream, MAX_BIAS};
use niwaki_core::kernels::{KernelId, packed};
use niwaki_core::model::layout::ChannelRecord;
use niwaki_core::model::{Conv, Op, Scratch, Tensor, Weights, Window};
use zerocopy::IntoBytes;

use super::AlignedVec;
use super::graph::Weighted;
use crate::target::cost::{ChannelCounts, Core, CostModel, Terms};

/// How a layer's kernel is chosen among those that can execute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one that the cost model of a core predicts to be fastest.
    Cheapest(Core),
    /// This one wherever it can execute the layer, else the fastest on a Cortex-M4.
    Only(KernelId),
    /// The same, with as much working memory as makes it fastest.
    Fastest(KernelId),
}

impl KernelChoice {
    /// The core whose cost model counts.
    pub(super) fn core(self) -> Core {
        match self {
            Self::Cheapest(core) => core,
            Self::Only(_) | Self::Fastest(_) => Core::CortexM4,
        }
    }
}

/// A weighted layer's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) input: Tensor,
    pub(super) output: Tensor,
    /// Window of a convolution; `None` for a linear layer.
    pub(super) window: Option<Window>,
    pub(super) groups: usize,
}

impl Shape {
    /// The window; that of a linear layer covers the input.
    fn whole_window(&self) -> Window {
        let kernel = [self.input.height, self.input.width];
        self.window.unwrap_or(Window { kernel, stride: [1, 1], pad: [0, 0] })
    }
}

/// A kernel that can execute a layer.
pub(super) struct Bid {
    pub(super) kernel: KernelId,
    pub(super) scratch_len: usize,
    /// Predicted clock cycles.
    pub(super) cost: f64,
    /// Bytes of the weights.
    pub(super) flash: usize,
    weights: Packing,
}

/// A layer's weights in the order in which its kernel reads them.
enum Packing {
    Packed(Packed),
    /// They are packed once this layout has been chosen among many.
    Stream {
        geometry: Box<Geometry>,
        groups: usize,
    },
}

impl Bid {
    /// The layer's weights in the order in which the kernel reads them, and what its channels count; nothing
    /// where weights that are zero are kept.
    pub(super) fn weights(self, weighted: &Weighted) -> Result<Packed> {
        match self.weights {
            Packing::Packed(packed) => Ok(packed),
            Packing::Stream { geometry, groups } => {
                pack_sparse::conv_stream(&weighted.weights, groups, &geometry)
                    .context("an output channel has too many weights for a stream")
            }
        }
    }
}

/// Every kernel's bids for a layer. More memory always buys time.
pub(super) fn bids(
    shape: &Shape,
    weighted: &Weighted,
    bias: &[i32],
    choice: KernelChoice,
) -> Result<Vec<Bid>> {
    use KernelId::{
        ConvBlock2, ConvBlock4, ConvDense, ConvPacked, ConvSparse, LinearBlock2, LinearBlock4,
        LinearDense, LinearPacked, LinearSparse,
    };
    let candidates = match shape.window {
        Some(_) => [ConvPacked, ConvSparse, ConvBlock2, ConvBlock4, ConvDense],
        None => [LinearPacked, LinearSparse, LinearBlock2, LinearBlock4, LinearDense],
    };
    let wanted = match choice {
        KernelChoice::Only(kernel) | KernelChoice::Fastest(kernel)
            if candidates.contains(&kernel) =>
        {
            Some(kernel)
        }
        _ => None,
    };
    let small = bias.iter().all(|bias| bias.unsigned_abs() < MAX_BIAS);
    let usual = weighted.usual_rescales().all(|(_, shift)| LINEAR_SHIFTS.contains(&shift));
    let bids = candidates
        .into_iter()
        // The sparse kernels' sums begin with the bias and must stay clear of overflow; those of linear
        // layers take only ordinary shifts.
        .filter(|kernel| match kernel {
            ConvPacked | ConvDense | LinearPacked | LinearDense => true,
            LinearSparse | LinearBlock2 | LinearBlock4 => small && usual,
            _ => small,
        })
        .flat_map(|kernel| kernel_bids(kernel, shape, weighted, choice.core()));
    let mut bids: Vec<Bid> = bids.collect();
    if let Some(kernel) = wanted
        && bids.iter().any(|bid| bid.kernel == kernel)
    {
        bids.retain(|bid| bid.kernel == kernel);
    }
    if matches!(choice, KernelChoice::Fastest(_)) {
        let least = bids.iter().map(|bid| bid.cost).fold(f64::INFINITY, f64::min);
        bids.retain(|bid| bid.cost <= least);
    }
    ensure!(!bids.is_empty(), "no kernel can execute this layer");
    Ok(bids)
}

/// A kernel's bids; none if it cannot execute the layer.
fn kernel_bids(kernel: KernelId, shape: &Shape, weighted: &Weighted, core: Core) -> Vec<Bid> {
    match kernel {
        KernelId::ConvSparse => sparse_bids(kernel, Block::One, shape, weighted, core),
        KernelId::ConvBlock2 => sparse_bids(kernel, Block::Two, shape, weighted, core),
        KernelId::ConvBlock4 => sparse_bids(kernel, Block::Four, shape, weighted, core),
        _ => single_bid(kernel, shape, weighted, core).into_iter().collect(),
    }
}

/// The bids of a sparse convolution: one for each layout of its input that is faster than all that need less
/// memory. Differences that nobody would notice are left out.
fn sparse_bids(
    kernel: KernelId,
    block: Block,
    shape: &Shape,
    weighted: &Weighted,
    core: Core,
) -> Vec<Bid> {
    const NOTICEABLE: f64 = 0.99;
    let Some(window) = shape.window else { return vec![] };
    let per_channel = weighted.weights.len() / shape.output.channels;
    let depth = shape.input.channels / shape.groups;
    let channels = weighted.weights.chunks(per_channel);
    let counts: Vec<usize> = channels.map(|weights| blocks(weights, depth, block)).collect();
    let flash = counts.iter().sum::<usize>() * block.entry();
    let counts = ChannelCounts::new(counts.into_iter());
    let conv = conv(shape, weighted, Weights::Dense(&[]), 0);
    let costs = CostModel::of(core);
    let bid = |geometry: Geometry| Bid {
        kernel,
        scratch_len: geometry.scratch_len(),
        cost: costs.predict(kernel, &Terms::sparse_conv(&conv, &geometry, &counts)).cycles,
        flash,
        weights: Packing::Stream { geometry: Box::new(geometry), groups: shape.groups },
    };
    let geometries = pack_sparse::geometries(&shape.input, &shape.output, &window, block);
    let mut bids: Vec<Bid> = geometries.map(bid).collect();
    bids.sort_by(|a, b| a.scratch_len.cmp(&b.scratch_len).then(a.cost.total_cmp(&b.cost)));
    let mut least = f64::INFINITY;
    bids.retain(|bid| {
        let better = bid.cost < NOTICEABLE * least;
        least = if better { bid.cost } else { least };
        better
    });
    // The most memory needs the most entries.
    let packs = bids.last().is_some_and(|bid| match &bid.weights {
        Packing::Packed(_) => true,
        Packing::Stream { geometry, groups } => {
            pack_sparse::conv_stream(&weighted.weights, *groups, geometry).is_some()
        }
    });
    if packs { bids } else { vec![] }
}

/// The bid of a kernel that always takes the same memory.
fn single_bid(kernel: KernelId, shape: &Shape, weighted: &Weighted, core: Core) -> Option<Bid> {
    let outputs = shape.output.channels;
    let per_channel = weighted.weights.len() / outputs;
    let block = match kernel {
        KernelId::LinearSparse => Block::One,
        KernelId::LinearBlock2 => Block::Two,
        _ => Block::Four,
    };
    let (weights, scratch_len) = match kernel {
        KernelId::ConvDense | KernelId::LinearDense => {
            (Packed { bytes: weighted.weights.as_bytes().to_vec(), counts: vec![] }, 0)
        }
        _ if shape.groups != 1 => return None,
        KernelId::ConvPacked | KernelId::LinearPacked => {
            let mut words = vec![0; packed::packed_len(outputs, per_channel)?];
            let weight = |output: usize, at: usize| weighted.weights[output * per_channel + at];
            packed::pack(outputs, per_channel, weight, &mut words)?;
            let scratch = match kernel {
                KernelId::ConvPacked => packed::conv_scratch_len(shape.input.channels, per_channel),
                _ => packed::linear_scratch_len(per_channel),
            };
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            (Packed { bytes, counts: vec![] }, scratch)
        }
        _ => {
            let stream = pack_sparse::linear_stream(&weighted.weights, per_channel, block)?;
            (stream, niwaki_core::kernels::sparse::linear_scratch_len(per_channel, block))
        }
    };
    let aligned = AlignedVec::new(&weights.bytes);
    // Costs depend on the counts only.
    let channel = |&count: &u16| ChannelRecord::new(0, 0, -1, count);
    let channels: Vec<ChannelRecord> = weights.counts.iter().map(channel).collect();
    let op = operator(kernel, shape, weighted, &aligned, &channels, block, scratch_len)?;
    let cost = CostModel::of(core).predict(kernel, &Terms::of(&op, core.has_dsp())).cycles;
    let flash = weights.bytes.len();
    Some(Bid { kernel, scratch_len, cost, flash, weights: Packing::Packed(weights) })
}

/// Blocks of neighbouring input channels with a weight that is not zero.
fn blocks(weights: &[i8], depth: usize, block: Block) -> usize {
    let in_pixel = |pixel: &[i8]| {
        pixel.chunks(block.len()).filter(|block| block.iter().any(|&weight| weight != 0)).count()
    };
    weights.chunks(depth).map(in_pixel).sum()
}

/// The operator as the device will see it, for its cost.
fn operator<'a>(
    kernel: KernelId,
    shape: &Shape,
    weighted: &'a Weighted,
    bytes: &'a AlignedVec,
    channels: &'a [ChannelRecord],
    block: Block,
    scratch_len: usize,
) -> Option<Op<'a>> {
    let bytes = bytes.as_bytes();
    let weights = match kernel {
        KernelId::ConvDense | KernelId::LinearDense => Weights::Dense(&weighted.weights),
        KernelId::ConvPacked | KernelId::LinearPacked => {
            Weights::Packed(zerocopy::FromBytes::ref_from_bytes(bytes).ok()?)
        }
        _ => {
            let stream = LinearStream::new(bytes, channels, shape.input.len(), block)?;
            Weights::SparseLinear(stream)
        }
    };
    let conv = conv(shape, weighted, weights, scratch_len);
    Some(if shape.window.is_some() { Op::Conv(conv) } else { Op::Linear(conv) })
}

fn conv<'a>(
    shape: &Shape,
    weighted: &Weighted,
    weights: Weights<'a>,
    scratch_len: usize,
) -> Conv<'a> {
    Conv {
        input: shape.input,
        output: shape.output,
        window: shape.whole_window(),
        groups: shape.groups,
        clamp: weighted.clamp,
        channels: &[],
        weights,
        scratch: Scratch { offset: 0, len: scratch_len },
    }
}
