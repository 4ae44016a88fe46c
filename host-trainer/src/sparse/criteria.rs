//! Criteria: how much a weight matters.
//!
//! Every criterion gives each weight a score that is not negative. A unit of several weights (a block,
//! a channel, see [`Structure`](super::mask::Structure)) has the mean of their scores, so that criteria
//! and structures combine freely. For whole channels that mean orders channels as the sources of the norms, of
//! batch norm's scale and of the geometric median do; the source of Taylor's expansion scores activations.

use burn::tensor::Tensor;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{
    Config,
    channels::norm_of,
    mask::Layout,
    method::Phase,
    state::{Purpose, State, rng},
    step::learn,
};
use crate::{
    data::{Dataset, Split},
    net::{module::values, shape::Role},
};

/// Batches that gradients are taken from.
const BATCHES: usize = 8;

/// A criterion.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Magnitude |w|; the L1 norm of a unit (Li et al., ICLR 2017)
    #[default]
    L1,
    /// Square of the magnitude; the L2 norm of a unit (He et al., IJCAI 2018)
    L2,
    /// Distance to the geometric median of the layer's output channels (He et al., CVPR 2019)
    GeometricMedian,
    /// Scale of the batch norm behind the channel (Liu et al., ICCV 2017), by magnitude within it
    BatchNorm,
    /// First-order Taylor expansion |w dL/dw|, the mean over batches (Molchanov et al., ICLR 2017)
    Taylor,
    /// Connection sensitivity |w dL/dw| of one loss over all of them (Lee et al., ICLR 2019)
    Snip,
    /// At random: the control
    Random,
}

impl Criterion {
    /// Name as on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |v| v.get_name().into())
    }

    /// Whether the scores follow from gradients.
    pub fn needs_gradients(self) -> bool {
        matches!(self, Self::Taylor | Self::Snip)
    }
}

/// What the scores of a layer follow from.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The weights, output channel by output channel.
    pub weights: Vec<f32>,
    /// Output channels.
    pub outputs: usize,
    /// Scale of each channel's batch norm, where there is one.
    pub scale: Option<Vec<f32>>,
    /// Gradient of the weights on each of some batches; only for criteria that need it.
    pub gradients: Vec<Vec<f32>>,
}

