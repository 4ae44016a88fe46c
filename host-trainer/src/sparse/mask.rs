//! Masks: which weights a sparse network keeps.
//!
//! **How density is counted.** Density = nonzero weights / all weights, over *all* weights of
//! convolutions and linear layers, those of layers that are never pruned included. Biases and batch
//! norm are in neither number: an exported layer has one bias per channel at any density. Layers
//! that stay dense therefore cost density elsewhere, and the density asked for is the density of the
//! whole network.

use rand::{Rng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use crate::net::{
    Graph,
    shape::{Op, ParamSpec, Role, Source},
};

/// Which weights of one layer are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Vec<bool>);

impl Mask {
    /// Keeps `count` weights chosen at random.
    pub fn random(len: usize, count: usize, rng: &mut impl Rng) -> Self {
        let mut keep: Vec<bool> = (0..len).map(|index| index < count).collect();
        keep.shuffle(rng);
        Self(keep)
    }

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
}

impl Budget {
    /// Divides `density` of all weights among the layers.
    ///
    /// Depthwise convolutions stay dense, and so does a convolution that reads the network's input
    /// unless it would take more than a fifth of the weights that are kept: both hold few weights
    /// and lose much accuracy.
    ///
    /// # Errors
    /// When the layers that stay dense already exceed the density, with the least possible one.
    pub fn new(
        graph: &Graph,
        params: &[ParamSpec],
        density: f64,
        distribution: Distribution,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            density > 0.0 && density <= 1.0,
            "the density must be above 0 and at most 1, found {density}"
        );
        let weights: Vec<usize> =
            (0..params.len()).filter(|&index| params[index].role == Role::Weight).collect();
        let total: usize = weights.iter().map(|&index| params[index].len()).sum();
        let keep_total = (total as f64 * density).round() as usize;
        let stays_dense = |index: usize| {
            let node = &graph.layers[params[index].layer];
            let reads_input = node.inputs == [Source::Input] && matches!(node.op, Op::Conv { .. });
            node.op.is_depthwise() || (reads_input && params[index].len() * 5 <= keep_total)
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
        let layers = pruned
            .iter()
            .zip(lens)
            .zip(keeps)
            .map(|((&param, len), keep)| LayerBudget { param, len, keep })
            .collect();
        Ok(Self { layers, weights: total, dense })
    }

    /// Weights that the whole network keeps.
    pub fn kept(&self) -> usize {
        self.dense + self.layers.iter().map(|layer| layer.keep).sum::<usize>()
    }

    /// Random masks, in the order of `layers`.
    pub fn random(&self, rng: &mut impl Rng) -> Vec<Mask> {
        self.layers.iter().map(|layer| Mask::random(layer.len, layer.keep, rng)).collect()
    }

    /// Masks of the highest scores: within each layer, or over all layers if `global`.
    pub fn top(&self, scores: &[Vec<f32>], global: bool) -> Vec<Mask> {
        if !global {
            let layers = self.layers.iter().zip(scores);
            return layers.map(|(layer, scores)| Mask::top(scores, layer.keep)).collect();
        }
        // Every layer keeps at least one weight, so that the network stays connected.
        let mut all: Vec<f32> = Vec::new();
        for scores in scores {
            let best = Mask::top(scores, 1);
            all.extend(
                scores.iter().zip(best.0).map(|(&s, best)| if best { f32::INFINITY } else { s }),
            );
        }
        let keep = self.layers.iter().map(|layer| layer.keep).sum();
        let mut keep = Mask::top(&all, keep).0.into_iter();
        scores.iter().map(|scores| Mask(keep.by_ref().take(scores.len()).collect())).collect()
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
            let erk = Budget::new(&graph, &params, 0.2, Distribution::Erk).unwrap();
            let uniform = Budget::new(&graph, &params, 0.2, Distribution::Uniform).unwrap();
            for budget in [&erk, &uniform] {
                assert_eq!(budget.kept(), (budget.weights as f64 * 0.2).round() as usize);
                let masks = budget.random(&mut Pcg64::seed_from_u64(1));
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
            let error = Budget::new(&graph, &params, 1e-6, Distribution::Erk).unwrap_err();
            assert!(error.to_string().contains("least density"), "{error}");
        }
    }

    #[test]
    fn global_masks_follow_one_threshold() {
        let layers = [(0, 4), (1, 4)].map(|(param, len)| LayerBudget { param, len, keep: 2 });
        let budget = Budget { layers: layers.to_vec(), weights: 8, dense: 0 };
        let scores = [vec![9.0, 8.0, 7.0, 6.0], vec![1.0, 2.0, 0.5, 0.1]];
        let counts =
            |global| budget.top(&scores, global).iter().map(Mask::count).collect::<Vec<_>>();
        assert_eq!(counts(false), [2, 2]);
        assert_eq!(counts(true), [3, 1]);
        assert_eq!(budget.top(&scores, true)[1].to_values(), [0.0, 1.0, 0.0, 0.0]);
    }
}
