//! NOR flash in memory, for boards without flash of their own: emulated ones. It forgets everything when the
//! board is switched off.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};

/// NOR flash in `bytes`, of which whole sectors count.
#[derive(Debug)]
pub(crate) struct RamFlash<'a> {
    bytes: &'a mut [u8],
}

/// Why a sector or word cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(NorFlashErrorKind);

impl NorFlashError for Refused {
    fn kind(&self) -> NorFlashErrorKind {
        self.0
    }
}

impl From<NorFlashErrorKind> for Refused {
    fn from(kind: NorFlashErrorKind) -> Self {
        Self(kind)
    }
}

impl<'a> RamFlash<'a> {
    /// Bytes of a sector.
    const SECTOR: usize = 4096;

    /// Erased flash in this memory.
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        bytes.fill(0xff);
        Self { bytes }
    }

    fn part(&mut self, from: u32, to: u32) -> &mut [u8] {
        self.bytes.get_mut(from as usize..to as usize).unwrap_or_default()
    }
}

impl ErrorType for RamFlash<'_> {
    type Error = Refused;
}

impl ReadNorFlash for RamFlash<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Refused> {
        check_read(self, offset, bytes.len())?;
        let from = self.part(offset, offset.saturating_add(bytes.len() as u32));
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for RamFlash<'_> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = Self::SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Refused> {
        check_erase(self, from, to)?;
        self.part(from, to).fill(0xff);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Refused> {
        check_write(self, offset, bytes.len())?;
        let to = self.part(offset, offset.saturating_add(bytes.len() as u32));
        // Writing clears bits and never sets one.
        to.iter_mut().zip(bytes).for_each(|(to, from)| *to &= from);
        Ok(())
    }
}
