//! A 64-bit counter on the SysTick timer that every Cortex-M has.
//!
//! SysTick counts 24 bits of the core clock down. Its exception counts the wraps.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::asm;
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

const RELOAD: u32 = 0x00ff_ffff;

static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // Not `fetch_add`, which the smallest cores lack; this handler is the only writer.
    WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// The running counter.
#[derive(Debug)]
pub struct SysTick {
    picoseconds_per_tick: u64,
}

impl SysTick {
    /// Starts the timer on the core clock of `clock_hz`.
    pub fn start(mut timer: SYST, clock_hz: u32) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self { picoseconds_per_tick: 1_000_000_000_000 / u64::from(clock_hz) }
    }

    /// Ticks of the core clock since the start.
    pub fn ticks(&self) -> u64 {
        loop {
            let before = WRAPS.load(Ordering::Relaxed);
            let current = SYST::get_current();
            // Lets the exception of a wrap that has just happened be taken, so that it shows below.
            asm::isb();
            if WRAPS.load(Ordering::Relaxed) == before {
                // After a wrap the timer stands at 0 for one tick before it reloads.
                let within = if current == 0 { 0 } else { RELOAD + 1 - current };
                return u64::from(before) * u64::from(RELOAD + 1) + u64::from(within);
            }
        }
    }

    /// Nanoseconds since the start, to the tick. In QEMU with `-icount shift=0` every instruction takes
    /// one nanosecond, so this is the number of executed instructions, in steps of a tick.
    pub fn nanoseconds(&self) -> u64 {
        self.ticks() * self.picoseconds_per_tick / 1000
    }
}
