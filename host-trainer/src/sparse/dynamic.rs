//! Dynamic sparse training: masks that change while the number of weights stays.
//!
//! At regular intervals a share of the weights that are kept is dropped, the smallest ones, and as
//! many others are grown. Grown weights start at zero, without momentum. A weight that is dropped and
//! grown again in the same update stays as it is.
//!
//! The functions here are pure: old mask, values and gradients in, new mask out. Of equal
//! magnitudes, the first ones in the layer come first, so that the result is the same on every
//! machine and after every resumption.

use rand::{Rng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::method::{Clock, share};

/// Steps between two updates at least: a grown weight starts at zero and needs time to become larger
/// than those that are dropped (Liu et al., "Do we actually need dense over-parameterization?",
/// ICML 2021). On the digits, RigL with updates every 10 steps is worse than a static mask.
const INTERVAL_LEAST: usize = 40;

/// Settings of methods with dynamic masks.
///
/// RigL updates every 100 steps, drops 0.3 with cosine decay and stops after three quarters of a
/// training of 98,000 steps on CIFAR-10 and 32,000 on ImageNet (Evci et al., section 4). As a share
/// of the training, that interval would be a few steps of a short one; the default of 1/50 is 100
/// steps of a training of 5,000.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dynamic {
    /// Share of the kept weights that the first update drops.
    pub drop: f64,
    /// Whether this share falls to zero as half a cosine.
    pub anneal: bool,
    /// Share of the training between two updates.
    pub interval: f64,
    /// Share of the training after which masks stay.
    pub until: f64,
}

impl Default for Dynamic {
    fn default() -> Self {
        Self { drop: 0.3, anneal: true, interval: 0.02, until: 0.75 }
    }
}

impl Dynamic {
    /// The share of the weights that an update before or in this step drops, if there is one.
    pub(super) fn due(&self, clock: Clock) -> Option<f64> {
        let (every, end) = (clock.at(self.interval).max(INTERVAL_LEAST), clock.at(self.until));
        if clock.step == 0 || clock.step >= end || !clock.step.is_multiple_of(every) {
            return None;
        }
        let progress = clock.step as f64 / end as f64;
        let decay = match self.anneal {
            true => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            false => 1.0,
        };
        Some(self.drop * decay)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        share("drop", self.drop)?;
        share("interval", self.interval)?;
        share("until", self.until)
    }
}

/// Settings of SRigL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Srigl {
    /// Share of the kept weights that the first update drops.
    pub drop: f64,
    /// Whether this share falls to zero as half a cosine.
    pub anneal: bool,
    /// Share of the training between two updates.
    pub interval: f64,
    /// Share of the training after which masks stay.
    pub until: f64,
    /// Share of its weights that must be salient for a neuron to stay; 0 turns ablation off.
    pub salient: f64,
}

impl Default for Srigl {
    fn default() -> Self {
        let Dynamic { drop, anneal, interval, until } = Dynamic::default();
        Self { drop, anneal, interval, until, salient: 0.3 }
    }
}

impl Srigl {
    /// What it has in common with the other methods.
    pub fn dynamic(&self) -> Dynamic {
        let Self { drop, anneal, interval, until, .. } = *self;
        Dynamic { drop, anneal, interval, until }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.dynamic().check()?;
        share("salient", self.salient)
    }
}

/// A change of all masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// See [`set`].
    Set {
        /// Share of the kept weights that is dropped.
        drop: f64,
    },
    /// See [`rigl`].
    Rigl {
        /// Share of the kept weights that is dropped.
        drop: f64,
    },
    /// See [`srigl`].
    Srigl {
        /// Share of the kept weights that is dropped.
        drop: f64,
        /// Share of its weights that must be salient for a neuron to stay.
        salient: f64,
    },
}

impl Update {
    /// Whether it looks at the gradients of all weights. It then takes the place of the step that
    /// computes them, as in the published algorithms.
    pub fn needs_gradients(self) -> bool {
        !matches!(self, Self::Set { .. })
    }
}

