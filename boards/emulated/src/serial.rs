//! A serial line over a UART that is polled.

use core::convert::Infallible;
use core::ptr::without_provenance_mut;

use embedded_io::{ErrorType, Read, Write};

use crate::execute;

/// Instructions between two looks for a byte. An access to a device register stops the emulator's translated
/// code and takes its global lock, which it needs itself to fetch the next byte.
const POLL_PAUSE: u32 = 4000;

/// The registers of a device: words, or bytes where `R` is `u8`.
#[derive(Debug)]
pub struct Registers<R>(*mut R);

impl<R> Registers<R> {
    /// Those of the device at `address`.
    ///
    /// # Safety
    ///
    /// There is a device at `address` that has every register which is read or written through this, and
    /// nothing else uses it.
    pub unsafe fn new(address: usize) -> Self {
        Self(without_provenance_mut(address))
    }

    /// Reads the register with this index.
    pub fn read(&self, index: usize) -> R {
        // SAFETY: `new` was promised that the register is there.
        unsafe { self.0.add(index).read_volatile() }
    }

    /// Writes the register with this index.
    pub fn write(&mut self, index: usize, value: R) {
        // SAFETY: as for reading; `&mut self` makes this the only access.
        unsafe { self.0.add(index).write_volatile(value) }
    }
}

/// A UART.
pub trait Uart {
    /// The next byte, if one has arrived.
    fn receive(&mut self) -> Option<u8>;

    /// Sends a byte, after waiting until there is room for it.
    fn send(&mut self, byte: u8);
}

/// The line of a UART.
#[derive(Debug)]
pub struct Serial<U>(pub U);

impl<U> ErrorType for Serial<U> {
    type Error = Infallible;
}

impl<U: Uart> Read for Serial<U> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(slot) = buffer.first_mut() else { return Ok(0) };
        loop {
            if let Some(byte) = self.0.receive() {
                *slot = byte;
                return Ok(1);
            }
            execute(POLL_PAUSE);
        }
    }
}

impl<U: Uart> Write for Serial<U> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = bytes.first() else { return Ok(0) };
        self.0.send(*byte);
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
