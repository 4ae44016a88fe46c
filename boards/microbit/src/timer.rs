//! The TIMER of the nRF51 (nRF51 Series Reference Manual, chapter 18) as a counter: its Cortex-M0 comes
//! without SysTick.

use niwaki_emulated::Registers;

// Registers, as words from the base address.
const TASK_START: usize = 0;
const TASK_CAPTURE: usize = 0x040 / 4;
const BIT_MODE: usize = 0x508 / 4;
const PRESCALER: usize = 0x510 / 4;
const CAPTURED: usize = 0x540 / 4;

const BIT_MODE_32: u32 = 3;
/// At 16 MHz, which is what the timer counts with without prescaler.
const PICOSECONDS_PER_TICK: u64 = 62_500;

/// The running counter.
#[derive(Debug)]
pub(crate) struct Timer {
    registers: Registers<u32>,
    ticks: u64,
}

impl Timer {
    /// Starts the timer whose registers are at `address`.
    ///
    /// # Safety
    ///
    /// There is such a timer at `address`, 32 bits wide, and nothing else uses it.
    pub(crate) unsafe fn new(address: usize) -> Self {
        // SAFETY: passed on to the caller.
        let mut registers = unsafe { Registers::new(address) };
        registers.write(BIT_MODE, BIT_MODE_32);
        registers.write(PRESCALER, 0);
        registers.write(TASK_START, 1);
        Self { registers, ticks: 0 }
    }

    /// Nanoseconds since the start, to the tick, if the last call was less than 268 s ago: then the 32
    /// bits of the timer have gone round.
    pub(crate) fn nanoseconds(&mut self) -> u64 {
        self.registers.write(TASK_CAPTURE, 1);
        let elapsed = self.registers.read(CAPTURED).wrapping_sub(self.ticks as u32);
        self.ticks += u64::from(elapsed);
        self.ticks * PICOSECONDS_PER_TICK / 1000
    }
}
