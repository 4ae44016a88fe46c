//! What can be chosen for each layer, and what it costs.

use std::fmt;

use anyhow::Result;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::Layerwise;
use crate::{
    export::estimate,
    net::{Graph, NetSpec, shape::Role},
    sparse::{
        channels::{ChannelGroup, ChannelGroups},
        criteria::Criterion,
        mask::{Budget, Distribution, LayerMask, Layout, Mask, Structure},
    },
    target::cost::Core,
};

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

/// Strategies of all layers that are pruned.
#[derive(Debug, Clone)]
pub struct Space {
    /// These layers.
    pub layers: Vec<SpaceLayer>,
    /// Instructions of the dense network.
    pub cost_dense: f64,
    /// Instructions of all that is not in `layers`.
    pub cost_fixed: f64,
    /// Instructions that are asked for: those of an unstructured mask with the density asked for.
    pub cost_target: f64,
    groups: ChannelGroups,
    /// Convolutions and linear layers that write each set of channels.
    writers: Vec<usize>,
    /// Depthwise convolutions: weights, layout, set of channels.
    depthwise: Vec<(usize, Layout, usize)>,
}

/// Strategies of one layer.
#[derive(Debug, Clone)]
pub struct SpaceLayer {
    /// Name of the layer.
    pub name: String,
    /// Index of its weights among the parameters.
    pub param: usize,
    /// How they lie.
    pub layout: Layout,
    /// What can be chosen.
    pub candidates: Vec<Strategy>,
    /// Instructions of each of them.
    pub costs: Vec<f64>,
    /// Share of its weights at the density asked for (ERK).
    density: f64,
    /// Whether its output channels may be removed from the network.
    removable: bool,
    output_group: usize,
    input_group: usize,
}

impl SpaceLayer {
    /// The strategy that every layer has in a uniformly pruned network. A layer whose channels cannot be
    /// removed, such as the last one, keeps single weights instead.
    pub fn uniform(&self, criterion: Criterion, structure: Structure) -> Strategy {
        let structure = match structure {
            Structure::Channels if !self.removable => Structure::Unstructured,
            structure => structure,
        };
        Strategy { criterion, structure, density: self.density }
    }

