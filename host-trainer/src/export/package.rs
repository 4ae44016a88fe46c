//! A `.niwaki` file and the card beside it.
//!
//! The card (`NAME.niwaki.json`) says where the model comes from and how good the network was in
//! floating point. Nothing needs it to run the model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use niwaki_core::Model;
use serde::{Deserialize, Serialize};

use super::{AlignedVec, KernelChoice, mark_tunable, quantise, write_within};
use crate::net::trained::write_atomically;
use crate::net::{Accuracy, DataInfo, Trained};
use crate::target::cost::Core;

/// Where a model comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    /// Id of the model that the card belongs to, in hexadecimal.
    pub model_id: String,
    /// Folder of the run that it was trained in.
    pub run: PathBuf,
    /// Data that it was trained on.
    pub data: DataInfo,
    /// Accuracy of the float network.
    pub accuracy_float: Accuracy,
}

/// Path of the card beside a model.
pub fn card_path(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

impl Card {
    /// Writes the card beside the model.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, model: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_atomically(&card_path(model), text.as_bytes())
    }

    /// The card beside a model, when there is one and it belongs to the model.
    pub fn find(path: &Path, model: &Model<'_>) -> Option<Self> {
        let text = std::fs::read_to_string(card_path(path)).ok()?;
        let card: Self = serde_json::from_str(&text).ok()?;
        (card.model_id == hexadecimal(&model.id())).then_some(card)
    }
}

/// Bytes in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exports the network of a complete run for a core and an arena of at most so many bytes, with its card
/// beside it. The last `tunable` weighted layers are marked to be tuned on the device.
///
/// # Errors
///
/// When the run is not complete, its network cannot be exported, its layers cannot be tuned, or a file
/// cannot be written.
pub fn export_run(
    run: &Path,
    path: &Path,
    core: Core,
    arena_limit: Option<usize>,
    tunable: Option<usize>,
) -> Result<()> {
    let trained = Trained::load(run)?;
    let graph = quantise(&trained)
        .with_context(|| format!("quantising the network of {}", run.display()))?;
    let mut bytes = write_within(&graph, KernelChoice::Cheapest(core), arena_limit)?.bytes;
    if let Some(layers) = tunable {
        bytes = mark_tunable(&bytes, layers)?;
    }
    let blob = AlignedVec::new(&bytes);
    let model = Model::new(blob.as_bytes()).context("the written model is refused")?;
    write_model(path, &bytes)?;
    let card = Card {
        model_id: hexadecimal(&model.id()),
        run: run.canonicalize().unwrap_or_else(|_| run.to_path_buf()),
        data: trained.data,
        accuracy_float: trained.summary.accuracy_float,
    };
    card.save(path)
}

/// Reads the bytes of a model, with its last `layers` marked as tunable instead of those it has, if given.
///
/// # Errors
///
/// As [`read_model`] and [`mark_tunable`].
pub fn read_tunable(path: &Path, layers: Option<usize>) -> Result<AlignedVec> {
    let blob = read_model(path)?;
    let Some(layers) = layers else { return Ok(blob) };
    let marked = mark_tunable(blob.as_bytes(), layers);
    Ok(AlignedVec::new(&marked.with_context(|| path.display().to_string())?))
}

/// Reads the bytes of a model at the alignment that [`Model::new`] needs.
///
/// # Errors
///
/// When the file cannot be read.
pub fn read_model(path: &Path) -> Result<AlignedVec> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading the model {}", path.display()))?;
    Ok(AlignedVec::new(&bytes))
}

/// Writes the bytes of a model; a reader sees the old file or the new one.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_model(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, bytes)
}
