//! Strategies: how each layer of a network is pruned, and the masks that follow.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    channels::{ChannelGroup, ChannelGroups},
    criteria::Criterion,
    mask::{LayerMask, Layout, Mask, Structure},
};
use crate::net::{Graph, shape::Role};

/// How a layer is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// What its weights are scored by.
    pub criterion: Criterion,
    /// Which of them are kept together.
    pub structure: Structure,
    /// Share of them that is kept.
    pub density: f64,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let structure = clap::ValueEnum::to_possible_value(&self.structure);
        let structure = structure.as_ref().map_or("", |value| value.get_name());
        write!(f, "{} {structure} {:.3}", self.criterion.name(), self.density)
    }
}

/// The layers of a network that strategies are for, and how they hang together.
#[derive(Debug, Clone)]
pub struct Prunable {
    /// These layers.
    pub layers: Vec<PrunableLayer>,
    groups: ChannelGroups,
    /// Convolutions and linear layers that write each set of channels.
    writers: Vec<usize>,
    /// Depthwise convolutions: weights, layout, set of channels.
    depthwise: Vec<(usize, Layout, usize)>,
}

/// A layer that a strategy is for.
#[derive(Debug, Clone)]
pub struct PrunableLayer {
    /// Name of the layer.
    pub name: String,
    /// Index of its weights among the parameters.
    pub param: usize,
    /// How they lie.
    pub layout: Layout,
    /// Whether its output channels may be removed from the network.
    pub removable: bool,
    output_group: usize,
    input_group: usize,
}

impl PrunableLayer {
    /// The mask of a strategy where the input channels of `live` are still there.
    pub(super) fn mask(&self, strategy: &Strategy, scores: &[f32], live: &[bool]) -> Mask {
        let keep = |len: usize| ((len as f64 * strategy.density).round() as usize).max(1);
        if live.iter().all(|live| *live) {
            let keep = keep(self.layout.len());
            return Mask::top_units(scores, keep, strategy.structure, &self.layout);
        }
        // Blocks are those of the network without the channels that are gone.
        let places: Vec<usize> =
            (0..self.layout.len()).filter(|&w| live[self.layout.input_channel(w)]).collect();
        let depth = live.iter().filter(|live| **live).count();
        let narrow =
            Layout { depth, run: self.layout.run / self.layout.depth * depth, ..self.layout };
        let scores: Vec<f32> = places.iter().map(|&place| scores[place]).collect();
        let mask = Mask::top_units(&scores, keep(self.layout.len()), strategy.structure, &narrow);
        let mut flags = vec![false; self.layout.len()];
        for (place, keep) in places.into_iter().zip(mask.flags()) {
            flags[place] = *keep;
        }
        Mask::from_flags(flags)
    }
}

impl Prunable {
    /// The layers whose weights are these parameters.
    pub fn new(graph: &Graph, weights: &[usize]) -> Self {
        let params = graph.params();
        let groups = ChannelGroups::new(graph);
        let layer = |&param: &usize| {
            let index = params[param].layer;
            PrunableLayer {
                name: graph.layers[index].name.clone(),
                param,
                layout: Layout::of(graph, &params[param]),
                removable: groups.groups[groups.output[index]].removable,
                output_group: groups.output[index],
                input_group: groups.input[index],
            }
        };
        let layers = weights.iter().map(layer).collect();
        let mut writers = vec![0; groups.groups.len()];
        let mut depthwise = Vec::new();
        for (param, spec) in params.iter().enumerate().filter(|(_, p)| p.role == Role::Weight) {
            let group = groups.output[spec.layer];
            match graph.layers[spec.layer].op.is_depthwise() {
                true => depthwise.push((param, Layout::of(graph, spec), group)),
                false => writers[group] += 1,
            }
        }
        Self { layers, groups, writers, depthwise }
    }

    /// All layers but depthwise convolutions, which hold few weights and take the time of dense ones.
    pub fn whole(graph: &Graph) -> Self {
        let params = graph.params();
        let weights: Vec<usize> = (0..params.len())
            .filter(|&param| {
                let spec = &params[param];
                spec.role == Role::Weight && !graph.layers[spec.layer].op.is_depthwise()
            })
            .collect();
        Self::new(graph, &weights)
    }

    /// Masks of strategies by their layers' scores, those of `layers` first; a layer without one is dense. Weights that would read
    /// removed channels are none.
    pub fn masks(&self, strategies: &[Option<Strategy>], scores: &[&[f32]]) -> Vec<LayerMask> {
        let rows = |(index, layer): (usize, &PrunableLayer)| {
            let strategy = strategies[index].filter(|s| s.structure == Structure::Channels)?;
            let mask = layer.mask(&strategy, scores[index], &vec![true; layer.layout.depth]);
            Some(mask.silent_rows(layer.layout.outputs))
        };
        let removed: Vec<Option<Vec<bool>>> = self.layers.iter().enumerate().map(rows).collect();
        // A channel of a set is gone when all layers that write it have lost it.
        let gone = |(group, set): (usize, &ChannelGroup)| -> Vec<bool> {
            let writers: Vec<&Option<Vec<bool>>> = self
                .layers
                .iter()
                .zip(&removed)
                .filter(|(layer, _)| layer.output_group == group)
                .map(|(_, removed)| removed)
                .collect();
            // Sets that a layer without strategies also writes stay whole.
            let decided = set.removable && writers.len() == self.writers[group];
            let lost = |channel: usize| {
                writers.iter().all(|lost| lost.as_ref().is_some_and(|lost| lost[channel]))
            };
            (0..set.channels).map(|channel| decided && lost(channel)).collect()
        };
        let gone: Vec<Vec<bool>> = self.groups.groups.iter().enumerate().map(gone).collect();
        let mut masks: Vec<LayerMask> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(strategy) = &strategies[index] else { continue };
            let mut live: Vec<bool> = gone[layer.input_group].iter().map(|gone| !gone).collect();
            if live.len() != layer.layout.depth || !live.contains(&true) {
                live = vec![true; layer.layout.depth];
            }
            let mask = match &removed[index] {
                Some(removed) => {
                    let fan_in = layer.layout.fan_in();
                    let keeps =
                        |w: usize| !removed[w / fan_in] && live[layer.layout.input_channel(w)];
                    Mask::from_flags((0..layer.layout.len()).map(keeps).collect())
                }
                None => layer.mask(strategy, scores[index], &live),
            };
            masks.push(LayerMask { param: layer.param, mask, remove: removed[index].is_some() });
        }
        for &(param, layout, group) in &self.depthwise {
            let gone = &gone[group];
            if gone.len() == layout.outputs && gone.contains(&true) {
                let keeps = |w: usize| !gone[w / layout.fan_in()];
                let mask = Mask::from_flags((0..layout.len()).map(keeps).collect());
                masks.push(LayerMask { param, mask, remove: true });
            }
        }
        masks
    }
}

/// Criteria that order the units of a layer differently: among single weights, magnitude and its square
/// are one.
pub fn distinct(criteria: &[Criterion], structure: Structure, layout: &Layout) -> Vec<Criterion> {
    let single = layout.unit(structure) == 1;
    let both = criteria.contains(&Criterion::L1);
    criteria.iter().copied().filter(|c| !(single && both && *c == Criterion::L2)).collect()
}

/// Scores in no order, for masks whose cost alone matters.
pub fn spread(len: usize) -> Vec<f32> {
    // Multiples of the golden ratio are spread evenly over the unit interval.
    (0..len).map(|index| (index as f64 * 0.618_033_988_749_895).fract() as f32).collect()
}
