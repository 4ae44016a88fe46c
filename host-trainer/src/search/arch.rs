//! Architectures: how deep and wide a network is, and what its blocks compute.
//!
//! A network is a stem, three stages of blocks, a global mean and a classifier. The search has stages too
//! (after TPENAS, Remote Sensing 15(8):2212, 2023):
//!
//! 1. depth and coarse shape (blocks per stage, stride of the stem) with short trainings from scratch; all
//!    else is fixed;
//! 2. operators, kernel sizes, widths and strides of the shapes that were good, each network beginning with
//!    the weights of the most similar one so far;
//! 3. members of the front are trained for longer, dense and sparse (by self-decoupled training).
//!
//! The single-stage control searches all of it at once and from scratch before the last trainings.
//!
//! Before the last trainings, the error of a network is predicted from its shape and costs by a regression on those
//! that were evaluated: what is proposed is what is predicted to add the most hypervolume.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::arch_space::{
    BLOCKS, STEM_STRIDES, WIDEST, coarse, coarse_shapes, expressed, features, network, place, space,
};
use super::genome::{Genome, Space};
use super::measure::{grain, in_folder, measure};
use super::optimiser::Screen;
use super::pareto;
use super::settings::{Cost, Needs, Reference, Search};
use super::sparse::{remembered, run_file};
use super::study::{Candidate, Study};
use super::surrogate::{Ridge, deviations};
use super::worker::{Evaluated, Problem, front, persist, share};
use crate::data::{Dataset, Split};
use crate::export::{Estimate, estimate};
use crate::net::shape::Role;
use crate::net::spec::{NetSpec, Task};
use crate::net::{Graph, Params};
use crate::sparse::inherit::{heritage, inherit, similarity};
use crate::sparse::mask::{Budget, LayerMask};
use crate::sparse::strategy::spread;
use crate::sparse::{Config, Method, create, train};

/// Settings of a search for architectures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arch {
    /// Candidates of the first stage; none where there is a single stage.
    pub coarse: usize,
    /// Candidates from which on members of the front are trained for longer, dense and sparse.
    pub sparse_from: usize,
    /// Densities of these trainings; 1 is dense.
    pub densities: Vec<f64>,
    /// Epochs in the first stage.
    pub coarse_epochs: usize,
    /// Their epochs.
    pub sparse_epochs: usize,
    /// Accuracy below which a network counts for nothing, if not that of guessing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
    /// Settings of the training of a dense candidate.
    pub training: Config,
}

/// Place among the widths of the stem of that at which coarse shapes are compared, where limits allow it.
const COARSE_WIDTH: u16 = 3;

/// By how much a trained network may exceed the instructions that were estimated before: scales and zero points
/// are not known then, nor which channels go a way of their own. Up to 1.4 % were seen.
const TRAINED: f64 = 1.02;

/// What a network with this estimate may need once it is trained.
fn expected(estimate: &Estimate) -> Needs {
    Needs { instructions: TRAINED * estimate.instructions, ..Needs::from(estimate) }
}

impl Arch {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the setting, what was expected and what was found.
    pub fn check(&self, data: &Dataset) -> Result<()> {
        ensure!(data.classes() > 1, "architectures are searched for classification alone");
        ensure!(
            self.coarse <= self.sparse_from,
            "{} candidates of the first stage are more than the {} before the last trainings",
            self.coarse,
            self.sparse_from
        );
        let valid = self.densities.iter().all(|density| *density > 0.0 && *density <= 1.0);
        ensure!(valid, "expected densities above 0 and at most 1, found {:?}", self.densities);
        if let Some(least) = self.min_accuracy {
            let guessing = 1.0 / data.classes() as f64;
            ensure!(
                least >= guessing && least < 1.0,
                "--min-accuracy: expected a share from {guessing:.3}, which is guessing, to 1, found {least}"
            );
        }
        self.training.check()
    }

