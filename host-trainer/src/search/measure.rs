//! From a trained candidate to what it is worth.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use niwaki_core::Model;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::settings::{Needs, Search};
use super::sparse::error_of;
use super::study::Evaluation;
use super::worker::Evaluated;
use crate::data::{Dataset, Split};
use crate::export::{AlignedVec, KernelChoice, analyse, evaluate, quantise, write_with};
use crate::net::{Accuracy, Trained, spec::Task};
use crate::sparse::{Event, Flow, Outcome};

/// Name of a candidate's exported model among its artefacts.
pub const MODEL: &str = "model.niwaki";

/// What is found out about a candidate beside its objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Figure of merit of the exported model on the validation split.
    pub merit: f64,
    /// The same of the network in floating point.
    pub float: Accuracy,
    /// What the model takes.
    pub needs: Needs,
    /// Nonzero weights / all weights.
    pub density: f64,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// What was chosen for each layer.
    pub layers: Vec<(String, String)>,
}

/// Trains a candidate in a folder of its own, which goes when it is dropped: `train` gets the folder and an
/// observer that tells `on` the share of `epochs` that is done.
///
/// # Errors
///
/// When the training fails or `stop` ends it.
pub(super) fn in_folder(
    epochs: usize,
    stop: &(dyn Fn() -> bool + Sync),
    on: &mut dyn FnMut(f64),
    train: impl FnOnce(&Path, &mut dyn FnMut(Event<'_>) -> Flow) -> Result<Outcome>,
) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("niwaki-candidate-")
        .tempdir()
        .context("creating a folder for temporary files")?;
    let mut done = 0.0;
    let mut observe = |event: Event<'_>| {
        if let Event::Epoch(_) = event {
            done += 1.0;
            on(done / epochs as f64);
        }
        if stop() { Flow::Stop } else { Flow::Continue }
    };
    let outcome = train(folder.path(), &mut observe)?;
    ensure!(matches!(outcome, Outcome::Complete(_)), "it was stopped");
    Ok(folder)
}

/// What is added to an error before its logarithm is taken: an error of zero is less than one sample.
pub(super) fn grain(task: Task, data: &Dataset) -> f64 {
    match task {
        Task::Classify => 0.5 / data.indices(Split::Val).len().max(1) as f64,
        Task::Reconstruct => 1e-6,
    }
}

/// Exports the network of a complete run and evaluates the model on the validation split.
pub(super) fn measure(
    run: &Path,
    search: &Search,
    data: &Dataset,
    layers: Vec<(String, String)>,
) -> Result<Evaluated> {
    let trained = Trained::load(run)?;
    let graph = quantise(&trained)?;
    let bytes = write_with(&graph, KernelChoice::Cheapest(search.target))?.bytes;
    let blob = AlignedVec::new(&bytes);
    let model = Model::new(blob.as_bytes()).context("the written model is refused")?;
    let merit = evaluate(&model, &blob, data, &data.indices(Split::Val))?.value();
    let analysis = analyse(&model, search.target);
    let needs = Needs {
        flash: analysis.model_bytes,
        ram: analysis.arena_bytes,
        instructions: analysis.instructions,
    };
    search.limits.check(&needs).context("the trained model is larger than was estimated")?;
    let details = Details {
        merit,
        // Nothing that a search sees comes from the test split.
        float: Accuracy { test: None, ..trained.summary.accuracy_float },
        needs,
        density: trained.summary.density,
        nonzeros: trained.summary.nonzeros,
        layers,
    };
    let error = error_of(trained.spec.task, merit);
    Ok(Evaluated {
        evaluation: Evaluation {
            objectives: search.objectives(error, &needs),
            details: serde_json::to_value(details)?,
        },
        artefacts: vec![(MODEL, bytes)],
    })
}
