//! The bytes of a `.niwaki` blob: the only contract between the host that writes models and the
//! device that runs them. Prose in `docs/format.md`.
//!
//! All integers are little-endian and every structure has alignment 1, so that a blob can be viewed
//! in place wherever it lies; the blob itself starts at a multiple of [`ALIGNMENT`] and so does
//! every constant stream in it, because kernels written in assembly load words.

use zerocopy::little_endian::{F32, I16, I32, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes of every blob. The last two expose transfers that rewrite line ends.
pub const MAGIC: [u8; 8] = *b"NIWAKI\r\n";
/// Version of this layout. A reader accepts exactly its own version.
pub const VERSION: u16 = 2;
/// Alignment in bytes of the blob in memory and of each span of constants within it.
pub const ALIGNMENT: usize = 4;
/// Offset of the first byte that the checksum covers: everything behind the checksum field.
pub const CHECKSUM_START: usize = 20;
/// The checksum: CRC-32 as in ISO 3309 and zip.
pub const CHECKSUM: crc::Algorithm<u32> = crc::CRC_32_ISO_HDLC;

/// A range of bytes, relative to the start of the blob (constants) or of the arena (scratch).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Span {
    /// First byte.
    pub offset: U32,
    /// Length in bytes.
    pub len: U32,
}

impl Span {
    /// The span of `len` bytes at `offset`.
    pub const fn new(offset: u32, len: u32) -> Self {
        Self { offset: U32::new(offset), len: U32::new(len) }
    }
}

/// Sections that a blob need not have: behind the header follow the spans of [`OptionalSections`], as
/// many as the header's length has room for. A section behind the last span, or of length 0, is not
/// there.
pub const OPTIONAL_SECTIONS: usize = size_of::<OptionalSections>() / size_of::<Span>();

/// The spans behind the header, in order.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionalSections {
    /// One [`FrontEndRecord`]: how sound becomes the model's input.
    pub front_end: Span,
}

/// The first bytes of a blob.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U16,
    /// Size of this header and the spans of [`OptionalSections`] behind it in bytes.
    pub header_len: U16,
    /// Size of the whole blob in bytes.
    pub total_len: U32,
    /// [`CHECKSUM`] over `[CHECKSUM_START..total_len]`.
    pub checksum: U32,
    /// First bytes of the SHA-256 of everything behind this field: names the model in messages.
    pub model_id: [u8; 8],
    /// Bytes of arena that a session needs.
    pub arena_len: U32,
    /// Bit `k` is set when some operator uses the kernel with number `k`.
    pub kernels: U32,
    /// Tensor that the caller fills.
    pub input: U16,
    /// Tensor that the caller reads.
    pub output: U16,
    /// Number of class labels in `strings`.
    pub label_count: U16,
    /// Number of weighted operators (convolution, linear, depthwise), the last in the order of
    /// execution, whose weights may be tuned on the device; 0 where none may.
    pub tunable: U16,
    /// Array of [`TensorRecord`].
    pub tensors: Span,
    /// Array of [`OpRecord`] in the order of execution.
    pub ops: Span,
    /// Strings, each a `u16` length and that many bytes of UTF-8: the model's name, the labels, the
    /// name of each operator's layer, the core that the kernels were chosen for. May end early.
    pub strings: Span,
    /// Array of [`NormalisationRecord`]: none, one for all elements, one per channel, one per column
    /// and channel, or one per element of the input tensor.
    pub normalisation: Span,
}

/// A tensor of int8 values in the arena, in the order height, width, channel.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TensorRecord {
    /// First byte in the arena.
    pub offset: U32,
    /// Height; 1 where the tensor is a vector.
    pub height: U16,
    /// Width; 1 where the tensor is a vector.
    pub width: U16,
    /// Channels.
    pub channels: U16,
    /// Zero.
    pub reserved: u8,
    /// The integer that stands for the real value 0.
    pub zero_point: i8,
    /// Real value of one integer step. Informative: inference does not use it.
    pub scale: F32,
}

/// One operator.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OpRecord {
    /// Number of the kernel: [`KernelId`](crate::kernels::KernelId).
    pub kernel: u8,
    /// 1 when the operator computes one row of its output after the other in the first bytes of its
    /// working memory, because the output takes the place of input rows that are used up; else 0.
    pub by_rows: u8,
    /// Smallest output value: a fused activation.
    pub clamp_min: i8,
    /// Largest output value: a fused activation.
    pub clamp_max: i8,
    /// Tensors read; the second repeats the first where there is only one.
    pub inputs: [U16; 2],
    /// Tensor written.
    pub output: U16,
    /// Groups of a convolution.
    pub groups: U16,
    /// Window of a convolution or pooling.
    pub window: WindowRecord,
    /// Working memory in the arena.
    pub scratch: Span,
    /// Constants other than weights, in the blob: see each kernel.
    pub constants: Span,
    /// Weights in the blob, in the order in which the kernel streams them.
    pub weights: Span,
}

