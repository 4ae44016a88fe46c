//! Learning on the board, alone or as one of a federation, in the memory that the model's arena leaves.

use niwaki_core::federated::{Channel, Client, Side};
use niwaki_core::learn::{LearnError, Learner, Plan, Settings, Tail, Terms};
use niwaki_core::link::{CHUNK, DeviceError};
use niwaki_core::store::{Counters, Store};
use niwaki_core::{Model, Session};
use zerocopy::IntoBytes;

use crate::agent::count;
use crate::flash::RamFlash;

/// Counters of the channel that are reserved at a time.
const BLOCK: u32 = 64;

/// What the board is to learning.
pub(crate) enum Learning<'a> {
    /// Memory is set aside.
    Idle { plan: Plan<'a>, memory: &'a mut [u8] },
    /// Tunes its model alone.
    Alone(Learner<'a, 'a>),
    /// One of a federation.
    Federated { client: Client<'a, 'a>, store: Store<RamFlash<'a>> },
    /// Learning failed to begin, and its memory is lost until a reset.
    Failed(DeviceError),
}

/// Bytes of the parts of memory for learning.
struct Sizes {
    learner: usize,
    client: usize,
    flash: usize,
}

impl Sizes {
    fn new(plan: &Plan<'_>) -> Self {
        let state = plan
            .weight_count()
            .saturating_mul(4)
            .saturating_add(plan.channel_count().saturating_mul(8));
        Self {
            learner: plan.learner_len().next_multiple_of(4),
            client: Client::memory_len(plan).next_multiple_of(4),
            flash: Store::<RamFlash<'_>>::flash_len(state),
        }
    }

    fn federated(&self) -> usize {
        self.learner.saturating_add(self.client).saturating_add(self.flash)
    }
}

impl<'a> Learning<'a> {
    /// Sets memory aside for a model that can be tuned. Returns the memory that is left, all of it where the
    /// model cannot be tuned or the memory is too small.
    pub(crate) fn new(
        model: &Model<'a>,
        memory: &'a mut [u8],
    ) -> (Result<Self, DeviceError>, &'a mut [u8]) {
        let plan = match Plan::new(model) {
            Ok(plan) => plan,
            Err(error) => {
                defmt::info!("no learning: {}", error);
                return (Err(DeviceError::NotTunable), memory);
            }
        };
        let sizes = Sizes::new(&plan);
        let available = memory.len();
        // Where there is no room for a federation, the board can learn alone.
        let needed = [sizes.federated(), sizes.learner].into_iter().find(|&len| len <= available);
        match needed {
            Some(len) => {
                let (memory, rest) = memory.split_at_mut(len);
                (Ok(Self::Idle { plan, memory }), rest)
            }
            None => (Err(too_small(sizes.learner, available)), memory),
        }
    }

    /// Begins to learn alone, or begins anew.
    pub(crate) fn begin(&mut self, settings: Settings) -> Result<(), DeviceError> {
        settings.check().map_err(refusal)?;
        match self {
            Self::Alone(learner) => {
                let forget = |weights: &mut [i16], biases: &mut [i32]| {
                    weights.fill(0);
                    biases.fill(0);
                };
                let forgotten = learner.change_parameters(forget);
                forgotten.and_then(|()| learner.set_settings(settings)).map_err(refusal)
            }
            Self::Federated { .. } => Err(DeviceError::Occupied),
            Self::Failed(error) => Err(*error),
            Self::Idle { .. } => self.replace(|plan, memory| {
                Learner::new(&plan, memory, settings).map(Self::Alone).map_err(refusal)
            }),
        }
    }

    /// Becomes one of a federation.
    pub(crate) fn provision(&mut self, key: &[u8; 32]) -> Result<(), DeviceError> {
        let Self::Idle { plan, memory } = self else { return Err(DeviceError::Occupied) };
        let sizes = Sizes::new(plan);
        if memory.len() < sizes.federated() {
            return Err(too_small(sizes.federated(), memory.len()));
        }
        self.replace(|plan, memory| {
            let (learner, rest) = memory.split_at_mut(sizes.learner);
            let (client, flash) = rest.split_at_mut(sizes.client);
            let range = 0..count(flash.len());
            let learner = Learner::new(&plan, learner, Settings::default()).map_err(refusal)?;
            // Fresh flash: the counters of a new key.
            let channel = Channel::new(key, Side::Device, Counters::default(), BLOCK);
            let store = Store::new(RamFlash::new(flash), range);
            let mut store = store.map_err(|_| DeviceError::NotFederated)?;
            let client = Client::new(learner, channel, client, &mut store);
            let client = client.map_err(|_| DeviceError::NotFederated)?;
            Ok(Self::Federated { client, store })
        })
    }

