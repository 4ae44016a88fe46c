//! Niwaki's agent on the MPS2 AN385.
#![no_std]
#![no_main]

use niwaki_mps2::{Uart, run};

const CORE_CLOCK_HZ: u32 = 25_000_000;

#[cortex_m_rt::entry]
fn main() -> ! {
    // SAFETY: AN385 has a CMSDK APB UART there, and only this function runs.
    let uart = unsafe { Uart::new(0x4000_4000) };
    run(env!("CARGO_PKG_NAME"), "cortex-m3", CORE_CLOCK_HZ, uart)
}
