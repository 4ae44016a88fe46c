//! Operators as kernels want them: shapes proven, constants sliced.

use core::ops::Range;

use zerocopy::FromBytes;

use super::error::OpProblem;
use super::layout::{
    ALIGNMENT, AddBroadcastRecord, AddRecord, ChannelRecord, CopyRecord, MeanRecord, MulRecord,
    OpRecord, OperandRecord, PlaceRecord, SoftmaxRecord, Span, TensorRecord,
};
use crate::kernels::sparse::{Block, ConvStream, LINEAR_SHIFTS, LinearStream, MAX_BIAS};
use crate::kernels::{self, DEPTHWISE, KernelId, Rescale, has_any};

/// Kernels of convolutions over nonzero weights.
const SPARSE_CONVOLUTIONS: &[KernelId] =
    &[KernelId::ConvSparse, KernelId::ConvBlock2, KernelId::ConvBlock4];

/// Kernels of convolutions.
const CONVOLUTIONS: &[KernelId] = &[
    KernelId::ConvDense,
    KernelId::ConvPacked,
    KernelId::ConvSparse,
    KernelId::ConvBlock2,
    KernelId::ConvBlock4,
];

/// Kernels of linear operators over nonzero weights.
const SPARSE_LINEAR: &[KernelId] =
    &[KernelId::LinearSparse, KernelId::LinearBlock2, KernelId::LinearBlock4];

/// Kernels of linear operators.
const LINEAR: &[KernelId] = &[
    KernelId::LinearDense,
    KernelId::LinearPacked,
    KernelId::LinearSparse,
    KernelId::LinearBlock2,
    KernelId::LinearBlock4,
];

/// A tensor of int8 values in the arena, in the order height, width, channel.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// First byte in the arena.
    pub offset: usize,
    /// Height; 1 where the tensor is a vector.
    pub height: usize,
    /// Width; 1 where the tensor is a vector.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// The integer that stands for the real value 0.
    pub zero_point: i8,
    /// Real value of one integer step.
    pub scale: f32,
}

impl Tensor {
    /// Checks that the tensor has elements and lies within `arena_len` bytes.
    pub(super) fn decode(record: &TensorRecord, arena_len: usize) -> Option<Self> {
        let tensor = Self {
            offset: record.offset.get() as usize,
            height: usize::from(record.height.get()),
            width: usize::from(record.width.get()),
            channels: usize::from(record.channels.get()),
            zero_point: record.zero_point,
            scale: record.scale.get(),
        };
        let len = tensor.height.checked_mul(tensor.width)?.checked_mul(tensor.channels)?;
        let end = tensor.offset.checked_add(len)?;
        (len > 0 && end <= arena_len).then_some(tensor)
    }

    /// Number of elements, which is also the number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a tensor of a checked model has elements")]
    pub fn len(&self) -> usize {
        // No overflow: proven in `decode`.
        self.height.wrapping_mul(self.width).wrapping_mul(self.channels)
    }

    /// The bytes of the arena that hold it.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset.wrapping_add(self.len())
    }

    fn same_shape(&self, other: &Self) -> bool {
        (self.height, self.width, self.channels) == (other.height, other.width, other.channels)
    }
}

/// Window of a convolution or pooling, in elements of the input.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Padding above and left of the input.
    pub pad: [usize; 2],
}

/// Smallest and largest output value.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// Smallest.
    pub min: i8,
    /// Largest.
    pub max: i8,
}

/// Working memory of an operator: bytes of the arena, at a multiple of the alignment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    /// First byte in the arena.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Scratch {
    fn decode(record: &OpRecord, arena_len: usize) -> Result<Self, OpProblem> {
        let scratch = Self {
            offset: record.scratch.offset.get() as usize,
            len: record.scratch.len.get() as usize,
        };
        let end = scratch.offset.checked_add(scratch.len).ok_or(OpProblem::Scratch)?;
        let sound = end <= arena_len && scratch.offset.is_multiple_of(ALIGNMENT);
        sound.then_some(scratch).ok_or(OpProblem::Scratch)
    }

    /// The bytes of the arena that hold it.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset.wrapping_add(self.len)
    }
}

