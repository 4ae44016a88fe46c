//! Helpers of the tests that cross crates.

#[cfg(unix)]
pub mod attached;
pub mod boards;
pub mod networks;
