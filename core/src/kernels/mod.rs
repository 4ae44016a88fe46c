//! How each operator is computed: pure functions on slices.
//!
//! These are the portable kernels, in safe Rust. They reach elements with `get` and iterators only:
//! for a checked model no access fails, and where an index were wrong in spite of that, a kernel
//! would compute with a zero instead of panicking. The arithmetic is that of TFLite Micro's
//! reference kernels, which round twice when they rescale.

mod add;
#[cfg(any(niwaki_dsp, test))]
mod add_dsp;
mod conv;
mod conv_sparse;
#[cfg(any(niwaki_dsp, test))]
mod conv_sparse_dsp;
mod copy;
pub mod depthwise;
#[cfg(any(niwaki_dsp, test))]
mod depthwise_asm;
#[cfg(any(niwaki_dsp, test))]
mod depthwise_dsp;
#[cfg(any(niwaki_dsp, test))]
mod dsp;
mod elementwise;
pub mod fixed;
mod linear_sparse;
#[cfg(any(niwaki_dsp, test))]
mod linear_sparse_dsp;
mod lookup;
mod mean;
#[cfg(any(test, feature = "pack"))]
pub mod pack_sparse;
pub mod packed;
#[cfg(any(niwaki_dsp, test))]
mod packed_asm;
#[cfg(any(niwaki_dsp, test))]
mod packed_dsp;
mod pool;
#[cfg(any(niwaki_dsp, test))]
mod pool_dsp;
#[cfg(any(niwaki_dsp, test))]
mod requantise;
mod rescale;
mod softmax;
pub mod sparse;

pub use add::add;
pub use conv::{conv, conv_in_place};
pub use conv_sparse::conv_sparse;
pub use copy::copy;
pub use depthwise::depthwise;
pub use elementwise::elementwise;
pub use linear_sparse::linear_sparse;
pub use lookup::lookup;
pub use mean::mean;
pub use pool::{avg_pool, max_pool};
pub use rescale::Rescale;
pub use softmax::softmax;

macro_rules! kernel_ids {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// A kernel, as operator records number them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u8)]
        pub enum KernelId {
            $($(#[$doc])* $name = $number,)*
        }

        impl KernelId {
            /// Every kernel.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The kernel with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        /// The set of all kernels: bit `k` stands for the kernel with number `k`.
        pub const ALL_KERNELS: u32 = 0 $(| 1 << $number)*;
    };
}

kernel_ids! {
    /// Convolution, every weight.
    ConvDense = 0, "conv dense";
    /// Convolution over the nonzero weights, each for itself.
    ConvSparse = 1, "conv sparse";
    /// Linear operator, every weight.
    LinearDense = 2, "linear dense";
    /// Linear operator over the nonzero weights, each for itself.
    LinearSparse = 3, "linear sparse";
    /// Depthwise convolution.
    Depthwise = 4, "depthwise";
    /// Largest value of a window.
    MaxPool = 5, "max pool";
    /// Mean of a window.
    AvgPool = 6, "average pool";
    /// Sum of two tensors.
    Add = 7, "add";
    /// Softmax.
    Softmax = 8, "softmax";
    /// Tabulated function of one value.
    Lookup = 9, "lookup";
    /// Convolution over blocks of two input channels.
    ConvBlock2 = 10, "conv block 1x2";
    /// Convolution over blocks of four input channels.
    ConvBlock4 = 11, "conv block 1x4";
    /// Linear operator over blocks of two inputs.
    LinearBlock2 = 12, "linear block 1x2";
    /// Linear operator over blocks of four inputs.
    LinearBlock4 = 13, "linear block 1x4";
    /// Convolution, every weight, packed for dual multiplies.
    ConvPacked = 16, "conv packed";
    /// Linear operator, every weight, packed for dual multiplies.
    LinearPacked = 17, "linear packed";
    /// Copy of a block.
    Copy = 18, "copy";
    /// Mean over whole axes.
    Mean = 19, "mean";
    /// Product, of a tensor or a constant.
    Mul = 20, "multiply";
    /// Sum with a constant or with a tensor that repeats along an axis.
    AddBroadcast = 21, "add broadcast";
    /// Depthwise convolution with a window of four or five rows or columns.
    DepthwiseLarge = 22, "depthwise large";
}

impl KernelId {
    /// Whether it computes a convolution, a linear operator or a depthwise convolution.
    pub const fn is_weighted(self) -> bool {
        use KernelId::*;
        matches!(
            self,
            ConvDense
                | ConvSparse
                | ConvBlock2
                | ConvBlock4
                | ConvPacked
                | LinearDense
                | LinearSparse
                | LinearBlock2
                | LinearBlock4
                | LinearPacked
                | Depthwise
                | DepthwiseLarge
        )
    }

    /// Whether it computes a linear operator (fully connected).
    pub const fn is_linear(self) -> bool {
        use KernelId::*;
        matches!(self, LinearDense | LinearPacked | LinearSparse | LinearBlock2 | LinearBlock4)
    }

    /// Whether it skips weights that are zero.
    pub const fn is_sparse(self) -> bool {
        use KernelId::*;
        matches!(
            self,
            ConvSparse | ConvBlock2 | ConvBlock4 | LinearSparse | LinearBlock2 | LinearBlock4
        )
    }

    /// The bit that stands for the kernel in a set of kernels.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Kernels of depthwise convolutions.
pub(crate) const DEPTHWISE: &[KernelId] = &[KernelId::Depthwise, KernelId::DepthwiseLarge];

/// Whether a set of kernels holds one of these. As a constant condition it lets the compiler drop what
/// the kernels left out of a set need.
pub(crate) const fn has_any(set: u32, kernels: &[KernelId]) -> bool {
    let mut index = 0;
    while index < kernels.len() {
        if set & kernels[index].bit() != 0 {
            return true;
        }
        index += 1;
    }
    false
}

/// Element `index`, or 0 outside.
#[inline(always)]
fn at(slice: &[i8], index: usize) -> i8 {
    slice.get(index).copied().unwrap_or(0)
}

/// Writes element `index`, if it exists.
#[inline(always)]
fn put(slice: &mut [i8], index: usize, value: i8) {
    if let Some(slot) = slice.get_mut(index) {
        *slot = value;
    }
}

/// The elements `start..start + len`, or none.
#[inline(always)]
fn part<T>(slice: &[T], start: usize, len: usize) -> &[T] {
    slice.get(start..start.wrapping_add(len)).unwrap_or(&[])
}

/// The part of a kernel's axis that lies over the input: kernel indices `first..end`, of which the
/// first lies over input index `origin`.
#[derive(Clone, Copy)]
struct Taps {
    first: usize,
    end: usize,
    origin: usize,
}

impl Taps {
    /// For output index `out` on an axis of `size` input elements.
    #[inline(always)]
    fn new(out: usize, stride: usize, pad: usize, kernel: usize, size: usize) -> Self {
        let start = out.wrapping_mul(stride);
        let first = pad.saturating_sub(start);
        let end = size.wrapping_add(pad).saturating_sub(start).min(kernel);
        Self { first, end, origin: start.wrapping_add(first).wrapping_sub(pad) }
    }

    /// The input index under kernel index `tap`, when there is one.
    #[inline(always)]
    fn input(&self, tap: usize) -> Option<usize> {
        (self.first <= tap && tap < self.end)
            .then(|| self.origin.wrapping_add(tap).wrapping_sub(self.first))
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod dsp_tests;
#[cfg(test)]
mod sparse_tests;
#[cfg(test)]
mod tests;
