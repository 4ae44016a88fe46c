//! Niwaki's agent on the NUCLEO-L4R5ZI.
#![no_std]
#![no_main]

use embassy_stm32::bind_interrupts;
use embassy_stm32::flash::Flash;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::LPUART1;
use embassy_stm32::rcc::{Pll, PllMul, PllPreDiv, PllRDiv, PllSource, Sysclk};
use embassy_stm32::usart::{BufferedInterruptHandler, BufferedUart, Config};
use niwaki_real::{Dwt, Memory, Parts, no_random_numbers, run};
use static_cell::ConstStaticCell;

bind_interrupts!(struct Interrupts {
    LPUART1 => BufferedInterruptHandler<LPUART1>;
});

#[cortex_m_rt::entry]
fn main() -> ! {
    static RECEIVED: ConstStaticCell<[u8; 1024]> = ConstStaticCell::new([0; 1024]);
    static TO_SEND: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
    let (Some(core), Some(memory)) = (cortex_m::Peripherals::take(), Memory::take()) else {
        panic!("main was called twice");
    };
    let mut config = embassy_stm32::Config::default();
    config.rcc.hsi = true;
    // 16 MHz * 15 / 2 = 120 MHz.
    config.rcc.pll = Some(Pll {
        source: PllSource::HSI,
        prediv: PllPreDiv::DIV1,
        mul: PllMul::MUL15,
        divp: None,
        divq: None,
        divr: Some(PllRDiv::DIV2),
    });
    config.rcc.sys = Sysclk::PLL1_R;
    let chip = embassy_stm32::init(config);
    let uart = BufferedUart::new(
        chip.LPUART1,
        chip.PG8,
        chip.PG7,
        TO_SEND.take(),
        RECEIVED.take(),
        Interrupts,
        Config::default(),
    );
    let Ok(serial) = uart else { panic!("the UART has no such rate") };
    let mut dwt = Dwt::start(core.DCB, core.DWT);
    let parts = Parts {
        serial,
        cycles: move || dwt.cycles(),
        led: Output::new(chip.PB7, Level::Low, Speed::Low),
        random: no_random_numbers,
        flash: Flash::new_blocking(chip.FLASH),
        flash_origin: 0x0800_0000,
    };
    run(env!("CARGO_PKG_NAME"), "cortex-m4", parts, memory)
}
