//! Features of sound: computed from raw samples in the memory that the model's arena leaves.

use niwaki_core::Session;
use niwaki_core::frontend::{Extractor, FrontEndError};
use niwaki_core::link::{CHUNK, DeviceError};
use niwaki_core::model::FrontEnd;

use crate::agent::count;

/// The clip that is being received.
pub(crate) struct Sound<'a> {
    extractor: Extractor<'a>,
    /// Samples received.
    received: u32,
    /// Counter units that its features took.
    cost: u64,
}

impl<'a> Sound<'a> {
    /// Prepares `memory` for the features of `front_end`.
    pub(crate) fn new(front_end: &FrontEnd, memory: &'a mut [i8]) -> Result<Self, DeviceError> {
        match Extractor::new(*front_end, memory) {
            Ok(extractor) => Ok(Self { extractor, received: 0, cost: 0 }),
            Err(FrontEndError::MemoryTooSmall { expected, found }) => {
                let (needed, available) = (count(expected), count(found));
                Err(DeviceError::FrontEndMemory { needed, available })
            }
            Err(error) => {
                defmt::error!("no features of sound: {}", error);
                Err(DeviceError::NoFrontEnd)
            }
        }
    }

    /// Rows of features of the clip that are complete.
    pub(crate) fn rows(&self) -> usize {
        self.extractor.rows()
    }

    /// Takes little-endian samples from number `offset` of the clip on, and writes the rows of features that
    /// they complete into the input of `session`. Returns the rows that are complete and the counter units
    /// that all of them took.
    pub(crate) fn load(
        &mut self,
        session: &mut Session<'_, '_>,
        offset: u32,
        bytes: &[u8],
        mut counter: impl FnMut() -> u64,
    ) -> Result<(u16, u64), DeviceError> {
        if offset == 0 {
            self.extractor.begin();
            (self.received, self.cost) = (0, 0);
        }
        let (pairs, rest) = bytes.as_chunks::<2>();
        let len = self.extractor.front_end().samples;
        if !rest.is_empty() || bytes.len() > CHUNK || count(pairs.len()) > len - self.received {
            return Err(DeviceError::Range { len });
        }
        if offset != self.received {
            return Err(DeviceError::Sequence { expected: self.received });
        }
        let mut samples = [0; CHUNK / 2];
        for (sample, pair) in samples.iter_mut().zip(pairs) {
            *sample = i16::from_le_bytes(*pair);
        }
        let model = *session.model();
        let input = session.input_mut();
        let before = counter();
        self.extractor.push(&samples[..pairs.len()], |index, row| {
            let first = index * row.len();
            model.quantise_from(first, row, input.get_mut(first..).unwrap_or(&mut []));
        });
        self.cost += counter() - before;
        self.received += count(pairs.len());
        Ok((self.extractor.rows() as u16, self.cost))
    }
}
