//! Which instructions an operator executes, and the clock cycles estimated from them.
//!
//! An emulator counts instructions, but a load takes longer than an addition. QEMU's log tells every
//! executed translation block; here its instructions are decoded and counted by class, operator by
//! operator, and [`Timing`] says how long each class takes on a core. Waiting for slow memory (flash
//! wait states, caches) is not counted.

mod decode;
mod log;
mod riscv;
#[cfg(test)]
mod tests;
mod thumb;
mod timing;

use std::io::BufReader;

use niwaki_core::{Model, RunError};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use self::decode::{Branch, Instruction, Kind};
use self::log::{Code, Reader};
use super::emulator::Emulator;
use super::{Board, Device, Firmware, TargetError};

pub use timing::{TIMINGS, Timing};

/// Instructions that an operator executed, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerMix {
    /// All of them.
    pub instructions: u64,
    /// Loads of one register.
    pub loads: u64,
    /// Those that directly follow another and do not need its result for their address.
    pub loads_pipelined: u64,
    /// Loads whose result the next instruction reads.
    pub loads_used: u64,
    /// Those of them that load a byte or a half-word.
    pub narrow_loads_used: u64,
    /// Loads and stores whose address the instruction before has computed.
    pub address_stalls: u64,
    /// Stores of one register.
    pub stores: u64,
    /// Those of them to the sum of two registers.
    pub stores_indexed: u64,
    /// Loads and stores of two or more words.
    pub multiples: u64,
    /// Words that these load and store.
    pub multiple_words: u64,
    /// Products of at most 32 bits, two at once included.
    pub multiplies: u64,
    /// Those of them with an addition.
    pub multiply_accumulates: u64,
    /// Products of 64 bits.
    pub long_multiplies: u64,
    /// Those of them with an addition.
    pub long_accumulates: u64,
    /// Products of either size that the next instruction reads, or that another product follows.
    pub multiplies_used: u64,
    /// Divisions.
    pub divides: u64,
    /// Branches, taken or not.
    pub branches: u64,
    /// Branches that were taken.
    pub branches_taken: u64,
    /// Calls.
    pub calls: u64,
    /// Branches to an address from memory: returns by `pop`, jump tables.
    pub branches_loaded: u64,
    /// Instructions that a core which issues two at once can issue together with the one before.
    pub paired: u64,
}

impl LayerMix {
    /// Clock cycles that these instructions take on a core without waiting for memory; `None` for a core
    /// without known [`Timing`].
    pub fn cycles(&self, core: &str) -> Option<f64> {
        Timing::of(core).map(|timing| timing.cycles(self))
    }

    /// Adds the instructions of a block that was executed `times` and left by a branch `taken` times.
    fn add<'i>(&mut self, block: impl Iterator<Item = &'i Instruction>, times: u64, taken: u64) {
        let mut before: Option<&Instruction> = None;
        let mut free_to_pair = false;
        self.branches_taken += taken;
        for now in block {
            self.instructions += times;
            match now.kind {
                Kind::Plain => {}
                Kind::Load { .. } => self.loads += times,
                Kind::Store { indexed } => {
                    self.stores += times;
                    self.stores_indexed += if indexed { times } else { 0 };
                }
                Kind::Multiple { words, .. } => {
                    self.multiples += times;
                    self.multiple_words += times * u64::from(words);
                }
                Kind::Multiply { accumulate } => {
                    self.multiplies += times;
                    self.multiply_accumulates += if accumulate { times } else { 0 };
                }
                Kind::LongMultiply { accumulate } => {
                    self.long_multiplies += times;
                    self.long_accumulates += if accumulate { times } else { 0 };
                }
                Kind::Divide => self.divides += times,
            }
            self.branches += if now.branch.is_some() { times } else { 0 };
            self.calls += if now.branch == Some(Branch::Call) { times } else { 0 };
            self.branches_loaded += if now.branch == Some(Branch::Loaded) { times } else { 0 };
            if let Some(before) = before {
                self.add_pair(before, now, times);
                free_to_pair = free_to_pair && can_pair(before, now);
                self.paired += if free_to_pair { times } else { 0 };
                // An instruction that was paired leads no pair.
                free_to_pair = !free_to_pair;
            } else {
                free_to_pair = true;
            }
            before = Some(now);
        }
    }

    /// Adds what follows from the neighbourhood of two instructions.
    fn add_pair(&mut self, before: &Instruction, now: &Instruction, times: u64) {
        let uses = now.reads & before.writes != 0;
        let address_waits = now.address & before.writes != 0;
        match before.kind {
            Kind::Load { narrow } => {
                self.loads_used += if uses { times } else { 0 };
                self.narrow_loads_used += if uses && narrow { times } else { 0 };
                let pipelined = matches!(now.kind, Kind::Load { .. }) && !address_waits;
                self.loads_pipelined += if pipelined { times } else { 0 };
            }
            Kind::Multiple { .. } | Kind::Store { .. } => {}
            _ => self.address_stalls += if address_waits { times } else { 0 },
        }
        if before.kind.multiplies() && (uses || now.kind.multiplies()) {
            self.multiplies_used += times;
        }
    }
}