/// Sparse evolutionary training (Mocanu et al., Nature Communications 9:2383, 2018): the share
/// `drop` of the positive weights and of the negative weights closest to zero is replaced by
/// weights chosen at random.
///
/// The paper rewires after every epoch with a constant share; Evci et al. (2020) find an interval in
/// steps and a share that falls better, which are the defaults here too.
pub fn set(values: &[f32], mask: &[bool], drop: f64, rng: &mut impl Rng) -> Vec<bool> {
    let mut keep = mask.to_vec();
    let mut grow = 0;
    for positive in [true, false] {
        let side: Vec<usize> =
            (0..mask.len()).filter(|&i| mask[i] && (values[i] > 0.0) == positive).collect();
        let count = share_of(drop, &side);
        for index in smallest(side, values, count) {
            keep[index] = false;
        }
        grow += count;
    }
    let mut absent: Vec<usize> = (0..mask.len()).filter(|&index| !mask[index]).collect();
    // A layer that is nearly full has fewer places for new weights; the rest returns.
    let dropped = (0..mask.len()).filter(|&index| mask[index] && !keep[index]);
    if absent.len() < grow {
        absent.extend(dropped);
    }
    let (chosen, _) = absent.partial_shuffle(rng, grow);
    for index in chosen {
        keep[*index] = true;
    }
    keep
}

/// Rigging the lottery (Evci et al., ICML 2020): the share `drop` of the weights with the smallest
/// magnitudes is replaced by those with the largest gradients.
pub fn rigl(values: &[f32], gradients: &[f32], mask: &[bool], drop: f64) -> Vec<bool> {
    let kept: Vec<usize> = (0..mask.len()).filter(|&index| mask[index]).collect();
    let count = share_of(drop, &kept);
    let mut keep = mask.to_vec();
    for index in smallest(kept, values, count) {
        keep[index] = false;
    }
    let candidates = (0..mask.len()).filter(|&index| !keep[index]).collect();
    for index in largest(candidates, gradients, count) {
        keep[index] = true;
    }
    keep
}

/// Structured RigL (Lasby et al., "Dynamic sparse training with structured sparsity", ICLR 2024):
/// RigL that keeps the fan-in of all neurons of a layer equal and ablates neurons.
///
/// A neuron is a row of the weights: an output channel. `total` weights are divided among those
/// that are left. With K = `drop` of them:
///
/// 1. A weight is salient when it is kept and not among the K smallest of the layer, or absent and
///    among the K with the largest gradients.
/// 2. A neuron with fewer salient weights than the share `salient` of its fan-in is ablated, and
///    stays so: behind a batch norm without variance its gradients would mean nothing. As many
///    neurons stay as are needed to hold all weights, and all of them if not `ablate`.
/// 3. The K smallest weights are dropped, and every neuron grows those with the largest gradients
///    until it has its share of the total, rounded to a whole number.
pub fn srigl(
    values: &[f32],
    gradients: &[f32],
    mask: &[bool],
    layer: Layer,
    drop: f64,
    salient: f64,
) -> Vec<bool> {
    let Layer { rows, total, ablate } = layer;
    let len = mask.len() / rows;
    let row = |index: usize| index / len;
    let count =
        |mask: &[bool], row: usize| mask[row * len..][..len].iter().filter(|&&keep| keep).count();
    let mut active: Vec<usize> = (0..rows).filter(|&row| count(mask, row) > 0).collect();
    let fan_in = active.first().map_or(0, |&row| count(mask, row));

    let kept: Vec<usize> = (0..mask.len()).filter(|&index| mask[index]).collect();
    let moved = share_of(drop, &kept);
    let mut keep = mask.to_vec();
    for index in smallest(kept, values, moved) {
        keep[index] = false;
    }
    let mut saliency: Vec<usize> = (0..rows).map(|row| count(&keep, row)).collect();
    let is_active: Vec<bool> = (0..rows).map(|row| active.contains(&row)).collect();
    let absent = (0..mask.len()).filter(|&index| !mask[index] && is_active[row(index)]).collect();
    for index in largest(absent, gradients, moved) {
        saliency[row(index)] += 1;
    }

    let least = total.div_ceil(len).max(1);
    let mut weak: Vec<usize> = active
        .iter()
        .copied()
        .filter(|&row| ablate && (saliency[row] as f64) < salient * fan_in as f64)
        .collect();
    weak.sort_by_key(|&row| saliency[row]);
    weak.truncate(active.len().saturating_sub(least));
    active.retain(|row| !weak.contains(row));
    for row in weak {
        keep[row * len..][..len].fill(false);
    }

    let neurons = active.len().max(1);
    let fan_in = ((2 * total + neurons) / (2 * neurons)).clamp(1, len);
    for row in active {
        let (kept, others): (Vec<usize>, Vec<usize>) =
            (row * len..(row + 1) * len).partition(|&index| keep[index]);
        // Rounding may have made the fan-in smaller than it was.
        let excess = kept.len().saturating_sub(fan_in);
        let (missing, candidates) = (fan_in.saturating_sub(kept.len()), others);
        for index in smallest(kept, values, excess) {
            keep[index] = false;
        }
        for index in largest(candidates, gradients, missing) {
            keep[index] = true;
        }
    }
    keep
}

