//! Runs a model with `niwaki-core` alone: no agent, no heap, no float. The folder `model` is what
//! `niwaki export --rust` and `niwaki import --rust` write; here it holds a sparse `lenet` for the digits.
//! No kernels are linked but those that it needs.
#![no_std]
#![no_main]

mod model;

use core::hint::black_box;

use cortex_m_rt::entry;
use model::{ARENA_BYTES, INPUT_LEN, LABELS, ModelSession};
use niwaki_core::{Arena, RunError};
use semihosting::process::exit;

#[entry]
fn main() -> ! {
    // `entry` turns this into a `&mut Arena` that belongs to `main`.
    static mut ARENA: Arena<ARENA_BYTES> = Arena::new();
    let Ok(model) = model::model() else { exit(2) };
    let Ok(mut session) = model::session(model, ARENA) else { exit(3) };
    // A product reads a sensor here; `black_box` stands for what the compiler cannot know.
    match classify(&mut session, black_box(&[0; INPUT_LEN])) {
        Ok(class) if class < LABELS.len() => exit(0),
        _ => exit(4),
    }
}

/// Index of the largest output: in a product, of the class that the sensor saw.
fn classify(session: &mut ModelSession<'_>, input: &[i8]) -> Result<usize, RunError> {
    let scores = session.run(input)?;
    let best = scores.iter().enumerate().max_by_key(|(_, score)| **score);
    Ok(best.map_or(0, |(class, _)| class))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(5)
}
