//! Recognises digits that a thermal camera sees, with RTIC on an nRF52840.
//!
//! The folder `model` is what `niwaki export --rust` writes; it is shared with the example `bare`.
#![no_std]
#![no_main]

#[path = "../../bare/src/model/mod.rs"]
mod model;

use defmt_rtt as _;
use embassy_nrf::bind_interrupts;
use embassy_nrf::peripherals::TWISPI0;
use embassy_nrf::twim;
use panic_probe as _;
use rtic_monotonics::systick::prelude::systick_monotonic;

bind_interrupts!(struct Interrupts {
    TWISPI0 => twim::InterruptHandler<TWISPI0>;
});

systick_monotonic!(Clock, 1000);

#[rtic::app(device = embassy_nrf, peripherals = false, dispatchers = [EGU0_SWI0])]
mod app {
    use embassy_nrf::twim::{self, Twim};
    use grid_eye::{GridEye, stretch};
    use niwaki_core::Arena;
    use rtic_monotonics::systick::prelude::*;

    use crate::model::{self, ARENA_BYTES, LABELS, ModelSession};
    use crate::{Clock, Interrupts};

    #[shared]
    struct Shared {}

    #[local]
    struct Local {
        camera: GridEye<Twim<'static>>,
        session: ModelSession<'static>,
    }

    #[init(local = [arena: Arena<ARENA_BYTES> = Arena::new(), buffer: [u8; 4] = [0; 4]])]
    fn init(context: init::Context) -> (Shared, Local) {
        const CORE_CLOCK_HZ: u32 = 64_000_000;
        let chip = embassy_nrf::init(Default::default());
        Clock::start(context.core.SYST, CORE_CLOCK_HZ);
        let (config, buffer) = (twim::Config::default(), context.local.buffer);
        let bus = Twim::new(chip.TWISPI0, Interrupts, chip.P0_26, chip.P0_27, config, buffer);
        let Ok(model) = model::model() else { defmt::panic!("the model is damaged") };
        let Ok(session) = model::session(model, context.local.arena) else {
            defmt::panic!("the arena is too small")
        };
        if recognise::spawn().is_err() {
            defmt::panic!("the task was started twice");
        }
        (Shared {}, Local { camera: GridEye::new(bus), session })
    }

    /// Looks at ten pictures in a second. Tasks of a higher priority interrupt the model.
    #[task(priority = 1, local = [camera, session])]
    async fn recognise(context: recognise::Context) {
        let (camera, session) = (context.local.camera, context.local.session);
        let model = *session.model();
        let mut next = Clock::now();
        loop {
            next += 100.millis();
            Clock::delay_until(next).await;
            let Ok(celsius) = camera.temperatures() else {
                defmt::warn!("the camera does not answer");
                continue;
            };
            let Some(picture) = stretch(&celsius) else { continue };
            model.quantise_input(&picture, session.input_mut());
            while session.step().is_ok_and(|more| more) {}
            let scores = session.output().iter().zip(LABELS);
            if let Some((score, label)) = scores.max_by_key(|(score, _)| **score) {
                defmt::info!("{=str} ({=i8})", label, *score);
            }
        }
    }
}
