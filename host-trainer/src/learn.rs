//! Fine-tuning of a model's last layers as a device does it: with `niwaki-core`'s own learner.

use anyhow::{Context, Result, ensure};
use niwaki_core::learn::{Learner, Plan, Settings};
use niwaki_core::{Model, Session};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::Serialize;
use zerocopy::IntoBytes;

use crate::data::Dataset;
use crate::export::{AlignedVec, quantised_inputs, top1};

/// Samples as a model takes them.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Quantised inputs, one after the other.
    pub inputs: Vec<i8>,
    /// Class of each.
    pub labels: Vec<usize>,
}

impl Samples {
    /// These samples of `data`, quantised for `model`.
    ///
    /// # Errors
    ///
    /// When the data do not fit the model.
    pub fn of(model: &Model<'_>, data: &Dataset, samples: &[usize]) -> Result<Self> {
        let classes = Plan::new(model)?.class_count();
        ensure!(
            data.classes() == classes,
            "the model has {classes} classes, the data `{}` has {}",
            data.name,
            data.classes()
        );
        let inputs = quantised_inputs(model, data, samples)?;
        let labels = samples.iter().map(|&sample| data.labels[sample] as usize).collect();
        Ok(Self { inputs, labels })
    }

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
    /// Units of the device's counter that a sample took on the mean, forward, backward and its share of the
    /// batch's step: instructions on an emulator; none on the host.
    pub instructions_per_sample: Option<u64>,
    /// Most stack that learning and inference took on the device.
    pub stack_bytes: Option<u32>,
}

/// A place where a model is tuned.
trait Place {
    /// Class scores of an input.
    fn run(&mut self, input: &[i8]) -> Result<usize>;
    /// Learns a sample; returns its loss.
    fn learn(&mut self, input: &[i8], label: usize) -> Result<f32>;
    /// Ends an epoch.
    fn end_epoch(&mut self) -> Result<()>;
    /// What was learned: weights' parameters, then biases', little-endian.
    fn learned(&mut self) -> Result<Vec<u8>>;
}

struct Host<'a> {
    learner: Learner<'a, 'a>,
    session: Session<'a, 'a>,
}

impl Place for Host<'_> {
    fn run(&mut self, input: &[i8]) -> Result<usize> {
        Ok(top1(self.learner.tail().run(&mut self.session, input)?))
    }

    fn learn(&mut self, input: &[i8], label: usize) -> Result<f32> {
        Ok(self.learner.learn(&mut self.session, input, label, None)?)
    }

    fn end_epoch(&mut self) -> Result<()> {
        self.learner.finish_batch();
        Ok(())
    }

    fn learned(&mut self) -> Result<Vec<u8>> {
        let parameters = self.learner.parameters();
        Ok([parameters.weights.as_bytes(), parameters.biases.as_bytes()].concat())
    }
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
    let plan = Plan::new(model)?;
    let mut memory = AlignedVec::zeroed(plan.learner_len());
    let mut arena = AlignedVec::zeroed(model.arena_len());
    let session: Session<'_, '_> = Session::new(*model, arena.as_arena())?;
    let learner = Learner::new(&plan, memory.as_bytes_mut(), schedule.settings)?;
    follow(&mut Host { learner, session }, train, test, schedule)
}

fn follow(
    place: &mut dyn Place,
    train: &Samples,
    test: &Samples,
    schedule: &Schedule,
) -> Result<Tuned> {
    ensure!(!train.labels.is_empty(), "there are no samples to learn");
    ensure!(!test.labels.is_empty(), "there are no samples to test on");
    let accuracy = |place: &mut dyn Place| -> Result<f64> {
        let mut right = 0;
        for (input, label) in test.each() {
            right += usize::from(place.run(input)? == label);
        }
        Ok(right as f64 / test.labels.len() as f64)
    };
    let accuracy_before = accuracy(place)?;
    let mut order: Vec<usize> = (0..train.labels.len()).collect();
    let mut rng = Pcg64::seed_from_u64(schedule.seed);
    let mut losses = Vec::new();
    for _ in 0..schedule.epochs {
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for &index in &order {
            let (input, label) = train.get(index);
            sum += place.learn(input, label).with_context(|| format!("learning sample {index}"))?;
        }
        place.end_epoch()?;
        losses.push(sum / order.len() as f32);
    }
    let accuracy_after = accuracy(place)?;
    let mut digest = flate2::Crc::new();
    digest.update(&place.learned()?);
    Ok(Tuned {
        learned: train.labels.len(),
        tested: test.labels.len(),
        accuracy_before,
        accuracy_after,
        losses,
        checksum: digest.sum(),
        instructions_per_sample: None,
        stack_bytes: None,
    })
}

#[cfg(unix)]
mod board {
    use super::*;
    use crate::target::Device;

    struct Board<'a> {
        device: &'a mut Device,
        learned_bytes: usize,
        samples: u64,
        count: u64,
    }

    impl Place for Board<'_> {
        fn run(&mut self, input: &[i8]) -> Result<usize> {
            Ok(top1(&self.device.run(input)?.output))
        }

        fn learn(&mut self, input: &[i8], label: usize) -> Result<f32> {
            let (loss, count) = self.device.over_line(|link| link.learn(input, label as u16))?;
            self.samples += 1;
            self.count += count;
            Ok(loss)
        }

        fn end_epoch(&mut self) -> Result<()> {
            Ok(self.device.over_line(|link| link.end_epoch())?)
        }

        fn learned(&mut self) -> Result<Vec<u8>> {
            let mut bytes = vec![0; self.learned_bytes];
            self.device.over_line(|link| link.read_learned(&mut bytes))?;
            Ok(bytes)
        }
    }

    /// As [`tune`], on a board that runs `model`: the board learns, the host hands it the samples. With `keep` the
    /// board runs the model as it was tuned from then on, after a reset too.
    ///
    /// # Errors
    ///
    /// When the device fails or cannot learn, a setting is out of range or samples do not fit.
    pub fn tune_on(
        device: &mut Device,
        model: &Model<'_>,
        train: &Samples,
        test: &Samples,
        schedule: &Schedule,
        keep: bool,
    ) -> Result<Tuned> {
        let plan = Plan::new(model)?;
        let learned_bytes = 2 * plan.weight_count() + 4 * plan.channel_count();
        device.over_line(|link| link.begin_learning(schedule.settings))?;
        let mut board = Board { device, learned_bytes, samples: 0, count: 0 };
        let tuned = follow(&mut board, train, test, schedule)?;
        if keep {
            board.device.over_line(|link| link.keep())?;
        }
        let instructions_per_sample = board.count.checked_div(board.samples);
        let stack_bytes = Some(device.stack_bytes()?);
        Ok(Tuned { instructions_per_sample, stack_bytes, ..tuned })
    }
}

#[cfg(unix)]
pub use board::tune_on;