    /// Checks before any training that some network meets the limits of a search.
    ///
    /// # Errors
    /// Names the smallest values that can be reached.
    pub fn check_reach(&self, search: &Search, data: &Dataset) -> Result<()> {
        // The widest network does not have the largest arena, by which it could be judged.
        let bounded = search.limits.ram.is_some() || !search.costs.contains(&Cost::Arena);
        ensure!(
            bounded,
            "--costs arena: needs --ram, the most that counts in a search for architectures"
        );
        let mut smallest = Vec::new();
        for stride in 0..STEM_STRIDES.len() as u16 {
            let mut genome = vec![0; place::DENSITY + 1];
            (genome[place::STRIDE], genome[place::FIRST_STRIDE]) = (stride, stride.min(1));
            genome[place::FACTOR..place::FIRST_STRIDE].fill(1);
            let (net, _) = network(&genome, data.shape, data.classes())?;
            let cost = estimate(&net, &[], search.target, Some(&search.data))?;
            smallest.push(expected(&cost));
        }
        search.limits.check_reach("network", &smallest)
    }

    /// Coarse shapes that there are within the limits of a search: more candidates the first stage cannot have.
    pub fn most_coarse(&self, search: &Search, data: &Dataset) -> usize {
        ArchProblem::new(search, self, data, &Device::flex(), &|| false).coarse().len()
    }

    /// Epochs of all trainings of so many candidates.
    pub fn epochs(&self, candidates: usize) -> usize {
        let last = candidates.saturating_sub(self.sparse_from);
        self.coarse * self.coarse_epochs
            + (candidates - last - self.coarse) * self.training.epochs
            + last * self.sparse_epochs
    }
}

/// A search for architectures, ready to evaluate them.
pub struct ArchProblem<'a> {
    search: &'a Search,
    arch: &'a Arch,
    data: &'a Dataset,
    device: Device,
    stop: &'a (dyn Fn() -> bool + Sync),
    estimates: Mutex<HashMap<Genome, Option<Estimate>>>,
    /// Objectives beyond which a candidate counts for nothing.
    bound: Option<Vec<f64>>,
}

/// Part of a search that a candidate belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Coarse,
    Fine,
    Last,
}

impl<'a> ArchProblem<'a> {
    fn new(
        search: &'a Search,
        arch: &'a Arch,
        data: &'a Dataset,
        device: &Device,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        let (device, estimates) = (device.clone(), Mutex::default());
        Self { search, arch, data, device, stop, estimates, bound: None }
    }

