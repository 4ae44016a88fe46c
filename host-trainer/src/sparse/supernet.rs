//! One network that stands for all sparse networks of a search.
//!
//! Two trainings are made once and shared by every candidate:
//!
//! - the *base*, the dense network. Criteria score its weights, so that a candidate's masks follow from its
//!   strategies, and its values are what a candidate is fine-tuned from;
//! - the *supernet*, the same network with input-adaptive gates ([`Network::gated`]), which begins with the
//!   base's values and sees another candidate's masks in every step. A gate scales each channel by how much
//!   the very input needs it, and so makes up for what masks take away, as fine-tuning would.
//!
//! What a candidate would be worth is read from the supernet under its masks without any training: the
//! statistics of batch norms are taken anew from a few samples (Li et al., "EagleEye", ECCV 2020), then it
//! is evaluated on the validation split.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::tensor::{Device, Tensor};
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::{
    Config, Event, Flow, Method, Outcome, create,
    criteria::{Criterion, scores},
    evaluate::{argmax, logits, merit, norms_of, some_samples},
    mask::{LayerMask, Layout},
    optimiser::cosine,
    state::{Purpose, State, rng},
    step::{Guide, Model, Teacher, learn_values},
    strategy::{Prunable, Strategy},
    train,
};
use crate::{
    data::{Dataset, Split},
    net::{
        Graph, NetSpec, Params, RunFile, module::Network, shape::Role, spec::Task,
        trained::CHECKPOINT_FILE,
    },
};

/// Learning rate of the supernet as a share of that of a training: it is trained already.
const RATE: f64 = 0.3;
/// Weight and temperature of the distillation from the base.
const DISTIL: [f64; 2] = [1.0, 2.0];
/// Samples that statistics of batch norms are taken from before a prediction.
const NORM_SAMPLES: usize = 256;
/// Most samples of the validation split that a prediction looks at.
const SAMPLES: usize = 500;

/// Settings of the training of the base: that of the candidates, but of the dense network.
pub fn base_config(training: &Config, epochs: usize) -> Config {
    Config {
        method: Method::Dense,
        density: 1.0,
        criterion: Criterion::default(),
        start: None,
        mask_from: None,
        epochs,
        // Quantisation-aware training folds batch norms away, which criteria and fine-tuning need.
        qat_epochs: 0,
        ..training.clone()
    }
}

