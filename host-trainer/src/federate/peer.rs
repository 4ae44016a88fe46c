//! The server's side of the conversation with one device.

use std::time::Duration;

use niwaki_core::federated::{
    Answer, Channel, ChannelError, Command, Enrolment, MAX_PACKET, Offer, PART, Part, Refusal,
    Reply, Side, Status, Update, UpdateError,
};
use niwaki_core::learn::Plan;
use niwaki_core::link;
use niwaki_core::store::Counters;
use zerocopy::IntoBytes;

use super::{Delta, Global};

/// A device as a server reaches it.
pub trait Party: Send {
    /// Sends a packet and returns the device's answer.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    fn ask(&mut self, packet: &[u8]) -> Result<Vec<u8>, PartyError>;

    /// Lets a device work that says it is learning, and tells how long that took: an emulated device is given
    /// its samples, a real one time.
    ///
    /// # Errors
    ///
    /// When the device cannot be reached.
    fn work(&mut self) -> Result<Duration, PartyError>;
}

/// Why a device does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartyError {
    /// The packet or its answer was lost or damaged: worth another try.
    #[error("lost: {0}")]
    Lost(String),
    /// The device cannot be reached any more.
    #[error("vanished: {0}")]
    Vanished(String),
}

/// What is done with devices that were reached for a round.
pub type Visit<'v> = dyn FnMut(&mut [Box<dyn Party + '_>]) -> anyhow::Result<()> + 'v;

/// All devices of a federation.
pub trait Fleet: Sync {
    /// Number of devices; they are called 0, 1, ...
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that a device shares with the server.
    fn key(&self, client: u32) -> [u8; 32];

    /// Reaches some devices for a round and hands them to `visit`, in the same order.
    ///
    /// # Errors
    ///
    /// When `visit` fails, or the devices' own state cannot be kept. A device that cannot be reached is no
    /// error here: it fails when it is asked.
    fn assemble(&self, round: u32, clients: &[u32], visit: &mut Visit<'_>) -> anyhow::Result<()>;
}

/// Why a device's round ended without an update that is used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DropOut {
    /// It did not answer.
    #[error("{0}")]
    Silent(PartyError),
    /// It was not ready in time.
    #[error("no update within {} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// It refused a command.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Its packet was not accepted, or no packet could be made for it.
    #[error("packet not accepted: {0}")]
    Channel(ChannelError),
    /// Its answer is of another kind than was asked, or to another question.
    #[error("answer of another kind than asked for")]
    Unexpected,
    /// Its model is another, or has another shape.
    #[error("the device holds another model")]
    OtherModel,
    /// Its update is not used.
    #[error("update not used: {0}")]
    Update(UpdateError),
    /// Its counts by class do not add up to its samples.
    #[error("update not used: classes count {found} samples, the update {expected}")]
    Counts {
        /// Samples that the update counts.
        expected: u32,
        /// Sum over the classes.
        found: u64,
    },
}

/// Times that a command is sent whose packet or answer is lost.
const ATTEMPTS: usize = 3;

/// Numbers that are reserved on the server's disk at a time.
const BLOCK: u32 = 1 << 16;

/// The server's end of the channel to one device, which counts the bytes that pass.
pub(super) struct Peer {
    channel: Channel,
    /// Bytes of frames from the device.
    pub(super) up: u64,
    /// Bytes of frames to the device.
    pub(super) down: u64,
}

impl Peer {
    /// The channel behind `stored` counters, and the counters to store before it is used.
    pub(super) fn new(key: &[u8; 32], stored: Counters) -> Result<(Self, Counters), ChannelError> {
        let mut channel = Channel::new(key, Side::Server, stored, BLOCK);
        let reserved = channel.needed_to_send()?.unwrap_or(stored);
        // An answer repeats the number of its question, which is used once: recorded answers fit no later
        // question, and what was received last need not be stored before each answer.
        channel.reserved(Counters { receive: u64::MAX, ..reserved });
        Ok((Self { channel, up: 0, down: 0 }, Counters { receive: stored.receive, ..reserved }))
    }

    /// Numbers that come next.
    pub(super) fn counters(&self) -> Counters {
        self.channel.next()
    }