/// Weights of a convolution or linear operator.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'m> {
    /// Every weight, output channel by output channel, each in the order kernel row, kernel column,
    /// input channel.
    Dense(&'m [i8]),
    /// Every weight, as [`kernels::packed`] lays them out.
    Packed(&'m [u32]),
    /// A convolution's nonzero weights: see [`kernels::sparse`].
    Sparse(ConvStream<'m>),
    /// A linear operator's nonzero weights: see [`kernels::sparse`].
    SparseLinear(LinearStream<'m>),
}

/// Convolution with weights per output channel; also a linear operator, whose window covers its
/// whole input.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'m> {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written.
    pub output: Tensor,
    /// Window; the linear operator's is its input's height and width.
    pub window: Window,
    /// Groups: output channel `o` sees input channels of group `o * groups / output.channels`.
    pub groups: usize,
    /// Range of outputs.
    pub clamp: Clamp,
    /// Bias and rescale per output channel.
    pub channels: &'m [ChannelRecord],
    /// Weights.
    pub weights: Weights<'m>,
    /// Working memory in the arena.
    pub scratch: Scratch,
}

/// Depthwise convolution: output channel `c * multiplier + j` sees input channel `c` only.
#[derive(Clone, Copy, Debug)]
pub struct Depthwise<'m> {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written.
    pub output: Tensor,
    /// Window.
    pub window: Window,
    /// Range of outputs.
    pub clamp: Clamp,
    /// Bias and rescale per output channel.
    pub channels: &'m [ChannelRecord],
    /// Weights in the order kernel row, kernel column, output channel.
    pub weights: &'m [i8],
    /// Working memory in the arena.
    pub scratch: Scratch,
    /// Whether it is a [`KernelId::DepthwiseLarge`], which brings windows of up to five by five into
    /// planes.
    pub large: bool,
}

/// Pooling over each channel. Padding takes no part.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written, with the input's scale and zero point.
    pub output: Tensor,
    /// Window.
    pub window: Window,
    /// Range of outputs.
    pub clamp: Clamp,
}

/// Sum of two tensors of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Add {
    /// Tensors read.
    pub inputs: [Tensor; 2],
    /// Tensor written; may share the memory of the first input.
    pub output: Tensor,
    /// Rescale of the inputs, to a common scale.
    pub input_rescale: [Rescale; 2],
    /// Rescale of the sum.
    pub output_rescale: Rescale,
    /// Range of outputs.
    pub clamp: Clamp,
}

/// Softmax over the channels of each position. Outputs have scale 1/256 and zero point -128.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written.
    pub output: Tensor,
    /// Brings an input difference to 5 integer and 26 fractional bits.
    pub rescale: Rescale,
    /// Differences below this vanish.
    pub diff_min: i32,
}

/// A function of one value, tabulated: activations and changes of scale.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'m> {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written; may share the memory of the input.
    pub output: Tensor,
    /// Output for the inputs -128 to 127.
    pub table: &'m [i8; 256],
}

/// Elements of a tensor: the first, and the distance to the next along each of three axes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// First element.
    pub first: usize,
    /// Distances, not zero.
    pub strides: [usize; 3],
}

impl Place {
    /// Checks that all of `counts` elements lie within `len`.
    fn decode(record: &PlaceRecord, counts: &[usize; 3], len: usize) -> Option<Self> {
        let first = record.first.get() as usize;
        let strides = record.strides.map(|stride| stride.get() as usize);
        let last = counts.iter().zip(&strides).try_fold(first, |last, (count, &stride)| {
            last.checked_add(count.checked_sub(1)?.checked_mul(stride)?)
        })?;
        (last < len && !strides.contains(&0)).then_some(Self { first, strides })
    }

    /// First element of a row and column.
    #[inline(always)]
    pub(crate) fn at(&self, row: usize, column: usize) -> usize {
        let row = row.wrapping_mul(self.strides[0]);
        self.first.wrapping_add(row).wrapping_add(column.wrapping_mul(self.strides[1]))
    }
}

/// Copy of a block: padding, concatenation, slices and transposition.
#[derive(Clone, Copy, Debug)]
pub struct BlockCopy {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor of which elements are written.
    pub output: Tensor,
    /// Elements along each of three axes.
    pub counts: [usize; 3],
    /// Where they come from.
    pub source: Place,
    /// Where they go.
    pub destination: Place,
    /// What the whole output becomes first.
    pub fill: Option<i8>,
}

/// Mean over each axis on which the output has one element.
#[derive(Clone, Copy, Debug)]
pub struct Mean {
    /// Tensor read.
    pub input: Tensor,
    /// Tensor written.
    pub output: Tensor,
    /// Rescale of the sum, which divides by the number of elements too.
    pub rescale: Rescale,
    /// Range of outputs.
    pub clamp: Clamp,
}

