//! Trials of the layer-wise search and its controls: uniform strategies, and strategies by chance.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;

use super::{Bench, Row, Trial};
use crate::{
    net::RunFile,
    sparse::{
        self, Flow, Outcome,
        layerwise::{Layerwise, LayerwiseFile, layerwise, prepare},
    },
};

/// Dense teachers, one per seed, that all trials with that seed have in common. The trial that comes first
/// trains it while others wait.
#[derive(Debug, Default)]
pub struct Teachers(Mutex<HashMap<u64, Arc<Mutex<()>>>>);

impl Bench<'_> {
    /// Searches or takes the strategies that `settings` ask for, trains the network under their masks,
    /// exports and measures it. What was interrupted goes on after its last complete epoch; `None` when it
    /// is stopped.
    ///
    /// # Errors
    /// When training or export fails.
    pub fn layerwise(
        &self,
        trial: &Trial,
        settings: &Layerwise,
        teachers: &Teachers,
        observe: &mut dyn FnMut(sparse::Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<Row>> {
        let teacher = self.runs.join(format!("teacher-{}", trial.seed));
        {
            let mut all = teachers.0.lock().unwrap_or_else(PoisonError::into_inner);
            let one = Arc::clone(all.entry(trial.seed).or_default());
            drop(all);
            let _guard = one.lock().unwrap_or_else(PoisonError::into_inner);
            let config = settings.teacher_config();
            let file = self.run_file(&config)?;
            let same = |old: &RunFile| {
                old.config == file.config && old.net == file.net && old.data == file.data
            };
            if !(RunFile::exists(&teacher) && RunFile::load(&teacher).is_ok_and(|old| same(&old))) {
                sparse::create(&teacher, &file, &config)?;
            }
            let outcome = sparse::train(&teacher, self.data, &self.device, observe)?;
            if let Outcome::Stopped(_) = outcome {
                return Ok(None);
            }
        }
        let run = self.runs.join(trial.name());
        let file = LayerwiseFile {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            net: self.net.clone(),
            data: self.info.clone(),
            settings: Layerwise { teacher: Some(teacher), ..settings.clone() },
            choice: None,
        };
        let same = |old: &LayerwiseFile| {
            old.settings == file.settings && old.net == file.net && old.data == file.data
        };
        if !(LayerwiseFile::exists(&run) && LayerwiseFile::load(&run).is_ok_and(|old| same(&old))) {
            prepare(&run, &file)?;
        }
        match layerwise(&run, self.data, &self.device, &mut |_, _| {}, observe)? {
            Outcome::Stopped(_) => Ok(None),
            Outcome::Complete(summary) => {
                let choice =
                    LayerwiseFile::load(&run)?.choice.context("the search has no result")?;
                let layers = choice.layers.iter();
                let strategies: serde_json::Map<String, serde_json::Value> = layers
                    .map(|layer| (layer.name.clone(), layer.strategy.to_string().into()))
                    .collect();
                let details = serde_json::json!({
                    "cost_target": choice.cost_target,
                    "cost": choice.cost,
                    "strategies": strategies,
                });
                Ok(Some(Row { details, ..self.row(trial, &run, &summary)? }))
            }
        }
    }
}