    /// Asks the device; `take` picks what was asked for.
    fn ask<T>(
        &mut self,
        party: &mut dyn Party,
        command: &Command<'_>,
        mut take: impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<T, DropOut> {
        let mut lost = PartyError::Lost(String::new());
        for _ in 0..ATTEMPTS {
            let mut buffer = [0; MAX_PACKET];
            let (packet, number) =
                self.channel.seal(command, &mut buffer).map_err(DropOut::Channel)?;
            self.down += frame_len(&link::Request::Federated(packet));
            let answer = match party.ask(packet) {
                Ok(answer) => answer,
                Err(error @ PartyError::Lost(_)) => {
                    lost = error;
                    continue;
                }
                Err(error) => return Err(DropOut::Silent(error)),
            };
            self.up += frame_len(&link::Response::Federated(&answer));
            let mut text = [0; MAX_PACKET];
            let (Answer { answers, reply }, _) =
                self.channel.open(&answer, &mut text).map_err(DropOut::Channel)?;
            match reply {
                // The server has lost its place, and the device says where to go on.
                Reply::Refused(Refusal::Replayed { expected }) if expected > number => {
                    self.channel.skip_to(expected);
                }
                _ if answers != number => return Err(DropOut::Unexpected),
                Reply::Refused(refusal) => return Err(DropOut::Refused(refusal)),
                reply => return take(reply).ok_or(DropOut::Unexpected),
            }
        }
        Err(DropOut::Silent(lost))
    }

    /// A device's round, from the offer to the last value of its update. A device that was begun with and
    /// failed is told to abandon the round.
    pub(super) fn gather(
        &mut self,
        party: &mut dyn Party,
        plan: &Plan<'_>,
        offer: &Offer,
        global: &Global,
        deadline: Duration,
    ) -> Result<(Update, Delta), DropOut> {
        let result = self.attempt(party, plan, offer, global, deadline);
        if !matches!(result, Ok(_) | Err(DropOut::Silent(_) | DropOut::OtherModel)) {
            // Whether it hears that or not: the next offer ends the round, too.
            let _ = self.end(party, &Command::Abort { round: offer.round });
        }
        result
    }

    fn attempt(
        &mut self,
        party: &mut dyn Party,
        plan: &Plan<'_>,
        offer: &Offer,
        global: &Global,
        deadline: Duration,
    ) -> Result<(Update, Delta), DropOut> {
        let round = offer.round;
        if self.channel.next().receive == 0 {
            let enrolment = self.ask(party, &Command::Enrol, |reply| match reply {
                Reply::Enrolled(enrolment) => Some(enrolment),
                _ => None,
            })?;
            let expected = Enrolment::new(plan, enrolment.finished);
            if enrolment != expected {
                return Err(DropOut::OtherModel);
            }
        }
        self.ask(party, &Command::Offer(*offer), |reply| {
            (reply == Reply::Accepted { round }).then_some(())
        })?;
        let contrast = offer.contrast.is_some();
        let wanted = |part: &Part| contrast || matches!(part, Part::Weights | Part::Biases);
        for part in Part::ALL.into_iter().filter(wanted) {
            let values = match part {
                Part::Weights => global.weights.as_bytes(),
                Part::Biases => global.biases.as_bytes(),
                Part::Prototypes => global.prototypes.as_bytes(),
                Part::Counts => global.counts.as_bytes(),
            };
            let mut offset = 0;
            for bytes in values.chunks(PART) {
                let next = offset + bytes.len() as u32;
                let command = Command::Global { part, offset, bytes };
                self.ask(party, &command, |reply| {
                    (reply == Reply::Received { part, next }).then_some(())
                })?;
                offset = next;
            }
        }
        self.ask(party, &Command::Learn { round }, status)?;
        let mut waited = Duration::ZERO;
        let update = loop {
            match self.ask(party, &Command::Status, status)? {
                Status::Ready(update) => break update,
                Status::Learning { round: at, .. } if at == round => {}
                // It has started anew, or is in another round.
                _ => return Err(DropOut::Unexpected),
            }
            waited = waited.saturating_add(party.work().map_err(DropOut::Silent)?);
            if waited > deadline {
                return Err(DropOut::Deadline(deadline));
            }
        };
        update.check(offer).map_err(DropOut::Update)?;
        let [mut weights, mut biases] =
            [vec![0; plan.weight_count()], vec![0; plan.channel_count()]];
        let (mut prototypes, mut counts) = (vec![], vec![]);
        self.fetch(party, round, Part::Weights, weights.as_mut_bytes())?;
        self.fetch(party, round, Part::Biases, biases.as_mut_bytes())?;
        if contrast {
            prototypes = vec![0; global.prototypes.len()];
            counts = vec![0; global.counts.len()];
            self.fetch(party, round, Part::Prototypes, prototypes.as_mut_bytes())?;
            self.fetch(party, round, Part::Counts, counts.as_mut_bytes())?;
        }
        let delta = checked(plan, offer, &update, &weights, &biases, prototypes, counts)?;
        Ok((update, delta))
    }

    fn fetch(
        &mut self,
        party: &mut dyn Party,
        round: u32,
        part: Part,
        values: &mut [u8],
    ) -> Result<(), DropOut> {
        let mut offset = 0;
        for slots in values.chunks_mut(PART) {
            let len = slots.len() as u16;
            let command = Command::Fetch { round, part, offset, len };
            self.ask(party, &command, |reply| match reply {
                Reply::Part { part: of, offset: at, bytes }
                    if (of, at, bytes.len()) == (part, offset, slots.len()) =>
                {
                    slots.copy_from_slice(bytes);
                    Some(())
                }
                _ => None,
            })?;
            offset += u32::from(len);
        }
        Ok(())
    }

    /// Tells a device that its update arrived and is stored.
    pub(super) fn acknowledge(&mut self, party: &mut dyn Party, round: u32) -> Result<(), DropOut> {
        self.end(party, &Command::Acknowledge { round })
    }

    /// Tells a device that its update is not used.
    pub(super) fn abort(&mut self, party: &mut dyn Party, round: u32) -> Result<(), DropOut> {
        self.end(party, &Command::Abort { round })
    }

    fn end(&mut self, party: &mut dyn Party, command: &Command<'_>) -> Result<(), DropOut> {
        match self.ask(party, command, status)? {
            Status::Idle { .. } => Ok(()),
            _ => Err(DropOut::Unexpected),
        }
    }
}

fn status(reply: Reply<'_>) -> Option<Status> {
    match reply {
        Reply::Status(status) => Some(status),
        _ => None,
    }
}

/// The update as differences, where it may be used.
fn checked(
    plan: &Plan<'_>,
    offer: &Offer,
    update: &Update,
    weights: &[i8],
    biases: &[i8],
    prototypes: Vec<i8>,
    counts: Vec<u32>,
) -> Result<Delta, DropOut> {
    let found = counts.iter().map(|&count| u64::from(count)).sum();
    if offer.contrast.is_some() && found != u64::from(update.samples) {
        return Err(DropOut::Counts { expected: update.samples, found });
    }
    let (mut weight_differences, mut bias_differences) = (Vec::new(), Vec::new());
    let norm = update
        .differences(
            plan,
            weights,
            biases,
            norm_limit(plan, offer),
            |_, value| weight_differences.push(value),
            |_, value| bias_differences.push(value),
        )
        .map_err(DropOut::Update)?;
    Ok(Delta {
        samples: update.samples,
        weights: weight_differences,
        biases: bias_differences,
        norm,
        prototypes,
        counts,
    })
}

/// The largest norm of an honest update of `n` values. Clipping leaves `clip`. Noise of `z clip` per value
/// has a norm of about `z clip √n`; a norm of four `z clip` more is out of reach by chance. Quantisation
/// adds up to half a scale per value now and as much from the round before, where a scale is at most the
/// largest value / 127 and never below 1/256 of a step.
fn norm_limit(plan: &Plan<'_>, offer: &Offer) -> f32 {
    let root = ((plan.weight_count() + plan.channel_count()) as f32).sqrt();
    let noised = offer.clip * (1.0 + offer.noise * (root + 4.0));
    let largest = offer.clip * (1.0 + 6.0 * offer.noise);
    noised + root * (1.1 * largest / 127.0 + 1.0 / 128.0)
}

/// Bytes that a message takes on the line.
fn frame_len(message: &impl serde::Serialize) -> u64 {
    // Sequence numbers are not part of the packet: the same one for all makes counts comparable.
    let mut buffer = [0; link::MAX_FRAME];
    link::encode(1, message, &mut buffer).map_or(0, |frame| frame.len() as u64)
}
