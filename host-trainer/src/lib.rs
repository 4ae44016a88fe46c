//! Trains sparse neural networks, exports them as fixed-point models and runs them on
//! microcontrollers.

pub mod data;
pub mod export;
pub mod import;
