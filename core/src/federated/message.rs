//! What the server and a device tell each other. Encoded by postcard, sealed by a
//! [`Channel`](super::Channel): one command, one answer.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::learn::{LearnError, MAX_LAYERS, Plan, Settings};

/// Most bytes of values in one [`Command::Global`] or [`Reply::Part`].
pub const PART: usize = 448;

/// What the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Who are you? Answered with [`Reply::Enrolled`].
    Enrol,
    /// A round begins. An unfinished one is abandoned. Answered with [`Reply::Accepted`].
    Offer(Offer),
    /// Values of the global state, in order and without gaps; repeated ones are passed over. Answered with
    /// [`Reply::Received`].
    Global {
        /// Which values.
        part: Part,
        /// First byte of the part that `bytes` holds.
        offset: u32,
        /// Little-endian, at most [`PART`].
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// All parts are sent: learn. Answered with [`Reply::Status`].
    Learn {
        /// The round.
        round: u32,
    },
    /// How far are you? Answered with [`Reply::Status`].
    Status,
    /// Send values of the update. Answered with [`Reply::Part`].
    Fetch {
        /// The round.
        round: u32,
        /// Which values.
        part: Part,
        /// First byte of the part.
        offset: u32,
        /// At most [`PART`].
        len: u16,
    },
    /// The update arrived whole: keep what was learned. Answered with [`Reply::Status`].
    Acknowledge {
        /// The round.
        round: u32,
    },
    /// The round is over for this device; return to the state before. Answered with [`Reply::Status`].
    Abort {
        /// The round.
        round: u32,
    },
}

/// What a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<'a> {
    /// Counter of the command that this answers.
    pub answers: u64,
    /// The answer.
    #[serde(borrow)]
    pub reply: Reply<'a>,
}

/// The content of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// To [`Command::Enrol`].
    Enrolled(Enrolment),
    /// To [`Command::Offer`].
    Accepted {
        /// The round.
        round: u32,
    },
    /// To [`Command::Global`].
    Received {
        /// Which values.
        part: Part,
        /// Bytes of the part that are there: where to go on.
        next: u32,
    },
    /// What the device is at.
    Status(Status),
    /// To [`Command::Fetch`].
    Part {
        /// Which values.
        part: Part,
        /// First byte of the part that `bytes` holds.
        offset: u32,
        /// The values, little-endian.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// The command was refused.
    Refused(Refusal),
}

/// What a device is at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Status {
    /// In no round.
    Idle {
        /// The last round that it finished; 0 before the first.
        finished: u32,
    },
    /// Receiving the global state.
    Receiving {
        /// The round.
        round: u32,
    },
    /// Learning.
    Learning {
        /// The round.
        round: u32,
        /// Epochs done.
        epochs: u16,
    },
    /// The update can be fetched.
    Ready(Update),
}

/// A device and its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The model's id.
    pub model: [u8; 8],
    /// Nonzero weights of its tunable layers.
    pub weights: u32,
    /// Their output channels.
    pub biases: u32,
    /// Classes.
    pub classes: u16,
    /// Elements of the features.
    pub features: u32,
    /// The last round that the device finished; 0 before the first.
    pub finished: u32,
}

impl Enrolment {
    /// What a device with this plan says of itself that has finished these rounds.
    pub fn new(plan: &Plan<'_>, finished: u32) -> Self {
        Self {
            model: plan.model().id(),
            weights: plan.weight_count() as u32,
            biases: plan.channel_count() as u32,
            classes: plan.class_count() as u16,
            features: plan.feature_count() as u32,
            finished,
        }
    }
}

/// Values of the global state or of an update, and how wide they are on the way to the device and from
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Part {
    /// [`Parameters::weights`](crate::learn::Parameters): `i16`; differences from the global ones: `i8`,
    /// times [`Update::weight_scales`].
    Weights,
    /// [`Parameters::biases`](crate::learn::Parameters): `i32`; differences: `i8`, times
    /// [`Update::bias_scales`].
    Biases,
    /// Prototypes of the classes: `i8` both ways.
    Prototypes,
    /// Samples behind each prototype: `u32` both ways.
    Counts,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 4] = [Self::Weights, Self::Biases, Self::Prototypes, Self::Counts];
}

/// How to learn in a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The model that is tuned.
    pub model: [u8; 8],
    /// Number of the round, above all that the device has finished.
    pub round: u32,
    /// Step per unit of gradient.
    pub learning_rate: f32,
    /// Momentum.
    pub momentum: f32,
    /// Samples of a batch.
    pub batch: u16,
    /// Times that the device's samples are learned.
    pub epochs: u16,
    /// Most samples that an epoch may count.
    pub max_samples: u32,
    /// Contrastive distillation; prototypes are then part of the global state.
    pub contrast: Option<Contrast>,
    /// Weight of the proximal term of FedProx, which keeps the device's parameters near the global ones; 0
    /// for none.
    pub proximal: f32,
    /// Largest Euclidean norm of the update: see [`Update`]. An update above is scaled down to it.
    pub clip: f32,
    /// Standard deviation of Gaussian noise, in units of `clip`; 0 for none.
    pub noise: f32,
}

