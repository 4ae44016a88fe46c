//! Sparse forms of a network: how much of each layer is kept, by which criterion, in which structure.
//!
//! A genome has three genes per layer: a level of density, a criterion and a structure that the kernels
//! execute. A candidate is the dense base under the masks of its genome, fine-tuned, exported and evaluated
//! in integers on the validation split. What it would be worth is predicted by the [supernet](Supernet),
//! corrected by a regression that is fitted to the candidates that were evaluated.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::genome::{Gene, Genome, Space};
use super::measure::{grain, in_folder, measure};
use super::optimiser::{Screen, stream};
use super::settings::{Needs, Reference, Search};
use super::study::{Candidate, Study};
use super::surrogate::{Ridge, deviations};
use super::worker::{Evaluated, Problem, share};
use crate::data::{Dataset, Split};
use crate::export::{Estimate, estimate};
use crate::net::trained::CHECKPOINT_FILE;
use crate::net::{Graph, NetSpec, RunFile, spec::Task};
use crate::sparse::criteria::Criterion;
use crate::sparse::mask::Structure;
use crate::sparse::strategy::{Prunable, Strategy, distinct, spread};
use crate::sparse::supernet::{Base, Glimpse, Supernet, base_config, train_base, train_supernet};
use crate::sparse::{Config, Event, Flow, Outcome};

/// Settings of a search for sparse forms of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sparse {
    /// The network.
    pub net: NetSpec,
    /// Criteria to choose from.
    pub criteria: Vec<Criterion>,
    /// Structures to choose from.
    pub structures: Vec<Structure>,
    /// Densities to choose from, from small to large.
    pub densities: Vec<f64>,
    /// Epochs of the dense base.
    pub base_epochs: usize,
    /// Epochs of the supernet.
    pub supernet_epochs: usize,
    /// Settings of the fine-tuning of a candidate.
    pub training: Config,
}

/// Densities to choose from, unless told otherwise.
pub const DENSITIES: [f64; 10] = [0.02, 0.035, 0.06, 0.1, 0.16, 0.25, 0.4, 0.6, 0.8, 1.0];

/// Genes per layer.
const GENES: usize = 3;

/// What can be chosen for the layers of a network.
struct Choices {
    layers: Vec<LayerChoices>,
    densities: Vec<f64>,
    criteria: Vec<Criterion>,
}

struct LayerChoices {
    /// Structures that suit the layer.
    structures: Vec<Structure>,
    /// For each of them, the criteria that order its units differently.
    criteria: Vec<Vec<Criterion>>,
}

impl Choices {
    fn new(sparse: &Sparse, prunable: &Prunable) -> Self {
        let layer = |layer: &crate::sparse::strategy::PrunableLayer| {
            let suits = |structure: &Structure| match structure {
                Structure::Channels => layer.removable,
                Structure::Block2 | Structure::Block4 => layer.layout.unit(*structure) > 1,
                Structure::Unstructured | Structure::FanIn => true,
            };
            let mut structures: Vec<Structure> =
                sparse.structures.iter().copied().filter(suits).collect();
            if structures.is_empty() {
                structures.push(Structure::Unstructured);
            }
            let criteria = structures
                .iter()
                .map(|&structure| distinct(&sparse.criteria, structure, &layer.layout))
                .collect();
            LayerChoices { structures, criteria }
        };
        Self {
            layers: prunable.layers.iter().map(layer).collect(),
            densities: sparse.densities.clone(),
            criteria: sparse.criteria.clone(),
        }
    }

    fn space(&self) -> Space {
        let genes = self.layers.iter().flat_map(|layer| {
            [
                Gene::Level(self.densities.len() as u16),
                Gene::Choice(self.criteria.len() as u16),
                Gene::Choice(layer.structures.len() as u16),
            ]
        });
        Space::new(genes.collect()).expect("every list was checked to have a value")
    }

    fn strategies(&self, genome: &[u16]) -> Vec<Strategy> {
        let genes = genome.chunks(GENES).zip(&self.layers);
        genes
            .map(|(genes, layer)| Strategy {
                density: self.densities[usize::from(genes[0])],
                criterion: self.criteria[usize::from(genes[1])],
                structure: layer.structures[usize::from(genes[2])],
            })
            .collect()
    }

    /// A dense layer has no criterion and no structure, and some criteria order single weights alike.
    fn canonical(&self, mut genome: Genome) -> Genome {
        for (genes, layer) in genome.chunks_mut(GENES).zip(&self.layers) {
            if self.densities[usize::from(genes[0])] >= 1.0 {
                genes[1..].fill(0);
                continue;
            }
            let criteria = &layer.criteria[usize::from(genes[2])];
            if !criteria.contains(&self.criteria[usize::from(genes[1])]) {
                // It is the square of the one that stands for both.
                let first = self.criteria.iter().position(|c| criteria.contains(c));
                genes[1] = first.unwrap_or(0) as u16;
            }
        }
        genome
    }

