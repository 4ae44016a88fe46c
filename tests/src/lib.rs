//! Helpers of the tests that cross crates.

pub mod networks;

use zerocopy::IntoBytes;

/// Bytes at the alignment that a model needs.
#[derive(Debug, Clone)]
pub struct Aligned {
    words: Vec<u32>,
    len: usize,
}

impl Aligned {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0u32; bytes.len().div_ceil(size_of::<u32>())];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Self { words, len: bytes.len() }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.len]
    }
}
