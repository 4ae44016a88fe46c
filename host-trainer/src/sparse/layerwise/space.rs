//! What can be chosen for each layer, and what it costs.

use anyhow::Result;
use rand::{Rng, RngExt};

use super::Layerwise;
use crate::{
    export::estimate,
    net::{Graph, NetSpec},
    sparse::{
        criteria::Criterion,
        mask::{Budget, Distribution, LayerMask, Layout, Structure},
        strategy::{Prunable, Strategy, distinct, spread},
    },
    target::cost::Core,
};

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
    prunable: Prunable,
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
        let dense = estimate(net, &[], core, None)?;
        let unstructured: Vec<Vec<f32>> =
            budget.layers.iter().map(|layer| spread(layer.len)).collect();
        let asked = budget.layer_masks(budget.top(&unstructured, false));
        let cost_target = estimate(net, &asked, core, None)?.instructions;
        let weights: Vec<usize> = budget.layers.iter().map(|layer| layer.param).collect();
        let prunable = Prunable::new(&graph, &weights);
        let layers: Vec<SpaceLayer> = prunable
            .layers
            .iter()
            .zip(&budget.layers)
            .map(|(layer, budget)| SpaceLayer {
                name: layer.name.clone(),
                param: layer.param,
                layout: layer.layout,
                candidates: Vec::new(),
                costs: Vec::new(),
                density: budget.keep as f64 / budget.len as f64,
                removable: layer.removable,
            })
            .collect();
        let pruned: f64 = layers.iter().map(|layer| dense.layer(&layer.name)).sum();
        let mut space = Self {
            layers,
            cost_dense: dense.instructions,
            cost_fixed: dense.instructions - pruned,
            cost_target,
            prunable,
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
                        let masks = self.prunable.masks(&strategies, &scores);
                        Ok(Some(estimate(net, &masks, core, None)?.layer(&layer.name)))
                    };
                    (0..count).map(one).collect::<Result<_>>()?
                } else {
                    let strategies: Vec<Option<Strategy>> = self.layers.iter().map(any).collect();
                    let estimate =
                        estimate(net, &self.prunable.masks(&strategies, &scores), core, None)?;
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
            let masks = self.prunable.masks(&some, scores);
            let cost = estimate(net, &masks, core, None)?.instructions;
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
}
