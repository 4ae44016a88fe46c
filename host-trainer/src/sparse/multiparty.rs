//! Several parties learn one network, each in a sparse part of it that is its own.
//!
//! Parties have samples that they do not show: of other classes, other speakers, other places. A party's model
//! is a sparse sub-network of the global one, on a mask that follows from its samples:
//!
//! 1. Every party begins a round with the global network and its mask.
//! 2. In the first step of a round it makes the mask its own: it moves some of it from the smallest weights to those
//!    with the largest gradients ([`dynamic::rigl`](super::dynamic::rigl)), fewer from round to round.
//! 3. It learns from its samples, and by *contrastive distillation*: the features of a sample are pulled towards
//!    what the global network makes of the same sample, and pushed from the global features of samples of
//!    other classes and from those of the party's previous model (Tian et al., "Contrastive representation
//!    distillation", ICLR 2020, within a batch; Li et al., "Model-contrastive federated learning", CVPR 2021).
//! 4. The weights on its mask go up in 16 bits, with the mask as bits where it has changed. The server takes for
//!    each weight the mean over the parties that keep it, by their samples, and prunes what that makes to the
//!    density again (Bibikar et al., "Federated dynamic sparse training", AAAI 2022): of each layer those weights
//!    stay that are largest, counted by the share of samples whose parties keep them.
//!
//! Other [ways](Way) of learning together are the controls. All of them run over the same messages.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use half::f16;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Config, Flow,
    dynamic::Update,
    evaluate::{calibrate, correct, logits, merit_of},
    mask::Budget,
    state::{Purpose, State, rng},
    step::{Contrast, Guide, Model, follow_stats, learn_values},
    trainer::summary,
};
use crate::data::{Dataset, Split};
use crate::net::module::{Network, Stats, tensor, values};
use crate::net::spec::Task;
use crate::net::{Graph, NetSpec, RunFile, Summary};

/// A way of learning together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Personal masks and contrastive distillation
    Personal,
    /// Federated averaging (McMahan et al., AISTATS 2017) on one random mask that all share
    Fedavg,
    /// The same with a pull towards the global weights (Li et al., MLSys 2020)
    Fedprox,
    /// The same with MOON's contrast to global and previous model (Li et al., CVPR 2021)
    Moon,
    /// Every party alone
    Local,
}

/// Settings beside those of each party's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Multiparty {
    /// How parties learn together.
    pub way: Way,
    /// Rounds.
    pub rounds: usize,
    /// Weight of the contrastive loss, for those that have one.
    pub contrast: f64,
    /// Its temperature.
    pub temperature: f64,
    /// Weight of half the squared distance from the global weights, for FedProx.
    pub proximal: f64,
    /// Share of its weights that a party moves in the first round; falls as half a cosine to nothing after three
    /// quarters of the rounds.
    pub adjust: f64,
    /// Share of a party's samples that it is tested on and does not learn from.
    pub own_test: f64,
}

/// Where the parties stand after a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The round, counted from 1.
    pub round: usize,
    /// Accuracy of the global network on the test split; of parties that learn alone the mean of theirs, after the
    /// last round.
    pub accuracy: Option<f64>,
    /// Accuracy of the parties' own models on their own test samples, over all of these.
    pub personal: f64,
    /// Bytes from all parties, in all rounds so far.
    pub bytes_up: u64,
    /// Bytes to all parties so far.
    pub bytes_down: u64,
    /// Share of the weights that some party keeps.
    pub kept_by_any: f64,
}

/// A party between rounds.
struct Party {
    learns: Vec<usize>,
    tests: Vec<usize>,
    masks: Vec<Option<Tensor<1>>>,
    /// Its model after its last round.
    model: Option<Model>,
}

/// What goes over a line: a model on masks that both sides know or that come with it.
#[derive(Serialize, Deserialize)]
struct Message {
    /// Samples that the sender has learned from.
    samples: u32,
    /// Bits of the mask of every parameter that has one; empty where they have not changed.
    masks: Vec<Vec<u8>>,
    /// Kept values parameter by parameter, then means and variances, in 16 bits each.
    values: Vec<u8>,
}

