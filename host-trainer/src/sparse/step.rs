//! One training step: loss and gradients of a batch, computed in parts.
//!
//! The parts of a batch run in parallel, each with its own autodiff graph, and are summed in a fixed
//! order: the result depends on their number, but not on the number of threads.

use burn::tensor::{Tensor, TensorData, activation};
use rayon::prelude::*;

use super::{
    Config, Method,
    decoupled::{PathLoss, PathNorms},
    evaluate::{correct, input},
    method::Phase,
    state::{State, blend},
};
use crate::{
    data::{AugmentKey, Dataset},
    net::{
        module::{Norms, Output, Pass, Stats, values},
        spec::Task,
    },
};

/// What a batch teaches.
pub(super) struct Lesson {
    /// Gradient of every parameter of the backbone path; the only path, unless both are trained.
    pub(super) backbone: Vec<Tensor<1>>,
    /// Gradient of every masked parameter of the whole network's path.
    pub(super) whole: Vec<Option<Tensor<1>>>,
    /// Batch statistics of the backbone path.
    pub(super) stats: Vec<Stats>,
    /// Observed ranges.
    pub(super) ranges: Vec<(usize, [f32; 2])>,
    /// Mean loss.
    pub(super) loss: f64,
    /// Correct classifications of the backbone, or its summed error.
    pub(super) merit: f64,
}

/// Computes loss and gradients of the samples with these indices.
pub(super) fn learn(
    state: &State,
    data: &Dataset,
    config: &Config,
    phase: Phase,
    quantise: bool,
    indices: &[usize],
    epoch: usize,
) -> Lesson {
    let backbone = match phase {
        Phase::Dense => state.values.clone(),
        Phase::Both { .. } | Phase::Masked => state.backbone_values(),
    };
    let whole = match phase {
        Phase::Both { gamma, .. } => Some(state.whole_values(gamma)),
        Phase::Dense | Phase::Masked => None,
    };
    let guide = Guide::Nothing;
    let all = Part { state, data, config, quantise, epoch, share: 1.0, guide };
    all.learn_in_parts(&backbone, whole.as_deref(), indices)
}

/// Values and batch norm statistics of a network.
#[derive(Clone)]
pub(super) struct Model {
    /// Every parameter, flat.
    pub(super) values: Vec<Tensor<1>>,
    /// By batch norm.
    pub(super) stats: Vec<Stats>,
}

impl Model {
    /// What a state holds now.
    pub(super) fn of(state: &State) -> Self {
        Self { values: state.values.clone(), stats: state.backbone.clone() }
    }
}

/// A network of the same shape that teaches another, and is not taught.
pub(super) struct Teacher {
    /// The network.
    pub(super) model: Model,
    /// Weight of the distillation.
    pub(super) weight: f64,
    /// Temperature of the distillation.
    pub(super) temperature: f64,
}

/// Networks of the same shape that the features of another are compared with.
pub(super) struct Contrast<'a> {
    /// The one that they are pulled towards.
    pub(super) global: &'a Model,
    /// The one that they are pushed from.
    pub(super) previous: Option<&'a Model>,
    /// Whether they are pushed from the global features of other classes, too.
    pub(super) other_classes: bool,
    /// Weight of the loss.
    pub(super) weight: f64,
    /// Its temperature.
    pub(super) temperature: f64,
}

/// What a network learns from beside its samples.
#[derive(Clone, Copy)]
pub(super) enum Guide<'a> {
    Nothing,
    Teacher(&'a Teacher),
    Contrast(&'a Contrast<'a>),
}

/// Computes loss and gradients of the samples with these indices for a network with these values.
pub(super) fn learn_values(
    state: &State,
    data: &Dataset,
    config: &Config,
    values: &[Tensor<1>],
    guide: Guide<'_>,
    indices: &[usize],
    epoch: usize,
) -> Lesson {
    let all = Part { state, data, config, quantise: false, epoch, share: 1.0, guide };
    all.learn_in_parts(values, None, indices)
}