impl Mean {
    /// Elements that the mean takes together along height, width and channels.
    pub fn spans(&self) -> [usize; 3] {
        let (x, y) = (&self.input, &self.output);
        let span = |input: usize, output: usize| if output == 1 { input } else { 1 };
        [span(x.height, y.height), span(x.width, y.width), span(x.channels, y.channels)]
    }
}

/// What an elementwise operator computes.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// Product.
    Mul(Rescale),
    /// Sum, as [`Add`].
    Add {
        /// Rescale of the inputs, to a common scale.
        inputs: [Rescale; 2],
        /// Rescale of the sum.
        output: Rescale,
    },
}

/// The second operand of an elementwise operator.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'m> {
    /// Height, width and channels: each the output's or 1, along which it repeats.
    pub dimensions: [usize; 3],
    /// The integer that stands for the real value 0.
    pub zero_point: i8,
    /// Where its elements are.
    pub source: OperandSource<'m>,
}

/// Where the second operand of an elementwise operator is.
#[derive(Clone, Copy, Debug)]
pub enum OperandSource<'m> {
    /// In the arena.
    Tensor(Tensor),
    /// In the blob.
    Constant(&'m [i8]),
}

impl<'m> Operand<'m> {
    fn decode(
        record: &OpRecord,
        constants: &OperandRecord,
        context: Context<'m>,
        output: &Tensor,
    ) -> Result<Self, OpProblem> {
        let dimensions = constants.dimensions.map(|dimension| usize::from(dimension.get()));
        let operand = if dimensions == [0; 3] {
            let tensor = context.tensor(record.inputs[1].get())?;
            Self {
                dimensions: [tensor.height, tensor.width, tensor.channels],
                zero_point: tensor.zero_point,
                source: OperandSource::Tensor(tensor),
            }
        } else {
            let constant = context.dense(record, product(&dimensions))?;
            Self {
                dimensions,
                zero_point: constants.zero_point,
                source: OperandSource::Constant(constant),
            }
        };
        let fits = |(&dimension, whole)| dimension == 1 || dimension == whole;
        let whole = [output.height, output.width, output.channels];
        let fit = operand.dimensions.iter().zip(whole).all(fits);
        fit.then_some(operand).ok_or(OpProblem::Shape)
    }
}

/// An operator on each element of a tensor and an element of a second operand.
#[derive(Clone, Copy, Debug)]
pub struct Elementwise<'m> {
    /// First operand.
    pub input: Tensor,
    /// Second operand.
    pub operand: Operand<'m>,
    /// Tensor written; may share the memory of the first operand.
    pub output: Tensor,
    /// What is computed.
    pub function: Function,
    /// Range of outputs.
    pub clamp: Clamp,
}

/// An operator of a checked model.
#[derive(Clone, Copy, Debug)]
pub enum Op<'m> {
    /// Convolution.
    Conv(Conv<'m>),
    /// Linear operator (fully connected).
    Linear(Conv<'m>),
    /// Depthwise convolution.
    Depthwise(Depthwise<'m>),
    /// Largest value of a window.
    MaxPool(Pool),
    /// Mean of a window.
    AvgPool(Pool),
    /// Sum.
    Add(Add),
    /// Softmax.
    Softmax(Softmax),
    /// Tabulated function.
    Lookup(Lookup<'m>),
    /// Copy of a block.
    Copy(BlockCopy),
    /// Mean over whole axes.
    Mean(Mean),
    /// Product or sum with a second operand that may be constant or repeat along an axis.
    Elementwise(Elementwise<'m>),
}

/// What [`Op::decode`] needs to know about the rest of the blob.
#[derive(Clone, Copy)]
pub(super) struct Context<'m> {
    pub(super) bytes: &'m [u8],
    pub(super) tensors: &'m [TensorRecord],
    pub(super) arena_len: usize,
}

impl<'m> Context<'m> {
    fn tensor(&self, index: u16) -> Result<Tensor, OpProblem> {
        self.tensors
            .get(usize::from(index))
            .and_then(|record| Tensor::decode(record, self.arena_len))
            .ok_or(OpProblem::NoSuchTensor)
    }

    fn slice(&self, span: Span) -> Option<&'m [u8]> {
        let start = span.offset.get() as usize;
        if !start.is_multiple_of(ALIGNMENT) {
            return None;
        }
        self.bytes.get(start..start.checked_add(span.len.get() as usize)?)
    }

    fn constants<T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout>(
        &self,
        record: &OpRecord,
    ) -> Result<&'m T, OpProblem> {
        let bytes = self.slice(record.constants).ok_or(OpProblem::Constants)?;
        T::ref_from_bytes(bytes).map_err(|_| OpProblem::Constants)
    }

    fn channels(&self, record: &OpRecord, count: usize) -> Result<&'m [ChannelRecord], OpProblem> {
        let bytes = self.slice(record.constants).ok_or(OpProblem::Constants)?;
        let channels =
            <[ChannelRecord]>::ref_from_bytes(bytes).map_err(|_| OpProblem::Constants)?;
        (channels.len() == count).then_some(channels).ok_or(OpProblem::Constants)
    }

    /// Weights that a kernel reads as words.
    fn words(&self, record: &OpRecord) -> Result<&'m [u32], OpProblem> {
        let bytes = self.slice(record.weights).ok_or(OpProblem::Weights)?;
        <[u32]>::ref_from_bytes(bytes).map_err(|_| OpProblem::Weights)
    }

    fn dense(&self, record: &OpRecord, count: Option<usize>) -> Result<&'m [i8], OpProblem> {
        let bytes = self.slice(record.weights).ok_or(OpProblem::Weights)?;
        let weights = <[i8]>::ref_from_bytes(bytes).map_err(|_| OpProblem::Weights)?;
        (Some(weights.len()) == count).then_some(weights).ok_or(OpProblem::Weights)
    }
}

