//! Layer-wise search of sparse criteria.
//!
//! No criterion is best for every layer. Each layer gets a set of candidate [`Strategy`]s: a criterion,
//! a structure and the share of weights to keep. Candidate c of layer l has a mask m (the best units of
//! the layer's weights W by its criterion) and a learnable weight alpha. While the network trains, the
//! layer computes
//!
//! ```text
//! y = (m_k * W) conv x,   k = argmax p,   p = softmax((alpha + Gumbel noise) / tau)
//! ```
//!
//! with another sample in every step, and p has the gradient that y = sum_c p_c ((m_c * W) conv x) would have there: the
//! straight-through estimator of Jang et al., "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017.
//! A mixture itself would flatter whole channels: batch norm undoes that they are scaled, so that a mixture
//! of them is as good as the dense network. A convolution is linear in its weights, so a step costs one
//! convolution per layer, however many candidates there are. Network weights learn from the training split,
//! strategy weights from samples held out from them, in turns. The temperature tau falls from 5 to 0.1. The loss is
//!
//! ```text
//! CE + beta T^2 KL(teacher || network) + lambda (sum_l p_l . cost_l / target - 1)^2
//! ```
//!
//! where the teacher is the dense network and costs are the target's cost model for each candidate; the
//! last term is that of the relative distance from the cost asked for. In the end there are a few
//! [finalists](Finalist): every layer takes the strategy with the largest weight, of all strategies or of those of
//! one structure, and shares are scaled such that the whole network costs what was asked for. Each finalist is
//! tuned for the same number of steps; the one that is best on held-out samples is retrained. Weights of strategies are
//! learned one layer at a time beside chance in the others, and do not see what a structure saves in the layer
//! behind; the final does.
//!
//! The closest published method is a learnable sampler of criteria (He et al., "Learning Filter Pruning
//! Criteria", CVPR 2020).
//!
//! A folder of a search is that of an ordinary run, with more in it:
//!
//! | file | what |
//! |---|---|
//! | `layerwise.json` | [`LayerwiseFile`]: settings, and in the end the strategies |
//! | `teacher/` | the run of the dense network |
//! | `search/` | the search: its checkpoint, one line per record of the strategy weights |
//! | `run.json`, ... | the retrained network |

mod search;
mod space;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{
    Config, Event, Flow, Method, Outcome, create,
    criteria::Criterion,
    decoupled::Decoupled,
    mask::{LayerMask, Structure},
    method::MaskKind,
    state::{Purpose, State, rng},
    train,
};
use crate::{
    data::Dataset,
    net::{
        DataInfo, Graph, NetSpec, RunFile,
        module::Network,
        trained::{CHECKPOINT_FILE, write_atomically},
    },
    target::cost::Core,
};

pub use super::strategy::Strategy;
pub use search::Record;
use space::Fit;
pub use space::{Space, SpaceLayer};

/// File with settings and strategies of a search.
pub const LAYERWISE_FILE: &str = "layerwise.json";
const TEACHER: &str = "teacher";
const SEARCH: &str = "search";
/// Values and masks that retraining begins with, relative to the folder.
const CHOSEN: &str = "search/chosen";

/// Settings of a layer-wise search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layerwise {
    /// Who chooses the strategies.
    pub chooser: Chooser,
    /// The network is to cost as much as one with unstructured masks of this density.
    pub density: f64,
    /// Core whose cost model counts.
    pub target: Core,
    /// Criteria to choose from.
    pub criteria: Vec<Criterion>,
    /// Structures to choose from.
    pub structures: Vec<Structure>,
    /// Shares of weights to choose from, as multiples of what each layer has at the density (ERK). Other
    /// structures than single weights keep as many as cost the same.
    pub ratios: Vec<f64>,
    /// Epochs of the dense teacher.
    pub teacher_epochs: usize,
    /// A complete run to use as teacher instead.
    pub teacher: Option<PathBuf>,
    /// Epochs of the search. Each counts twice in the total: strategies learn in every step, the network in every
    /// second one, and as many steps again are for the finalists.
    pub search_epochs: usize,
    /// Weight lambda of the cost.
    pub cost_weight: f64,
    /// Weight beta of the distillation from the teacher.
    pub distil: f64,
    /// Temperature T of the distillation.
    pub distil_temperature: f64,
    /// Temperature tau at the beginning and in the end.
    pub temperature: [f64; 2],
    /// Learning rate of the strategy weights (Adam).
    pub choice_rate: f64,
    /// Settings of training; its epochs are those of the retraining, its method that of it.
    pub training: Config,
}

