//! From raw values to network input.

use serde::{Deserialize, Serialize};

use super::Features;

/// Maps raw values to network input: `(x - mean) / std`.
///
/// Both lists have either one entry, which holds for every value, one per element of a vector sample, or
/// one per column of a sample of sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Mean of the training split, in the unit of the data.
    pub mean: Vec<f32>,
    /// Standard deviation of the training split; 1 where a value never changes.
    pub std: Vec<f32>,
}

/// How a data set is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// One mean and deviation over all values. The mean is rounded to a whole number, so that the
    /// zero point of an int8 input is exact: the device then stores `pixel - 128`.
    WholeNumbers,
    /// One mean and deviation over all values.
    Scalar,
    /// One mean and deviation per feature.
    PerFeature,
    /// One mean and deviation per column of a sample of one channel.
    PerColumn {
        /// Number of columns.
        columns: usize,
    },
}

impl Normalisation {
    /// Normalises one raw value that stands at `element` of its sample.
    pub fn apply(&self, element: usize, raw: f32) -> f32 {
        let i = element % self.mean.len();
        (raw - self.mean[i]) / self.std[i]
    }

    /// Computes the normalisation over the given samples; values that are not a number are left out.
    pub(super) fn fit(
        features: &Features,
        sample_len: usize,
        samples: &[usize],
        scaling: Scaling,
    ) -> Self {
        let count = match scaling {
            Scaling::PerFeature => sample_len,
            Scaling::PerColumn { columns } => columns,
            Scaling::WholeNumbers | Scaling::Scalar => 1,
        };
        let mut moments = vec![Moments::default(); count];
        for &sample in samples {
            for element in 0..sample_len {
                let value = features.get(sample * sample_len + element);
                if !value.is_nan() {
                    moments[element % count].add(f64::from(value));
                }
            }
        }
        Self {
            mean: moments
                .iter()
                .map(|m| match scaling {
                    Scaling::WholeNumbers => m.mean.round() as f32,
                    _ => m.mean as f32,
                })
                .collect(),
            std: moments.iter().map(|m| m.std() as f32).collect(),
        }
    }
}

/// Running mean and variance (Welford, Technometrics 4(3), 1962): a constant column has a variance of exactly 0.
#[derive(Debug, Clone, Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
    }

    /// Standard deviation of the population; 1 where all values are equal.
    fn std(&self) -> f64 {
        let std = (self.squares / self.count.max(1) as f64).sqrt();
        // As f32, since that is what the caller divides by.
        if std as f32 > 0.0 { std } else { 1.0 }
    }
}
