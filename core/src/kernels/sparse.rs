//! The stream of nonzero weights of a convolution or linear operator.
//!
//! For each output channel in order: the number of entries (`u16`), then that many entries of two
//! bytes. An entry is the distance from the previous entry's position (`u8`; from 0 for the first)
//! and the weight (`i8`). A position counts the channel's weights in the order kernel row, kernel
//! column, input channel of the group. Where two nonzero weights are further apart than 255, entries
//! of weight 0 stand between them. Zero bytes fill the stream up to the blob's alignment.

use crate::model::layout::ALIGNMENT;

/// One nonzero weight: distance and weight.
pub type Entry = [u8; 2];

/// Largest distance that an entry can express.
pub const MAX_DISTANCE: usize = u8::MAX as usize;

/// The first channel of a stream and what follows; `None` when the stream ends before the channel
/// does.
#[inline(always)]
pub fn split_channel(stream: &[u8]) -> Option<(&[Entry], &[u8])> {
    let (count, rest) = stream.split_first_chunk::<2>()?;
    let bytes = usize::from(u16::from_le_bytes(*count)).wrapping_mul(size_of::<Entry>());
    let (entries, rest) = rest.split_at_checked(bytes)?;
    Some((entries.as_chunks().0, rest))
}

/// Checks that a stream holds `channels` channels and nothing behind them, and that every position
/// is below `positions`.
pub fn verify(stream: &[u8], channels: usize, positions: usize) -> Option<()> {
    let mut rest = stream;
    for _ in 0..channels {
        let (entries, behind) = split_channel(rest)?;
        let mut position = 0usize;
        for &[distance, _] in entries {
            position = position.checked_add(distance.into())?;
            if position >= positions {
                return None;
            }
        }
        rest = behind;
    }
    (rest.len() < ALIGNMENT && rest.iter().all(|&byte| byte == 0)).then_some(())
}

/// Number of entries.
pub fn entries(stream: &[u8], channels: usize) -> usize {
    count(stream, channels, |_| true)
}

/// Number of entries whose weight is not zero.
pub fn nonzeros(stream: &[u8], channels: usize) -> usize {
    count(stream, channels, |entry| entry[1] != 0)
}

fn count(stream: &[u8], channels: usize, counts: impl Fn(&Entry) -> bool) -> usize {
    let mut rest = stream;
    let mut count = 0usize;
    for _ in 0..channels {
        let Some((entries, behind)) = split_channel(rest) else { break };
        count = count.wrapping_add(entries.iter().filter(|entry| counts(entry)).count());
        rest = behind;
    }
    count
}
