//! What can be chosen for each layer, and what it costs.

use anyhow::Result;
use rand::{Rng, RngExt};

use super::Layerwise;
use crate::{
    data::Dataset,
    export::estimate,
    net::{Graph, NetSpec},
    sparse::{
        criteria::{Criterion, scores},
        mask::{Budget, Distribution, LayerMask, Layout, Structure},
        state::State,
        strategy::{Prunable, Strategy, distinct, spread},
    },
    target::cost::Core,
};

/// Densities at which costs are estimated, as multiples of a layer's density at what is asked for.
const MULTIPLES: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// Strategies as scaled to a cost, their masks, the cost.
pub(super) type Fit = (Vec<Strategy>, Vec<LayerMask>, f64);

/// Instructions of a layer over its density, linear between points.
#[derive(Debug, Clone, Default)]
struct Curve(Vec<(f64, f64)>);

impl Curve {
    /// Adds a point behind the others, unless its density is that of the last.
    fn add(&mut self, density: f64, cost: f64) {
        if self.0.last().is_none_or(|&(last, _)| last < density) {
            self.0.push((density, cost));
        }
    }

    /// The cost at a density; beyond its ends that of the end.
    fn cost(&self, density: f64) -> f64 {
        let at = self.0.partition_point(|&(d, _)| d < density);
        match (at.checked_sub(1).map(|before| self.0[before]), self.0.get(at)) {
            (Some((d, c)), Some(&(next_d, next_c))) => {
                c + (density - d) / (next_d - d) * (next_c - c)
            }
            (Some((_, c)), None) | (None, Some(&(_, c))) => c,
            (None, None) => 0.0,
        }
    }

