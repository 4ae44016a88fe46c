//! Optimisers that are asked for genomes and told what they are worth.
//!
//! An optimiser may be asked again before it is told: many workers share one. Its whole state follows
//! from its seed and from the order of what it was asked and told, so that a search resumes by telling
//! it the past again.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::genome::{Genome, Space};
use super::pareto::{crowding, dominates, front, hypervolume, ranks};

/// What is known of candidates before they are evaluated.
pub trait Screen {
    /// Whether a genome meets every hard constraint.
    fn feasible(&self, genome: &[u16]) -> bool;

    /// The one form of all genomes that mean the same.
    fn canonical(&self, genome: Genome) -> Genome {
        genome
    }

    /// Predicted objectives of genomes, where anything can be predicted yet.
    fn predict(&self, _genomes: &[Genome]) -> Option<Vec<Vec<f64>>> {
        None
    }
}

/// A genome to evaluate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The genome.
    pub genome: Genome,
    /// Subproblem that it is meant for; only MOEA/D has some.
    pub subproblem: usize,
    /// What its objectives were predicted to be, before anything was known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Vec<f64>>,
}

/// How a search finds its candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Decomposition into scalar subproblems (Zhang and Li, 2007)
    Moead,
    /// Non-dominated sorting (Deb et al., 2002)
    Nsga2,
    /// Genomes drawn evenly: the control
    Random,
}

/// Settings that all optimisers share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How candidates are found.
    pub algorithm: Algorithm,
    /// Number of objectives.
    pub objectives: usize,
    /// Members that take part in breeding.
    pub population: usize,
    /// Seed of everything random.
    pub seed: u64,
}

/// Draws without success after which there is taken to be no genome left.
const PATIENCE: usize = 2_000;

/// Asks for genomes and keeps what they turned out to be worth.
#[derive(Debug, Clone)]
pub struct Optimiser {
    space: Space,
    settings: Settings,
    /// Genomes proposed so far: none is proposed twice.
    seen: HashSet<Genome>,
    /// Genomes to be proposed first.
    first: Vec<Genome>,
    /// Objectives beyond these count for nothing.
    bound: Option<Vec<f64>>,
    proposals: usize,
    /// Proposals that nothing is known of yet.
    open: Vec<Proposal>,
    /// The others.
    told: Vec<Member>,
    strategy: Strategy,
}

#[derive(Debug, Clone)]
enum Strategy {
    Random,
    Moead(Moead),
    Nsga2(Vec<Member>),
}

#[derive(Debug, Clone)]
struct Member {
    genome: Genome,
    objectives: Vec<f64>,
}

impl Optimiser {
    /// An optimiser over a space, which proposes the genomes `first`, in their canonical form, before its own.
    pub fn new(space: Space, settings: Settings, mut first: Vec<Genome>) -> Self {
        first.reverse();
        let strategy = match settings.algorithm {
            Algorithm::Random => Strategy::Random,
            Algorithm::Nsga2 => Strategy::Nsga2(Vec::new()),
            Algorithm::Moead => Strategy::Moead(Moead::new(&settings)),
        };
        Self {
            seen: HashSet::new(),
            first,
            bound: None,
            proposals: 0,
            open: Vec::new(),
            told: Vec::new(),
            space,
            settings,
            strategy,
        }
    }

    /// The same where genomes that are beyond a bound in any objective are worth less than all that are not,
    /// and the less the further they are beyond: a search is not to spend itself where nobody looks.
    #[must_use]
    pub fn bounded(self, bound: Option<Vec<f64>>) -> Self {
        Self { bound, ..self }
    }

    /// What counts of objectives: beyond the bound, only how far.
    fn counted(&self, objectives: &[f64]) -> Vec<f64> {
        let Some(bound) = &self.bound else { return objectives.to_vec() };
        let pairs = objectives.iter().zip(bound);
        let beyond: f64 = pairs.map(|(value, bound)| (value / bound - 1.0).max(0.0)).sum();
        match beyond > 0.0 {
            true => bound.iter().map(|bound| bound * (1.0 + beyond)).collect(),
            false => objectives.to_vec(),
        }
    }

