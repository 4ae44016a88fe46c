//! Runs a model with `niwaki-core` alone: no agent, no heap, no float. The model is that of
//! `cargo xtask demo`.
#![no_std]
#![no_main]

use core::hint::black_box;

use cortex_m_rt::entry;
use niwaki_core::{AlignedBytes, Arena, Model, RunError, Session};
use semihosting::process::exit;

static BLOB: &AlignedBytes<[u8]> = &AlignedBytes(*include_bytes!("../model.niwaki"));

#[entry]
fn main() -> ! {
    // `entry` turns this into a `&mut Arena` that belongs to `main`.
    static mut ARENA: Arena<1616> = Arena::new();
    // `black_box` keeps the compiler from using what it knows of this one model.
    let Ok(model) = Model::new(black_box(&BLOB.0)) else { exit(2) };
    match classify(model, ARENA.as_mut_slice(), black_box(&[0; 64])) {
        Ok(class) if class < 10 => exit(0),
        _ => exit(3),
    }
}

/// Index of the largest output: in a product, of the class that the sensor saw.
fn classify(model: Model<'_>, arena: &mut [i8], input: &[i8]) -> Result<usize, RunError> {
    let mut session: Session<'_, '_> = Session::new(model, arena)?;
    let scores = session.run(input)?;
    #[cfg(feature = "deliberate-panic")]
    assert!(scores[0] < 100, "shows that a reachable panic is found");
    let best = scores.iter().enumerate().max_by_key(|(_, score)| **score);
    Ok(best.map_or(0, |(class, _)| class))
}

/// A panic that can be reached leaves a call to `panic_is_reachable`, which nothing defines: then this
/// program does not link. It does, and so no input and no model can make it panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        safe fn panic_is_reachable() -> !;
    }
    panic_is_reachable()
}
