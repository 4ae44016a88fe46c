//! Seeded splits for sources that have none.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::options::check_fraction;
use super::{DataError, Groups, LoadOptions, Split, SplitBy};

/// Gives every sample its split: the source's own one, or a drawn one, and the validation samples
/// that were asked for.
pub(super) fn assign(
    own: Option<Vec<Split>>,
    labels: &[u32],
    groups: Option<&Groups>,
    options: &LoadOptions,
) -> Result<Vec<Split>, DataError> {
    check_fraction("--test-fraction", options.test_fraction)?;
    check_fraction("--val-fraction", options.val_fraction)?;
    let groups = match (options.split_by, groups) {
        (SplitBy::Sample, _) => None,
        (SplitBy::Group, Some(groups)) => Some(groups),
        (SplitBy::Group, None) => {
            return Err(DataError::option(
                "--split-by",
                "the data have no groups; for a CSV file name their column with --group",
            ));
        }
    };
    let mut rng = Pcg64::seed_from_u64(options.seed);
    let mut carve = |splits: &mut [Split], to: Split, fraction: f64| {
        if fraction == 0.0 {
            return Ok(());
        }
        match groups {
            Some(groups) => carve_groups(splits, to, fraction, groups, &mut rng),
            None => {
                carve_samples(splits, to, fraction, labels, &mut rng);
                Ok(())
            }
        }
    };

    let mut splits = match own {
        Some(splits) => splits,
        None => {
            let mut splits = vec![Split::Train; labels.len()];
            carve(&mut splits, Split::Test, options.test_fraction)?;
            splits
        }
    };
    if options.val_fraction > 0.0 {
        if splits.contains(&Split::Val) {
            return Err(DataError::option(
                "--val-fraction",
                "the data already have a validation split",
            ));
        }
        carve(&mut splits, Split::Val, options.val_fraction)?;
    }
    if splits.contains(&Split::Train) {
        Ok(splits)
    } else {
        let reason = "no sample is left to train on";
        Err(DataError::option("--test-fraction, --val-fraction", reason))
    }
}

/// Chooses the samples that are loaded: all, but of the training split `limit` only, with the share
/// of every class as it is.
pub(super) fn limit_training(
    splits: &[Split],
    labels: &[u32],
    limit: usize,
    seed: u64,
) -> Result<Vec<usize>, DataError> {
    let mut training: Vec<usize> =
        (0..splits.len()).filter(|&i| splits[i] == Split::Train).collect();
    if limit == 0 || limit > training.len() {
        let reason = format!("expected 1 to {}, found {limit}", training.len());
        return Err(DataError::option("--train-limit", reason));
    }
    // Sorted by class, every n-th of them has all classes in proportion.
    training.shuffle(&mut Pcg64::seed_from_u64(seed));
    training.sort_by_key(|&i| labels[i]);
    let count = training.len();
    let chosen: BTreeSet<usize> = (0..limit).map(|i| training[i * count / limit]).collect();
    Ok((0..splits.len()).filter(|i| splits[*i] != Split::Train || chosen.contains(i)).collect())
}

/// Moves the same share of every class from the training split.
fn carve_samples(splits: &mut [Split], to: Split, fraction: f64, labels: &[u32], rng: &mut Pcg64) {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut by_class = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        if splits[i] == Split::Train {
            by_class[label as usize].push(i);
        }
    }
    for mut samples in by_class {
        samples.shuffle(rng);
        let count = (samples.len() as f64 * fraction).round() as usize;
        for &i in &samples[..count] {
            splits[i] = to;
        }
    }
}

/// Moves a share of the groups, with all their samples, from the training split.
fn carve_groups(
    splits: &mut [Split],
    to: Split,
    fraction: f64,
    groups: &Groups,
    rng: &mut Pcg64,
) -> Result<(), DataError> {
    let mut candidates: Vec<u32> =
        (0..splits.len()).filter(|&i| splits[i] == Split::Train).map(|i| groups.ids[i]).collect();
    candidates.sort_unstable();
    candidates.dedup();
    if candidates.len() < 2 {
        let reason = format!("{} group cannot be divided into {to} and train", candidates.len());
        return Err(DataError::option("--split-by", reason));
    }
    candidates.shuffle(rng);
    let count = (candidates.len() as f64 * fraction).round() as usize;
    candidates.truncate(count.clamp(1, candidates.len() - 1));
    for (split, group) in splits.iter_mut().zip(&groups.ids) {
        if candidates.contains(group) {
            *split = to;
        }
    }
    Ok(())
}
