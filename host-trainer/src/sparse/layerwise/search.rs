//! The search itself: network weights and strategy weights learn in turns.

use std::{io::Write, path::Path, time::Instant};

use anyhow::{Context, ensure};
use burn::tensor::Tensor;
use rand::{Rng, RngExt, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{Finalist, Fit, Fitter, Layerwise, Space};
use crate::{
    data::{Dataset, Split},
    net::{
        NetSpec, Params,
        module::{tensor, values},
        shape::Role,
        trained::{CHECKPOINT_FILE, write_atomically},
    },
    sparse::{
        EpochRow, Event, Flow,
        evaluate::{merit_of, norms_of},
        mask::{Mask, Structure},
        optimiser::cosine,
        state::{Purpose, State, rng},
        step::{Guide, Lesson, Model, Teacher, follow_stats, learn_values},
    },
};

/// File with one line per record.
const RECORDS_FILE: &str = "records.jsonl";
/// Records per epoch.
const RECORDS: usize = 10;
/// Learning rate of the network in the search as a share of that in training: it is trained already.
const RATE: f64 = 0.3;
/// Most samples of a step: strategies need many steps more than they need exact gradients.
const BATCH: usize = 32;
/// Steps of the strategies to one of the network, which is trained already. The others' share is for the finalists.
const NETWORK_EVERY: usize = 2;
/// Most samples that the statistics of batch norms are taken from before an evaluation.
const NORM_SAMPLES: usize = 512;
/// Share of the training split that is held out where there is no validation split.
const HELD_OUT: f64 = 0.2;

/// The weights of all strategies at a moment of the search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Epochs that are done, in parts of an epoch.
    pub at: f64,
    /// Temperature.
    pub temperature: f64,
    /// Mean loss on held-out samples since the record before.
    pub loss: f64,
    /// Expected cost as a multiple of what is asked for.
    pub cost: f64,
    /// Softmax of the strategy weights, by layer.
    pub weights: Vec<Vec<f32>>,
}

/// What a search has found.
pub(super) struct Found {
    /// The strategy of each layer, by its place.
    pub(super) chosen: Vec<usize>,
    pub(super) fit: Fit,
    pub(super) finalists: Vec<Finalist>,
    pub(super) records: Vec<Record>,
}

/// Searches from the last complete epoch to the end. `None` if it was stopped. The network is then the winner of
/// the final.
pub(super) fn search(
    folder: &Path,
    net: &NetSpec,
    state: &mut State,
    space: &Space,
    settings: &Layerwise,
    data: &Dataset,
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<Option<Found>> {
    let mut choices: Vec<Weights> =
        space.layers.iter().map(|layer| Weights::new(layer.candidates.len())).collect();
    let checkpoint = folder.join(CHECKPOINT_FILE);
    // The teacher is what the search begins with, whatever it has made of it since.
    let teacher = Teacher {
        model: Model::of(state),
        weight: settings.distil,
        temperature: settings.distil_temperature,
    };
    state.progress = Default::default();
    if checkpoint.exists() {
        let (params, note) = Params::load(&checkpoint)?;
        let restore = || -> anyhow::Result<Vec<Weights>> {
            let layers = space.layers.iter().zip(&choices);
            layers.map(|(layer, old)| old.read(&params, &layer.name)).collect()
        };
        let restored = restore().and_then(|weights| state.read(&params, &note).map(|()| weights));
        choices = restored
            .with_context(|| format!("{} does not belong to this search", checkpoint.display()))?;
    }
    let mut records = read_records(folder, state.progress.epochs)?;
    let (train, held_out) = splits(data, settings.training.seed);
    ensure!(
        !train.is_empty() && !held_out.is_empty(),
        "there are too few samples to hold some out"
    );
    let mut session = Session { state, teacher, space, settings, data, choices, train, held_out };
    while session.state.progress.epochs < settings.search_epochs {
        let started = Instant::now();
        let Some((mut row, new)) = session.epoch(observe)? else { return Ok(None) };
        let state = &mut session.state;
        state.progress.epochs += 1;
        state.progress.seconds += started.elapsed().as_secs_f64();
        row.seconds = state.progress.seconds;
        append_records(folder, &new)?;
        records.extend(new);
        let mut params = state.to_params();
        for (layer, weights) in space.layers.iter().zip(&session.choices) {
            weights.write(&mut params, &layer.name);
        }
        params.save(&checkpoint, &serde_json::to_string(&state.progress)?)?;
        let flow = observe(Event::Epoch(&row));
        if flow == Flow::Stop {
            return Ok(None);
        }
    }
    session.hold_final(net, records, observe)
}

/// Samples that network weights learn from, and those that strategy weights learn from.
///
/// They are in random order: splits may be sorted by class, and the first samples must not be of a few classes.
fn splits(data: &Dataset, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut train, val) = (data.indices(Split::Train), data.indices(Split::Val));
    train.shuffle(&mut rng(seed, Purpose::Search, usize::MAX - 1));
    if !val.is_empty() {
        return (train, val);
    }
    let held_out = train.split_off(train.len() - (train.len() as f64 * HELD_OUT) as usize);
    (train, held_out)
}

