//! What Arm's MPS2 and MPS3 boards have in common, as QEMU emulates them.
//!
//! * The serial line is the CMSDK APB UART 0 (Arm DDI 0479, chapter 4.3).
//! * The counter is SysTick on the core clock, whose ticks are some tens of instructions long: 40 at
//!   25 MHz.
#![no_std]

mod uart;

use niwaki_firmware::systick::SysTick;

pub use uart::Uart;

/// Runs the agent on the board called `board` whose processor core is `core`. To be called once, first
/// thing.
pub fn run(board: &'static str, core: &'static str, core_clock_hz: u32, uart: Uart) -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else {
        panic!("run was called twice");
    };
    let counter = SysTick::start(peripherals.SYST, core_clock_hz);
    niwaki_emulated::run(board, core, uart, move || counter.nanoseconds())
}
