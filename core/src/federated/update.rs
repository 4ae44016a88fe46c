//! Updates: differences from the global parameters, clipped, noised where asked for, and quantised to 8
//! bits with error feedback. Both sides use this.

use core::fmt;

use super::message::{Offer, Update};
use crate::learn::{MAX_LAYERS, Parameters, Plan};

/// 1/256 of an integer step, the unit of parameters.
const UNIT: f32 = 1.0 / 256.0;

/// Largest quantised difference.
const LIMIT: i64 = 127;

/// Quantises `value` by `scale`: rounded to nearest, ties away from zero.
pub fn quantise(value: i32, scale: u32) -> i8 {
    let (value, scale) = (i64::from(value), i64::from(scale.max(1)));
    let half = if value < 0 { -(scale / 2) } else { scale / 2 };
    let quotient = value.wrapping_add(half).checked_div(scale).unwrap_or(0);
    quotient.clamp(-LIMIT, LIMIT) as i8
}

/// The smallest scale by which values of this magnitude fit 8 bits.
fn scale(largest: u32) -> u32 {
    largest.div_ceil(LIMIT as u32).max(1)
}

/// Buffers of [`make`].
pub(super) struct Buffers<'a> {
    /// The global parameters; becomes the values to send.
    pub(super) weights: &'a mut [i16],
    /// Likewise.
    pub(super) biases: &'a mut [i32],
    /// What earlier updates left out.
    pub(super) weight_residuals: &'a [i16],
    /// Likewise.
    pub(super) bias_residuals: &'a [i32],
}

/// Makes the values to send out of the global parameters, and their scales.
///
/// `local - global` is scaled down to a norm of at most `clip`; Gaussian noise is added; then what earlier
/// updates lost to quantisation. The order matters for privacy: what earlier rounds left over is made of
/// their noised values only, and is not new knowledge of the data.
pub(super) fn make(
    plan: &Plan<'_>,
    local: &Parameters<'_>,
    buffers: Buffers<'_>,
    offer: &Offer,
    random: &mut dyn FnMut() -> u32,
) -> ([u16; MAX_LAYERS], [u32; MAX_LAYERS]) {
    let Buffers { weights, biases, weight_residuals, bias_residuals } = buffers;
    let mut square = 0.0f32;
    for (&local, &global) in local.weights.iter().zip(weights.iter()) {
        let difference = i32::from(local).wrapping_sub(global.into()) as f32 * UNIT;
        square += difference * difference;
    }
    let pairs = local.biases.iter().zip(biases.iter());
    plan.each_bias_step(pairs, |(&local, &global), step| {
        let difference = local.saturating_sub(global) as f32 * UNIT * step;
        square += difference * difference;
    });
    let norm = libm::sqrtf(square);
    let factor = if norm > offer.clip { offer.clip / norm } else { 1.0 };
    let deviation = offer.noise * offer.clip;
    let mut gaussian = || if deviation > 0.0 { deviation * normal(random) } else { 0.0 };

    let values = weights.iter_mut().zip(local.weights).zip(weight_residuals);
    for ((slot, &local), &residual) in values {
        let difference = i32::from(local).wrapping_sub((*slot).into()) as f32;
        let noised = libm::roundf(difference * factor + gaussian() / UNIT) as i32;
        let value = noised.saturating_add(residual.into());
        *slot = value.max(i16::MIN.into()).min(i16::MAX.into()) as i16;
    }
    let values = biases.iter_mut().zip(local.biases).zip(bias_residuals);
    plan.each_bias_step(values, |((slot, &local), &residual), step| {
        let difference = local.saturating_sub(*slot) as f32;
        // A channel whose outputs no bias can shift has a constant one.
        let noise = if step > 0.0 { gaussian() / (UNIT * step) } else { 0.0 };
        let noised = libm::roundf(difference * factor + noise) as i32;
        *slot = noised.saturating_add(residual);
    });

    let (mut weight_scales, mut bias_scales) = ([1; MAX_LAYERS], [1; MAX_LAYERS]);
    let scales = weight_scales.iter_mut().zip(bias_scales.iter_mut());
    for (layer, (weight_scale, bias_scale)) in scales.enumerate() {
        let Some((_, of_weights, of_biases)) = plan.layer(layer) else { break };
        let values = weights.get(of_weights).unwrap_or_default().iter();
        let largest = values.map(|value| value.unsigned_abs()).max().unwrap_or(0);
        *weight_scale = scale(largest.into()) as u16;
        let values = biases.get(of_biases).unwrap_or_default().iter();
        let largest = values.map(|value| value.unsigned_abs()).max().unwrap_or(0);
        *bias_scale = scale(largest);
    }
    (weight_scales, bias_scales)
}

/// A number of the standard normal distribution from two uniform ones (Box and Muller, 1958).
fn normal(random: &mut dyn FnMut() -> u32) -> f32 {
    // Within (0, 1): the logarithm is finite.
    let mut uniform = || ((random() >> 8) as f32 + 0.5) / 16_777_216.0;
    let (a, b) = (uniform(), uniform());
    libm::sqrtf(-2.0 * libm::logf(a)) * libm::cosf(core::f32::consts::TAU * b)
}

