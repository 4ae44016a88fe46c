//! The network in training: values, masks, statistics and optimiser state, in memory and on disk.

use std::path::Path;

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::{
    Config,
    channels::{norm_of, shifts},
    criteria::scores,
    dynamic::{self, Layer, Update},
    mask::{Budget, Distribution, LayerBudget, LayerMask, Layout, Mask},
    method::{Choice, Renewal},
    optimiser::Rule,
};
use crate::data::Dataset;
use crate::net::{
    Dropped, Params,
    module::{FusedNorm, Network, Ranges, Stats, tensor, values},
    shape::{Op, ParamSpec, Role},
    trained::CHECKPOINT_FILE,
};

/// Purposes of random numbers: each has its own sequence, so that none shifts another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Weights = 1,
    Masks = 2,
    Order = 3,
    Norms = 4,
    Scores = 5,
    Search = 6,
}

/// Random numbers that depend on nothing but seed, purpose and a count such as the epoch.
pub(super) fn rng(seed: u64, purpose: Purpose, count: usize) -> Pcg64 {
    Pcg64::new((u128::from(seed) << 64) | count as u128, purpose as u128)
}

/// A network in training.
pub(super) struct State {
    pub(super) net: Network,
    pub(super) device: Device,
    /// Every parameter, flat, without autodiff.
    pub(super) values: Vec<Tensor<1>>,
    /// Mask of every parameter that has one, as numbers on the device.
    pub(super) masks: Vec<Option<Tensor<1>>>,
    /// State of the optimiser by parameter.
    pub(super) slots: Vec<Vec<Tensor<1>>>,
    /// Running statistics of the backbone, by batch norm.
    pub(super) backbone: Vec<Stats>,
    /// Ranges of activations.
    pub(super) ranges: Ranges,
    pub(super) progress: Progress,
}

/// What a checkpoint knows beside tensors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Complete epochs.
    pub(super) epochs: usize,
    /// Seconds in all, of earlier sessions too.
    pub(super) seconds: f64,
    /// Seconds of training steps.
    pub(super) training_seconds: f64,
    /// Samples that training steps have seen.
    pub(super) samples: usize,
    /// What dropping redundant units did.
    pub(super) dropped: Option<Dropped>,
}

impl State {
    /// What parameter `index` is after step `step`, counted from 0, of the optimiser. Weights alone decay.
    pub(super) fn updated(
        &mut self,
        index: usize,
        gradient: Tensor<1>,
        config: &Config,
        rate: f64,
        step: usize,
    ) -> Tensor<1> {
        let decay = match self.net.params[index].role {
            Role::Weight => config.weight_decay,
            _ => 0.0,
        };
        let (value, slots) = (self.values[index].clone(), &mut self.slots[index]);
        config.optimiser.update(value, gradient, slots, rate, decay, step + 1)
    }

    /// A new network with random weights.
    pub(super) fn new(net: Network, config: &Config, device: &Device) -> Self {
        let mut rng = rng(config.seed, Purpose::Weights, 0);
        let values: Vec<Tensor<1>> = net
            .params
            .iter()
            .map(|param| {
                // He et al., ICCV 2015, for layers before a ReLU; the last layer starts smaller.
                let last = !net.graph.layers[param.layer + 1..]
                    .iter()
                    .any(|node| !matches!(node.op, Op::Softmax));
                let gain = if last { 1.0 } else { 2.0 };
                let values: Vec<f32> = match param.role {
                    Role::Weight => {
                        let scale = (gain / param.fan_in() as f32).sqrt();
                        (0..param.len())
                            .map(|_| scale * rng.sample::<f32, _>(StandardNormal))
                            .collect()
                    }
                    Role::Gamma => vec![1.0; param.len()],
                    Role::Bias | Role::Beta | Role::Gate => vec![0.0; param.len()],
                };
                tensor(&values, device)
            })
            .collect();
        let slots =
            values.iter().map(|value| vec![value.zeros_like(); config.optimiser.slots()]).collect();
        let stats: Vec<Stats> = net
            .norms()
            .iter()
            .map(|&layer| {
                let channels = net.graph.layers[layer].output[2];
                Stats {
                    mean: Tensor::zeros([channels], device),
                    var: Tensor::ones([channels], device),
                }
            })
            .collect();
        Self {
            masks: vec![None; values.len()],
            values,
            slots,
            backbone: stats,
            ranges: vec![None; net.slots()],
            progress: Progress::default(),
            net,
            device: device.clone(),
        }
    }