    /// The greatest density that costs no more than `cost`; the least one where all cost more.
    fn density(&self, cost: f64) -> f64 {
        let Some(at) = self.0.iter().rposition(|&(_, c)| c <= cost) else {
            return self.0.first().map_or(1.0, |&(density, _)| density);
        };
        let (density, c) = self.0[at];
        match self.0.get(at + 1) {
            Some(&(next, next_c)) => density + (cost - c) / (next_c - c) * (next - density),
            None => density,
        }
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
        // Layers that a density divided among the layers leaves dense may take most of the time.
        let prunable = Prunable::whole(&graph);
        let density = |param: usize| {
            let budget = budget.layers.iter().find(|budget| budget.param == param);
            budget.map_or(1.0, |budget| budget.keep as f64 / budget.len as f64)
        };
        let layers: Vec<SpaceLayer> = prunable
            .layers
            .iter()
            .map(|layer| SpaceLayer {
                name: layer.name.clone(),
                param: layer.param,
                layout: layer.layout,
                candidates: Vec::new(),
                costs: Vec::new(),
                density: density(layer.param),
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

    /// Candidates of one ratio cost the same whatever their structure: as much as single weights with that
    /// ratio. So a structure is chosen for what it keeps at a cost, and only ratios are traded for cost.
    fn add_candidates(&mut self, net: &NetSpec, settings: &Layerwise) -> Result<()> {
        let core = settings.target;
        let single = self.curves(net, Structure::Unstructured, core)?;
        for &structure in &settings.structures {
            let curves = match structure {
                Structure::Unstructured => single.clone(),
                _ => self.curves(net, structure, core)?,
            };
            for &ratio in &settings.ratios {
                for ((layer, curve), single) in self.layers.iter_mut().zip(&curves).zip(&single) {
                    let (Some(curve), Some(single)) = (curve, single) else { continue };
                    let cost = single.cost((layer.density * ratio).min(1.0));
                    let density = curve.density(cost);
                    for criterion in distinct(&settings.criteria, structure, &layer.layout) {
                        let strategy = Strategy { criterion, structure, density };
                        if !layer.candidates.contains(&strategy) {
                            layer.candidates.push(strategy);
                            layer.costs.push(curve.cost(density));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What each layer costs over its density with a structure; `None` for channels that cannot be removed.
    fn curves(
        &self,
        net: &NetSpec,
        structure: Structure,
        core: Core,
    ) -> Result<Vec<Option<Curve>>> {
        let scores: Vec<Vec<f32>> =
            self.layers.iter().map(|layer| spread(layer.layout.len())).collect();
        let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let count = self.layers.len();
        let density = |layer: &SpaceLayer, multiple: f64| (layer.density * multiple).min(1.0);
        let strategy = |layer: &SpaceLayer, multiple: f64| {
            let density = density(layer, multiple);
            Some(Strategy { criterion: Criterion::default(), structure, density })
        };
        let mut curves = vec![Some(Curve::default()); count];
        for multiple in MULTIPLES {
            let costs: Vec<Option<f64>> = if structure == Structure::Channels {
                // One at a time: what its neighbours lose is not its cost.
                let one = |index: usize| -> Result<Option<f64>> {
                    let layer = &self.layers[index];
                    if !layer.removable {
                        return Ok(None);
                    }
                    let mut strategies = vec![None; count];
                    strategies[index] = strategy(layer, multiple);
                    let masks = self.prunable.masks(&strategies, &scores);
                    Ok(Some(estimate(net, &masks, core, None)?.layer(&layer.name)))
                };
                (0..count).map(one).collect::<Result<_>>()?
            } else {
                let strategies: Vec<Option<Strategy>> =
                    self.layers.iter().map(|layer| strategy(layer, multiple)).collect();
                let estimate =
                    estimate(net, &self.prunable.masks(&strategies, &scores), core, None)?;
                self.layers.iter().map(|layer| Some(estimate.layer(&layer.name))).collect()
            };
            for ((curve, layer), cost) in curves.iter_mut().zip(&self.layers).zip(costs) {
                match (&mut *curve, cost) {
                    (Some(curve), Some(cost)) => curve.add(density(layer, multiple), cost),
                    _ => *curve = None,
                }
            }
        }
        Ok(curves)
    }

    /// The criteria of all candidates.
    pub(super) fn criteria(&self) -> Vec<Criterion> {
        let mut criteria = Vec::new();
        for strategy in self.layers.iter().flat_map(|layer| &layer.candidates) {
            if !criteria.contains(&strategy.criterion) {
                criteria.push(strategy.criterion);
            }
        }
        criteria
    }

    /// Scores by criterion and layer. `moment` decides on the batches that gradients come from.
    pub(super) fn scores(
        &self,
        state: &State,
        data: &Dataset,
        settings: &Layerwise,
        criteria: &[Criterion],
        moment: usize,
    ) -> Vec<Vec<Vec<f32>>> {
        let layers: Vec<(usize, Layout)> =
            self.layers.iter().map(|layer| (layer.param, layer.layout)).collect();
        scores(state, data, &settings.training, criteria, &layers, moment)
    }

    /// What candidates of the layers are, by their places.
    pub(super) fn strategies(&self, chosen: &[usize]) -> Vec<Strategy> {
        self.layers.iter().zip(chosen).map(|(layer, &at)| layer.candidates[at]).collect()
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
    /// asked for or a little less; the strategies as scaled, the masks, the cost. Dense layers stay dense where
    /// that is possible. What the steps of whole channels leave of the cost goes to one layer after the other, those
    /// with channels first.
    pub(super) fn fit(
        &self,
        net: &NetSpec,
        strategies: &[Strategy],
        scores: &[&[f32]],
        core: Core,
    ) -> Result<Fit> {
        // Factors are powers of two. Costs do not always grow with them: another kernel may serve more weights,
        // and a channel whose last weight went goes itself.
        const STEP: f64 = 0.25;
        const LEAST: f64 = -4.0;
        let at = |powers: &[f64]| -> Result<Fit> {
            let scaled: Vec<Strategy> = strategies
                .iter()
                .zip(powers)
                .map(|(s, power)| Strategy { density: (s.density * power.exp2()).min(1.0), ..*s })
                .collect();
            let some: Vec<Option<Strategy>> = scaled.iter().copied().map(Some).collect();
            let masks = self.prunable.masks(&some, scores);
            let cost = estimate(net, &masks, core, None)?.instructions;
            Ok((scaled, masks, cost))
        };
        let dense = |layer: &usize| strategies[*layer].density >= 1.0;
        let mut order: Vec<usize> = (0..strategies.len()).filter(|layer| !dense(layer)).collect();
        let power = |layer: usize| if dense(&layer) { 0.0 } else { LEAST };
        let mut powers: Vec<f64> = (0..strategies.len()).map(power).collect();
        let mut best = at(&powers)?;
        if best.2 > self.cost_target {
            // Dense layers take too much by themselves.
            order = (0..strategies.len()).collect();
            powers.fill(LEAST);
            best = at(&powers)?;
        }
        order.sort_by_key(|&layer| strategies[layer].structure != Structure::Channels);
        // The largest power of all layers, or of one, that fits, of those above `low`.
        let mut raise = |low: f64, steps: usize, halvings: usize, layer: Option<usize>| {
            let set = |powers: &mut [f64], power: f64| match layer {
                Some(layer) => powers[layer] = power,
                None => order.iter().for_each(|&layer| powers[layer] = power),
            };
            let (mut fits, mut over) = (low, None);
            for step in (1..=steps).rev() {
                let power = low + step as f64 * STEP;
                set(&mut powers, power);
                let tried = at(&powers)?;
                if tried.2 <= self.cost_target {
                    (fits, best) = (power, tried);
                    break;
                }
                over = Some(power);
            }
            if let Some(mut over) = over {
                for _ in 0..halvings {
                    let power = 0.5 * (fits + over);
                    set(&mut powers, power);
                    let tried = at(&powers)?;
                    match tried.2 <= self.cost_target {
                        true => (fits, best) = (power, tried),
                        false => over = power,
                    }
                }
            }
            set(&mut powers, fits);
            Ok::<_, anyhow::Error>(fits)
        };
        let common = raise(LEAST, 32, 8, None)?;
        for &layer in &order {
            raise(common, 6, 2, Some(layer))?;
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_found_for_densities_and_back() {
        let mut curve = Curve::default();
        for (density, cost) in [(0.1, 20.0), (0.2, 40.0), (0.4, 60.0), (0.8, 60.0), (0.8, 99.0)] {
            curve.add(density, cost);
        }
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(curve.cost(0.15), 30.0) && near(curve.cost(0.3), 50.0));
        assert!(near(curve.cost(0.01), 20.0) && near(curve.cost(1.0), 60.0));
        assert!(near(curve.density(30.0), 0.15) && near(curve.density(40.0), 0.2));
        // Of densities that cost the same the greatest; nothing costs less than the first.
        assert!(near(curve.density(60.0), 0.8) && near(curve.density(1.0), 0.1));
    }
}