    /// Prepares a search; `None` when `stop` says so.
    ///
    /// # Errors
    /// When the study fails.
    pub fn prepare(
        study: &Study,
        search: &'a Search,
        arch: &'a Arch,
        data: &'a Dataset,
        device: &Device,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>> {
        ensure!(
            !data.indices(Split::Val).is_empty(),
            "`{}` has no validation split to judge candidates on; see --val-fraction",
            data.name
        );
        let mut problem = Self::new(search, arch, data, device, stop);
        // There is no dense network to compare with: the bound is guessing, or what is asked for, at the cost of the limits or of
        // the widest network that has nothing but separable convolutions.
        let reference = share(study, "reference", 0, stop, || {
            let mut widest = vec![0; place::DENSITY + 1];
            widest[place::WIDTH] = WIDEST;
            widest[place::DEPTH..place::COARSE].fill(BLOCKS as u16 - 1);
            // Whatever the limits say.
            let cost = problem
                .network(&widest)
                .and_then(|(net, _)| estimate(&net, &[], search.target, Some(&search.data)));
            let cost = cost.context("the widest network cannot be exported")?;
            let widest = Needs::from(&cost);
            let limits = &search.limits;
            let most = Needs {
                flash: limits.flash.map_or(widest.flash, |limit| limit as usize),
                ram: limits.ram.map_or(widest.ram, |limit| limit as usize),
                instructions: limits.instructions.map_or(widest.instructions, |limit| limit as f64),
            };
            let error = 1.0 - arch.min_accuracy.unwrap_or(1.0 / data.classes() as f64);
            let bound = search.objectives(error, &most);
            Ok(Some(serde_json::to_vec(&Reference { dense: bound.clone(), bound })?))
        })?;
        let Some(reference) = reference else { return Ok(None) };
        let reference: Reference =
            serde_json::from_slice(&reference).context("the reference of the study is damaged")?;
        problem.bound = Some(reference.bound);
        Ok(Some(problem))
    }

    fn stage_of(&self, position: usize) -> Stage {
        if position < self.arch.coarse {
            Stage::Coarse
        } else if position < self.arch.sparse_from {
            Stage::Fine
        } else {
            Stage::Last
        }
    }

    fn network(&self, genome: &[u16]) -> Result<(NetSpec, Vec<(String, String)>)> {
        network(genome, self.data.shape, self.data.classes())
    }

    /// Density of a candidate of the last stage.
    fn density(&self, genome: &[u16]) -> Option<f64> {
        let at = usize::from(genome[place::DENSITY]);
        at.checked_sub(1).map(|at| self.arch.densities[at])
    }

    /// Predicted costs; `None` where the network cannot be exported or have its density, or has more weights than
    /// bytes of flash are allowed.
    fn estimate(&self, genome: &[u16]) -> Option<Estimate> {
        remembered(&self.estimates, genome, || self.work_out(genome))
    }

    fn work_out(&self, genome: &[u16]) -> Option<Estimate> {
        let (net, _) = self.network(genome).ok()?;
        let graph = Graph::new(&net).ok()?;
        let masks: Vec<LayerMask> = match self.density(genome) {
            // That there are more weights than bytes is seen at once, whereas to export a large network takes a while.
            None if self.search.limits.flash.is_some_and(|flash| weights(&graph) > flash) => {
                return None;
            }
            None | Some(1.0) => Vec::new(),
            Some(density) => {
                let config = Config { density, ..self.config(Stage::Last, Some(density)) };
                config.check_density(&graph).ok()?;
                let (distribution, structure) = (config.distribution, config.structure);
                let params = graph.params();
                let budget = Budget::new(&graph, &params, density, distribution, structure).ok()?;
                let scores: Vec<Vec<f32>> =
                    budget.layers.iter().map(|layer| spread(layer.len)).collect();
                budget.layer_masks(budget.top(&scores, false))
            }
        };
        estimate(&net, &masks, self.search.target, Some(&self.search.data)).ok()
    }

    fn config(&self, stage: Stage, density: Option<f64>) -> Config {
        let training = self.arch.training.clone();
        let dense =
            Config { method: Method::Dense, density: 1.0, qat_epochs: 0, ..training.clone() };
        match (stage, density) {
            (_, Some(density)) => {
                let epochs = self.arch.sparse_epochs;
                let qat_epochs = Config::qat_epochs_for(epochs);
                let method = if density == 1.0 { Method::Dense } else { training.method.clone() };
                Config { method, density, epochs, qat_epochs, ..training }.fitted()
            }
            (Stage::Coarse, None) => Config { epochs: self.arch.coarse_epochs, ..dense },
            (_, None) => dense,
        }
    }

    /// What the first stage may try: every coarse shape at the width at which they are compared, or at what limits
    /// allow.
    fn coarse(&self) -> HashSet<Genome> {
        let shapes = coarse_shapes().map(|shape| self.widest(shape, COARSE_WIDTH));
        shapes.filter(|shape| self.feasible(shape)).collect()
    }

    /// The coarse shapes that the first stage found to be good: those of its front, the most accurate ones first.
    /// Short trainings are no judge of which of them is the best: where the front has fewer than a quarter of the
    /// stage's candidates, those that only its members beat follow, and so on.
    fn shapes(&self, before: &[Candidate]) -> Vec<Genome> {
        let compared = &before[..self.arch.coarse.min(before.len())];
        let done = compared.iter().filter_map(|c| Some((c, &c.evaluation.as_ref()?.objectives)));
        let (done, points): (Vec<&Candidate>, Vec<Vec<f64>>) =
            done.map(|(candidate, objectives)| (candidate, objectives.clone())).unzip();
        let ranks = pareto::ranks(&points);
        let mut order: Vec<usize> = (0..done.len()).collect();
        order.sort_by(|&a, &b| ranks[a].cmp(&ranks[b]).then(points[a][0].total_cmp(&points[b][0])));
        let least = self.arch.coarse.div_ceil(4).min(order.len());
        let worst = order[..least].last().map_or(0, |&at| ranks[at]);
        let good = order.into_iter().take_while(|&at| ranks[at] <= worst);
        good.map(|at| done[at].proposal.genome.clone()).collect()
    }

    fn feasible(&self, genome: &[u16]) -> bool {
        let limits = &self.search.limits;
        self.estimate(genome).is_some_and(|estimate| limits.allow(&expected(&estimate)))
    }

    /// The genome at the largest base width up to this one at which it meets the limits, else at the smallest.
    fn widest(&self, mut genome: Genome, width: u16) -> Genome {
        genome[place::WIDTH] = width;
        while genome[place::WIDTH] > 0 && !self.feasible(&genome) {
            genome[place::WIDTH] -= 1;
        }
        genome
    }

    /// The evaluated network that a candidate begins with the weights of: its own dense one for the last
    /// trainings, else the most similar one. Which one follows from the past of the candidate alone, however
    /// often its evaluation is begun.
    fn donor(&self, study: &Study, candidate: &Candidate, net: &NetSpec) -> Result<Option<Params>> {
        let graph = Graph::new(net)?;
        let mut own = candidate.proposal.genome.clone();
        own[place::DENSITY] = 0;
        let again = own != candidate.proposal.genome;
        let mut best: Option<(f64, i64)> = None;
        for other in persist(self.stop, || study.candidates())? {
            let genome = &other.proposal.genome;
            let dense = genome[place::DENSITY] == 0;
            let known = other.told.is_some_and(|told| told < candidate.asked);
            if !(dense && known && other.evaluation.is_some()) || (again && *genome != own) {
                continue;
            }
            let (theirs, _) = self.network(genome)?;
            let common = similarity(&graph, &Graph::new(&theirs)?);
            if best.is_none_or(|(most, _)| common >= most) {
                best = Some((common, other.id));
            }
        }
        let Some((_, id)) = best else { return Ok(None) };
        let bytes = persist(self.stop, || study.artefact(id, WEIGHTS))?;
        let bytes = bytes.context("the weights of a candidate are gone")?;
        let path = tempfile::NamedTempFile::new()?;
        std::fs::write(path.path(), bytes)?;
        Ok(Some(Params::load(path.path())?.0))
    }
}

/// Weights of a dense network.
fn weights(graph: &Graph) -> u64 {
    let params = graph.params().into_iter().filter(|param| param.role == Role::Weight);
    params.map(|param| param.len() as u64).sum()
}

/// Predicts the logarithm of an error from features, both as differences to the means of those known.
struct Surrogate {
    mean: Vec<f64>,
    level: f64,
    rest: Ridge,
}

impl ArchProblem<'_> {
    /// What is to be known of networks before anything is predicted of others.
    const ENOUGH: usize = 8;