impl fmt::Display for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Search => f.write_str("search"),
            Self::Random => f.write_str("random-choice"),
            Self::Uniform(criterion, structure) => {
                let structure = clap::ValueEnum::to_possible_value(structure);
                let structure = structure.as_ref().map_or("", |value| value.get_name());
                write!(f, "{} {structure}", criterion.name())
            }
        }
    }
}

/// Who chooses the strategy of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chooser {
    /// The search.
    Search,
    /// Nobody: the same criterion and structure everywhere (a control).
    Uniform(Criterion, Structure),
    /// Chance (a control).
    Random,
}

impl Layerwise {
    /// Everything that a search can be compared with: the same strategy everywhere, for every criterion
    /// and structure that it may choose, and strategies by chance.
    pub fn controls(&self) -> Vec<Chooser> {
        let mut controls = Vec::new();
        for &structure in &self.structures {
            // Single weights have the same order by magnitude and by its square.
            let single = matches!(structure, Structure::Unstructured | Structure::FanIn);
            let doubled = |c: &Criterion| {
                single && *c == Criterion::L2 && self.criteria.contains(&Criterion::L1)
            };
            let criteria = self.criteria.iter().filter(|criterion| !doubled(criterion));
            controls.extend(criteria.map(|&criterion| Chooser::Uniform(criterion, structure)));
        }
        controls.push(Chooser::Random);
        controls
    }

    /// Settings that suit most networks. `training` has as many epochs as there are in all: a third is for
    /// the teacher; the search has `search_epochs`, by default a twelfth, which count twice; the rest is for
    /// the retraining. Without a search the retraining has its share.
    ///
    /// # Errors
    /// When there are too few epochs to divide.
    pub fn new(
        chooser: Chooser,
        training: Config,
        search_epochs: Option<usize>,
    ) -> anyhow::Result<Self> {
        let epochs = training.epochs;
        let teacher_epochs = (epochs / 3).max(1);
        let search_epochs = match chooser {
            Chooser::Search => {
                search_epochs.unwrap_or((epochs as f64 / 12.0).round() as usize).max(1)
            }
            _ => 0,
        };
        let spent = teacher_epochs + 2 * search_epochs;
        ensure!(
            spent < epochs,
            "of {epochs} epochs, {teacher_epochs} for the teacher and twice {search_epochs} for the search \
             leave none for the retraining"
        );
        let (left, chosen) = (epochs - spent, Some(PathBuf::from(CHOSEN)));
        let training = Config {
            method: Method::Decoupled(Decoupled::default()),
            epochs: left,
            qat_epochs: training.qat_epochs.min(left / 2),
            start: chosen.clone(),
            mask_from: chosen,
            ..training
        };
        Ok(Self {
            chooser,
            density: 0.1,
            target: Core::CortexM4,
            criteria: vec![
                Criterion::L1,
                Criterion::L2,
                Criterion::GeometricMedian,
                Criterion::BatchNorm,
                Criterion::Taylor,
            ],
            structures: vec![
                Structure::Unstructured,
                Structure::Block4,
                Structure::FanIn,
                Structure::Channels,
            ],
            ratios: vec![0.5, 1.0, 2.0, 4.0],
            teacher_epochs,
            teacher: None,
            search_epochs,
            cost_weight: 5.0,
            distil: 1.0,
            distil_temperature: 2.0,
            temperature: [5.0, 0.1],
            choice_rate: 0.1,
            training: training.fitted(),
        })
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the setting, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            match &self.training.method {
                Method::Static => true,
                Method::Decoupled(decoupled) => decoupled.mask == MaskKind::Random,
                _ => false,
            },
            "the retraining keeps the masks of the search: expected the method decoupled or static, found {}",
            self.training.method.name()
        );
        let default = Config::default();
        let own = (self.training.structure, self.training.criterion, self.training.distribution);
        ensure!(
            own == (default.structure, default.criterion, default.distribution),
            "criteria, structures and densities are chosen for each layer; say among which (criteria, \
             structures, ratios) instead of giving one"
        );
        ensure!(!self.criteria.is_empty(), "no criterion to choose from");
        ensure!(!self.structures.is_empty(), "no structure to choose from");
        ensure!(
            !self.ratios.is_empty() && self.ratios.iter().all(|r| *r > 0.0 && r.is_finite()),
            "expected positive ratios to choose from, found {:?}",
            self.ratios
        );
        let [hot, cold] = self.temperature;
        ensure!(
            hot >= cold && cold > 0.0 && hot.is_finite(),
            "the temperature must fall and stay positive, found {hot} to {cold}"
        );
        for (name, value) in [
            ("the weight of the cost", self.cost_weight),
            ("the weight of the distillation", self.distil),
            ("the learning rate of the strategies", self.choice_rate),
        ] {
            ensure!(
                value >= 0.0 && value.is_finite(),
                "{name} must not be negative, found {value}"
            );
        }
        ensure!(self.chooser != Chooser::Search || self.search_epochs > 0, "a search needs epochs");
        self.training.check()
    }

    /// Settings of the teacher's training.
    pub fn teacher_config(&self) -> Config {
        Config {
            method: Method::Dense,
            density: 1.0,
            start: None,
            mask_from: None,
            epochs: self.teacher_epochs,
            qat_epochs: 0,
            ..self.training.clone()
        }
    }
}