impl<'m> Op<'m> {
    /// The operator of a record, with every relation checked that its kernel relies on except the
    /// contents of constant streams and where operands lie: those are [`Op::verify_streams`]'s and
    /// [`Op::check_overlap`]'s, which a checked model does not repeat. `KERNELS` holds the kernels that
    /// there may be.
    pub(super) fn decode<const KERNELS: u32>(
        record: &OpRecord,
        context: Context<'m>,
    ) -> Result<Self, OpProblem> {
        let kernel =
            KernelId::from_number(record.kernel).ok_or(OpProblem::UnknownKernel(record.kernel))?;
        let input = context.tensor(record.inputs[0].get())?;
        let output = context.tensor(record.output.get())?;
        let clamp = Clamp { min: record.clamp_min, max: record.clamp_max };
        if clamp.min > clamp.max {
            return Err(OpProblem::Clamp);
        }
        let row = row_buffer(record, kernel, &output, context.arena_len)?;
        let narrowed;
        let record = match row {
            Some(row) => {
                narrowed = without_row(record, row);
                &narrowed
            }
            None => record,
        };
        let window = || window(record, &input, &output).ok_or(OpProblem::Shape);
        Ok(match kernel {
            KernelId::ConvDense
            | KernelId::ConvPacked
            | KernelId::ConvSparse
            | KernelId::ConvBlock2
            | KernelId::ConvBlock4
                if const { has_any(KERNELS, CONVOLUTIONS) } =>
            {
                let window = window()?;
                return conv::<KERNELS>(record, context, kernel, input, output, window, clamp);
            }
            KernelId::LinearDense
            | KernelId::LinearPacked
            | KernelId::LinearSparse
            | KernelId::LinearBlock2
            | KernelId::LinearBlock4
                if const { has_any(KERNELS, LINEAR) } =>
            {
                if output.height != 1 || output.width != 1 {
                    return Err(OpProblem::Shape);
                }
                let window =
                    Window { kernel: [input.height, input.width], stride: [1, 1], pad: [0, 0] };
                return conv::<KERNELS>(record, context, kernel, input, output, window, clamp);
            }
            KernelId::Depthwise | KernelId::DepthwiseLarge if const { has_any(KERNELS, DEPTHWISE) } =>
            {
                let window = window()?;
                if !output.channels.is_multiple_of(input.channels) {
                    return Err(OpProblem::Shape);
                }
                let count = product(&[window.kernel[0], window.kernel[1], output.channels]);
                Self::Depthwise(Depthwise {
                    input,
                    output,
                    window,
                    clamp,
                    channels: context.channels(record, output.channels)?,
                    weights: context.dense(record, count)?,
                    scratch: Scratch::decode(record, context.arena_len)?,
                    large: kernel == KernelId::DepthwiseLarge,
                })
            }
            KernelId::MaxPool | KernelId::AvgPool
                if const { has_any(KERNELS, &[KernelId::MaxPool, KernelId::AvgPool]) } =>
            {
                let pool = Pool { input, output, window: window()?, clamp };
                if input.channels != output.channels {
                    return Err(OpProblem::Shape);
                }
                match kernel {
                    KernelId::MaxPool => Self::MaxPool(pool),
                    _ => Self::AvgPool(pool),
                }
            }
            KernelId::Add if const { has_any(KERNELS, &[KernelId::Add]) } => {
                let second = context.tensor(record.inputs[1].get())?;
                if !input.same_shape(&second) || !input.same_shape(&output) {
                    return Err(OpProblem::Shape);
                }
                let (input_rescale, output_rescale) = add(context.constants(record)?)?;
                Self::Add(Add {
                    inputs: [input, second],
                    output,
                    input_rescale,
                    output_rescale,
                    clamp,
                })
            }
            KernelId::Softmax if const { has_any(KERNELS, &[KernelId::Softmax]) } => {
                if !input.same_shape(&output) {
                    return Err(OpProblem::Shape);
                }
                let constants: &SoftmaxRecord = context.constants(record)?;
                let shift = constants.left_shift.get();
                let rescale = Rescale::new(constants.multiplier.get(), shift)
                    .filter(|_| shift >= 0)
                    .ok_or(OpProblem::Quantisation)?;
                Self::Softmax(Softmax {
                    input,
                    output,
                    rescale,
                    diff_min: constants.diff_min.get(),
                })
            }
            KernelId::Lookup if const { has_any(KERNELS, &[KernelId::Lookup]) } => {
                if input.len() != output.len() {
                    return Err(OpProblem::Shape);
                }
                let table = context.slice(record.constants).ok_or(OpProblem::Constants)?;
                let table = <[i8; 256]>::ref_from_bytes(table).map_err(|_| OpProblem::Constants)?;
                Self::Lookup(Lookup { input, output, table })
            }
            KernelId::Copy if const { has_any(KERNELS, &[KernelId::Copy]) } => {
                let constants: &CopyRecord = context.constants(record)?;
                let counts = constants.counts.map(|count| usize::from(count.get()));
                // Bounds the work too: an element may be written twice, but not for ever.
                if product(&counts).is_none_or(|elements| elements > output.len()) {
                    return Err(OpProblem::Shape);
                }
                let place = |record, tensor: &Tensor| {
                    Place::decode(record, &counts, tensor.len()).ok_or(OpProblem::Shape)
                };
                Self::Copy(BlockCopy {
                    input,
                    output,
                    counts,
                    source: place(&constants.source, &input)?,
                    destination: place(&constants.destination, &output)?,
                    fill: match constants.has_fill {
                        0 => None,
                        1 => Some(constants.fill),
                        _ => return Err(OpProblem::Constants),
                    },
                })
            }
            KernelId::Mean if const { has_any(KERNELS, &[KernelId::Mean]) } => {
                let dimensions = [
                    (input.height, output.height),
                    (input.width, output.width),
                    (input.channels, output.channels),
                ];
                if dimensions.iter().any(|&(input, output)| output != 1 && output != input) {
                    return Err(OpProblem::Shape);
                }
                let constants: &MeanRecord = context.constants(record)?;
                let rescale = Rescale::new(constants.multiplier.get(), constants.shift.get())
                    .ok_or(OpProblem::Quantisation)?;
                Self::Mean(Mean { input, output, rescale, clamp })
            }
            KernelId::Mul | KernelId::AddBroadcast
                if const { has_any(KERNELS, &[KernelId::Mul, KernelId::AddBroadcast]) } =>
            {
                if !input.same_shape(&output) {
                    return Err(OpProblem::Shape);
                }
                let (operand, function) = if kernel == KernelId::Mul {
                    let constants: &MulRecord = context.constants(record)?;
                    let rescale = Rescale::new(constants.multiplier.get(), constants.shift.get())
                        .ok_or(OpProblem::Quantisation)?;
                    (&constants.operand, Function::Mul(rescale))
                } else {
                    let constants: &AddBroadcastRecord = context.constants(record)?;
                    let (inputs, output) = add(&constants.add)?;
                    (&constants.operand, Function::Add { inputs, output })
                };
                let operand = Operand::decode(record, operand, context, &output)?;
                Self::Elementwise(Elementwise { input, operand, output, function, clamp })
            }
            _ => return Err(OpProblem::UndeclaredKernel(record.kernel)),
        })
    }

