//! The partition for what a board has learned.

use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use niwaki_core::store::{Store, StoreError};

/// The partition, in addresses of the flash driver, whose first byte is at the address `origin`.
///
/// The board's `memory.x` places it with two symbols, each at the border of a page:
///
/// ```text
/// _state_start = ...;  _state_end = ...;
/// ```
fn partition(origin: u32) -> Range<u32> {
    unsafe extern "C" {
        static _state_start: u8;
        static _state_end: u8;
    }
    let offset = |symbol: *const u8| (symbol.addr() as u32).wrapping_sub(origin);
    offset(&raw const _state_start)..offset(&raw const _state_end)
}

/// Logs what the partition holds.
pub(crate) fn report<F: NorFlash>(flash: F, origin: u32) {
    let range = partition(origin);
    defmt::info!("state: flash {=u32:#x} to {=u32:#x}", range.start, range.end);
    match Store::new(flash, range).and_then(|mut store| store.snapshot()) {
        Ok(Some(snapshot)) => {
            defmt::info!("state: round {=u32} of model {}", snapshot.round, snapshot.model);
        }
        Ok(None) => defmt::info!("state: nothing learned yet"),
        Err(StoreError::Flash(_)) => defmt::warn!("state: the flash failed"),
        Err(StoreError::Range | StoreError::Geometry) => {
            defmt::warn!("state: the partition does not fit the flash");
        }
        Err(_) => defmt::warn!("state: damaged"),
    }
}