/// What a party has done in a round.
struct Turn {
    message: Vec<u8>,
    model: Model,
    masks: Vec<Option<Tensor<1>>>,
    /// Of its own test samples.
    right: usize,
}

/// Lets parties learn together and keeps the global network as a complete run in the folder `run`. `None` when it
/// was stopped.
///
/// # Errors
/// When the settings are impossible, a training diverges or the folder cannot be written.
#[allow(clippy::too_many_arguments)]
pub fn multiparty(
    run: &Path,
    file: &RunFile,
    data: &Dataset,
    parties: &[Vec<usize>],
    config: &Config,
    settings: &Multiparty,
    device: &Device,
    observe: &mut dyn FnMut(&Round) -> Flow,
) -> Result<Option<(Vec<Round>, Summary)>> {
    ensure!(!data.indices(Split::Test).is_empty(), "`{}` has no test split", data.name);
    ensure!(settings.rounds > 0, "no round to learn in");
    let started = std::time::Instant::now();
    let mut session = Session::new(&file.net, data, parties, config, settings, device)?;
    let mut rounds = Vec::new();
    for round in 1..=settings.rounds {
        let row = session.round(round)?;
        let flow = observe(&row);
        rounds.push(row);
        if flow == Flow::Stop && round < settings.rounds {
            return Ok(None);
        }
    }
    let mut state = session.global;
    calibrate(&mut state, data, config.seed);
    state.progress.epochs = settings.rounds * config.epochs;
    state.progress.seconds = started.elapsed().as_secs_f64();
    let summary = summary(&state, data);
    std::fs::create_dir_all(run)
        .with_context(|| format!("creating the folder {}", run.display()))?;
    state.save(run)?;
    RunFile { summary: Some(summary.clone()), ..file.clone() }.save(run)?;
    Ok(Some((rounds, summary)))
}

struct Session<'a> {
    net: &'a NetSpec,
    data: &'a Dataset,
    config: &'a Config,
    settings: &'a Multiparty,
    device: &'a Device,
    /// The global network on the mask that it is tested on.
    global: State,
    parties: Vec<Party>,
    sent: [u64; 2],
}

impl<'a> Session<'a> {
    fn new(
        net: &'a NetSpec,
        data: &'a Dataset,
        parties: &[Vec<usize>],
        config: &'a Config,
        settings: &'a Multiparty,
        device: &'a Device,
    ) -> Result<Self> {
        let graph = Graph::new(net)?;
        ensure!(graph.task == Task::Classify, "parties learn to classify together, nothing else");
        let mut global = State::new(Network::new(graph), config, device);
        if config.density < 1.0 {
            let masks = budget(&global, config)?;
            let (graph, params) = (&global.net.graph, &global.net.params);
            let chosen = masks.random(graph, params, &mut rng(config.seed, Purpose::Masks, 0));
            global.set_masks(&masks.layer_masks(chosen));
            global.drop_redundant();
        }
        let party = |(index, samples): (usize, &Vec<usize>)| {
            let mut samples = samples.clone();
            samples.shuffle(&mut rng(config.seed, Purpose::Scores, index));
            let tests = (samples.len() as f64 * settings.own_test).round() as usize;
            let learns = samples.split_off(tests.min(samples.len().saturating_sub(1)));
            Party { learns, tests: samples, masks: global.masks.clone(), model: None }
        };
        let parties = parties.iter().enumerate().map(party).collect();
        Ok(Self { net, data, config, settings, device, global, parties, sent: [0; 2] })
    }

