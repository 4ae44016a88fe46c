use core::fmt;

use super::FrontEndProblem;
use crate::kernels::{ALL_KERNELS, KernelId};

/// Why a byte string is not a model that this build can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ModelError {
    /// The bytes end before the header does.
    TooShort {
        /// Size of the header in bytes.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The bytes do not begin with [`MAGIC`](super::layout::MAGIC).
    NotAModel,
    /// The blob was written for another version of the layout.
    Version {
        /// The version that this build reads.
        expected: u16,
        /// The version in the blob.
        found: u16,
    },
    /// The blob is not as long as its header says: cut short, or with bytes behind it.
    Length {
        /// Length in the header.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The checksum does not match: some byte was damaged.
    Checksum {
        /// Checksum in the header.
        expected: u32,
        /// Checksum of the bytes.
        found: u32,
    },
    /// The blob does not begin at a multiple of [`ALIGNMENT`](super::layout::ALIGNMENT).
    Misaligned,
    /// The model needs kernels that this program leaves out, or that this version does not know. Bits as
    /// in [`Model::kernels`](super::Model::kernels).
    MissingKernels(u32),
    /// A section of the blob lies outside of it, overlaps a field or has a wrong size.
    Section(Section),
    /// The parameters of the sound features are impossible.
    FrontEnd(FrontEndProblem),
    /// A tensor has no elements or leaves the arena.
    Tensor {
        /// Number of the tensor.
        tensor: u16,
    },
    /// More operators are marked as tunable than have weights.
    Tunable {
        /// Operators marked.
        marked: usize,
        /// Operators with weights.
        weighted: usize,
    },
    /// An operator is impossible.
    Op {
        /// Number of the operator in order of execution.
        op: u16,
        /// What is wrong with it.
        problem: OpProblem,
    },
}

/// A part of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Section {
    /// The header itself.
    Header,
    /// The table of tensors.
    Tensors,
    /// The table of operators.
    Ops,
    /// Names and labels.
    Strings,
    /// Input normalisation.
    Normalisation,
    /// Parameters of the sound features.
    FrontEnd,
}

/// What makes an operator impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OpProblem {
    /// There is no kernel with this number.
    UnknownKernel(u8),
    /// The kernel exists but is not in the header's set of kernels.
    UndeclaredKernel(u8),
    /// It names a tensor that is not there.
    NoSuchTensor,
    /// The shapes of its tensors, window and groups do not fit together.
    Shape,
    /// Its constants lie outside the blob, are misaligned or have a wrong size.
    Constants,
    /// Its weights lie outside the blob, are misaligned or have a wrong size.
    Weights,
    /// A sparse stream ends early, ends late or names a position outside the kernel.
    Sparse,
    /// A shift or multiplier is out of the range that the arithmetic is defined for.
    Quantisation,
    /// Its working memory is too small or leaves the arena.
    Scratch,
    /// Memory that it writes overlaps memory that it reads.
    Overlap,
    /// It cannot be executed row by row as its record asks.
    Rows,
    /// The smallest output value is above the largest.
    Clamp,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { expected, found } => {
                write!(
                    f,
                    "too short for a model: expected at least {expected} bytes, found {found}"
                )
            }
            Self::NotAModel => f.write_str("not a .niwaki model: the first eight bytes differ"),
            Self::Version { expected, found } => write!(
                f,
                "written for layout version {found}, this build reads version {expected}: export the model again"
            ),
            Self::Length { expected, found } => {
                write!(
                    f,
                    "expected {expected} bytes as the header says, found {found}: incomplete or with bytes behind it"
                )
            }
            Self::Checksum { expected, found } => {
                write!(f, "damaged: expected checksum {expected:08x}, found {found:08x}")
            }
            Self::Misaligned => write!(
                f,
                "must begin at a multiple of {} bytes in memory: wrap it in AlignedBytes",
                super::layout::ALIGNMENT
            ),
            Self::MissingKernels(kernels) => {
                f.write_str("needs kernels that are left out:")?;
                for kernel in KernelId::ALL.iter().filter(|kernel| kernels & kernel.bit() != 0) {
                    write!(f, " {};", kernel.name())?;
                }
                match kernels & !ALL_KERNELS {
                    0 => Ok(()),
                    unknown => write!(f, " unknown ones {unknown:#x}"),
                }
            }
            Self::Section(section) => {
                write!(f, "the section {section:?} is out of bounds or of a wrong size")
            }
            Self::FrontEnd(problem) => write!(f, "features of sound: {problem}"),
            Self::Tensor { tensor } => write!(f, "tensor {tensor} is empty or leaves the arena"),
            Self::Tunable { marked, weighted } => write!(
                f,
                "{marked} operators are marked as tunable, but only {weighted} have weights"
            ),
            Self::Op { op, problem } => write!(f, "operator {op}: {problem}"),
        }
    }
}

impl fmt::Display for OpProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::UnknownKernel(kernel) => return write!(f, "no kernel has the number {kernel}"),
            Self::UndeclaredKernel(kernel) => {
                return write!(f, "kernel {kernel} is missing from the header's set");
            }
            Self::NoSuchTensor => "names a tensor that is not there",
            Self::Shape => "shapes, window and groups do not fit together",
            Self::Constants => "constants out of bounds, misaligned or of a wrong size",
            Self::Weights => "weights out of bounds, misaligned or of a wrong size",
            Self::Sparse => "sparse stream ends early, ends late or leaves the kernel",
            Self::Quantisation => "shift or multiplier out of range",
            Self::Scratch => "working memory too small or outside the arena",
            Self::Overlap => "writes memory that it reads",
            Self::Rows => "cannot be executed row by row",
            Self::Clamp => "smallest output value above the largest",
        })
    }
}

impl core::error::Error for ModelError {}
