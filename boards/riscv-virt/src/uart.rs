//! The NS16550A UART.

use niwaki_emulated::Registers;

// Registers, as bytes from the base address.
const DATA: usize = 0;
const LINE_STATUS: usize = 5;

const STATUS_DATA_READY: u8 = 1 << 0;
const STATUS_TRANSMIT_EMPTY: u8 = 1 << 5;

/// The serial port, as it is after reset: the emulator sends at once whatever the baud rate is. Its FIFOs
/// stay off, for switching them on drops a byte that is there already, and the emulator brings no more
/// before that one is read.
#[derive(Debug)]
pub(crate) struct Uart(Registers<u8>);

impl Uart {
    /// The UART whose registers are at `address`.
    ///
    /// # Safety
    ///
    /// There is such a UART at `address` and nothing else uses it.
    pub(crate) unsafe fn new(address: usize) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { Registers::new(address) })
    }
}

impl niwaki_emulated::Uart for Uart {
    fn receive(&mut self) -> Option<u8> {
        (self.0.read(LINE_STATUS) & STATUS_DATA_READY != 0).then(|| self.0.read(DATA))
    }

    fn send(&mut self, byte: u8) {
        while self.0.read(LINE_STATUS) & STATUS_TRANSMIT_EMPTY == 0 {}
        self.0.write(DATA, byte);
    }
}