    fn round(&mut self, round: usize) -> Result<Round> {
        let alone = self.settings.way == Way::Local;
        let mut global = Model::of(&self.global);
        if !alone {
            // All parties get what the mask lets through, in 16 bits; the mask that they begin with is drawn from
            // the seed.
            let changed = round > 1 && self.moved(round - 1) > 0.0;
            let message = encode(&global, &self.global.masks, 0, changed)?;
            self.sent[1] += (message.len() * self.parties.len()) as u64;
            global = decode(&message, &self.global, &self.global.masks)?.1;
        }
        let turns = self.parties.par_iter().enumerate().map(|(index, party)| {
            let begin = party.model.as_ref().filter(|_| alone).unwrap_or(&global);
            self.turn(round, index, party, begin)
        });
        let turns: Vec<Result<Turn>> = turns.collect();
        let mut updates = Vec::with_capacity(turns.len());
        let (mut right, mut tests) = (0, 0);
        for (party, turn) in self.parties.iter_mut().zip(turns) {
            let turn = turn?;
            right += turn.right;
            tests += party.tests.len();
            if !alone {
                self.sent[0] += turn.message.len() as u64;
                let known = &self.global.masks;
                let (samples, model, masks) = decode(&turn.message, &self.global, known)?;
                updates.push((f64::from(samples), model, masks));
            }
            (party.masks, party.model) = (turn.masks, Some(turn.model));
        }
        if !alone {
            self.aggregate(&updates)?;
        }
        let test = self.data.indices(Split::Test);
        let accuracy = match self.settings.way {
            Way::Local if round < self.settings.rounds => None,
            Way::Local => {
                let models = self.parties.iter().filter_map(|party| party.model.as_ref());
                let right: usize = models.map(|model| self.right(model, &test)).sum();
                Some(right as f64 / (self.parties.len() * test.len()) as f64)
            }
            _ => {
                let (state, values) = (&self.global, self.global.backbone_values());
                Some(merit_of(state, &values, None, self.data, &test))
            }
        };
        Ok(Round {
            round,
            accuracy,
            personal: right as f64 / tests.max(1) as f64,
            bytes_up: self.sent[0],
            bytes_down: self.sent[1],
            kept_by_any: self.kept_by_any(),
        })
    }

    /// Share of its weights that a party moves in a round.
    fn moved(&self, round: usize) -> f64 {
        let settings = self.settings;
        if settings.way != Way::Personal || self.config.density >= 1.0 {
            return 0.0;
        }
        let progress = (round - 1) as f64 / (0.75 * settings.rounds as f64);
        settings.adjust * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
    }

    /// A state of its own for a party, with this model.
    fn state(&self, model: &Model, masks: &[Option<Tensor<1>>]) -> Result<State> {
        let network = Network::new(Graph::new(self.net)?);
        let mut state = State::new(network, self.config, self.device);
        state.values = model.values.clone();
        state.masks = masks.to_vec();
        state.backbone = model.stats.clone();
        state.drop_redundant();
        Ok(state)
    }

    /// Samples of these that a model classifies right.
    fn right(&self, Model { values, stats }: &Model, samples: &[usize]) -> usize {
        if samples.is_empty() {
            return 0;
        }
        let logits = logits(&self.global, values, stats, None, self.data, samples);
        correct(&logits, &self.data.labels, samples)
    }

