//! The memory that the linker script gives the model and the arena.

use core::cell::Cell;
use core::slice;

use critical_section::Mutex;

/// The model region and the arena.
///
/// The board's `memory.x` places them with four symbols, each a multiple of 4:
///
/// ```text
/// _model_start = ...;  _model_end = ...;
/// _arena_start = ...;  _arena_end = ...;
/// ```
#[derive(Debug)]
pub struct Memory {
    /// The region that holds the model, as flashed. Anything may be in it.
    pub model: &'static [u8],
    /// Where the model's activations live.
    pub arena: &'static mut [i8],
}

static TAKEN: Mutex<Cell<bool>> = Mutex::new(Cell::new(false));

impl Memory {
    /// The memory, at the first call; `None` afterwards, for the arena has one owner.
    pub fn take() -> Option<Self> {
        unsafe extern "C" {
            static _model_start: u8;
            static _model_end: u8;
            static mut _arena_start: i8;
            static mut _arena_end: i8;
        }
        if critical_section::with(|cs| TAKEN.borrow(cs).replace(true)) {
            return None;
        }
        let model = &raw const _model_start;
        let model_len = (&raw const _model_end).addr().saturating_sub(model.addr());
        let arena = &raw mut _arena_start;
        let arena_len = (&raw mut _arena_end).addr().saturating_sub(arena.addr());
        // SAFETY: the linker script reserves both regions for this use alone, apart from each other and
        // from all that the linker places, in memory that the board has. Bytes of any value are valid
        // `u8` and `i8`. `TAKEN` sees to it that there is one reference to the arena.
        unsafe {
            Some(Self {
                model: slice::from_raw_parts(model, model_len),
                arena: slice::from_raw_parts_mut(arena, arena_len),
            })
        }
    }
}
