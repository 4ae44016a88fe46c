//! Niwaki's agent on the BBC micro:bit.
#![no_std]
#![no_main]

mod timer;
mod uart;

// Brings the implementation of critical sections for a single core.
use cortex_m as _;
use timer::Timer;
use uart::Uart;

#[cortex_m_rt::entry]
fn main() -> ! {
    // SAFETY: the nRF51 has its UART and its TIMER0 there, and only this function runs.
    let (uart, mut timer) = unsafe { (Uart::new(0x4000_2000), Timer::new(0x4000_8000)) };
    niwaki_emulated::run(env!("CARGO_PKG_NAME"), "cortex-m0", uart, move || timer.nanoseconds())
}