/// Settings and result of a search on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerwiseFile {
    /// Version of niwaki that started it.
    pub version: String,
    /// The network.
    pub net: NetSpec,
    /// The data.
    pub data: DataInfo,
    /// Settings.
    pub settings: Layerwise,
    /// What was chosen; absent until the search is done.
    pub choice: Option<Choice>,
}

/// What a search has chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Instructions of the dense network, predicted.
    pub cost_dense: f64,
    /// Instructions that were asked for.
    pub cost_target: f64,
    /// Instructions of the network under its masks.
    pub cost: f64,
    /// Strategy of each layer that is pruned.
    pub layers: Vec<LayerChoice>,
    /// Whom the final was between, where there was one.
    pub finalists: Vec<Finalist>,
    /// How the weights of the strategies moved.
    pub records: Vec<Record>,
}

/// One of a few networks of which the best is retrained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// The structure that its layers have, as far as they can; absent where each has its own.
    pub structure: Option<Structure>,
    /// Its instructions.
    pub cost: f64,
    /// Figure of merit on held-out samples after it was tuned.
    pub merit: f64,
}

impl Finalist {
    /// What its layers have, in words.
    pub fn name(&self) -> String {
        let value = self.structure.as_ref().and_then(clap::ValueEnum::to_possible_value);
        value.map_or_else(|| "each its own".to_owned(), |value| value.get_name().to_owned())
    }
}

/// What was chosen for a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerChoice {
    /// Name of the layer.
    pub name: String,
    /// Strategies that it could have.
    pub candidates: Vec<Strategy>,
    /// Instructions of each of them.
    pub costs: Vec<f64>,
    /// Which one it has, by its place among the candidates; absent where there was no choice.
    pub chosen: Option<usize>,
    /// What it has: shares are scaled to meet the cost.
    pub strategy: Strategy,
    /// Weights that are kept.
    pub kept: usize,
    /// All of its weights.
    pub weights: usize,
}

impl LayerwiseFile {
    /// Whether a folder holds a search.
    pub fn exists(folder: &Path) -> bool {
        folder.join(LAYERWISE_FILE).exists()
    }

