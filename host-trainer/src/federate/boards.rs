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
use super::{Fleet, Party, PartyError, Server, Visit};
use crate::learn::Samples;
use crate::target::{Board, Device, Firmware, LinkError, TargetError};

/// File with the keys of devices, in their order.
const KEYS_FILE: &str = "keys.json";

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
        Self::provisioned(devices, keys, samples, parties, seed, epochs)
    }

    /// Boards that have just started, and get these keys.
    ///
    /// # Errors
    ///
    /// When a board cannot learn.
    ///
    /// # Panics
    ///
    /// When there are not as many devices and keys as parties.
    pub fn provisioned(
        mut devices: Vec<Device>,
        keys: Vec<[u8; 32]>,
        samples: &'s Samples,
        parties: &'s [Vec<usize>],
        seed: u64,
        epochs: u16,
    ) -> Result<Self> {
        assert_eq!((devices.len(), keys.len()), (parties.len(), parties.len()));
        let each = devices.par_iter_mut().zip(&keys).enumerate();
        each.try_for_each(|(client, (device, key))| {
            provision(device, *key, false).with_context(|| joining(client))
        })?;
        let devices = devices.into_iter().map(Mutex::new).collect();
        Ok(Self { devices, keys, samples, parties, seed, epochs })
    }

    /// Boards that run the agent with the model, one for each party, of the `server` that keeps its state in
    /// `folder`, and their keys with it. A board without a key gets one, a board that has it goes on from what it
    /// has stored, and one that has lost it gets another.
    ///
    /// # Errors
    ///
    /// When a board cannot learn or is one of another federation, or keys cannot be stored or read.
    ///
    /// # Panics
    ///
    /// When there are not as many devices as parties.
    pub fn reached(
        mut devices: Vec<Device>,
        server: &mut Server<'_>,
        folder: &Path,
        samples: &'s Samples,
        parties: &'s [Vec<usize>],
        seed: u64,
        epochs: u16,
    ) -> Result<Self> {
        assert_eq!(devices.len(), parties.len());
        let path = folder.join(KEYS_FILE);
        ensure!(
            server.is_saved() || !path.exists(),
            "{} is there, but not the state of the server that used those keys: give another --out, and run \
             `niwaki forget` for each board",
            path.display()
        );
        // From the first key on there is the state that knows which of them were used.
        server.save()?;
        let mut keys = match path.exists() {
            true => read_keys(&path, devices.len())?,
            false => {
                let keys = (0..devices.len()).map(|_| random_key()).collect::<Result<Vec<_>>>()?;
                write_keys(&path, &keys)?;
                keys
            }
        };
        for (client, device) in devices.iter_mut().enumerate() {
            let made = provision(device, keys[client], server.has_met(client as u32));
            let lost = matches!(
                made,
                Err(TargetError::Device { source: LinkError::Device(DeviceError::KeyLost), .. })
            );
            if lost {
                // Its counters begin again, which no key may meet twice.
                keys[client] = random_key()?;
                write_keys(&path, &keys)?;
                server.part_with(client as u32)?;
                provision(device, keys[client], false).with_context(|| joining(client))?;
            } else {
                made.with_context(|| joining(client))?;
            }
        }
        let devices = devices.into_iter().map(Mutex::new).collect();
        Ok(Self { devices, keys, samples, parties, seed, epochs })
    }
}

fn joining(client: usize) -> String {
    format!("making device {client} one of the federation")
}

/// Gives a device its key; again, if it was reset in the meantime.
fn provision(device: &mut Device, key: [u8; 32], used: bool) -> Result<(), TargetError> {
    let made = device.over_line(|link| link.provision(key, used));
    if made.as_ref().is_err_and(is_restarted) {
        return device.over_line(|link| link.provision(key, used));
    }
    made
}

fn random_key() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    SysRng.try_fill_bytes(&mut key).context("drawing a key")?;
    Ok(key)
}

fn write_keys(path: &Path, keys: &[[u8; 32]]) -> Result<()> {
    let write = || -> Result<()> {
        // A temporary file is for its owner alone, and so is this one.
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        serde_json::to_writer(&mut file, keys)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn read_keys(path: &Path, count: usize) -> Result<Vec<[u8; 32]>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
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
