//! Trains sparse neural networks, exports them as fixed-point models and runs them on
//! microcontrollers.
//!
//! Data flows one way: [`data`] -> [`net`] -> [`sparse`] -> [`export`] -> a blob, which
//! `niwaki-core` runs here and on a device. [`experiment`] compares methods, [`target`] measures and checks blobs on devices.

pub mod data;
#[cfg(unix)]
pub mod experiment;
pub mod export;
#[cfg(unix)]
pub mod federate;
pub mod import;
pub mod learn;
pub mod net;
#[cfg(unix)]
pub mod report;
pub mod search;
pub mod sparse;
#[cfg(unix)]
pub mod target;
