//! The models of a front: written to a folder and compared on the target.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use niwaki_core::Model;

use super::arch_space;
use super::measure::MODEL;
use super::settings::What;
use super::study::{Candidate, Study};
use super::view::{VALIDATION, Validated, View};
use crate::data::{Dataset, Split};
use crate::export::{AlignedVec, Card, evaluate, hexadecimal, quantised_inputs, write_model};
use crate::net::trained::write_atomically;
use crate::target::{Firmware, Samples, Target, clips, validate};

/// The exported model of a candidate.
///
/// # Errors
/// When the study fails or the candidate has none.
pub fn model_of(study: &Study, candidate: i64) -> Result<AlignedVec> {
    let bytes = study.artefact(candidate, MODEL)?.with_context(|| {
        format!("candidate {candidate} of the study {} has no model", study.place())
    })?;
    Ok(AlignedVec::new(&bytes))
}

/// Writes the model of a candidate, with its card beside it.
///
/// # Errors
/// When the study fails, the candidate has no model or a file cannot be written.
pub fn export(study: &Study, view: &View, candidate: &Candidate, path: &Path) -> Result<()> {
    let blob = model_of(study, candidate.id)?;
    let model = Model::new(blob.as_bytes()).context("the stored model is refused")?;
    write_model(path, blob.as_bytes())?;
    let details = view.details(candidate)?.context("the candidate is not evaluated")?;
    let card = Card {
        model_id: hexadecimal(&model.id()),
        run: PathBuf::from(format!("{}, candidate {}", study.place(), candidate.id)),
        data: view.search.data.clone(),
        accuracy_float: details.float,
    };
    card.save(path)
}

/// Writes the description of a candidate's network.
///
/// # Errors
/// When it is not one of its search or the file cannot be written.
pub fn export_net(view: &View, candidate: &Candidate, path: &Path) -> Result<()> {
    let net = match &view.search.what {
        What::Sparse(sparse) => sparse.net.clone(),
        What::Arch(_) => arch_space::describe(&candidate.proposal.genome)?,
    };
    let text = toml::to_string(&net).context("describing the network")?;
    write_atomically(path, text.as_bytes())
}

/// Compares every model of the front that was not yet compared with its target, or on fewer samples, on the
/// first `samples` of the test split (of the validation split where there is none). `done` is told after each.
///
/// # Errors
/// When the target cannot be used or the study fails.
pub fn validate_front(
    study: &Study,
    view: &View,
    data: &Dataset,
    target: &Target,
    firmware: Option<&Firmware>,
    samples: usize,
    done: &mut dyn FnMut(i64, &Validated),
) -> Result<()> {
    let test = data.indices(Split::Test);
    let mut compared = if test.is_empty() { data.indices(Split::Val) } else { test.clone() };
    compared.truncate(samples);
    for &id in &view.front {
        let enough =
            |known: &Validated| known.target == target.name() && known.samples >= compared.len();
        if view.validated.get(&id).is_some_and(enough) {
            continue;
        }
        let blob = model_of(study, id)?;
        let model = Model::new(blob.as_bytes()).context("the stored model is refused")?;
        let inputs: Vec<Vec<i8>> = quantised_inputs(&model, data, &compared)?
            .chunks(model.input().len())
            .map(<[i8]>::to_vec)
            .collect();
        let clips = clips(&model, data, &compared);
        let samples =
            Samples { inputs: &inputs, labels: None, golden: None, clips: clips.as_deref() };
        let found = validate(target, firmware, &model, samples, &|| {})?;
        let merit_test = match test.is_empty() {
            true => None,
            false => Some(evaluate(&model, &blob, data, &test)?.value()),
        };
        let validated = Validated {
            target: found.target,
            samples: found.samples,
            mismatched_bytes: found.mismatched_bytes
                + found.mismatched_feature_bytes.unwrap_or_default(),
            instructions: found.instructions_per_inference,
            stack_bytes: found.stack_bytes,
            merit_test,
        };
        study.attach(id, VALIDATION, &serde_json::to_vec(&validated)?)?;
        done(id, &validated);
    }
    Ok(())
}
