//! Evaluation without autodiff, and calibration of activation ranges.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, seq::SliceRandom};
use rayon::prelude::*;

use super::state::{Purpose, State, rng};
use crate::{
    data::{Augment, AugmentKey, Dataset, Split},
    net::{
        Accuracy,
        module::{Norms, Pass, Ranges, Stats, values},
        spec::Task,
    },
};

/// Samples that are evaluated together: small enough to stay in cache, large enough for the gemm.
const BATCH: usize = 64;

/// Samples that ranges are calibrated on: the first ones of the training split.
const CALIBRATION: usize = 1024;

/// Samples that statistics of batch norms are measured on, and how many of them together.
const NORM_SAMPLES: usize = 4096;
const NORM_BATCH: usize = 128;

/// Loads samples as network input.
pub(super) fn input(
    data: &Dataset,
    indices: &[usize],
    augment: Option<(&Augment, AugmentKey)>,
    device: &Device,
) -> Tensor<4> {
    let [height, width, channels] = data.shape;
    let values = data.batch(indices, augment);
    Tensor::from_data(TensorData::new(values, [indices.len(), channels, height, width]), device)
}

/// Logits of samples, one row after the other.
pub(super) fn logits(
    state: &State,
    params: &[Tensor<1>],
    stats: &[Stats],
    quantise: Option<&Ranges>,
    data: &Dataset,
    indices: &[usize],
) -> Vec<f32> {
    let pass = Pass { quantise, ..Pass::new(Norms::Running(stats)) };
    let parts: Vec<Vec<f32>> = indices
        .par_chunks(BATCH)
        .map(|chunk| {
            let batch = input(data, chunk, None, &state.device);
            values(&state.net.forward(params, batch, &pass).logits)
        })
        .collect();
    parts.concat()
}

/// Index of the largest value of a row; the first one of equals.
pub(super) fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}

/// Number of rows whose largest logit is that of the label.
pub(super) fn correct(logits: &[f32], labels: &[u32], indices: &[usize]) -> usize {
    let rows = logits.chunks_exact(logits.len() / indices.len());
    rows.zip(indices).filter(|(row, index)| argmax(row) == labels[**index] as usize).count()
}

/// Figure of merit of the backbone on one split, if that has samples.
pub(super) fn merit(
    state: &State,
    quantise: Option<&Ranges>,
    data: &Dataset,
    split: Split,
) -> Option<f64> {
    let indices = data.indices(split);
    if indices.is_empty() {
        return None;
    }
    Some(merit_of(state, &state.backbone_values(), quantise, data, &indices))
}

/// Figure of merit of a network with these values on these samples.
pub(super) fn merit_of(
    state: &State,
    params: &[Tensor<1>],
    quantise: Option<&Ranges>,
    data: &Dataset,
    indices: &[usize],
) -> f64 {
    let logits = logits(state, params, &state.backbone, quantise, data, indices);
    let sum = match state.net.graph.task {
        Task::Classify => correct(&logits, &data.labels, indices) as f64,
        Task::Reconstruct => {
            let width = logits.len() / indices.len();
            let rows = logits.par_chunks_exact(width).zip(indices);
            let errors: Vec<f64> = rows
                .map(|(row, &index)| {
                    let target = data.batch(&[index], None);
                    let pairs = row.iter().zip(&target);
                    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / width as f64
                })
                .collect();
            errors.iter().sum()
        }
    };
    sum / indices.len() as f64
}

/// Figures of merit of the backbone on the splits that are not trained on.
pub(super) fn accuracy(state: &State, quantise: Option<&Ranges>, data: &Dataset) -> Accuracy {
    Accuracy {
        val: merit(state, quantise, data, Split::Val),
        test: merit(state, quantise, data, Split::Test),
    }
}

