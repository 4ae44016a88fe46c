//! Masks: which weights a sparse network keeps.
//!
//! **How density is counted.** Density = nonzero weights / all weights, over *all* weights of
//! convolutions and linear layers, those of layers that are never pruned included. Biases and batch
//! norm are in neither number: an exported layer has one bias per channel at any density. Layers
//! that stay dense therefore cost density elsewhere, and the density asked for is the density of the
//! whole network.
//!
//! **Structures.** [`Structure`] says which weights are kept or dropped together, as the kernels of
//! the device execute them, and [`Layout`] where those weights lie. Any structure goes with any
//! scores: a unit of several weights has the mean of their scores.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{
    channels::ChannelGroups,
    paths::{Ends, ends},
};
use crate::net::{
    Graph,
    shape::{Op, ParamSpec, Role, Source},
};

/// Which weights of a layer are kept or dropped together.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Structure {
    /// Every weight for itself
    #[default]
    Unstructured,
    /// Two neighbouring input channels of an output channel
    Block2,
    /// Four neighbouring input channels of an output channel
    Block4,
    /// Every output channel of a layer has the same number of weights (constant fan-in)
    FanIn,
    /// Whole output channels, which export removes from the network
    Channels,
}

/// Where the weights of a layer lie, seen by the kernel that executes them.
///
/// Training keeps the weights of an output channel in the order input channel, pixel; devices keep
/// pixel, input channel. Pixels are those of the convolution's kernel, or for a linear layer that
/// reads a flattened image, of that image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Output channels.
    pub outputs: usize,
    /// Input channels that an output channel reads.
    pub depth: usize,
    /// Weights per input channel.
    pub pixels: usize,
    /// Weights in whose device order blocks must not cross a border: the input channels of a pixel,
    /// or all inputs of a linear layer.
    pub run: usize,
}

impl Layout {
    /// The layout of a parameter that holds weights.
    pub fn of(graph: &Graph, param: &ParamSpec) -> Self {
        let (outputs, fan_in) = (param.shape[0], param.fan_in());
        match graph.layers[param.layer].op {
            Op::Linear { .. } => {
                let depth = flattened_channels(graph, param.layer).unwrap_or(fan_in);
                Self { outputs, depth, pixels: fan_in / depth, run: fan_in }
            }
            _ => {
                let depth = param.shape[1];
                Self { outputs, depth, pixels: fan_in / depth, run: depth }
            }
        }
    }

    /// Weights of an output channel.
    pub fn fan_in(&self) -> usize {
        self.depth * self.pixels
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.outputs * self.fan_in()
    }

    /// Whether there are no weights; a layer has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weights that a structure keeps or drops together. A layer that blocks do not divide evenly has
    /// smaller ones, at last single weights: no kernel then multiplies by zeros in its blocks.
    pub fn unit(&self, structure: Structure) -> usize {
        let block = |wanted: usize| {
            let sizes = [4, 2].into_iter().filter(|&size| size <= wanted);
            sizes.into_iter().find(|&size| self.run.is_multiple_of(size)).unwrap_or(1)
        };
        match structure {
            Structure::Unstructured | Structure::FanIn => 1,
            Structure::Block2 => block(2),
            Structure::Block4 => block(4),
            Structure::Channels => self.fan_in(),
        }
    }

    /// Weights by which the size of a mask can change.
    pub fn step(&self, structure: Structure) -> usize {
        match structure {
            Structure::FanIn => self.outputs,
            _ => self.unit(structure),
        }
    }

    /// The possible number of weights that is nearest to `keep`, at least one step.
    pub fn nearest(&self, keep: usize, structure: Structure) -> usize {
        let step = self.step(structure);
        ((2 * keep + step) / (2 * step)).clamp(1, self.len() / step) * step
    }

    /// Index of the weight at a position in device order.
    pub fn place(&self, position: usize) -> usize {
        let (output, position) = (position / self.fan_in(), position % self.fan_in());
        let (pixel, channel) = (position / self.depth, position % self.depth);
        output * self.fan_in() + channel * self.pixels + pixel
    }

    /// Input channel that a weight reads.
    pub fn input_channel(&self, weight: usize) -> usize {
        weight % self.fan_in() / self.pixels
    }
}

/// Channels of the image that a linear layer reads flattened, if it does.
fn flattened_channels(graph: &Graph, layer: usize) -> Option<usize> {
    let mut source = graph.layers[layer].inputs[0];
    let mut channels = None;
    while let Source::Layer(index) = source {
        let node = &graph.layers[index];
        match node.op {
            Op::Conv { .. } | Op::Linear { .. } => break,
            Op::Flatten => channels = Some(node.input[2]),
            _ => {}
        }
        source = node.inputs[0];
    }
    channels
}

