//! The loop of a worker: lease a candidate, evaluate it, store what it is worth.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::genome::{Genome, Space};
use super::optimiser::{Optimiser, Screen, Settings};
use super::study::{
    Candidate, Evaluation, Lease, Part, Status, Study, StudyError, replay, worker_name,
};

/// What is searched for.
pub trait Problem: Sync {
    /// All genomes.
    fn space(&self) -> Space;

    /// A search may have several phases, each with an optimiser of its own: where in the study the phase begins
    /// that a proposal after so many candidates belongs to.
    fn phase(&self, _candidates: usize) -> usize {
        0
    }

    /// Objectives beyond which a candidate counts for nothing, if there are such.
    fn bound(&self) -> Option<Vec<f64>> {
        None
    }

    /// Genomes to be evaluated first in a phase, such as the smallest and the largest, in their canonical
    /// form; in view of the candidates before it.
    fn first(&self, before: &[Candidate]) -> Vec<Genome>;

    /// The screen in view of all candidates so far.
    fn screen(&self, candidates: &[Candidate]) -> impl Screen;

    /// What a candidate is worth. Follows from its genome and from what was evaluated when it was proposed.
    ///
    /// # Errors
    /// When it cannot be evaluated; the search goes on with others.
    fn evaluate(
        &self,
        study: &Study,
        candidate: &Candidate,
        on: &mut dyn FnMut(f64),
    ) -> anyhow::Result<Evaluated>;
}