    /// Walks constant streams whose contents kernels follow as positions, and checks rescales.
    pub(super) fn verify_streams<const KERNELS: u32>(&self) -> Result<(), OpProblem> {
        let channels = match self {
            Self::Conv(op) | Self::Linear(op) => {
                let verified = match op.weights {
                    Weights::Sparse(stream) if const { has_any(KERNELS, SPARSE_CONVOLUTIONS) } => {
                        Some(stream.verify())
                    }
                    Weights::SparseLinear(stream) if const { has_any(KERNELS, SPARSE_LINEAR) } => {
                        Some(stream.verify())
                    }
                    _ => None,
                };
                if let Some(verified) = verified {
                    verified.ok_or(OpProblem::Sparse)?;
                    let small = |c: &ChannelRecord| c.bias.get().unsigned_abs() < MAX_BIAS;
                    let shifts = |c: &ChannelRecord| {
                        matches!(self, Self::Conv(_)) || LINEAR_SHIFTS.contains(&c.shift())
                    };
                    let fit = op.channels.iter().all(|c| small(c) && shifts(c));
                    fit.then_some(()).ok_or(OpProblem::Quantisation)?;
                }
                op.channels
            }
            Self::Depthwise(op) => op.channels,
            _ => &[],
        };
        let sound = |c: &ChannelRecord| Rescale::new(c.multiplier.get(), c.shift()).is_some();
        channels.iter().all(sound).then_some(()).ok_or(OpProblem::Quantisation)
    }

