//! The server: rounds, and state that survives its end at any moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use niwaki_core::Model;
use niwaki_core::Session;
use niwaki_core::federated::Offer;
use niwaki_core::learn::{Parameters, Plan, Tail};
use niwaki_core::store::Counters;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::peer::Peer;
use super::{Aggregation, Delta, DropOut, Dropped, Fleet, Party, Row, aggregate, random};
use crate::data::{Dataset, Split};
use crate::export::{AlignedVec, hexadecimal, top1};
use crate::learn::Samples;
use crate::net::trained::write_atomically;

/// What all devices of a federation share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// As [`Parameters::weights`].
    pub weights: Vec<i16>,
    /// As [`Parameters::biases`].
    pub biases: Vec<i32>,
    /// Prototypes of the classes, one after the other.
    pub prototypes: Vec<i8>,
    /// Samples behind each prototype.
    pub counts: Vec<u32>,
}

impl Global {
    /// The state of a model that has learned nothing.
    pub fn new(plan: &Plan<'_>) -> Self {
        Self {
            weights: vec![0; plan.weight_count()],
            biases: vec![0; plan.channel_count()],
            prototypes: vec![0; plan.class_count() * plan.feature_count()],
            counts: vec![0; plan.class_count()],
        }
    }

    /// The parameters.
    pub fn parameters(&self) -> Parameters<'_> {
        Parameters { weights: &self.weights, biases: &self.biases }
    }

    /// CRC-32 of the parameters: equal where they are.
    pub fn checksum(&self) -> u32 {
        let mut digest = flate2::Crc::new();
        digest.update(self.weights.as_bytes());
        digest.update(self.biases.as_bytes());
        digest.sum()
    }

    fn add(&mut self, rule: Aggregation, deltas: &[Delta]) {
        let Some(found) = aggregate(rule, deltas) else { return };
        for (slot, change) in self.weights.iter_mut().zip(found.weights) {
            let value = i32::from(*slot).saturating_add(change);
            *slot = value.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
        }
        for (slot, change) in self.biases.iter_mut().zip(found.biases) {
            *slot = slot.saturating_add(change);
        }
        let features = self.prototypes.len() / self.counts.len().max(1);
        for (class, &count) in found.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let range = class * features..(class + 1) * features;
            self.prototypes[range.clone()].copy_from_slice(&found.prototypes[range]);
            self.counts[class] = count;
        }
    }
}

/// How a server runs its rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What is offered, but for the round's number.
    pub offer: Offer,
    /// Devices that are asked in a round.
    pub sampled: usize,
    /// Fewer updates than these are not aggregated, and the round is lost.
    pub minimum: usize,
    /// Seconds that devices have to learn.
    pub deadline_seconds: f64,
    /// How updates become one.
    pub aggregation: Aggregation,
    /// Of the sampling of devices.
    pub seed: u64,
}

/// All that a server must not forget.
#[derive(Serialize, Deserialize)]
struct State {
    settings: serde_json::Value,
    /// Rounds that are over.
    round: u32,
    global: Global,
    /// Counters of each device's channel: none is used that is not stored as used.
    counters: BTreeMap<u32, Counters>,
    /// Devices that are to hear that their update of the last round is stored.
    unacknowledged: Vec<u32>,
    rows: Vec<Row>,
}

const STATE_FILE: &str = "server.json";
/// One line per round.
const ROWS_FILE: &str = "rounds.jsonl";

/// The server of a federation.
///
/// Its state is stored before devices hear of it. After a crash, a server that is opened again repeats the
/// round that was not stored, with the same devices, which abandon what they had begun; of a round that was
/// stored it repeats the acknowledgements.
pub struct Server<'m> {
    plan: Plan<'m>,
    settings: Settings,
    folder: Option<PathBuf>,
    state: State,
}