struct Session<'a> {
    state: &'a mut State,
    teacher: Teacher,
    space: &'a Space,
    settings: &'a Layerwise,
    data: &'a Dataset,
    choices: Vec<Weights>,
    train: Vec<usize>,
    held_out: Vec<usize>,
}

impl Session<'_> {
    fn epoch(
        &mut self,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<(EpochRow, Vec<Record>)>> {
        let settings = self.settings;
        let config = &settings.training;
        let epoch = self.state.progress.epochs;
        let (batch, steps, rate_of_batch) = (self.batch(), self.steps(), self.rate());
        let all_steps = steps * settings.search_epochs;
        observe(Event::Begin { epoch: epoch + 1, steps });

        // Masks follow the network once an epoch.
        let masks = self.masks(epoch);
        let mut random = rng(config.seed, Purpose::Search, epoch);
        let mut order = self.train.clone();
        order.shuffle(&mut random);
        let mut asked = self.held_out.clone();
        asked.shuffle(&mut random);
        let mut asked = asked.into_iter().cycle();

        let started = Instant::now();
        let (mut loss, mut merit, mut rate) = (0.0, 0.0, 0.0);
        let (mut loss_sum, mut merit_sum) = (0.0, 0.0);
        let (mut held_out_loss, mut held_out_steps) = (0.0, 0);
        let mut records = Vec::new();
        for (position, indices) in order.chunks_exact(batch).enumerate() {
            let step = epoch * steps + position;
            let [hot, cold] = settings.temperature;
            let progress = step as f64 / all_steps.saturating_sub(1).max(1) as f64;
            let temperature = hot * (cold / hot).powf(progress);
            rate = rate_of_batch * cosine(step, steps / 10, all_steps);

            if position % NETWORK_EVERY == 0 {
                let sample = self.sample(temperature, &mut random);
                let chosen: Vec<Vec<f32>> = sample.iter().map(|share| largest(share)).collect();
                let before = epoch * steps.div_ceil(NETWORK_EVERY) + position / NETWORK_EVERY;
                let lesson = self.train_weights(&masks, &chosen, indices, rate, before)?;
                (loss, merit) = (lesson.loss, lesson.merit / indices.len() as f64);
                loss_sum += loss;
                merit_sum += merit;
            }
            let held_out: Vec<usize> =
                asked.by_ref().take(batch.min(self.held_out.len())).collect();
            held_out_loss += self.train_choices(&masks, &held_out, temperature, step, &mut random);
            held_out_steps += 1;
            if (position + 1) * RECORDS / steps > position * RECORDS / steps {
                records.push(Record {
                    epoch: epoch + 1,
                    at: (step + 1) as f64 / steps as f64,
                    temperature,
                    loss: held_out_loss / f64::from(held_out_steps),
                    cost: self.expected_cost(),
                    weights: self.choices.iter().map(|c| softmax(&c.alphas)).collect(),
                });
                (held_out_loss, held_out_steps) = (0.0, 0);
            }
            let images_per_s = ((position + 1) * batch) as f64 / started.elapsed().as_secs_f64();
            let event = Event::Step { loss, merit, images_per_s };
            if observe(event) == Flow::Stop {
                return Ok(None);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let chosen: Vec<Vec<f32>> =
            self.choices.iter().map(|choice| largest(&choice.alphas)).collect();
        let (val, density) = self.merit(&masks, &chosen);
        Ok(Some((
            EpochRow {
                epoch: epoch + 1,
                loss: loss_sum / steps.div_ceil(NETWORK_EVERY) as f64,
                train: merit_sum / steps.div_ceil(NETWORK_EVERY) as f64,
                val: Some(val),
                test: None,
                density,
                gamma: None,
                learning_rate: rate,
                quantised: false,
                images_per_s: (steps * batch) as f64 / seconds,
                seconds: 0.0,
            },
            records,
        )))
    }

    /// The choice of each layer with the largest weight, of all candidates and of those of one structure.
    fn finalists(&self) -> Vec<(Option<Structure>, Vec<usize>)> {
        let best = |structure: Option<Structure>| -> Vec<usize> {
            let layers = self.space.layers.iter().zip(&self.choices);
            let of_layer = layers.map(|(layer, weights)| {
                let has = |at: &usize| Some(layer.candidates[*at].structure) == structure;
                let some = (0..layer.candidates.len()).filter(has);
                let by_weight =
                    |a: &usize, b: &usize| weights.alphas[*a].total_cmp(&weights.alphas[*b]);
                some.max_by(by_weight).unwrap_or_else(|| weights.best())
            });
            of_layer.collect()
        };
        let mut all: Vec<(Option<Structure>, Vec<usize>)> = Vec::new();
        let structures = self.settings.structures.iter().copied().map(Some);
        for structure in std::iter::once(None).chain(structures) {
            let chosen = best(structure);
            if all.iter().all(|(_, other)| *other != chosen) {
                all.push((structure, chosen));
            }
        }
        all
    }

    /// Tunes every finalist for the same number of steps and leaves the network as the one that is best on held-out
    /// samples. `None` if it was stopped.
    fn hold_final(
        &mut self,
        net: &NetSpec,
        records: Vec<Record>,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<Found>> {
        let mut all = self.finalists();
        let criteria = self.space.criteria();
        let fitter = Fitter::new(net, self.state, self.space, self.settings, self.data, criteria);
        let fit = |chosen: &[usize]| fitter.fit(&self.space.strategies(chosen));
        if all.len() == 1 {
            let (_, chosen) = all.swap_remove(0);
            let fit = fit(&chosen)?;
            return Ok(Some(Found { chosen, fit, finalists: Vec::new(), records }));
        }
        let fits = all.iter().map(|(_, chosen)| fit(chosen)).collect::<anyhow::Result<Vec<_>>>()?;
        let steps = self.settings.search_epochs * self.steps() / NETWORK_EVERY / all.len();
        let parts =
            |state: &State| (state.values.clone(), state.slots.clone(), state.backbone.clone());
        let start = parts(self.state);
        // Some structures cannot get down to the cost.
        let target = self.space.cost_target;
        let excess = |finalist: &Finalist| (finalist.cost - target).max(0.0);
        let (mut finalists, mut best) = (Vec::new(), None);
        for ((structure, chosen), fit) in all.into_iter().zip(fits) {
            (self.state.values, self.state.slots, self.state.backbone) = start.clone();
            let number = finalists.len() + 1;
            observe(Event::Note(format!("tuning finalist {number} for {steps} steps")));
            let Some(merit) = self.tune(&fit, steps, observe)? else { return Ok(None) };
            let finalist = Finalist { structure, cost: fit.2, merit };
            observe(Event::Note(format!(
                "finalist with structures {}: {merit:.4} on held-out samples, {:.0} instructions",
                finalist.name(),
                finalist.cost
            )));
            let better = best.as_ref().is_none_or(|(best, ..): &(Finalist, _, _, _)| {
                let (own, least) = (excess(&finalist), excess(best));
                own < least || own == least && merit > best.merit
            });
            if better {
                best = Some((finalist.clone(), chosen, fit, parts(self.state)));
            }
            finalists.push(finalist);
        }
        let Some((_, chosen, fit, winner)) = best else { unreachable!("there are finalists") };
        (self.state.values, self.state.slots, self.state.backbone) = winner;
        Ok(Some(Found { chosen, fit, finalists, records }))
    }

    /// Samples of a step.
    fn batch(&self) -> usize {
        self.settings.training.batch.min(self.train.len()).min(BATCH)
    }

    /// Steps of an epoch.
    fn steps(&self) -> usize {
        self.train.len() / self.batch()
    }

    /// The network's learning rate: smaller steps for smaller batches (Goyal et al., arXiv 1706.02677, 2017).
    fn rate(&self) -> f64 {
        let config = &self.settings.training;
        RATE * config.learning_rate * self.batch() as f64 / config.batch as f64
    }

    /// Trains the network under a finalist's masks; its figure of merit on held-out samples.
    fn tune(
        &mut self,
        (_, masks, _): &Fit,
        steps: usize,
        observe: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> anyhow::Result<Option<f64>> {
        let (batch, rate_of_batch) = (self.batch(), self.rate());
        let rows: Vec<Tensor<2>> = masks
            .iter()
            .map(|layer| tensor(&layer.mask.to_values(), &self.state.device).unsqueeze::<2>())
            .collect();
        let whole = vec![vec![1.0]; rows.len()];
        let Layerwise { training, search_epochs, .. } = self.settings;
        let mut random = rng(training.seed, Purpose::Search, *search_epochs);
        let mut order = self.train.clone();
        order.shuffle(&mut random);
        let samples: Vec<usize> = order.into_iter().cycle().take(steps * batch).collect();
        let before = search_epochs * self.steps().div_ceil(NETWORK_EVERY);
        let started = Instant::now();
        for (step, indices) in samples.chunks_exact(batch).enumerate() {
            let rate = rate_of_batch * cosine(step, steps / 10, steps);
            let lesson = self.train_weights(&rows, &whole, indices, rate, before + step)?;
            let merit = lesson.merit / batch as f64;
            let images_per_s = ((step + 1) * batch) as f64 / started.elapsed().as_secs_f64();
            if observe(Event::Step { loss: lesson.loss, merit, images_per_s }) == Flow::Stop {
                return Ok(None);
            }
        }
        Ok(Some(self.merit(&rows, &whole).0))
    }

    /// Masks of all candidates of a layer, one row each, by layer.
    fn masks(&self, epoch: usize) -> Vec<Tensor<2>> {
        let criteria = self.space.criteria();
        let scores = self.space.scores(self.state, self.data, self.settings, &criteria, epoch);
        let masks = self.space.layers.iter().enumerate().map(|(index, layer)| {
            let rows = layer.candidates.iter().map(|strategy| {
                let by = criteria.iter().position(|c| *c == strategy.criterion);
                let scores = &scores[by.expect("the list has every criterion")][index];
                let keep = (scores.len() as f64 * strategy.density).round() as usize;
                Mask::top_units(scores, keep, strategy.structure, &layer.layout).to_values()
            });
            let rows = rows.collect::<Vec<_>>().concat();
            tensor(&rows, &self.state.device).reshape([layer.candidates.len(), layer.layout.len()])
        });
        masks.collect()
    }

    /// A sample of every layer's choice.
    fn sample(&self, temperature: f64, random: &mut impl Rng) -> Vec<Vec<f32>> {
        self.choices.iter().map(|choice| choice.sample(temperature, random)).collect()
    }

    /// Values of the network with mixed masks, and the mixtures.
    fn mixed(&self, masks: &[Tensor<2>], shares: &[Vec<f32>]) -> (Vec<Tensor<1>>, Vec<Tensor<1>>) {
        let mut all = self.state.values.clone();
        let layers = self.space.layers.iter().zip(masks).zip(shares);
        let mixtures = layers.map(|((layer, masks), shares)| {
            let shares = tensor(shares, &self.state.device).unsqueeze::<2>();
            let mixture: Tensor<1> = shares.matmul(masks.clone()).squeeze_dim(0);
            all[layer.param] = all[layer.param].clone() * mixture.clone();
            mixture
        });
        let mixtures = mixtures.collect();
        (all, mixtures)
    }

    /// One step of the network's weights, after `step` others.
    fn train_weights(
        &mut self,
        masks: &[Tensor<2>],
        chosen: &[Vec<f32>],
        indices: &[usize],
        rate: f64,
        step: usize,
    ) -> anyhow::Result<Lesson> {
        let config = &self.settings.training;
        let (all, mixtures) = self.mixed(masks, chosen);
        let epoch = self.state.progress.epochs;
        let guide = Guide::Teacher(&self.teacher);
        let mut lesson = learn_values(self.state, self.data, config, &all, guide, indices, epoch);
        ensure!(
            lesson.loss.is_finite(),
            "the loss is {} in step {step} of the search; try a smaller --lr than {}",
            lesson.loss,
            config.learning_rate
        );
        for (layer, mixture) in self.space.layers.iter().zip(mixtures) {
            lesson.backbone[layer.param] = lesson.backbone[layer.param].clone() * mixture;
        }
        let state = &mut *self.state;
        for (index, gradient) in lesson.backbone.drain(..).enumerate() {
            state.values[index] = state.updated(index, gradient, config, rate, step);
        }
        follow_stats(state, std::mem::take(&mut lesson.stats));
        Ok(lesson)
    }

    /// One step of the strategy weights; the loss on the held-out samples without the cost.
    fn train_choices(
        &mut self,
        masks: &[Tensor<2>],
        indices: &[usize],
        temperature: f64,
        step: usize,
        random: &mut impl Rng,
    ) -> f64 {
        let settings = self.settings;
        let shares = self.sample(temperature, random);
        let chosen: Vec<Vec<f32>> = shares.iter().map(|shares| largest(shares)).collect();
        let (all, _) = self.mixed(masks, &chosen);
        let epoch = self.state.progress.epochs;
        let (config, guide) = (&settings.training, Guide::Teacher(&self.teacher));
        let lesson = learn_values(self.state, self.data, config, &all, guide, indices, epoch);
        let excess = self.cost_of(&shares) / self.space.cost_target - 1.0;
        for (index, layer) in self.space.layers.iter().enumerate() {
            // dL/dp_c = <dL/dW_eff, m_c * W>, where the choice was made.
            let product =
                lesson.backbone[layer.param].clone() * self.state.values[layer.param].clone();
            let gradient = values(&masks[index].clone().matmul(product.unsqueeze_dim::<2>(1)));
            let cost = layer
                .costs
                .iter()
                .map(|cost| 2.0 * settings.cost_weight * excess * cost / self.space.cost_target);
            let gradient: Vec<f32> =
                gradient.into_iter().zip(cost).map(|(g, cost)| g + cost as f32).collect();
            self.choices[index].learn(
                &shares[index],
                &gradient,
                temperature,
                settings.choice_rate,
                step + 1,
            );
        }
        lesson.loss
    }

    fn cost_of(&self, shares: &[Vec<f32>]) -> f64 {
        let layers = self.space.layers.iter().zip(shares);
        let costs = layers.flat_map(|(layer, shares)| layer.costs.iter().zip(shares));
        self.space.cost_fixed + costs.map(|(cost, share)| cost * f64::from(*share)).sum::<f64>()
    }

    fn expected_cost(&self) -> f64 {
        let shares: Vec<Vec<f32>> = self.choices.iter().map(|c| softmax(&c.alphas)).collect();
        self.cost_of(&shares) / self.space.cost_target
    }

    /// Figure of merit on the held-out samples under the masks that are chosen, and the density of that network.
    fn merit(&mut self, masks: &[Tensor<2>], chosen: &[Vec<f32>]) -> (f64, f64) {
        let (all, mixtures) = self.mixed(masks, chosen);
        let params = &self.state.net.params;
        let total: usize = params.iter().filter(|p| p.role == Role::Weight).map(|p| p.len()).sum();
        let lost: f64 = self
            .space
            .layers
            .iter()
            .zip(mixtures)
            .map(|(layer, mask)| {
                layer.layout.len() as f64 - f64::from(mask.sum().into_scalar::<f32>())
            })
            .sum();
        // The running statistics are those of mixtures; the network that would be chosen has others
        // (as "adaptive batch norm" in Li et al., "EagleEye", ECCV 2020).
        let samples = &self.train[..self.train.len().min(NORM_SAMPLES)];
        let stats = norms_of(self.state, &all, self.data, samples);
        let mixed = std::mem::replace(&mut self.state.backbone, stats);
        let merit = merit_of(self.state, &all, None, self.data, &self.held_out);
        self.state.backbone = mixed;
        (merit, 1.0 - lost / total as f64)
    }
}

/// Learnable weights of the strategies of one layer, with the state of Adam.
#[derive(Debug, Clone)]
struct Weights {
    alphas: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Weights {
    fn new(count: usize) -> Self {
        Self { alphas: vec![0.0; count], mean: vec![0.0; count], square: vec![0.0; count] }
    }

    /// A relaxed sample: softmax((alpha + Gumbel noise) / temperature).
    fn sample(&self, temperature: f64, random: &mut impl Rng) -> Vec<f32> {
        let noisy: Vec<f32> = self
            .alphas
            .iter()
            .map(|alpha| {
                let uniform: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
                let gumbel = -(-uniform.ln()).ln();
                ((f64::from(*alpha) + gumbel) / temperature) as f32
            })
            .collect();
        softmax(&noisy)
    }

    /// One step of Adam against the gradient that a sample has.
    fn learn(
        &mut self,
        sample: &[f32],
        gradient: &[f32],
        temperature: f64,
        rate: f64,
        step: usize,
    ) {
        const BETAS: [f32; 2] = [0.9, 0.999];
        let mean: f32 = sample.iter().zip(gradient).map(|(share, g)| share * g).sum();
        for at in 0..self.alphas.len() {
            // Softmax backwards.
            let gradient = sample[at] * (gradient[at] - mean) / temperature as f32;
            self.mean[at] = BETAS[0] * self.mean[at] + (1.0 - BETAS[0]) * gradient;
            self.square[at] = BETAS[1] * self.square[at] + (1.0 - BETAS[1]) * gradient * gradient;
            let correct = |beta: f32| 1.0 - beta.powi(step as i32);
            let direction = (self.mean[at] / correct(BETAS[0]))
                / ((self.square[at] / correct(BETAS[1])).sqrt() + 1e-8);
            self.alphas[at] -= rate as f32 * direction;
        }
    }

    fn best(&self) -> usize {
        place_of_largest(&self.alphas)
    }

    fn parts(layer: &str) -> [String; 3] {
        ["value", "mean", "square"].map(|part| format!("strategy/{layer}/{part}"))
    }

    fn write(&self, params: &mut Params, layer: &str) {
        let values = [&self.alphas, &self.mean, &self.square];
        for (name, values) in Self::parts(layer).into_iter().zip(values) {
            params.insert(name, &[values.len()], values.clone());
        }
    }

    fn read(&self, params: &Params, layer: &str) -> anyhow::Result<Self> {
        let [value, mean, square] = Self::parts(layer);
        let get =
            |name: &str| Ok::<_, anyhow::Error>(params.get(name, &[self.alphas.len()])?.to_vec());
        Ok(Self { alphas: get(&value)?, mean: get(&mean)?, square: get(&square)? })
    }
}

fn place_of_largest(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, at| if values[at] > values[best] { at } else { best })
}

/// One where the largest value is, zero elsewhere.
fn largest(values: &[f32]) -> Vec<f32> {
    let best = place_of_largest(values);
    (0..values.len()).map(|at| f32::from(u8::from(at == best))).collect()
}

fn softmax(values: &[f32]) -> Vec<f32> {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = values.iter().map(|value| (value - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn append_records(folder: &Path, records: &[Record]) -> anyhow::Result<()> {
    let path = folder.join(RECORDS_FILE);
    let mut text = String::new();
    for record in records {
        text += &serde_json::to_string(record)?;
        text.push('\n');
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Reads the records of complete epochs and removes all others.
fn read_records(folder: &Path, epochs: usize) -> anyhow::Result<Vec<Record>> {
    let path = folder.join(RECORDS_FILE);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(Vec::new()) };
    let parsed = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let records: Vec<Record> = parsed.filter(|record: &Record| record.epoch <= epochs).collect();
    write_atomically(&path, b"")?;
    append_records(folder, &records)?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    #[test]
    fn samples_are_in_no_order_of_classes() {
        use crate::data::{LoadOptions, load};
        for val_fraction in [0.0, 0.2] {
            let options = LoadOptions { val_fraction, ..LoadOptions::default() };
            let data = load("digits", &options).unwrap();
            let (mut train, held_out) = splits(&data, 1);
            assert!(!train.is_sorted() && !held_out.is_empty());
            train.extend(&held_out);
            train.sort_unstable();
            let mut all = [data.indices(Split::Train), data.indices(Split::Val)].concat();
            all.sort_unstable();
            assert_eq!(train, all);
        }
    }

    /// Of four masks of a vector, one leaves what the loss asks for; annealed sampling finds it, and with
    /// a cost on it the next best.
    #[test]
    fn the_planted_strategy_wins() {
        let weights = [1.0_f32, -2.0, 0.5, 3.0];
        let masks = [[1., 1., 0., 0.], [0., 1., 0., 1.], [1., 0., 1., 0.], [0., 0., 1., 1.]];
        let goal = [0.0_f32, -2.0, 0.0, 3.0];
        let find = |costs: [f32; 4]| {
            let mut choice = Weights::new(4);
            let mut random = Pcg64::seed_from_u64(4);
            for step in 0..300 {
                let temperature = 5.0 * 0.02_f64.powf(f64::from(step) / 299.0);
                let sample = choice.sample(temperature, &mut random);
                let mut gradient = costs;
                for (at, weight) in weights.iter().enumerate() {
                    let share: f32 = (0..4).map(|c| sample[c] * masks[c][at]).sum();
                    let error = 2.0 * (weight * share - goal[at]);
                    (0..4).for_each(|c| gradient[c] += error * weight * masks[c][at]);
                }
                choice.learn(&sample, &gradient, temperature, 0.1, step as usize + 1);
            }
            assert!(softmax(&choice.alphas)[choice.best()] > 0.9, "{choice:?}");
            choice.best()
        };
        assert_eq!(find([0.0; 4]), 1);
        // Losses: 5 + 9, 0, 1.25 + 13 and 4.25.
        assert_eq!(find([0.0, 30.0, 0.0, 0.0]), 3);
    }
}
