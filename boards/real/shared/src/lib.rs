//! What real boards have in common.
//!
//! * Logs go out by RTT, through the debug probe; without a probe nobody reads them.
//! * A panic is logged and stops the processor.
//! * The counter counts clock cycles of the core: `Dwt` where the core has one.
//! * The flash partition that the linker script calls `STATE` holds what the board has learned ([`State`]).
#![no_std]

#[cfg(feature = "dwt")]
mod dwt;

use defmt_rtt as _;
use embedded_hal::digital::OutputPin;
use embedded_io::{Read, Write};
use embedded_storage::nor_flash::NorFlash;
use niwaki_firmware::{About, Board, CounterUnit, State, agent};
#[cfg(target_arch = "arm")]
use panic_probe as _;

#[cfg(feature = "dwt")]
pub use dwt::Dwt;
pub use embedded_hal;
pub use niwaki_firmware::Memory;
#[cfg(target_arch = "arm")]
pub use niwaki_firmware::systick;

/// What a board brings.
#[derive(Debug)]
pub struct Parts<S, C, L, R, F> {
    /// The line to the host.
    pub serial: S,
    /// Clock cycles of the core since the start.
    pub cycles: C,
    /// A light that is on while a model runs; high is on.
    pub led: L,
    /// Random numbers that nobody can foretell, if the chip has a source of them: [`no_random_numbers`] otherwise.
    pub random: R,
    /// The flash of the state partition.
    pub flash: F,
    /// The address that the linker script gives the first byte of this flash.
    pub flash_origin: u32,
}

/// The random numbers of a chip without a source of them.
pub fn no_random_numbers() -> Option<u32> {
    None
}

struct Real<S, C, L, R> {
    about: About,
    serial: S,
    cycles: C,
    led: L,
    random: R,
}

impl<S, C, L, R> Board for Real<S, C, L, R>
where
    S: Read + Write,
    C: FnMut() -> u64,
    L: OutputPin,
    R: FnMut() -> Option<u32>,
{
    type Serial = S;

    fn about(&self) -> About {
        self.about
    }

    fn serial(&mut self) -> &mut S {
        &mut self.serial
    }

    fn counter(&mut self) -> u64 {
        (self.cycles)()
    }

    fn busy(&mut self, busy: bool) {
        // A light that fails is no reason to stop.
        let _ = self.led.set_state(busy.into());
    }

    fn random(&mut self) -> Option<u32> {
        (self.random)()
    }
}

/// Runs the agent on the board called `board` whose processor core is `core`.
pub fn run<S, C, L, R, F>(
    board: &'static str,
    core: &'static str,
    parts: Parts<S, C, L, R, F>,
    memory: Memory,
) -> !
where
    S: Read + Write,
    C: FnMut() -> u64,
    L: OutputPin,
    R: FnMut() -> Option<u32>,
    F: NorFlash,
{
    let Parts { serial, cycles, led, random, flash, flash_origin } = parts;
    let about = About { board, core, counter: CounterUnit::Cycles };
    agent(
        Real { about, serial, cycles, led, random },
        memory,
        State::partition(flash, flash_origin),
    )
}
