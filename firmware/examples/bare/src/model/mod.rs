//! The model `lenet`, written by `niwaki`: do not edit.
#![allow(dead_code, reason = "firmware may use a part of it")]

use niwaki_core::{AlignedBytes, Arena, Model, ModelError, RunError, Session};

/// Size of the model in bytes of flash.
pub const MODEL_BYTES: usize = 10818;
/// Size of the arena in bytes of RAM.
pub const ARENA_BYTES: usize = 1452;
/// Length of the input in bytes.
pub const INPUT_LEN: usize = 64;
/// Length of the output in bytes.
pub const OUTPUT_LEN: usize = 10;
/// The kernels that the model needs: no others are linked.
pub const KERNELS: u32 = 0b100000000100101010;
/// Class labels.
pub const LABELS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

static BLOB: AlignedBytes<[u8; MODEL_BYTES]> = AlignedBytes(*include_bytes!("model.niwaki"));

/// A session with this model's kernels.
pub type ModelSession<'a> = Session<'static, 'a, KERNELS>;

/// The model, checked.
pub fn model() -> Result<Model<'static, KERNELS>, ModelError> {
    // What the compiler knows of the bytes must not lead it to unroll their check.
    Model::with_kernels(core::hint::black_box(&BLOB.0))
}

/// A session in `arena`.
pub fn session<'a>(
    model: Model<'static, KERNELS>,
    arena: &'a mut Arena<ARENA_BYTES>,
) -> Result<ModelSession<'a>, RunError> {
    Session::new(model, arena.as_mut_slice())
}