/// Whether a core that issues two instructions at once may issue these.
fn can_pair(first: &Instruction, second: &Instruction) -> bool {
    let depends = (second.reads | second.writes) & first.writes != 0;
    let memory = first.kind.accesses_memory() && second.kind.accesses_memory();
    let multiply = first.kind.multiplies() && second.kind.multiplies();
    first.branch.is_none() && !depends && !memory && !multiply
}

/// Runs `model` on an emulated board and tells the instructions that each operator executed.
///
/// This takes some microseconds for every executed block: seconds for a network of ten million
/// instructions.
///
/// # Errors
///
/// When the board cannot be started or refuses the model, when the emulator's log is of another form than
/// the known one, or when its instructions are not those that the board has counted.
pub fn trace(
    board: &Board,
    firmware: &Firmware,
    model: &Model<'_>,
    input: &[i8],
) -> Result<Vec<LayerMix>, TargetError> {
    let elf = std::fs::read(&firmware.elf)
        .map_err(TargetError::io(format!("reading the firmware {}", firmware.elf.display())))?;
    let code = Code::read(&elf)
        .map_err(|problem| TargetError::Elf { path: firmware.elf.clone(), problem })?;
    let failed = |problem: String| TargetError::Trace { board: board.name.clone(), problem };
    firmware.check_fits(board, model)?;
    let tensor = model.input();
    if input.len() != tensor.len() {
        let (expected, found) = (tensor.len(), input.len());
        return Err(RunError::InputLength { expected, found }.into());
    }
    // The input lies in the arena from the beginning: over the line it would take longer than all else.
    let memory = [
        (model.as_bytes(), firmware.model_region.start),
        (input.as_bytes(), firmware.arena.start + tensor.offset as u64),
    ];
    let (emulator, log) = Emulator::start_traced(board, &firmware.elf, &memory)?;
    let mut reader = Reader::new(&code);
    let (counted, read) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.read(BufReader::with_capacity(1 << 16, log)));
        // The emulator ends with the device, and the log with it.
        let counted = Device::attach(board, firmware, model, emulator)
            .and_then(|mut device| device.profile_logged());
        let read = reading.join().unwrap_or_else(|_| Err("its reader has panicked".to_owned()));
        (counted, read)
    });
    let counted = match counted {
        Ok(counted) => counted,
        Err(error) => return Err(error.with_output(&reader.messages)),
    };
    read.map_err(failed)?;
    let layers: Option<Vec<LayerMix>> =
        (0..counted.len()).map(|layer| reader.section(2 * layer)).collect();
    let layers = layers.ok_or_else(|| {
        failed(format!("expected {} operators in the log, it ends before", counted.len()))
    })?;
    for (index, (mix, &counted)) in layers.iter().zip(&counted).enumerate() {
        // Boards count in steps of up to 100 instructions, the reading of the counter among them.
        if mix.instructions.abs_diff(counted) > counted / 100 + 200 {
            let traced = mix.instructions;
            return Err(failed(format!(
                "operator {index} took {counted} instructions, the log has {traced} of them"
            )));
        }
    }
    Ok(layers)
}