    /// The same level everywhere, in the structure with this place where a layer has it.
    fn uniform(&self, level: usize, structure: Structure) -> Genome {
        let genes = self.layers.iter().flat_map(|layer| {
            let place = layer.structures.iter().position(|s| *s == structure).unwrap_or(0);
            [level as u16, 0, place as u16]
        });
        self.canonical(genes.collect())
    }

    fn draw(&self, random: &mut impl Rng) -> Vec<Strategy> {
        self.strategies(&self.canonical(self.space().sample(random)))
    }
}

impl Sparse {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the setting, what was expected and what was found.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.criteria.is_empty(), "no criterion to choose from");
        ensure!(!self.structures.is_empty(), "no structure to choose from");
        let valid = self.densities.iter().all(|density| *density > 0.0 && *density <= 1.0);
        ensure!(
            valid && !self.densities.is_empty() && self.densities.is_sorted_by(|a, b| a < b),
            "expected rising densities above 0 and at most 1, found {:?}",
            self.densities
        );
        ensure!(self.base_epochs > 0, "the dense network needs at least one epoch");
        self.training.check()
    }

    /// Checks before any training that some sparse form meets the limits of a search.
    ///
    /// # Errors
    /// Names the smallest values that can be reached.
    pub fn check_reach(&self, search: &Search) -> Result<()> {
        let prunable = Prunable::whole(&Graph::new(&self.net)?);
        ensure!(!prunable.layers.is_empty(), "`{}` has no weights to prune", self.net.name);
        let choices = Choices::new(self, &prunable);
        // Costs follow from how many units are kept and hardly from which.
        let scores: Vec<Vec<f32>> =
            prunable.layers.iter().map(|layer| spread(layer.layout.len())).collect();
        let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let needs = |genome: &Genome| -> Result<Needs> {
            let strategies: Vec<Option<Strategy>> =
                choices.strategies(genome).into_iter().map(Some).collect();
            let masks = prunable.masks(&strategies, &scores);
            Ok(Needs::from(&estimate(&self.net, &masks, search.target, Some(&search.data))?))
        };
        let smallest: Vec<Needs> = self
            .structures
            .iter()
            .map(|&structure| needs(&choices.uniform(0, structure)))
            .collect::<Result<_>>()?;
        search.limits.check_reach(&format!("`{}`", self.net.name), &smallest)
    }
}

/// What happens before the first candidate is evaluated.
#[derive(Debug)]
pub enum Preparation<'a> {
    /// The dense network is trained, for so many epochs.
    Base(usize),
    /// The supernet is trained, for so many epochs.
    Supernet(usize),
    /// A training says something.
    Training(Event<'a>),
}

/// What is seen of a candidate without any training.
#[derive(Clone)]
struct Seen {
    glimpse: Glimpse,
    /// Share of each layer's weights that is left.
    kept: Vec<f64>,
}

/// What the regression compares candidates with.
struct Origin {
    /// Features of the dense network.
    dense: Vec<f64>,
    /// How far each feature of a candidate is usually from that.
    scale: Vec<f64>,
}

/// A search for sparse forms of a network, ready to evaluate them.
pub struct SparseProblem<'a> {
    search: &'a Search,
    sparse: &'a Sparse,
    data: &'a Dataset,
    choices: Choices,
    base: Base,
    reference: Reference,
    supernet: Option<Supernet>,
    /// Worked out for the first prediction.
    origin: OnceLock<Origin>,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// What is known of genomes; costs much and is asked for often.
    estimates: Mutex<HashMap<Genome, Option<Estimate>>>,
    glimpses: Mutex<HashMap<Genome, Seen>>,
    prints: Mutex<HashMap<Genome, u64>>,
}

