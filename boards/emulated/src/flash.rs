//! NOR flash in memory that a reset leaves alone.
//!
//! The memory is empty when the emulator starts, and a *reset* stands for switching the board off and on. Two words
//! beside it tell whether it is the first start, and after how many operations of the flash the power
//! fails then, if ever: the host that starts the emulator may put a number there. The operation at which it fails
//! is carried out by half.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};

use niwaki_firmware::State;

use crate::serial::Registers;

/// NOR flash of which whole sectors count.
#[derive(Debug)]
pub(crate) struct RamFlash {
    bytes: &'static mut [u8],
    /// Operations until the power fails; none where it does not.
    left: Option<u32>,
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

/// In the second word after the first start.
const STARTED: u32 = 0x6b69_776e;

impl RamFlash {
    /// Bytes of a sector.
    const SECTOR: usize = 4096;

    /// All of the flash of the board, whose `memory.x` says where it is, and where the two words are:
    ///
    /// ```text
    /// _state_start = ...;  _state_end = ...;  _power = ...;
    /// ```
    ///
    /// # Safety
    ///
    /// To be called once.
    pub(crate) unsafe fn take() -> State<Self> {
        unsafe extern "C" {
            static mut _state_start: u8;
            static _state_end: u8;
            static _power: u32;
        }
        let start = &raw mut _state_start;
        let len = (&raw const _state_end).addr().saturating_sub(start.addr());
        // SAFETY: the linker script reserves these bytes for this use alone, in memory that the board has, and
        // the caller takes them once.
        let bytes = unsafe { core::slice::from_raw_parts_mut(start, len) };
        // SAFETY: the two words are there, for this use alone.
        let mut power = unsafe { Registers::<u32>::new((&raw const _power).addr()) };
        let first = power.read(1) != STARTED;
        if first {
            bytes.fill(0xff);
            power.write(1, STARTED);
        }
        let left = Some(power.read(0)).filter(|&left| first && left > 0);
        State { range: 0..len as u32, flash: Self { bytes, left } }
    }

    fn part(&mut self, from: u32, to: u32) -> &mut [u8] {
        self.bytes.get_mut(from as usize..to as usize).unwrap_or_default()
    }

    /// Does `change` to a part, or to half of it and switches the board off and on.
    fn change(&mut self, from: u32, to: u32, change: impl FnOnce(&mut [u8])) {
        let Some(left) = &mut self.left else { return change(self.part(from, to)) };
        *left -= 1;
        if *left > 0 {
            return change(self.part(from, to));
        }
        change(self.part(from, from + (to - from) / 2));
        reset()
    }
}

/// Starts the board anew.
fn reset() -> ! {
    #[cfg(target_arch = "arm")]
    cortex_m::peripheral::SCB::sys_reset();
    #[cfg(target_arch = "riscv32")]
    {
        /// The word for which the device resets the machine.
        const RESET: u32 = 0x7777;
        // SAFETY: QEMU's machine has its test device there, which nothing else uses.
        let mut test = unsafe { Registers::<u32>::new(0x0010_0000) };
        test.write(0, RESET);
        loop {
            core::hint::spin_loop();
        }
    }
}

impl ErrorType for RamFlash {
    type Error = Refused;
}

impl ReadNorFlash for RamFlash {
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

impl NorFlash for RamFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = Self::SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Refused> {
        check_erase(self, from, to)?;
        self.change(from, to, |sectors| sectors.fill(0xff));
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Refused> {
        check_write(self, offset, bytes.len())?;
        let to = offset.saturating_add(bytes.len() as u32);
        // Writing clears bits and never sets one.
        self.change(offset, to, |cells| {
            cells.iter_mut().zip(bytes).for_each(|(to, from)| *to &= from);
        });
        Ok(())
    }
}
