//! The model and the arena, both in RAM.

use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};

use embedded_storage::nor_flash::ReadNorFlash;
use niwaki_real::Memory;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Copies the model's partition of `flash` to RAM and returns it with the arena, at the first call.
///
/// The flash's cache shows a program those pages that the boot loader has mapped for it, and no others.
pub(crate) fn take<F: ReadNorFlash>(flash: &mut F) -> Option<Memory> {
    unsafe extern "C" {
        static _model_start: u8;
        static mut _copy_start: u8;
        static mut _copy_end: u8;
        static mut _arena_start: i8;
        static mut _arena_end: i8;
    }
    if TAKEN.load(Ordering::Relaxed) {
        return None;
    }
    TAKEN.store(true, Ordering::Relaxed);
    let copy = &raw mut _copy_start;
    let copy_len = (&raw mut _copy_end).addr().saturating_sub(copy.addr());
    let arena = &raw mut _arena_start;
    let arena_len = (&raw mut _arena_end).addr().saturating_sub(arena.addr());
    // SAFETY: the linker script reserves both regions for this use alone. `TAKEN` sees to it that there is
    // one reference to each. They are written before they are read, so that what they hold after a reset
    // does not matter.
    let (copy, arena) = unsafe {
        copy.write_bytes(0, copy_len);
        arena.write_bytes(0, arena_len);
        (slice::from_raw_parts_mut(copy, copy_len), slice::from_raw_parts_mut(arena, arena_len))
    };
    let offset = (&raw const _model_start).addr() as u32;
    if flash.read(offset, copy).is_err() {
        defmt::error!("the model's partition cannot be read");
        copy.fill(0);
    }
    Some(Memory { model: copy, arena })
}
