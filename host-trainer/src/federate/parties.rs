//! A data set divided among devices.

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Gamma};

use super::random;
use crate::data::{Dataset, Split};

/// Divides the training samples among `count` devices, or gives each group one where no number is asked
/// for. Devices with the same group share its samples; fewer devices than groups get the first groups.
/// Without groups, each class is divided by proportions from a Dirichlet distribution: the smaller `alpha`,
/// the fewer classes has a device (Hsu et al., 2019). With more devices than samples, some samples are given to
/// several devices.
///
/// # Errors
///
/// When there are no samples or no devices.
pub fn divide(
    data: &Dataset,
    count: Option<usize>,
    alpha: f64,
    seed: u64,
) -> Result<Vec<Vec<usize>>> {
    let samples = data.indices(Split::Train);
    let groups = by_group(data, &samples);
    let count = match (count, &groups) {
        (Some(count), _) => count,
        (None, Some(groups)) => groups.len(),
        (None, None) => anyhow::bail!(
            "the data `{}` have no groups: say how many devices there are, or name the groups' column with --group",
            data.name
        ),
    };
    ensure!(count > 0, "a federation needs at least one device");
    ensure!(!samples.is_empty(), "`{}` has no training samples", data.name);
    let mut parties = vec![Vec::new(); count];
    match groups {
        Some(groups) => {
            let used = groups.len().min(count);
            for (group, mut samples) in groups.into_iter().take(used).enumerate() {
                samples.shuffle(&mut random(seed, &[1, group as u64]));
                let shares = (count - group).div_ceil(used);
                let given = samples.len().max(shares);
                for (index, &sample) in samples.iter().cycle().take(given).enumerate() {
                    parties[group + used * (index % shares)].push(sample);
                }
            }
        }
        None => {
            ensure!(alpha > 0.0, "the concentration of the Dirichlet distribution must be above 0");
            dirichlet(data, &samples, alpha, seed, &mut parties)?;
        }
    }
    share_with_the_empty(&mut parties, &samples);
    for party in &mut parties {
        party.sort_unstable();
    }
    Ok(parties)
}

/// Samples of each group that has any, in the groups' order.
fn by_group(data: &Dataset, samples: &[usize]) -> Option<Vec<Vec<usize>>> {
    let groups = data.groups.as_ref()?;
    let mut all = vec![Vec::new(); groups.names.len()];
    for &sample in samples {
        all[groups.ids[sample] as usize].push(sample);
    }
    all.retain(|samples| !samples.is_empty());
    Some(all)
}

fn dirichlet(
    data: &Dataset,
    samples: &[usize],
    alpha: f64,
    seed: u64,
    parties: &mut [Vec<usize>],
) -> Result<()> {
    let gamma = Gamma::new(alpha, 1.0)?;
    let mut random = random(seed, &[2]);
    for class in 0..data.classes() {
        // Normalised, these are Dirichlet distributed.
        let shares: Vec<f64> = parties.iter().map(|_| gamma.sample(&mut random)).collect();
        let total: f64 = shares.iter().sum();
        for &sample in samples.iter().filter(|&&sample| data.labels[sample] as usize == class) {
            let mut place = random.random::<f64>() * total;
            let fits = |share: &f64| {
                place -= share;
                place < 0.0
            };
            let party = shares.iter().position(fits).unwrap_or(parties.len() - 1);
            parties[party].push(sample);
        }
    }
    Ok(())
}

/// Nobody goes without a sample: the largest give one to those who have none, and when there are no more to give,
/// each sample is given once more, in turns.
fn share_with_the_empty(parties: &mut [Vec<usize>], samples: &[usize]) {
    let mut again = samples.iter().cycle();
    while let Some(empty) = parties.iter().position(Vec::is_empty) {
        let largest = parties.iter_mut().max_by_key(|party| party.len());
        let more = largest.filter(|party| party.len() > 1).and_then(Vec::pop);
        let Some(sample) = more.or_else(|| again.next().copied()) else { return };
        parties[empty].push(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, load};

    #[test]
    fn every_sample_has_one_device_and_every_device_a_sample() {
        let mut data = load("digits", &LoadOptions::default()).unwrap();
        let all = data.indices(Split::Train);
        let check = |data: &Dataset, count: Option<usize>, expected: usize| {
            let parties = divide(data, count, 0.2, 3).unwrap();
            assert_eq!(parties.len(), expected);
            assert!(parties.iter().all(|party| !party.is_empty()));
            let mut found: Vec<usize> = parties.into_iter().flatten().collect();
            found.sort_unstable();
            found
        };
        assert_eq!(check(&data, Some(7), 7), all);
        assert_eq!(check(&data, Some(1000), 1000), all);
        assert!(divide(&data, None, 0.2, 3).unwrap_err().to_string().contains("--group"));
        let given = check(&data, Some(all.len() + 3), all.len() + 3);
        assert!(all.iter().all(|sample| given.contains(sample)));
        let names = (0..5).map(|name| name.to_string()).collect();
        let ids = (0..data.len()).map(|sample| (sample % 5) as u32).collect();
        data.groups = Some(crate::data::Groups { ids, names });
        assert_eq!(check(&data, None, 5), all);
        assert_eq!(check(&data, Some(13), 13), all);
        let mut given = check(&data, Some(5000), 5000);
        given.dedup();
        assert_eq!(given, all);
        let of_two: usize = divide(&data, Some(2), 1.0, 1).unwrap().iter().map(Vec::len).sum();
        assert!(of_two < all.len() / 2);
    }
}
