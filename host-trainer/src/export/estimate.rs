//! What a network will cost under masks, before it is trained.
//!
//! The network is exported with made-up weights where the masks keep some, so that the estimate goes the
//! way of every model: channels that are gone are removed, and each layer gets the kernel that the cost
//! model prefers.

use anyhow::Result;
use niwaki_core::Model;

use super::quantise::quantise_network;
use super::{AlignedVec, Graph, KernelChoice, analyse, write_with};
use crate::data::Normalisation;
use crate::net::shape::{self, Op, Role};
use crate::net::units::{RangeRule, units};
use crate::net::{DataInfo, NetSpec, Params};
use crate::sparse::channels::shifts;
use crate::sparse::mask::LayerMask;
use crate::target::cost::Core;

/// What a network is predicted to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Instructions of one inference.
    pub instructions: f64,
    /// Bytes of the model.
    pub flash_bytes: usize,
    /// Bytes of its arena.
    pub arena_bytes: usize,
    /// Instructions by layer, those that remain operators of their own.
    pub layers: Vec<(String, f64)>,
}

impl Estimate {
    /// Instructions of the layer with this name.
    pub fn layer(&self, name: &str) -> f64 {
        self.layers.iter().find(|(layer, _)| layer == name).map_or(0.0, |(_, cost)| *cost)
    }
}

/// Estimates the cost of a network under masks; layers without one are dense. The names and numbers that a
/// model has from its data are counted where the data are given.
///
/// # Errors
///
/// When the network cannot be exported.
pub fn estimate(
    spec: &NetSpec,
    masks: &[LayerMask],
    core: Core,
    data: Option<&DataInfo>,
) -> Result<Estimate> {
    let exported = write_with(&made_up(spec, masks, data)?, KernelChoice::Cheapest(core))?;
    let blob = AlignedVec::new(&exported.bytes);
    let analysis = analyse(&Model::new(blob.as_bytes())?, core);
    Ok(Estimate {
        instructions: analysis.instructions,
        flash_bytes: analysis.model_bytes,
        arena_bytes: analysis.arena_bytes,
        layers: analysis.layers.into_iter().map(|l| (l.name, l.instructions)).collect(),
    })
}

/// The network in integers with weights of alternating signs and other values where the masks keep
/// them.
pub(super) fn made_up(
    spec: &NetSpec,
    masks: &[LayerMask],
    data: Option<&DataInfo>,
) -> Result<Graph> {
    let graph = shape::Graph::new(spec)?;
    let specs = graph.params();
    let mut values: Vec<Vec<f32>> = specs
        .iter()
        .map(|spec| {
            let value = |index: usize| match spec.role {
                Role::Weight => [0.5, -0.7, -0.9, 0.3, -0.4][(index ^ (index >> 3)) % 5],
                Role::Gamma => 1.0,
                Role::Bias | Role::Beta | Role::Gate => [0.1, -0.1, 0.2][index % 3],
            };
            (0..spec.len()).map(value).collect()
        })
        .collect();
    for LayerMask { param, mask, remove } in masks {
        let weights = values[*param].iter_mut().zip(mask.to_values());
        weights.for_each(|(weight, keep)| *weight *= keep);
        if *remove {
            let silent = mask.silent_rows(specs[*param].shape[0]);
            for shift in shifts(&graph, &specs, specs[*param].layer) {
                let shift = values[shift].iter_mut().zip(&silent);
                shift.filter(|(_, silent)| **silent).for_each(|(value, _)| *value = 0.0);
            }
        }
    }
    let mut params = Params::default();
    for (spec, values) in specs.iter().zip(values) {
        params.insert(&spec.name, &spec.shape, values);
    }
    for node in &graph.layers {
        if matches!(node.op, Op::BatchNorm { .. }) {
            let channels = node.output[2];
            params.insert(format!("{}.mean", node.name), &[channels], vec![0.0; channels]);
            params.insert(format!("{}.var", node.name), &[channels], vec![1.0; channels]);
        }
    }
    params.insert("input.range", &[2], vec![-1.0, 1.0]);
    for unit in units(&graph).iter().filter(|unit| unit.range == RangeRule::Observed) {
        let layer = &graph.layers[unit.output()];
        let low = if matches!(layer.op, Op::Relu | Op::Relu6) { 0.0 } else { -3.0 };
        params.insert(format!("{}.range", layer.name), &[2], vec![low, 5.0]);
    }
    match data {
        Some(data) => {
            let graph = quantise_network(spec, &params, &data.normalisation, &data.label_names)?;
            Ok(Graph { front_end: data.front_end, ..graph })
        }
        None => {
            let normalisation = Normalisation { mean: vec![0.0], std: vec![1.0] };
            quantise_network(spec, &params, &normalisation, &[])
        }
    }
}
