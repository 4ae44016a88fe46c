//! Learning on the board, alone or as one of a federation, in the memory that the model's arena leaves.

use embedded_storage::nor_flash::NorFlash;
use niwaki_core::federated::{Channel, Client, Side};
use niwaki_core::learn::{LearnError, Learner, Plan, Settings, Tail, Terms};
use niwaki_core::link::{CHUNK, DeviceError};
use niwaki_core::store::{Snapshot, Store, StoreError};
use niwaki_core::{Model, Session};
use zerocopy::IntoBytes;

use crate::agent::count;
use crate::state::State;

/// Counters of the channel that are reserved at a time.
const BLOCK: u32 = 64;

/// What the board is to learning.
pub(crate) enum Learning<'a> {
    /// Memory is set aside.
    Idle { plan: Plan<'a>, memory: &'a mut [u8] },
    /// Tunes its model alone.
    Alone(Learner<'a, 'a>),
    /// One of a federation.
    Federated(Client<'a, 'a>),
    /// Learning failed to begin or was ended, and its memory is lost until a reset.
    Failed(DeviceError),
}

/// Bytes of the parts of memory for learning.
struct Sizes {
    learner: usize,
    client: usize,
}

impl Sizes {
    fn new(plan: &Plan<'_>) -> Self {
        Self {
            learner: plan.learner_len().next_multiple_of(4),
            client: Client::memory_len(plan).next_multiple_of(4),
        }
    }

    fn federated(&self) -> usize {
        self.learner.saturating_add(self.client)
    }
}

/// The store in a board's flash, whatever its model is.
pub(crate) fn open<F: NorFlash>(State { flash, range }: State<F>) -> Option<Store<F>> {
    Store::new(flash, range).map_err(stopped).ok()
}

/// The store, if it is large enough for what a client of this plan saves, which is more than what is learned alone.
fn sized<'s, F: NorFlash>(
    store: &'s mut Option<Store<F>>,
    plan: &Plan<'_>,
) -> Result<&'s mut Store<F>, DeviceError> {
    let needed = count(Store::<F>::flash_len(Client::snapshot_len(plan)));
    let available = store.as_ref().map_or(0, Store::flash_bytes);
    let store = store.as_mut().filter(|_| available >= needed);
    store.ok_or(DeviceError::StateMemory { needed, available })
}

/// Forgets a federation and all that was learned.
pub(crate) fn forget<F: NorFlash>(store: &mut Option<Store<F>>) -> Result<(), DeviceError> {
    let Some(store) = store else { return Ok(()) };
    // What cannot be understood can be erased.
    store.provision(None).or_else(|_| store.erase()).map_err(stopped)
}