    /// What a party does in a round that it begins with this model.
    fn turn(&self, round: usize, index: usize, party: &Party, begin: &Model) -> Result<Turn> {
        let (config, settings) = (self.config, self.settings);
        let mut state = self.state(begin, &self.global.masks)?;
        let contrast = Contrast {
            // What the party knows of the global network.
            global: begin,
            previous: party.model.as_ref(),
            other_classes: settings.way == Way::Personal,
            weight: settings.contrast,
            temperature: settings.temperature,
        };
        let guide = match settings.way {
            Way::Personal | Way::Moon => Guide::Contrast(&contrast),
            Way::Fedavg | Way::Fedprox | Way::Local => Guide::Nothing,
        };
        let drop = self.moved(round);
        let batch = config.batch.min(party.learns.len()).max(1);
        for epoch in 0..config.epochs {
            let mut order = party.learns.clone();
            let number = ((round * config.epochs + epoch) << 16) + index;
            order.shuffle(&mut rng(config.seed, Purpose::Order, number));
            for (position, samples) in order.chunks(batch).enumerate() {
                // A batch norm has nothing to learn from a single sample.
                if samples.len() < 2 && position > 0 {
                    continue;
                }
                let step = epoch * party.learns.len().div_ceil(batch) + position;
                let weights = state.backbone_values();
                let pass = round * config.epochs + epoch;
                let mut lesson =
                    learn_values(&state, self.data, config, &weights, guide, samples, pass);
                ensure!(
                    lesson.loss.is_finite(),
                    "the loss of party {index} is {} in round {round}; try a smaller --lr than {}",
                    lesson.loss,
                    config.learning_rate
                );
                if step == 0 && drop > 0.0 {
                    let update = Update::Rigl { drop };
                    state.update_masks(update, &lesson.backbone, config, round)?;
                }
                for (at, gradient) in lesson.backbone.drain(..).enumerate() {
                    let mut gradient = gradient;
                    if settings.way == Way::Fedprox {
                        let away = state.values[at].clone() - begin.values[at].clone();
                        gradient = gradient + away * settings.proximal;
                    }
                    if let Some(mask) = &state.masks[at] {
                        gradient = gradient * mask.clone();
                    }
                    state.values[at] =
                        state.updated(at, gradient, config, config.learning_rate, step);
                }
                follow_stats(&mut state, lesson.stats);
            }
        }
        let model = Model::of(&state);
        let right = self.right(&model, &party.tests);
        let message = encode(&model, &state.masks, party.learns.len() as u32, drop > 0.0)?;
        Ok(Turn { message, model, masks: state.masks, right })
    }

    /// Takes the mean of every value over the parties that keep it, and chooses the mask of the global network.
    fn aggregate(&mut self, updates: &[(f64, Model, Vec<Option<Tensor<1>>>)]) -> Result<()> {
        let total: f64 = updates.iter().map(|(samples, ..)| samples).sum();
        let mut held: Vec<Option<Tensor<1>>> = vec![None; self.global.values.len()];
        for (at, value) in self.global.values.iter_mut().enumerate() {
            let mut sum = value.zeros_like();
            let mut weight = value.zeros_like();
            for (samples, model, masks) in updates {
                let share = samples / total;
                sum = sum + model.values[at].clone() * share;
                weight = weight
                    + match &masks[at] {
                        Some(mask) => mask.clone() * share,
                        None => value.ones_like() * share,
                    };
            }
            // What nobody keeps stays as it was.
            let nobody = weight.clone().equal_elem(0.0);
            let mean = sum / weight.clone().mask_fill(nobody.clone(), 1.0);
            *value = mean.mask_where(nobody, value.clone());
            held[at] = self.global.masks[at].as_ref().map(|_| weight);
        }
        for (at, stats) in self.global.backbone.iter_mut().enumerate() {
            let mean = |of: fn(&Stats) -> &Tensor<1>| {
                let parts = updates
                    .iter()
                    .map(|(samples, model, _)| of(&model.stats[at]).clone() * (samples / total));
                parts.reduce(|a, b| a + b)
            };
            if let (Some(mean), Some(var)) = (mean(|s| &s.mean), mean(|s| &s.var)) {
                *stats = Stats { mean, var };
            }
        }
        if self.settings.way == Way::Personal && self.config.density < 1.0 {
            let budget = budget(&self.global, self.config)?;
            let scores = budget.layers.iter().map(|layer| {
                let value = self.global.values[layer.param].clone().abs();
                values(&match &held[layer.param] {
                    Some(share) => value * share.clone(),
                    None => value,
                })
            });
            let masks = budget.top(&scores.collect::<Vec<_>>(), false);
            self.global.set_masks(&budget.layer_masks(masks));
            self.global.drop_redundant();
        }
        Ok(())
    }

    fn kept_by_any(&self) -> f64 {
        let (mut kept, mut all) = (0.0, 0);
        for (at, spec) in self.global.net.params.iter().enumerate() {
            if self.global.masks[at].is_none() {
                continue;
            }
            let masks = self.parties.iter().filter_map(|party| party.masks[at].clone());
            let any = masks.reduce(Tensor::max_pair);
            kept += any.map_or(0.0, |any| f64::from(any.sum().into_scalar::<f32>()));
            all += spec.len();
        }
        if all == 0 { 1.0 } else { kept / all as f64 }
    }
}