    /// The next genome to evaluate: feasible and new. `None` when none can be found.
    pub fn ask(&mut self, screen: &impl Screen) -> Option<Proposal> {
        let subproblem = self.proposals % self.settings.population;
        self.proposals += 1;
        let genome = self.next(screen, subproblem)?;
        self.seen.insert(genome.clone());
        let predicted = screen.predict(std::slice::from_ref(&genome));
        let predicted = predicted.and_then(|predicted| predicted.into_iter().next());
        let proposal = Proposal { genome, subproblem, predicted };
        self.open.push(proposal.clone());
        Some(proposal)
    }

    /// Takes note of a proposal of its own past, without working it out again.
    pub fn recall(&mut self, proposal: &Proposal) {
        self.proposals += 1;
        self.seen.insert(proposal.genome.clone());
        self.open.push(proposal.clone());
        while self.first.pop().is_some_and(|genome| genome != proposal.genome) {}
    }

    fn next(&mut self, screen: &impl Screen, subproblem: usize) -> Option<Genome> {
        while let Some(genome) = self.first.pop() {
            if self.is_new(&genome, screen) {
                return Some(genome);
            }
        }
        if let Strategy::Moead(moead) = &self.strategy
            && let Some(best) = self.planned(screen, moead, subproblem)
        {
            return Some(best);
        }
        let bred = match &self.strategy {
            _ if self.proposals <= self.settings.population => None,
            Strategy::Random => None,
            Strategy::Nsga2(members) => {
                let parents = ranked(members);
                self.attempt(screen, |space, rng| {
                    let [mother, father] = [(); 2].map(|()| tournament(&parents, rng));
                    Some(space.breed(
                        &members.get(mother?)?.genome,
                        &members.get(father?)?.genome,
                        rng,
                    ))
                })
            }
            Strategy::Moead(moead) => {
                let pool = moead.pool(subproblem, &mut self.stream(3));
                self.attempt(screen, |space, rng| {
                    let mut parent = || pool.get(rng.random_range(0..pool.len().max(1)));
                    let (mother, father) = (parent()?, parent()?);
                    Some(space.breed(&mother.genome, &father.genome, rng))
                })
            }
        };
        bred.or_else(|| self.attempt(screen, |space, rng| Some(space.sample(rng))))
    }

    fn is_new(&self, genome: &Genome, screen: &impl Screen) -> bool {
        !self.seen.contains(genome) && screen.feasible(genome)
    }

    /// The first new feasible genome that `make` makes.
    fn attempt(
        &self,
        screen: &impl Screen,
        make: impl Fn(&Space, &mut Pcg64) -> Option<Genome>,
    ) -> Option<Genome> {
        let mut rng = self.stream(1);
        (0..PATIENCE)
            .map_while(|_| make(&self.space, &mut rng))
            .map(|genome| screen.canonical(genome))
            .find(|genome| self.is_new(genome, screen))
    }

    /// Random numbers for one use of one proposal: how many another takes moves none of them.
    fn stream(&self, usage: u64) -> Pcg64 {
        stream(self.settings.seed, usage, self.proposals)
    }