    /// The surrogate in view of the networks so far; none where it is not asked for or too few are known, and none for
    /// the last trainings.
    fn surrogate(&self, candidates: &[Candidate]) -> Option<Surrogate> {
        if !self.search.surrogate || self.stage_of(candidates.len()) != Stage::Fine {
            return None;
        }
        let grain = grain(Task::Classify, self.data);
        let known = candidates.iter().enumerate().filter_map(|(position, candidate)| {
            let error = candidate.evaluation.as_ref()?.objectives[0];
            let stage = self.stage_of(position);
            let genome = &candidate.proposal.genome;
            let features = with_costs(genome, &self.estimate(genome)?, stage);
            Some((features, (error + grain).ln()))
        });
        let (mut rows, mut targets): (Vec<Vec<f64>>, Vec<f64>) = known.unzip();
        if rows.len() < Self::ENOUGH {
            return None;
        }
        let count = rows.len() as f64;
        let width = rows[0].len();
        let mean = |at: usize| rows.iter().map(|row| row[at]).sum::<f64>() / count;
        let mean: Vec<f64> = (0..width).map(mean).collect();
        let level = targets.iter().sum::<f64>() / count;
        let scale = deviations(&rows, width);
        rows.iter_mut().for_each(|row| row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean));
        targets.iter_mut().for_each(|target| *target -= level);
        let rest = Ridge::fit(&rows, &targets, &vec![0.0; width], &scale);
        Some(Surrogate { mean, level, rest })
    }
}

/// What the surrogate sees of a network that is trained as in this stage.
fn with_costs(genome: &[u16], estimate: &Estimate, stage: Stage) -> Vec<f64> {
    let bytes = [estimate.flash_bytes, estimate.arena_bytes].map(|bytes| bytes as f64);
    let costs = [estimate.instructions, bytes[0], bytes[1]].map(f64::ln);
    let training = f64::from(stage == Stage::Coarse);
    costs.into_iter().chain([training]).chain(features(genome)).collect()
}