fn budget(state: &State, config: &Config) -> Result<Budget> {
    let (graph, params) = (&state.net.graph, &state.net.params);
    Budget::new(graph, params, config.density, config.distribution, config.structure)
}

/// The message of a model, with its masks where `changed`.
fn encode(
    model: &Model,
    masks: &[Option<Tensor<1>>],
    samples: u32,
    changed: bool,
) -> Result<Vec<u8>> {
    let mut message = Message { samples, masks: Vec::new(), values: Vec::new() };
    let mut put = |all: &[f32], keep: &dyn Fn(usize) -> bool| {
        let kept = all.iter().enumerate().filter(|(at, _)| keep(*at));
        message.values.extend(kept.flat_map(|(_, value)| f16::from_f32(*value).to_le_bytes()));
    };
    for (value, mask) in model.values.iter().zip(masks) {
        let mask = mask.as_ref().map(values);
        put(&values(value), &|at| mask.as_ref().is_none_or(|mask| mask[at] != 0.0));
    }
    for Stats { mean, var } in &model.stats {
        put(&values(mean), &|_| true);
        put(&values(var), &|_| true);
    }
    if changed {
        let bits = |mask: &Tensor<1>| {
            let bit = |(at, value): (usize, &f32)| u8::from(*value != 0.0) << at;
            let byte = |eight: &[f32]| eight.iter().enumerate().map(bit).sum();
            values(mask).chunks(8).map(byte).collect()
        };
        message.masks = masks.iter().flatten().map(bits).collect();
    }
    postcard::to_stdvec(&message).context("encoding a model")
}