    /// Tensors read.
    pub fn inputs(&self) -> [Option<Tensor>; 2] {
        match self {
            Self::Conv(op) | Self::Linear(op) => [Some(op.input), None],
            Self::Depthwise(op) => [Some(op.input), None],
            Self::MaxPool(op) | Self::AvgPool(op) => [Some(op.input), None],
            Self::Add(op) => [Some(op.inputs[0]), Some(op.inputs[1])],
            Self::Softmax(op) => [Some(op.input), None],
            Self::Lookup(op) => [Some(op.input), None],
            Self::Copy(op) => [Some(op.input), None],
            Self::Mean(op) => [Some(op.input), None],
            Self::Elementwise(op) => match op.operand.source {
                OperandSource::Tensor(second) => [Some(op.input), Some(second)],
                OperandSource::Constant(_) => [Some(op.input), None],
            },
        }
    }

    /// Tensor written.
    pub fn output(&self) -> Tensor {
        match self {
            Self::Conv(op) | Self::Linear(op) => op.output,
            Self::Depthwise(op) => op.output,
            Self::MaxPool(op) | Self::AvgPool(op) => op.output,
            Self::Add(op) => op.output,
            Self::Softmax(op) => op.output,
            Self::Lookup(op) => op.output,
            Self::Copy(op) => op.output,
            Self::Mean(op) => op.output,
            Self::Elementwise(op) => op.output,
        }
    }

    /// Working memory.
    pub fn scratch(&self) -> Scratch {
        match self {
            Self::Conv(op) | Self::Linear(op) => op.scratch,
            Self::Depthwise(op) => op.scratch,
            _ => Scratch::default(),
        }
    }

    /// Whether what the operator reads, writes and works in lies apart where its kernel needs it to. `row` is
    /// the row that execution row by row works in.
    pub(super) fn check_overlap<const KERNELS: u32>(
        &self,
        row: Option<Scratch>,
    ) -> Result<(), OpProblem> {
        let output = self.output().range();
        let scratch = self.scratch().range();
        let [first, second] = self.inputs();
        // Where else than apart from the output and from the scratch the first input may be.
        let first_is_sound = first.is_none_or(|tensor| {
            let input = tensor.range();
            let (in_output, in_scratch) = match self {
                Self::Conv(conv) if row.is_some() => (rows_make_way(conv), false),
                Self::Add(_) | Self::Lookup(_) | Self::Elementwise(_) => (input == output, false),
                Self::Conv(Conv {
                    input: x,
                    output: y,
                    window,
                    weights: Weights::Packed(_) | Weights::Sparse(_),
                    ..
                }) => {
                    let served = kernels::conv_in_place(x, y, window);
                    (served && x.offset == y.offset && y.len() <= x.len(), false)
                }
                Self::Linear(Conv { weights: Weights::Packed(_), .. }) => {
                    let end = input.end == scratch.end && scratch.len().is_multiple_of(ALIGNMENT);
                    (false, end && scratch.start <= input.start)
                }
                Self::Depthwise(Depthwise {
                    input: x, output: y, window, scratch, large, ..
                }) if const { has_any(KERNELS, DEPTHWISE) } => {
                    let needed = kernels::depthwise::in_place_scratch_len(x, y, window, *large);
                    let served = needed.is_some_and(|needed| scratch.len >= needed);
                    (served && input == output, false)
                }
                _ => (false, false),
            };
            (disjoint(&input, &output) || in_output) && (disjoint(&input, &scratch) || in_scratch)
        });
        let second_is_sound = second.is_none_or(|tensor| disjoint(&tensor.range(), &output));
        let row = row.map_or(0..0, |row| row.range());
        let row_is_sound =
            disjoint(&row, &output) && first.is_none_or(|tensor| disjoint(&row, &tensor.range()));
        let sound =
            first_is_sound && second_is_sound && disjoint(&scratch, &output) && row_is_sound;
        sound.then_some(()).ok_or(OpProblem::Overlap)
    }
}

