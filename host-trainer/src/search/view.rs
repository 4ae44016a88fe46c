//! What a study has found, for tables, reports and programs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measure::Details;
use super::pareto;
use super::settings::{Reference, Search};
use super::study::{Candidate, Status, Study};
use super::surrogate::kendall_tau;

/// Name of a candidate's comparison with its target among its artefacts.
pub const VALIDATION: &str = "validation.json";

/// A model of the front on its target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// Name of the target.
    pub target: String,
    /// Inputs on which host and target were compared.
    pub samples: usize,
    /// Output bytes that differ.
    pub mismatched_bytes: usize,
    /// Executed instructions of an inference; none on the host.
    pub instructions: Option<u64>,
    /// Most stack that an inference took; none on the host.
    pub stack_bytes: Option<u32>,
    /// Figure of merit on the test split, which the search has not seen; none where there is no such split.
    pub merit_test: Option<f64>,
}

/// A study at a moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Where it is.
    pub place: String,
    /// Its settings.
    pub search: Search,
    /// Number of candidates that it is to have.
    pub budget: usize,
    /// All candidates in the order of their proposals.
    pub candidates: Vec<Candidate>,
    /// What they are compared with, once that is known.
    pub reference: Option<Reference>,
    /// Candidates that no other one beats, by their first objective.
    pub front: Vec<i64>,
    /// Members of the front on the target, as far as they were compared.
    pub validated: BTreeMap<i64, Validated>,
}

impl View {
    /// Reads a study.
    ///
    /// # Errors
    /// When the database fails or the study holds what this version does not know.
    pub fn load(study: &Study) -> Result<Self> {
        let search = serde_json::from_value(study.settings()?)
            .with_context(|| format!("in the settings of the study {}", study.place()))?;
        let candidates = study.candidates()?;
        let reference = study.ready_part("reference")?;
        let reference = reference.map(|bytes| serde_json::from_slice(&bytes)).transpose()?;
        let front: Vec<i64> =
            super::worker::front(&candidates).into_iter().map(|candidate| candidate.id).collect();
        let mut validated = BTreeMap::new();
        for &id in &front {
            if let Some(bytes) = study.artefact(id, VALIDATION)? {
                validated.insert(id, serde_json::from_slice(&bytes)?);
            }
        }
        Ok(Self {
            place: study.place().to_string(),
            budget: study.budget()?,
            search,
            candidates,
            reference,
            front,
            validated,
        })
    }

