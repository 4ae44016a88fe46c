//! Devices that learn together without their data leaving them.
//!
//! The device's side is a state machine, [`Client`]: it is handed the packets that arrive, over whatever
//! line, and returns the packets to send. Packets travel in
//! [`Request::Federated`](crate::link::Request::Federated) and
//! [`Response::Federated`](crate::link::Response::Federated) frames, which find damage on the line; a packet
//! itself is sealed, so that a stranger's, a changed or a repeated one is refused. The server asks and the
//! device answers; every command may be repeated when its answer was lost.
//!
//! # A round
//!
//! | command | what the device does |
//! |---|---|
//! | [`Enrol`](Command::Enrol) | says which model it has and which round it finished last |
//! | [`Offer`](Command::Offer) | checks model, round and settings |
//! | [`Global`](Command::Global) ... | takes the global parameters and, for contrastive distillation, prototypes |
//! | [`Learn`](Command::Learn) | begins: the application feeds its samples |
//! | [`Status`](Command::Status) ... | says how far it is |
//! | [`Fetch`](Command::Fetch) ... | sends the update: 8 bits per nonzero weight |
//! | [`Acknowledge`](Command::Acknowledge) | stores what it learned, with the round's number |
//!
//! [`Abort`](Command::Abort), a newer offer and a restart return the device to its last stored state.
//!
//! # What is defended
//!
//! * Packets: authenticated encryption with a key per device, and counters that are never used twice, see
//!   [`Channel`].
//! * Rollback: a round must be above the last that was finished, whose number is stored with the state.
//! * Values: parameters travel as integers, so that none is not a number; settings are checked; an update's
//!   norm, model, round and count of samples are checked by the server with [`Update::check`] and
//!   [`Update::differences`].
//!
//! The threat model and the meaning of the privacy noise: `docs/federation.md`.

mod channel;
mod client;
mod message;
mod update;

pub use channel::{Channel, ChannelError, LABEL, MAX_MESSAGE, MAX_PACKET, Side};
pub use client::{Client, ClientError, Journal, Sealed};
pub use message::{
    Answer, Command, Contrast, Enrolment, MAX_CLIP, Offer, PART, Part, Refusal, Reply, Setting,
    Status, Update,
};
pub use update::{UpdateError, quantise};

#[cfg(test)]
mod tests;