/// Settings of the contrastive distillation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Weight beside the cross-entropy.
    pub weight: f32,
    /// Temperature.
    pub temperature: f32,
}

impl Offer {
    /// Settings of the learner.
    pub fn settings(&self) -> Settings {
        let Self { learning_rate, momentum, batch, .. } = *self;
        Settings { learning_rate, momentum, batch }
    }

    /// Whether every number is within its range.
    ///
    /// # Errors
    ///
    /// Names the one that is not.
    pub fn check(&self) -> Result<(), Refusal> {
        let setting = |sound: bool, setting: Setting| {
            if sound { Ok(()) } else { Err(Refusal::Setting(setting)) }
        };
        self.settings().check().map_err(|error| match error {
            LearnError::Setting("momentum") => Refusal::Setting(Setting::Momentum),
            LearnError::Setting("batch") => Refusal::Setting(Setting::Batch),
            _ => Refusal::Setting(Setting::LearningRate),
        })?;
        setting(self.epochs > 0, Setting::Epochs)?;
        setting(self.max_samples > 0, Setting::MaxSamples)?;
        // Comparisons with NaN are false.
        setting(self.clip > 0.0 && self.clip <= MAX_CLIP, Setting::Clip)?;
        setting(self.noise >= 0.0 && self.noise <= 100.0, Setting::Noise)?;
        setting(self.proximal >= 0.0 && self.proximal <= 1e3, Setting::Proximal)?;
        if let Some(contrast) = self.contrast {
            setting(contrast.weight >= 0.0 && contrast.weight <= 1e3, Setting::Contrast)?;
            let range = 1e-3..=1e3;
            setting(range.contains(&contrast.temperature), Setting::Contrast)?;
        }
        Ok(())
    }
}

/// Largest bound of an update's norm.
pub const MAX_CLIP: f32 = 1e6;

/// What a device learned in a round: differences from the global parameters on the shared mask.
///
/// The *norm* that is clipped is Euclidean, of weights in integer steps and of biases in the steps of
/// their outputs that they shift. An `i8` times its layer's scale gives 1/256 of a step, as in
/// [`Parameters`](crate::learn::Parameters).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// The model.
    pub model: [u8; 8],
    /// The round.
    pub round: u32,
    /// Samples of the last epoch.
    pub samples: u32,
    /// Mean loss of the last epoch.
    pub loss: f32,
    /// Scale of each tunable layer's weights.
    pub weight_scales: [u16; MAX_LAYERS],
    /// Scale of each tunable layer's biases.
    pub bias_scales: [u32; MAX_LAYERS],
}

/// Why a device refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Refusal {
    /// The packet was authentic but not newer than what was accepted before. The server goes on with
    /// `expected`, as it must after it lost its counters.
    Replayed {
        /// Smallest counter that is accepted.
        expected: u64,
    },
    /// The packet holds no command that the device knows.
    Message,
    /// The offer is for another model.
    OtherModel {
        /// The device's.
        expected: [u8; 8],
    },
    /// The round is not above the last that the device finished: stale, or an attempt to roll back.
    StaleRound {
        /// The last round finished.
        finished: u32,
    },
    /// The device is not in this round.
    WrongRound {
        /// The round it is in, if any.
        current: Option<u32>,
    },
    /// The command does not fit what the device is at.
    State,
    /// A setting of the offer is no number or out of range.
    Setting(Setting),
    /// Values would leave a gap.
    Gap {
        /// Bytes of the part that are there.
        expected: u32,
    },
    /// Values reach past the end of a part, are cut in the middle, or are more than [`PART`] bytes.
    Range {
        /// Bytes of the part.
        len: u32,
    },
    /// Values of this part are missing.
    Incomplete(Part),
    /// What was learned could not be stored.
    Store,
}

/// A number of an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Setting {
    /// Learning rate.
    LearningRate,
    /// Momentum.
    Momentum,
    /// Samples of a batch.
    Batch,
    /// Epochs.
    Epochs,
    /// Most samples of an epoch.
    MaxSamples,
    /// Bound of the norm.
    Clip,
    /// Noise.
    Noise,
    /// Weight or temperature of the contrastive distillation.
    Contrast,
    /// Weight of the proximal term.
    Proximal,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replayed { expected } => {
                write!(f, "replayed packet: expected counter {expected} or above")
            }
            Self::Message => f.write_str("the packet holds no command that the device knows"),
            Self::OtherModel { expected } => {
                f.write_str("offer for another model; the device has ")?;
                expected.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::StaleRound { finished } => {
                write!(f, "stale round: the device has finished round {finished}")
            }
            Self::WrongRound { current: Some(round) } => {
                write!(f, "wrong round: the device is in round {round}")
            }
            Self::WrongRound { current: None } => f.write_str("wrong round: the device is in none"),
            Self::State => f.write_str("the command does not fit what the device is at"),
            Self::Setting(setting) => write!(f, "setting out of range: {setting:?}"),
            Self::Gap { expected } => write!(f, "values missing from byte {expected} on"),
            Self::Range { len } => write!(f, "values do not fit a part of {len} bytes"),
            Self::Incomplete(part) => write!(f, "values missing: {part:?}"),
            Self::Store => f.write_str("the device could not store what it learned"),
        }
    }
}

impl core::error::Error for Refusal {}
