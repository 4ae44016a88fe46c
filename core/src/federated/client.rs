//! The device's side of the federation: a state machine that does no input or output itself.

use core::fmt;
use core::mem::size_of_val;

use zerocopy::IntoBytes;

use super::channel::{Channel, ChannelError, MAX_PACKET};
use super::message::{
    Answer, Command, Enrolment, Offer, PART, Part, Refusal, Reply, Status, Update,
};
use super::update::{self, Buffers, quantise};
use crate::learn::{
    Contrast, LearnError, Learner, MAX_LAYERS, Parameters, Plan, Prototypes, Proximal, Terms,
    memory, split,
};
use crate::session::Session;
use crate::store::{Counters, Snapshot, Store, StoreError};

/// Permanent storage of a client. [`Store`] is one.
pub trait Journal {
    /// Why storing fails.
    type Error: fmt::Debug;

    /// Stores the counters of the channel.
    ///
    /// # Errors
    ///
    /// When they may not be stored.
    fn save_counters(&mut self, counters: &Counters) -> Result<(), Self::Error>;

    /// Makes the parts the state, all or none.
    ///
    /// # Errors
    ///
    /// When they may not be stored; the old state stands then.
    fn save(&mut self, snapshot: &Snapshot, parts: &[&[u8]]) -> Result<(), Self::Error>;

    /// Reads the model's state. `None` when there is none for this model; the parts may hold anything then.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn load(
        &mut self,
        model: [u8; 8],
        parts: &mut [&mut [u8]],
    ) -> Result<Option<Snapshot>, Self::Error>;
}

impl<F: embedded_storage::nor_flash::NorFlash> Journal for Store<F> {
    type Error = StoreError<F::Error>;

    fn save_counters(&mut self, counters: &Counters) -> Result<(), Self::Error> {
        Self::save_counters(self, counters)
    }

    fn save(&mut self, snapshot: &Snapshot, parts: &[&[u8]]) -> Result<(), Self::Error> {
        Self::save(self, snapshot, parts)
    }

    fn load(
        &mut self,
        model: [u8; 8],
        parts: &mut [&mut [u8]],
    ) -> Result<Option<Snapshot>, Self::Error> {
        match Self::load(self, model, parts) {
            // State of a model that is not there any more.
            Err(StoreError::OtherModel { .. } | StoreError::Length { .. }) => Ok(None),
            other => other,
        }
    }
}

/// Why a client cannot go on. The server gets no answer then.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientError<E> {
    /// The packet was not accepted, or the answer could not be sealed.
    Channel(ChannelError),
    /// Learning failed.
    Learn(LearnError),
    /// Permanent storage failed.
    Journal(E),
    /// There is no round to learn for.
    NoRound,
    /// The epoch has counted as many samples as the offer allows.
    TooManySamples {
        /// The largest count.
        limit: u32,
    },
}

impl<E: fmt::Debug> fmt::Display for ClientError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Learn(error) => error.fmt(f),
            Self::Journal(error) => write!(f, "permanent storage failed: {error:?}"),
            Self::NoRound => f.write_str("there is no round to learn for"),
            Self::TooManySamples { limit } => {
                write!(f, "an epoch of this round has at most {limit} samples")
            }
        }
    }
}

impl<E: fmt::Debug> core::error::Error for ClientError<E> {}

impl<E> From<ChannelError> for ClientError<E> {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl<E> From<LearnError> for ClientError<E> {
    fn from(error: LearnError) -> Self {
        Self::Learn(error)
    }
}

/// What the device is at.
#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    /// Bytes of each part that have arrived.
    Receiving {
        offer: Offer,
        received: [u32; 4],
    },
    Learning {
        offer: Offer,
        epochs: u16,
        samples: u32,
        loss: f32,
    },
    Ready {
        offer: Offer,
        update: Update,
    },
}

impl State {
    fn round(&self) -> Option<u32> {
        match self {
            Self::Idle => None,
            Self::Receiving { offer, .. }
            | Self::Learning { offer, .. }
            | Self::Ready { offer, .. } => Some(offer.round),
        }
    }
}

/// A sealed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'o> {
    /// The packet to send.
    pub packet: &'o [u8],
    /// What the answer refuses, if anything: for the device's log.
    pub refused: Option<Refusal>,
}

