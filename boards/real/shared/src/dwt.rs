//! The cycle counter of the Data Watchpoint and Trace unit.

use cortex_m::peripheral::{DCB, DWT};

/// The running counter: 32 bits in hardware, continued here.
#[derive(Debug)]
pub struct Dwt {
    cycles: u64,
}

impl Dwt {
    /// Starts the counter.
    pub fn start(mut control: DCB, mut counter: DWT) -> Self {
        control.enable_trace();
        // Some Cortex-M7 lock the unit until this is written.
        DWT::unlock();
        counter.set_cycle_count(0);
        counter.enable_cycle_counter();
        Self { cycles: 0 }
    }

    /// Clock cycles since the start, if the last call was less than 2^32 of them ago: then the counter has
    /// gone round, which takes 9 s at 480 MHz and 67 s at 64 MHz.
    pub fn cycles(&mut self) -> u64 {
        let elapsed = DWT::cycle_count().wrapping_sub(self.cycles as u32);
        self.cycles += u64::from(elapsed);
        self.cycles
    }
}