    /// Reads the file from the folder of a search.
    ///
    /// # Errors
    /// When there is none or it is damaged.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LAYERWISE_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("reading {}; is {} the folder of a search?", path.display(), folder.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_atomically(&folder.join(LAYERWISE_FILE), text.as_bytes())
    }

    fn run_file(&self, config: &Config) -> anyhow::Result<RunFile> {
        Ok(RunFile {
            version: self.version.clone(),
            net: self.net.clone(),
            data: self.data.clone(),
            config: serde_json::to_value(config)?,
            summary: None,
        })
    }
}

/// Starts a search: writes its settings into a folder, which is emptied of an earlier one.
///
/// # Errors
/// When the settings are impossible or the folder cannot be written.
pub fn prepare(folder: &Path, file: &LayerwiseFile) -> anyhow::Result<()> {
    file.settings.check()?;
    Graph::new(&file.net)?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    for old in [TEACHER, SEARCH] {
        match std::fs::remove_dir_all(folder.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = folder.join(old);
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    match std::fs::remove_file(folder.join(crate::net::trained::RUN_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("emptying {}", folder.display()));
        }
        _ => {}
    }
    file.save(folder)
}

/// A part of a search that takes epochs of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The dense network is trained.
    Teacher,
    /// Strategies are searched for.
    Search,
    /// The network is trained under its masks.
    Retraining,
}

