//! Methods of sparse training: when masks are drawn and which of its paths a network trains.
//!
//! A method is a plain description. It tells the trainer at every step which phase the training is
//! in and whether new masks are due; it has no state beside the masks themselves, so that a resumed
//! run needs nothing else.

use serde::{Deserialize, Serialize};

use super::decoupled::Decoupled;

/// A method with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// All weights, no mask.
    Dense,
    /// A random mask from the first step to the last: the control of every other method.
    Static,
    /// Gradual magnitude pruning: the density falls by a cubic schedule (Zhu and Gupta, 2017).
    Gmp(Gmp),
    /// Self-decoupled training.
    Decoupled(Decoupled),
}

/// Settings of gradual magnitude pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gmp {
    /// Share of the training before the first weight is pruned.
    pub start: f64,
    /// Share of the training after which the density is final.
    pub end: f64,
    /// How often masks are renewed in between.
    pub renewals: usize,
}

impl Default for Gmp {
    fn default() -> Self {
        Self { start: 0.1, end: 0.6, renewals: 40 }
    }
}

/// How a mask is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MaskKind {
    /// At random, before training
    #[default]
    Random,
    /// The largest weights, after a first part of the training with all weights
    Magnitude,
}

/// What the network trains in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// All weights.
    Dense,
    /// The backbone alone and the whole network, whose redundant weights count `gamma`.
    Both {
        /// Factor of the redundant weights.
        gamma: f64,
        /// Factor by which the redundant weights shrink after the step.
        shrink: f64,
    },
    /// The backbone alone.
    Masked,
}

/// New masks that are due before a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    /// How they are found.
    pub kind: MaskKind,
    /// Density of the network under them.
    pub density: f64,
}

/// Where the training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
}

impl Clock {
    /// The step that a share of the training ends with.
    pub fn at(&self, share: f64) -> usize {
        (self.steps as f64 * share).round() as usize
    }
}

impl Method {
    /// Name as on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Static => "static",
            Self::Gmp(_) => "gmp",
            Self::Decoupled(_) => "decoupled",
        }
    }

    /// What is trained in the step that comes next.
    pub fn phase(&self, clock: Clock) -> Phase {
        match self {
            Self::Dense => Phase::Dense,
            Self::Static => Phase::Masked,
            Self::Gmp(gmp) if clock.step < clock.at(gmp.start) => Phase::Dense,
            Self::Gmp(_) => Phase::Masked,
            Self::Decoupled(decoupled) => decoupled.phase(clock),
        }
    }

    /// The masks that are due before the step that comes next, if any.
    pub fn renewal(&self, clock: Clock, density: f64) -> Option<Renewal> {
        let random = Renewal { kind: MaskKind::Random, density };
        match self {
            Self::Dense => None,
            Self::Static => (clock.step == 0).then_some(random),
            Self::Gmp(gmp) => gmp.renewal(clock, density),
            Self::Decoupled(decoupled) => (clock.step == decoupled.mask_step(clock))
                .then_some(Renewal { kind: decoupled.mask, density }),
        }
    }
}

impl Gmp {
    fn renewal(&self, clock: Clock, density: f64) -> Option<Renewal> {
        let (start, end) = (clock.at(self.start), clock.at(self.end).max(clock.at(self.start)));
        let every = ((end - start) / self.renewals.max(1)).max(1);
        let due = (start..end).contains(&clock.step) && (clock.step - start).is_multiple_of(every);
        if !due && clock.step != end {
            return None;
        }
        let rest = 1.0 - (clock.step - start) as f64 / (end - start).max(1) as f64;
        Some(Renewal {
            kind: MaskKind::Magnitude,
            density: density + (1.0 - density) * rest.powi(3),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gmp_is_cubic_and_ends_at_the_density() {
        let gmp = Method::Gmp(Gmp::default());
        let densities: Vec<f64> = (0..1000)
            .filter_map(|step| gmp.renewal(Clock { step, steps: 1000 }, 0.1))
            .map(|renewal| renewal.density)
            .collect();
        assert_eq!((densities[0], *densities.last().unwrap()), (1.0, 0.1));
        assert!(densities.is_sorted_by(|a, b| a > b));
        assert!((densities[densities.len() / 2] - (0.1 + 0.9 / 8.0)).abs() < 0.02);
    }
}
