//! Niwaki's agent on QEMU's generic RISC-V machine.
#![no_std]
#![no_main]

mod uart;

use riscv::register::minstret;
use uart::Uart;

#[riscv_rt::entry]
fn main() -> ! {
    // SAFETY: the machine has a 16550 there, and only this function runs.
    let uart = unsafe { Uart::new(0x1000_0000) };
    niwaki_emulated::run(env!("CARGO_PKG_NAME"), "riscv32", uart, minstret::read64)
}
