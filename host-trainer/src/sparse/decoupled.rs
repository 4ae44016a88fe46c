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
//! teaches the backbone, and is not taught by it (no gradient through its softened output). With
//! `loss=mean` it is half of that sum: weights of the backbone have part in both paths, so that the sum
//! takes steps about twice as long as other methods do at the same learning rate. The
//! redundant weights are in addition decayed at a rate that grows until nothing is left of them:
//! R <- (1 - lambda_t) R. When gamma has reached 0 they are dropped, which changes nothing, and the
//! rest of the training has only the backbone path and costs half as much.
//!
//! The mask may be one that another method leaves, or random. With `decoupled-moving` a random one is only
//! the first: from early on the backbone are the largest weights, redundant ones included, chosen again
//! and again at the density of the end (as in Top-KAST, Jayakumar et al., NeurIPS 2020). The first choices
//! replace nearly all of it, as most weights are as small as they began; later ones hardly any, because
//! redundant weights decay.
//!
//! Related: growing regularisation (Wang et al., ICLR 2021), remembering and forgetting (Ding et al.,
//! "ResRep", ICCV 2021), ghost neurons (Jaiswal et al., "ToST", ICML 2022).

use serde::{Deserialize, Serialize};

use super::method::{Choice, Clock, Gmp, MaskKind, Phase, Renewal, share};

/// Settings of self-decoupled training. Each of its parts can be left out to see what it adds:
/// `norms=shared`, `distil=0`, `decay=0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decoupled {
    /// How the backbone is chosen.
    pub mask: MaskKind,
    /// Share of the training with all weights before the first magnitude mask is taken; it has no
    /// meaning for masks that are random at first.
    pub dense_until: f64,
    /// Masks `gmp` and `moving`: share of the training after which the mask is final.
    pub mask_until: f64,
    /// Share of the training before the factor gamma begins to fall.
    pub fade_from: f64,
    /// Share of the training after which the redundant weights are gone.
    pub until: f64,
    /// How gamma falls.
    pub fade: Fade,
    /// Whether the two paths have batch norm statistics of their own.
    pub norms: PathNorms,
    /// How the losses of the two paths make one.
    pub loss: PathLoss,
    /// Weight beta of the distillation from the whole network to the backbone; 0 leaves it out.
    pub distil: f64,
    /// Temperature T of the distillation.
    pub temperature: f64,
    /// Total exponent of the decay: redundant weights that get no gradient end at exp(-decay); 0
    /// leaves it out.
    pub decay: f64,
    /// Learning rate of the redundant weights as a share of that of the backbone.
    pub rate: f64,
}

/// How often a moving backbone is chosen at most.
const MOVES: usize = 20;

/// How the factor gamma falls from 1 to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fade {
    /// As half a cosine.
    #[default]
    Cosine,
    /// As a straight line.
    Linear,
}

/// Where batch norm takes the statistics of the two paths from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathNorms {
    /// From each path alone.
    #[default]
    Separate,
    /// From both paths together.
    Shared,
}

/// How the losses of the two paths, the distillation among them, make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathLoss {
    /// As their sum.
    #[default]
    Sum,
    /// As half of it, for learning rates that are as large as other methods can bear.
    Mean,
}

impl Default for Decoupled {
    fn default() -> Self {
        Self {
            mask: MaskKind::Random,
            dense_until: 0.2,
            mask_until: 0.4,
            fade_from: 0.0,
            until: 0.6,
            fade: Fade::Cosine,
            norms: PathNorms::Separate,
            loss: PathLoss::Sum,
            distil: 1.0,
            temperature: 2.0,
            decay: 16.0,
            rate: 1.0,
        }
    }
}

impl Decoupled {
    /// The step before which the first masks are drawn.
    pub fn mask_step(&self, clock: Clock) -> usize {
        match self.mask {
            MaskKind::Random | MaskKind::Moving => 0,
            MaskKind::Magnitude | MaskKind::Gmp => clock.at(self.dense_until),
        }
    }