/// Scores of the weights of a layer; `random` is asked by [`Criterion::Random`] alone.
pub fn score(criterion: Criterion, layer: &Evidence, random: &mut impl rand::Rng) -> Vec<f32> {
    let weights = &layer.weights;
    let fan_in = weights.len() / layer.outputs;
    match criterion {
        Criterion::L1 => weights.iter().map(|weight| weight.abs()).collect(),
        Criterion::L2 => weights.iter().map(|weight| weight * weight).collect(),
        Criterion::GeometricMedian => {
            // The squared distance of a channel is the sum of those of its weights.
            let median = geometric_median(weights, fan_in);
            let pairs = weights.iter().zip(median.iter().cycle());
            pairs.map(|(weight, median)| (weight - median).powi(2)).collect()
        }
        Criterion::BatchNorm => {
            let rows = weights.chunks(fan_in).enumerate();
            rows.flat_map(|(channel, row)| {
                let scale = layer.scale.as_ref().map_or(1.0, |scale| scale[channel].abs());
                // The mean over the channel is its scale.
                let mean = row.iter().map(|weight| weight.abs()).sum::<f32>() / fan_in as f32;
                row.iter().map(move |weight| scale * weight.abs() / mean.max(f32::MIN_POSITIVE))
            })
            .collect()
        }
        Criterion::Taylor => {
            let count = layer.gradients.len().max(1) as f32;
            let mut sum = vec![0.0; weights.len()];
            for gradient in &layer.gradients {
                let products = weights.iter().zip(gradient).map(|(w, g)| (w * g).abs() / count);
                sum.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
            }
            sum
        }
        Criterion::Snip => {
            let mut sum = vec![0.0; weights.len()];
            for gradient in &layer.gradients {
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
            weights.iter().zip(sum).map(|(weight, sum)| (weight * sum).abs()).collect()
        }
        Criterion::Random => weights.iter().map(|_| random.random()).collect(),
    }
}

/// The point with the least sum of distances to the rows, by Weiszfeld's iteration (1937).
fn geometric_median(rows: &[f32], len: usize) -> Vec<f32> {
    const STEPS: usize = 30;
    let count = (rows.len() / len) as f32;
    let mut point = vec![0.0; len];
    for row in rows.chunks(len) {
        point.iter_mut().zip(row).for_each(|(point, value)| *point += value / count);
    }
    for _ in 0..STEPS {
        let mut next = vec![0.0; len];
        let mut total = 0.0;
        for row in rows.chunks(len) {
            let distance: f32 = row.iter().zip(&point).map(|(a, b)| (a - b).powi(2)).sum();
            // A row that is the point itself would otherwise decide alone.
            let weight = 1.0 / distance.sqrt().max(1e-6);
            total += weight;
            next.iter_mut().zip(row).for_each(|(next, value)| *next += weight * value);
        }
        next.iter_mut().for_each(|value| *value /= total);
        point = next;
    }
    point
}

/// Scores of some layers of a network in training, by criterion and layer.
///
/// Gradients are those of the loss on a few training batches that `moment` decides with the seed.
pub(super) fn scores(
    state: &State,
    data: &Dataset,
    config: &Config,
    criteria: &[Criterion],
    layers: &[(usize, Layout)],
    moment: usize,
) -> Vec<Vec<Vec<f32>>> {
    let gradients = match criteria.iter().any(|criterion| criterion.needs_gradients()) {
        true => gradients(state, data, config, layers, moment),
        false => vec![Vec::new(); layers.len()],
    };
    let evidence: Vec<Evidence> = layers
        .iter()
        .zip(gradients)
        .map(|(&(param, layout), gradients)| Evidence {
            weights: values(&state.values[param]),
            outputs: layout.outputs,
            scale: norm_scale(state, param),
            gradients,
        })
        .collect();
    criteria
        .iter()
        .map(|&criterion| {
            let mut random = rng(config.seed, Purpose::Scores, moment);
            evidence.iter().map(|layer| score(criterion, layer, &mut random)).collect()
        })
        .collect()
}

fn norm_scale(state: &State, param: usize) -> Option<Vec<f32>> {
    let params = &state.net.params;
    let norm = norm_of(&state.net.graph, params[param].layer)?;
    let gamma = params.iter().position(|p| (p.layer, p.role) == (norm, Role::Gamma))?;
    Some(values(&state.values[gamma]))
}

/// Gradients of the layers' weights on each of a few batches, by layer.
fn gradients(
    state: &State,
    data: &Dataset,
    config: &Config,
    layers: &[(usize, Layout)],
    moment: usize,
) -> Vec<Vec<Vec<f32>>> {
    use rand::seq::SliceRandom;
    let mut samples = data.indices(Split::Train);
    samples.shuffle(&mut rng(config.seed, Purpose::Scores, moment));
    let batch = config.batch.min(samples.len());
    let masked = state.masks.iter().any(Option::is_some);
    let phase = if masked { Phase::Masked } else { Phase::Dense };
    let mut all = vec![Vec::new(); layers.len()];
    for indices in samples.chunks_exact(batch).take(BATCHES) {
        let lesson = learn(state, data, config, phase, false, indices, moment);
        for (gradients, &(param, _)) in all.iter_mut().zip(layers) {
            let gradient: &Tensor<1> = &lesson.backbone[param];
            gradients.push(values(gradient));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    /// Sums over channels against the formulas of the sources, written out.
    #[test]
    fn channels_are_ordered_as_published() {
        let layer = Evidence {
            weights: vec![1.0, -2.0, 0.5, 3.0, 0.1, -0.2, 1.0, -2.0, 0.6],
            outputs: 3,
            scale: Some(vec![0.5, -2.0, 1.0]),
            gradients: vec![
                vec![1.0, 0.0, 2.0, 0.5, 0.0, 1.0, -1.0, 1.0, 0.0],
                vec![-1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0],
            ],
        };
        let mut random = Pcg64::seed_from_u64(1);
        let mut rows = |criterion| -> Vec<f32> {
            let scores = score(criterion, &layer, &mut random);
            assert!(scores.iter().all(|score| *score >= 0.0));
            scores.chunks(3).map(|row| row.iter().sum()).collect()
        };
        let near = |a: Vec<f32>, b: [f32; 3]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?}, {b:?}");
        };
        near(rows(Criterion::L1), [3.5, 3.3, 3.6]);
        near(rows(Criterion::L2), [1.0 + 4.0 + 0.25, 9.0 + 0.01 + 0.04, 1.0 + 4.0 + 0.36]);
        // The mean of three is the scale.
        near(rows(Criterion::BatchNorm), [1.5, 6.0, 3.0]);
        // |1 * 1| + |0.5 * 2|; both batches give the same.
        near(rows(Criterion::Taylor), [2.0, 1.5 + 0.05 + 0.2, 1.0 + 2.0]);
        // The gradient of the first weight cancels out.
        near(rows(Criterion::Snip), [2.0, 3.0 + 0.1 + 0.4, 4.0]);
        let distances = rows(Criterion::GeometricMedian);
        assert!(distances[1] > distances[2] && distances[1] > distances[0]);
        assert_ne!(rows(Criterion::Random), rows(Criterion::Random));
    }

    #[test]
    fn the_geometric_median_is_the_least_sum_of_distances() {
        let rows = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 9.0, 9.0];
        let sum = |point: &[f32]| -> f32 {
            rows.chunks(2)
                .map(|row| ((row[0] - point[0]).powi(2) + (row[1] - point[1]).powi(2)).sqrt())
                .sum()
        };
        let median = geometric_median(&rows, 2);
        for step in [[0.05, 0.0], [-0.05, 0.0], [0.0, 0.05], [0.0, -0.05]] {
            assert!(sum(&median) < sum(&[median[0] + step[0], median[1] + step[1]]) + 1e-4);
        }
    }
}