impl<'m> Server<'m> {
    /// A server for `model`, that keeps its state in `folder` or nowhere, and goes on from what is there.
    ///
    /// # Errors
    ///
    /// When the model cannot be tuned, a setting is out of range, or the folder holds the state of a
    /// server with other settings.
    pub fn open(model: &Model<'m>, settings: Settings, folder: Option<&Path>) -> Result<Self> {
        let plan = Plan::new(model)?;
        let offer = Offer { model: model.id(), ..settings.offer };
        let settings = Settings { offer, ..settings };
        Offer { round: 1, ..offer }.check().context("what is offered to devices is refused")?;
        ensure!(settings.sampled > 0, "no devices are asked in a round");
        ensure!(settings.minimum <= settings.sampled, "more updates needed than devices asked");
        ensure!(settings.deadline_seconds > 0.0, "the deadline must be above 0");
        // Floats and their text: what is read back must be compared with what was written.
        let as_stored = serde_json::from_str(&serde_json::to_string(&settings)?)?;
        let fresh = State {
            settings: as_stored,
            round: 0,
            global: Global::new(&plan),
            counters: BTreeMap::new(),
            unacknowledged: Vec::new(),
            rows: Vec::new(),
        };
        let mut server =
            Self { plan, settings, folder: folder.map(Path::to_path_buf), state: fresh };
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("creating the folder {}", folder.display()))?;
            server.resume(&folder.join(STATE_FILE))?;
        }
        Ok(server)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let stored: State =
            serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let fresh = &self.state;
        ensure!(
            stored.settings == fresh.settings,
            "{} is of a federation of another model or with other settings: give another --out",
            path.display()
        );
        let len = |global: &Global| {
            [
                global.weights.len(),
                global.biases.len(),
                global.prototypes.len(),
                global.counts.len(),
            ]
        };
        ensure!(
            len(&stored.global) == len(&fresh.global),
            "{} is damaged: its values are not as many as the model {} has",
            path.display(),
            hexadecimal(&self.plan.model().id())
        );
        self.state = stored;
        Ok(())
    }

    /// Stores the state, if the server has a folder.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save(&self) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        write_atomically(&folder.join(STATE_FILE), serde_json::to_string(&self.state)?.as_bytes())
    }

    /// Whether its state is on disk.
    pub fn is_saved(&self) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.join(STATE_FILE).exists())
    }

    /// Whether it has used the key that it shares with a device.
    pub fn has_met(&self, client: u32) -> bool {
        self.state.counters.contains_key(&client)
    }

    /// Forgets the counters of a device whose key is not used any more.
    ///
    /// # Errors
    ///
    /// When the state cannot be stored.
    pub fn part_with(&mut self, client: u32) -> Result<()> {
        self.state.counters.remove(&client);
        self.save()
    }

    /// Rounds that are over.
    pub fn round(&self) -> u32 {
        self.state.round
    }

    /// The global state.
    pub fn global(&self) -> &Global {
        &self.state.global
    }

    /// What happened, round by round.
    pub fn rows(&self) -> &[Row] {
        &self.state.rows
    }

    /// Devices that round `round` asks, in order.
    fn sample(&self, round: u32, fleet: &dyn Fleet) -> Vec<u32> {
        let mut random = random(self.settings.seed, &[0, round.into()]);
        let count = self.settings.sampled.min(fleet.len());
        let mut clients: Vec<u32> = rand::seq::index::sample(&mut random, fleet.len(), count)
            .iter()
            .map(|i| i as u32)
            .collect();
        clients.sort_unstable();
        clients
    }

    /// Channels to some devices, whose numbers are reserved on disk.
    fn peers(&mut self, clients: &[u32], fleet: &dyn Fleet) -> Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for &client in clients {
            let stored = self.state.counters.get(&client).copied().unwrap_or_default();
            let (peer, reserved) = Peer::new(&fleet.key(client), stored)
                .with_context(|| format!("device {client}"))?;
            self.state.counters.insert(client, reserved);
            peers.push(peer);
        }
        self.save()?;
        Ok(peers)
    }

    /// Runs a round. `accuracy` measures the new state, for the history.
    ///
    /// # Errors
    ///
    /// When state cannot be stored. Devices that fail are noted in the round's row.
    pub fn run_round(
        &mut self,
        fleet: &dyn Fleet,
        accuracy: &dyn Fn(u32, &Global) -> Result<Option<f64>>,
    ) -> Result<&Row> {
        self.settle(fleet)?;
        let round = self.state.round + 1;
        let clients = self.sample(round, fleet);
        let mut peers = self.peers(&clients, fleet)?;
        let Settings { offer, deadline_seconds, .. } = self.settings;
        let offer = Offer { round, ..offer };
        let deadline = Duration::try_from_secs_f64(deadline_seconds)?;
        fleet.assemble(round, &clients, &mut |parties| {
            let (plan, global) = (&self.plan, &self.state.global);
            let gather = |(peer, party): (&mut Peer, &mut Box<dyn Party + '_>)| {
                peer.gather(&mut **party, plan, &offer, global, deadline)
            };
            let found: Vec<_> = peers.par_iter_mut().zip(&mut *parties).map(gather).collect();
            let mut row = Row { round, offered: clients.len(), ..Row::default() };
            let mut ready = Vec::new();
            let mut deltas = Vec::new();
            for (&client, found) in clients.iter().zip(found) {
                match found {
                    Ok((update, delta)) => {
                        row.add(&update, &delta);
                        ready.push(client);
                        deltas.push(delta);
                    }
                    Err(reason) => row.drop_out(client, &reason),
                }
            }
            row.finish();
            row.aggregated = deltas.len() >= self.settings.minimum.max(1);
            if row.aggregated {
                self.state.global.add(self.settings.aggregation, &deltas);
            }
            row.accuracy = accuracy(round, &self.state.global)?;
            self.state.round = round;
            self.state.unacknowledged = if row.aggregated { ready.clone() } else { Vec::new() };
            self.state.rows.push(row);
            // From here on the round is over, whatever happens.
            self.save()?;
            let aggregated = !self.state.unacknowledged.is_empty();
            let end = |((&client, peer), party): ((&u32, &mut Peer), &mut Box<dyn Party + '_>)| {
                if ready.binary_search(&client).is_err() {
                    return Ok(());
                }
                match aggregated {
                    true => peer.acknowledge(&mut **party, round),
                    false => peer.abort(&mut **party, round),
                }
                .map_err(|reason| (client, reason))
            };
            let ended: Vec<Result<(), (u32, DropOut)>> =
                clients.par_iter().zip(&mut peers).zip(parties).map(end).collect();
            let late = ended.into_iter().filter_map(Result::err);
            self.close(&clients, &peers, late.collect());
            Ok(())
        })?;
        self.save()?;
        self.write_rows()?;
        self.state.rows.last().context("the round has no row")
    }

    /// Books what the conversations took, at the end of a round.
    fn close(&mut self, clients: &[u32], peers: &[Peer], late: Vec<(u32, DropOut)>) {
        for (&client, peer) in clients.iter().zip(peers) {
            self.state.counters.insert(client, peer.counters());
        }
        self.state.unacknowledged.clear();
        if let Some(row) = self.state.rows.last_mut() {
            row.bytes_up += peers.iter().map(|peer| peer.up).sum::<u64>();
            row.bytes_down += peers.iter().map(|peer| peer.down).sum::<u64>();
            row.unacknowledged.extend(
                late.into_iter()
                    .map(|(client, reason)| Dropped { client, reason: reason.to_string() }),
            );
        }
    }

    /// Repeats the acknowledgements of the last round, where its end is unknown. A device that has started
    /// anew meanwhile has abandoned the round; its update counts all the same.
    fn settle(&mut self, fleet: &dyn Fleet) -> Result<()> {
        let clients = std::mem::take(&mut self.state.unacknowledged);
        if clients.is_empty() {
            return Ok(());
        }
        let round = self.state.round;
        let mut peers = self.peers(&clients, fleet)?;
        fleet.assemble(round, &clients, &mut |parties| {
            let late = clients.iter().zip(&mut peers).zip(parties);
            let late = late.filter_map(|((&client, peer), party)| {
                peer.acknowledge(&mut **party, round).err().map(|reason| (client, reason))
            });
            let late = late.collect();
            self.close(&clients, &peers, late);
            Ok(())
        })?;
        self.save()
    }

    /// Writes the history for other programs.
    fn write_rows(&self) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut text = String::new();
        for row in &self.state.rows {
            text += &serde_json::to_string(row)?;
            text.push('\n');
        }
        write_atomically(&folder.join(ROWS_FILE), text.as_bytes())
    }
}

