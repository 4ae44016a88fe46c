//! Niwaki host.
pub mod data;
#[cfg(unix)]
pub mod target;