impl Conv<'_> {
    /// The part of the convolution that computes one row of its output from the input rows under it.
    pub fn row(&self, index: usize) -> Self {
        let [pad, left] = self.window.pad;
        let start = index.wrapping_mul(self.window.stride[0]);
        let first = start.saturating_sub(pad);
        let end = start.wrapping_add(self.window.kernel[0]).saturating_sub(pad);
        let end = end.min(self.input.height);
        let row_len = self.input.width.wrapping_mul(self.input.channels);
        Self {
            input: Tensor {
                offset: self.input.offset.wrapping_add(first.wrapping_mul(row_len)),
                height: end.saturating_sub(first),
                ..self.input
            },
            output: Tensor { height: 1, ..self.output },
            window: Window { pad: [pad.saturating_sub(start), left], ..self.window },
            ..*self
        }
    }

    /// Weights that one output channel has when dense: kernel area times input channels of a group.
    pub fn weights_per_channel(&self) -> usize {
        let area = self.window.kernel[0].wrapping_mul(self.window.kernel[1]);
        area.wrapping_mul(self.input.channels.checked_div(self.groups).unwrap_or(0))
    }
}

/// Rescales of the inputs and of the output of a sum.
fn add(constants: &AddRecord) -> Result<([Rescale; 2], Rescale), OpProblem> {
    let rescale = |multiplier: i32, shift: i32| {
        Rescale::new(multiplier, shift).filter(|_| shift <= 0).ok_or(OpProblem::Quantisation)
    };
    let inputs = constants.input_multipliers.iter().zip(&constants.input_shifts);
    let mut input_rescale = [Rescale::ZERO; 2];
    for (slot, (multiplier, shift)) in input_rescale.iter_mut().zip(inputs) {
        *slot = rescale(multiplier.get(), shift.get())?;
    }
    let output = rescale(constants.output_multiplier.get(), constants.output_shift.get())?;
    Ok((input_rescale, output))
}

/// Working memory for one row of the output, in front of the kernel's own, when a record asks for
/// execution row by row.
pub(super) fn row_buffer(
    record: &OpRecord,
    kernel: KernelId,
    output: &Tensor,
    arena_len: usize,
) -> Result<Option<Scratch>, OpProblem> {
    match (record.by_rows, kernel) {
        (0, _) => Ok(None),
        (1, KernelId::ConvDense | KernelId::ConvPacked) => {
            let scratch = Scratch::decode(record, arena_len)?;
            let len = output.width.wrapping_mul(output.channels);
            let fits = len <= scratch.len;
            fits.then_some(Some(Scratch { len, ..scratch })).ok_or(OpProblem::Scratch)
        }
        _ => Err(OpProblem::Rows),
    }
}

/// The record with the working memory that a row leaves for the kernel.
fn without_row(record: &OpRecord, row: Scratch) -> OpRecord {
    let used = row.len.next_multiple_of(ALIGNMENT);
    let rest = (record.scratch.len.get() as usize).saturating_sub(used);
    let start = if rest == 0 { 0 } else { row.offset.wrapping_add(used) };
    OpRecord { scratch: Span::new(start as u32, rest as u32), ..*record }
}

/// Whether each row of the output ends before the first input row that later rows need.
fn rows_make_way(conv: &Conv<'_>) -> bool {
    let Conv { input, output, window, .. } = conv;
    let input_row = input.width.wrapping_mul(input.channels);
    let output_row = output.width.wrapping_mul(output.channels);
    // No overflow: both ends lie in their tensors, and those in the arena.
    (1..output.height).all(|rows| {
        let needed = rows.wrapping_mul(window.stride[0]).saturating_sub(window.pad[0]);
        let needed = input.offset.wrapping_add(needed.wrapping_mul(input_row));
        output.offset.wrapping_add(rows.wrapping_mul(output_row)) <= needed
    })
}