/// Carries a search on from where it was left to the end.
///
/// `observe` is told of everything; before a stage, `stage` is told that it begins and how many epochs
/// it has.
///
/// # Errors
/// When settings, data and files do not fit each other, or a file cannot be written.
pub fn layerwise(
    folder: &Path,
    data: &Dataset,
    device: &Device,
    stage: &mut dyn FnMut(Stage, usize),
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<Outcome> {
    let mut file = LayerwiseFile::load(folder)?;
    file.settings.check()?;
    if file.choice.is_none() {
        let teacher = match &file.settings.teacher {
            Some(teacher) => teacher.clone(),
            None => folder.join(TEACHER),
        };
        if file.settings.teacher.is_none() {
            let config = file.settings.teacher_config();
            if !RunFile::exists(&teacher) {
                create(&teacher, &file.run_file(&config)?, &config)?;
            }
            if RunFile::load(&teacher)?.summary.is_none() {
                stage(Stage::Teacher, config.epochs);
            }
            if let stopped @ Outcome::Stopped(_) = train(&teacher, data, device, observe)? {
                return Ok(stopped);
            }
        }
        match choose(folder, &file, &teacher, data, device, stage, observe)? {
            Some(choice) => file.choice = Some(choice),
            None => return Ok(Outcome::Stopped(0)),
        }
        file.save(folder)?;
    }
    let (Some(choice), config) = (&file.choice, &file.settings.training) else {
        unreachable!("set above")
    };
    if !RunFile::exists(folder) {
        let kept: usize = choice.layers.iter().map(|layer| layer.kept).sum();
        let pruned: usize = choice.layers.iter().map(|layer| layer.weights).sum();
        let graph = Graph::new(&file.net)?;
        let all: usize = (0..graph.layers.len())
            .filter_map(|layer| graph.layers[layer].op.weight_shape())
            .map(|shape| shape.iter().product::<usize>())
            .sum();
        let density = (all - pruned + kept) as f64 / all as f64;
        let config = Config { density, ..config.clone() };
        create(folder, &file.run_file(&config)?, &config)?;
    }
    stage(Stage::Retraining, config.epochs);
    train(folder, data, device, observe)
}

/// Finds strategies and masks and writes what retraining begins with; `None` if it was stopped.
fn choose(
    folder: &Path,
    file: &LayerwiseFile,
    teacher: &Path,
    data: &Dataset,
    device: &Device,
    stage: &mut dyn FnMut(Stage, usize),
    observe: &mut dyn FnMut(Event<'_>) -> Flow,
) -> anyhow::Result<Option<Choice>> {
    let settings = &file.settings;
    let config = &settings.training;
    observe(Event::Note("estimating the cost of every strategy".to_owned()));
    let space = Space::new(&file.net, settings)?;
    let mut state = State::new(Network::new(Graph::new(&file.net)?), config, device);
    state.begin(teacher)?;
    let folder_of_search = folder.join(SEARCH);
    std::fs::create_dir_all(&folder_of_search)
        .with_context(|| format!("creating the folder {}", folder_of_search.display()))?;
    let (chosen, (strategies, masks, cost), finalists, records) = match settings.chooser {
        Chooser::Search => {
            stage(Stage::Search, settings.search_epochs);
            let (net, state) = (&file.net, &mut state);
            let found =
                search::search(&folder_of_search, net, state, &space, settings, data, observe)?;
            let Some(found) = found else { return Ok(None) };
            (Some(found.chosen), found.fit, found.finalists, found.records)
        }
        Chooser::Uniform(criterion, structure) => {
            let uniform = |layer: &SpaceLayer| layer.uniform(criterion, structure);
            let strategies: Vec<Strategy> = space.layers.iter().map(uniform).collect();
            let criteria = vec![criterion];
            let fitter = Fitter::new(&file.net, &state, &space, settings, data, criteria);
            (None, fitter.fit(&strategies)?, Vec::new(), Vec::new())
        }
        Chooser::Random => {
            let mut random = rng(config.seed, Purpose::Search, usize::MAX);
            let chosen = space.random(&mut random);
            let criteria = space.criteria();
            let fitter = Fitter::new(&file.net, &state, &space, settings, data, criteria);
            let fit = fitter.fit(&space.strategies(&chosen))?;
            (Some(chosen), fit, Vec::new(), Vec::new())
        }
    };
    observe(Event::Note(format!(
        "the network will take {:.0} instructions, {:.1} % of the dense one's {:.0}; asked for were {:.0}",
        cost,
        100.0 * cost / space.cost_dense,
        space.cost_dense,
        space.cost_target
    )));
    state.set_masks(&masks);
    let chosen_folder = folder.join(CHOSEN);
    std::fs::create_dir_all(&chosen_folder)
        .with_context(|| format!("creating the folder {}", chosen_folder.display()))?;
    state.to_params().save(&chosen_folder.join(CHECKPOINT_FILE), "")?;
    let layer =
        |((index, layer), (&strategy, mask)): ((usize, &SpaceLayer), (&Strategy, &LayerMask))| {
            LayerChoice {
                name: layer.name.clone(),
                candidates: layer.candidates.clone(),
                costs: layer.costs.clone(),
                chosen: chosen.as_ref().map(|chosen| chosen[index]),
                strategy,
                kept: mask.mask.count(),
                weights: mask.mask.len(),
            }
        };
    let layers = space.layers.iter().enumerate().zip(strategies.iter().zip(&masks));
    Ok(Some(Choice {
        cost_dense: space.cost_dense,
        cost_target: space.cost_target,
        cost,
        layers: layers.map(layer).collect(),
        finalists,
        records,
    }))
}

/// What strategies of all layers become when they are scaled to the cost asked for.
struct Fitter<'a> {
    net: &'a NetSpec,
    space: &'a Space,
    target: Core,
    criteria: Vec<Criterion>,
    /// Scores by criterion and layer.
    scores: Vec<Vec<Vec<f32>>>,
}

impl<'a> Fitter<'a> {
    /// For strategies by these criteria, of what the network's weights are now.
    fn new(
        net: &'a NetSpec,
        state: &State,
        space: &'a Space,
        settings: &Layerwise,
        data: &Dataset,
        criteria: Vec<Criterion>,
    ) -> Self {
        let scores = space.scores(state, data, settings, &criteria, settings.search_epochs);
        Self { net, space, target: settings.target, criteria, scores }
    }

    fn fit(&self, strategies: &[Strategy]) -> anyhow::Result<Fit> {
        let of_layer = |(layer, strategy): (usize, &Strategy)| {
            let by = self.criteria.iter().position(|criterion| *criterion == strategy.criterion);
            &self.scores[by.expect("the criteria are those of the strategies")][layer][..]
        };
        let scores: Vec<&[f32]> = strategies.iter().enumerate().map(of_layer).collect();
        self.space.fit(self.net, strategies, &scores, self.target)
    }
}
