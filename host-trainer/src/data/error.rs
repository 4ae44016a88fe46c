//! What can be wrong with a data set, said so that it can be put right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The formats that [`load`](super::load) knows, for error messages.
const SUPPORTED: &str = "supported are
  - the names digits, fashion-mnist and mnist
  - a folder of IDX files: train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-...
  - a folder of CIFAR-10 batches: data_batch_*.bin, test_batch.bin, batches.meta.txt
  - an image folder: one folder of PNG, JPEG or BMP files per class, optionally split.csv
  - a folder of WAV files: with clips.csv (path,label and optionally speaker,split), or one folder per class
  - a .csv or .csv.gz file with a header line
  - NumPy arrays: a folder with features.npy and labels.npy, or FEATURES.npy,LABELS.npy";

/// Why a data set could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Neither a known name nor an existing path.
    #[error("data set {spec:?} not found: {hint}")]
    NotFound {
        /// What the user asked for.
        spec: String,
        /// Where it was looked for and how to get it.
        hint: String,
    },
    /// The path exists, but is in none of the supported formats.
    #[error("{}: not a data set: {found}\n{SUPPORTED}", path.display())]
    Unrecognised {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action} it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "read", "write".
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A file breaks the rules of its format.
    #[error("{}: {place}expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// What should stand there.
        expected: String,
        /// What does stand there.
        found: String,
    },
    /// A text is not of the form that its type is written in.
    #[error("{0}")]
    Syntax(String),
    /// An option does not fit the data, or has an impossible value.
    #[error("option {option}: {reason}")]
    Option {
        /// The option as typed on the command line.
        option: &'static str,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

impl DataError {
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action: "read", source }
    }

    pub(super) fn damaged(
        path: &Path,
        place: Place,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            place,
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(super) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option { option, reason: reason.into() }
    }
}

/// Where in a file something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// Byte offset from the start of the file.
    Byte(u64),
    /// Byte offset in the decompressed content of a `.gz` file.
    DecompressedByte(u64),
    /// Line, counted from 1.
    Line(u64),
    /// Line, counted from 1, and the name of the column.
    Cell(u64, String),
    /// Position of a sample in an array, counted from 0.
    Sample(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Byte(offset) => write!(f, "byte {offset}: "),
            Self::DecompressedByte(offset) => write!(f, "byte {offset} after decompression: "),
            Self::Line(line) => write!(f, "line {line}: "),
            Self::Cell(line, column) => write!(f, "line {line}, column {column:?}: "),
            Self::Sample(index) => write!(f, "sample {index}: "),
        }
    }
}
