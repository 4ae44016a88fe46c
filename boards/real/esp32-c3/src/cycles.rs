//! The performance counter of the processor (ESP32-C3 Technical Reference Manual, chapter "ESP-RISC-V CPU"): it
//! takes the place of RISC-V's `mcycle`, which is not there.

use core::arch::asm;

/// The running counter: 32 bits in hardware, continued here.
#[derive(Debug)]
pub(crate) struct Cycles {
    cycles: u64,
}

impl Cycles {
    /// Starts the counter.
    pub(crate) fn start() -> Self {
        // SAFETY: sets the counter to 0 (mpccr), lets it count clock cycles (mpcer) and switches it on
        // (mpcmr). Nothing else uses these registers.
        unsafe {
            asm!("csrw 0x7e2, zero", "csrwi 0x7e0, 1", "csrwi 0x7e1, 1", options(nomem, nostack));
        }
        Self { cycles: 0 }
    }

    /// Clock cycles since the start, if the last call was less than 2^32 of them ago, which is 26 s.
    pub(crate) fn cycles(&mut self) -> u64 {
        let now: u32;
        // SAFETY: reads a register.
        unsafe { asm!("csrr {}, 0x7e2", out(reg) now, options(nomem, nostack)) };
        self.cycles += u64::from(now.wrapping_sub(self.cycles as u32));
        self.cycles
    }
}
