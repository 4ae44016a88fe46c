//! From updates to one: averages over the shared mask, in integers, so that neither the order of updates
//! nor the machine matters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A checked update of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Samples behind it.
    pub samples: u32,
    /// Differences of the weights' parameters.
    pub weights: Vec<i32>,
    /// Differences of the biases' parameters.
    pub biases: Vec<i32>,
    /// Its norm, as [`Update::differences`](niwaki_core::federated::Update::differences) says.
    pub norm: f32,
    /// Prototypes of the classes, one after the other; empty where none were asked for.
    pub prototypes: Vec<i8>,
    /// Samples behind each prototype.
    pub counts: Vec<u32>,
}

/// How updates become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Mean, weighted by samples (McMahan et al., AISTATS 2017).
    FedAvg,
    /// Of each parameter, the largest and smallest values are left out, this share of them on either side,
    /// and the mean of the others is taken (Yin et al., ICML 2018). Counts of samples, which a device may
    /// invent, do not matter.
    TrimmedMean(f64),
    /// Updates with a larger norm are scaled down to this one, or to the median of the round's norms, and
    /// then averaged by samples (Sun et al., 2019).
    NormBound(Option<f32>),
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FedAvg => f.write_str("fedavg"),
            Self::TrimmedMean(share) => write!(f, "trimmed-mean:{share}"),
            Self::NormBound(None) => f.write_str("norm-bound"),
            Self::NormBound(Some(norm)) => write!(f, "norm-bound:{norm}"),
        }
    }
}

impl FromStr for Aggregation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let number = |text: &str| text.parse::<f64>().ok();
        match (name, value) {
            ("fedavg", None) => return Ok(Self::FedAvg),
            ("trimmed-mean", value) => {
                let share = value.map_or(Some(0.2), number);
                if let Some(share) = share.filter(|share| (0.0..0.5).contains(share)) {
                    return Ok(Self::TrimmedMean(share));
                }
            }
            ("norm-bound", None) => return Ok(Self::NormBound(None)),
            ("norm-bound", Some(value)) => {
                if let Some(norm) = number(value).filter(|&norm| norm > 0.0 && norm.is_finite()) {
                    return Ok(Self::NormBound(Some(norm as f32)));
                }
            }
            _ => {}
        }
        Err(format!(
            "expected fedavg, trimmed-mean[:SHARE below 0.5] or norm-bound[:NORM above 0], found {text:?}"
        ))
    }
}

/// What devices learned together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// Differences of the weights' parameters.
    pub weights: Vec<i32>,
    /// Differences of the biases' parameters.
    pub biases: Vec<i32>,
    /// Prototypes of the classes, and the samples behind each; a class with none keeps its old one.
    pub prototypes: Vec<i8>,
    /// Samples behind each prototype.
    pub counts: Vec<u32>,
}

/// Aggregates updates of devices that have the same model; `None` without any.
pub fn aggregate(rule: Aggregation, deltas: &[Delta]) -> Option<Aggregate> {
    let first = deltas.first()?;
    let shares = shares(rule, deltas);
    let of = |values: &dyn Fn(&Delta) -> &[i32]| -> Vec<i32> {
        let columns: Vec<&[i32]> = deltas.iter().map(values).collect();
        let mut column = vec![0; deltas.len()];
        (0..columns[0].len())
            .map(|index| {
                column.iter_mut().zip(&columns).for_each(|(to, from)| *to = from[index]);
                combine(rule, &mut column, &shares)
            })
            .collect()
    };
    let (prototypes, counts) = prototypes(rule, deltas, first.counts.len());
    Some(Aggregate {
        weights: of(&|delta| &delta.weights),
        biases: of(&|delta| &delta.biases),
        prototypes,
        counts,
    })
}

/// What each update counts for: samples, times a factor in 1/2^16 where its norm is too large.
fn shares(rule: Aggregation, deltas: &[Delta]) -> Vec<[i128; 2]> {
    const ONE: f64 = 65536.0;
    let bound = match rule {
        Aggregation::NormBound(Some(bound)) => f64::from(bound),
        Aggregation::NormBound(None) => {
            let mut norms: Vec<f32> = deltas.iter().map(|delta| delta.norm).collect();
            norms.sort_by(f32::total_cmp);
            f64::from(norms[(norms.len() - 1) / 2])
        }
        Aggregation::FedAvg | Aggregation::TrimmedMean(_) => f64::INFINITY,
    };
    let share = |delta: &Delta| {
        let norm = f64::from(delta.norm);
        let factor = if norm > bound { bound / norm } else { 1.0 };
        [i128::from(delta.samples), (factor * ONE).round() as i128]
    };
    deltas.iter().map(share).collect()
}

/// One value from one of each update. The order in `column` may change.
fn combine(rule: Aggregation, column: &mut [i32], shares: &[[i128; 2]]) -> i32 {
    if let Aggregation::TrimmedMean(share) = rule {
        let kept = trimmed(column, share);
        let sum: i128 = kept.iter().map(|&value| i128::from(value)).sum();
        return quotient(sum, kept.len() as i128);
    }
    let terms = column.iter().zip(shares);
    let sum: i128 = terms.map(|(&value, [n, factor])| i128::from(value) * n * factor).sum();
    let samples: i128 = shares.iter().map(|[n, _]| n).sum();
    quotient(sum, samples << 16)
}

