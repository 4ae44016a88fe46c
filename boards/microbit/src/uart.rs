//! The UART of the nRF51 (nRF51 Series Reference Manual, chapter 29), on the pins that lead to the
//! micro:bit's USB interface.

use niwaki_emulated::Registers;

// Registers, as words from the base address.
const TASK_START_RECEIVE: usize = 0;
const TASK_START_TRANSMIT: usize = 0x008 / 4;
const EVENT_RECEIVED: usize = 0x108 / 4;
const EVENT_SENT: usize = 0x11c / 4;
const ENABLE: usize = 0x500 / 4;
const PIN_TRANSMIT: usize = 0x50c / 4;
const PIN_RECEIVE: usize = 0x514 / 4;
const RECEIVED: usize = 0x518 / 4;
const TRANSMIT: usize = 0x51c / 4;
const BAUD_RATE: usize = 0x524 / 4;

const ENABLE_UART: u32 = 4;
const BAUD_115200: u32 = 0x01d7_e000;

/// The serial port.
#[derive(Debug)]
pub(crate) struct Uart(Registers<u32>);

impl Uart {
    /// The UART whose registers are at `address`, switched on.
    ///
    /// # Safety
    ///
    /// There is such a UART at `address` and nothing else uses it.
    pub(crate) unsafe fn new(address: usize) -> Self {
        // SAFETY: passed on to the caller.
        let mut registers = unsafe { Registers::new(address) };
        registers.write(PIN_TRANSMIT, 24);
        registers.write(PIN_RECEIVE, 25);
        registers.write(BAUD_RATE, BAUD_115200);
        registers.write(ENABLE, ENABLE_UART);
        registers.write(TASK_START_RECEIVE, 1);
        registers.write(TASK_START_TRANSMIT, 1);
        Self(registers)
    }
}

impl niwaki_emulated::Uart for Uart {
    fn receive(&mut self) -> Option<u8> {
        (self.0.read(EVENT_RECEIVED) != 0).then(|| {
            // In this order: reading the byte raises the event again for one that waits behind it.
            self.0.write(EVENT_RECEIVED, 0);
            self.0.read(RECEIVED) as u8
        })
    }

    fn send(&mut self, byte: u8) {
        self.0.write(EVENT_SENT, 0);
        self.0.write(TRANSMIT, u32::from(byte));
        while self.0.read(EVENT_SENT) == 0 {}
    }
}
