//! The UART's blocking line: its driver, which buffers what arrives, is an asynchronous one.

use embassy_futures::block_on;
use embassy_nrf::buffered_uarte::BufferedUarte;
use embedded_io::{ErrorType, Read, Write};
use embedded_io_async as asynchronous;

/// The line of a UART.
pub(crate) struct Serial<'d>(pub(crate) BufferedUarte<'d>);

impl<'d> ErrorType for Serial<'d> {
    type Error = <BufferedUarte<'d> as asynchronous::ErrorType>::Error;
}

impl Read for Serial<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error> {
        block_on(asynchronous::Read::read(&mut self.0, buffer))
    }
}

impl Write for Serial<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        block_on(asynchronous::Write::write(&mut self.0, bytes))
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        block_on(asynchronous::Write::flush(&mut self.0))
    }
}