/// Name of a candidate's weights among its artefacts, for others to inherit.
const WEIGHTS: &str = "weights.safetensors";

/// What is known of architectures before they are evaluated.
struct ArchScreen<'p, 'a> {
    problem: &'p ArchProblem<'a>,
    stage: Stage,
    shapes: Vec<Genome>,
    surrogate: Option<Surrogate>,
}

impl Screen for ArchScreen<'_, '_> {
    fn feasible(&self, genome: &[u16]) -> bool {
        self.problem.feasible(genome)
    }

    fn canonical(&self, mut genome: Genome) -> Genome {
        match self.stage {
            Stage::Coarse => {
                genome = self.problem.widest(coarse(genome), COARSE_WIDTH);
            }
            // Forms of the last stage come from the front; where there are none left, dense networks go on.
            Stage::Fine | Stage::Last => {
                genome[place::DENSITY] = 0;
                let coarse = place::STRIDE..place::COARSE;
                let distance = |shape: &&Genome| -> u32 {
                    let pairs = shape[coarse.clone()].iter().zip(&genome[coarse.clone()]);
                    pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
                };
                if let Some(shape) = self.shapes.iter().min_by_key(distance) {
                    genome[coarse.clone()].copy_from_slice(&shape[coarse.clone()]);
                }
            }
        }
        expressed(genome)
    }

    fn predict(&self, genomes: &[Genome]) -> Option<Vec<Vec<f64>>> {
        let Surrogate { mean, level, rest } = self.surrogate.as_ref()?;
        let grain = grain(Task::Classify, self.problem.data);
        let predict = |genome: &Genome| {
            let estimate = self.problem.estimate(genome)?;
            let mut features = with_costs(genome, &estimate, self.stage);
            features.iter_mut().zip(mean).for_each(|(feature, mean)| *feature -= mean);
            let error = (level + rest.predict(&features)).exp() - grain;
            let needs = Needs::from(&estimate);
            Some(self.problem.search.objectives(error.clamp(0.0, 1.0), &needs))
        };
        genomes.par_iter().map(predict).collect()
    }
}