    /// Evolves all subproblems on predictions alone and returns the new genome that is predicted to add the most
    /// hypervolume to what is known or on its way; where none adds any, the best one of the subproblem.
    fn planned(&self, screen: &impl Screen, moead: &Moead, subproblem: usize) -> Option<Genome> {
        const GENERATIONS: usize = 8;
        const TRIES: usize = 8;
        // Without predictions, `None` before anything is bred for them.
        let told: Vec<Genome> = self.told.iter().map(|member| member.genome.clone()).collect();
        let told = screen.predict(&told)?;
        let mut rng = self.stream(2);
        let mut plan = moead.clone();
        let mut made = HashSet::new();
        let mut children: Vec<Member> = Vec::new();
        for generation in 0..GENERATIONS {
            let mut brood: Vec<(usize, Genome)> = Vec::with_capacity(plan.weights.len());
            for home in 0..plan.weights.len() {
                let child = (0..TRIES).find_map(|_| {
                    let pool = if generation == 0 { Vec::new() } else { plan.pool(home, &mut rng) };
                    let mut parent = || pool.get(rng.random_range(0..pool.len().max(1)));
                    let child = match (parent(), parent()) {
                        (Some(mother), Some(father)) => {
                            self.space.breed(&mother.genome, &father.genome, &mut rng)
                        }
                        _ => self.space.sample(&mut rng),
                    };
                    let child = screen.canonical(child);
                    let is_new = !made.contains(&child) && self.is_new(&child, screen);
                    is_new.then_some(child)
                });
                if let Some(child) = child {
                    made.insert(child.clone());
                    brood.push((home, child));
                }
            }
            if brood.is_empty() {
                break;
            }
            let genomes: Vec<Genome> = brood.iter().map(|(_, genome)| genome.clone()).collect();
            let predicted = screen.predict(&genomes)?;
            for ((home, genome), predicted) in brood.into_iter().zip(predicted) {
                let child = Member { objectives: self.counted(&predicted), genome };
                plan.learn(home, child.clone(), &mut rng);
                children.push(child);
            }
        }
        plan.sort(subproblem, &mut children, &plan.scale());
        let gains = self.gains(&children, &told);
        // Of equal gains the first one counts, which is the best of the subproblem.
        let best = (0..children.len()).rev().max_by(|&a, &b| gains[a].total_cmp(&gains[b]))?;
        Some(children.swap_remove(best).genome)
    }

    /// What each of these would add to the hypervolume of all that was told or is predicted of what is asked for.
    /// What was told counts with its predictions, too: a neighbour that is predicted as it is adds nothing, even if
    /// the truth was worse.
    fn gains(&self, members: &[Member], predictions_of_told: &[Vec<f64>]) -> Vec<f64> {
        let open = self.open.iter().filter_map(|proposal| proposal.predicted.as_deref());
        let predicted = predictions_of_told.iter().map(Vec::as_slice).chain(open);
        let predicted = predicted.map(|predicted| self.counted(predicted));
        let told = self.told.iter().map(|member| member.objectives.clone());
        let known: Vec<Vec<f64>> = told.chain(predicted).collect();
        let known: Vec<Vec<f64>> = front(&known).into_iter().map(|at| known[at].clone()).collect();
        let reference = self.bound.clone().unwrap_or_else(|| {
            // Without a bound, somewhat beyond the worst of each objective.
            let all = || known.iter().chain(members.iter().map(|member| &member.objectives));
            (0..self.settings.objectives)
                .map(|at| {
                    let least = all().map(|point| point[at]).fold(f64::INFINITY, f64::min);
                    let most = all().map(|point| point[at]).fold(f64::NEG_INFINITY, f64::max);
                    most + 0.1 * (most - least)
                })
                .collect()
        });
        let before = hypervolume(&known, &reference);
        let gain = |member: &Member| {
            if known.iter().any(|point| dominates(point, &member.objectives)) {
                return 0.0;
            }
            let mut with = known.clone();
            with.push(member.objectives.clone());
            hypervolume(&with, &reference) - before
        };
        members.iter().map(gain).collect()
    }

    /// Learns what a proposed genome is worth.
    pub fn tell(&mut self, proposal: &Proposal, objectives: &[f64]) {
        let objectives = self.counted(objectives);
        self.open.retain(|open| open.genome != proposal.genome);
        let member = Member { genome: proposal.genome.clone(), objectives };
        self.told.push(member.clone());
        match &mut self.strategy {
            Strategy::Random => {}
            Strategy::Nsga2(members) => {
                members.push(member);
                if members.len() >= 2 * self.settings.population {
                    survive(members, self.settings.population);
                }
            }
            Strategy::Moead(moead) => {
                let mut rng = stream(self.settings.seed, 4, self.told.len());
                moead.learn(proposal.subproblem, member, &mut rng);
            }
        }
    }
}

