//! The flash behind the data cache, which does not see what is written to it.

use cortex_m::peripheral::SCB;
use embassy_stm32::Peri;
use embassy_stm32::flash::{Blocking, Error, Flash};
use embassy_stm32::peripherals::FLASH;
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};

/// The address of the flash's first byte.
pub(crate) const ORIGIN: u32 = 0x0800_0000;

/// The chip's flash.
pub(crate) struct CachedFlash {
    flash: Flash<'static, Blocking>,
    cache: SCB,
}

impl CachedFlash {
    pub(crate) fn new(flash: Peri<'static, FLASH>, cache: SCB) -> Self {
        Self { flash: Flash::new_blocking(flash), cache }
    }

    /// Drops what the cache holds of the `len` bytes from `offset` on.
    fn forget(&mut self, offset: u32, len: usize) {
        // Not `invalidate`: that would lose what neighbours of these bytes wait to be written. Lines of
        // flash are never dirty, so that cleaning them writes nothing.
        self.cache.clean_invalidate_dcache_by_address((ORIGIN + offset) as usize, len);
    }
}

impl ErrorType for CachedFlash {
    type Error = Error;
}

impl ReadNorFlash for CachedFlash {
    const READ_SIZE: usize = <Flash<'static, Blocking> as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        ReadNorFlash::read(&mut self.flash, offset, bytes)
    }

    fn capacity(&self) -> usize {
        ReadNorFlash::capacity(&self.flash)
    }
}

impl NorFlash for CachedFlash {
    const WRITE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let result = NorFlash::erase(&mut self.flash, from, to);
        self.forget(from, to.saturating_sub(from) as usize);
        result
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let result = NorFlash::write(&mut self.flash, offset, bytes);
        self.forget(offset, bytes.len());
        result
    }
}
