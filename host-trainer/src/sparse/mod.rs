//! Sparse training: masks, methods, and the loop that runs them.
//!
//! [`mask`] divides a density among layers and makes masks, [`criteria`] scores weights, [`Method`] says when they are made and
//! which paths of the network are trained ([`decoupled`] is the method of this project, [`dynamic`]
//! has the rules of methods that move weights), and
//! [`train`] is the one loop for all of them.

pub mod channels;
mod config;
pub mod criteria;
pub mod decoupled;
pub mod dynamic;
mod evaluate;
pub mod inherit;
pub mod layerwise;
pub mod mask;
pub mod method;
pub mod optimiser;
mod state;
mod step;
pub mod strategy;
pub mod supernet;
#[cfg(test)]
mod tests;
mod trainer;

pub use config::Config;
pub use method::Method;
pub use trainer::{EpochRow, Event, Flow, Outcome, create, train};

use burn::tensor::Device;

/// Finds the device to train on: `auto`, `flex` (CPU), and `cuda[:N]`, `vulkan`, `wgpu` in builds
/// with the feature of that name.
///
/// # Errors
/// When the name is unknown or this build has no support for it.
pub fn device(name: &str) -> anyhow::Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            let index: usize = index.parse().map_err(|_| {
                anyhow::anyhow!("expected a number after `{kind}:`, found `{index}`")
            })?;
            (kind, index)
        }
        None => (name, 0),
    };
    match kind {
        "flex" | "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" | "auto" => Ok(Device::cuda(index)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        "auto" => Ok(Device::flex()),
        "cuda" | "vulkan" | "wgpu" => anyhow::bail!(
            "this build cannot use {kind}:{index}; build it with `--features {kind}`, or train on `flex`"
        ),
        _ => anyhow::bail!(
            "no device is called `{name}`; expected auto, flex, cuda:N, vulkan or wgpu"
        ),
    }
}
