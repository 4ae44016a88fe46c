//! Which kernel executes a convolution or linear layer, and the weights in the order it reads them.
//!
//! Every kernel that can execute a layer gets a bid: its weights packed, its cost on the target core
//! predicted. The lowest bid wins.

use anyhow::{Result, ensure};
use niwaki_core::kernels::sparse::{Block, ConvStream, LinearStream, MAX_BIAS};
use niwaki_core::kernels::{KernelId, pack_sparse, packed};
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
    fn core(self) -> Core {
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

/// A kernel with its weights in the order it reads them.
pub(super) struct Bid {
    pub(super) kernel: KernelId,
    pub(super) weights: Vec<u8>,
    pub(super) scratch_len: usize,
    /// Predicted clock cycles.
    pub(super) cost: f64,
    /// What is compared: memory beyond the limit must buy a fifth of the time.
    pub(super) price: f64,
}

/// The bids for a layer. Sparse convolutions may take `spare` bytes of working memory or what the dense one
/// takes; where they need more, they take the least that they can do with, and must be much cheaper.
pub(super) fn bids(
    shape: &Shape,
    weighted: &Weighted,
    bias: &[i32],
    choice: KernelChoice,
    spare: usize,
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
    let per_channel = weighted.weights.len() / shape.output.channels;
    let scratch_limit = match choice {
        KernelChoice::Fastest(_) => usize::MAX,
        _ => spare.max(packed::conv_scratch_len(shape.input.channels, per_channel)),
    };
    let bids = candidates
        .into_iter()
        // The sparse kernels' sums begin with the bias and must stay clear of overflow.
        .filter(|kernel| {
            let small = bias.iter().all(|bias| bias.unsigned_abs() < MAX_BIAS);
            small || matches!(kernel, ConvPacked | ConvDense | LinearPacked | LinearDense)
        })
        .filter_map(|kernel| bid(kernel, shape, weighted, choice.core(), scratch_limit));
    let mut bids: Vec<Bid> = bids.collect();
    if let Some(kernel) = wanted
        && bids.iter().any(|bid| bid.kernel == kernel)
    {
        bids.retain(|bid| bid.kernel == kernel);
    }
    ensure!(!bids.is_empty(), "no kernel can execute this layer");
    Ok(bids)
}

fn bid(
    kernel: KernelId,
    shape: &Shape,
    weighted: &Weighted,
    core: Core,
    scratch_limit: usize,
) -> Option<Bid> {
    let outputs = shape.output.channels;
    let per_channel = weighted.weights.len() / outputs;
    let costs = CostModel::of(core);
    let block = match kernel {
        KernelId::ConvSparse | KernelId::LinearSparse => Block::One,
        KernelId::ConvBlock2 | KernelId::LinearBlock2 => Block::Two,
        _ => Block::Four,
    };
    let (weights, scratch_len) = match kernel {
        KernelId::ConvDense | KernelId::LinearDense => (weighted.weights.as_bytes().to_vec(), 0),
        KernelId::ConvPacked | KernelId::LinearPacked => {
            if shape.groups != 1 {
                return None;
            }
            let mut words = vec![0; packed::packed_len(outputs, per_channel)?];
            let weight = |output: usize, at: usize| weighted.weights[output * per_channel + at];
            packed::pack(outputs, per_channel, weight, &mut words)?;
            let scratch = match kernel {
                KernelId::ConvPacked => packed::conv_scratch_len(shape.input.channels, per_channel),
                _ => packed::linear_scratch_len(per_channel),
            };
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            (bytes, scratch)
        }
        KernelId::ConvSparse | KernelId::ConvBlock2 | KernelId::ConvBlock4 => {
            let window = shape.window?;
            let depth = shape.input.channels / shape.groups;
            let channels = weighted.weights.chunks(per_channel);
            let counts = ChannelCounts::new(channels.map(|weights| blocks(weights, depth, block)));
            let conv = conv(shape, weighted, Weights::Dense(&[]), 0);
            let choose = |limit| {
                let cost = |geometry: &_| {
                    costs.predict(kernel, &Terms::sparse_conv(&conv, geometry, &counts)).cycles
                };
                let (input, output) = (&shape.input, &shape.output);
                pack_sparse::choose_geometry(input, output, &window, block, limit, cost)
            };
            let geometry = choose(scratch_limit).or_else(|| {
                let cost = |geometry: &niwaki_core::kernels::sparse::Geometry| {
                    geometry.scratch_len() as f64
                };
                let (input, output) = (&shape.input, &shape.output);
                pack_sparse::choose_geometry(input, output, &window, block, usize::MAX, cost)
            })?;
            let stream = pack_sparse::conv_stream(&weighted.weights, shape.groups, &geometry)?;
            (stream, geometry.scratch_len())
        }
        _ => {
            if shape.groups != 1 {
                return None;
            }
            let stream = pack_sparse::linear_stream(&weighted.weights, per_channel, block)?;
            let scratch = niwaki_core::kernels::sparse::linear_scratch_len(per_channel, block);
            (stream, scratch)
        }
    };
    let aligned = AlignedVec::new(&weights);
    let op = operator(kernel, shape, weighted, &aligned, block, scratch_len)?;
    let cost = costs.predict(kernel, &Terms::of(&op, core.has_dsp())).cycles;
    let price = if scratch_len <= scratch_limit { cost } else { 1.25 * cost };
    Some(Bid { kernel, cost, price, weights, scratch_len })
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
    block: Block,
    scratch_len: usize,
) -> Option<Op<'a>> {
    let bytes = bytes.as_bytes();
    let (input, output) = (&shape.input, &shape.output);
    let window = shape.whole_window();
    let weights = match kernel {
        KernelId::ConvDense | KernelId::LinearDense => Weights::Dense(&weighted.weights),
        KernelId::ConvPacked | KernelId::LinearPacked => {
            Weights::Packed(zerocopy::FromBytes::ref_from_bytes(bytes).ok()?)
        }
        KernelId::LinearSparse | KernelId::LinearBlock2 | KernelId::LinearBlock4 => {
            Weights::SparseLinear(LinearStream::new(bytes, input.len(), output.channels, block)?)
        }
        _ => Weights::Sparse(ConvStream::new(bytes, input, output, &window, block)?),
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
