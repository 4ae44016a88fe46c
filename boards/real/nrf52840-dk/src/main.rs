//! Niwaki's agent on the nRF52840-DK.
#![no_std]
#![no_main]

mod serial;

use embassy_nrf::buffered_uarte::{BufferedUarte, InterruptHandler};
use embassy_nrf::config::{Config, HfclkSource};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::nvmc::Nvmc;
use embassy_nrf::peripherals::UARTE0;
use embassy_nrf::rng::Rng;
use embassy_nrf::{bind_interrupts, uarte};
use niwaki_real::{Dwt, Memory, Parts, run};
use serial::Serial;
use static_cell::ConstStaticCell;

bind_interrupts!(struct Interrupts {
    UARTE0 => InterruptHandler<UARTE0>;
});

#[cortex_m_rt::entry]
fn main() -> ! {
    static RECEIVED: ConstStaticCell<[u8; 1024]> = ConstStaticCell::new([0; 1024]);
    static TO_SEND: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
    let (Some(core), Some(memory)) = (cortex_m::Peripherals::take(), Memory::take()) else {
        panic!("main was called twice");
    };
    let mut config = Config::default();
    // The crystal: the UART's rate and the core's clock are exact with it.
    config.hfclk_source = HfclkSource::ExternalXtal;
    let chip = embassy_nrf::init(config);
    let mut line = uarte::Config::default();
    line.baudrate = uarte::Baudrate::Baud115200;
    let uart = BufferedUarte::new(
        chip.UARTE0,
        chip.TIMER0,
        chip.PPI_CH0,
        chip.PPI_CH1,
        chip.PPI_GROUP0,
        chip.P0_08,
        chip.P0_06,
        Interrupts,
        line,
        RECEIVED.take(),
        TO_SEND.take(),
    );
    let mut random = Rng::new_blocking(chip.RNG);
    // Corrects a bias of the source; slower, but a device draws few numbers.
    random.set_bias_correction(true);
    let mut dwt = Dwt::start(core.DCB, core.DWT);
    let parts = Parts {
        serial: Serial(uart),
        cycles: move || dwt.cycles(),
        led: LowIsOn(Output::new(chip.P0_13, Level::High, OutputDrive::Standard)),
        random: move || Some(random.blocking_next_u32()),
        flash: Nvmc::new(chip.NVMC),
        flash_origin: 0,
    };
    run(env!("CARGO_PKG_NAME"), "cortex-m4", parts, memory)
}

/// A light between the supply and the pin.
struct LowIsOn<'d>(Output<'d>);

impl niwaki_real::embedded_hal::digital::ErrorType for LowIsOn<'_> {
    type Error = core::convert::Infallible;
}

impl niwaki_real::embedded_hal::digital::OutputPin for LowIsOn<'_> {
    fn set_low(&mut self) -> Result<(), Self::Error> {
        self.0.set_high();
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Self::Error> {
        self.0.set_low();
        Ok(())
    }
}