/// What [`srigl`] must know about a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Neurons of the layer: rows of its weights.
    pub rows: usize,
    /// Weights that the whole layer keeps.
    pub total: usize,
    /// Whether neurons may be ablated: not those of the last layer, which are the classes.
    pub ablate: bool,
}

fn share_of(share: f64, of: &[usize]) -> usize {
    (of.len() as f64 * share) as usize
}

/// The `count` indices with the smallest magnitudes.
fn smallest(indices: Vec<usize>, values: &[f32], count: usize) -> Vec<usize> {
    first_by(indices, count, |index| values[index].abs())
}

/// The `count` indices with the largest magnitudes.
fn largest(indices: Vec<usize>, values: &[f32], count: usize) -> Vec<usize> {
    first_by(indices, count, |index| -values[index].abs())
}

/// The `count` indices with the least keys, in no particular order; of equal keys, the first ones.
fn first_by(mut indices: Vec<usize>, count: usize, key: impl Fn(usize) -> f32) -> Vec<usize> {
    if count < indices.len() {
        indices.select_nth_unstable_by(count, |&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
        indices.truncate(count);
    }
    indices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;

    /// Values, gradients and mask of a layer with constant fan-in; absent values are zero.
    fn layer(rows: usize, len: usize, fan_in: usize, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<bool>) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mask: Vec<bool> = (0..rows)
            .flat_map(|_| {
                let mut row: Vec<bool> = (0..len).map(|index| index < fan_in).collect();
                row.shuffle(&mut rng);
                row
            })
            .collect();
        let mut draw =
            || -> Vec<f32> { (0..rows * len).map(|_| rng.random_range(-1.0_f32..1.0)).collect() };
        let (values, gradients) = (draw(), draw());
        let values = values
            .iter()
            .zip(&mask)
            .map(|(&value, &keep)| if keep { value } else { 0.0 })
            .collect();
        (values, gradients, mask)
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|&&keep| keep).count()
    }

    /// Largest magnitude in `values` where `chosen`.
    fn most(values: &[f32], chosen: impl Fn(usize) -> bool) -> f32 {
        let chosen = (0..values.len()).filter(|&index| chosen(index));
        chosen.map(|index| values[index].abs()).fold(f32::NEG_INFINITY, f32::max)
    }

    fn least(values: &[f32], chosen: impl Fn(usize) -> bool) -> f32 {
        let chosen = (0..values.len()).filter(|&index| chosen(index));
        chosen.map(|index| values[index].abs()).fold(f32::INFINITY, f32::min)
    }

    proptest! {
        #[test]
        fn counts_stay_and_the_right_weights_move(
            rows in 1_usize..12,
            len in 1_usize..40,
            fill in 0.0_f64..1.0,
            drop in 0.0_f64..1.0,
            seed in any::<u64>(),
        ) {
            let fan_in = ((len as f64 * fill) as usize).max(1);
            let (values, gradients, mask) = layer(rows, len, fan_in, seed);

            let new = rigl(&values, &gradients, &mask, drop);
            prop_assert_eq!(count(&new), count(&mask));
            // Every grown weight has a larger gradient than every weight that stays absent.
            let grown = least(&gradients, |i| new[i] && !mask[i]);
            prop_assert!(grown >= most(&gradients, |i| !new[i] && !mask[i]));
            // What was dropped is among the smallest; some of those may have been grown again.
            let moved = (count(&mask) as f64 * drop) as usize;
            let dropped = most(&values, |i| !new[i] && mask[i]);
            let smaller = (0..mask.len()).filter(|&i| mask[i] && values[i].abs() < dropped);
            prop_assert!(dropped < 0.0 || smaller.count() < moved);

            let new = set(&values, &mask, drop, &mut Pcg64::seed_from_u64(seed));
            prop_assert_eq!(count(&new), count(&mask));

            let total = fan_in * rows;
            let shape = Layer { rows, total, ablate: true };
            let new = srigl(&values, &gradients, &mask, shape, drop, 0.3);
            let fan_ins: Vec<usize> = new.chunks(len).map(count).filter(|&n| n > 0).collect();
            prop_assert!(fan_ins.iter().all(|&n| n == fan_ins[0]), "{fan_ins:?}");
            prop_assert!(fan_ins[0] >= fan_in);
            prop_assert!(2 * total.abs_diff(fan_ins.len() * fan_ins[0]) <= fan_ins.len());
            for row in (0..rows).filter(|&row| count(&new[row * len..][..len]) > 0) {
                let here = |i: usize| i / len == row;
                let grown = least(&gradients, |i| here(i) && new[i] && !mask[i]);
                prop_assert!(grown >= most(&gradients, |i| here(i) && !new[i] && !mask[i]));
            }
            let whole = Layer { ablate: false, ..shape };
            let new = srigl(&values, &gradients, &mask, whole, drop, 0.3);
            prop_assert!(new.chunks(len).all(|row| count(row) == fan_in));
        }
    }

    #[test]
    fn set_drops_both_signs_alike() {
        let values = [0.1, 0.9, -0.5, -0.6, 0.0, 0.0];
        let mask = [true, true, true, true, false, false];
        let new = set(&values, &mask, 0.5, &mut Pcg64::seed_from_u64(1));
        assert_eq!(new, [false, true, false, true, true, true]);
    }

    #[test]
    fn weak_neurons_are_ablated() {
        // The second neuron has the smallest weights and no gradient.
        let values = [0.9, 0.8, 0.0, 0.0, 0.1, 0.2, 0.0, 0.0, 0.7, 0.6, 0.0, 0.0];
        let gradients = [0.0, 0.0, 0.5, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3];
        let mask = values.map(|value| value != 0.0);
        let layer = Layer { rows: 3, total: 6, ablate: true };
        let new = srigl(&values, &gradients, &mask, layer, 0.34, 0.5);
        let [t, f] = [true, false];
        assert_eq!(new, [t, t, t, f, f, f, f, f, t, t, f, t]);
    }

    #[test]
    fn updates_end_and_shrink() {
        let dynamic = Dynamic::default();
        let due: Vec<(usize, f64)> = (0..5000)
            .filter_map(|step| Some((step, dynamic.due(Clock { step, steps: 5000 })?)))
            .collect();
        assert_eq!((due[0].0, due.len()), (100, 37));
        assert!(due[0].1 <= 0.3 && due.is_sorted_by(|a, b| a.1 > b.1));
        assert!(due.last().unwrap().0 < 3750);
    }
}
