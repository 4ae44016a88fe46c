//! Networks: their description, their sizes, their parameters, and how burn runs them.
//!
//! A [`spec::NetSpec`] (TOML file or [`preset`]) becomes a checked [`shape::Graph`], which is grouped
//! into [`units`]. [`params::Params`] holds everything learned as plain host tensors by name;
//! [`module`] runs the units with burn.

pub mod module;
pub mod params;
mod preset;
pub mod quant;
pub mod shape;
pub mod spec;
pub mod trained;
pub mod units;

pub use params::Params;
pub use preset::{PRESETS, Preset, preset};
pub use shape::Graph;
pub use spec::{NetError, NetSpec};
pub use trained::{Accuracy, DataInfo, Dropped, METRICS_FILE, RunFile, Summary, Trained};

use std::path::Path;

use anyhow::Context;

/// Reads a description: a preset (`lenet`, `lenet:width=2`) or a path that ends in `.toml`.
///
/// # Errors
/// When there is no such preset or file, or the file is no valid description.
pub fn describe(text: &str) -> anyhow::Result<NetSpec> {
    if Path::new(text).extension().is_none_or(|extension| extension != "toml") {
        return Ok(preset(text)?);
    }
    let toml = std::fs::read_to_string(text)
        .with_context(|| format!("reading the network description {text}"))?;
    toml::from_str(&toml).with_context(|| format!("in the network description {text}"))
}
