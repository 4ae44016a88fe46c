//! What learning minimises, and its gradient. Gradients are with respect to stored integers.

use super::{LearnError, Parameters, Plan};
use crate::model::Tensor;

/// Class prototypes: what features of each class are like, on the whole. A federation's are the means
/// of its devices' features.
#[derive(Clone, Copy, Debug)]
pub struct Prototypes<'a> {
    /// Class by class, features in the integers of the last layer's input.
    pub values: &'a [i8],
    /// Samples behind each class's prototype; a class with none takes no part.
    pub counts: &'a [u32],
}

/// Contrastive distillation: features are pulled to the prototype of their class and pushed from the
/// others'. The loss is InfoNCE over cosine similarities (van den Oord et al., 2018), as in MOON (Li et
/// al., CVPR 2021) with prototypes in the place of two more models.
#[derive(Clone, Copy, Debug)]
pub struct Contrast<'a> {
    /// Prototypes.
    pub prototypes: Prototypes<'a>,
    /// Weight of the contrastive loss beside the cross-entropy.
    pub weight: f32,
    /// Temperature: similarities are divided by it.
    pub temperature: f32,
}

impl Contrast<'_> {
    pub(super) fn check(&self, classes: usize, features: usize) -> Result<(), LearnError> {
        let expected = classes.saturating_mul(features);
        let found = self.prototypes.values.len();
        if found != expected || self.prototypes.counts.len() != classes {
            return Err(LearnError::Prototypes { expected, found });
        }
        if !(self.weight >= 0.0 && self.weight <= 1e3) {
            return Err(LearnError::Setting("weight of the contrastive loss"));
        }
        if !(self.temperature >= 1e-3 && self.temperature <= 1e3) {
            return Err(LearnError::Setting("temperature"));
        }
        Ok(())
    }
}

/// The proximal term of FedProx (Li et al., MLSys 2020): half the squared distance of the parameters from
/// an anchor, times a weight. Its gradient is added once per batch.
#[derive(Clone, Copy, Debug)]
pub struct Proximal<'a> {
    /// The parameters that are not to be left far, such as a federation's global ones.
    pub anchor: Parameters<'a>,
    /// Weight of the term, for real-valued parameters. From 0 to 1,000.
    pub weight: f32,
}

impl Proximal<'_> {
    pub(super) fn check(&self, plan: &Plan<'_>) -> Result<(), LearnError> {
        self.anchor.check(plan)?;
        if self.weight >= 0.0 && self.weight <= 1e3 {
            Ok(())
        } else {
            Err(LearnError::Setting("weight of the proximal term"))
        }
    }
}

/// Terms of the loss beside the cross-entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// Contrastive distillation; needs at least two tunable layers to change anything.
    pub contrast: Option<Contrast<'a>>,
    /// Distance from an anchor.
    pub proximal: Option<Proximal<'a>>,
}

/// Cross-entropy of the softmax of real scores against class `label`.
pub(super) fn cross_entropy(
    scores: &[i8],
    tensor: &Tensor,
    label: usize,
    gradient: &mut [f32],
) -> f32 {
    let largest = scores.iter().copied().max().unwrap_or(0);
    let mut sum = 0.0f32;
    for (&score, slot) in scores.iter().zip(gradient.iter_mut()) {
        let difference = i32::from(score).wrapping_sub(largest.into());
        *slot = libm::expf(difference as f32 * tensor.scale);
        sum += *slot;
    }
    let mut loss = 0.0;
    for (class, (&score, slot)) in scores.iter().zip(gradient.iter_mut()).enumerate() {
        let mut error = *slot / sum;
        if class == label {
            let difference = i32::from(score).wrapping_sub(largest.into());
            loss = libm::logf(sum) - difference as f32 * tensor.scale;
            error -= 1.0;
        }
        *slot = error * tensor.scale;
    }
    loss
}

/// Adds the contrastive loss's gradient to the features' and returns the weighted loss; 0 where the
/// class has no prototype or the features are zero. `similarities` has one element per class.
pub(super) fn contrastive(
    features: &[i8],
    zero_point: i8,
    contrast: &Contrast<'_>,
    label: usize,
    similarities: &mut [f32],
    gradient: &mut [f32],
) -> f32 {
    let prototypes = &contrast.prototypes;
    let norm = norm(features, zero_point);
    let known = |class: usize| prototypes.counts.get(class).is_some_and(|&count| count > 0);
    if norm == 0.0 || !known(label) || features.is_empty() {
        return 0.0;
    }
    let each = || prototypes.values.chunks_exact(features.len()).enumerate();
    let mut largest = f32::NEG_INFINITY;
    for ((class, prototype), slot) in each().zip(similarities.iter_mut()) {
        *slot = 0.0;
        let length = self::norm(prototype, zero_point);
        if known(class) && length > 0.0 {
            *slot = dot(features, prototype, zero_point) / (norm * length);
            largest = largest.max(*slot);
        }
    }
    // A prototype of zeros points nowhere and takes no part either.
    let takes_part = |class: usize, prototype: &[i8]| {
        known(class) && prototype.iter().any(|&value| value != zero_point)
    };
    let exponential = |similarity: f32| libm::expf((similarity - largest) / contrast.temperature);
    let (mut sum, mut own) = (0.0f32, None);
    for ((class, prototype), &similarity) in each().zip(similarities.iter()) {
        if takes_part(class, prototype) {
            sum += exponential(similarity);
            if class == label {
                own = Some(similarity);
            }
        }
    }
    let Some(own) = own else { return 0.0 };
    let scale = contrast.weight / contrast.temperature;
    let mut along = 0.0f32;
    for ((class, prototype), &similarity) in each().zip(similarities.iter()) {
        if !takes_part(class, prototype) {
            continue;
        }
        let own = if class == label { 1.0 } else { 0.0 };
        let error = scale * (exponential(similarity) / sum - own);
        along += error * similarity;
        let factor = error / (norm * self::norm(prototype, zero_point));
        for (slot, &value) in gradient.iter_mut().zip(prototype) {
            *slot += factor * centred(value, zero_point) as f32;
        }
    }
    let factor = along / (norm * norm);
    for (slot, &value) in gradient.iter_mut().zip(features) {
        *slot -= factor * centred(value, zero_point) as f32;
    }
    contrast.weight * (libm::logf(sum) - (own - largest) / contrast.temperature)
}

fn centred(value: i8, zero_point: i8) -> i32 {
    i32::from(value).wrapping_sub(zero_point.into())
}

fn dot(a: &[i8], b: &[i8], zero_point: i8) -> f32 {
    let products = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| i64::from(centred(a, zero_point).wrapping_mul(centred(b, zero_point))));
    products.fold(0i64, i64::wrapping_add) as f32
}

fn norm(values: &[i8], zero_point: i8) -> f32 {
    libm::sqrtf(dot(values, values, zero_point))
}