/// Which weights of one layer are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Vec<bool>);

impl Mask {
    /// Keeps the `count` weights with the highest scores; of equal scores, the first ones.
    pub fn top(scores: &[f32], count: usize) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut keep = vec![false; scores.len()];
        for &index in order.iter().take(count) {
            keep[index] = true;
        }
        Self(keep)
    }

    /// Keeps about `count` weights with the highest scores in units of a structure; exactly `count` if
    /// that is a multiple of its step, see [`Layout::nearest`]. Of equal scores, the first ones.
    pub fn top_units(scores: &[f32], count: usize, structure: Structure, layout: &Layout) -> Self {
        let count = layout.nearest(count, structure);
        if structure == Structure::FanIn {
            let rows = scores.chunks(layout.fan_in());
            let rows = rows.map(|row| Self::top(row, count / layout.outputs).0);
            return Self(rows.collect::<Vec<_>>().concat());
        }
        let unit = layout.unit(structure);
        Self::top(&unit_scores(scores, unit, layout), count / unit).expanded(unit, layout)
    }

    /// The mask of weights from one of units.
    fn expanded(&self, unit: usize, layout: &Layout) -> Self {
        let mut keep = vec![false; layout.len()];
        for (position, keep_unit) in self.0.iter().flat_map(|k| vec![*k; unit]).enumerate() {
            keep[layout.place(position)] = keep_unit;
        }
        Self(keep)
    }

    /// Output channels without weights.
    pub fn silent_rows(&self, outputs: usize) -> Vec<bool> {
        let rows = self.0.chunks(self.0.len() / outputs);
        rows.map(|row| !row.contains(&true)).collect()
    }

    /// One flag per weight, whether it is kept.
    pub fn flags(&self) -> &[bool] {
        &self.0
    }

    /// Whether a weight is kept.
    pub fn keeps(&self, index: usize) -> bool {
        self.0[index]
    }

    /// Makes a mask from one flag per weight.
    pub fn from_flags(keep: Vec<bool>) -> Self {
        Self(keep)
    }

    /// Reads a mask from numbers: everything but 0 is kept.
    pub fn from_values(values: &[f32]) -> Self {
        Self(values.iter().map(|&value| value != 0.0).collect())
    }

    /// 1 for a weight that is kept, 0 for others.
    pub fn to_values(&self) -> Vec<f32> {
        self.0.iter().map(|&keep| f32::from(u8::from(keep))).collect()
    }

    /// Number of weights that are kept.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|&&keep| keep).count()
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The mask of one layer of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMask {
    /// Index of the parameter.
    pub param: usize,
    /// Its mask.
    pub mask: Mask,
    /// Whether output channels without weights are to be removed from the network: their biases and
    /// batch norm shifts then go too.
    pub remove: bool,
}

/// Mean score of every unit, in device order.
fn unit_scores(scores: &[f32], unit: usize, layout: &Layout) -> Vec<f32> {
    let ordered: Vec<f32> = (0..scores.len()).map(|at| scores[layout.place(at)]).collect();
    ordered.chunks(unit).map(|unit| unit.iter().sum::<f32>() / unit.len() as f32).collect()
}

/// How the weights that are kept are divided among the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Every layer has the same density
    Uniform,
    /// Erdős-Rényi-kernel: small layers are denser (Evci et al., ICML 2020)
    #[default]
    Erk,
    /// One threshold for the scores of all layers; random scores make it uniform
    Global,
}

/// How many weights each layer may keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Parameters that are pruned, and how many of their values are kept.
    pub layers: Vec<LayerBudget>,
    /// All weights of the network.
    pub weights: usize,
    /// Weights of layers that stay dense.
    pub dense: usize,
    /// Which weights of a layer are kept together.
    pub structure: Structure,
    /// Whole channels: how many of each set, and the sets that each of the `layers` writes and reads.
    channels: Option<ChannelBudget>,
}

#[derive(Debug, Clone, PartialEq)]
struct ChannelBudget {
    /// Channels of each set, and how many are kept.
    groups: Vec<[usize; 2]>,
    /// Set of outputs, and set of inputs where the layer reads all channels of it.
    layers: Vec<(usize, Option<usize>)>,
}

/// How many values of one parameter are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBudget {
    /// Index of the parameter.
    pub param: usize,
    /// Number of its values.
    pub len: usize,
    /// Number of values that are kept.
    pub keep: usize,
    /// Where they lie.
    pub layout: Layout,
}

