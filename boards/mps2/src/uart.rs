//! The CMSDK APB UART.

use niwaki_emulated::Registers;

// Registers, as words from the base address.
const DATA: usize = 0;
const STATE: usize = 1;
const CONTROL: usize = 2;
const BAUD_DIVISOR: usize = 4;

const STATE_TRANSMIT_FULL: u32 = 1 << 0;
const STATE_RECEIVE_FULL: u32 = 1 << 1;
const CONTROL_ENABLE_BOTH: u32 = 0b11;
/// The smallest that the device allows. The emulator sends at once whatever it is.
const DIVISOR_MIN: u32 = 16;

/// A serial port.
#[derive(Debug)]
pub struct Uart(Registers<u32>);

impl Uart {
    /// The UART whose registers are at `address`, switched on.
    ///
    /// # Safety
    ///
    /// There is such a UART at `address` and nothing else uses it.
    pub unsafe fn new(address: usize) -> Self {
        // SAFETY: passed on to the caller.
        let mut registers = unsafe { Registers::new(address) };
        registers.write(BAUD_DIVISOR, DIVISOR_MIN);
        registers.write(CONTROL, CONTROL_ENABLE_BOTH);
        Self(registers)
    }
}

impl niwaki_emulated::Uart for Uart {
    fn receive(&mut self) -> Option<u8> {
        (self.0.read(STATE) & STATE_RECEIVE_FULL != 0).then(|| self.0.read(DATA) as u8)
    }

    fn send(&mut self, byte: u8) {
        while self.0.read(STATE) & STATE_TRANSMIT_FULL != 0 {}
        self.0.write(DATA, u32::from(byte));
    }
}
