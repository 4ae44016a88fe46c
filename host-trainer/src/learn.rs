//! Fine-tuning of a model's last layers as a device does it: with `niwaki-core`'s own learner.

use anyhow::{Context, Result, ensure};
use niwaki_core::learn::{Learner, Plan, Settings};
use niwaki_core::{Model, Session};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::Serialize;
use zerocopy::IntoBytes;

use crate::export::{AlignedVec, top1};

/// Samples as a model takes them.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Quantised inputs, one after the other.
    pub inputs: Vec<i8>,
    /// Class of each.
    pub labels: Vec<usize>,
}

impl Samples {
    /// Input and class of sample `index`.
    pub fn get(&self, index: usize) -> (&[i8], usize) {
        let len = self.inputs.len() / self.labels.len().max(1);
        (&self.inputs[index * len..][..len], self.labels[index])
    }

    fn each(&self) -> impl Iterator<Item = (&[i8], usize)> {
        let len = self.inputs.len() / self.labels.len().max(1);
        self.inputs.chunks(len.max(1)).zip(self.labels.iter().copied())
    }
}

/// How to tune.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Gradient descent.
    pub settings: Settings,
    /// Times that the samples are learned.
    pub epochs: usize,
    /// Of the order of the samples, which is shuffled before every epoch.
    pub seed: u64,
}

/// What tuning brought.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// Samples that were learned.
    pub learned: usize,
    /// Samples that were tested on.
    pub tested: usize,
    /// Share of right classifications before.
    pub accuracy_before: f64,
    /// The same after.
    pub accuracy_after: f64,
    /// Mean loss of each epoch.
    pub losses: Vec<f32>,
    /// CRC-32 of the parameters: equal on every machine that learns the same samples in this order.
    pub checksum: u32,
}

/// Tunes the tunable layers of `model` to `train` and measures it on `test`.
///
/// # Errors
///
/// When the model has no layers that can be tuned, a setting is out of range or samples do not fit.
pub fn tune(
    model: &Model<'_>,
    train: &Samples,
    test: &Samples,
    schedule: &Schedule,
) -> Result<Tuned> {
    ensure!(!train.labels.is_empty(), "there are no samples to learn");
    ensure!(!test.labels.is_empty(), "there are no samples to test on");
    let plan = Plan::new(model)?;
    let mut memory = AlignedVec::zeroed(plan.learner_len());
    let mut arena = AlignedVec::zeroed(model.arena_len());
    let mut session: Session<'_, '_> = Session::new(*model, arena.as_arena())?;
    let mut learner = Learner::new(&plan, memory.as_bytes_mut(), schedule.settings)?;
    let accuracy = |learner: &Learner<'_, '_>, session: &mut Session<'_, '_>| -> Result<f64> {
        let mut right = 0;
        for (input, label) in test.each() {
            right += usize::from(top1(learner.tail().run(session, input)?) == label);
        }
        Ok(right as f64 / test.labels.len() as f64)
    };
    let accuracy_before = accuracy(&learner, &mut session)?;
    let samples: Vec<(&[i8], usize)> = train.each().collect();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let mut rng = Pcg64::seed_from_u64(schedule.seed);
    let mut losses = Vec::new();
    for _ in 0..schedule.epochs {
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for &index in &order {
            let (input, label) = samples[index];
            sum += learner
                .learn(&mut session, input, label, None)
                .with_context(|| format!("learning sample {index}"))?;
        }
        learner.finish_batch();
        losses.push(sum / order.len() as f32);
    }
    let accuracy_after = accuracy(&learner, &mut session)?;
    let parameters = learner.parameters();
    let mut digest = flate2::Crc::new();
    digest.update(parameters.weights.as_bytes());
    digest.update(parameters.biases.as_bytes());
    Ok(Tuned {
        learned: samples.len(),
        tested: test.labels.len(),
        accuracy_before,
        accuracy_after,
        losses,
        checksum: digest.sum(),
    })
}