    /// Values of the backbone: everything with redundant weights set to zero.
    pub(super) fn backbone_values(&self) -> Vec<Tensor<1>> {
        let values = self.values.iter().zip(&self.masks);
        values
            .map(|(value, mask)| match mask {
                Some(mask) => value.clone() * mask.clone(),
                None => value.clone(),
            })
            .collect()
    }

    /// Values of the whole network with redundant weights scaled by `gamma`.
    pub(super) fn whole_values(&self, gamma: f64) -> Vec<Tensor<1>> {
        let values = self.values.iter().zip(&self.masks);
        values
            .map(|(value, mask)| match mask {
                Some(mask) => value.clone() * blend(mask, gamma),
                None => value.clone(),
            })
            .collect()
    }

    /// Draws new masks.
    pub(super) fn renew_masks(
        &mut self,
        renewal: Renewal,
        config: &Config,
        data: &Dataset,
        step: usize,
    ) -> anyhow::Result<()> {
        if let (Choice::Random, Some(run)) = (renewal.choice, &config.mask_from) {
            return self
                .take_masks(run)
                .with_context(|| format!("taking the masks of the run in {}", run.display()));
        }
        let (graph, params) = (&self.net.graph, &self.net.params);
        let structure = config.structure;
        let budget = Budget::new(graph, params, renewal.density, config.distribution, structure)?;
        let masks = match renewal.choice {
            Choice::Random => {
                budget.random(graph, params, &mut rng(config.seed, Purpose::Masks, step))
            }
            Choice::Scores => {
                let layers = budget.layers.iter().map(|layer| (layer.param, layer.layout));
                let layers: Vec<(usize, Layout)> = layers.collect();
                let scores = scores(self, data, config, &[config.criterion], &layers, step);
                let global = config.distribution == Distribution::Global;
                budget.connected(graph, params, &scores[0], global)
            }
        };
        self.set_masks(&budget.layer_masks(masks));
        Ok(())
    }

    /// Takes the masks of another run of the same network.
    fn take_masks(&mut self, run: &Path) -> anyhow::Result<()> {
        let (params, _) = Params::load(&run.join(CHECKPOINT_FILE))?;
        for (index, spec) in self.net.params.iter().enumerate() {
            let name = mask_name(spec);
            self.masks[index] = match params.find(&name) {
                Some(_) => Some(tensor(params.get(&name, &spec.shape)?, &self.device)),
                None => None,
            };
        }
        anyhow::ensure!(
            self.masks.iter().any(Option::is_some),
            "it has none: all weights are kept"
        );
        Ok(())
    }

    /// Replaces all masks.
    pub(super) fn set_masks(&mut self, masks: &[LayerMask]) {
        self.masks = self.mask_tensors(masks);
        let (graph, params) = (&self.net.graph, &self.net.params);
        for LayerMask { param, mask, .. } in masks.iter().filter(|mask| mask.remove) {
            // What a batch norm subtracts from a channel that is always zero.
            let alive = tensor(&alive(mask, params[*param].shape[0]), &self.device);
            let norm = norm_of(graph, params[*param].layer);
            let norms = self.net.norms().iter();
            for (stats, _) in
                self.backbone.iter_mut().zip(norms).filter(|(_, layer)| Some(**layer) == norm)
            {
                stats.mean = stats.mean.clone() * alive.clone();
            }
        }
    }

    /// Masks of all parameters on the device: of weights, and of what is added to channels that are removed.
    pub(super) fn mask_tensors(&self, masks: &[LayerMask]) -> Vec<Option<Tensor<1>>> {
        let mut all = vec![None; self.values.len()];
        let (graph, params) = (&self.net.graph, &self.net.params);
        for &LayerMask { param, ref mask, remove } in masks {
            all[param] = Some(tensor(&mask.to_values(), &self.device));
            if remove {
                let alive = tensor(&alive(mask, params[param].shape[0]), &self.device);
                for shift in shifts(graph, params, params[param].layer) {
                    all[shift] = Some(alive.clone());
                }
            }
        }
        all
    }

