//! Runs trials, several at a time.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Context;

use super::{Row, Store, Trial};
use crate::sparse::{self, Flow};

/// What happens while trials run.
pub enum Event<'a> {
    /// A trial begins or goes on.
    Start,
    /// Its training says something.
    Training(sparse::Event<'a>),
    /// It is finished and stored.
    Finish(&'a Row),
    /// It failed; the others go on.
    Failure(&'a anyhow::Error),
}

/// How an experiment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Trials that were finished before or now.
    pub finished: usize,
    /// Trials that failed now.
    pub failed: usize,
    /// Trials that are left because it was stopped.
    pub left: usize,
}

/// Does the work of a trial: a row, or nothing when it was stopped.
pub type Work<'a> = dyn Fn(&Trial, &mut dyn FnMut(sparse::Event<'_>) -> Flow) -> anyhow::Result<Option<Row>>
    + Sync
    + 'a;

/// Runs all trials that the store has no row of, `jobs` at a time, each on its share of the
/// processor cores.
///
/// The results of trials do not depend on `jobs`. Whole trainings next to each other make better
/// use of cores than parts of one training do.
///
/// # Errors
/// When a row cannot be stored. Trials that fail are reported to `observe` and counted.
pub fn run(
    trials: &[Trial],
    store: &mut Store,
    jobs: usize,
    work: &Work<'_>,
    observe: &(dyn Fn(&Trial, Event<'_>) -> Flow + Sync),
) -> anyhow::Result<Outcome> {
    let open: Vec<&Trial> = trials.iter().filter(|trial| !store.holds(trial)).collect();
    let jobs = jobs.clamp(1, open.len().max(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pools: Vec<rayon::ThreadPool> = (0..jobs)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads((cores / jobs).max(1)).build())
        .collect::<Result<_, _>>()
        .context("starting threads")?;
    let store = Mutex::new(store);
    let (next, finished, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
    let job = || -> anyhow::Result<()> {
        while let Some(&trial) = open.get(count(&next)) {
            if observe(trial, Event::Start) == Flow::Stop {
                return Ok(());
            }
            match work(trial, &mut |event| observe(trial, Event::Training(event))) {
                Ok(Some(row)) => {
                    store.lock().unwrap_or_else(|poison| poison.into_inner()).push(row.clone())?;
                    count(&finished);
                    observe(trial, Event::Finish(&row));
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    count(&failed);
                    observe(trial, Event::Failure(&error));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = pools.iter().map(|pool| scope.spawn(|| pool.install(job))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let (finished, failed) = (finished.into_inner(), failed.into_inner());
    Ok(Outcome {
        finished: trials.len() - open.len() + finished,
        failed,
        left: open.len() - finished - failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::rows::tests::row;

    /// Stopping and failing repeats nothing that is finished, and finishes what is left.
    #[test]
    fn every_trial_is_run_once() {
        let folder = tempfile::tempdir().unwrap();
        let trials: Vec<Trial> = (0..12).map(|seed| row("a", 0.1, seed, 0.0).trial).collect();
        let runs: Vec<AtomicUsize> = (0..12).map(|_| AtomicUsize::new(0)).collect();
        let broken = std::sync::atomic::AtomicBool::new(true);
        let work = |trial: &Trial, _: &mut dyn FnMut(sparse::Event<'_>) -> Flow| {
            anyhow::ensure!(trial.seed != 2 || !broken.load(Ordering::Relaxed), "broken");
            runs[trial.seed as usize].fetch_add(1, Ordering::Relaxed);
            Ok(Some(row("a", 0.1, trial.seed, 0.5)))
        };
        let go = |stop_after: usize| {
            let mut store = Store::open(folder.path(), &serde_json::Value::Null).unwrap();
            let done = AtomicUsize::new(0);
            let observe = |_: &Trial, event: Event<'_>| {
                if matches!(event, Event::Finish(_)) {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                if done.load(Ordering::Relaxed) >= stop_after { Flow::Stop } else { Flow::Continue }
            };
            run(&trials, &mut store, 3, &work, &observe).unwrap()
        };
        let first = go(5);
        assert!(first.finished >= 5 && first.left > 0, "{first:?}");
        let second = go(100);
        assert_eq!(second, Outcome { finished: 11, failed: 1, left: 0 });
        broken.store(false, Ordering::Relaxed);
        assert_eq!(go(100), Outcome { finished: 12, failed: 0, left: 0 });
        assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
    }
}
