//! Niwaki's agent on the NUCLEO-H743ZI.
#![no_std]
#![no_main]

mod flash;

use embassy_stm32::bind_interrupts;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::USART3;
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk, VoltageScale,
};
use embassy_stm32::usart::{BufferedInterruptHandler, BufferedUart, Config};
use flash::{CachedFlash, ORIGIN};
use niwaki_real::{Dwt, Memory, Parts, no_random_numbers, run};
use static_cell::ConstStaticCell;

bind_interrupts!(struct Interrupts {
    USART3 => BufferedInterruptHandler<USART3>;
});

#[cortex_m_rt::entry]
fn main() -> ! {
    static RECEIVED: ConstStaticCell<[u8; 1024]> = ConstStaticCell::new([0; 1024]);
    static TO_SEND: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
    let (Some(mut core), Some(memory)) = (cortex_m::Peripherals::take(), Memory::take()) else {
        panic!("main was called twice");
    };
    let mut config = embassy_stm32::Config::default();
    // 64 MHz / 4 * 50 / 2 = 400 MHz, which every revision of the chip runs at.
    config.rcc.pll1 = Some(Pll {
        source: PllSource::HSI,
        prediv: PllPreDiv::DIV4,
        mul: PllMul::MUL50,
        fracn: None,
        divp: Some(PllDiv::DIV2),
        divq: None,
        divr: None,
    });
    config.rcc.sys = Sysclk::PLL1_P;
    config.rcc.ahb_pre = AHBPrescaler::DIV2;
    config.rcc.apb1_pre = APBPrescaler::DIV2;
    config.rcc.apb2_pre = APBPrescaler::DIV2;
    config.rcc.apb3_pre = APBPrescaler::DIV2;
    config.rcc.apb4_pre = APBPrescaler::DIV2;
    config.rcc.voltage_scale = VoltageScale::Scale1;
    let chip = embassy_stm32::init(config);
    // Nothing but the processor accesses memory: there is no DMA.
    core.SCB.enable_icache();
    core.SCB.enable_dcache(&mut core.CPUID);
    let uart = BufferedUart::new(
        chip.USART3,
        chip.PD9,
        chip.PD8,
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
        led: Output::new(chip.PB0, Level::Low, Speed::Low),
        random: no_random_numbers,
        flash: CachedFlash::new(chip.FLASH, core.SCB),
        flash_origin: ORIGIN,
    };
    run(env!("CARGO_PKG_NAME"), "cortex-m7", parts, memory)
}