impl Lesson {
    fn add(self, other: Self) -> Self {
        let stats = self.stats.into_iter().zip(other.stats);
        Self {
            backbone: self.backbone.into_iter().zip(other.backbone).map(|(a, b)| a + b).collect(),
            whole: self
                .whole
                .into_iter()
                .zip(other.whole)
                .map(|(a, b)| a.zip(b).map(|(a, b)| a + b))
                .collect(),
            stats: stats
                .map(|(a, b)| Stats { mean: a.mean + b.mean, var: a.var + b.var })
                .collect(),
            ranges: self
                .ranges
                .into_iter()
                .zip(other.ranges)
                .map(|((slot, a), (_, b))| (slot, [a[0].min(b[0]), a[1].max(b[1])]))
                .collect(),
            loss: self.loss + other.loss,
            merit: self.merit + other.merit,
        }
    }
}

/// What all samples of a part have in common.
#[derive(Clone, Copy)]
struct Part<'a> {
    state: &'a State,
    data: &'a Dataset,
    config: &'a Config,
    quantise: bool,
    epoch: usize,
    /// Share of the part in the batch.
    share: f64,
    guide: Guide<'a>,
}

impl Part<'_> {
    fn learn_in_parts(
        &self,
        backbone: &[Tensor<1>],
        whole: Option<&[Tensor<1>]>,
        indices: &[usize],
    ) -> Lesson {
        let part = indices.len().div_ceil(self.config.shards);
        let parts: Vec<Lesson> = indices
            .par_chunks(part)
            .map(|chunk| {
                let share = chunk.len() as f64 / indices.len() as f64;
                Part { share, ..*self }.learn(backbone, whole, chunk)
            })
            .collect();
        parts.into_iter().reduce(Lesson::add).expect("a batch has samples")
    }

    fn learn(
        &self,
        backbone: &[Tensor<1>],
        whole: Option<&[Tensor<1>]>,
        indices: &[usize],
    ) -> Lesson {
        let state = self.state;
        let key = AugmentKey { seed: self.config.seed, epoch: self.epoch as u64 };
        let augment = self.config.augment.as_ref().map(|augment| (augment, key));
        let batch = input(self.data, indices, augment, &state.device);
        let target = self.target(indices, &batch);
        let beside = |model: &Model, features: bool| {
            let pass = Pass { features, ..Pass::new(Norms::Running(&model.stats)) };
            state.net.forward(&model.values, batch.clone(), &pass)
        };
        let taught = match self.guide {
            Guide::Teacher(teacher) if teacher.weight > 0.0 => {
                Some((teacher, beside(&teacher.model, false).logits))
            }
            _ => None,
        };
        let compared = match self.guide {
            Guide::Contrast(contrast) if contrast.weight > 0.0 => {
                let unit = |model: &Model| beside(model, true).features.map(unit_rows);
                Some((contrast, unit(contrast.global), contrast.previous.and_then(unit)))
            }
            _ => None,
        };

        let leaf = |value: &Tensor<1>| value.clone().autodiff().require_grad();
        let leaves: Vec<Tensor<1>> = backbone.iter().map(leaf).collect();
        let pass = Pass {
            norms: if self.quantise { Norms::Running(&state.backbone) } else { Norms::Batch },
            quantise: self.quantise.then_some(&state.ranges),
            observe: self.quantise,
            features: compared.is_some(),
        };
        // Parameters without redundant weights are the same in both paths.
        let mut whole_leaves: Vec<Option<Tensor<1>>> = vec![None; leaves.len()];
        let (output, teacher) = match whole {
            None => (state.net.forward(&leaves, batch, &pass), None),
            Some(whole) => {
                for (index, mask) in state.masks.iter().enumerate() {
                    whole_leaves[index] = mask.as_ref().map(|_| leaf(&whole[index]));
                }
                let all: Vec<Tensor<1>> = whole_leaves
                    .iter()
                    .zip(&leaves)
                    .map(|(whole, shared)| whole.as_ref().unwrap_or(shared).clone())
                    .collect();
                let (output, teacher) = self.both(&leaves, &all, batch, &pass);
                (output, Some(teacher))
            }
        };
        let mut loss = self.loss(output.logits.clone(), &target);
        if let Some(teacher) = teacher {
            loss = loss + self.loss(teacher.clone(), &target);
            if let Method::Decoupled(settings) = &self.config.method {
                if settings.distil > 0.0 {
                    let (goal, student) = (teacher.inner(), output.logits.clone());
                    loss = loss + self.distil(goal, student, settings.temperature, settings.distil);
                }
                if settings.loss == PathLoss::Mean {
                    loss = loss * 0.5;
                }
            }
        }

        if let Some((teacher, logits)) = taught {
            let student = output.logits.clone();
            loss = loss + self.distil(logits, student, teacher.temperature, teacher.weight);
        }

        if let Some((contrast, Some(global), previous)) = compared
            && let Some(own) = output.features
        {
            loss = loss + self.contrast_of(contrast, unit_rows(own), global, previous, indices);
        }

        let mut gradients = (loss.clone() * self.share).backward();
        let mut gradient = |leaf: &Tensor<1>| {
            leaf.grad_remove(&mut gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
        };
        // Shares of the mean and of the mean square add up over the parts.
        let share = |Stats { mean, var }: Stats| Stats {
            var: (var + mean.clone() * mean.clone()) * self.share,
            mean: mean * self.share,
        };
        Lesson {
            backbone: leaves.iter().map(&mut gradient).collect(),
            whole: whole_leaves.iter().map(|leaf| leaf.as_ref().map(&mut gradient)).collect(),
            stats: output.stats.into_iter().map(share).collect(),
            ranges: output
                .observed
                .into_iter()
                .map(|(slot, low, high)| (slot, [low.into_scalar(), high.into_scalar()]))
                .collect(),
            loss: f64::from(loss.into_scalar::<f32>()) * self.share,
            merit: self.merit(&output.logits.inner(), &target, indices),
        }
    }

    /// What the backbone computes, and the logits of the whole network.
    fn both(
        &self,
        backbone: &[Tensor<1>],
        whole: &[Tensor<1>],
        batch: Tensor<4>,
        pass: &Pass<'_>,
    ) -> (Output, Tensor<2>) {
        let net = &self.state.net;
        let shared = matches!(
            &self.config.method,
            Method::Decoupled(settings) if settings.norms == PathNorms::Shared
        );
        if !shared {
            let output = net.forward(backbone, batch.clone(), pass);
            return (output, net.forward(whole, batch, pass).logits);
        }
        let twice = Tensor::cat(vec![batch.clone(), batch], 0);
        let Output { logits, stats, observed, .. } =
            net.forward_paths(&[backbone, whole], twice, pass);
        let mut parts = logits.chunk(2, 0).into_iter();
        let mut part = || parts.next().expect("a path has half of the samples");
        (Output { logits: part(), stats, observed, features: None }, part())
    }

    /// Class probabilities to reach, or for reconstruction the input.
    fn target(&self, indices: &[usize], batch: &Tensor<4>) -> Tensor<2> {
        let samples = indices.len();
        if self.state.net.graph.task == Task::Reconstruct {
            return batch.clone().reshape([samples as i32, -1]);
        }
        let classes = self.data.classes();
        let smooth = self.config.label_smoothing as f32;
        let mut target = vec![smooth / classes as f32; samples * classes];
        for (row, &index) in indices.iter().enumerate() {
            target[row * classes + self.data.labels[index] as usize] += 1.0 - smooth;
        }
        Tensor::from_data(TensorData::new(target, [samples, classes]), &self.state.device)
    }

    fn loss(&self, logits: Tensor<2>, target: &Tensor<2>) -> Tensor<1> {
        match self.state.net.graph.task {
            Task::Classify => {
                let samples = logits.dims()[0] as f32;
                (activation::log_softmax(logits, 1) * target.clone()).sum() / -samples
            }
            Task::Reconstruct => (logits - target.clone()).square().mean(),
        }
    }

    /// Distance of a network from its teacher, which gets no gradient from it (Hinton et al., 2015).
    fn distil(
        &self,
        teacher: Tensor<2>,
        student: Tensor<2>,
        temperature: f64,
        weight: f64,
    ) -> Tensor<1> {
        match self.state.net.graph.task {
            Task::Classify => {
                let (t, samples) = (temperature, student.dims()[0] as f64);
                let goal = activation::log_softmax(teacher / t, 1);
                let log = activation::log_softmax(student / t, 1);
                ((goal.clone() - log) * goal.exp()).sum() * (weight * t * t / samples)
            }
            Task::Reconstruct => (student - teacher).square().mean() * weight,
        }
    }

    /// How badly the features of a sample can be told from its features in the global network, among those of
    /// other classes there and its own in the previous network: the cross-entropy of cosines (van den Oord et
    /// al., "Representation learning with contrastive predictive coding", 2018). All have unit length.
    fn contrast_of(
        &self,
        contrast: &Contrast<'_>,
        own: Tensor<2>,
        global: Tensor<2>,
        previous: Option<Tensor<2>>,
        indices: &[usize],
    ) -> Tensor<1> {
        let samples = indices.len();
        let mut cosines = vec![(own.clone() * global.clone()).sum_dim(1)];
        cosines.extend(previous.map(|previous| (own.clone() * previous).sum_dim(1)));
        if contrast.other_classes {
            let label = |index: &usize| self.data.labels[*index];
            // Of the same class there is nothing to be pushed from.
            let same: Vec<f32> = indices
                .iter()
                .flat_map(|a| indices.iter().map(move |b| (a, b)))
                .map(|(a, b)| if label(a) == label(b) { -1e4 } else { 0.0 })
                .collect();
            let same = TensorData::new(same, [samples, samples]);
            let same = Tensor::<2>::from_data(same, &self.state.device);
            cosines.push(own.matmul(global.transpose()) + same);
        }
        let logits = Tensor::cat(cosines, 1) / contrast.temperature;
        let right = activation::log_softmax(logits, 1).narrow(1, 0, 1);
        right.sum() * (-contrast.weight / samples as f64)
    }

    fn merit(&self, logits: &Tensor<2>, target: &Tensor<2>, indices: &[usize]) -> f64 {
        match self.state.net.graph.task {
            Task::Classify => correct(&values(logits), &self.data.labels, indices) as f64,
            Task::Reconstruct => {
                let error = (logits.clone() - target.clone()).square().mean();
                f64::from(error.into_scalar::<f32>()) * indices.len() as f64
            }
        }
    }
}