impl LayerBudget {
    /// The weights of each unit, in device order.
    fn units(&self, structure: Structure) -> Vec<Vec<usize>> {
        let places: Vec<usize> = (0..self.len).map(|at| self.layout.place(at)).collect();
        places.chunks(self.layout.unit(structure)).map(<[usize]>::to_vec).collect()
    }
}

impl Budget {
    /// Divides `density` of all weights among the layers.
    ///
    /// Depthwise convolutions stay dense unless together they would take more than half of the weights
    /// that are kept, and so does a convolution that reads the network's input unless it would take more
    /// than a fifth: both hold few weights and lose much accuracy. A pruned depthwise convolution takes
    /// the time of a dense one.
    ///
    /// Structures other than single weights round to their steps, such that the total stays as near
    /// as it can. For whole channels, no layer stays dense and the distribution plays no part: every
    /// set of channels ([`ChannelGroups`]) keeps the same share, and the density counts what is left
    /// when the weights that read removed channels are gone too.
    ///
    /// # Errors
    /// When the layers that stay dense already exceed the density, with the least possible one.
    pub fn new(
        graph: &Graph,
        params: &[ParamSpec],
        density: f64,
        distribution: Distribution,
        structure: Structure,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            density > 0.0 && density <= 1.0,
            "the density must be above 0 and at most 1, found {density}"
        );
        let weights: Vec<usize> =
            (0..params.len()).filter(|&index| params[index].role == Role::Weight).collect();
        let total: usize = weights.iter().map(|&index| params[index].len()).sum();
        let keep_total = (total as f64 * density).round() as usize;
        if structure == Structure::Channels {
            return Self::channels(graph, params, weights, keep_total);
        }
        anyhow::ensure!(
            structure != Structure::FanIn || distribution != Distribution::Global,
            "a constant fan-in cannot follow one threshold for all layers; use the distribution erk or \
             uniform"
        );
        let is_depthwise = |index: usize| graph.layers[params[index].layer].op.is_depthwise();
        let depthwise: usize =
            weights.iter().filter(|&&index| is_depthwise(index)).map(|&i| params[i].len()).sum();
        let stays_dense = |index: usize| {
            let node = &graph.layers[params[index].layer];
            let reads_input = node.inputs == [Source::Input] && matches!(node.op, Op::Conv { .. });
            (is_depthwise(index) && depthwise * 2 <= keep_total)
                || (reads_input && params[index].len() * 5 <= keep_total)
        };
        let pruned: Vec<usize> = weights.into_iter().filter(|&index| !stays_dense(index)).collect();
        let prunable: usize = pruned.iter().map(|&index| params[index].len()).sum();
        let dense = total - prunable;
        anyhow::ensure!(
            density == 1.0 || (dense + pruned.len() <= keep_total && !pruned.is_empty()),
            "a density of {density} leaves {keep_total} of {total} weights, but layers that stay \
             dense (depthwise, first convolution) have {dense} already; the least density of this \
             network is {:.3}",
            (dense + pruned.len()) as f64 / total as f64
        );
        let lens: Vec<usize> = pruned.iter().map(|&index| params[index].len()).collect();
        let appeal: Vec<f64> = pruned
            .iter()
            .map(|&index| match distribution {
                Distribution::Uniform | Distribution::Global => 1.0,
                Distribution::Erk => {
                    let spec = &params[index];
                    spec.shape.iter().sum::<usize>() as f64 / spec.len() as f64
                }
            })
            .collect();
        let keeps = divide(&lens, &appeal, keep_total - dense);
        let mut layers: Vec<LayerBudget> = pruned
            .iter()
            .zip(lens)
            .zip(keeps)
            .map(|((&param, len), keep)| {
                let layout = Layout::of(graph, &params[param]);
                LayerBudget { param, len, keep: layout.nearest(keep, structure), layout }
            })
            .collect();
        // Rounding may have shifted the sum: each layer may take one step more to make up for it.
        let steps: Vec<[usize; 3]> = layers
            .iter()
            .map(|layer| [layer.layout.step(structure), layer.len, layer.keep])
            .collect();
        let keeps = steps.iter().map(|[.., keep]| *keep).collect();
        let keeps = mend(
            keeps,
            |keeps| {
                let valid =
                    |(keep, [step, len, _]): (&usize, &[usize; 3])| step <= keep && keep <= len;
                let all_valid = keeps.iter().zip(&steps).all(valid);
                all_valid.then(|| (keeps.iter().sum::<usize>() + dense).abs_diff(keep_total))
            },
            |index| steps[index][0],
        );
        layers.iter_mut().zip(keeps).for_each(|(layer, keep)| layer.keep = keep);
        Ok(Self { layers, weights: total, dense, structure, channels: None })
    }

    /// The budget of a network with fewer channels.
    fn channels(
        graph: &Graph,
        params: &[ParamSpec],
        weights: Vec<usize>,
        keep_total: usize,
    ) -> anyhow::Result<Self> {
        let sets = ChannelGroups::new(graph);
        let total: usize = weights.iter().map(|&index| params[index].len()).sum();
        let flows: Vec<(usize, Option<usize>)> = weights
            .iter()
            .map(|&index| {
                let layer = params[index].layer;
                let reads_all = !graph.layers[layer].op.is_depthwise();
                (sets.output[layer], reads_all.then_some(sets.input[layer]))
            })
            .collect();
        let layouts: Vec<Layout> =
            weights.iter().map(|&index| Layout::of(graph, &params[index])).collect();
        let full: Vec<usize> = sets.groups.iter().map(|group| group.channels).collect();
        let kept = |keeps: &[usize]| -> Vec<usize> {
            let layers = flows.iter().zip(&layouts);
            layers
                .map(|(&(output, input), layout)| {
                    let depth = match input {
                        // A convolution in groups reads a part of a set that stays whole.
                        Some(input) if full[input] == layout.depth => keeps[input],
                        _ => layout.depth,
                    };
                    keeps[output] * depth * layout.pixels
                })
                .collect()
        };
        let at_width = |share: f64| -> Vec<usize> {
            let groups = sets.groups.iter();
            groups
                .map(|group| match group.removable {
                    true => ((group.channels as f64 * share).round() as usize).max(1),
                    false => group.channels,
                })
                .collect()
        };
        let weights_of = |keeps: &[usize]| kept(keeps).iter().sum::<usize>();
        let least = weights_of(&at_width(0.0));
        anyhow::ensure!(
            least <= keep_total,
            "a density of {:.4} leaves {keep_total} of {total} weights, but with one channel in every \
             layer that can lose some there are {least}; the least density of this network with whole \
             channels is {:.3}",
            keep_total as f64 / total as f64,
            least as f64 / total as f64
        );
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if weights_of(&at_width(middle)) <= keep_total { low = middle } else { high = middle }
        }
        let base = at_width(if weights_of(&full) <= keep_total { 1.0 } else { low });
        let keeps = mend(
            base,
            |keeps| {
                let valid = |(keep, group): (&usize, &super::channels::ChannelGroup)| {
                    let least = if group.removable { 1 } else { group.channels };
                    (least..=group.channels).contains(keep)
                };
                let all_valid = keeps.iter().zip(&sets.groups).all(valid);
                all_valid.then(|| weights_of(keeps).abs_diff(keep_total))
            },
            |_| 1,
        );
        let layers = weights
            .iter()
            .zip(&layouts)
            .zip(kept(&keeps))
            .map(|((&param, &layout), keep)| LayerBudget { param, len: layout.len(), keep, layout })
            .collect();
        let groups = full.into_iter().zip(keeps).map(|(full, keep)| [full, keep]).collect();
        Ok(Self {
            layers,
            weights: total,
            dense: 0,
            structure: Structure::Channels,
            channels: Some(ChannelBudget { groups, layers: flows }),
        })
    }

    /// Weights that the whole network keeps.
    pub fn kept(&self) -> usize {
        self.dense + self.layers.iter().map(|layer| layer.keep).sum::<usize>()
    }

    /// Masks in the order of `layers`, with the parameters they belong to.
    pub fn layer_masks(&self, masks: Vec<Mask>) -> Vec<LayerMask> {
        let remove = self.structure == Structure::Channels;
        let layers = self.layers.iter().zip(masks);
        layers.map(|(layer, mask)| LayerMask { param: layer.param, mask, remove }).collect()
    }

    /// Random masks, in the order of `layers`, see [`Self::connected`].
    pub fn random(&self, graph: &Graph, params: &[ParamSpec], rng: &mut impl Rng) -> Vec<Mask> {
        // All units are equally likely to have the largest mean of independent scores.
        self.connected(graph, params, &self.random_scores(rng), false)
    }

    fn random_scores(&self, rng: &mut impl Rng) -> Vec<Vec<f32>> {
        let layers = self.layers.iter();
        layers.map(|layer| (0..layer.len).map(|_| rng.random()).collect()).collect()
    }

    /// Masks of the highest scores, as [`Self::top`] has them, in which every unit lies on a path from the
    /// network's input to its result, as far as that is possible.
    ///
    /// Without that, a depthwise network of density 0.02 has hardly a path left, and what is trained are constants.
    /// Dead ends make room for the next best units, again and again while that brings more to life. A very sparse
    /// network becomes narrow in this way, and keeps several weights per channel: what RigL arrives at, too (Lasby
    /// et al., "Dynamic sparse training with structured sparsity", ICLR 2024).
    pub fn connected(
        &self,
        graph: &Graph,
        params: &[ParamSpec],
        scores: &[Vec<f32>],
        global: bool,
    ) -> Vec<Mask> {
        let mut masks = self.top(scores, global);
        // Whole channels are kept with all that reads and writes them.
        if self.structure == Structure::Channels {
            return masks;
        }
        // More than what separates any two scores.
        let step = 3.0 * scores.iter().flatten().fold(f32::MIN_POSITIVE, |a, b| a.max(b.abs()));
        let units: Vec<Vec<Vec<usize>>> =
            self.layers.iter().map(|layer| layer.units(self.structure)).collect();
        const ROUNDS: usize = 100;
        let mut turns = scores.to_vec();
        for _ in 0..ROUNDS {
            let mut dead = false;
            let layers = units.iter().zip(&masks).zip(&mut turns);
            for (((units, mask), turns), ends) in layers.zip(self.ends(graph, params, &masks)) {
                for unit in units {
                    if mask.keeps(unit[0]) && !unit.iter().any(|&place| ends[place].live()) {
                        dead = true;
                        // Behind all that have not had a turn.
                        unit.iter().for_each(|&place| turns[place] -= step);
                    }
                }
            }
            if !dead {
                return masks;
            }
            masks = self.top(&turns, global);
        }
        // Where chance finds no place for some: first all units, from the input on, read what depends on it, then,
        // from the result on, all write what it depends on. Those that do stay, so that the others follow them.
        let mut settle = |at: usize, rank: fn(bool, Ends) -> u8| {
            let ends = &self.ends(graph, params, &masks)[at];
            let (layer, mask, mut scores) = (&self.layers[at], &masks[at], scores[at].clone());
            for unit in &units[at] {
                let kept = mask.keeps(unit[0]);
                let rank = unit.iter().map(|&place| rank(kept, ends[place])).max();
                let bonus = step * f32::from(rank.expect("a unit has weights"));
                unit.iter().for_each(|&place| scores[place] += bonus);
            }
            masks[at] = Mask::top_units(&scores, mask.count(), self.structure, &layer.layout);
        };
        for at in 0..self.layers.len() {
            settle(at, |kept, ends| u8::from(ends.reached) * (1 + u8::from(kept)));
        }
        for at in (0..self.layers.len()).rev() {
            settle(at, |kept, ends| match ends.live() {
                true => 2 + u8::from(kept),
                false => u8::from(ends.reached),
            });
        }
        masks
    }

    /// The ends of the weights of every layer under these masks.
    fn ends(&self, graph: &Graph, params: &[ParamSpec], masks: &[Mask]) -> Vec<Vec<Ends>> {
        let mut of_layer: Vec<Option<&Mask>> = vec![None; graph.layers.len()];
        for (layer, mask) in self.layers.iter().zip(masks) {
            of_layer[params[layer.param].layer] = Some(mask);
        }
        let mut ends = ends(graph, params, &of_layer);
        let layers = self.layers.iter();
        layers.map(|layer| std::mem::take(&mut ends[params[layer.param].layer])).collect()
    }

    /// Masks of the highest scores: within each layer, or over all layers if `global`. Whole channels
    /// are chosen by the sum of their scores in all layers that write them, never globally.
    pub fn top(&self, scores: &[Vec<f32>], global: bool) -> Vec<Mask> {
        if let Some(channels) = &self.channels {
            return self.top_channels(channels, scores);
        }
        let structure = self.structure;
        if !global {
            let layers = self.layers.iter().zip(scores);
            let top = |(layer, scores): (&LayerBudget, &Vec<f32>)| {
                Mask::top_units(scores, layer.keep, structure, &layer.layout)
            };
            return layers.map(top).collect();
        }
        // Every layer keeps at least one unit, so that the network stays connected.
        let units: Vec<usize> =
            self.layers.iter().map(|layer| layer.layout.unit(structure)).collect();
        let mut all: Vec<(f32, usize, usize)> = Vec::new();
        for (index, scores) in scores.iter().enumerate() {
            let scores = unit_scores(scores, units[index], &self.layers[index].layout);
            let best = Mask::top(&scores, 1);
            let of_unit = |(unit, score): (usize, &f32)| {
                (if best.0[unit] { f32::INFINITY } else { *score }, index, unit)
            };
            all.extend(scores.iter().enumerate().map(of_unit));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut rest: usize = self.layers.iter().map(|layer| layer.keep).sum();
        let lens = self.layers.iter().zip(&units).map(|(layer, unit)| layer.len / unit);
        let mut keep: Vec<Mask> = lens.map(|len| Mask(vec![false; len])).collect();
        for (_, layer, unit) in all {
            if units[layer] <= rest {
                keep[layer].0[unit] = true;
                rest -= units[layer];
            }
        }
        let layers = self.layers.iter().zip(&keep).zip(units);
        layers.map(|((layer, mask), unit)| mask.expanded(unit, &layer.layout)).collect()
    }

    fn top_channels(&self, channels: &ChannelBudget, scores: &[Vec<f32>]) -> Vec<Mask> {
        let mut sums: Vec<Vec<f32>> =
            channels.groups.iter().map(|&[channels, _]| vec![0.0; channels]).collect();
        for ((layer, scores), (output, _)) in self.layers.iter().zip(scores).zip(&channels.layers) {
            let rows = unit_scores(scores, layer.layout.fan_in(), &layer.layout);
            sums[*output].iter_mut().zip(rows).for_each(|(sum, row)| *sum += row);
        }
        let kept: Vec<Mask> = sums
            .iter()
            .zip(&channels.groups)
            .map(|(sums, &[_, keep])| Mask::top(sums, keep))
            .collect();
        let layers = self.layers.iter().zip(&channels.layers);
        layers
            .map(|(layer, &(output, input))| {
                let reads = |weight: usize| match input {
                    Some(input) if kept[input].len() == layer.layout.depth => {
                        kept[input].0[layer.layout.input_channel(weight)]
                    }
                    _ => true,
                };
                let fan_in = layer.layout.fan_in();
                let keep = (0..layer.len).map(|w| kept[output].0[w / fan_in] && reads(w));
                Mask(keep.collect())
            })
            .collect()
    }
}