/// The values between the `share` smallest and the `share` largest.
fn trimmed<T: Ord>(values: &mut [T], share: f64) -> &[T] {
    let cut = ((values.len() as f64 * share).ceil() as usize).min((values.len() - 1) / 2);
    values.sort_unstable();
    &values[cut..values.len() - cut]
}

/// Quotient, rounded to nearest, ties away from zero.
fn quotient(sum: i128, count: i128) -> i32 {
    let half = if sum < 0 { -(count / 2) } else { count / 2 };
    let quotient = (sum + half) / count.max(1);
    quotient.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

fn prototypes(rule: Aggregation, deltas: &[Delta], classes: usize) -> (Vec<i8>, Vec<u32>) {
    let features = deltas[0].prototypes.len() / classes.max(1);
    let mut values = vec![0; classes * features];
    let mut counts = vec![0u32; classes];
    for class in 0..classes {
        let seen: Vec<&Delta> = deltas.iter().filter(|delta| delta.counts[class] > 0).collect();
        let all = seen.iter().fold(0u32, |sum, delta| sum.saturating_add(delta.counts[class]));
        counts[class] = all;
        if seen.is_empty() {
            continue;
        }
        for (index, slot) in (class * features..).zip(&mut values[class * features..][..features]) {
            let of = |delta: &&Delta| i32::from(delta.prototypes[index]);
            *slot = match rule {
                Aggregation::TrimmedMean(share) => {
                    let mut column: Vec<i32> = seen.iter().map(of).collect();
                    let kept = trimmed(&mut column, share);
                    let sum: i128 = kept.iter().map(|&value| i128::from(value)).sum();
                    quotient(sum, kept.len() as i128)
                }
                _ => {
                    let term =
                        |delta: &&Delta| i128::from(of(delta)) * i128::from(delta.counts[class]);
                    let count: i128 = seen.iter().map(|d| i128::from(d.counts[class])).sum();
                    quotient(seen.iter().map(term).sum(), count)
                }
            } as i8;
        }
    }
    (values, counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta(samples: u32, weights: &[i32], norm: f32) -> Delta {
        Delta {
            samples,
            weights: weights.to_vec(),
            biases: vec![],
            norm,
            prototypes: vec![weights[0] as i8, 1],
            counts: vec![samples, 0],
        }
    }

    fn weights(rule: Aggregation, deltas: &[Delta]) -> Vec<i32> {
        aggregate(rule, deltas).unwrap().weights
    }

    #[test]
    fn means_are_those_of_the_papers() {
        let deltas =
            [delta(1, &[10, -3], 1.0), delta(3, &[2, -3], 1.0), delta(1, &[2000, 0], 400.0)];
        assert_eq!(weights(Aggregation::FedAvg, &deltas), [403, -2]);
        assert_eq!(weights(Aggregation::TrimmedMean(0.3), &deltas), [10, -3]);
        // The third is scaled down by 400.
        assert_eq!(weights(Aggregation::NormBound(None), &deltas), [4, -2]);
        let all = aggregate(Aggregation::FedAvg, &deltas[..2]).unwrap();
        assert_eq!((all.prototypes, all.counts), (vec![4, 0], vec![4, 0]));
        assert!(aggregate(Aggregation::FedAvg, &[]).is_none());
    }

    #[test]
    fn rules_are_parsed_and_named() {
        for text in ["fedavg", "trimmed-mean:0.1", "norm-bound", "norm-bound:3.5"] {
            assert_eq!(text.parse::<Aggregation>().unwrap().to_string(), text);
        }
        for text in ["trimmed-mean:0.5", "norm-bound:NaN", "norm-bound:-1", "median"] {
            assert!(text.parse::<Aggregation>().unwrap_err().contains("trimmed-mean[:SHARE"));
        }
    }

    proptest! {
        /// No update moves the trimmed mean beyond the others, whatever it says and counts.
        #[test]
        fn one_of_five_cannot_move_the_trimmed_mean(bad: i32, samples in 1u32.., at in 0usize..5) {
            let mut deltas: Vec<Delta> = (0..4).map(|i| delta(5, &[100 + i], 1.0)).collect();
            deltas.insert(at.min(4), delta(samples, &[bad], 1.0));
            let [mean] = weights(Aggregation::TrimmedMean(0.2), &deltas)[..] else { panic!() };
            prop_assert!((100..=103).contains(&mean));
        }

        /// The largest values and counts neither overflow nor leave the range of the values.
        #[test]
        fn means_lie_among_the_values(values in prop::collection::vec((any::<i32>(), 1u32..), 1..9)) {
            let deltas: Vec<Delta> = values.iter().map(|&(v, n)| delta(n, &[v], 1.0)).collect();
            let (low, high) = (values.iter().map(|v| v.0).min(), values.iter().map(|v| v.0).max());
            for rule in [Aggregation::FedAvg, Aggregation::TrimmedMean(0.2), Aggregation::NormBound(None)] {
                let mean = weights(rule, &deltas)[0];
                prop_assert!(low <= Some(mean) && Some(mean) <= high, "{rule} {mean}");
            }
        }
    }
}