/// Share of samples that a model classifies rightly with these parameters.
///
/// # Errors
///
/// When the samples or parameters do not fit the model.
pub fn accuracy(model: &Model<'_>, parameters: &Parameters<'_>, samples: &Samples) -> Result<f64> {
    /// Samples that one tail is set up for.
    const CHUNK: usize = 64;
    ensure!(!samples.labels.is_empty(), "there are no samples to test on");
    let plan = Plan::new(model)?;
    let indices: Vec<usize> = (0..samples.labels.len()).collect();
    let right = indices
        .par_chunks(CHUNK)
        .map(|chunk| {
            let mut memory = AlignedVec::zeroed(plan.tail_len());
            let mut arena = AlignedVec::zeroed(model.arena_len());
            let mut session: Session<'_, '_> = Session::new(*model, arena.as_arena())?;
            let mut tail = Tail::new(&plan, memory.as_bytes_mut())?;
            tail.set(parameters)?;
            let mut right = 0;
            for &index in chunk {
                let (input, label) = samples.get(index);
                right += usize::from(top1(tail.run(&mut session, input)?) == label);
            }
            Ok(right)
        })
        .collect::<Result<Vec<usize>>>()?;
    Ok(right.iter().sum::<usize>() as f64 / samples.labels.len() as f64)
}

/// All samples of a data set as a model takes them, and those of the test split.
///
/// # Errors
///
/// When the data do not fit the model, or have no test split.
pub fn samples_of(model: &Model<'_>, data: &Dataset) -> Result<(Samples, Samples)> {
    let test = data.indices(Split::Test);
    ensure!(!test.is_empty(), "`{}` has no test split; see --test-fraction", data.name);
    let all: Vec<usize> = (0..data.len()).collect();
    Ok((Samples::of(model, data, &all)?, Samples::of(model, data, &test)?))
}