    /// The mask of a strategy where the input channels of `live` are still there.
    fn mask(&self, strategy: &Strategy, scores: &[f32], live: &[bool]) -> Mask {
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

impl Space {
    /// Finds the strategies of a network and what they cost.
    ///
    /// # Errors
    /// When the density is impossible for the network or the network cannot be exported.
    pub fn new(net: &NetSpec, settings: &Layerwise) -> Result<Self> {
        let graph = Graph::new(net)?;
        let params = graph.params();
        let core = settings.target;
        let budget = Budget::new(
            &graph,
            &params,
            settings.density,
            Distribution::Erk,
            Structure::Unstructured,
        )?;
        let groups = ChannelGroups::new(&graph);
        let dense = estimate(net, &[], core)?;
        let unstructured: Vec<Vec<f32>> =
            budget.layers.iter().map(|layer| spread(layer.len)).collect();
        let asked = budget.layer_masks(budget.top(&unstructured, false));
        let cost_target = estimate(net, &asked, core)?.instructions;
        let layers: Vec<SpaceLayer> = budget
            .layers
            .iter()
            .map(|layer| {
                let index = params[layer.param].layer;
                SpaceLayer {
                    name: graph.layers[index].name.clone(),
                    param: layer.param,
                    layout: layer.layout,
                    candidates: Vec::new(),
                    costs: Vec::new(),
                    density: layer.keep as f64 / layer.len as f64,
                    removable: groups.groups[groups.output[index]].removable,
                    output_group: groups.output[index],
                    input_group: groups.input[index],
                }
            })
            .collect();
        let pruned: f64 = layers.iter().map(|layer| dense.layer(&layer.name)).sum();
        let mut writers = vec![0; groups.groups.len()];
        let mut depthwise = Vec::new();
        for (param, spec) in params.iter().enumerate().filter(|(_, p)| p.role == Role::Weight) {
            let group = groups.output[spec.layer];
            match graph.layers[spec.layer].op.is_depthwise() {
                true => depthwise.push((param, Layout::of(&graph, spec), group)),
                false => writers[group] += 1,
            }
        }
        let mut space = Self {
            layers,
            cost_dense: dense.instructions,
            cost_fixed: dense.instructions - pruned,
            cost_target,
            groups,
            writers,
            depthwise,
        };
        space.add_candidates(net, settings)?;
        for layer in &space.layers {
            anyhow::ensure!(
                !layer.candidates.is_empty(),
                "none of the structures suits the layer `{}`, whose channels cannot be removed; add another \
                 to choose from",
                layer.name
            );
        }
        Ok(space)
    }

    fn add_candidates(&mut self, net: &NetSpec, settings: &Layerwise) -> Result<()> {
        let core = settings.target;
        let scores: Vec<Vec<f32>> =
            self.layers.iter().map(|layer| spread(layer.layout.len())).collect();
        let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let count = self.layers.len();
        for &structure in &settings.structures {
            for &ratio in &settings.ratios {
                let strategy = |layer: &SpaceLayer, criterion| Strategy {
                    criterion,
                    structure,
                    density: (layer.density * ratio).min(1.0),
                };
                let any = |layer: &SpaceLayer| Some(strategy(layer, Criterion::default()));
                let costs: Vec<Option<f64>> = if structure == Structure::Channels {
                    // One at a time: what its neighbours lose is not its cost.
                    let one = |index: usize| -> Result<Option<f64>> {
                        let layer = &self.layers[index];
                        if !layer.removable {
                            return Ok(None);
                        }
                        let mut strategies = vec![None; count];
                        strategies[index] = any(layer);
                        let masks = self.masks(&strategies, &scores);
                        Ok(Some(estimate(net, &masks, core)?.layer(&layer.name)))
                    };
                    (0..count).map(one).collect::<Result<_>>()?
                } else {
                    let strategies: Vec<Option<Strategy>> = self.layers.iter().map(any).collect();
                    let estimate = estimate(net, &self.masks(&strategies, &scores), core)?;
                    self.layers.iter().map(|layer| Some(estimate.layer(&layer.name))).collect()
                };
                for (layer, cost) in self.layers.iter_mut().zip(costs) {
                    let Some(cost) = cost else { continue };
                    for criterion in distinct(&settings.criteria, structure, &layer.layout) {
                        let strategy = strategy(layer, criterion);
                        if !layer.candidates.contains(&strategy) {
                            layer.candidates.push(strategy);
                            layer.costs.push(cost);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A random strategy for every layer, by its place: of many such choices, the one whose cost is
    /// nearest to what is asked for.
    pub(super) fn random(&self, random: &mut impl Rng) -> Vec<usize> {
        const TRIES: usize = 32;
        let tries: Vec<Vec<usize>> = (0..TRIES)
            .map(|_| {
                let layers = self.layers.iter();
                layers.map(|layer| random.random_range(0..layer.candidates.len())).collect()
            })
            .collect();
        let off = |choice: &Vec<usize>| {
            let costs = self.layers.iter().zip(choice).map(|(layer, at)| layer.costs[*at]);
            (self.cost_fixed + costs.sum::<f64>() - self.cost_target).abs()
        };
        tries.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or_default()
    }

    /// Masks of strategies whose shares are scaled by one factor, such that the network costs what is
    /// asked for or a little less; the strategies as scaled, the masks, the cost.
    pub(super) fn fit(
        &self,
        net: &NetSpec,
        strategies: &[Strategy],
        scores: &[&[f32]],
        core: Core,
    ) -> Result<(Vec<Strategy>, Vec<LayerMask>, f64)> {
        const STEPS: usize = 10;
        let at = |factor: f64| -> Result<(Vec<Strategy>, Vec<LayerMask>, f64)> {
            let scaled: Vec<Strategy> = strategies
                .iter()
                .map(|s| Strategy { density: (s.density * factor).min(1.0), ..*s })
                .collect();
            let some: Vec<Option<Strategy>> = scaled.iter().copied().map(Some).collect();
            let masks = self.masks(&some, scores);
            let cost = estimate(net, &masks, core)?.instructions;
            Ok((scaled, masks, cost))
        };
        let (mut low, mut high) = (-4.0_f64, 4.0_f64);
        let mut best = at(low.exp2())?;
        for step in 0..STEPS {
            // The strategies as they are come first.
            let middle = if step == 0 { 0.0 } else { 0.5 * (low + high) };
            let tried = at(middle.exp2())?;
            if tried.2 <= self.cost_target {
                low = middle;
                best = tried;
            } else {
                high = middle;
            }
        }
        Ok(best)
    }

    /// Masks of strategies, those of `layers` first; a layer without one is dense. Weights that would read
    /// removed channels are none.
    fn masks(&self, strategies: &[Option<Strategy>], scores: &[&[f32]]) -> Vec<LayerMask> {
        let rows = |(index, layer): (usize, &SpaceLayer)| {
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
fn distinct(criteria: &[Criterion], structure: Structure, layout: &Layout) -> Vec<Criterion> {
    let single = layout.unit(structure) == 1;
    let both = criteria.contains(&Criterion::L1);
    criteria.iter().copied().filter(|c| !(single && both && *c == Criterion::L2)).collect()
}

/// Scores in no order, for masks whose cost alone matters.
fn spread(len: usize) -> Vec<f32> {
    // Multiples of the golden ratio are spread evenly over the unit interval.
    (0..len).map(|index| (index as f64 * 0.618_033_988_749_895).fract() as f32).collect()
}
