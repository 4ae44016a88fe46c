//! Federated learning: devices tune the last layers of a model together, and their data stay with them.
//!
//! A [`Server`] holds the [`Global`] state. In each round it samples devices, sends them the state, takes
//! their updates, aggregates them ([`Aggregation`]) and stores the new state before it acknowledges. How a
//! device is reached is a [`Party`]'s business, and a [`Fleet`] knows them all:
//!
//! * [`Simulation`]: thousands of devices in this process, each with the client of `niwaki-core`;
//! * [`Boards`]: boards, emulated or real, which run the same client in their firmware.
//!
//! Both give the same bytes. [`parties`] divides a data set among devices; [`alone`] is the control
//! without a federation. Protocol, privacy and threat model: `docs/federation.md`.

mod aggregate;
mod alone;
#[cfg(unix)]
mod boards;
mod history;
pub mod parties;
mod peer;
mod server;
mod simulate;

pub use aggregate::{Aggregation, Delta, aggregate};
pub use alone::{Course, alone};
#[cfg(unix)]
pub use boards::Boards;
pub use history::{Dropped, Row, Totals, history_page};
pub use peer::{DropOut, Fleet, Party, PartyError, Visit};
pub use server::{Global, Server, Settings, accuracy, samples_of};
pub use simulate::{Failures, Moon, Simulation};

use niwaki_core::federated::{Contrast, Offer};
use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// How devices learn together, or do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Contrastive distillation: features are pulled to the federation's prototype of their class
    Contrastive,
    /// Federated averaging (McMahan et al., 2017)
    #[value(name = "fedavg")]
    FedAvg,
    /// Federated averaging with a proximal term (Li et al., 2020)
    #[value(name = "fedprox")]
    FedProx,
    /// Model-contrastive learning (Li et al., 2021); needs two more models on the device, simulation only
    Moon,
    /// No federation: every device learns for itself
    Local,
    /// No federation: all data in one place
    Central,
}

/// Settings of learning that methods may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "Learning on the devices")]
pub struct Learning {
    /// Times that a device learns its samples in a round
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub epochs: u16,
    /// Step per unit of gradient
    #[arg(long, default_value_t = 0.05, value_name = "RATE")]
    pub learning_rate: f32,
    /// Part of the velocity that stays from batch to batch
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f32,
    /// Samples of a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub batch: u16,
    /// Largest norm of an update, in steps of the int8 weights; a larger one is scaled down to it
    #[arg(long, default_value_t = 1e4, value_name = "NORM")]
    pub clip: f32,
    /// Standard deviation of the privacy noise, in units of --clip; see docs/federation.md
    #[arg(long, default_value_t = 0.0, value_name = "DEVIATION")]
    pub noise: f32,
    /// Weight of the contrastive loss (contrastive, moon)
    #[arg(long, default_value_t = 0.5, value_name = "WEIGHT")]
    pub contrast_weight: f32,
    /// Temperature of the contrastive loss (contrastive, moon)
    #[arg(long, default_value_t = 0.5, value_name = "T")]
    pub temperature: f32,
    /// Weight of the proximal term (fedprox)
    #[arg(long, default_value_t = 0.01, value_name = "WEIGHT")]
    pub proximal: f32,
}

impl Learning {
    /// What is offered to devices, but for the round's number.
    pub fn offer(&self, method: Method, model: [u8; 8], max_samples: u32) -> Offer {
        let contrast = Contrast { weight: self.contrast_weight, temperature: self.temperature };
        Offer {
            model,
            round: 0,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            batch: self.batch,
            epochs: self.epochs,
            max_samples,
            contrast: (method == Method::Contrastive).then_some(contrast),
            proximal: if method == Method::FedProx { self.proximal } else { 0.0 },
            clip: self.clip,
            noise: self.noise,
        }
    }
}

/// A random generator for one purpose: the same for the same numbers, whatever was drawn before.
pub(crate) fn random(seed: u64, purpose: &[u64]) -> Pcg64 {
    // Golden-ratio steps keep close numbers apart; seeding mixes the bits.
    let mix = |sum: u64, &number: &u64| {
        (sum ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    };
    Pcg64::seed_from_u64(purpose.iter().fold(seed, mix))
}