    /// Changes all masks: drops some weights and grows others, which start at zero without momentum.
    pub(super) fn update_masks(
        &mut self,
        update: Update,
        gradients: &[Tensor<1>],
        config: &Config,
        step: usize,
    ) -> anyhow::Result<()> {
        let (graph, params) = (&self.net.graph, &self.net.params);
        let budget =
            Budget::new(graph, params, config.density, config.distribution, config.structure)?;
        let mut random = rng(config.seed, Purpose::Masks, step);
        let last = budget.layers.last().map(|layer| layer.param);
        // Weights that rounding to a whole fan-in took from the layers so far.
        let mut rest = 0;
        for LayerBudget { param, keep, .. } in budget.layers {
            let Some(old) = &self.masks[param] else { continue };
            let mask = Mask::from_values(&values(old));
            let weights = values(&self.values[param]);
            let gradient = || values(&gradients[param]);
            let flags = mask.flags();
            let new = match update {
                Update::Set { drop } => dynamic::set(&weights, flags, drop, &mut random),
                Update::Rigl { drop } => dynamic::rigl(&weights, &gradient(), flags, drop),
                Update::Srigl { drop, salient } => {
                    let rows = self.net.params[param].shape[0];
                    let total = keep.saturating_add_signed(rest).clamp(1, mask.len());
                    let layer = Layer { rows, total, ablate: Some(param) != last };
                    let new = dynamic::srigl(&weights, &gradient(), flags, layer, drop, salient);
                    let kept = new.iter().filter(|&&keep| keep).count();
                    rest += keep as isize - kept as isize;
                    new
                }
            };
            let new = tensor(&Mask::from_flags(new).to_values(), &self.device);
            let stays = old.clone() * new.clone();
            self.values[param] = self.values[param].clone() * stays.clone();
            for slot in &mut self.slots[param] {
                *slot = slot.clone() * stays.clone();
            }
            self.masks[param] = Some(new);
        }
        Ok(())
    }

    /// Moves the scale of every batch norm into the weights before it, which changes no output.
    ///
    /// From here on statistics are fixed, and a batch norm is a factor of the weights. Where a
    /// channel varies little, as those with few weights do, that factor is in the hundreds, and so
    /// would be the steps of its weights as the network sees them.
    pub(super) fn fold_norms(&mut self, rule: Rule) {
        let norms: Vec<FusedNorm> = self.net.fused_norms().collect();
        for FusedNorm { weight, bias, gamma, stats, epsilon } in norms {
            let Stats { mean, var } = self.backbone[stats].clone();
            let scale = self.values[gamma].clone() / (var.clone() + epsilon).sqrt();
            let channels = scale.dims()[0] as i32;
            let by_channel = |values: &Tensor<1>, factor: &Tensor<1>| {
                let rows = values.clone().reshape([channels, -1]);
                (rows * factor.clone().unsqueeze_dim::<2>(1)).reshape([-1])
            };
            // There is no gradient where nothing passes.
            let dead = scale.clone().equal_elem(0.0);
            let inverse = scale.clone().mask_fill(dead.clone(), 1.0).recip().mask_fill(dead, 0.0);
            for param in std::iter::once(weight).chain(bias) {
                self.values[param] = by_channel(&self.values[param], &scale);
                rule.rescale(&mut self.slots[param], |slot| by_channel(slot, &inverse));
            }
            self.backbone[stats] = Stats { mean: mean * scale, var: var.ones_like() };
            self.values[gamma] = var.ones_like() * f64::from(1.0 + epsilon).sqrt();
            self.slots[gamma].iter_mut().for_each(|slot| *slot = slot.zeros_like());
        }
    }

    /// Sets redundant weights and their optimiser state to zero.
    pub(super) fn drop_redundant(&mut self) {
        for (index, mask) in self.masks.iter().enumerate() {
            if let Some(mask) = mask {
                self.values[index] = self.values[index].clone() * mask.clone();
                for slot in &mut self.slots[index] {
                    *slot = slot.clone() * mask.clone();
                }
            }
        }
    }

