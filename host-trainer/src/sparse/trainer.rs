//! The training loop.

use std::{fs::OpenOptions, io::Write, path::Path, time::Instant};

use anyhow::{Context, ensure};
use burn::tensor::{Device, Tensor};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{
    Config,
    evaluate::{accuracy, argmax, calibrate, follow_ranges, logits, measure_norms, merit},
    method::{Clock, Phase},
    optimiser::cosine,
    state::{Purpose, State, rng},
    step::{apply, follow_stats, learn},
};
use crate::{
    data::{Dataset, Split},
    net::{
        Dropped, Graph, RunFile, Summary,
        module::Network,
        trained::{CHECKPOINT_FILE, METRICS_FILE, write_atomically},
    },
};

/// Share of the learning rate while int8 is simulated: batch norm no longer follows the weights then,
/// and large steps do more harm than rounding.
const QAT_RATE: f64 = 0.1;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss of the training steps.
    pub loss: f64,
    /// Figure of merit of the backbone in the training steps.
    pub train: f64,
    /// The same on the validation split.
    pub val: Option<f64>,
    /// The same on the test split; only evaluated here where there is no validation split.
    pub test: Option<f64>,
    /// Nonzero weights / all weights.
    pub density: f64,
    /// Factor of redundant weights in the last step, where there are any.
    pub gamma: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Whether int8 arithmetic was simulated, in training and in these figures.
    pub quantised: bool,
    /// Training samples per second.
    pub images_per_s: f64,
    /// Seconds since the start, over all sessions.
    pub seconds: f64,
}

/// What a training tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// An epoch begins that has this many steps.
    Begin {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Steps of an epoch.
        steps: usize,
    },
    /// A step is done.
    Step {
        /// Loss of the step.
        loss: f64,
        /// Figure of merit of the step.
        merit: f64,
        /// Samples per second of this epoch.
        images_per_s: f64,
    },
    /// An epoch is complete and saved.
    Epoch(&'a EpochRow),
    /// Something that a reader of the log should know.
    Note(String),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop now; an epoch that is not complete is lost.
    Stop,
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done.
    Complete(Box<Summary>),
    /// It was stopped after this many complete epochs and can be resumed.
    Stopped(usize),
}

/// Starts a run: writes its settings into a folder, which is emptied of an earlier run.
///
/// # Errors
/// When the settings are impossible or the folder cannot be written.
pub fn create(run: &Path, file: &RunFile, config: &Config) -> anyhow::Result<()> {
    config.check()?;
    config.check_density(&Graph::new(&file.net)?)?;
    std::fs::create_dir_all(run)
        .with_context(|| format!("creating the folder {}", run.display()))?;
    for old in [CHECKPOINT_FILE, METRICS_FILE] {
        match std::fs::remove_file(run.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", run.join(old).display()));
            }
            _ => {}
        }
    }
    file.save(run)
}

/// Trains the run in a folder from its last complete epoch to the end.
///
/// The result depends only on settings, data and device, not on where it was interrupted: order,
/// augmentation and masks are functions of seed and epoch, everything else is in the checkpoint.
///
/// # Errors
/// When settings, data and checkpoint do not fit each other, or a file cannot be written.
pub fn train(
    run: &Path,
    data: &Dataset,
    device: &Device,
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<Outcome> {
    let mut file = RunFile::load(run)?;
    let config: Config = serde_json::from_value(file.config.clone())
        .with_context(|| format!("in the settings of the run in {}", run.display()))?;
    config.check()?;
    let config = config.in_folder(run);
    if let Some(summary) = file.summary {
        return Ok(Outcome::Complete(Box::new(summary)));
    }
    let graph = Graph::new(&file.net)?;
    ensure!(
        graph.input == data.shape,
        "the run was made for samples of {:?}, the data has {:?}",
        graph.input,
        data.shape
    );
    let mut state = State::new(Network::new(graph), &config, device);
    if run.join(CHECKPOINT_FILE).exists() {
        state.restore(run)?;
    } else if let Some(start) = &config.start {
        state.begin(start)?;
    }
    trim_metrics(run, state.progress.epochs)?;

    let samples = data.indices(Split::Train);
    ensure!(!samples.is_empty(), "the training split is empty");
    let mut session = Session::new(state, &config, data, samples);
    while session.state.progress.epochs < config.epochs {
        let started = Instant::now();
        let Some(mut row) = session.epoch(observe)? else {
            return Ok(Outcome::Stopped(session.state.progress.epochs));
        };
        let state = &mut session.state;
        state.progress.epochs += 1;
        state.progress.seconds += started.elapsed().as_secs_f64();
        row.seconds = state.progress.seconds;
        if state.progress.epochs == config.epochs && config.qat_epochs == 0 {
            measure_norms(state, data, config.seed);
            calibrate(state, data, config.seed);
        }
        // In this order, a crash in between leaves a line too many, which resuming removes.
        append_metrics(run, &row)?;
        state.save(run)?;
        let flow = observe(Event::Epoch(&row));
        if flow == Flow::Stop && state.progress.epochs < config.epochs {
            return Ok(Outcome::Stopped(state.progress.epochs));
        }
    }
    let summary = summary(&session.state, session.data);
    file.summary = Some(summary.clone());
    file.save(run)?;
    Ok(Outcome::Complete(Box::new(summary)))
}

struct Session<'a> {
    state: State,
    config: &'a Config,
    data: &'a Dataset,
    samples: Vec<usize>,
    batch: usize,
    steps_per_epoch: usize,
}

