//! Niwaki's agent on the MPS2 AN505.
#![no_std]
#![no_main]

use niwaki_mps2::{Uart, run};

const CORE_CLOCK_HZ: u32 = 20_000_000;

#[cortex_m_rt::entry]
fn main() -> ! {
    // SAFETY: AN505 has a CMSDK APB UART there for the secure state, and only this function runs.
    let uart = unsafe { Uart::new(0x5020_0000) };
    run(env!("CARGO_PKG_NAME"), "cortex-m33", CORE_CLOCK_HZ, uart)
}