/// Why the server does not use an update.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum UpdateError {
    /// It is of another model.
    OtherModel {
        /// The model it is of.
        found: [u8; 8],
    },
    /// It is of another round.
    OtherRound {
        /// The round it is of.
        found: u32,
    },
    /// It counts no samples, or more than were offered.
    Samples {
        /// The largest count.
        limit: u32,
        /// The count given.
        found: u32,
    },
    /// Its loss is no number.
    Loss,
    /// A scale is zero.
    Scale,
    /// Its values are not as many as the model's.
    Length {
        /// Weights and biases of the model.
        expected: [usize; 2],
        /// Those of the update.
        found: [usize; 2],
    },
    /// Its norm is above what clipping, quantisation and noise can make it.
    Norm {
        /// The largest norm.
        limit: f32,
        /// The update's.
        found: f32,
    },
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherModel { found } => {
                f.write_str("update of another model: ")?;
                found.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::OtherRound { found } => write!(f, "update of another round: {found}"),
            Self::Samples { limit, found } => {
                write!(f, "update counts {found} samples: expected 1 to {limit}")
            }
            Self::Loss => f.write_str("the update's loss is no number"),
            Self::Scale => f.write_str("a scale of the update is zero"),
            Self::Length { expected: [weights, biases], found } => write!(
                f,
                "expected {weights} weights and {biases} biases, found {} and {}",
                found[0], found[1]
            ),
            Self::Norm { limit, found } => {
                write!(f, "norm of the update {found}, expected at most {limit}")
            }
        }
    }
}

impl core::error::Error for UpdateError {}

impl Update {
    /// Whether the update answers the offer.
    ///
    /// # Errors
    ///
    /// Says what does not fit.
    pub fn check(&self, offer: &Offer) -> Result<(), UpdateError> {
        if self.model != offer.model {
            return Err(UpdateError::OtherModel { found: self.model });
        }
        if self.round != offer.round {
            return Err(UpdateError::OtherRound { found: self.round });
        }
        if !(1..=offer.max_samples).contains(&self.samples) {
            return Err(UpdateError::Samples { limit: offer.max_samples, found: self.samples });
        }
        if !self.loss.is_finite() {
            return Err(UpdateError::Loss);
        }
        if self.weight_scales.contains(&0) || self.bias_scales.contains(&0) {
            return Err(UpdateError::Scale);
        }
        Ok(())
    }

    /// Hands the differences of parameters, in 1/256 of a step, to `weight` and `bias` with their indices,
    /// and returns their norm.
    ///
    /// # Errors
    ///
    /// When the values are not as many as the plan's, or the norm is above `limit`; nothing is handed over
    /// then. An honest update's norm is at most the offer's clip, plus noise, plus what earlier updates
    /// lost to quantisation: half a scale per value.
    pub fn differences(
        &self,
        plan: &Plan<'_>,
        weights: &[i8],
        biases: &[i8],
        limit: f32,
        mut weight: impl FnMut(usize, i32),
        mut bias: impl FnMut(usize, i32),
    ) -> Result<f32, UpdateError> {
        let expected = [plan.weight_count(), plan.channel_count()];
        let found = [weights.len(), biases.len()];
        if expected != found {
            return Err(UpdateError::Length { expected, found });
        }
        let mut square = 0.0f32;
        let mut add = |difference: i32, step: f32| {
            let steps = difference as f32 * UNIT * step;
            square += steps * steps;
        };
        self.each(plan, weights, biases, |difference| match difference {
            Difference::Weight(_, value) => add(value, 1.0),
            Difference::Bias(_, value, step) => add(value, step),
        });
        let norm = libm::sqrtf(square);
        if norm.is_nan() || norm > limit {
            return Err(UpdateError::Norm { limit, found: norm });
        }
        self.each(plan, weights, biases, |difference| match difference {
            Difference::Weight(index, value) => weight(index, value),
            Difference::Bias(index, value, _) => bias(index, value),
        });
        Ok(norm)
    }

    /// Differences, layer by layer.
    fn each(&self, plan: &Plan<'_>, weights: &[i8], biases: &[i8], mut f: impl FnMut(Difference)) {
        for layer in 0..MAX_LAYERS {
            let Some((_, of_weights, of_biases)) = plan.layer(layer) else { break };
            let scale = self.weight_scales.get(layer).map_or(1, |&scale| i32::from(scale));
            let values = weights.get(of_weights.clone()).unwrap_or_default();
            for (index, &value) in of_weights.zip(values) {
                f(Difference::Weight(index, i32::from(value).wrapping_mul(scale)));
            }
            let scale = self.bias_scales.get(layer).copied().unwrap_or(1);
            let scale = i32::try_from(scale).unwrap_or(i32::MAX);
            let values = biases.get(of_biases.clone()).unwrap_or_default();
            plan.each_bias_step_of(layer, of_biases.zip(values), |(index, &value), step| {
                f(Difference::Bias(index, i32::from(value).saturating_mul(scale), step));
            });
        }
    }
}

/// A parameter's index and difference, and for a bias the step of its outputs.
enum Difference {
    Weight(usize, i32),
    Bias(usize, i32, f32),
}