    /// Largest magnitude of a redundant weight.
    pub(super) fn largest_redundant(&self) -> f32 {
        let values = self.values.iter().zip(&self.masks);
        values
            .filter_map(|(value, mask)| Some((value, mask.as_ref()?)))
            .map(|(value, mask)| {
                let redundant = value.clone() * blend_redundant(mask);
                redundant.abs().max().into_scalar::<f32>()
            })
            .fold(0.0, f32::max)
    }

    /// Nonzero weights by layer.
    pub(super) fn nonzeros(&self) -> Vec<(usize, usize)> {
        let kept = |index: usize| {
            self.masks[index].as_ref().map_or(self.net.params[index].len(), |mask| {
                Mask::from_values(&values(mask)).count()
            })
        };
        let params = self.net.params.iter().enumerate();
        params
            .filter(|(_, param)| param.role == Role::Weight)
            .map(|(index, param)| (param.layer, kept(index)))
            .collect()
    }

    /// Everything as named tensors: the network's own names, and more under `optimiser/`.
    pub(super) fn to_params(&self) -> Params {
        let mut params = Params::default();
        for (index, spec) in self.net.params.iter().enumerate() {
            params.insert(&spec.name, &spec.shape, values(&self.values[index]));
            if let Some(mask) = &self.masks[index] {
                params.insert(mask_name(spec), &spec.shape, values(mask));
            }
            for (number, slot) in self.slots[index].iter().enumerate() {
                params.insert(slot_name(&spec.name, number), &spec.shape, values(slot));
            }
        }
        for (&layer, stats) in self.net.norms().iter().zip(&self.backbone) {
            let node = &self.net.graph.layers[layer];
            for (suffix, tensor) in [("mean", &stats.mean), ("var", &stats.var)] {
                let name = format!("{}.{suffix}", node.name);
                params.insert(name, &[node.output[2]], values(tensor));
            }
        }
        for (slot, range) in self.ranges.iter().enumerate() {
            if let Some(range) = range {
                params.insert(format!("{}.range", self.net.slot_name(slot)), &[2], range.to_vec());
            }
        }
        params
    }

    /// Writes a checkpoint; the one before stays until the new one is complete.
    pub(super) fn save(&self, run: &Path) -> anyhow::Result<()> {
        let note = serde_json::to_string(&self.progress)?;
        self.to_params().save(&run.join(CHECKPOINT_FILE), &note)
    }

    /// Continues from a checkpoint.
    pub(super) fn restore(&mut self, run: &Path) -> anyhow::Result<()> {
        let path = run.join(CHECKPOINT_FILE);
        let (params, note) = Params::load(&path)?;
        self.read(&params, &note).with_context(|| {
            format!("{} does not belong to the network and settings of this run", path.display())
        })
    }

    /// Begins with the values and statistics of another training of the same network.
    pub(super) fn begin(&mut self, run: &Path) -> anyhow::Result<()> {
        let path = run.join(CHECKPOINT_FILE);
        let (params, _) = Params::load(&path)?;
        self.begin_with(params)
            .with_context(|| format!("{} does not belong to this network", path.display()))
    }

    /// The same from these values and statistics.
    pub(super) fn begin_with(&mut self, mut params: Params) -> anyhow::Result<()> {
        for (index, spec) in self.net.params.iter().enumerate() {
            for number in 0..self.slots[index].len() {
                params.insert(slot_name(&spec.name, number), &spec.shape, vec![0.0; spec.len()]);
            }
        }
        let note = serde_json::to_string(&self.progress)?;
        self.read(&params, &note)?;
        // The method decides about masks; ranges are those of the other network.
        self.masks = vec![None; self.values.len()];
        self.ranges = vec![None; self.net.slots()];
        Ok(())
    }

