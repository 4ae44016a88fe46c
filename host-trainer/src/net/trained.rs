//! A training run on disk, and the trained network in it.
//!
//! | file | what |
//! |---|---|
//! | `run.json` | [`RunFile`]: settings, the network, the data, and in the end the results |
//! | `checkpoint.safetensors` | everything learned after the last complete epoch ([`Params`]) and the optimiser's state |
//! | `metrics.jsonl` | one line per epoch |

use std::{io::Write, path::Path};

use anyhow::{Context, bail};
use niwaki_core::model::FrontEnd;
use serde::{Deserialize, Serialize};

use super::{Graph, NetSpec, Params};
use crate::data::{Dataset, LoadOptions, Normalisation};

/// File with settings and results of a run.
pub const RUN_FILE: &str = "run.json";
/// File with what a run has learned.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";
/// File with one line per epoch.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Settings and results of a training run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of niwaki that started it.
    pub version: String,
    /// The network, with the sizes that the data decides filled in.
    pub net: NetSpec,
    /// The data it learns from.
    pub data: DataInfo,
    /// Settings of the training, as [`crate::sparse::Config`].
    pub config: serde_json::Value,
    /// Results; absent until the run is complete.
    pub summary: Option<Summary>,
}

/// What must be known about the training data to use a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataInfo {
    /// Name or path, as given to [`crate::data::load`].
    pub spec: String,
    /// Options of loading.
    pub options: LoadOptions,
    /// Name of the data set.
    pub name: String,
    /// Name of every class.
    pub label_names: Vec<String>,
    /// From raw values to network input.
    pub normalisation: Normalisation,
    /// From sound to raw values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_end: Option<FrontEnd>,
}

impl DataInfo {
    /// Describes a loaded data set.
    pub fn new(spec: &str, options: &LoadOptions, data: &Dataset) -> Self {
        Self {
            spec: spec.to_owned(),
            options: options.clone(),
            name: data.name.clone(),
            label_names: data.label_names.clone(),
            normalisation: data.normalisation.clone(),
            front_end: data.sound.as_ref().map(|sound| sound.front_end),
        }
    }
}

/// Results of a complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the backbone with float weights and activations.
    pub accuracy_float: Accuracy,
    /// Of the backbone with simulated int8 weights and activations.
    pub accuracy_int8_simulated: Accuracy,
    /// Nonzero weights / all weights of convolutions and linear layers.
    pub density: f64,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// All weights.
    pub weights: usize,
    /// Multiply-accumulates of one inference that skips zero weights.
    pub macs: usize,
    /// The same without skipping.
    pub macs_dense: usize,
    /// What dropping the redundant units changed; absent for methods that have none.
    pub dropped: Option<Dropped>,
    /// Complete epochs.
    pub epochs: usize,
    /// Training samples per second of training time, without evaluation.
    pub images_per_s: f64,
    /// Seconds of training and evaluation, over all sessions of a resumed run.
    pub seconds: f64,
}

/// A figure of merit per split: the share of correct classifications, or for reconstruction the
/// mean squared error. Absent where the split is empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// On the validation split.
    pub val: Option<f64>,
    /// On the test split.
    pub test: Option<f64>,
}

/// What dropping the redundant units did to the float network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Steps that were trained before.
    pub step: usize,
    /// Largest magnitude of a redundant weight.
    pub largest: f32,
    /// Factor of the redundant weights in the last step in which it was not 0.
    pub last_gamma: f64,
    /// Samples that were compared: the test split.
    pub samples: usize,
    /// Predictions that they changed at that factor.
    pub changed: usize,
}

/// A trained network, ready for export.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its description, complete.
    pub spec: NetSpec,
    /// The same, checked and with all shapes.
    pub graph: Graph,
    /// What it learned; weights outside the masks are zero.
    pub params: Params,
    /// The data it learned from.
    pub data: DataInfo,
    /// Results of the run.
    pub summary: Summary,
}

impl Trained {
    /// Reads the network from the folder of a complete run.
    ///
    /// # Errors
    /// When there is no run, it is incomplete or damaged.
    pub fn load(run: &Path) -> anyhow::Result<Self> {
        let file = RunFile::load(run)?;
        let Some(summary) = file.summary else {
            bail!(
                "the run in {0} is not complete; continue it with `niwaki train --resume --out {0}`",
                run.display()
            );
        };
        let (mut params, _) = Params::load(&run.join(CHECKPOINT_FILE))?;
        params.drop_masked();
        let graph = Graph::new(&file.net)?;
        for param in graph.params() {
            params
                .get(&param.name, &param.shape)
                .with_context(|| format!("in {}", run.join(CHECKPOINT_FILE).display()))?;
        }
        Ok(Self { spec: file.net, graph, params, data: file.data, summary })
    }
}

impl RunFile {
    /// Whether a folder holds a run.
    pub fn exists(run: &Path) -> bool {
        run.join(RUN_FILE).exists()
    }

    /// Reads the file from the folder of a run.
    ///
    /// # Errors
    /// When there is none or it is damaged.
    pub fn load(run: &Path) -> anyhow::Result<Self> {
        let path = run.join(RUN_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("reading {}; is {} the folder of a run?", path.display(), run.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Writes the file; a reader sees the old content or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, run: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_atomically(&run.join(RUN_FILE), text.as_bytes())
    }
}

/// Replaces a file at once, through a temporary file in the same folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // Temporary files are private; what takes their place is an ordinary file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}