/// A device of a federation.
///
/// [`receive`](Self::receive) is given each packet of the server and returns the packet to answer with.
/// When [`work`](Self::work) names an offer, the application calls [`learn`](Self::learn) for each of its
/// samples and [`end_epoch`](Self::end_epoch) after the last, as often as the offer has epochs.
#[derive(Debug)]
pub struct Client<'m, 'b> {
    learner: Learner<'m, 'b>,
    channel: Channel,
    state: State,
    /// The last round that was finished and stored.
    finished: u32,
    /// The global parameters, and once learning is done the values to send.
    weights: &'b mut [i16],
    biases: &'b mut [i32],
    /// What earlier updates left out.
    weight_residuals: &'b mut [i16],
    bias_residuals: &'b mut [i32],
    /// Global prototypes; once learning is done the device's own.
    prototypes: &'b mut [i8],
    counts: &'b mut [u32],
    /// Sums of the device's features by class, in this epoch.
    sums: &'b mut [i32],
    own_counts: &'b mut [u32],
}

impl<'m, 'b> Client<'m, 'b> {
    /// Bytes of memory that a client needs beside its learner's: 4 per weight, 8 per output channel, and
    /// per class 8 and 5 per feature.
    pub fn memory_len(plan: &Plan<'_>) -> usize {
        let (weights, biases) = (plan.weight_count(), plan.channel_count());
        let (classes, features) = (plan.class_count(), plan.feature_count());
        let prototypes = classes.saturating_mul(features);
        let parts = [
            weights.saturating_mul(4),
            biases.saturating_mul(8),
            prototypes.saturating_mul(5),
            classes.saturating_mul(8),
        ];
        parts.into_iter().fold(0, usize::saturating_add)
    }

    /// Bytes of a snapshot, for [`Store::flash_len`]: parameters, and what earlier updates left out.
    pub fn snapshot_len(plan: &Plan<'_>) -> usize {
        let (weights, biases) = (plan.weight_count(), plan.channel_count());
        weights.saturating_mul(4).saturating_add(biases.saturating_mul(8))
    }

    /// A client in `memory` of at least [`memory_len`](Self::memory_len) bytes, at a multiple of four, that
    /// goes on from what the journal holds.
    ///
    /// `channel` must begin behind the counters that the journal holds.
    ///
    /// # Errors
    ///
    /// When the memory is too small or misaligned, or the journal cannot be read.
    pub fn new<J: Journal>(
        learner: Learner<'m, 'b>,
        channel: Channel,
        memory: &'b mut [u8],
        journal: &mut J,
    ) -> Result<Self, ClientError<J::Error>> {
        let plan = *learner.plan();
        let mut rest = self::memory(memory, Self::memory_len(&plan))?;
        let (weights, biases) = (plan.weight_count(), plan.channel_count());
        let classes = plan.class_count();
        let prototypes = classes.saturating_mul(plan.feature_count());
        let mut client = Self {
            learner,
            channel,
            state: State::Idle,
            finished: 0,
            biases: split(&mut rest, biases)?,
            bias_residuals: split(&mut rest, biases)?,
            counts: split(&mut rest, classes)?,
            own_counts: split(&mut rest, classes)?,
            sums: split(&mut rest, prototypes)?,
            weights: split(&mut rest, weights)?,
            weight_residuals: split(&mut rest, weights)?,
            prototypes: split(&mut rest, prototypes)?,
        };
        client.restore(journal)?;
        Ok(client)
    }

    /// The learner: to run the model as it was learned last, through
    /// [`Learner::tail`].
    pub fn learner(&self) -> &Learner<'m, 'b> {
        &self.learner
    }

    /// The last round that was finished and stored; 0 before the first.
    pub fn finished(&self) -> u32 {
        self.finished
    }

    /// Counters of the channel: a device that is switched off in good order may store them in place of its
    /// last reservation, and wastes no numbers.
    pub fn counters(&self) -> Counters {
        self.channel.next()
    }

    /// The offer to learn for, when there is one and epochs are left.
    pub fn work(&self) -> Option<&Offer> {
        match &self.state {
            State::Learning { offer, .. } => Some(offer),
            _ => None,
        }
    }

