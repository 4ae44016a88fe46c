//! Niwaki host.
pub mod data;
pub mod net;
pub mod sparse;