/// Changes each number by at most one step up or down while that makes the error smaller; `error` is
/// `None` for numbers that are impossible.
fn mend(
    mut numbers: Vec<usize>,
    error: impl Fn(&[usize]) -> Option<usize>,
    step: impl Fn(usize) -> usize,
) -> Vec<usize> {
    let mut open: Vec<usize> = (0..numbers.len()).collect();
    let mut least = error(&numbers).unwrap_or(0);
    loop {
        let tried = open.iter().flat_map(|&index| {
            let (number, step) = (numbers[index], step(index));
            [Some(number + step), number.checked_sub(step)]
                .into_iter()
                .flatten()
                .map(move |number| (index, number))
        });
        let best = tried
            .filter_map(|(index, number)| {
                let mut numbers = numbers.clone();
                numbers[index] = number;
                Some((error(&numbers)?, index, number))
            })
            .min();
        match best {
            Some((error, index, number)) if error < least => {
                (least, numbers[index]) = (error, number);
                open.retain(|&other| other != index);
            }
            _ => return numbers,
        }
    }
}

/// Divides `total` among layers in proportion to `len * appeal`, none above its length, none empty.
fn divide(lens: &[usize], appeal: &[f64], total: usize) -> Vec<usize> {
    let mut full = vec![false; lens.len()];
    let densities = loop {
        let rest = total as f64
            - lens
                .iter()
                .zip(&full)
                .filter(|(_, full)| **full)
                .map(|(&len, _)| len as f64)
                .sum::<f64>();
        let open: f64 = (0..lens.len())
            .filter(|&index| !full[index])
            .map(|index| lens[index] as f64 * appeal[index])
            .sum();
        let factor = if open > 0.0 { rest / open } else { 0.0 };
        let newly: Vec<usize> =
            (0..lens.len()).filter(|&index| !full[index] && factor * appeal[index] > 1.0).collect();
        if newly.is_empty() {
            break (0..lens.len())
                .map(|index| if full[index] { 1.0 } else { factor * appeal[index] })
                .collect::<Vec<f64>>();
        }
        for index in newly {
            full[index] = true;
        }
    };
    // Rounding: the running sum of exact shares decides, so that the total is met exactly.
    let mut exact = 0.0;
    let mut given = 0;
    let mut keeps: Vec<usize> = lens
        .iter()
        .zip(&densities)
        .map(|(&len, density)| {
            exact += len as f64 * density;
            let keep = (exact.round() as usize).saturating_sub(given).clamp(1, len);
            given += keep;
            keep
        })
        .collect();
    // The bounds above may have shifted the sum by a few; the largest layers make up for it.
    while given != total {
        let open = |&index: &usize| {
            if given < total { keeps[index] < lens[index] } else { keeps[index] > 1 }
        };
        let Some(index) = (0..lens.len()).filter(open).max_by_key(|&index| lens[index]) else {
            break;
        };
        if given < total {
            keeps[index] += 1;
            given += 1;
        } else {
            keeps[index] -= 1;
            given -= 1;
        }
    }
    keeps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;
    use crate::net::preset;

    proptest! {
        #[test]
        fn shares_add_up(
            layers in prop::collection::vec((1_usize..5000, 0.001_f64..10.0), 1..9),
            density in 0.001_f64..1.0,
        ) {
            let (lens, appeal): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
            let all: usize = lens.iter().sum();
            let total = ((all as f64 * density) as usize).max(lens.len());
            let keeps = divide(&lens, &appeal, total);
            prop_assert_eq!(keeps.iter().sum::<usize>(), total);
            prop_assert!(keeps.iter().zip(&lens).all(|(&keep, &len)| 1 <= keep && keep <= len));
        }
    }

    #[test]
    fn density_is_that_of_the_whole_network() {
        for (name, input) in
            [("resnet8", [32, 32, 3]), ("ds-cnn", [49, 10, 1]), ("lenet", [28, 28, 1])]
        {
            let graph = Graph::new(&preset(name).unwrap().for_data(input, 10).unwrap()).unwrap();
            let params = graph.params();
            let budget = |density, distribution| {
                Budget::new(&graph, &params, density, distribution, Structure::Unstructured)
            };
            let erk = budget(0.25, Distribution::Erk).unwrap();
            let uniform = budget(0.25, Distribution::Uniform).unwrap();
            for budget in [&erk, &uniform] {
                assert_eq!(budget.kept(), (budget.weights as f64 * 0.25).round() as usize);
                let masks = budget.random(&graph, &params, &mut Pcg64::seed_from_u64(1));
                let kept: usize = masks.iter().map(Mask::count).sum();
                assert_eq!(kept + budget.dense, budget.kept());
                assert!(
                    budget.layers.iter().all(|layer| !params[layer.param].name.starts_with("dw"))
                );
            }
            // ERK keeps more of the small head than of the large layers.
            let share = |budget: &Budget| {
                let head = budget.layers.last().unwrap();
                head.keep as f64 / head.len as f64
            };
            assert!(share(&erk) > share(&uniform));
            let error = budget(1e-6, Distribution::Erk).unwrap_err();
            assert!(error.to_string().contains("least density"), "{error}");
        }
    }

    #[test]
    fn global_masks_follow_one_threshold() {
        let layout = Layout { outputs: 2, depth: 2, pixels: 1, run: 2 };
        let layers = [0, 1].map(|param| LayerBudget { param, len: 4, keep: 2, layout });
        let budget = Budget {
            layers: layers.to_vec(),
            weights: 8,
            dense: 0,
            structure: Structure::Unstructured,
            channels: None,
        };
        let scores = [vec![9.0, 8.0, 7.0, 6.0], vec![1.0, 2.0, 0.5, 0.1]];
        let counts =
            |global| budget.top(&scores, global).iter().map(Mask::count).collect::<Vec<_>>();
        assert_eq!(counts(false), [2, 2]);
        assert_eq!(counts(true), [3, 1]);
        assert_eq!(budget.top(&scores, true)[1].to_values(), [0.0, 1.0, 0.0, 0.0]);
    }

    /// Every structure keeps what it promises, in random masks and in those of scores, at a density
    /// near the one asked for.
    #[test]
    fn structures_hold() {
        use Structure::{Block2, Block4, Channels, FanIn, Unstructured};
        for (name, input, density) in [
            ("resnet8", [32, 32, 3], 0.1),
            ("ds-cnn", [49, 10, 1], 0.3),
            ("lenet", [28, 28, 1], 0.05),
        ] {
            let graph = Graph::new(&preset(name).unwrap().for_data(input, 10).unwrap()).unwrap();
            let params = graph.params();
            for structure in [Unstructured, Block2, Block4, FanIn, Channels] {
                let budget =
                    Budget::new(&graph, &params, density, Distribution::Erk, structure).unwrap();
                let off = budget.kept() as f64 / budget.weights as f64 - density;
                assert!(off.abs() < 0.03 * density, "{name}, {structure:?}: {off}");
                let mut rng = Pcg64::seed_from_u64(2);
                let random = budget.random(&graph, &params, &mut rng);
                let scores = budget.random_scores(&mut rng);
                for masks in [random, budget.top(&scores, false)] {
                    for (layer, mask) in budget.layers.iter().zip(&masks) {
                        assert_eq!(mask.count(), layer.keep);
                        holds(mask, structure, &layer.layout);
                    }
                }
            }
        }
    }

    /// Few units of a mask are dead ends, however sparse the network.
    #[test]
    fn masks_are_connected() {
        for (name, input, density) in [
            ("ds-cnn", [49, 10, 1], 0.02),
            ("resnet8", [32, 32, 3], 0.01),
            ("lenet", [28, 28, 1], 0.005),
        ] {
            let graph = Graph::new(&preset(name).unwrap().for_data(input, 10).unwrap()).unwrap();
            let params = graph.params();
            for structure in [Structure::Unstructured, Structure::Block4] {
                let budget =
                    Budget::new(&graph, &params, density, Distribution::Erk, structure).unwrap();
                let scores = budget.random_scores(&mut Pcg64::seed_from_u64(3));
                let dead = |masks: &[Mask]| {
                    let ends = budget.ends(&graph, &params, masks);
                    let layers = budget.layers.iter().zip(masks).zip(ends);
                    let dead = layers.map(|((layer, mask), ends)| {
                        let live = |place: &usize| ends[*place].live();
                        let dead =
                            |unit: &Vec<usize>| mask.keeps(unit[0]) && !unit.iter().any(live);
                        layer.units(structure).into_iter().filter(dead).count()
                    });
                    dead.sum::<usize>()
                };
                let plain = budget.top(&scores, false);
                let masks = budget.connected(&graph, &params, &scores, false);
                assert!(dead(&plain) > 0, "{name}, {structure:?}: nothing to mend");
                // A depthwise layer may have too few places on the paths that there are.
                let [before, after] = [dead(&plain), dead(&masks)];
                assert!(3 * after <= before, "{name}, {structure:?}: {after} of {before}");
                for (layer, mask) in budget.layers.iter().zip(&masks) {
                    assert_eq!(mask.count(), layer.keep);
                    holds(mask, structure, &layer.layout);
                }
            }
        }
    }

    fn holds(mask: &Mask, structure: Structure, layout: &Layout) {
        let rows: Vec<usize> = mask
            .0
            .chunks(layout.fan_in())
            .map(|row| row.iter().filter(|&&keep| keep).count())
            .collect();
        match structure {
            Structure::FanIn => assert!(rows.iter().all(|&count| count == rows[0])),
            Structure::Channels => {
                let most = rows.iter().max().unwrap();
                assert!(rows.iter().all(|count| count == most || *count == 0));
            }
            _ => {
                let unit = layout.unit(structure);
                assert!(layout.run.is_multiple_of(unit));
                let device: Vec<bool> =
                    (0..mask.len()).map(|at| mask.keeps(layout.place(at))).collect();
                assert!(device.chunks(unit).all(|unit| unit.iter().all(|&k| k == unit[0])));
            }
        }
    }

    /// A linear layer behind an image is reordered on the device: its blocks are neighbouring
    /// channels of one pixel.
    #[test]
    fn blocks_are_neighbouring_channels() {
        let graph = preset("lenet").unwrap().for_data([28, 28, 1], 10).unwrap();
        let graph = Graph::new(&graph).unwrap();
        let layout = |name: &str| {
            let params = graph.params();
            Layout::of(&graph, params.iter().find(|param| param.name == name).unwrap())
        };
        let fc1 = layout("fc1.weight");
        assert_eq!((fc1.depth, fc1.pixels, fc1.unit(Structure::Block4)), (32, 49, 4));
        assert_eq!([0, 1, 2].map(|at| fc1.place(at)), [0, 49, 98]);
        assert_eq!(fc1.place(32), 1);
        // The first convolution reads one channel, the second eight.
        assert_eq!(layout("conv1.weight").unit(Structure::Block4), 1);
        assert_eq!(layout("conv2.weight").unit(Structure::Block4), 4);
        let mut scores = vec![0.0; fc1.len()];
        scores[49] = 1.0;
        let mask = Mask::top_units(&scores, 4, Structure::Block4, &fc1);
        let kept: Vec<usize> = (0..mask.len()).filter(|&w| mask.keeps(w)).collect();
        assert_eq!(kept, [0, 49, 98, 147]);
    }
}
