//! First-order optimisers as functions on flat tensors, with their state in the open: checkpoints
//! save it and sparse methods mask it.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// An update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Stochastic gradient descent with Nesterov momentum 0.9
    #[default]
    Sgd,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)
    Adamw,
}

const MOMENTUM: f32 = 0.9;
const BETAS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

impl Rule {
    /// Number of state tensors per parameter; all start as zeros.
    pub fn slots(self) -> usize {
        match self {
            Self::Sgd => 1,
            Self::Adamw => 2,
        }
    }

    /// Learning rate that suits most networks.
    pub fn learning_rate(self) -> f64 {
        match self {
            Self::Sgd => 0.1,
            Self::Adamw => 2e-3,
        }
    }

    /// Weight decay that suits most networks.
    pub fn weight_decay(self) -> f64 {
        match self {
            Self::Sgd => 5e-4,
            Self::Adamw => 1e-2,
        }
    }

    /// Updates one parameter; `step` counts from 1.
    pub fn update(
        self,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
        rate: f64,
        decay: f64,
        step: usize,
    ) -> Tensor<1> {
        match (self, state) {
            (Self::Sgd, [velocity]) => {
                let gradient = match decay {
                    0.0 => gradient,
                    _ => gradient + value.clone() * decay,
                };
                *velocity = velocity.clone() * MOMENTUM + gradient.clone();
                value - (gradient + velocity.clone() * MOMENTUM) * rate
            }
            (Self::Adamw, [mean, square]) => {
                let [b1, b2] = BETAS;
                *mean = mean.clone() * b1 + gradient.clone() * (1.0 - b1);
                *square = square.clone() * b2 + gradient.clone() * gradient * (1.0 - b2);
                let correct = |beta: f32| 1.0 - f64::from(beta).powi(step as i32);
                let direction = (mean.clone() / correct(b1))
                    / ((square.clone() / correct(b2)).sqrt() + EPSILON);
                value * (1.0 - rate * decay) - direction * rate
            }
            (_, state) => unreachable!("{} state tensors", state.len()),
        }
    }

    /// What becomes of the state when the values of its parameter are multiplied by factors, so that gradients are
    /// divided by them from then on; `divide` divides a tensor by these factors.
    pub fn rescale(self, state: &mut [Tensor<1>], divide: impl Fn(&Tensor<1>) -> Tensor<1>) {
        match (self, state) {
            // Weight decay is in it, which does not grow where the gradient does: divided by a small factor it
            // would become a step that nothing comes back from.
            (Self::Sgd, [velocity]) => *velocity = velocity.zeros_like(),
            (Self::Adamw, [mean, square]) => {
                *mean = divide(mean);
                *square = divide(&divide(square));
            }
            (_, state) => unreachable!("{} state tensors", state.len()),
        }
    }
}

/// Learning rate as a share of its maximum: linear warm-up, then half a cosine down to zero
/// (Loshchilov and Hutter, ICLR 2017). All arguments count steps.
pub fn cosine(step: usize, warmup: usize, steps: usize) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / (warmup + 1) as f64;
    }
    let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::module::{tensor, values};
    use burn::tensor::Device;

    /// Minimises x^2 from 1; both rules must get close to 0 and leave a masked value alone.
    #[test]
    fn rules_descend() {
        let device = Device::flex();
        for rule in [Rule::Sgd, Rule::Adamw] {
            let mut value = tensor(&[1.0, 0.0], &device);
            let mut state = vec![tensor(&[0.0, 0.0], &device); rule.slots()];
            for step in 0..200 {
                let gradient = value.clone() * 2.0;
                let rate = 0.05 * cosine(step, 5, 200);
                value = rule.update(value, gradient, &mut state, rate, 1e-4, step + 1);
            }
            let [x, masked] = values(&value)[..] else { panic!() };
            assert!(x.abs() < 0.01 && masked == 0.0, "{rule:?}: {x} {masked}");
        }
        assert!(
            cosine(0, 10, 100) < 0.1 && cosine(10, 10, 100) == 1.0 && cosine(100, 10, 100) == 0.0
        );
    }
}
