//! Boards, whose firmware runs the client. The host plays their sensors: it hands them samples.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use niwaki_core::Model;
use niwaki_core::link::DeviceError;
use rand::TryRng;
use rand::rngs::SysRng;
use rayon::prelude::*;

use super::simulate::{key, order};
use super::{Fleet, Party, PartyError, Visit};
use crate::learn::Samples;
use crate::target::{Board, Device, Firmware, LinkError, TargetError};

/// Boards, emulated or real.
pub struct Boards<'s> {
    devices: Vec<Mutex<Device>>,
    keys: Vec<[u8; 32]>,
    samples: &'s Samples,
    parties: &'s [Vec<usize>],
    seed: u64,
    epochs: u16,
}

impl<'s> Boards<'s> {
    /// Starts as many emulated boards as there are parties, and gives each its key.
    ///
    /// # Errors
    ///
    /// When a board cannot be started, or cannot learn.
    pub fn start(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
        samples: &'s Samples,
        parties: &'s [Vec<usize>],
        seed: u64,
        epochs: u16,
    ) -> Result<Self> {
        let start = |_| Device::start(board, firmware, model);
        let devices = (0..parties.len()).into_par_iter().map(start).collect::<Result<_, _>>()?;
        let keys = (0..parties.len()).map(|client| key(seed, client as u32)).collect();
        Self::new(devices, keys, samples, parties, seed, epochs)
    }

    /// Boards that run the agent with the model, one for each party. A board without a key gets its own, one that
    /// has it goes on from what it has stored.
    ///
    /// # Errors
    ///
    /// When a board cannot learn, or is one of another federation.
    ///
    /// # Panics
    ///
    /// When there are not as many devices and keys as parties.
    pub fn new(
        mut devices: Vec<Device>,
        keys: Vec<[u8; 32]>,
        samples: &'s Samples,
        parties: &'s [Vec<usize>],
        seed: u64,
        epochs: u16,
    ) -> Result<Self> {
        assert_eq!((devices.len(), keys.len()), (parties.len(), parties.len()));
        let provision = |(client, (device, key)): (usize, (&mut Device, &[u8; 32]))| {
            let mut made = device.over_line(|link| link.provision(*key));
            if made.as_ref().is_err_and(is_restarted) {
                made = device.over_line(|link| link.provision(*key));
            }
            made.with_context(|| format!("making device {client} one of the federation"))
        };
        devices.par_iter_mut().zip(&keys).enumerate().try_for_each(provision)?;
        let devices = devices.into_iter().map(Mutex::new).collect();
        Ok(Self { devices, keys, samples, parties, seed, epochs })
    }
}

/// The keys of real devices: random ones, which a server keeps in `folder` from its first start on.
///
/// # Errors
///
/// When they cannot be stored or read, or are not those of `count` devices.
pub fn device_keys(folder: &Path, count: usize) -> Result<Vec<[u8; 32]>> {
    let path = folder.join("keys.json");
    if !path.exists() {
        let mut keys = vec![[0; 32]; count];
        keys.iter_mut().try_for_each(|key| SysRng.try_fill_bytes(key))?;
        // Such a file is for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &keys)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&path)?;
    }
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let keys: Vec<[u8; 32]> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} does not hold the keys of devices", path.display()))?;
    ensure!(
        keys.len() == count,
        "{} holds the keys of {} devices, but there are {count}: give the devices it was begun with, in the \
         same order",
        path.display(),
        keys.len()
    );
    Ok(keys)
}

impl Fleet for Boards<'_> {
    fn len(&self) -> usize {
        self.parties.len()
    }

    fn key(&self, client: u32) -> [u8; 32] {
        self.keys[client as usize]
    }

    fn assemble(&self, round: u32, clients: &[u32], visit: &mut Visit<'_>) -> Result<()> {
        let mut devices: Vec<_> = clients
            .iter()
            .map(|&client| {
                let device = self.devices[client as usize].lock();
                device.unwrap_or_else(|poison| poison.into_inner())
            })
            .collect();
        let mut parties: Vec<Box<dyn Party + '_>> = Vec::new();
        for (&client, device) in clients.iter().zip(&mut devices) {
            parties.push(Box::new(Reached { boards: self, client, round, epoch: 0, device }));
        }
        visit(&mut parties)
    }
}

struct Reached<'a> {
    boards: &'a Boards<'a>,
    client: u32,
    round: u32,
    epoch: u16,
    device: &'a mut Device,
}

impl Party for Reached<'_> {
    fn ask(&mut self, packet: &[u8]) -> Result<Vec<u8>, PartyError> {
        self.device.over_line(|link| link.federated(packet)).map_err(unreached)
    }

    fn work(&mut self) -> Result<Duration, PartyError> {
        let start = Instant::now();
        let Boards { samples, parties, seed, epochs, .. } = self.boards;
        let own = &parties[self.client as usize];
        if self.epoch < *epochs {
            for sample in order(own, *seed, self.client, self.round, self.epoch) {
                let (input, label) = samples.get(sample);
                self.device.over_line(|link| link.learn(input, label as u16)).map_err(unreached)?;
            }
            self.device.over_line(|link| link.end_epoch()).map_err(unreached)?;
            self.epoch += 1;
        }
        Ok(start.elapsed())
    }
}

fn is_restarted(error: &TargetError) -> bool {
    matches!(error, TargetError::Device { source: LinkError::Device(DeviceError::Restarted), .. })
}

fn unreached(error: TargetError) -> PartyError {
    match error {
        // It has lost its place in the round, and says so when it is asked again.
        error if is_restarted(&error) => PartyError::Lost(error.to_string()),
        // A line loses bytes; the packet can be sent again.
        TargetError::Device { source: LinkError::Frame(error), .. } => {
            PartyError::Lost(error.to_string())
        }
        other => PartyError::Vanished(other.to_string()),
    }
}