/// Samples, model and masks of a message; `known` are the masks where it has none. `like` has the shapes.
#[allow(clippy::type_complexity)]
fn decode(
    bytes: &[u8],
    like: &State,
    known: &[Option<Tensor<1>>],
) -> Result<(u32, Model, Vec<Option<Tensor<1>>>)> {
    let message: Message = postcard::from_bytes(bytes).context("decoding a model")?;
    let mut masks = known.to_vec();
    if !message.masks.is_empty() {
        let mut bits = message.masks.iter();
        for mask in masks.iter_mut().flatten() {
            let (len, bits) = (mask.dims()[0], bits.next().context("a mask is missing")?);
            ensure!(bits.len() == len.div_ceil(8), "a mask has {} bytes for {len}", bits.len());
            let flags: Vec<f32> =
                (0..len).map(|at| f32::from(bits[at / 8] >> (at % 8) & 1)).collect();
            *mask = tensor(&flags, &like.device);
        }
    }
    let mut halves =
        message.values.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
    let mut take = |len: usize, mask: Option<Vec<f32>>| -> Result<Tensor<1>> {
        let value = |at: usize| match mask.as_ref().is_none_or(|mask| mask[at] != 0.0) {
            true => halves.next().context("a model has too few values"),
            false => Ok(0.0),
        };
        let all = (0..len).map(value).collect::<Result<Vec<f32>>>()?;
        Ok(tensor(&all, &like.device))
    };
    let values_of = like.values.iter().zip(&masks);
    let all = values_of
        .map(|(value, mask)| take(value.dims()[0], mask.as_ref().map(values)))
        .collect::<Result<_>>()?;
    let mut stats = Vec::with_capacity(like.backbone.len());
    for Stats { mean, .. } in &like.backbone {
        let channels = mean.dims()[0];
        stats.push(Stats { mean: take(channels, None)?, var: take(channels, None)? });
    }
    ensure!(halves.next().is_none(), "a model has too many values");
    Ok((message.samples, Model { values: all, stats }, masks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, load};
    use crate::federate::parties;
    use crate::net::{DataInfo, preset};

    fn settings(way: Way) -> Multiparty {
        Multiparty {
            way,
            rounds: 3,
            contrast: 0.5,
            temperature: 0.5,
            proximal: 0.01,
            adjust: 0.2,
            own_test: 0.2,
        }
    }

    /// Messages carry everything that a mask lets through; personal masks keep their size and come apart; the
    /// global network ends with the density of the parties and better than guessing.
    #[test]
    fn parties_learn_one_network_in_parts_of_their_own() {
        let options = LoadOptions { train_limit: Some(500), ..LoadOptions::default() };
        let data = load("digits", &options).unwrap();
        let net = preset("mlp:width=16").unwrap().for_data(data.shape, data.classes()).unwrap();
        let parties = parties::divide(&data, Some(4), 0.3, 1).unwrap();
        let config = Config { density: 0.3, epochs: 2, batch: 16, seed: 1, ..Config::default() };
        let file = RunFile {
            version: String::new(),
            net: net.clone(),
            data: DataInfo::new("digits", &options, &data),
            config: serde_json::Value::Null,
            summary: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let learn = |way: Way| {
            let run = folder.path().join(format!("{way:?}"));
            let settings = settings(way);
            let flow = &mut |_: &Round| Flow::Continue;
            let device = Device::flex();
            multiparty(&run, &file, &data, &parties, &config, &settings, &device, flow)
                .unwrap()
                .unwrap()
        };
        let (personal, summary) = learn(Way::Personal);
        assert!((summary.density - 0.3).abs() < 0.01, "{}", summary.density);
        let last = personal.last().unwrap();
        assert!(personal[0].kept_by_any > 0.35, "{personal:?}");
        assert!(last.accuracy.unwrap() > 0.3 && last.personal > 0.5, "{last:?}");
        assert!(crate::net::Trained::load(&folder.path().join("Personal")).is_ok());
        assert_eq!(learn(Way::Personal).0, personal);

        let (shared, _) = learn(Way::Fedavg);
        let shared = shared.last().unwrap();
        assert!((shared.kept_by_any - 0.3).abs() < 0.01, "{shared:?}");
        // The same weights, without the bits of masks.
        assert!(shared.bytes_up < last.bytes_up, "{shared:?} {last:?}");
        // A number of samples above 127 takes a second byte.
        assert!(shared.bytes_up - shared.bytes_down <= 12, "{shared:?}");
        let (alone, _) = learn(Way::Local);
        assert_eq!(alone.last().unwrap().bytes_up, 0);
        assert!(alone.last().unwrap().accuracy.is_some());
    }

    #[test]
    fn damaged_messages_are_refused() {
        let net = preset("mlp:width=16").unwrap().for_data([8, 8, 1], 10).unwrap();
        let config = Config { density: 0.3, ..Config::default() };
        let mut state =
            State::new(Network::new(Graph::new(&net).unwrap()), &config, &Device::flex());
        let budget = budget(&state, &config).unwrap();
        let (graph, params) = (&state.net.graph, &state.net.params);
        let masks = budget.random(graph, params, &mut rng(1, Purpose::Masks, 0));
        state.set_masks(&budget.layer_masks(masks));
        state.drop_redundant();
        let bytes = encode(&Model::of(&state), &state.masks, 7, true).unwrap();
        let none: Vec<Option<Tensor<1>>> =
            state.masks.iter().map(|m| m.as_ref().map(Tensor::zeros_like)).collect();
        let (samples, model, masks) = decode(&bytes, &state, &none).unwrap();
        assert_eq!(samples, 7);
        for (at, (value, sent)) in model.values.iter().zip(&state.values).enumerate() {
            let pairs = values(value).into_iter().zip(values(sent));
            assert!(pairs.into_iter().all(|(a, b)| a == f16::from_f32(b).to_f32()), "{at}");
        }
        for (mask, sent) in masks.iter().zip(&state.masks) {
            assert_eq!(mask.as_ref().map(values), sent.as_ref().map(values));
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], &state, &none).is_err(), "{len}");
        }
        // The masks of another sender.
        let without = encode(&Model::of(&state), &state.masks, 7, false).unwrap();
        assert!(decode(&without, &state, &none).is_err());
    }
}