impl<'a> Session<'a> {
    fn new(state: State, config: &'a Config, data: &'a Dataset, samples: Vec<usize>) -> Self {
        // The rest of an epoch that does not fill a batch is left out: samples are shuffled, so it
        // is a different rest every time.
        let batch = config.batch.min(samples.len());
        let steps_per_epoch = samples.len() / batch;
        Self { state, config, data, samples, batch, steps_per_epoch }
    }

    fn clock(&self, step: usize) -> Clock {
        Clock { step, steps: self.steps_per_epoch * self.config.epochs }
    }

    /// Trains one epoch; `None` if it was stopped.
    fn epoch(
        &mut self,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<EpochRow>> {
        let config = self.config;
        let epoch = self.state.progress.epochs;
        let quantised = epoch + config.qat_epochs >= config.epochs;
        let mut order = self.samples.clone();
        order.shuffle(&mut rng(config.seed, Purpose::Order, epoch));
        observe(Event::Begin { epoch: epoch + 1, steps: self.steps_per_epoch });

        let started = Instant::now();
        let (mut loss, mut merit_sum, mut gamma, mut rate) = (0.0, 0.0, None, 0.0);
        for (position, indices) in order.chunks_exact(self.batch).enumerate() {
            let step = epoch * self.steps_per_epoch + position;
            let phase = self.prepare(step, observe)?;
            let clock = self.clock(step);
            if quantised && step == (config.epochs - config.qat_epochs) * self.steps_per_epoch {
                measure_norms(&mut self.state, self.data, config.seed);
                self.state.fold_norms(config.optimiser);
                calibrate(&mut self.state, self.data, config.seed);
            }
            let state = &mut self.state;
            let warmup = (config.warmup * self.steps_per_epoch as f64) as usize;
            rate =
                config.learning_rate * cosine(step, warmup, self.steps_per_epoch * config.epochs);
            if quantised {
                rate *= QAT_RATE;
            }
            let update = config.method.update(clock);
            let (now, later) = match update {
                Some(update) if update.needs_gradients() => (None, Some(update)),
                update => (update, None),
            };
            if let Some(update) = now {
                state.update_masks(update, &[], config, step)?;
            }
            let mut lesson = learn(state, self.data, config, phase, quantised, indices, epoch);
            let merit = lesson.merit / indices.len() as f64;
            ensure!(
                lesson.loss.is_finite(),
                "the loss is {} in step {step}: the training diverged; try a smaller --lr than {}",
                lesson.loss,
                config.learning_rate
            );
            loss += lesson.loss;
            merit_sum += merit;
            gamma = match phase {
                Phase::Both { gamma, .. } => Some(gamma),
                _ => None,
            };
            let step_loss = lesson.loss;
            follow_ranges(&mut state.ranges, &lesson.ranges);
            match later {
                Some(update) => state.update_masks(update, &lesson.backbone, config, step)?,
                None => apply(state, &mut lesson, config, phase, rate, step),
            }
            follow_stats(state, lesson.stats);
            let images_per_s =
                ((position + 1) * self.batch) as f64 / started.elapsed().as_secs_f64();
            let event = Event::Step { loss: step_loss, merit, images_per_s };
            if observe(event) == Flow::Stop {
                return Ok(None);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let trained = self.steps_per_epoch * self.batch;
        self.state.progress.training_seconds += seconds;
        self.state.progress.samples += trained;

        let ranges = self.state.ranges.clone();
        let quantise = quantised.then_some(&ranges);
        let val = merit(&self.state, quantise, self.data, Split::Val);
        let test = match val {
            Some(_) => None,
            None => merit(&self.state, quantise, self.data, Split::Test),
        };
        let steps = self.steps_per_epoch as f64;
        Ok(Some(EpochRow {
            epoch: epoch + 1,
            loss: loss / steps,
            train: merit_sum / steps,
            val,
            test,
            density: self.density(),
            gamma,
            learning_rate: rate,
            quantised,
            images_per_s: trained as f64 / seconds,
            seconds: 0.0,
        }))
    }

    /// Changes of masks and paths that are due before a step; tells the phase of the step.
    fn prepare(
        &mut self,
        step: usize,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Phase> {
        let method = &self.config.method;
        let phase = method.phase(self.clock(step));
        let before = step.checked_sub(1).map(|step| method.phase(self.clock(step)));
        if let Some(renewal) = method.renewal(self.clock(step), self.config.density) {
            self.state.renew_masks(renewal, self.config, self.data, step)?;
        }
        match (before, phase) {
            (Some(Phase::Both { .. }), Phase::Masked) => {
                let dropped = self.check_drop(step);
                observe(Event::Note(format!(
                    "dropped the redundant units: they changed {} of {} predictions at their last factor of \
                     {:.1e} (largest redundant weight {:.1e})",
                    dropped.changed, dropped.samples, dropped.last_gamma, dropped.largest
                )));
                self.state.progress.dropped = Some(dropped);
                self.state.drop_redundant();
            }
            (_, Phase::Masked)
                if method.renewal(self.clock(step), self.config.density).is_some() =>
            {
                self.state.drop_redundant();
            }
            _ => {}
        }
        Ok(phase)
    }

    /// Compares the predictions of the network with its redundant units, at the last factor that was not 0, with
    /// those of the backbone, on the test split (or on what there is instead). The very last step has a factor of
    /// 0, so that dropping them after it changes nothing.
    fn check_drop(&self, step: usize) -> Dropped {
        let state = &self.state;
        let indices = [Split::Test, Split::Val, Split::Train]
            .map(|split| self.data.indices(split))
            .into_iter()
            .find(|indices| !indices.is_empty())
            .unwrap_or_default();
        let predictions = |values: &[Tensor<1>]| -> Vec<usize> {
            let logits = logits(state, values, &state.backbone, None, self.data, &indices);
            logits.chunks_exact(logits.len() / indices.len()).map(argmax).collect()
        };
        let last_gamma = match self.config.method.phase(self.clock(step.saturating_sub(2))) {
            Phase::Both { gamma, .. } => gamma,
            _ => 0.0,
        };
        let backbone = predictions(&state.backbone_values());
        let whole = predictions(&state.whole_values(last_gamma));
        let changed = whole.iter().zip(&backbone).filter(|(whole, own)| whole != own).count();
        let largest = state.largest_redundant();
        Dropped { step, largest, last_gamma, samples: indices.len(), changed }
    }

    fn density(&self) -> f64 {
        let kept: usize = self.state.nonzeros().iter().map(|(_, count)| count).sum();
        kept as f64 / weights(&self.state) as f64
    }
}

/// Results of a network that is complete.
pub(super) fn summary(state: &State, data: &Dataset) -> Summary {
    let graph = &state.net.graph;
    let kept = state.nonzeros();
    let nonzeros: usize = kept.iter().map(|(_, count)| count).sum();
    let of_layer = |layer: usize| {
        kept.iter().find(|(index, _)| *index == layer).map_or(0, |(_, count)| *count)
    };
    let progress = &state.progress;
    Summary {
        accuracy_float: accuracy(state, None, data),
        accuracy_int8_simulated: accuracy(state, Some(&state.ranges), data),
        density: nonzeros as f64 / weights(state) as f64,
        nonzeros,
        weights: weights(state),
        macs: graph.sparse_macs(of_layer),
        macs_dense: (0..graph.layers.len()).map(|layer| graph.macs(layer)).sum(),
        dropped: progress.dropped,
        epochs: progress.epochs,
        images_per_s: progress.samples as f64 / progress.training_seconds.max(1e-9),
        seconds: progress.seconds,
    }
}

fn weights(state: &State) -> usize {
    let layers = &state.net.graph.layers;
    let shapes = layers.iter().filter_map(|node| node.op.weight_shape());
    shapes.map(|shape| shape.iter().product::<usize>()).sum()
}

fn append_metrics(run: &Path, row: &EpochRow) -> anyhow::Result<()> {
    let path = run.join(METRICS_FILE);
    let line = serde_json::to_string(row)? + "\n";
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Removes lines of epochs that the checkpoint does not know, and half a line at the end.
fn trim_metrics(run: &Path, epochs: usize) -> anyhow::Result<()> {
    let path = run.join(METRICS_FILE);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(());
    };
    let keep: String = text
        .lines()
        .filter(|line| serde_json::from_str::<EpochRow>(line).is_ok_and(|row| row.epoch <= epochs))
        .flat_map(|line| [line, "\n"])
        .collect();
    write_atomically(&path, keep.as_bytes())
}
