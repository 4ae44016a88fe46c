//! The CMSDK APB UART, polled.

use core::convert::Infallible;
use core::ptr::without_provenance_mut;

use cortex_m::asm;
use embedded_io::{ErrorType, Read, Write};

/// Registers, as words from the base address.
const DATA: usize = 0;
const STATE: usize = 1;
const CONTROL: usize = 2;
const BAUD_DIVISOR: usize = 4;

const STATE_TRANSMIT_FULL: u32 = 1 << 0;
const STATE_RECEIVE_FULL: u32 = 1 << 1;
const CONTROL_ENABLE_BOTH: u32 = 0b11;
/// The smallest that the device allows. The emulator sends at once whatever it is.
const DIVISOR_MIN: u32 = 16;

/// Instructions between two looks for a byte. An access to a device register stops the emulator's
/// translated code and takes its global lock, which it needs itself to fetch the next byte.
const POLL_PAUSE: u32 = 2000;

/// A serial port.
#[derive(Debug)]
pub struct Uart {
    registers: *mut u32,
}

impl Uart {
    /// The UART whose registers are at `address`, switched on.
    ///
    /// # Safety
    ///
    /// There is such a UART at `address` and nothing else uses it.
    pub unsafe fn new(address: usize) -> Self {
        let mut uart = Self { registers: without_provenance_mut(address) };
        uart.write_register(BAUD_DIVISOR, DIVISOR_MIN);
        uart.write_register(CONTROL, CONTROL_ENABLE_BOTH);
        uart
    }

    fn read_register(&self, word: usize) -> u32 {
        // SAFETY: `new` was promised that the registers are there, and `word` is one of them.
        unsafe { self.registers.add(word).read_volatile() }
    }

    fn write_register(&mut self, word: usize, value: u32) {
        // SAFETY: as for reading; `&mut self` makes this the only access.
        unsafe { self.registers.add(word).write_volatile(value) }
    }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(slot) = buffer.first_mut() else { return Ok(0) };
        while self.read_register(STATE) & STATE_RECEIVE_FULL == 0 {
            asm::delay(POLL_PAUSE);
        }
        *slot = self.read_register(DATA) as u8;
        Ok(1)
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = bytes.first() else { return Ok(0) };
        while self.read_register(STATE) & STATE_TRANSMIT_FULL != 0 {}
        self.write_register(DATA, u32::from(*byte));
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.read_register(STATE) & STATE_TRANSMIT_FULL != 0 {}
        Ok(())
    }
}
