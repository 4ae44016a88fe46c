//! Emulated boards, whose firmware runs the client. The host plays their sensors: it hands them samples.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use niwaki_core::Model;
use rayon::prelude::*;

use super::simulate::{key, order};
use super::{Fleet, Party, PartyError, Visit};
use crate::learn::Samples;
use crate::target::{Board, Device, Firmware, LinkError, TargetError};

/// Emulated boards.
pub struct Boards<'s> {
    devices: Vec<Mutex<Device>>,
    samples: &'s Samples,
    parties: &'s [Vec<usize>],
    seed: u64,
    epochs: u16,
}

impl<'s> Boards<'s> {
    /// Starts as many boards as there are parties, and gives each its key.
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
        let start = |index: usize| -> Result<Mutex<Device>> {
            let mut device = Device::start(board, firmware, model)?;
            device
                .over_line(|link| link.provision(key(seed, index as u32)))
                .with_context(|| format!("making device {index} one of the federation"))?;
            Ok(Mutex::new(device))
        };
        let devices = (0..parties.len()).into_par_iter().map(start).collect::<Result<_>>()?;
        Ok(Self { devices, samples, parties, seed, epochs })
    }
}

impl Fleet for Boards<'_> {
    fn len(&self) -> usize {
        self.parties.len()
    }

    fn key(&self, client: u32) -> [u8; 32] {
        key(self.seed, client)
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

fn unreached(error: TargetError) -> PartyError {
    match error {
        // A line loses bytes; the packet can be sent again.
        TargetError::Device { source: LinkError::Frame(error), .. } => {
            PartyError::Lost(error.to_string())
        }
        other => PartyError::Vanished(other.to_string()),
    }
}
