//! Niwaki's agent on the MPS3 AN547.
#![no_std]
#![no_main]

use niwaki_mps2::{Uart, run};

const CORE_CLOCK_HZ: u32 = 32_000_000;

#[cortex_m_rt::entry]
fn main() -> ! {
    // SAFETY: AN547 has a CMSDK APB UART there for the secure state, and only this function runs.
    let uart = unsafe { Uart::new(0x5930_3000) };
    run(env!("CARGO_PKG_NAME"), "cortex-m55", CORE_CLOCK_HZ, uart)
}
