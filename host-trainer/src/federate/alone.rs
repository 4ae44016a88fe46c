//! The control without a federation.

use anyhow::Result;
use niwaki_core::federated::Offer;
use niwaki_core::learn::{Learner, Parameters, Plan};
use niwaki_core::{Model, Session};
use rayon::prelude::*;

use super::simulate::order;
use super::{Global, accuracy};
use crate::export::AlignedVec;
use crate::learn::Samples;

/// What each party does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// How to learn: settings and epochs of a round.
    pub offer: Offer,
    /// Rounds that a federation would have.
    pub rounds: u32,
    /// Of the order of the samples.
    pub seed: u64,
}

/// Lets each party learn its own samples alone, in as many rounds and epochs as a federation would have, and
/// tells the parties' mean accuracy on `test` after each round. One party with all samples is central learning.
///
/// # Errors
///
/// When samples or settings do not fit the model.
pub fn alone(
    model: &Model<'_>,
    parties: &[Vec<usize>],
    samples: &Samples,
    test: &Samples,
    course: &Course,
    mut each: impl FnMut(u32, f64),
) -> Result<()> {
    let Course { offer, rounds, seed } = *course;
    let plan = Plan::new(model)?;
    let mut states: Vec<Global> = parties.iter().map(|_| Global::new(&plan)).collect();
    for round in 1..=rounds {
        let learn = |(index, (state, own)): (usize, (&mut Global, &Vec<usize>))| -> Result<f64> {
            let mut memory = AlignedVec::zeroed(plan.learner_len());
            let mut arena = AlignedVec::zeroed(model.arena_len());
            let mut session: Session<'_, '_> = Session::new(*model, arena.as_arena())?;
            let mut learner = Learner::new(&plan, memory.as_bytes_mut(), offer.settings())?;
            learner.set_parameters(&state.parameters())?;
            for epoch in 0..offer.epochs {
                for sample in order(own, seed, index as u32, round, epoch) {
                    let (input, label) = samples.get(sample);
                    learner.learn(&mut session, input, label, None)?;
                }
                learner.finish_batch();
            }
            let Parameters { weights, biases } = learner.parameters();
            state.weights.copy_from_slice(weights);
            state.biases.copy_from_slice(biases);
            accuracy(model, &state.parameters(), test)
        };
        let found: Vec<f64> =
            states.par_iter_mut().zip(parties).enumerate().map(learn).collect::<Result<_>>()?;
        each(round, found.iter().sum::<f64>() / found.len().max(1) as f64);
    }
    Ok(())
}