    /// Goes on from memory that is set aside.
    fn replace(
        &mut self,
        make: impl FnOnce(Plan<'a>, &'a mut [u8]) -> Result<Self, DeviceError>,
    ) -> Result<(), DeviceError> {
        let failed = Self::Failed(DeviceError::NotLearning);
        let Self::Idle { plan, memory } = core::mem::replace(self, failed) else {
            return Err(DeviceError::Occupied);
        };
        match make(plan, memory) {
            Ok(learning) => {
                *self = learning;
                Ok(())
            }
            Err(error) => {
                *self = Self::Failed(error);
                Err(error)
            }
        }
    }

    /// The model as it was tuned.
    pub(crate) fn tail(&self) -> Option<&Tail<'a, 'a>> {
        self.learner().map(Learner::tail)
    }

    fn learner(&self) -> Option<&Learner<'a, 'a>> {
        match self {
            Self::Alone(learner) => Some(learner),
            Self::Federated { client, .. } => Some(client.learner()),
            Self::Idle { .. } | Self::Failed(_) => None,
        }
    }

    /// Learns the loaded input; returns its loss.
    pub(crate) fn learn(
        &mut self,
        session: &mut Session<'_, '_>,
        label: u16,
    ) -> Result<f32, DeviceError> {
        match self {
            Self::Alone(learner) => {
                learner.learn_loaded(session, label.into(), &Terms::default()).map_err(refusal)
            }
            Self::Federated { client, .. } => {
                client.learn_loaded(session, label.into(), None).map_err(|error| {
                    use niwaki_core::federated::ClientError;
                    match error {
                        ClientError::Learn(error) => refusal(error),
                        _ => DeviceError::NotLearning,
                    }
                })
            }
            Self::Idle { .. } => Err(DeviceError::NotLearning),
            Self::Failed(error) => Err(*error),
        }
    }

    /// Ends an epoch. `random` gives random numbers, where the board has any.
    pub(crate) fn end_epoch(
        &mut self,
        mut random: impl FnMut() -> Option<u32>,
    ) -> Result<(), DeviceError> {
        match self {
            Self::Alone(learner) => {
                learner.finish_batch();
                Ok(())
            }
            Self::Federated { client, .. } => {
                let offer = client.work().ok_or(DeviceError::NotLearning)?;
                if offer.noise > 0.0 && random().is_none() {
                    return Err(DeviceError::NoRandomNumbers);
                }
                let ended = client.end_epoch(&mut || random().unwrap_or(0));
                ended.map(|_| ()).map_err(|_| DeviceError::NotLearning)
            }
            Self::Idle { .. } => Err(DeviceError::NotLearning),
            Self::Failed(error) => Err(*error),
        }
    }

    /// Hands a packet to the client; returns the length of its answer in `buffer`.
    pub(crate) fn packet(
        &mut self,
        packet: &[u8],
        buffer: &mut [u8; CHUNK],
    ) -> Result<usize, DeviceError> {
        let Self::Federated { client, store } = self else {
            return Err(DeviceError::NotFederated);
        };
        match client.receive(packet, store, buffer) {
            Ok(sealed) => {
                if let Some(refused) = sealed.refused {
                    defmt::warn!("command refused: {}", refused);
                }
                Ok(sealed.packet.len())
            }
            Err(error) => {
                defmt::warn!("packet dropped: {}", defmt::Display2Format(&error));
                Err(DeviceError::NotFederated)
            }
        }
    }

    /// Copies bytes of what was learned, from `offset` on, into `buffer`.
    pub(crate) fn read<'b>(
        &self,
        offset: u32,
        len: u32,
        buffer: &'b mut [u8; CHUNK],
    ) -> Result<&'b [u8], DeviceError> {
        let learner = self.learner().ok_or(DeviceError::NotLearning)?;
        let parameters = learner.parameters();
        let (weights, biases) = (parameters.weights.as_bytes(), parameters.biases.as_bytes());
        let all = count(weights.len().saturating_add(biases.len()));
        let range = DeviceError::Range { len: all };
        let end = offset.checked_add(len).filter(|&end| end <= all).ok_or(range)?;
        let part = buffer.get_mut(..len as usize).ok_or(range)?;
        let bytes = weights.iter().chain(biases).take(end as usize).skip(offset as usize);
        part.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        Ok(part)
    }
}

fn too_small(needed: usize, available: usize) -> DeviceError {
    DeviceError::LearningMemory { needed: count(needed), available: count(available) }
}

fn refusal(error: LearnError) -> DeviceError {
    defmt::warn!("cannot learn: {}", error);
    match error {
        LearnError::Label { .. } | LearnError::Setting(_) => DeviceError::Learning,
        LearnError::Memory { expected, found } => too_small(expected, found),
        _ => DeviceError::NotTunable,
    }
}
