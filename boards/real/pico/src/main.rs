//! Niwaki's agent on the Raspberry Pi Pico.
#![no_std]
#![no_main]

use embassy_rp::clocks::clk_sys_freq;
use embassy_rp::flash::Flash;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::interrupt;
use niwaki_pico_usb::UsbSerial;
use niwaki_real::systick::SysTick;
use niwaki_real::{Memory, Parts, no_random_numbers, run};

const FLASH_BYTES: usize = 2 << 20;

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
    let counter = SysTick::start(core.SYST, clk_sys_freq());
    let parts = Parts {
        serial: UsbSerial::start(chip.USB, "Niwaki agent"),
        cycles: move || counter.ticks(),
        led: Output::new(chip.PIN_25, Level::Low),
        random: no_random_numbers,
        flash: Flash::<_, _, FLASH_BYTES>::new_blocking(chip.FLASH),
        flash_origin: 0x1000_0000,
    };
    run(env!("CARGO_PKG_NAME"), "cortex-m0", parts, memory)
}