impl<'a> Learning<'a> {
    /// Sets memory aside for a model that can be tuned, and goes on as one of a federation if the board is one, or
    /// with what it has kept. Returns the memory that is left, all of it where the model cannot be tuned or the
    /// memory is too small.
    pub(crate) fn new<F: NorFlash>(
        model: &Model<'a>,
        memory: &'a mut [u8],
        store: &mut Option<Store<F>>,
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
        let Some(len) = needed else {
            return (Err(too_small(sizes.learner, available)), memory);
        };
        let (memory, rest) = memory.split_at_mut(len);
        let stored = sized(store, &plan).and_then(|store| {
            let key = store.key().map_err(stopped)?;
            let snapshot = store.snapshot().map_err(stopped)?;
            Ok((key, snapshot.is_some_and(|snapshot| snapshot.model == model.id())))
        });
        let mut learning = Self::Idle { plan, memory };
        let resumed = match stored {
            Ok((Some(key), _)) => learning.join(&key, store),
            Ok((None, true)) => learning.resume(store),
            Ok((None, false)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = resumed {
            defmt::warn!("nothing learned to go on with: {}", error);
        }
        (Ok(learning), rest)
    }

    /// Begins to learn alone, or begins anew.
    pub(crate) fn begin(&mut self, settings: Settings) -> Result<(), DeviceError> {
        settings.check().map_err(refusal)?;
        match self {
            Self::Alone(learner) => {
                let forgotten = learner.change_parameters(clear);
                forgotten.and_then(|()| learner.set_settings(settings)).map_err(refusal)
            }
            Self::Federated { .. } => Err(DeviceError::Occupied),
            Self::Failed(error) => Err(*error),
            Self::Idle { .. } => self.replace(|plan, memory| {
                Learner::new(&plan, memory, settings).map(Self::Alone).map_err(refusal)
            }),
        }
    }

    /// Goes on with what was kept.
    fn resume<F: NorFlash>(&mut self, store: &mut Option<Store<F>>) -> Result<(), DeviceError> {
        self.replace(|plan, memory| {
            let store = sized(store, &plan)?;
            let mut learner = Learner::new(&plan, memory, Settings::default()).map_err(refusal)?;
            let mut loaded = Ok(None);
            let load = |weights: &mut [i16], biases: &mut [i32]| {
                let parts = &mut [weights.as_mut_bytes(), biases.as_mut_bytes()];
                loaded = store.load(plan.model().id(), parts);
                if !matches!(loaded, Ok(Some(_))) {
                    clear(weights, biases);
                }
            };
            learner.change_parameters(load).map_err(refusal)?;
            loaded.map_err(stopped)?;
            defmt::info!("tuned as it was kept");
            Ok(Self::Alone(learner))
        })
    }

    /// Keeps what was learned alone.
    pub(crate) fn keep<F: NorFlash>(
        &mut self,
        store: &mut Option<Store<F>>,
    ) -> Result<(), DeviceError> {
        let Self::Alone(learner) = self else { return Err(DeviceError::NotLearning) };
        let store = sized(store, learner.plan())?;
        let snapshot = Snapshot { model: learner.plan().model().id(), round: 0 };
        let parameters = learner.parameters();
        let parts = [parameters.weights.as_bytes(), parameters.biases.as_bytes()];
        store.save(&snapshot, &parts).map_err(stopped)
    }

    /// Becomes one of a federation, or stays it. A key that was `used` is only taken by a board that has it.
    pub(crate) fn provision<F: NorFlash>(
        &mut self,
        key: &[u8; 32],
        used: bool,
        store: &mut Option<Store<F>>,
    ) -> Result<(), DeviceError> {
        let plan = match self {
            Self::Alone(_) => return Err(DeviceError::Occupied),
            Self::Failed(error) => return Err(*error),
            Self::Federated(client) => client.learner().plan(),
            Self::Idle { plan, memory } => {
                let sizes = Sizes::new(plan);
                if memory.len() < sizes.federated() {
                    return Err(too_small(sizes.federated(), memory.len()));
                }
                plan
            }
        };
        let opened = sized(store, plan)?;
        match opened.key().map_err(stopped)? {
            Some(own) if own == *key => {}
            Some(_) => return Err(DeviceError::Occupied),
            None if used => return Err(DeviceError::KeyLost),
            None => opened.provision(Some(*key)).map_err(stopped)?,
        }
        match self {
            Self::Idle { .. } => self.join(key, store),
            _ => Ok(()),
        }
    }

    /// Learns no more: what was learned is forgotten.
    pub(crate) fn end(&mut self) {
        if !matches!(self, Self::Idle { .. }) {
            *self = Self::Failed(DeviceError::Forgotten);
        }
    }

    /// Goes on with this key from what is stored.
    fn join<F: NorFlash>(
        &mut self,
        key: &[u8; 32],
        store: &mut Option<Store<F>>,
    ) -> Result<(), DeviceError> {
        self.replace(|plan, memory| {
            let store = sized(store, &plan)?;
            let sizes = Sizes::new(&plan);
            let available = memory.len();
            let (learner, client) = memory
                .split_at_mut_checked(sizes.learner)
                .filter(|(_, rest)| rest.len() >= sizes.client)
                .ok_or(too_small(sizes.federated(), available))?;
            let learner = Learner::new(&plan, learner, Settings::default()).map_err(refusal)?;
            let counters = store.counters().map_err(stopped)?;
            let channel = Channel::new(key, Side::Device, counters, BLOCK);
            let client = Client::new(learner, channel, client, store);
            let client = client.map_err(|_| DeviceError::State)?;
            defmt::info!("one of a federation, after round {=u32}", client.finished());
            Ok(Self::Federated(client))
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
            Self::Federated(client) => Some(client.learner()),
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
            Self::Federated(client) => {
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
            Self::Federated(client) => {
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
    pub(crate) fn packet<F: NorFlash>(
        &mut self,
        packet: &[u8],
        store: &mut Option<Store<F>>,
        buffer: &mut [u8; CHUNK],
    ) -> Result<usize, DeviceError> {
        let (Self::Federated(client), Some(store)) = (self, store) else {
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

fn clear(weights: &mut [i16], biases: &mut [i32]) {
    weights.fill(0);
    biases.fill(0);
}

/// The flash fails, or holds what nobody has written.
fn stopped<E: core::fmt::Debug>(error: StoreError<E>) -> DeviceError {
    defmt::warn!("the flash for what is learned: {}", defmt::Display2Format(&error));
    DeviceError::State
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
