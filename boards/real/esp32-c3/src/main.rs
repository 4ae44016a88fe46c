//! Niwaki's agent on an ESP32-C3.
#![no_std]
#![no_main]

mod cycles;
mod memory;

use core::convert::Infallible;

use cycles::Cycles;
use embedded_hal::digital::{ErrorType, OutputPin};
use esp_hal::clock::CpuClock;
use esp_hal::uart::{Config, Uart};
use esp_storage::FlashStorage;
use niwaki_real::{Parts, no_random_numbers, run};

esp_bootloader_esp_idf::esp_app_desc!();

#[esp_hal::main]
fn main() -> ! {
    let chip = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
    let mut flash = FlashStorage::new(chip.FLASH);
    let Some(memory) = memory::take(&mut flash) else { panic!("main was called twice") };
    let Ok(uart) = Uart::new(chip.UART0, Config::default()) else {
        panic!("the UART has no such rate")
    };
    let mut cycles = Cycles::start();
    let parts = Parts {
        serial: uart.with_rx(chip.GPIO20).with_tx(chip.GPIO21),
        cycles: move || cycles.cycles(),
        led: NoLight,
        random: no_random_numbers,
        flash,
        flash_origin: 0,
    };
    run(env!("CARGO_PKG_NAME"), "riscv32", parts, memory)
}

/// The development boards have a light that takes a protocol of its own.
struct NoLight;

impl ErrorType for NoLight {
    type Error = Infallible;
}

impl OutputPin for NoLight {
    fn set_low(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    critical_section::with(|_| {
        defmt::error!("{}", defmt::Display2Format(info));
        loop {
            core::hint::spin_loop();
        }
    })
}
