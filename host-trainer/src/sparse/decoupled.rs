//! Self-decoupled sparse training.
//!
//! The weights W of a layer are divided by a mask M into the backbone B = W*M, which will remain,
//! and redundant weights R = W*(1-M), which help to train it. Every step runs two paths through the
//! network with the same input, each with batch norm statistics of its own:
//!
//! - the whole network, with the weights B + gamma*R, where gamma falls from 1 to 0 (cosine);
//! - the backbone, with the weights B.
//!
//! The loss is CE(whole) + CE(backbone) + beta * T^2 * KL(whole || backbone): the whole network
//! teaches the backbone, and is not taught by it (no gradient through its softened output). The
//! redundant weights are in addition decayed at a rate that grows until nothing is left of them:
//! R <- (1 - lambda_t) R. When gamma has reached 0 they are dropped, which changes nothing, and the
//! rest of the training has only the backbone path and costs half as much.
//!
//! Related: growing regularisation (Wang et al., ICLR 2021), remembering and forgetting (Ding et al.,
//! "ResRep", ICCV 2021), ghost neurons (Jaiswal et al., "ToST", ICML 2022).

use serde::{Deserialize, Serialize};

use super::method::{Clock, MaskKind, Phase};

/// Settings of self-decoupled training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decoupled {
    /// How the backbone is chosen.
    pub mask: MaskKind,
    /// Share of the training with all weights before a magnitude mask is taken.
    pub dense_until: f64,
    /// Share of the training after which the redundant weights are gone.
    pub until: f64,
    /// Weight beta of the distillation from the whole network to the backbone.
    pub distil: f64,
    /// Temperature T of the distillation.
    pub temperature: f64,
    /// Total exponent of the decay: redundant weights that get no gradient end at exp(-decay).
    pub decay: f64,
}

impl Default for Decoupled {
    fn default() -> Self {
        Self {
            mask: MaskKind::Random,
            dense_until: 0.2,
            until: 0.6,
            distil: 1.0,
            temperature: 2.0,
            decay: 16.0,
        }
    }
}

impl Decoupled {
    /// The step before which the masks are drawn.
    pub fn mask_step(&self, clock: Clock) -> usize {
        match self.mask {
            MaskKind::Random => 0,
            MaskKind::Magnitude => clock.at(self.dense_until),
        }
    }

    /// What is trained in the step that comes next.
    pub fn phase(&self, clock: Clock) -> Phase {
        let (start, end) = (self.mask_step(clock), clock.at(self.until));
        if clock.step < start {
            return Phase::Dense;
        }
        if clock.step >= end {
            return Phase::Masked;
        }
        let progress = |step: usize| (step - start) as f64 / (end - start) as f64;
        let (now, next) = (progress(clock.step), progress(clock.step + 1));
        // Exactly 0 in the last step, so that what is dropped after it has no effect any more.
        let gamma = match end - clock.step {
            1 => 0.0,
            _ => 0.5 * (1.0 + (std::f64::consts::PI * now).cos()),
        };
        Phase::Both {
            gamma,
            // The integral of a rate that grows with the cube of progress.
            shrink: (-self.decay * (next.powi(4) - now.powi(4))).exp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redundant_weights_fade_out() {
        let method = Decoupled { mask: MaskKind::Magnitude, ..Decoupled::default() };
        let (mut rest, mut last_gamma, mut last_shrink) = (1.0, 1.0, 1.0);
        for step in 0..1000 {
            match (step, method.phase(Clock { step, steps: 1000 })) {
                (0..200, phase) => assert_eq!(phase, Phase::Dense),
                (200..600, Phase::Both { gamma, shrink }) => {
                    assert!(gamma <= last_gamma && shrink <= last_shrink);
                    (last_gamma, last_shrink) = (gamma, shrink);
                    rest *= shrink;
                }
                (_, phase) => assert_eq!(phase, Phase::Masked),
            }
        }
        assert!(last_gamma == 0.0 && (rest - (-16.0_f64).exp()).abs() < 1e-12);
    }
}
