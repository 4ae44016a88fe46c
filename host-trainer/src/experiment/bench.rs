//! Trains, exports and measures networks for trials.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::tensor::Device;
use niwaki_core::Model;
use serde_json::Value;

use super::{Row, Trial};
use crate::{
    data::{Dataset, Split},
    export,
    net::{DataInfo, NetSpec, RunFile, Summary},
    sparse::{self, Config, Flow, Outcome},
    target::cost::Core,
};

/// What all trials of an experiment have in common.
#[derive(Clone)]
pub struct Bench<'a> {
    /// The network, complete for the data.
    pub net: NetSpec,
    /// The data.
    pub data: &'a Dataset,
    /// How the data were loaded.
    pub info: DataInfo,
    /// Device to train on.
    pub device: Device,
    /// Folder for the runs of trials, each in one of its own.
    pub runs: PathBuf,
    /// Core that models are exported and their costs predicted for.
    pub target: Core,
    /// Commit of this program, where it is known.
    pub commit: Option<String>,
}

/// An exported model and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Figure of merit of the model on the test split.
    pub int8: f64,
    /// Predicted instructions of one inference.
    pub instructions: f64,
    /// Bytes of the model.
    pub flash_bytes: usize,
    /// Bytes of its arena.
    pub arena_bytes: usize,
}

impl Bench<'_> {
    /// Description of a run of the network with these settings.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub fn run_file(&self, config: &Config) -> anyhow::Result<RunFile> {
        Ok(RunFile {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            net: self.net.clone(),
            data: self.info.clone(),
            config: serde_json::to_value(config)?,
            summary: None,
        })
    }

    /// Trains a network with these settings, exports it and measures the model. A training that was
    /// interrupted goes on after its last complete epoch; `None` when it is stopped.
    ///
    /// # Errors
    /// When training or export fails.
    pub fn train(
        &self,
        trial: &Trial,
        config: &Config,
        observe: &mut dyn FnMut(sparse::Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<Row>> {
        let run = self.runs.join(trial.name());
        let file = self.run_file(config)?;
        let same = |old: &RunFile| {
            old.config == file.config && old.net == file.net && old.data == file.data
        };
        if !(RunFile::exists(&run) && RunFile::load(&run).is_ok_and(|old| same(&old))) {
            sparse::create(&run, &file, config)?;
        }
        match sparse::train(&run, self.data, &self.device, observe)? {
            Outcome::Stopped(_) => Ok(None),
            Outcome::Complete(summary) => Ok(Some(self.row(trial, &run, &summary)?)),
        }
    }

    /// The row of a trial whose complete run is in a folder.
    ///
    /// # Errors
    /// When it cannot be exported or the data have no test split.
    pub fn row(&self, trial: &Trial, run: &Path, summary: &Summary) -> anyhow::Result<Row> {
        let measured = self.measure(run)?;
        Ok(Row {
            trial: trial.clone(),
            density_real: summary.density,
            nonzeros: summary.nonzeros,
            float: summary.accuracy_float.test.context("the data have no test split")?,
            int8: measured.int8,
            instructions: measured.instructions,
            flash_bytes: measured.flash_bytes,
            arena_bytes: measured.arena_bytes,
            seconds: summary.seconds,
            commit: self.commit.clone(),
            details: Value::Null,
        })
    }

    /// Exports the network of a complete run to `model.niwaki` beside it and measures that.
    ///
    /// # Errors
    /// When it cannot be exported or the data have no test split.
    pub fn measure(&self, run: &Path) -> anyhow::Result<Measured> {
        let path = run.join("model.niwaki");
        export::export_run(run, &path, self.target, None, None)?;
        let blob = export::read_model(&path)?;
        let model = Model::new(blob.as_bytes()).context("the written model is refused")?;
        let samples = self.data.indices(Split::Test);
        ensure!(!samples.is_empty(), "the data have no test split");
        let merit = export::evaluate(&model, &blob, self.data, &samples)?;
        let analysis = export::analyse(&model, self.target);
        Ok(Measured {
            int8: merit.value(),
            instructions: analysis.instructions,
            flash_bytes: analysis.model_bytes,
            arena_bytes: analysis.arena_bytes,
        })
    }
}