impl<'a> SparseProblem<'a> {
    /// Trains what all candidates share, or gets it from the study. Files go to the folder `work`. `None` when
    /// `stop` says so.
    ///
    /// # Errors
    /// When a training or the study fails.
    #[allow(clippy::too_many_arguments)]
    pub fn prepare(
        study: &Study,
        search: &'a Search,
        sparse: &'a Sparse,
        data: &'a Dataset,
        device: &Device,
        work: &Path,
        stop: &'a (dyn Fn() -> bool + Sync),
        on: &mut dyn FnMut(Preparation<'_>),
    ) -> Result<Option<Self>> {
        ensure!(
            !data.indices(Split::Val).is_empty(),
            "`{}` has no validation split to judge candidates on; see --val-fraction",
            data.name
        );
        let file = run_file(search, &sparse.net);
        let config = base_config(&sparse.training, sparse.base_epochs);
        let folder = work.join("base");
        let flow = || if stop() { Flow::Stop } else { Flow::Continue };
        let bytes = share(study, "base", 0, stop, || {
            on(Preparation::Base(config.epochs));
            let trained = train_base(&folder, &file, &config, data, device, &mut |event| {
                on(Preparation::Training(event));
                flow()
            })?;
            match trained {
                Outcome::Complete(_) => Ok(Some(read(&folder)?)),
                Outcome::Stopped(_) => Ok(None),
            }
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        write(&folder, &bytes)?;
        let base = Base::load(&folder, &sparse.net, &config, &sparse.criteria, data, device)?;
        let choices = Choices::new(sparse, base.prunable());
        let reference = share(study, "reference", 0, stop, || {
            let dense = estimate(&sparse.net, &[], search.target, Some(&search.data))?;
            let error = error_of(sparse.net.task, base.merit().context("no validation split")?);
            let dense = search.objectives(error, &Needs::from(&dense));
            let reference = Reference::new(dense, sparse.net.task == Task::Classify);
            Ok(Some(serde_json::to_vec(&reference)?))
        })?;
        let Some(reference) = reference else { return Ok(None) };
        let reference = serde_json::from_slice(&reference).context("the study's reference")?;
        let mut supernet = None;
        if search.surrogate {
            let folder = work.join("supernet");
            let bytes = share(study, "supernet", 0, stop, || {
                on(Preparation::Supernet(sparse.supernet_epochs));
                let done = train_supernet(
                    &folder,
                    &base,
                    sparse.supernet_epochs,
                    data,
                    &|random| choices.draw(random),
                    &mut |event| {
                        on(Preparation::Training(event));
                        flow()
                    },
                )?;
                if done { Ok(Some(read(&folder)?)) } else { Ok(None) }
            })?;
            let Some(bytes) = bytes else { return Ok(None) };
            write(&folder, &bytes)?;
            supernet = Some(Supernet::load(&folder, &base, data)?);
        }
        Ok(Some(Self {
            search,
            sparse,
            data,
            choices,
            base,
            reference,
            supernet,
            origin: OnceLock::new(),
            stop,
            prints: Mutex::default(),
            estimates: Mutex::default(),
            glimpses: Mutex::default(),
        }))
    }

    /// Looks at the dense network and, for how far features are from its own, at a few random candidates.
    fn first_look(&self, supernet: &Supernet) -> Origin {
        const DRAWN: usize = 32;
        let dense = Seen {
            glimpse: supernet.glimpse(&[], self.data),
            kept: vec![1.0; self.choices.layers.len()],
        };
        let costs = [self.reference.dense[1], self.reference.dense[2]];
        let dense = self.features(&dense, &[], costs);
        let mut random = stream(self.search.optimiser.seed, 5, 0);
        let space = self.space();
        let drawn: Vec<Genome> =
            (0..DRAWN).map(|_| self.choices.canonical(space.sample(&mut random))).collect();
        let features = |genome: &Genome| {
            Some(self.features_beside(supernet, &dense, genome, &self.estimate(genome)?))
        };
        let drawn: Vec<Vec<f64>> = drawn.par_iter().filter_map(features).collect();
        Origin { scale: deviations(&drawn, dense.len()), dense }
    }

    /// What is known before an evaluation in view of these candidates.
    fn screen_of(&self, candidates: &[Candidate]) -> SparseScreen<'_, 'a> {
        let surrogate = |supernet| {
            let origin = self.origin.get_or_init(|| self.first_look(supernet));
            let done = candidates.iter().filter_map(|candidate| {
                let error = *candidate.evaluation.as_ref()?.objectives.first()?;
                let genome = &candidate.proposal.genome;
                let estimate = self.estimate(genome)?;
                let features = self.features_beside(supernet, &origin.dense, genome, &estimate);
                Some((features, self.logarithm(error) - self.logarithm(self.reference.dense[0])))
            });
            let (rows, targets): (Vec<Vec<f64>>, Vec<f64>) = done.unzip();
            let mut expected = vec![0.0; origin.scale.len()];
            expected[LOSS] = LEFT;
            let worse = Ridge::fit(&rows, &targets, &expected, &origin.scale);
            Surrogate { supernet, dense: &origin.dense, worse }
        };
        let surrogate = self.supernet.as_ref().map(surrogate);
        let known = candidates.iter().map(|c| self.print(&c.proposal.genome)).collect();
        SparseScreen { problem: self, surrogate, known }
    }

    /// Errors that are predicted for candidates of another search with the same base, in view of one's own
    /// candidates, beside the true ones; without candidates that both searches have evaluated.
    pub fn foreign(&self, own: &[Candidate], others: &[Candidate]) -> Vec<(f64, f64)> {
        let screen = self.screen_of(own);
        let foreign = others.iter().filter_map(|other| {
            let truth = *other.evaluation.as_ref()?.objectives.first()?;
            let genome = &other.proposal.genome;
            let is_known = screen.known.contains(&self.print(genome));
            (!is_known).then(|| (genome.clone(), truth))
        });
        let (genomes, truths): (Vec<Genome>, Vec<f64>) = foreign.unzip();
        let predicted = screen.predict(&genomes).unwrap_or_default();
        predicted.iter().map(|objectives| objectives[0]).zip(truths).collect()
    }

    /// Predicted costs; `None` where the network cannot be exported.
    fn estimate(&self, genome: &[u16]) -> Option<Estimate> {
        remembered(&self.estimates, genome, || {
            let masks = self.base.masks(&self.choices.strategies(genome));
            let Search { target, data, .. } = self.search;
            estimate(&self.sparse.net, &masks, *target, Some(data)).ok()
        })
    }

    /// What tells the masks of a genome from those of others: different genes may mean the same masks.
    fn print(&self, genome: &[u16]) -> u64 {
        remembered(&self.prints, genome, || {
            let mut hasher = DefaultHasher::new();
            for mask in self.base.masks(&self.choices.strategies(genome)) {
                (mask.param, mask.remove, mask.mask.flags()).hash(&mut hasher);
            }
            hasher.finish()
        })
    }

    fn seen(&self, supernet: &Supernet, genome: &[u16]) -> Seen {
        remembered(&self.glimpses, genome, || {
            let masks = self.base.masks(&self.choices.strategies(genome));
            // Behind those of the layers there may be masks of depthwise ones.
            let kept = masks.iter().take(self.choices.layers.len()).map(|mask| {
                let flags = mask.mask.flags();
                flags.iter().filter(|kept| **kept).count() as f64 / flags.len() as f64
            });
            Seen { kept: kept.collect(), glimpse: supernet.glimpse(&masks, self.data) }
        })
    }

    /// Features of a genome, as differences to those of the dense network.
    fn features_beside(
        &self,
        supernet: &Supernet,
        dense: &[f64],
        genome: &[u16],
        estimate: &Estimate,
    ) -> Vec<f64> {
        let costs = [estimate.instructions, estimate.flash_bytes as f64];
        let seen = self.seen(supernet, genome);
        let features = self.features(&seen, &self.choices.strategies(genome), costs);
        features.iter().zip(dense).map(|(feature, dense)| feature - dense).collect()
    }

    /// What the regression sees of a candidate: what the supernet says, what it costs, how much is left of each
    /// layer, and how much each structure had to do with that.
    fn features(&self, seen: &Seen, strategies: &[Strategy], costs: [f64; 2]) -> Vec<f64> {
        let Seen { glimpse, kept } = seen;
        let taken = |structure: &Structure| -> f64 {
            let layers = strategies.iter().filter(|strategy| strategy.structure == *structure);
            layers.map(|strategy| -strategy.density.ln()).sum()
        };
        let costs = costs.map(f64::ln);
        let seen = [self.logarithm(glimpse.error), (glimpse.loss + 1e-3).ln()];
        // Of a layer without weights an even smaller share is hard to imagine than of others.
        let kept = kept.iter().map(|kept| kept.max(1e-3).ln());
        let taken = self.sparse.structures.iter().map(taken);
        seen.into_iter().chain(costs).chain(kept).chain(taken).collect()
    }

    /// Errors span powers of ten; an error of zero is less than one sample.
    fn logarithm(&self, error: f64) -> f64 {
        (error + self.grain()).ln()
    }

    fn grain(&self) -> f64 {
        grain(self.sparse.net.task, self.data)
    }
}

/// What is remembered of a genome, or is worked out now.
pub(super) fn remembered<T: Clone>(
    known: &Mutex<HashMap<Genome, T>>,
    genome: &[u16],
    work: impl FnOnce() -> T,
) -> T {
    let lock = || known.lock().unwrap_or_else(|poison| poison.into_inner());
    if let Some(value) = lock().get(genome) {
        return value.clone();
    }
    let value = work();
    lock().insert(genome.to_vec(), value.clone());
    value
}

pub(super) fn run_file(search: &Search, net: &NetSpec) -> RunFile {
    RunFile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        net: net.clone(),
        data: search.data.clone(),
        config: serde_json::Value::Null,
        summary: None,
    }
}

/// A figure of merit as something to be made small.
pub(super) fn error_of(task: Task, merit: f64) -> f64 {
    match task {
        Task::Classify => 1.0 - merit,
        Task::Reconstruct => merit,
    }
}

fn read(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(CHECKPOINT_FILE);
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Puts a checkpoint into a folder, unless it is there.
fn write(folder: &Path, bytes: &[u8]) -> Result<()> {
    let path = folder.join(CHECKPOINT_FILE);
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    crate::net::trained::write_atomically(&path, bytes)
}

/// Place of the supernet's loss among the features.
const LOSS: usize = 1;
/// Share of the logarithm of the supernet's loss that is expected to be left after fine-tuning: candidates have their
/// weights for themselves.
const LEFT: f64 = 0.5;

/// Predicts errors, in view of what was evaluated.
struct Surrogate<'p> {
    supernet: &'p Supernet,
    /// Features of the dense network.
    dense: &'p [f64],
    /// From features, as differences to those, to the logarithm of the factor by which the error is larger than the dense
    /// network's.
    worse: Ridge,
}

/// What is known of sparse forms before they are evaluated.
struct SparseScreen<'p, 'a> {
    problem: &'p SparseProblem<'a>,
    /// Without a supernet nothing is predicted.
    surrogate: Option<Surrogate<'p>>,
    /// Prints of all candidates.
    known: HashSet<u64>,
}

impl Screen for SparseScreen<'_, '_> {
    fn feasible(&self, genome: &[u16]) -> bool {
        let limits = &self.problem.search.limits;
        let within = || {
            let estimate = self.problem.estimate(genome);
            estimate.is_some_and(|estimate| limits.allow(&Needs::from(&estimate)))
        };
        !self.known.contains(&self.problem.print(genome)) && (limits.is_empty() || within())
    }

    fn canonical(&self, genome: Genome) -> Genome {
        self.problem.choices.canonical(genome)
    }

    fn predict(&self, genomes: &[Genome]) -> Option<Vec<Vec<f64>>> {
        let problem = self.problem;
        let Surrogate { supernet, dense, worse } = self.surrogate.as_ref()?;
        let predict = |genome: &Genome| {
            let estimate = problem.estimate(genome)?;
            let worse = worse.predict(&problem.features_beside(supernet, dense, genome, &estimate));
            let error = (problem.logarithm(problem.reference.dense[0]) + worse).exp();
            let error = (error - problem.grain()).max(0.0);
            Some(problem.search.objectives(error, &Needs::from(&estimate)))
        };
        genomes.par_iter().map(predict).collect()
    }
}

impl Problem for SparseProblem<'_> {
    fn space(&self) -> Space {
        self.choices.space()
    }

    fn bound(&self) -> Option<Vec<f64>> {
        Some(self.reference.bound.clone())
    }

    fn first(&self, _: &[Candidate]) -> Vec<Genome> {
        // Where something is predicted of all of them, the first ones are chosen, too.
        if self.supernet.is_some() {
            return Vec::new();
        }
        let top = self.choices.densities.len() - 1;
        let mut first = vec![self.choices.uniform(top, Structure::Unstructured)];
        for level in [0, top / 2] {
            for &structure in &self.sparse.structures {
                let genome = self.choices.uniform(level, structure);
                if !first.contains(&genome) {
                    first.push(genome);
                }
            }
        }
        // The rest of the first population is drawn.
        first.truncate((self.search.optimiser.population / 2).max(2));
        first
    }

    fn screen(&self, candidates: &[Candidate]) -> impl Screen {
        self.screen_of(candidates)
    }

    fn evaluate(
        &self,
        _: &Study,
        candidate: &Candidate,
        on: &mut dyn FnMut(f64),
    ) -> Result<Evaluated> {
        let genome = &candidate.proposal.genome;
        let strategies = self.choices.strategies(genome);
        let masks = self.base.masks(&strategies);
        let config = &self.sparse.training;
        let file = run_file(self.search, &self.sparse.net);
        let folder = in_folder(config.epochs, self.stop, on, |folder, observe| {
            self.base.fine_tune(folder, &file, &masks, config, self.data, observe)
        })?;
        let layers = self.base.prunable().layers.iter().zip(&strategies);
        let choices = layers.map(|(layer, strategy)| (layer.name.clone(), strategy.to_string()));
        measure(folder.path(), self.search, self.data, choices.collect())
    }
}
