//! Niwaki's agent on the Raspberry Pi Pico 2.
#![no_std]
#![no_main]

use embassy_rp::flash::Flash;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::peripherals::TRNG;
use embassy_rp::trng::{InterruptHandler, Trng};
use embassy_rp::{bind_interrupts, interrupt};
use niwaki_pico_usb::UsbSerial;
use niwaki_real::{Dwt, Memory, Parts, run};

bind_interrupts!(struct Interrupts {
    TRNG_IRQ => InterruptHandler<TRNG>;
});

const FLASH_BYTES: usize = 4 << 20;

#[interrupt]
fn SWI_IRQ_0() {
    // SAFETY: this is the handler; the interrupt is taken once the line is started.
    unsafe { niwaki_pico_usb::on_interrupt() }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let (Some(core), Some(memory)) = (cortex_m::Peripherals::take(), Memory::take()) else {
        panic!("main was called twice");
    };
    let chip = embassy_rp::init(Default::default());
    let mut random = Trng::new(chip.TRNG, Interrupts, Default::default());
    let mut dwt = Dwt::start(core.DCB, core.DWT);
    let parts = Parts {
        serial: UsbSerial::start(chip.USB, "Niwaki agent"),
        cycles: move || dwt.cycles(),
        led: Output::new(chip.PIN_25, Level::Low),
        random: move || Some(random.blocking_next_u32()),
        flash: Flash::<_, _, FLASH_BYTES>::new_blocking(chip.FLASH),
        flash_origin: 0x1000_0000,
    };
    run(env!("CARGO_PKG_NAME"), "cortex-m33", parts, memory)
}