/// Window of a convolution or pooling. Padding behind the last row and column follows from the
/// shapes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WindowRecord {
    /// Kernel height.
    pub kernel_h: u8,
    /// Kernel width.
    pub kernel_w: u8,
    /// Vertical step.
    pub stride_h: u8,
    /// Horizontal step.
    pub stride_w: u8,
    /// Rows of padding above the input.
    pub pad_top: u8,
    /// Columns of padding left of the input.
    pub pad_left: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Bias and rescale of one output channel of a weighted operator.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChannelRecord {
    /// Bias minus the input's zero point times the sum of the channel's weights, so that kernels
    /// multiply stored inputs as they are and pad with the zero point.
    pub bias: I32,
    /// Fixed-point multiplier with 31 fractional bits.
    pub multiplier: I32,
    /// By how many bits the product is shifted right on top, less one: what kernels shift by, as they
    /// compute doubled. Negative where it is not shifted, or shifted left.
    pub right_less_one: I16,
    /// Of how many entries the channel's part of a stream of nonzero weights is: see
    /// [`sparse`](crate::kernels::sparse). Zero with other weights.
    pub count: U16,
}

impl ChannelRecord {
    /// The record of a channel whose product is shifted by `shift`, left where positive, right where
    /// negative, with a `count` of entries.
    pub fn new(bias: i32, multiplier: i32, shift: i32, count: u16) -> Self {
        Self {
            bias: bias.into(),
            multiplier: multiplier.into(),
            right_less_one: ((!shift).clamp(i16::MIN.into(), i16::MAX.into()) as i16).into(),
            count: count.into(),
        }
    }

    /// Power of two applied on top of the multiplier: left where positive, right where negative.
    pub fn shift(&self) -> i32 {
        !i32::from(self.right_less_one.get())
    }

    /// How many entries the channel has in a stream of nonzero weights.
    pub fn count(&self) -> usize {
        self.count.get().into()
    }
}

/// Constants of an addition, as in TFLite: both inputs are brought to a common scale with 20
/// spare bits, added, and brought to the output's scale.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AddRecord {
    /// Multipliers of the two inputs.
    pub input_multipliers: [I32; 2],
    /// Shifts of the two inputs, zero or negative.
    pub input_shifts: [I32; 2],
    /// Multiplier of the sum.
    pub output_multiplier: I32,
    /// Shift of the sum, zero or negative.
    pub output_shift: I32,
}

/// Constants of a softmax, as in TFLite.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SoftmaxRecord {
    /// Multiplier that brings an input difference to 5 integer and 26 fractional bits.
    pub multiplier: I32,
    /// Left shift that goes with it.
    pub left_shift: I32,
    /// Differences from the largest input below this are zero in the output.
    pub diff_min: I32,
}

/// Constants of a copy: for each index below `counts`, the element of the input at `source` goes to
/// the element of the output at `destination`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CopyRecord {
    /// Elements along each of three axes.
    pub counts: [U16; 3],
    /// Whether the whole output becomes `fill` first: 0 or 1.
    pub has_fill: u8,
    /// Value of the elements of the output that no other element is copied to.
    pub fill: i8,
    /// Where the elements come from.
    pub source: PlaceRecord,
    /// Where they go.
    pub destination: PlaceRecord,
}

/// Elements of a tensor: the first, and the distance to the next along each of three axes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PlaceRecord {
    /// First element.
    pub first: U32,
    /// Distances, not zero.
    pub strides: [U32; 3],
}

/// Constants of a mean: rescale of the sum.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MeanRecord {
    /// Multiplier with 31 fractional bits, which divides by the number of elements too.
    pub multiplier: I32,
    /// Power of two applied on top: left where positive, right where negative.
    pub shift: I32,
}

/// The second operand of an elementwise operator.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OperandRecord {
    /// Height, width and channels of a constant, which stands in the operator's weights; zeros where
    /// the second operand is a tensor.
    pub dimensions: [U16; 3],
    /// The constant's integer that stands for the real value 0.
    pub zero_point: i8,
    /// Zero.
    pub reserved: u8,
}

/// Constants of a product.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MulRecord {
    /// Second factor.
    pub operand: OperandRecord,
    /// Multiplier of the product, with 31 fractional bits.
    pub multiplier: I32,
    /// Shift, as in [`MeanRecord`].
    pub shift: I32,
}

/// Constants of a sum with a repeated or constant summand.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AddBroadcastRecord {
    /// Second summand.
    pub operand: OperandRecord,
    /// Rescales.
    pub add: AddRecord,
}

/// Brings a raw feature to the input's integers: `round(scale * x + offset)`, clamped to int8.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NormalisationRecord {
    /// Integer steps per unit of the raw feature.
    pub scale: F32,
    /// Integer that the raw value 0 becomes.
    pub offset: F32,
}

/// How sound becomes the model's input; see [`FrontEnd`](super::FrontEnd).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrontEndRecord {
    /// 0 for log-mel spectra, 1 for cepstral coefficients.
    pub kind: U16,
    /// Cepstral coefficients; 0 for log-mel spectra.
    pub coefficients: U16,
    /// Samples per second.
    pub sample_rate: U32,
    /// Samples of a clip.
    pub samples: U32,
    /// Samples of a window.
    pub window: U16,
    /// Samples from the start of a window to the start of the next.
    pub hop: U16,
    /// Length of the Fourier transform.
    pub fft: U16,
    /// Mel bands.
    pub mel_bins: U16,
    /// Lower edge of the lowest band in Hz.
    pub low_hz: U16,
    /// Upper edge of the highest band in Hz.
    pub high_hz: U16,
}