pub(super) fn stream(seed: u64, usage: u64, index: usize) -> Pcg64 {
    // An odd constant spreads neighbouring indices over all bits.
    let spread = ((index as u64) << 8 | usage).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Pcg64::seed_from_u64(seed ^ spread)
}

/// Members in the order of rank and, within a rank, of the room that they have.
fn ranked(members: &[Member]) -> Vec<usize> {
    let points: Vec<Vec<f64>> = members.iter().map(|member| member.objectives.clone()).collect();
    let ranks = ranks(&points);
    let mut order = Vec::with_capacity(members.len());
    for rank in 0..=ranks.iter().copied().max().unwrap_or(0) {
        let of_rank: Vec<usize> =
            (0..members.len()).filter(|&index| ranks[index] == rank).collect();
        let room = crowding(&points, &of_rank);
        let mut positions: Vec<usize> = (0..of_rank.len()).collect();
        positions.sort_by(|&a, &b| room[b].total_cmp(&room[a]));
        order.extend(positions.into_iter().map(|position| of_rank[position]));
    }
    order
}

/// The better of two members drawn at random from their order.
fn tournament(order: &[usize], rng: &mut Pcg64) -> Option<usize> {
    let mut draw = || rng.random_range(0..order.len().max(1));
    order.get(draw().min(draw())).copied()
}

/// Keeps the first `count` members in their order.
fn survive(members: &mut Vec<Member>, count: usize) {
    let mut keep = ranked(members);
    keep.truncate(count);
    *members = keep.into_iter().map(|index| members[index].clone()).collect();
}

/// MOEA/D: one scalar subproblem per weight vector, each with a best member so far.
#[derive(Debug, Clone)]
struct Moead {
    weights: Vec<Vec<f64>>,
    /// Nearest subproblems of each, itself first.
    neighbours: Vec<Vec<usize>>,
    best: Vec<Option<Member>>,
}

/// Subproblems that breed with each other.
const NEIGHBOURS: usize = 20;
/// Chance that parents come from the neighbourhood and not from everywhere.
const LOCAL: f64 = 0.9;
/// Members that one child may replace (Li and Zhang, "MOEA/D-DE", 2009).
const REPLACED: usize = 2;
/// Weight of the distance from the weight vector in penalty-based boundary intersection.
const THETA: f64 = 5.0;

/// Least and greatest value of each objective among the best members.
struct Scale(Vec<[f64; 2]>);

impl Scale {
    /// Lets no value be better than the best.
    fn include(&mut self, objectives: &[f64]) {
        for ([least, greatest], value) in self.0.iter_mut().zip(objectives) {
            *least = least.min(*value);
            *greatest = greatest.max(*least);
        }
    }
}

impl Moead {
    fn new(settings: &Settings) -> Self {
        let weights = lattice(settings.objectives, settings.population);
        let distance =
            |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
        let neighbours = weights
            .iter()
            .map(|own| {
                let mut order: Vec<usize> = (0..weights.len()).collect();
                order.sort_by(|&a, &b| {
                    distance(own, &weights[a]).total_cmp(&distance(own, &weights[b]))
                });
                order.truncate(NEIGHBOURS.min(weights.len().div_ceil(3)).max(3));
                order
            })
            .collect();
        let best = vec![None; weights.len()];
        Self { weights, neighbours, best }
    }

    fn scale(&self) -> Scale {
        let points: Vec<Vec<f64>> =
            self.best.iter().flatten().map(|member| member.objectives.clone()).collect();
        let front = front(&points);
        let objectives = self.weights.first().map_or(0, Vec::len);
        let range = |objective: usize| {
            let values = || front.iter().map(|&index| points[index][objective]);
            let least = values().fold(f64::INFINITY, f64::min);
            [least, values().fold(least, f64::max)]
        };
        Scale((0..objectives).map(range).collect())
    }

