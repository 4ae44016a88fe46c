//! Devices in this process, each with the client that devices run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use niwaki_core::federated::{Channel, Client, Journal, MAX_PACKET, Side};
use niwaki_core::learn::{Contrast, Learner, Plan, Prototypes, Settings};
use niwaki_core::store::{Counters, Snapshot};
use niwaki_core::{Model, Session};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Fleet, Party, PartyError, Visit, random};
use crate::export::AlignedVec;
use crate::learn::Samples;

/// Numbers that a device reserves at a time.
pub(super) const BLOCK: u32 = 64;

/// What goes wrong on devices, by chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "Failures of simulated devices")]
pub struct Failures {
    /// Share of the devices of a round that vanish in it
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub drop_out: f64,
    /// Share of the devices of a round that miss the deadline
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub stragglers: f64,
    /// Share of all devices that learn wrong labels: the last class for the first, and so on
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub label_flip: f64,
}

/// Settings of model-contrastive learning (Li et al., CVPR 2021): the features of a sample are pulled to
/// those that the global model gives it, and pushed from those of the device's previous model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moon {
    /// Weight beside the cross-entropy.
    pub weight: f32,
    /// Temperature.
    pub temperature: f32,
}

/// Devices in this process. A device takes memory while it is in a round; between rounds only what a real
/// one has in flash is kept.
pub struct Simulation<'s> {
    model: Model<'s>,
    plan: Plan<'s>,
    samples: &'s Samples,
    parties: &'s [Vec<usize>],
    failures: Failures,
    moon: Option<Moon>,
    seed: u64,
    /// Where the devices' state is kept beyond this process.
    folder: Option<PathBuf>,
    states: Mutex<HashMap<u32, Flash>>,
}

/// What a device keeps when it is off.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Flash {
    counters: Counters,
    snapshot: Option<Snapshot>,
    bytes: Vec<u8>,
}

impl<'s> Simulation<'s> {
    /// Devices with these samples of `samples`. With a `folder`, they keep their state there and outlive
    /// this process.
    ///
    /// # Errors
    ///
    /// When the model cannot be tuned or the folder cannot be made.
    pub fn new(
        model: &Model<'s>,
        samples: &'s Samples,
        parties: &'s [Vec<usize>],
        seed: u64,
        folder: Option<&Path>,
    ) -> Result<Self> {
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("creating the folder {}", folder.display()))?;
        }
        Ok(Self {
            model: *model,
            plan: Plan::new(model)?,
            samples,
            parties,
            failures: Failures::default(),
            moon: None,
            seed,
            folder: folder.map(Path::to_path_buf),
            states: Mutex::default(),
        })
    }

    /// The same with failures.
    #[must_use]
    pub fn with_failures(mut self, failures: Failures) -> Self {
        self.failures = failures;
        self
    }

    /// The same with model-contrastive learning.
    #[must_use]
    pub fn with_moon(mut self, moon: Moon) -> Self {
        self.moon = Some(moon);
        self
    }

    fn path(&self, client: u32) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{client}.json")))
    }

    fn flash(&self, client: u32) -> Result<Flash> {
        let states = self.states.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(flash) = states.get(&client) {
            return Ok(flash.clone());
        }
        match self.path(client).filter(|path| path.exists()) {
            None => Ok(Flash::default()),
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
            }
        }
    }

    fn device<'a>(&'a self, client: u32, round: u32, memory: &'a mut Memory) -> Result<Device<'a>> {
        let mut journal = Disk { flash: self.flash(client)?, path: self.path(client) };
        let Memory { learner, client: own, arena, others } = memory;
        let plan = &self.plan;
        let learner = Learner::new(plan, learner.as_bytes_mut(), Settings::default())?;
        let counters = journal.flash.counters;
        let channel = Channel::new(&self.key(client), Side::Device, counters, BLOCK);
        let state = Client::new(learner, channel, own.as_bytes_mut(), &mut journal)?;
        let mut fates = random(self.seed, &[3, client.into(), round.into()]);
        let mut chance = |share: f64| fates.random::<f64>() < share;
        let (vanishes, is_late) =
            (chance(self.failures.drop_out), chance(self.failures.stragglers));
        let flips =
            random(self.seed, &[4, client.into()]).random::<f64>() < self.failures.label_flip;
        let comparison = match (self.moon, others) {
            (Some(moon), [global, previous]) => {
                let learner = |memory: &'a mut AlignedVec| {
                    Learner::new(plan, memory.as_bytes_mut(), Settings::default())
                };
                let mut previous = learner(previous)?;
                previous.set_parameters(&state.learner().parameters())?;
                Some(Comparison {
                    moon,
                    global: learner(global)?,
                    previous,
                    values: vec![0; plan.class_count() * plan.feature_count()],
                    counts: vec![0; plan.class_count()],
                })
            }
            _ => None,
        };
        Ok(Device {
            simulation: self,
            index: client,
            // After some packets of the round, and before its end.
            packets_left: vanishes.then(|| 1 + fates.random_range(0..6)),
            is_late,
            flips,
            session: Session::new(self.model, arena.as_arena())?,
            client: state,
            journal,
            epoch: 0,
            comparison,
            noise: random(self.seed, &[5, client.into(), round.into()]),
        })
    }

    fn memory(&self) -> Memory {
        let learner = || AlignedVec::zeroed(self.plan.learner_len());
        Memory {
            learner: learner(),
            client: AlignedVec::zeroed(Client::memory_len(&self.plan)),
            arena: AlignedVec::zeroed(self.model.arena_len()),
            others: [(); 2].map(|()| match self.moon {
                Some(_) => learner(),
                None => AlignedVec::zeroed(0),
            }),
        }
    }
}