/// An evaluated genome.
pub struct Evaluated {
    /// What it is worth.
    pub evaluation: Evaluation,
    /// Files to keep: name and content.
    pub artefacts: Vec<(&'static str, Vec<u8>)>,
}

/// What a worker tells while it works.
#[derive(Debug)]
pub enum Event<'a> {
    /// A candidate is leased.
    Begin(&'a Candidate),
    /// This share of its evaluation is done.
    Progress(f64),
    /// The candidate with this number is evaluated, or its evaluation failed.
    End(i64),
    /// Others evaluate the last candidates.
    Wait,
    /// Its lease went to another worker, which the result is left to.
    Lost(&'a Candidate),
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every candidate is evaluated.
    Complete,
    /// It was told to stop.
    Stopped,
}

/// Seconds after which a silent worker is taken for dead.
const LEASE: f64 = 60.0;
/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(15);
/// How often a worker without work looks for some.
const LOOK: Duration = Duration::from_secs(1);
/// How long a worker waits for a database that does not answer, such as one that is started anew.
const OUTAGE: Duration = Duration::from_secs(120);

/// Evaluates candidates until the study has as many as it is to have, or `stop` says so. `number` tells the
/// workers of one process apart.
///
/// # Errors
/// When the study fails. A candidate that fails is a candidate's matter and ends nothing.
pub fn work<P: Problem>(
    study: &Study,
    problem: &P,
    settings: &Settings,
    number: usize,
    stop: &(dyn Fn() -> bool + Sync),
    on: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, StudyError> {
    let name = worker_name(number);
    let space = problem.space();
    while !stop() {
        let propose = |candidates: &[Candidate]| {
            let phase = problem.phase(candidates.len());
            let first = problem.first(&before(candidates, phase));
            let optimiser = Optimiser::new(space.clone(), settings.clone(), first);
            let mut optimiser = optimiser.bounded(problem.bound());
            replay(&mut optimiser, &candidates[phase..]);
            optimiser.ask(&problem.screen(candidates))
        };
        let lease = persist(stop, || study.lease(&name, LEASE, study.budget()?, propose))?;
        let candidate = match lease {
            Lease::Complete => return Ok(Outcome::Complete),
            Lease::Wait => {
                on(Event::Wait);
                std::thread::sleep(LOOK);
                continue;
            }
            Lease::Evaluate(candidate) => candidate,
        };
        on(Event::Begin(&candidate));
        let begun = Instant::now();
        let renew = |own: &Study| own.renew(&candidate, LEASE).map(|_| ());
        let result = while_renewing(study, &renew, || {
            problem.evaluate(study, &candidate, &mut |share| on(Event::Progress(share)))
        });
        if stop() {
            // What was interrupted is no result; the lease falls to whoever comes next.
            break;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let (worth, artefacts) = match result {
            Ok(Evaluated { evaluation, artefacts }) => (Ok(evaluation), artefacts),
            // The candidate is not to blame, and all others would fail alike.
            Err(error) if disk_is_full(&error) => {
                return Err(StudyError::DiskFull { cause: format!("{error:#}") });
            }
            Err(error) if error.downcast_ref().is_some_and(StudyError::is_outage) => {
                return Err(error.downcast().expect("the error that it was seen to be"));
            }
            Err(error) => (Err(format!("{error:#}")), Vec::new()),
        };
        let files: Vec<(&str, &[u8])> =
            artefacts.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let worth = worth.as_ref().map_err(String::as_str);
        let stored = persist(stop, || study.finish(&candidate, worth, &files, seconds))?;
        match stored {
            true => on(Event::End(candidate.id)),
            false => on(Event::Lost(&candidate)),
        }
    }
    Ok(Outcome::Stopped)
}

/// Tries again while the database does not answer: what was evaluated must not be lost by a restart of it.
pub(super) fn persist<T>(
    stop: &(dyn Fn() -> bool + Sync),
    mut action: impl FnMut() -> Result<T, StudyError>,
) -> Result<T, StudyError> {
    let begun = Instant::now();
    loop {
        match action() {
            Err(error) if error.is_outage() && begun.elapsed() < OUTAGE && !stop() => {
                std::thread::sleep(LOOK);
            }
            result => return result,
        }
    }
}

fn disk_is_full(error: &anyhow::Error) -> bool {
    use std::io::{Error, ErrorKind};
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    causes.any(|cause| full.contains(&cause.kind()))
}

/// The candidates before a phase, as they were known when its first proposal was made.
fn before(candidates: &[Candidate], phase: usize) -> Vec<Candidate> {
    let begun = candidates.get(phase).map_or(i64::MAX, |first| first.asked);
    let mut before = candidates[..phase].to_vec();
    for candidate in before.iter_mut().filter(|c| c.told.is_none_or(|told| told > begun)) {
        candidate.evaluation = None;
    }
    before
}

/// Makes a part that all candidates share, unless it is made already or another worker makes it: then waits
/// for that. `None` when `stop` says so, or when `make` was stopped.
///
/// # Errors
/// When the study fails or the part cannot be made.
pub fn share(
    study: &Study,
    name: &str,
    number: usize,
    stop: &(dyn Fn() -> bool + Sync),
    make: impl FnOnce() -> anyhow::Result<Option<Vec<u8>>>,
) -> anyhow::Result<Option<Vec<u8>>> {
    let worker = worker_name(number);
    loop {
        if stop() {
            return Ok(None);
        }
        match persist(stop, || study.part(name, &worker, LEASE))? {
            Part::Ready(bytes) => return Ok(Some(bytes)),
            Part::Wait => std::thread::sleep(LOOK),
            Part::Make => break,
        }
    }
    let renew = |own: &Study| own.renew_part(name, &worker, LEASE);
    let Some(bytes) = while_renewing(study, &renew, make)? else { return Ok(None) };
    persist(stop, || study.provide(name, &bytes))?;
    // Another worker may have been quicker, and all must share the same one.
    Ok(persist(stop, || study.ready_part(name))?)
}

/// Renews a lease for as long as `work` takes, over a connection of its own.
fn while_renewing<T>(
    study: &Study,
    renew: &(dyn Fn(&Study) -> Result<(), StudyError> + Sync),
    work: impl FnOnce() -> T,
) -> T {
    let (done, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut own = None;
            while let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(RENEWAL) {
                // A renewal that fails is tried again; a lease that is lost shows when the result is stored.
                own = own.or_else(|| Study::open(study.place()).ok());
                if own.as_ref().is_some_and(|own| renew(own).is_err()) {
                    own = None;
                }
            }
        });
        let value = work();
        drop(done);
        value
    })
}

/// The candidates on the Pareto front of those that are done, in the order of their first objective.
pub fn front(candidates: &[Candidate]) -> Vec<&Candidate> {
    let done: Vec<(&Candidate, &Evaluation)> = candidates
        .iter()
        .filter(|candidate| candidate.status == Status::Done)
        .filter_map(|candidate| Some((candidate, candidate.evaluation.as_ref()?)))
        .collect();
    let points: Vec<Vec<f64>> = done.iter().map(|(_, e)| e.objectives.clone()).collect();
    let mut front: Vec<_> = super::pareto::front(&points).into_iter().map(|at| done[at]).collect();
    front.sort_by(|(_, a), (_, b)| a.objectives[0].total_cmp(&b.objectives[0]));
    front.into_iter().map(|(candidate, _)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::Mutex;

    use super::super::genome::Gene;
    use super::super::optimiser::Algorithm;
    use super::super::optimiser::tests::Anything;
    use super::super::study::Place;
    use super::*;

    /// One gene; the evaluations fail as they are told, the next one first.
    struct Failing(Mutex<Vec<ErrorKind>>);

    impl Problem for Failing {
        fn space(&self) -> Space {
            Space::new(vec![Gene::Level(9)]).unwrap()
        }

        fn first(&self, _: &[Candidate]) -> Vec<Genome> {
            Vec::new()
        }

        fn screen(&self, _: &[Candidate]) -> impl Screen {
            Anything
        }

        fn evaluate(
            &self,
            _: &Study,
            candidate: &Candidate,
            _: &mut dyn FnMut(f64),
        ) -> anyhow::Result<Evaluated> {
            if let Some(kind) = self.0.lock().unwrap().pop() {
                return Err(anyhow::Error::new(Error::from(kind)).context("saving weights"));
            }
            let objectives = vec![f64::from(candidate.proposal.genome[0]); 2];
            let evaluation = Evaluation { objectives, details: serde_json::Value::Null };
            Ok(Evaluated { evaluation, artefacts: Vec::new() })
        }
    }

    /// Where a candidate is to blame, it failed; where the disk is full, nothing is lost.
    #[test]
    fn a_full_disk_is_no_fault_of_a_candidate() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Folder(folder.path().to_owned());
        let study = Study::start(&place, &serde_json::Value::Null).unwrap();
        study.raise_budget(3).unwrap();
        let problem = Failing(Mutex::new(vec![ErrorKind::StorageFull, ErrorKind::InvalidData]));
        let settings =
            Settings { algorithm: Algorithm::Random, objectives: 2, population: 4, seed: 1 };
        let ended = work(&study, &problem, &settings, 1, &|| false, &mut |_| {});
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("saving weights") && error.contains("TMPDIR"), "{error}");
        let status: Vec<Status> =
            study.candidates().unwrap().iter().map(|candidate| candidate.status).collect();
        assert_eq!(status, [Status::Failed, Status::Leased]);
    }
}
