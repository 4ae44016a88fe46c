//! What Arm's MPS2 boards have in common, as QEMU emulates them.
//!
//! * The serial line is the CMSDK APB UART 0 (Arm DDI 0479, chapter 4.3).
//! * The counter is SysTick on the 25 MHz core clock: 40 ns a tick. With `-icount shift=0` that is 40
//!   instructions.
//! * Logs and panics go out by semihosting. So does the end of the program: a panic or a fault ends the
//!   emulator with a code of its own.
#![no_std]

mod uart;

use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, exception};
use defmt_semihosting as _;
use niwaki_firmware::systick::SysTick;
use niwaki_firmware::{About, Board, CounterUnit, Memory, agent};

pub use uart::Uart;

const CORE_CLOCK_HZ: u32 = 25_000_000;

/// The emulator's exit code after a panic.
pub const EXIT_PANIC: i32 = 101;
/// The emulator's exit code after a fault of the processor.
pub const EXIT_FAULT: i32 = 102;

struct Mps2 {
    about: About,
    uart: Uart,
    counter: SysTick,
}

impl Board for Mps2 {
    type Serial = Uart;

    fn about(&self) -> About {
        self.about
    }

    fn serial(&mut self) -> &mut Uart {
        &mut self.uart
    }

    fn counter(&mut self) -> u64 {
        self.counter.nanoseconds()
    }
}

/// Runs the agent on the board called `board`. To be called once, first thing.
pub fn run(board: &'static str, core: &'static str, uart: Uart) -> ! {
    let (Some(peripherals), Some(memory)) = (cortex_m::Peripherals::take(), Memory::take()) else {
        panic!("run was called twice");
    };
    let about = About { board, core, counter: CounterUnit::Instructions };
    let counter = SysTick::start(peripherals.SYST, CORE_CLOCK_HZ);
    agent(Mps2 { about, uart, counter }, memory)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    defmt::error!("{}", defmt::Display2Format(info));
    semihosting::process::exit(EXIT_PANIC)
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:#010x}, called from {=u32:#010x}", frame.pc(), frame.lr());
    semihosting::process::exit(EXIT_FAULT)
}
