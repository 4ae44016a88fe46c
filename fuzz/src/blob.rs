//! Any byte string is safe to pass to `Model::new`, and what it accepts runs to the end.

use niwaki_core::model::checksum;
use niwaki_core::model::layout::CHECKSUM_START;
use niwaki_core::{Arena, Model, Session};
use zerocopy::IntoBytes;

/// Larger arenas than this are not tried: a byte string can ask for 4 GiB.
const ARENA_MAX: usize = 1 << 16;

/// Checks the bytes as a model and runs it.
pub fn run(data: &[u8]) {
    // At the alignment that models need, with a matching length and checksum, which a fuzzer does not
    // find by itself.
    let mut words = vec![0u32; data.len().div_ceil(size_of::<u32>())];
    let bytes = &mut words.as_mut_bytes()[..data.len()];
    bytes.copy_from_slice(data);
    if bytes.len() > CHECKSUM_START {
        let len = (bytes.len() as u32).to_le_bytes();
        bytes[12..16].copy_from_slice(&len);
        let sum = checksum(bytes).to_le_bytes();
        bytes[16..CHECKSUM_START].copy_from_slice(&sum);
    }
    let Ok(model) = Model::new(bytes) else { return };
    let names = (0..model.op_count()).map(|index| model.op_name(index).len()).sum::<usize>();
    assert!(names + model.name().len() + model.core_name().len() <= bytes.len());
    if model.arena_len() > ARENA_MAX {
        return;
    }
    let mut arena = Box::new(Arena::<ARENA_MAX>::new());
    // Refuses kernels that this build does not know.
    let session: Result<Session<'_, '_>, _> = Session::new(model, arena.as_mut_slice());
    let Ok(mut session) = session else { return };
    let input = vec![0; model.input().len()];
    session.run(&input).expect("a checked model runs");
}