impl Problem for ArchProblem<'_> {
    fn space(&self) -> Space {
        space(self.arch.densities.len())
    }

    fn bound(&self) -> Option<Vec<f64>> {
        self.bound.clone()
    }

    fn phase(&self, candidates: usize) -> usize {
        match self.stage_of(candidates) {
            Stage::Coarse => 0,
            Stage::Fine => self.arch.coarse,
            Stage::Last => self.arch.sparse_from,
        }
    }

    fn first(&self, before: &[Candidate]) -> Vec<Genome> {
        match self.stage_of(before.len()) {
            Stage::Coarse => {
                // The smallest and the largest shape at every stride of the stem: what is lost here, no later
                // candidate has.
                let depths = [0, BLOCKS as u16 - 1];
                let ends = depths.into_iter().flat_map(|depth| {
                    (0..STEM_STRIDES.len() as u16).map(move |stride| {
                        let mut shape = vec![0; place::DENSITY + 1];
                        shape[place::STRIDE] = stride;
                        shape[place::DEPTH..place::COARSE].fill(depth);
                        shape
                    })
                });
                ends.map(|shape| self.widest(coarse(shape), COARSE_WIDTH)).collect()
            }
            Stage::Fine => {
                // As they were; where nothing is predicted, as wide as limits allow, too. Most of the stage is for what
                // is not yet known.
                let most = (self.arch.sparse_from - self.arch.coarse).div_ceil(4);
                let widths = |shape: Genome| {
                    let widest =
                        (!self.search.surrogate).then(|| self.widest(shape.clone(), WIDEST));
                    [shape].into_iter().chain(widest)
                };
                self.shapes(before).into_iter().flat_map(widths).take(most).collect()
            }
            Stage::Last => {
                let dense = front(before).into_iter().map(|member| &member.proposal.genome);
                // The most accurate ones first: they have the most to gain.
                let forms = dense.flat_map(|genome| {
                    (1..=self.arch.densities.len() as u16).map(move |density| {
                        let mut genome = genome.clone();
                        genome[place::DENSITY] = density;
                        genome
                    })
                });
                let mut all: Vec<Genome> = Vec::new();
                for genome in forms {
                    if !all.contains(&genome) {
                        all.push(genome);
                    }
                }
                all
            }
        }
    }

    fn screen(&self, candidates: &[Candidate]) -> impl Screen {
        let stage = self.stage_of(candidates.len());
        let shapes = if stage == Stage::Coarse { Vec::new() } else { self.shapes(candidates) };
        let surrogate = self.surrogate(candidates);
        ArchScreen { problem: self, stage, shapes, surrogate }
    }

    fn evaluate(
        &self,
        study: &Study,
        candidate: &Candidate,
        on: &mut dyn FnMut(f64),
    ) -> Result<Evaluated> {
        let genome = &candidate.proposal.genome;
        let stage = self.stage_of(candidate.id as usize - 1);
        let (net, mut about) = self.network(genome)?;
        let mut config = self.config(stage, self.density(genome));
        // The control trains every network from scratch, before the last trainings.
        let two_stages = self.arch.coarse > 0 && stage != Stage::Coarse;
        let inherits = self.density(genome).is_some() || two_stages;
        let folder = in_folder(config.epochs, self.stop, on, |folder, observe| {
            if inherits && let Some(donor) = self.donor(study, candidate, &net)? {
                inherit(&folder.join("start"), &net, &config, &donor, &self.device)?;
                config.start = Some("start".into());
            }
            let mut file = run_file(self.search, &net);
            file.config = serde_json::to_value(&config)?;
            create(folder, &file, &config)?;
            train(folder, self.data, &self.device, observe)
        })?;
        if let Some(density) = self.density(genome) {
            about.push(("trained".to_owned(), format!("{} {density}", config.method)));
        }
        let mut evaluated = measure(folder.path(), self.search, self.data, about)?;
        if self.density(genome).is_none() {
            let path = folder.path().join(WEIGHTS);
            heritage(folder.path(), &net)?.save(&path, "")?;
            evaluated.artefacts.push((WEIGHTS, std::fs::read(&path)?));
        }
        Ok(evaluated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, load};
    use crate::net::spec::Kind;
    use crate::net::trained::DataInfo;
    use crate::search::optimiser::{Algorithm, Optimiser, Proposal, Settings};
    use crate::search::settings::{Limits, What};
    use crate::search::study::{Evaluation, Status};
    use crate::search::surrogate::kendall_tau;
    use crate::target::cost::Core;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    /// A search on the digits with so many candidates of the first stage, and before the last one.
    fn search(coarse: usize, sparse_from: usize, limits: Limits) -> (Search, Arch, Dataset) {
        let options = LoadOptions { val_fraction: 0.2, ..LoadOptions::default() };
        let data = load("digits", &options).unwrap();
        let arch = Arch {
            coarse,
            sparse_from,
            densities: vec![0.5],
            coarse_epochs: 1,
            sparse_epochs: 1,
            min_accuracy: None,
            training: Config::default(),
        };
        let search = Search {
            what: What::Arch(arch.clone()),
            data: DataInfo::new("digits", &options, &data),
            target: Core::CortexM4,
            limits,
            costs: vec![Cost::Arena, Cost::Instructions],
            optimiser: Settings {
                algorithm: Algorithm::Moead,
                objectives: 3,
                population: 8,
                seed: 1,
            },
            surrogate: true,
        };
        (search, arch, data)
    }

    fn candidate(id: usize, proposal: Proposal, error: Option<f64>) -> Candidate {
        let details = serde_json::Value::Null;
        Candidate {
            id: id as i64,
            proposal,
            status: Status::Leased,
            worker: String::new(),
            attempt: 1,
            evaluation: error.map(|error| Evaluation { objectives: vec![error; 3], details }),
            error: None,
            seconds: None,
            asked: id as i64,
            told: None,
        }
    }

    /// The first stage proposes every coarse shape that limits allow once, at one width or what they allow, and
    /// nothing else.
    #[test]
    fn the_first_stage_compares_shapes() {
        let limits = Limits { instructions: Some(150_000), ..Limits::default() };
        let (search, arch, data) = search(100, 100, limits);
        let problem = ArchProblem::new(&search, &arch, &data, &Device::flex(), &|| false);
        let shapes = problem.coarse();
        assert_eq!(shapes.len(), arch.most_coarse(&search, &data));
        let widths: HashSet<u16> = shapes.iter().map(|shape| shape[place::WIDTH]).collect();
        assert!((10..81).contains(&shapes.len()) && widths.len() > 1, "{shapes:?}");

        let mut optimiser =
            Optimiser::new(problem.space(), search.optimiser.clone(), problem.first(&[]));
        let mut candidates: Vec<Candidate> = Vec::new();
        for id in 1..=shapes.len() {
            let proposal = optimiser.ask(&problem.screen(&candidates)).unwrap();
            candidates.push(candidate(id, proposal, None));
        }
        let proposed: HashSet<Genome> =
            candidates.iter().map(|c| c.proposal.genome.clone()).collect();
        assert_eq!(proposed, shapes);
        assert_eq!(optimiser.ask(&problem.screen(&candidates)), None);
    }

    /// The second stage has the whole front of the first one, and a quarter of its candidates at least.
    #[test]
    fn several_shapes_are_kept() {
        let (search, arch, data) = search(8, 20, Limits::default());
        let problem = ArchProblem::new(&search, &arch, &data, &Device::flex(), &|| false);
        let genomes: Vec<Genome> = coarse_shapes().take(8).collect();
        let shapes = |objectives: &dyn Fn(f64) -> Vec<f64>| {
            let known = genomes.iter().enumerate().map(|(at, genome)| {
                let proposal = Proposal { genome: genome.clone(), subproblem: 0, predicted: None };
                let mut candidate = candidate(at + 1, proposal, Some(0.0));
                candidate.evaluation.as_mut().unwrap().objectives = objectives(at as f64);
                candidate
            });
            problem.shapes(&known.collect::<Vec<_>>())
        };
        let best: Vec<Genome> = genomes.iter().rev().cloned().collect();
        assert_eq!(shapes(&|at| vec![8.0 - at, 8.0 - at]), best[..2]);
        assert_eq!(shapes(&|at| vec![8.0 - at, at]), best);
    }

    /// Errors that follow from widths, depth and operators are predicted in their order from thirty networks, with the
    /// costs that are known anyway; from too few, and for the last trainings, none are.
    #[test]
    fn errors_are_predicted_from_shapes() {
        let (search, arch, data) = search(0, 60, Limits::default());
        let problem = ArchProblem::new(&search, &arch, &data, &Device::flex(), &|| false);
        let mut random = Pcg64::seed_from_u64(1);
        let screen = problem.screen(&[]);
        // Wide networks take long to export.
        let mut draw = || {
            let mut genome = problem.space().sample(&mut random);
            genome[place::WIDTH] %= 2;
            screen.canonical(genome)
        };
        let truth = |genome: &[u16]| {
            let (net, about) = problem.network(genome).unwrap();
            let channels = net.layers.iter().map(|layer| match layer.kind {
                Kind::Conv { out, .. } | Kind::Pointwise { out, .. } => out,
                _ => 0,
            });
            let channels = channels.sum::<usize>() as f64;
            let residual = about.iter().filter(|(_, what)| what.contains("residual")).count();
            0.8 * channels.powf(-0.3) * 0.95_f64.powi(residual as i32)
        };
        let mut known = |count: usize| -> Vec<Candidate> {
            let proposals = (0..count).map(|_| draw());
            let proposals: Vec<Proposal> = proposals
                .map(|genome| Proposal { genome, subproblem: 0, predicted: None })
                .collect();
            let known = proposals.into_iter().enumerate();
            known.map(|(at, p)| candidate(at + 1, p.clone(), Some(truth(&p.genome)))).collect()
        };
        let others: Vec<Genome> = known(30).into_iter().map(|c| c.proposal.genome).collect();
        assert_eq!(problem.screen(&known(7)).predict(&others), None);
        assert_eq!(problem.screen(&known(60)).predict(&others), None);
        let predicted = problem.screen(&known(30)).predict(&others).unwrap();
        let pairs: Vec<(f64, f64)> = others
            .iter()
            .zip(&predicted)
            .map(|(genome, predicted)| (predicted[0], truth(genome)))
            .collect();
        assert!(kendall_tau(&pairs).unwrap() > 0.8, "{pairs:?}");
        for (genome, predicted) in others.iter().zip(&predicted) {
            let estimate = problem.estimate(genome).unwrap();
            assert_eq!(predicted[1..], [estimate.arena_bytes as f64, estimate.instructions]);
        }
    }
}