    pub(super) fn read(&mut self, params: &Params, note: &str) -> anyhow::Result<()> {
        let device = &self.device;
        for (index, spec) in self.net.params.iter().enumerate() {
            let get =
                |name: &str| Ok::<_, anyhow::Error>(tensor(params.get(name, &spec.shape)?, device));
            self.values[index] = get(&spec.name)?;
            let mask = Some(mask_name(spec)).filter(|name| params.find(name).is_some());
            self.masks[index] = mask.map(|name| get(&name)).transpose()?;
            for (number, slot) in self.slots[index].iter_mut().enumerate() {
                *slot = get(&slot_name(&spec.name, number))?;
            }
        }
        for (&layer, stats) in self.net.norms().iter().zip(&mut self.backbone) {
            let node = &self.net.graph.layers[layer];
            let get = |suffix: &str| {
                let name = format!("{}.{suffix}", node.name);
                Ok::<_, anyhow::Error>(tensor(params.get(&name, &[node.output[2]])?, device))
            };
            *stats = Stats { mean: get("mean")?, var: get("var")? };
        }
        for slot in 0..self.net.slots() {
            let name = format!("{}.range", self.net.slot_name(slot));
            self.ranges[slot] = match params.find(&name) {
                Some(_) => Some(params.get(&name, &[2])?.try_into()?),
                None => None,
            };
        }
        self.progress = serde_json::from_str(note).context("the note in the file is damaged")?;
        Ok(())
    }
}

/// 1 for output channels that have weights, 0 for others.
fn alive(mask: &Mask, outputs: usize) -> Vec<f32> {
    let silent = mask.silent_rows(outputs);
    Mask::from_flags(silent.iter().map(|silent| !silent).collect()).to_values()
}

/// Name of the mask of a parameter.
fn mask_name(param: &ParamSpec) -> String {
    format!("{}.mask", param.name.strip_suffix(".weight").unwrap_or(&param.name))
}

fn slot_name(param: &str, number: usize) -> String {
    format!("optimiser/{param}/{number}")
}

/// 1 in the backbone, `redundant` elsewhere.
pub(super) fn blend(mask: &Tensor<1>, redundant: f64) -> Tensor<1> {
    mask.clone() * (1.0 - redundant) + redundant
}

/// 0 in the backbone, 1 elsewhere.
fn blend_redundant(mask: &Tensor<1>) -> Tensor<1> {
    mask.clone().neg() + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Graph, preset};
    use crate::sparse::Method;

    /// Values of the first convolution before and after a step that follows the folding. Batch norm has nearly
    /// switched off its first channel. The step has these optimiser state and gradient, the latter as the network
    /// before the folding had it.
    fn folded_step(optimiser: Rule, slots: &[f64], gradient: f64) -> Vec<(f32, f32)> {
        let spec = preset("ds-cnn:width=4").unwrap().for_data([1, 8, 8], 2).unwrap();
        let learning_rate = optimiser.learning_rate();
        let config =
            Config { optimiser, learning_rate, method: Method::Dense, ..Config::default() };
        let net = Network::new(Graph::new(&spec).unwrap());
        let mut state = State::new(net, &config, &Device::flex());
        let FusedNorm { weight, gamma, .. } = state.net.fused_norms().next().unwrap();
        let scale = [1e-6, 1.0, 1.0, 1.0];
        state.values[gamma] = tensor(&scale, &state.device);
        let start = state.values[weight].clone();
        for (slot, factor) in state.slots[weight].iter_mut().zip(slots) {
            *slot = start.ones_like() * *factor;
        }
        state.fold_norms(optimiser);
        let before = state.values[weight].clone();
        let rows = start.ones_like().reshape([4, -1]) * gradient;
        let gradient = rows / tensor(&scale, &state.device).unsqueeze_dim::<2>(1);
        let after = state.updated(weight, gradient.reshape([-1]), &config, learning_rate, 9999);
        values(&before).into_iter().zip(values(&after)).collect()
    }

    /// Momentum of SGD that weight decay alone has built up must not move a channel that is nearly switched off:
    /// without a gradient, steps after the folding are as small as weight decay itself.
    #[test]
    fn folding_leaves_no_momentum_to_weight_decay() {
        for (before, after) in folded_step(Rule::Sgd, &[5e-3], 0.0) {
            assert!((after - before).abs() <= 1e-4 * before.abs(), "{before} -> {after}");
        }
    }

    /// AdamW, whose steps do not depend on the scale of gradients, goes on with steps of the same length in every
    /// channel.
    #[test]
    fn folding_keeps_the_steps_of_adamw() {
        let rate = Rule::Adamw.learning_rate() as f32;
        for (before, after) in folded_step(Rule::Adamw, &[0.01, 1e-4], 0.01) {
            assert!((before - after - rate).abs() < 0.01 * rate, "{before} -> {after}");
        }
    }
}