/// Takes the statistics of all batch norms of the backbone from training samples with the weights
/// as they are. Running averages lag behind moving weights, and channels with few weights, which
/// vary little, do not forgive that (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021).
pub(super) fn measure_norms(state: &mut State, data: &Dataset, seed: u64) {
    let random = &mut rng(seed, Purpose::Norms, 0);
    let indices = some_samples(data, Split::Train, NORM_SAMPLES, random);
    let params = state.backbone_values();
    state.backbone = norms_of(state, &params, data, &indices);
}

/// At most so many samples of a split, at random: it may be sorted by class, and neither a batch nor the first
/// samples may be of a few classes.
pub(super) fn some_samples(
    data: &Dataset,
    split: Split,
    most: usize,
    random: &mut impl Rng,
) -> Vec<usize> {
    let mut indices = data.indices(split);
    indices.shuffle(random);
    indices.truncate(most);
    indices
}

/// Statistics of all batch norms of a network with these values over samples.
pub(super) fn norms_of(
    state: &State,
    params: &[Tensor<1>],
    data: &Dataset,
    indices: &[usize],
) -> Vec<Stats> {
    let pass = Pass::new(Norms::Batch);
    let size = NORM_BATCH.min(indices.len());
    let batches: Vec<Vec<Stats>> = indices
        .par_chunks_exact(size)
        .map(|chunk| {
            let batch = input(data, chunk, None, &state.device);
            state.net.forward(params, batch, &pass).stats
        })
        .collect();
    let share = 1.0 / batches.len() as f32;
    let mut all = state.backbone.clone();
    for (norm, stats) in all.iter_mut().enumerate() {
        let sum = |of: fn(&Stats) -> Tensor<1>| {
            let values = batches.iter().map(|batch| of(&batch[norm]) * share);
            values.reduce(|a, b| a + b)
        };
        let square = sum(|stats| stats.var.clone() + stats.mean.clone() * stats.mean.clone());
        if let (Some(mean), Some(square)) = (sum(|stats| stats.mean.clone()), square) {
            let var = (square - mean.clone() * mean.clone()).clamp_min(0.0);
            *stats = Stats { mean, var };
        }
    }
    all
}

/// Finds the ranges of all activations of the float backbone on some training samples.
pub(super) fn calibrate(state: &mut State, data: &Dataset, seed: u64) {
    let random = &mut rng(seed, Purpose::Norms, 0);
    let indices = some_samples(data, Split::Train, CALIBRATION, random);
    let params = state.backbone_values();
    let pass = Pass { observe: true, ..Pass::new(Norms::Running(&state.backbone)) };
    let batches: Vec<Vec<(usize, [f32; 2])>> = indices
        .par_chunks(BATCH)
        .map(|chunk| {
            let batch = input(data, chunk, None, &state.device);
            let observed = state.net.forward(&params, batch, &pass).observed;
            observed
                .into_iter()
                .map(|(slot, low, high)| (slot, [low.into_scalar(), high.into_scalar()]))
                .collect()
        })
        .collect();
    // The mean over batches is less wide than the extremes over all samples, and more precise.
    let share = 1.0 / batches.len() as f32;
    state.ranges = vec![None; state.net.slots()];
    for batch in &batches {
        for &(slot, [low, high]) in batch {
            let range = state.ranges[slot].get_or_insert([0.0, 0.0]);
            *range = match slot {
                0 => [range[0].min(low), range[1].max(high)],
                _ => [range[0] + low * share, range[1] + high * share],
            };
        }
    }
}

/// Moves ranges towards those of a batch. The input's range only widens: its extremes are real
/// values of the sensor, not outliers.
pub(super) fn follow_ranges(ranges: &mut Ranges, batch: &[(usize, [f32; 2])]) {
    const RATE: f32 = 0.02;
    for &(slot, [low, high]) in batch {
        if let Some(range) = &mut ranges[slot] {
            *range = match slot {
                0 => [range[0].min(low), range[1].max(high)],
                _ => [range[0] + RATE * (low - range[0]), range[1] + RATE * (high - range[1])],
            };
        }
    }
}