    /// The candidate with this number.
    pub fn candidate(&self, id: i64) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.id == id)
    }

    /// Number of candidates that have this status.
    pub fn count(&self, status: Status) -> usize {
        self.candidates.iter().filter(|candidate| candidate.status == status).count()
    }

    /// Candidates that are done, in the order in which they were, with their objectives.
    pub fn done(&self) -> Vec<(&Candidate, &[f64])> {
        let done = self.candidates.iter().filter_map(|candidate| {
            Some((candidate, &candidate.evaluation.as_ref()?.objectives[..]))
        });
        let mut done: Vec<_> = done.collect();
        done.sort_by_key(|(candidate, _)| candidate.told);
        done
    }

    /// Hypervolume of the front as a share of what the dense network bounds, once that is known.
    pub fn hypervolume(&self) -> Option<f64> {
        self.curve().last().copied().or_else(|| self.reference.as_ref().map(|_| 0.0))
    }

    /// Hypervolume after each evaluation.
    pub fn curve(&self) -> Vec<f64> {
        let Some(reference) = &self.reference else { return Vec::new() };
        let mut front: Vec<Vec<f64>> = Vec::new();
        let mut curve = Vec::new();
        for (_, objectives) in self.done() {
            front.push(objectives.to_vec());
            front = pareto::front(&front).into_iter().map(|at| front[at].clone()).collect();
            curve.push(reference.hypervolume(&front));
        }
        curve
    }

    /// What the error of each candidate was predicted to be before anything was known of it, and what it
    /// turned out to be, in the order of evaluation.
    pub fn predictions(&self) -> Vec<(f64, f64)> {
        let pairs = self.done().into_iter().filter_map(|(candidate, objectives)| {
            Some((*candidate.proposal.predicted.as_ref()?.first()?, *objectives.first()?))
        });
        pairs.collect()
    }

    /// Rank correlation of these pairs.
    pub fn tau(&self) -> Option<f64> {
        kendall_tau(&self.predictions())
    }

    /// The same of the first ones, from the tenth on: how it went on.
    pub fn tau_curve(&self) -> Vec<(f64, f64)> {
        const FIRST: usize = 10;
        let pairs = self.predictions();
        let so_far = |count: usize| Some((count as f64, kendall_tau(&pairs[..count])?));
        (FIRST..=pairs.len()).filter_map(so_far).collect()
    }

    /// The member of the front that is nearest to the best of each objective, all of them scaled to the
    /// range that they have on the front.
    pub fn knee(&self) -> Option<&Candidate> {
        let points: Vec<(&Candidate, &[f64])> =
            self.done().into_iter().filter(|(c, _)| self.front.contains(&c.id)).collect();
        let range = |at: usize| {
            let values = points.iter().map(|(_, objectives)| objectives[at]);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
                (low.min(x), high.max(x))
            })
        };
        let ranges: Vec<(f64, f64)> = (0..=self.search.costs.len()).map(range).collect();
        let distance = |objectives: &[f64]| -> f64 {
            let parts = objectives.iter().zip(&ranges);
            parts.map(|(x, (low, high))| ((x - low) / (high - low).max(1e-12)).powi(2)).sum()
        };
        let nearest = points.iter().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        nearest.map(|(candidate, _)| *candidate)
    }

    /// The study for programs.
    ///
    /// # Errors
    /// When a candidate's details are damaged.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        let names = self.search.objective_names();
        let named = |values: &[f64]| -> serde_json::Map<String, serde_json::Value> {
            let names = names.iter().map(|name| (*name).to_owned());
            names.zip(values.iter().map(|v| json!(v))).collect()
        };
        let candidate = |candidate: &Candidate| -> Result<serde_json::Value> {
            let details = self.details(candidate)?;
            Ok(json!({
                "id": candidate.id,
                "status": candidate.status,
                "genome": candidate.proposal.genome,
                "objectives": candidate.evaluation.as_ref().map(|e| named(&e.objectives)),
                "predicted": candidate.proposal.predicted.as_deref().map(named),
                "constraints": details.as_ref().map(|details| json!({
                    "flash_bytes": details.needs.flash,
                    "arena_bytes": details.needs.ram,
                    "instructions": details.needs.instructions,
                    "met": self.search.limits.allow(&details.needs),
                })),
                "details": details,
                "validation": self.validated.get(&candidate.id),
                "worker": candidate.worker,
                "attempt": candidate.attempt,
                "seconds": candidate.seconds,
                "error": candidate.error,
            }))
        };
        Ok(json!({
            "study": self.place,
            "settings": self.search,
            "evaluations": self.budget,
            "candidates": self.candidates.iter().map(candidate).collect::<Result<Vec<_>>>()?,
            "front": self.front,
            "hypervolume": self.hypervolume(),
            "hypervolume_by_evaluation": self.curve(),
            "reference": self.reference,
            "tau": self.tau(),
        }))
    }

    /// What was found out about a candidate, if it is done.
    ///
    /// # Errors
    /// When that is damaged.
    pub fn details(&self, candidate: &Candidate) -> Result<Option<Details>> {
        let details = candidate.evaluation.as_ref().map(|e| e.details.clone());
        details
            .map(serde_json::from_value)
            .transpose()
            .with_context(|| format!("in candidate {} of the study {}", candidate.id, self.place))
    }
}
