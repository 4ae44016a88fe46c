//! Recognises digits that a thermal camera sees, with Embassy on an nRF52840.
//!
//! The folder `model` is what `niwaki export --rust` writes; it is shared with the example `bare`.
#![no_std]
#![no_main]

#[path = "../../bare/src/model/mod.rs"]
mod model;

use defmt_rtt as _;
use embassy_executor::Spawner;
use embassy_nrf::bind_interrupts;
use embassy_nrf::peripherals::TWISPI0;
use embassy_nrf::twim::{self, Twim};
use embassy_time::{Duration, Ticker};
use grid_eye::{GridEye, stretch};
use model::{ARENA_BYTES, LABELS};
use niwaki_core::Arena;
use panic_probe as _;

bind_interrupts!(struct Interrupts {
    TWISPI0 => twim::InterruptHandler<TWISPI0>;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_nrf::init(Default::default());
    let mut buffer = [0; 4];
    let config = twim::Config::default();
    let bus = Twim::new(chip.TWISPI0, Interrupts, chip.P0_26, chip.P0_27, config, &mut buffer);
    let mut camera = GridEye::new(bus);

    let mut arena = Arena::<ARENA_BYTES>::new();
    let Ok(model) = model::model() else { defmt::panic!("the model is damaged") };
    let Ok(mut session) = model::session(model, &mut arena) else {
        defmt::panic!("the arena is too small")
    };

    // The camera takes ten pictures in a second.
    let mut ticker = Ticker::every(Duration::from_hz(10));
    loop {
        ticker.next().await;
        let Ok(celsius) = camera.temperatures() else {
            defmt::warn!("the camera does not answer");
            continue;
        };
        let Some(picture) = stretch(&celsius) else { continue };
        model.quantise_input(&picture, session.input_mut());
        // Runs to its end without an await: tasks that cannot wait for it belong on an interrupt executor.
        while session.step().is_ok_and(|more| more) {}
        let scores = session.output().iter().zip(LABELS);
        if let Some((score, label)) = scores.max_by_key(|(score, _)| **score) {
            defmt::info!("{=str} ({=i8})", label, *score);
        }
    }
}
