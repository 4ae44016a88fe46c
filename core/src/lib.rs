//! Runs fixed-point sparse neural networks on microcontrollers.
//!
//! * `no_std`, no heap: the caller supplies one arena whose exact size stands in the model.
//! * No float in the inference path: int8 tensors, int32 accumulators, the arithmetic of TFLite's
//!   reference kernels.
//! * [`Model::new`] proves every offset, index, shape and arena bound of the bytes it is given. After
//!   that nothing can panic, index out of range or loop forever, and any byte string is safe to pass.
//!
//! ```no_run
//! use niwaki_core::{AlignedBytes, Arena, Model, Session};
//!
//! # fn sensor() -> [i8; 64] { [0; 64] }
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let blob: &[u8] = &[];
//! // On a device: `static BLOB: &AlignedBytes<[u8]> = &AlignedBytes(*include_bytes!("model.niwaki"));`
//! let model = Model::new(blob)?;
//! let mut arena = Arena::<4096>::new();
//! let mut session: Session = Session::new(model, arena.as_mut_slice())?;
//! let scores: &[i8] = session.run(&sensor())?;
//! # let _ = scores;
//! # Ok(())
//! # }
//! ```
//!
//! The blob's layout is described in `docs/format.md` of the repository; the Rust side of that
//! contract is [`model::layout`].
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(any(test, feature = "pack"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "federated")]
pub mod federated;
#[cfg(feature = "frontend")]
pub mod frontend;
pub mod kernels;
#[cfg(feature = "learn")]
pub mod learn;
#[cfg(feature = "link")]
pub mod link;
pub mod model;
mod session;
#[cfg(feature = "store")]
pub mod store;

pub use kernels::ALL_KERNELS;
pub use model::{Model, ModelError};
pub use session::{AlignedBytes, Arena, RunError, Session};
