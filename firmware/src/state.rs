//! Flash for what a board learns.

use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;

/// Flash for what a board learns, and its key as one of a federation: nothing else writes there, and a reset or
/// another firmware leaves it as it is.
#[derive(Debug)]
pub struct State<F> {
    /// The driver of the flash.
    pub flash: F,
    /// Whole pages, in the driver's addresses; empty where the board has no flash for this.
    pub range: Range<u32>,
}

impl<F: NorFlash> State<F> {
    /// The partition in `flash`, whose first byte is at the address `origin`.
    ///
    /// The board's `memory.x` places it with two symbols, each at the border of a page:
    ///
    /// ```text
    /// _state_start = ...;  _state_end = ...;
    /// ```
    pub fn partition(flash: F, origin: u32) -> Self {
        unsafe extern "C" {
            static _state_start: u8;
            static _state_end: u8;
        }
        let offset = |symbol: *const u8| (symbol.addr() as u32).wrapping_sub(origin);
        let range = offset(&raw const _state_start)..offset(&raw const _state_end);
        Self { flash, range }
    }
}
