//! The *agent*: firmware that runs a model for a host at the other end of a serial line.
//!
//! A board brings what is its own, a serial line and a counter ([`Board`]), and calls [`agent`], which
//! never returns. The model lies in a memory region of its own, outside the firmware, so that it is
//! flashed without touching the firmware; where it and the arena are, the board's linker script says
//! ([`Memory`]), and where in its flash it keeps what it learns ([`State`]). The messages are
//! [`niwaki_core::link`].
//!
//! A product does not need the agent: `firmware/examples/bare` uses `niwaki-core` alone.
#![no_std]

mod agent;
#[cfg(feature = "learn")]
mod learning;
mod memory;
#[cfg(feature = "frontend")]
mod sound;
mod stack;
mod state;
#[cfg(all(target_arch = "arm", target_os = "none"))]
pub mod systick;

pub use agent::{About, Board, agent};
pub use memory::Memory;
pub use niwaki_core::link::CounterUnit;
pub use state::State;