/// A convolution or linear operator.
fn conv<'m, const KERNELS: u32>(
    record: &OpRecord,
    context: Context<'m>,
    kernel: KernelId,
    input: Tensor,
    output: Tensor,
    window: Window,
    clamp: Clamp,
) -> Result<Op<'m>, OpProblem> {
    let groups = usize::from(record.groups.get());
    if groups == 0
        || !input.channels.is_multiple_of(groups)
        || !output.channels.is_multiple_of(groups)
    {
        return Err(OpProblem::Shape);
    }
    let per_channel = product(&[window.kernel[0], window.kernel[1], input.channels / groups]);
    let scratch = Scratch::decode(record, context.arena_len)?;
    let block = match kernel {
        KernelId::ConvSparse | KernelId::LinearSparse => Some(Block::One),
        KernelId::ConvBlock2 | KernelId::LinearBlock2 => Some(Block::Two),
        KernelId::ConvBlock4 | KernelId::LinearBlock4 => Some(Block::Four),
        _ => None,
    };
    let linear = kernel.is_linear();
    let channels = context.channels(record, output.channels)?;
    let (weights, needed) = match block {
        None if matches!(kernel, KernelId::ConvPacked | KernelId::LinearPacked) => {
            let words = context.words(record)?;
            let len = per_channel.and_then(|n| kernels::packed::packed_len(output.channels, n));
            if groups != 1 || len != Some(words.len()) {
                return Err(OpProblem::Weights);
            }
            let per_channel = per_channel.unwrap_or(0);
            let needed = match kernel {
                KernelId::ConvPacked => {
                    kernels::packed::conv_scratch_len(input.channels, per_channel)
                }
                _ => kernels::packed::linear_scratch_len(per_channel),
            };
            (Weights::Packed(words), needed)
        }
        None => {
            let count = per_channel.and_then(|n| n.checked_mul(output.channels));
            (Weights::Dense(context.dense(record, count)?), 0)
        }
        Some(block) => {
            let bytes = context.slice(record.weights).ok_or(OpProblem::Weights)?;
            if linear && const { has_any(KERNELS, SPARSE_LINEAR) } {
                if groups != 1 {
                    return Err(OpProblem::Sparse);
                }
                let stream = LinearStream::unverified(bytes, channels, input.len(), block);
                (Weights::SparseLinear(stream), stream.scratch_len())
            } else if !linear && const { has_any(KERNELS, SPARSE_CONVOLUTIONS) } {
                let stream = ConvStream::parse(bytes, channels, &input, &output, &window, block)
                    .ok_or(OpProblem::Sparse)?;
                (Weights::Sparse(stream), stream.geometry().scratch_len())
            } else {
                return Err(OpProblem::UndeclaredKernel(record.kernel));
            }
        }
    };
    if scratch.len < needed {
        return Err(OpProblem::Scratch);
    }
    per_channel.filter(|&n| u32::try_from(n).is_ok()).ok_or(OpProblem::Shape)?;
    let conv = Conv { input, output, window, groups, clamp, channels, weights, scratch };
    Ok(if linear { Op::Linear(conv) } else { Op::Conv(conv) })
}

/// The window, when every output position has at least one input element under it.
fn window(record: &OpRecord, input: &Tensor, output: &Tensor) -> Option<Window> {
    let w = &record.window;
    let window = Window {
        kernel: [w.kernel_h.into(), w.kernel_w.into()],
        stride: [w.stride_h.into(), w.stride_w.into()],
        pad: [w.pad_top.into(), w.pad_left.into()],
    };
    for (axis, (input, output)) in
        [(input.height, output.height), (input.width, output.width)].into_iter().enumerate()
    {
        let (kernel, stride, pad) = (window.kernel[axis], window.stride[axis], window.pad[axis]);
        // All terms are below 2^16 and strides below 2^8: no overflow even on 32-bit targets.
        let last = (output - 1) * stride;
        if kernel == 0 || stride == 0 || pad >= kernel || last >= input + pad {
            return None;
        }
    }
    Some(window)
}

fn product(factors: &[usize]) -> Option<usize> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor))
}

fn disjoint(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.end <= b.start || b.end <= a.start
}