    /// A subproblem's scalar value of objectives: Tchebycheff for two objectives, penalty-based
    /// boundary intersection for more. Objectives are normalised, or the largest would decide alone.
    fn value(&self, subproblem: usize, objectives: &[f64], scale: &Scale) -> f64 {
        let weights = &self.weights[subproblem];
        let normal = objectives.iter().zip(&scale.0).map(|(value, [least, greatest])| {
            let range = greatest - least;
            (value - least) / if range > 0.0 { range } else { 1.0 }
        });
        if weights.len() <= 2 {
            return normal
                .zip(weights)
                .map(|(value, weight)| value * weight.max(1e-3))
                .fold(f64::NEG_INFINITY, f64::max);
        }
        let normal: Vec<f64> = normal.collect();
        let length = weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
        let along =
            normal.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / length;
        let away = normal
            .iter()
            .zip(weights)
            .map(|(value, weight)| (value - along * weight / length).powi(2))
            .sum::<f64>()
            .sqrt();
        along + THETA * away
    }

    /// Puts the members that are best for a subproblem first.
    fn sort(&self, subproblem: usize, members: &mut [Member], scale: &Scale) {
        let value = |member: &Member| self.value(subproblem, &member.objectives, scale);
        members.sort_by(|a, b| value(a).total_cmp(&value(b)));
    }

    /// Members that breed for a subproblem.
    fn pool(&self, subproblem: usize, rng: &mut Pcg64) -> Vec<Member> {
        let near = self.neighbours[subproblem].iter().filter_map(|&index| self.best[index].clone());
        let near: Vec<Member> = near.collect();
        if near.len() >= 2 && rng.random_bool(LOCAL) {
            return near;
        }
        self.best.iter().flatten().cloned().collect()
    }

    fn learn(&mut self, subproblem: usize, member: Member, rng: &mut Pcg64) {
        // A member may serve subproblems anywhere: its neighbourhood is where it is best.
        let mut scale = self.scale();
        scale.include(&member.objectives);
        let home = (0..self.weights.len())
            .min_by(|&a, &b| {
                let value = |at| self.value(at, &member.objectives, &scale);
                value(a).total_cmp(&value(b))
            })
            .unwrap_or(subproblem);
        let mut around = self.neighbours[subproblem].clone();
        around.extend(self.neighbours[home].iter().copied());
        around.sort_unstable();
        around.dedup();
        around.shuffle(rng);
        let better = |at: &usize| match &self.best[*at] {
            None => true,
            Some(best) => {
                self.value(*at, &member.objectives, &scale)
                    < self.value(*at, &best.objectives, &scale)
            }
        };
        let replaced: Vec<usize> = around.into_iter().filter(better).take(REPLACED).collect();
        for at in replaced {
            self.best[at] = Some(member.clone());
        }
    }
}

