//! Niwaki host.
pub mod data;
