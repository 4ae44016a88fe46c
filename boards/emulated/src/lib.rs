//! What boards have in common that QEMU emulates, with `-icount shift=0`: every instruction takes one
//! nanosecond of the board's time.
//!
//! * The serial line is a UART that is polled ([`Serial`]).
//! * Logs and panics go out by semihosting. So does the end of the program: a panic or a fault ends the
//!   emulator with a code of its own.
//! * The flash for what is learned is memory that a reset leaves alone ([`flash`]).
#![no_std]

mod fault;
mod flash;
mod serial;

use core::panic::PanicInfo;

use defmt_semihosting as _;
use flash::RamFlash;
use niwaki_firmware::{About, Board, CounterUnit, Memory, agent};

pub use serial::{Registers, Serial, Uart};

/// The emulator's exit code after a panic.
pub const EXIT_PANIC: i32 = 101;
/// The emulator's exit code after a fault of the processor.
pub const EXIT_FAULT: i32 = 102;

struct Emulated<U, C> {
    about: About,
    serial: Serial<U>,
    nanoseconds: C,
}

impl<U: Uart, C: FnMut() -> u64> Board for Emulated<U, C> {
    type Serial = Serial<U>;

    fn about(&self) -> About {
        self.about
    }

    fn serial(&mut self) -> &mut Serial<U> {
        &mut self.serial
    }

    fn counter(&mut self) -> u64 {
        (self.nanoseconds)()
    }
}

/// Runs the agent on the board called `board` whose processor core is `core`. `nanoseconds` tells the
/// board's time, which is the number of executed instructions. To be called once.
pub fn run<U: Uart>(
    board: &'static str,
    core: &'static str,
    uart: U,
    mut nanoseconds: impl FnMut() -> u64,
) -> ! {
    let Some(memory) = Memory::take() else { panic!("run was called twice") };
    check(&mut nanoseconds);
    // SAFETY: the memory was taken here, which happens once.
    let state = unsafe { RamFlash::take() };
    let about = About { board, core, counter: CounterUnit::Instructions };
    let board = Emulated { about, serial: Serial(uart), nanoseconds };
    agent(board, memory, state)
}

/// Sees that the counter counts instructions: a wrong clock rate would pass unnoticed otherwise.
fn check(nanoseconds: &mut impl FnMut() -> u64) {
    const INSTRUCTIONS: u32 = 100_000;
    let before = nanoseconds();
    execute(INSTRUCTIONS);
    let count = nanoseconds() - before;
    let difference = count.abs_diff(INSTRUCTIONS.into());
    assert!(
        difference < 500,
        "{INSTRUCTIONS} instructions count as {count}: run the emulator with -icount shift=0"
    );
}

/// A loop of this many instructions.
fn execute(instructions: u32) {
    // One crate counts the two instructions of its loop as one, the other as two.
    #[cfg(target_arch = "arm")]
    cortex_m::asm::delay(instructions / 2);
    #[cfg(target_arch = "riscv32")]
    riscv::asm::delay(instructions);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    critical_section::with(|_| {
        defmt::error!("{}", defmt::Display2Format(info));
        semihosting::process::exit(EXIT_PANIC)
    })
}