/// The key of a simulated device. It protects nothing.
pub(super) fn key(seed: u64, client: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"key of a simulated device");
    hash.update(seed.to_le_bytes());
    hash.update(client.to_le_bytes());
    hash.finalize().into()
}

/// Samples of a device in the order in which it learns them in an epoch.
pub(super) fn order(own: &[usize], seed: u64, client: u32, round: u32, epoch: u16) -> Vec<usize> {
    let mut order = own.to_vec();
    order.shuffle(&mut random(seed, &[6, client.into(), round.into(), epoch.into()]));
    order
}

impl Fleet for Simulation<'_> {
    fn len(&self) -> usize {
        self.parties.len()
    }

    fn key(&self, client: u32) -> [u8; 32] {
        key(self.seed, client)
    }

    fn assemble(&self, round: u32, clients: &[u32], visit: &mut Visit<'_>) -> Result<()> {
        let mut memories: Vec<Memory> = clients.iter().map(|_| self.memory()).collect();
        let mut parties: Vec<Box<dyn Party + '_>> = Vec::new();
        for (&client, memory) in clients.iter().zip(&mut memories) {
            let device = self
                .device(client, round, memory)
                .with_context(|| format!("starting the simulated device {client}"))?;
            parties.push(Box::new(device));
        }
        // A device is switched off when it is dropped.
        visit(&mut parties)
    }
}

/// What a device takes in RAM.
struct Memory {
    learner: AlignedVec,
    client: AlignedVec,
    arena: AlignedVec,
    /// Two more models, for model-contrastive learning.
    others: [AlignedVec; 2],
}

struct Device<'a> {
    simulation: &'a Simulation<'a>,
    index: u32,
    client: Client<'a, 'a>,
    session: Session<'a, 'a>,
    journal: Disk,
    /// Packets until it vanishes.
    packets_left: Option<u32>,
    is_late: bool,
    flips: bool,
    epoch: u16,
    comparison: Option<Comparison<'a>>,
    noise: Pcg64,
}

/// Two models to compare features with.
struct Comparison<'a> {
    moon: Moon,
    global: Learner<'a, 'a>,
    previous: Learner<'a, 'a>,
    values: Vec<i8>,
    counts: Vec<u32>,
}