/// Rows scaled to unit length.
fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let length = (rows.clone().square().sum_dim(1) + 1e-8).sqrt();
    rows / length
}

/// Applies what a batch taught: one update of every parameter.
pub(super) fn apply(
    state: &mut State,
    lesson: &mut Lesson,
    config: &Config,
    phase: Phase,
    rate: f64,
    step: usize,
) {
    // A part of the learning rate for redundant weights.
    let slower = match &config.method {
        Method::Decoupled(decoupled) if decoupled.rate != 1.0 => Some(decoupled.rate),
        _ => None,
    };
    let gradients = lesson.backbone.drain(..).zip(lesson.whole.drain(..));
    for (index, (gradient, whole)) in gradients.enumerate() {
        let mask = state.masks[index].clone();
        let gradient = match (&mask, phase) {
            (Some(mask), Phase::Both { gamma, .. }) => {
                let gradient = gradient * mask.clone();
                match whole {
                    Some(whole) => gradient + whole * blend(mask, gamma),
                    None => gradient,
                }
            }
            (Some(mask), Phase::Masked) => gradient * mask.clone(),
            _ => gradient,
        };
        let value = state.values[index].clone();
        let next = state.updated(index, gradient, config, rate, step);
        state.values[index] = match (&mask, phase) {
            (Some(mask), Phase::Both { shrink, .. }) => {
                let next = match slower {
                    Some(part) => value.clone() + (next - value) * blend(mask, part),
                    None => next,
                };
                next * blend(mask, shrink)
            }
            _ => next,
        };
    }
}

/// Moves the running statistics a tenth of the way towards those of a batch.
pub(super) fn follow_stats(state: &mut State, batch: Vec<Stats>) {
    const RATE: f32 = 0.1;
    for (running, Stats { mean, var: square }) in state.backbone.iter_mut().zip(batch) {
        let var = (square - mean.clone() * mean.clone()).clamp_min(0.0);
        running.mean = running.mean.clone() * (1.0 - RATE) + mean * RATE;
        running.var = running.var.clone() * (1.0 - RATE) + var * RATE;
    }
}