    /// The masks that are due before the step that comes next, if any.
    pub(super) fn renewal(&self, clock: Clock, density: f64) -> Option<Renewal> {
        let when = |due: bool, choice: Choice| due.then_some(Renewal { choice, density });
        match self.mask {
            MaskKind::Random => when(clock.step == self.mask_step(clock), Choice::Random),
            MaskKind::Magnitude => when(clock.step == self.mask_step(clock), Choice::Scores),
            MaskKind::Gmp => {
                let gmp = Gmp { start: self.dense_until, end: self.mask_until, ..Gmp::default() };
                gmp.renewal(clock, density)
            }
            MaskKind::Moving => {
                let (step, end) = (clock.step, clock.at(self.mask_until));
                let due = step == end || step < end && step.is_multiple_of(end.div_ceil(MOVES));
                when(due, if step == 0 { Choice::Random } else { Choice::Scores })
            }
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
        let progress =
            |start: usize, step: usize| step.saturating_sub(start) as f64 / (end - start) as f64;
        let fading = progress(clock.at(self.fade_from).clamp(start, end - 1), clock.step);
        // Exactly 0 in the last step, so that what is dropped after it has no effect any more.
        let gamma = match (end - clock.step, self.fade) {
            (1, _) => 0.0,
            (_, Fade::Cosine) => 0.5 * (1.0 + (std::f64::consts::PI * fading).cos()),
            (_, Fade::Linear) => 1.0 - fading,
        };
        let (now, next) = (progress(start, clock.step), progress(start, clock.step + 1));
        Phase::Both {
            gamma,
            // The integral of a rate that grows with the cube of progress.
            shrink: (-self.decay * (next.powi(4) - now.powi(4))).exp(),
        }
    }

    pub(super) fn settle_by(&mut self, share: f64) {
        let until = self.until.min(share);
        // Masks are final before the redundant weights are gone, by the same share of that time.
        self.mask_until = self.mask_until.min(self.mask_until * until / self.until);
        self.until = until;
        self.fade_from = self.fade_from.min(self.until);
        self.dense_until = self.dense_until.min(self.until / 2.0).min(self.mask_until);
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        share("dense_until", self.dense_until)?;
        share("mask_until", self.mask_until)?;
        share("fade_from", self.fade_from)?;
        share("until", self.until)?;
        anyhow::ensure!(
            self.dense_until < self.until,
            "the redundant units must live longer (until={}) than the dense part of the training \
             (dense_until={})",
            self.until,
            self.dense_until
        );
        if self.mask == MaskKind::Moving {
            anyhow::ensure!(
                self.mask_until < self.until,
                "the mask must be final (mask_until={}) before the redundant units are gone (until={})",
                self.mask_until,
                self.until
            );
        }
        if self.mask == MaskKind::Gmp {
            anyhow::ensure!(
                (self.dense_until..=self.until).contains(&self.mask_until),
                "the mask must be final (mask_until={}) after the dense part of the training \
                 (dense_until={}) and before the redundant units are gone (until={})",
                self.mask_until,
                self.dense_until,
                self.until
            );
        }
        anyhow::ensure!(
            self.temperature > 0.0 && self.temperature.is_finite(),
            "temperature must be positive, found {}",
            self.temperature
        );
        for (name, value) in [("distil", self.distil), ("decay", self.decay), ("rate", self.rate)] {
            anyhow::ensure!(
                value >= 0.0 && value.is_finite(),
                "{name} must not be negative, found {value}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moving backbone has its final density all the time, and stays before its redundant weights are gone.
    #[test]
    fn moving_backbones_come_to_rest() {
        let method = Decoupled { mask: MaskKind::Moving, ..Decoupled::default() };
        for steps in [1, 7, 1000] {
            let due = |step| method.renewal(Clock { step, steps }, 0.1);
            assert_eq!(due(0), Some(Renewal { choice: Choice::Random, density: 0.1 }));
            let moves: Vec<usize> = (1..steps)
                .filter(|&step| due(step) == Some(Renewal { choice: Choice::Scores, density: 0.1 }))
                .collect();
            assert_eq!(moves.len(), (1..steps).filter(|&step| due(step).is_some()).count());
            assert!(moves.len() <= MOVES && (steps < 1000 || moves.len() == MOVES));
            assert!(
                moves.iter().all(|&step| step as f64 <= (method.mask_until * steps as f64).ceil())
            );
        }
        let mut short = method;
        short.settle_by(0.3);
        assert!(short.mask_until < short.until && short.check().is_ok());
    }

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