impl Comparison<'_> {
    /// The contrastive term for a sample. It compares with class prototypes; with the global model's features
    /// in the place of the sample's class, the previous model's in that of another, and none elsewhere, it is
    /// that of the paper.
    fn term(
        &mut self,
        session: &mut Session<'_, '_>,
        input: &[i8],
        label: usize,
    ) -> Result<Contrast<'_>, niwaki_core::learn::LearnError> {
        let classes = self.counts.len();
        let other = (label + 1) % classes;
        self.counts.fill(0);
        for (learner, class) in [(&mut self.global, label), (&mut self.previous, other)] {
            learner.forward(session, input)?;
            let features = learner.features();
            self.values[class * features.len()..][..features.len()].copy_from_slice(features);
            self.counts[class] = 1;
        }
        let prototypes = Prototypes { values: &self.values, counts: &self.counts };
        let Moon { weight, temperature } = self.moon;
        Ok(Contrast { prototypes, weight, temperature })
    }
}

impl Device<'_> {
    fn learn_epoch(&mut self) -> Result<()> {
        let Some(offer) = self.client.work().copied() else { return Ok(()) };
        let Self { simulation, client, session, .. } = self;
        let Simulation { samples, parties, seed, .. } = *simulation;
        if let (0, Some(comparison)) = (self.epoch, &mut self.comparison) {
            comparison.global.set_parameters(&client.learner().parameters())?;
        }
        let own = &parties[self.index as usize];
        for sample in order(own, *seed, self.index, offer.round, self.epoch) {
            let (input, label) = samples.get(sample);
            let classes = client.learner().plan().class_count();
            let label = if self.flips { classes - 1 - label } else { label };
            let own = match &mut self.comparison {
                Some(comparison) => Some(comparison.term(session, input, label)?),
                None => None,
            };
            session.set_input(input)?;
            client.learn_loaded(session, label, own)?;
        }
        client.end_epoch(&mut || self.noise.next_u32())?;
        self.epoch += 1;
        Ok(())
    }
}

impl Party for Device<'_> {
    fn ask(&mut self, packet: &[u8]) -> Result<Vec<u8>, PartyError> {
        if let Some(left) = &mut self.packets_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(PartyError::Vanished("simulated".into()));
            }
        }
        let mut buffer = [0; MAX_PACKET];
        match self.client.receive(packet, &mut self.journal, &mut buffer) {
            Ok(sealed) => Ok(sealed.packet.to_vec()),
            Err(error) => Err(PartyError::Lost(error.to_string())),
        }
    }

    fn work(&mut self) -> Result<Duration, PartyError> {
        if self.is_late {
            return Ok(Duration::MAX);
        }
        self.learn_epoch().map_err(|error| PartyError::Vanished(format!("{error:#}")))?;
        Ok(Duration::ZERO)
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // In good order: no numbers are wasted. After a crash the reservation stands.
        if !std::thread::panicking() {
            let counters = self.client.counters();
            // The reservation stands where this fails.
            let _ = self.journal.save_counters(&counters);
        }
        let flash = std::mem::take(&mut self.journal.flash);
        let mut states = self.simulation.states.lock().unwrap_or_else(|poison| poison.into_inner());
        states.insert(self.index, flash);
    }
}

/// The flash of a simulated device, and the file that it is kept in.
struct Disk {
    flash: Flash,
    path: Option<PathBuf>,
}

impl Disk {
    fn write(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new("."));
        // Whole or not at all where the process ends; unlike a server's, this state need not outlive the
        // computer.
        let file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(std::io::BufWriter::new(file.as_file()), &self.flash)?;
        file.persist(path)?;
        Ok(())
    }
}

impl Journal for Disk {
    type Error = anyhow::Error;

    fn save_counters(&mut self, counters: &Counters) -> Result<()> {
        self.flash.counters = *counters;
        self.write()
    }

    fn save(&mut self, snapshot: &Snapshot, parts: &[&[u8]]) -> Result<()> {
        self.flash.snapshot = Some(*snapshot);
        self.flash.bytes = parts.concat();
        self.write()
    }

    fn load(&mut self, model: [u8; 8], parts: &mut [&mut [u8]]) -> Result<Option<Snapshot>> {
        let Some(snapshot) = self.flash.snapshot.filter(|snapshot| snapshot.model == model) else {
            return Ok(None);
        };
        let mut rest = self.flash.bytes.as_slice();
        for part in parts {
            let (bytes, behind) = rest.split_at_checked(part.len()).context("too few bytes")?;
            part.copy_from_slice(bytes);
            rest = behind;
        }
        Ok(Some(snapshot))
    }
}
