//! How each operator is computed: pure functions on slices.
//!
//! These are the portable kernels, in safe Rust. They reach elements with `get` and iterators only:
//! for a checked model no access fails, and where an index were wrong in spite of that, a kernel
//! would compute with a zero instead of panicking. The arithmetic is that of TFLite Micro's
//! reference kernels, which round twice when they rescale.

mod add;
mod conv;
mod copy;
mod depthwise;
mod elementwise;
pub mod fixed;
mod lookup;
mod mean;
mod pool;
mod rescale;
mod softmax;
pub mod sparse;

pub use add::add;
pub use conv::conv;
pub use copy::copy;
pub use depthwise::depthwise;
pub use elementwise::elementwise;
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
    /// Convolution over the nonzero weights.
    ConvSparse = 1, "conv sparse";
    /// Linear operator, every weight.
    LinearDense = 2, "linear dense";
    /// Linear operator over the nonzero weights.
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
    /// Copy of a block.
    Copy = 10, "copy";
    /// Mean over whole axes.
    Mean = 11, "mean";
    /// Product, of a tensor or a constant.
    Mul = 12, "multiply";
    /// Sum with a constant or with a tensor that repeats along an axis.
    AddBroadcast = 13, "add broadcast";
}

impl KernelId {
    /// The bit that stands for the kernel in a set of kernels.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
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
mod tests;