/// Trains the base in a folder, or goes on with it.
///
/// # Errors
/// When training fails or a file cannot be written.
pub fn train_base(
    folder: &Path,
    file: &RunFile,
    config: &Config,
    data: &Dataset,
    device: &Device,
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<Outcome> {
    let file = RunFile { config: serde_json::to_value(config)?, ..file.clone() };
    let same = |old: &RunFile| old.config == file.config && old.net == file.net;
    if !(RunFile::exists(folder) && RunFile::load(folder).is_ok_and(|old| same(&old))) {
        create(folder, &file, config)?;
    }
    train(folder, data, device, observe)
}

/// Trains the supernet in a folder, or goes on with it; `false` when it was stopped. `draw` makes the
/// strategies of a random candidate.
///
/// # Errors
/// When training diverges or a file cannot be read or written.
pub fn train_supernet(
    folder: &Path,
    base: &Base,
    epochs: usize,
    data: &Dataset,
    draw: &dyn Fn(&mut Pcg64) -> Vec<Strategy>,
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<bool> {
    let config = &base.config;
    let mut state = gated(&base.net, &base.folder, config, &base.device)?;
    let teacher = Teacher { model: Model::of(&state), weight: DISTIL[0], temperature: DISTIL[1] };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    if folder.join(CHECKPOINT_FILE).exists() {
        state.restore(folder)?;
    }
    let samples = data.indices(Split::Train);
    let batch = config.batch.min(samples.len());
    let steps = samples.len() / batch;
    while state.progress.epochs < epochs {
        let epoch = state.progress.epochs;
        observe(Event::Begin { epoch: epoch + 1, steps });
        let mut random = rng(config.seed, Purpose::Search, epoch);
        let mut order = samples.clone();
        order.shuffle(&mut random);
        let started = std::time::Instant::now();
        for (position, indices) in order.chunks_exact(batch).enumerate() {
            let step = epoch * steps + position;
            let masks = state.mask_tensors(&base.masks(&draw(&mut random)));
            let values = masked(&state, &masks);
            let mut lesson = learn_values(
                &state,
                data,
                config,
                &values,
                Guide::Teacher(&teacher),
                indices,
                epoch,
            );
            ensure!(
                lesson.loss.is_finite(),
                "the loss of the supernet is {} in step {step}; try a smaller --lr than {}",
                lesson.loss,
                config.learning_rate
            );
            let rate = RATE * config.learning_rate * cosine(step, steps / 2, steps * epochs);
            for (index, gradient) in lesson.backbone.drain(..).enumerate() {
                let gradient = match &masks[index] {
                    Some(mask) => gradient * mask.clone(),
                    None => gradient,
                };
                state.values[index] = state.updated(index, gradient, config, rate, step);
            }
            let images_per_s = ((position + 1) * batch) as f64 / started.elapsed().as_secs_f64();
            let merit = lesson.merit / indices.len() as f64;
            if observe(Event::Step { loss: lesson.loss, merit, images_per_s }) == Flow::Stop {
                return Ok(false);
            }
        }
        state.progress.epochs += 1;
        state.save(folder)?;
    }
    Ok(true)
}

/// The trained dense network, with the scores of its weights.
pub struct Base {
    net: NetSpec,
    folder: PathBuf,
    config: Config,
    device: Device,
    prunable: Prunable,
    criteria: Vec<Criterion>,
    /// By criterion, then by layer.
    scores: Vec<Vec<Vec<f32>>>,
    merit: Option<f64>,
}

impl Base {
    /// Reads the base that was trained in a folder and scores its weights by these criteria.
    ///
    /// # Errors
    /// When there is none or it is one of another network.
    pub fn load(
        folder: &Path,
        net: &NetSpec,
        config: &Config,
        criteria: &[Criterion],
        data: &Dataset,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let graph = Graph::new(net)?;
        let prunable = Prunable::whole(&graph);
        let mut state = State::new(Network::new(graph), config, device);
        state.begin(folder)?;
        let layers: Vec<(usize, Layout)> =
            prunable.layers.iter().map(|layer| (layer.param, layer.layout)).collect();
        Ok(Self {
            scores: scores(&state, data, config, criteria, &layers, 0),
            merit: merit(&state, None, data, Split::Val),
            net: net.clone(),
            folder: folder.to_path_buf(),
            config: config.clone(),
            device: device.clone(),
            criteria: criteria.to_vec(),
            prunable,
        })
    }

    /// The layers that strategies are for.
    pub fn prunable(&self) -> &Prunable {
        &self.prunable
    }

    /// Figure of merit of the dense network on the validation split, if there is one.
    pub fn merit(&self) -> Option<f64> {
        self.merit
    }

    /// Masks of strategies, one for every layer of [`Prunable::whole`].
    ///
    /// # Panics
    /// When a strategy has a criterion that the base was not loaded with.
    pub fn masks(&self, strategies: &[Strategy]) -> Vec<LayerMask> {
        let scores: Vec<&[f32]> = strategies
            .iter()
            .enumerate()
            .map(|(layer, strategy)| {
                let by = self.criteria.iter().position(|c| *c == strategy.criterion);
                &self.scores[by.expect("a criterion of the base")][layer][..]
            })
            .collect();
        // A dense layer needs no mask, unless it would read channels that are gone.
        let some: Vec<Option<Strategy>> = strategies.iter().copied().map(Some).collect();
        self.prunable.masks(&some, &scores)
    }

    /// Fine-tunes the base under masks in a folder of its own.
    ///
    /// # Errors
    /// When training fails or a file cannot be written.
    pub fn fine_tune(
        &self,
        folder: &Path,
        file: &RunFile,
        masks: &[LayerMask],
        config: &Config,
        data: &Dataset,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Outcome> {
        let graph = Graph::new(&self.net)?;
        let mut state = State::new(Network::new(graph), config, &self.device);
        state.begin(&self.folder)?;
        state.set_masks(masks);
        let start = folder.join("start");
        std::fs::create_dir_all(&start)
            .with_context(|| format!("creating the folder {}", start.display()))?;
        state.to_params().save(&start.join(CHECKPOINT_FILE), "")?;
        let kept: usize = state.nonzeros().iter().map(|(_, count)| count).sum();
        let weights = state.net.params.iter().filter(|param| param.role == Role::Weight);
        let all: usize = weights.map(|param| param.len()).sum();
        let config = Config {
            density: kept as f64 / all as f64,
            start: Some("start".into()),
            mask_from: Some("start".into()),
            ..config.clone()
        };
        // Not `create`, which asks whether a usual division of the density is possible.
        RunFile { config: serde_json::to_value(&config)?, ..file.clone() }.save(folder)?;
        train(folder, data, &self.device, observe)
    }
}

/// What the supernet says about a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Glimpse {
    /// Share of wrong classifications, or the mean squared error of a reconstruction.
    pub error: f64,
    /// Mean loss, which tells more than the number of errors.
    pub loss: f64,
}

/// The trained supernet.
pub struct Supernet {
    state: State,
    norms: Vec<usize>,
    samples: Vec<usize>,
}

impl Supernet {
    /// Reads the supernet that was trained in a folder.
    ///
    /// # Errors
    /// When there is none or it is one of another network.
    pub fn load(folder: &Path, base: &Base, data: &Dataset) -> anyhow::Result<Self> {
        let mut state = gated(&base.net, &base.folder, &base.config, &base.device)?;
        state.restore(folder)?;
        let mut random = rng(base.config.seed, Purpose::Norms, 0);
        let norms = some_samples(data, Split::Train, NORM_SAMPLES, &mut random);
        let samples = some_samples(data, Split::Val, SAMPLES, &mut random);
        ensure!(!samples.is_empty(), "the data have no validation split");
        Ok(Self { norms, samples, state })
    }

    /// Looks at the supernet under masks.
    pub fn glimpse(&self, masks: &[LayerMask], data: &Dataset) -> Glimpse {
        let state = &self.state;
        let values = masked(state, &state.mask_tensors(masks));
        let stats = norms_of(state, &values, data, &self.norms);
        let logits = logits(state, &values, &stats, None, data, &self.samples);
        let width = logits.len() / self.samples.len();
        let rows = logits.chunks_exact(width).zip(&self.samples);
        let count = self.samples.len() as f64;
        if state.net.graph.task == Task::Reconstruct {
            let error = rows.map(|(row, &index)| {
                let target = data.batch(&[index], None);
                let pairs = row.iter().zip(&target);
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / width as f64
            });
            let error = error.sum::<f64>() / count;
            return Glimpse { error, loss: error };
        }
        let (mut wrong, mut loss) = (0.0, 0.0);
        for (row, &index) in rows {
            let label = data.labels[index] as usize;
            wrong += f64::from(u8::from(argmax(row) != label));
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
            loss += sum.ln() - f64::from(row[label] - most);
        }
        Glimpse { error: wrong / count, loss: loss / count }
    }
}

/// The network with gates, which are open, and the values of the base.
fn gated(net: &NetSpec, base: &Path, config: &Config, device: &Device) -> anyhow::Result<State> {
    let mut state = State::new(Network::gated(Graph::new(net)?), config, device);
    let path = base.join(CHECKPOINT_FILE);
    let (mut params, _) = Params::load(&path)?;
    for spec in state.net.params.iter().filter(|spec| spec.role == Role::Gate) {
        params.insert(&spec.name, &spec.shape, vec![0.0; spec.len()]);
    }
    state
        .begin_with(params)
        .with_context(|| format!("{} does not belong to this network", path.display()))?;
    Ok(state)
}

fn masked(state: &State, masks: &[Option<Tensor<1>>]) -> Vec<Tensor<1>> {
    let values = state.values.iter().zip(masks);
    values
        .map(|(value, mask)| match mask {
            Some(mask) => value.clone() * mask.clone(),
            None => value.clone(),
        })
        .collect()
}
