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
pub mod multiparty;
pub mod optimiser;
mod paths;
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

/// Finds the device to train on: `auto`, `flex` (CPU), and `cuda[:N]`, `vulkan[:N]`, `wgpu[:N]` in builds
/// with the feature of that name. Without a number `vulkan` and `wgpu` take the best adapter there is,
/// software included; with one the discrete GPU of that number. With the feature `remote`,
/// `remote:ws://HOST:PORT` is the device that `niwaki serve` serves there.
///
/// # Errors
/// When the name is unknown, this build has no support for it, or the machine has no such device.
pub fn device(name: &str) -> anyhow::Result<Device> {
    if let Some(address) = name.strip_prefix("remote:") {
        return remote(address);
    }
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            let index: usize = index.parse().map_err(|_| {
                anyhow::anyhow!("expected a number after `{kind}:`, found `{index}`")
            })?;
            (kind, Some(index))
        }
        None => (name, None),
    };
    match kind {
        "flex" | "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" | "auto" => Ok(Device::cuda(index.unwrap_or(0))),
        #[cfg(any(feature = "vulkan", feature = "wgpu"))]
        "vulkan" | "wgpu" if gpu::is_built(kind) => gpu::start(kind, index),
        "auto" => Ok(Device::flex()),
        "cuda" | "vulkan" | "wgpu" => anyhow::bail!(
            "this build cannot use {kind}:{}; build it with `--features {kind}`, or train on `flex`",
            index.unwrap_or(0)
        ),
        _ => anyhow::bail!(
            "no device is called `{name}`; expected auto, flex, cuda:N, vulkan, wgpu or remote:ws://HOST:PORT"
        ),
    }
}

/// The environment variable with what clients of a served device must know.
pub const TOKEN_VARIABLE: &str = "NIWAKI_TOKEN";

#[cfg(feature = "remote")]
fn remote(address: &str) -> anyhow::Result<Device> {
    use burn::remote::RemoteHost;
    anyhow::ensure!(
        address.starts_with("ws://"),
        "expected ws://HOST:PORT after `remote:`, found `{address}`"
    );
    let mut host = RemoteHost::websocket(address);
    if let Ok(token) = std::env::var(TOKEN_VARIABLE) {
        host = host.with_credential(token);
    }
    Device::remote_options(&host).init().map_err(|error| {
        anyhow::anyhow!(
            "cannot use the device at {address}: {error} (`niwaki serve` serves one; {TOKEN_VARIABLE} must be the \
             same on both sides)"
        )
    })
}

#[cfg(not(feature = "remote"))]
fn remote(address: &str) -> anyhow::Result<Device> {
    anyhow::bail!(
        "this build cannot use the device at {address}; build it with `--features remote`, or train on `flex`"
    )
}

/// Devices that burn reaches through wgpu.
#[cfg(any(feature = "vulkan", feature = "wgpu"))]
mod gpu {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use anyhow::Context as _;
    use burn::tensor::wgpu::WgpuBackend;
    use burn::tensor::{Device, DeviceKind};

    type Key = (String, Option<usize>);

    /// Devices by name and number. A device is started once in a process; threads share it.
    static STARTED: LazyLock<Mutex<HashMap<Key, Device>>> = LazyLock::new(Mutex::default);

    pub(super) fn is_built(kind: &str) -> bool {
        if kind == "vulkan" { cfg!(feature = "vulkan") } else { cfg!(feature = "wgpu") }
    }

    pub(super) fn start(kind: &str, index: Option<usize>) -> anyhow::Result<Device> {
        // Nothing is half written when a thread ends within.
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind.to_owned(), index);
        if let Some(device) = started.get(&key) {
            return Ok(device.clone());
        }
        let api = if kind == "vulkan" { WgpuBackend::Vulkan } else { WgpuBackend::Auto };
        let device = Device::wgpu_options()
            .device_kind(index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu))
            .graphics_api(api)
            .init()
            .with_context(|| {
                format!(
                    "cannot use {kind}: install a driver (see `vulkaninfo`), or train on `flex`"
                )
            })?;
        started.insert(key, device.clone());
        Ok(device)
    }
}