    /// Opens a packet of the server, does what it says and seals the answer into `buffer`, which should
    /// have [`MAX_PACKET`] bytes.
    ///
    /// # Errors
    ///
    /// When there is nothing to answer: the packet is not the server's, or storage failed. The state is
    /// then as before.
    pub fn receive<'o, J: Journal>(
        &mut self,
        packet: &[u8],
        journal: &mut J,
        buffer: &'o mut [u8],
    ) -> Result<Sealed<'o>, ClientError<J::Error>> {
        let mut text = [0; MAX_PACKET];
        let opened = match self.channel.open(packet, &mut text) {
            Err(ChannelError::Reserve(counters)) => {
                journal.save_counters(&counters).map_err(ClientError::Journal)?;
                self.channel.reserved(counters);
                self.channel.open(packet, &mut text)
            }
            opened => opened,
        };
        let (answers, command) = match opened {
            Ok((command, counter)) => (counter, Ok(command)),
            Err(ChannelError::Replayed { expected, found }) => {
                (found, Err(Refusal::Replayed { expected }))
            }
            // Authentic, of a server that knows other commands.
            Err(ChannelError::Message) => {
                (self.channel.next().receive.wrapping_sub(1), Err(Refusal::Message))
            }
            Err(error) => return Err(error.into()),
        };
        let mut values = [0; PART];
        let reply = match command
            .and_then(|command: Command<'_>| self.execute(&command, journal, &mut values))
        {
            Ok(reply) => reply,
            Err(refusal) => Reply::Refused(refusal),
        };
        let refused = if let Reply::Refused(refusal) = reply { Some(refusal) } else { None };
        let answer = Answer { answers, reply };
        if let Some(counters) = self.channel.needed_to_send()? {
            journal.save_counters(&counters).map_err(ClientError::Journal)?;
            self.channel.reserved(counters);
        }
        let (packet, _) = self.channel.seal(&answer, buffer)?;
        Ok(Sealed { packet, refused })
    }

    fn execute<'v, J: Journal>(
        &mut self,
        command: &Command<'_>,
        journal: &mut J,
        values: &'v mut [u8; PART],
    ) -> Result<Reply<'v>, Refusal> {
        match *command {
            Command::Enrol => {
                Ok(Reply::Enrolled(Enrolment::new(self.learner.plan(), self.finished)))
            }
            Command::Offer(offer) => self.offer(offer, journal),
            Command::Global { part, offset, bytes } => self.global(part, offset, bytes),
            Command::Learn { round } => {
                self.begin(round)?;
                Ok(Reply::Status(self.status()))
            }
            Command::Status => Ok(Reply::Status(self.status())),
            Command::Fetch { round, part, offset, len } => {
                self.in_round(round)?;
                let bytes = self.fetch(part, offset, len, values)?;
                Ok(Reply::Part { part, offset, bytes })
            }
            Command::Acknowledge { round } => {
                // Its answer may have been lost.
                if !(self.state.round().is_none() && round == self.finished && round > 0) {
                    self.in_round(round)?;
                    self.finish(journal)?;
                }
                Ok(Reply::Status(self.status()))
            }
            Command::Abort { round } => {
                if self.state.round().is_some() {
                    self.in_round(round)?;
                    self.restore(journal).map_err(|_| Refusal::Store)?;
                }
                Ok(Reply::Status(self.status()))
            }
        }
    }

    fn in_round(&self, round: u32) -> Result<(), Refusal> {
        let current = self.state.round();
        if current == Some(round) { Ok(()) } else { Err(Refusal::WrongRound { current }) }
    }

    fn status(&self) -> Status {
        match self.state {
            State::Idle => Status::Idle { finished: self.finished },
            State::Receiving { offer, .. } => Status::Receiving { round: offer.round },
            State::Learning { offer, epochs, .. } => {
                Status::Learning { round: offer.round, epochs }
            }
            State::Ready { update, .. } => Status::Ready(update),
        }
    }

    fn offer<J: Journal>(
        &mut self,
        offer: Offer,
        journal: &mut J,
    ) -> Result<Reply<'static>, Refusal> {
        let expected = self.learner.plan().model().id();
        if offer.model != expected {
            return Err(Refusal::OtherModel { expected });
        }
        if offer.round <= self.finished {
            return Err(Refusal::StaleRound { finished: self.finished });
        }
        // A server that resumes offers the round again; an older one than the current is stale.
        if let Some(current) = self.state.round().filter(|&current| offer.round < current) {
            return Err(Refusal::WrongRound { current: Some(current) });
        }
        offer.check()?;
        if !matches!(self.state, State::Idle) {
            self.restore(journal).map_err(|_| Refusal::Store)?;
        }
        self.counts.fill(0);
        self.state = State::Receiving { offer, received: [0; 4] };
        Ok(Reply::Accepted { round: offer.round })
    }

    /// Bytes of a part of the global state.
    fn part_len(&self, part: Part) -> u32 {
        let len = match part {
            Part::Weights => size_of_val(&*self.weights),
            Part::Biases => size_of_val(&*self.biases),
            Part::Prototypes => size_of_val(&*self.prototypes),
            Part::Counts => size_of_val(&*self.counts),
        };
        len as u32
    }

    fn global(&mut self, part: Part, offset: u32, bytes: &[u8]) -> Result<Reply<'static>, Refusal> {
        let len = self.part_len(part);
        let State::Receiving { received, .. } = &mut self.state else {
            return Err(Refusal::State);
        };
        let place = received.get_mut(part as usize).ok_or(Refusal::State)?;
        let whole = match part {
            Part::Weights => 2,
            Part::Biases | Part::Counts => 4,
            Part::Prototypes => 1,
        };
        let count = bytes.len() as u32;
        let end = offset.checked_add(count).filter(|&end| end <= len);
        let end = end.filter(|_| {
            bytes.len() <= PART && offset.is_multiple_of(whole) && count.is_multiple_of(whole)
        });
        let end = end.ok_or(Refusal::Range { len })?;
        if offset > *place {
            return Err(Refusal::Gap { expected: *place });
        }
        // What is there already is passed over: the answer to it was lost.
        if end > *place {
            let skipped = place.wrapping_sub(offset) as usize;
            let to = match part {
                Part::Weights => self.weights.as_mut_bytes(),
                Part::Biases => self.biases.as_mut_bytes(),
                Part::Prototypes => self.prototypes.as_mut_bytes(),
                Part::Counts => self.counts.as_mut_bytes(),
            };
            let to = to.get_mut(*place as usize..).unwrap_or_default();
            to.iter_mut().zip(bytes.iter().skip(skipped)).for_each(|(to, &from)| *to = from);
            *place = end;
        }
        Ok(Reply::Received { part, next: *place })
    }

    fn begin(&mut self, round: u32) -> Result<(), Refusal> {
        self.in_round(round)?;
        let State::Receiving { offer, received } = self.state else {
            // Its answer may have been lost.
            return Ok(());
        };
        for (part, received) in Part::ALL.into_iter().zip(received) {
            let needed = matches!(part, Part::Weights | Part::Biases) || offer.contrast.is_some();
            if needed && received != self.part_len(part) {
                return Err(Refusal::Incomplete(part));
            }
        }
        let parameters = Parameters { weights: self.weights, biases: self.biases };
        let set = self.learner.set_parameters(&parameters);
        set.and_then(|()| self.learner.set_settings(offer.settings()))
            .map_err(|_| Refusal::State)?;
        self.sums.fill(0);
        self.own_counts.fill(0);
        self.state = State::Learning { offer, epochs: 0, samples: 0, loss: 0.0 };
        Ok(())
    }

    /// Learns one sample of the current epoch; returns its loss.
    ///
    /// # Errors
    ///
    /// When there is no round to learn for, the epoch is full, or the sample does not fit.
    pub fn learn<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
        input: &[i8],
        label: usize,
    ) -> Result<f32, ClientError<core::convert::Infallible>> {
        session.set_input(input).map_err(LearnError::from)?;
        self.learn_loaded(session, label, None)
    }

    /// As [`learn`](Self::learn), of the input that [`Session::input_mut`] was filled with. With an `own`
    /// contrastive term, the application compares with features of its own choice instead of the round's
    /// prototypes.
    ///
    /// # Errors
    ///
    /// As [`learn`](Self::learn).
    pub fn learn_loaded<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
        label: usize,
        own: Option<Contrast<'_>>,
    ) -> Result<f32, ClientError<core::convert::Infallible>> {
        let State::Learning { offer, samples, loss, .. } = &mut self.state else {
            return Err(ClientError::NoRound);
        };
        if *samples >= offer.max_samples {
            return Err(ClientError::TooManySamples { limit: offer.max_samples });
        }
        let offered = offer.contrast.map(|contrast| Contrast {
            prototypes: Prototypes { values: self.prototypes, counts: self.counts },
            weight: contrast.weight,
            temperature: contrast.temperature,
        });
        let anchor = Parameters { weights: self.weights, biases: self.biases };
        let proximal = Proximal { anchor, weight: offer.proximal };
        let terms = Terms {
            contrast: own.or(offered),
            proximal: Some(proximal).filter(|proximal| proximal.weight > 0.0),
        };
        let of_sample = self.learner.learn_loaded(session, label, &terms)?;
        *loss += of_sample;
        *samples = samples.wrapping_add(1);
        if let Some(count) = self.own_counts.get_mut(label) {
            *count = count.wrapping_add(1);
        }
        let features = self.learner.features();
        let sums = self.sums.chunks_exact_mut(features.len().max(1)).nth(label).unwrap_or_default();
        for (sum, &feature) in sums.iter_mut().zip(features) {
            *sum = sum.saturating_add(feature.into());
        }
        Ok(of_sample)
    }

    /// Ends an epoch; after the last one of the offer, makes the update. `random` gives uniform 32-bit
    /// numbers for the noise, where the offer asks for any: from a source that an attacker cannot predict.
    /// Returns whether the update is ready.
    ///
    /// # Errors
    ///
    /// When there is no round to learn for or the epoch was empty.
    pub fn end_epoch(
        &mut self,
        random: &mut dyn FnMut() -> u32,
    ) -> Result<bool, ClientError<core::convert::Infallible>> {
        let State::Learning { offer, epochs, samples, loss } = &mut self.state else {
            return Err(ClientError::NoRound);
        };
        if *samples == 0 {
            return Err(ClientError::NoRound);
        }
        self.learner.finish_batch();
        *epochs = epochs.saturating_add(1);
        if *epochs < offer.epochs {
            (*samples, *loss) = (0, 0.0);
            self.sums.fill(0);
            self.own_counts.fill(0);
            return Ok(false);
        }
        let (offer, samples, loss) = (*offer, *samples, *loss);
        let plan = self.learner.plan();
        let (weight_scales, bias_scales) = update::make(
            plan,
            &self.learner.parameters(),
            Buffers {
                weights: self.weights,
                biases: self.biases,
                weight_residuals: self.weight_residuals,
                bias_residuals: self.bias_residuals,
            },
            &offer,
            random,
        );
        // The global prototypes have served.
        let features = plan.feature_count().max(1);
        let classes =
            self.prototypes.chunks_exact_mut(features).zip(self.sums.chunks_exact(features));
        for ((prototype, sums), &count) in classes.zip(self.own_counts.iter()) {
            for (slot, &sum) in prototype.iter_mut().zip(sums) {
                let mean = if count == 0 { 0.0 } else { sum as f32 / count as f32 };
                *slot = libm::roundf(mean) as i8;
            }
        }
        let update = Update {
            model: offer.model,
            round: offer.round,
            samples,
            loss: loss / samples.max(1) as f32,
            weight_scales,
            bias_scales,
        };
        self.state = State::Ready { offer, update };
        Ok(true)
    }

    /// Values of the update from byte `offset` on.
    fn fetch<'v>(
        &self,
        part: Part,
        offset: u32,
        len: u16,
        values: &'v mut [u8; PART],
    ) -> Result<&'v [u8], Refusal> {
        let State::Ready { update, .. } = &self.state else { return Err(Refusal::State) };
        let total = match part {
            Part::Weights => self.weights.len(),
            Part::Biases => self.biases.len(),
            Part::Prototypes => self.prototypes.len(),
            Part::Counts => size_of_val(&*self.own_counts),
        };
        let (start, len) = (offset as usize, usize::from(len));
        let fits = start.checked_add(len).is_some_and(|end| end <= total);
        let refusal = Refusal::Range { len: total as u32 };
        let values = values.get_mut(..len).filter(|_| fits).ok_or(refusal)?;
        match part {
            Part::Weights | Part::Biases => {
                for (index, slot) in (start..).zip(values.iter_mut()) {
                    *slot = self.quantised(update, part, index) as u8;
                }
            }
            Part::Prototypes => {
                let from = self.prototypes.iter().skip(start);
                values.iter_mut().zip(from).for_each(|(to, &from)| *to = from as u8);
            }
            Part::Counts => {
                let from = self.own_counts.as_bytes().iter().skip(start);
                values.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
        Ok(values)
    }

    /// Value `index` of the update as it is sent.
    fn quantised(&self, update: &Update, part: Part, index: usize) -> i8 {
        let plan = self.learner.plan();
        for layer in 0..MAX_LAYERS {
            let Some((_, weights, biases)) = plan.layer(layer) else { break };
            let (range, scale) = match part {
                Part::Weights => {
                    (weights, update.weight_scales.get(layer).map_or(1, |&scale| scale.into()))
                }
                _ => (biases, update.bias_scales.get(layer).copied().unwrap_or(1)),
            };
            if range.contains(&index) {
                let value = match part {
                    Part::Weights => self.weights.get(index).map_or(0, |&value| value.into()),
                    _ => self.biases.get(index).copied().unwrap_or(0),
                };
                return quantise(value, scale);
            }
        }
        0
    }

    /// Keeps what was learned: it becomes the device's model, and what the update left out waits for the
    /// next one.
    fn finish<J: Journal>(&mut self, journal: &mut J) -> Result<(), Refusal> {
        let State::Ready { offer, update } = self.state else { return Err(Refusal::State) };
        // The values to send become what was left out of them; they serve no more.
        for index in 0..self.weights.len() {
            let sent = i32::from(self.quantised(&update, Part::Weights, index));
            let scale = self.weight_scale(&update, index);
            if let Some(value) = self.weights.get(index) {
                let rest = i32::from(*value).wrapping_sub(sent.wrapping_mul(scale));
                if let Some(slot) = self.weight_residuals.get_mut(index) {
                    *slot = rest.max(i16::MIN.into()).min(i16::MAX.into()) as i16;
                }
            }
        }
        for index in 0..self.biases.len() {
            let sent = i64::from(self.quantised(&update, Part::Biases, index));
            let scale = i64::from(self.bias_scale(&update, index));
            if let Some(&value) = self.biases.get(index) {
                let rest = i64::from(value).wrapping_sub(sent.wrapping_mul(scale));
                if let Some(slot) = self.bias_residuals.get_mut(index) {
                    *slot = rest as i32;
                }
            }
        }
        let parameters = self.learner.parameters();
        let parts = [
            parameters.weights.as_bytes(),
            parameters.biases.as_bytes(),
            self.weight_residuals.as_bytes(),
            self.bias_residuals.as_bytes(),
        ];
        let snapshot = Snapshot { model: offer.model, round: offer.round };
        if journal.save(&snapshot, &parts).is_err() {
            // The round can be acknowledged again: the values to send are still there.
            return Err(Refusal::Store);
        }
        self.finished = offer.round;
        self.state = State::Idle;
        Ok(())
    }

    fn weight_scale(&self, update: &Update, index: usize) -> i32 {
        let plan = self.learner.plan();
        let of =
            |layer: &usize| plan.layer(*layer).is_some_and(|(_, range, _)| range.contains(&index));
        let layer = (0..MAX_LAYERS).find(of).unwrap_or(0);
        update.weight_scales.get(layer).map_or(1, |&scale| scale.into())
    }

    fn bias_scale(&self, update: &Update, index: usize) -> u32 {
        let plan = self.learner.plan();
        let of =
            |layer: &usize| plan.layer(*layer).is_some_and(|(.., range)| range.contains(&index));
        let layer = (0..MAX_LAYERS).find(of).unwrap_or(0);
        update.bias_scales.get(layer).copied().unwrap_or(1)
    }

    /// Returns to the stored state.
    #[inline(never)]
    fn restore<J: Journal>(&mut self, journal: &mut J) -> Result<(), ClientError<J::Error>> {
        let model = self.learner.plan().model().id();
        let (weights, biases) = (&mut *self.weights, &mut *self.biases);
        let mut parts = [
            weights.as_mut_bytes(),
            biases.as_mut_bytes(),
            self.weight_residuals.as_mut_bytes(),
            self.bias_residuals.as_mut_bytes(),
        ];
        let loaded = journal.load(model, &mut parts).map_err(ClientError::Journal)?;
        match loaded {
            Some(snapshot) => self.finished = snapshot.round,
            None => {
                parts.into_iter().for_each(|part| part.fill(0));
                self.finished = 0;
            }
        }
        self.state = State::Idle;
        let parameters = Parameters { weights: self.weights, biases: self.biases };
        Ok(self.learner.set_parameters(&parameters)?)
    }
}