/// `count` weight vectors of so many objectives, each with sum 1: the smallest simplex lattice (Das and
/// Dennis, 1998) that has as many, its corners and of the rest an even selection.
fn lattice(objectives: usize, count: usize) -> Vec<Vec<f64>> {
    fn points(objectives: usize, steps: usize) -> Vec<Vec<usize>> {
        if objectives <= 1 {
            return vec![vec![steps]];
        }
        let head = |first: usize| {
            let tails = points(objectives - 1, steps - first);
            tails.into_iter().map(move |tail| [vec![first], tail].concat())
        };
        (0..=steps).flat_map(head).collect()
    }
    let mut steps = 1;
    while points(objectives, steps).len() < count && objectives > 1 {
        steps += 1;
    }
    let is_corner = |point: &Vec<usize>| point.contains(&steps);
    let (mut chosen, inner): (Vec<_>, Vec<_>) =
        points(objectives, steps).into_iter().partition(is_corner);
    chosen.truncate(count);
    let left = count - chosen.len();
    chosen.extend((0..left).map(|index| inner[index * inner.len() / left].clone()));
    chosen.sort();
    chosen
        .into_iter()
        .map(|point| point.iter().map(|&part| part as f64 / steps as f64).collect())
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::genome::Gene;
    use super::*;

    pub(in super::super) struct Anything;
    impl Screen for Anything {
        fn feasible(&self, _: &[u16]) -> bool {
            true
        }
    }

    /// A surrogate that is the truth itself.
    struct Oracle(fn(&[f64]) -> Vec<f64>);
    impl Screen for Oracle {
        fn feasible(&self, _: &[u16]) -> bool {
            true
        }
        fn predict(&self, genomes: &[Genome]) -> Option<Vec<Vec<f64>>> {
            Some(genomes.iter().map(|genome| self.0(&reals(genome))).collect())
        }
    }

    const LEVELS: u16 = 1001;

    fn reals(genome: &[u16]) -> Vec<f64> {
        genome.iter().map(|&value| f64::from(value) / f64::from(LEVELS - 1)).collect()
    }

    /// Zitzler, Deb and Thiele, "Comparison of multiobjective evolutionary algorithms", 2000.
    fn zdt1(x: &[f64]) -> Vec<f64> {
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / (x.len() - 1) as f64;
        vec![x[0], g * (1.0 - (x[0] / g).sqrt())]
    }

    fn zdt2(x: &[f64]) -> Vec<f64> {
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / (x.len() - 1) as f64;
        vec![x[0], g * (1.0 - (x[0] / g).powi(2))]
    }

    fn zdt3(x: &[f64]) -> Vec<f64> {
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / (x.len() - 1) as f64;
        let wave = x[0] / g * (10.0 * std::f64::consts::PI * x[0]).sin();
        vec![x[0], g * (1.0 - (x[0] / g).sqrt() - wave)]
    }

    /// Deb et al., "Scalable multi-objective optimization test problems", 2002; three objectives.
    fn dtlz2(x: &[f64]) -> Vec<f64> {
        let g: f64 = x[2..].iter().map(|x| (x - 0.5).powi(2)).sum();
        let [a, b] = [x[0], x[1]].map(|x| x * std::f64::consts::FRAC_PI_2);
        vec![(1.0 + g) * a.cos() * b.cos(), (1.0 + g) * a.cos() * b.sin(), (1.0 + g) * a.sin()]
    }

    /// Hypervolume reached as a share of that of the true front.
    fn share(
        problem: fn(&[f64]) -> Vec<f64>,
        front: impl IntoIterator<Item = Vec<f64>>,
        algorithm: Algorithm,
        screen: &impl Screen,
        evaluations: usize,
    ) -> f64 {
        let objectives = problem(&[0.0; 10]).len();
        let settings = Settings { algorithm, objectives, population: 40, seed: 1 };
        let space = Space::new(vec![Gene::Level(LEVELS); 10]).unwrap();
        let mut optimiser = Optimiser::new(space, settings, Vec::new());
        let mut found = Vec::new();
        // Four workers: each is told only after three others have asked.
        let mut open = std::collections::VecDeque::new();
        for _ in 0..evaluations {
            open.push_back(optimiser.ask(screen).unwrap());
            if open.len() == 4 {
                let proposal = open.pop_front().unwrap();
                let values = problem(&reals(&proposal.genome));
                optimiser.tell(&proposal, &values);
                found.push(values);
            }
        }
        let reference = vec![1.2; objectives];
        let front: Vec<Vec<f64>> = front.into_iter().collect();
        let kept = super::front(&found).into_iter().map(|index| found[index].clone());
        hypervolume(&kept.collect::<Vec<_>>(), &reference) / hypervolume(&front, &reference)
    }

    fn curve(second: fn(f64) -> f64) -> impl Iterator<Item = Vec<f64>> {
        (0..=1000).map(f64::from).map(move |x| vec![x / 1000.0, second(x / 1000.0)])
    }

    #[test]
    fn known_fronts_are_found() {
        let wave = |x: f64| 1.0 - x.sqrt() - x * (10.0 * std::f64::consts::PI * x).sin();
        let shares = |algorithm| {
            let budget = 3000;
            [
                share(zdt1, curve(|x| 1.0 - x.sqrt()), algorithm, &Anything, budget),
                share(zdt2, curve(|x| 1.0 - x * x), algorithm, &Anything, budget),
                share(zdt3, curve(wave), algorithm, &Anything, budget),
            ]
        };
        let random = shares(Algorithm::Random);
        for algorithm in [Algorithm::Moead, Algorithm::Nsga2] {
            let reached = shares(algorithm);
            for (reached, random) in reached.into_iter().zip(random) {
                assert!(reached > 0.9 && reached <= 1.0, "{algorithm:?}: {reached} ({random})");
                assert!(random < 0.7, "random search alone reaches {random}");
            }
        }
    }

    #[test]
    fn three_objectives_are_covered() {
        let sphere = (0..=30).flat_map(|a| {
            (0..=30).map(move |b| dtlz2(&[f64::from(a) / 30.0, f64::from(b) / 30.0, 0.5]))
        });
        let sphere: Vec<_> = sphere.collect();
        let reached = |algorithm| share(dtlz2, sphere.clone(), algorithm, &Anything, 3000);
        let [moead, nsga2, random] =
            [Algorithm::Moead, Algorithm::Nsga2, Algorithm::Random].map(reached);
        assert!(moead > 0.85 && nsga2 > 0.8, "{moead} {nsga2}");
        assert!(random < 0.8 * moead, "{random}");
    }

    #[test]
    fn predictions_save_evaluations() {
        let front = || curve(|x| 1.0 - x.sqrt());
        let with = share(zdt1, front(), Algorithm::Moead, &Oracle(zdt1), 200);
        let without = share(zdt1, front(), Algorithm::Moead, &Anything, 1500);
        assert!(with > without, "{with} {without}");
    }

    #[test]
    fn the_same_past_leads_to_the_same_future() {
        for algorithm in [Algorithm::Moead, Algorithm::Nsga2, Algorithm::Random] {
            let settings = Settings { algorithm, objectives: 2, population: 6, seed: 3 };
            let space = Space::new(vec![Gene::Level(9), Gene::Choice(4), Gene::Level(30)]).unwrap();
            let run = || {
                let mut optimiser =
                    Optimiser::new(space.clone(), settings.clone(), vec![vec![8, 3, 29]]);
                let mut proposals = Vec::new();
                for _ in 0..60 {
                    let proposal = optimiser.ask(&Anything).unwrap();
                    let [a, b, c] = [0, 1, 2].map(|gene| f64::from(proposal.genome[gene]));
                    optimiser.tell(&proposal, &[a + c, 40.0 - c + (b - 1.0).abs()]);
                    proposals.push(proposal);
                }
                proposals
            };
            let proposals = run();
            assert_eq!(proposals, run());
            assert_eq!(proposals[0].genome, [8, 3, 29]);
            let distinct: HashSet<_> = proposals.iter().map(|proposal| &proposal.genome).collect();
            assert_eq!(distinct.len(), proposals.len());
        }
    }

    #[test]
    fn a_space_runs_out() {
        let settings =
            Settings { algorithm: Algorithm::Moead, objectives: 2, population: 4, seed: 0 };
        let space = Space::new(vec![Gene::Choice(3), Gene::Level(2)]).unwrap();
        let mut optimiser = Optimiser::new(space, settings, Vec::new());
        let mut asked = 0;
        while let Some(proposal) = optimiser.ask(&Anything) {
            optimiser.tell(&proposal, &[0.0, 0.0]);
            asked += 1;
        }
        assert_eq!(asked, 6);
    }
}
