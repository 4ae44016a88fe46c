//! QEMU's log of executed translation blocks (`-d exec,nochain,in_asm`), read while it is written.
//!
//! ```text
//! IN: main
//! 0x00000404:  480e       ldr      r0, [pc, #0x38]
//! 0x00000406:  4770       bx       lr
//!
//! Trace 0: 0x7f15a4000500 [00800408/00000404/00000110/ff020200] main
//! ```
//!
//! A block is listed once, when it is translated, and named by a host address every time that it is
//! executed. Two more lines take an execution back, wholly or from an instruction on.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::ops::Range;

use object::{Object, ObjectSegment, ObjectSymbol};

use super::LayerMix;
use super::decode::{Instruction, InstructionSet};

/// Part of the symbol of the agent's function that reads the counter before and after an operator.
const COUNTER: &str = "read_counter";

/// What the log is read with: the firmware's code.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) set: InstructionSet,
    /// Addresses and bytes of the ELF file's segments.
    pub(super) segments: Vec<(u64, Vec<u8>)>,
    /// Addresses of the function that reads the counter.
    pub(super) counter: Range<u64>,
}

impl Code {
    /// Takes the code from an ELF file.
    pub(super) fn read(elf: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(elf).map_err(|error| error.to_string())?;
        let (set, odd) = match file.architecture() {
            // An odd address says that a function is in Thumb code.
            object::Architecture::Arm => (InstructionSet::Thumb, 1),
            object::Architecture::Riscv32 => (InstructionSet::RiscV, 0),
            other => return Err(format!("{other:?} code cannot be traced")),
        };
        let counter = file
            .symbols()
            .find(|symbol| symbol.name().is_ok_and(|name| name.contains(COUNTER)))
            .map(|symbol| {
                let start = symbol.address() & !odd;
                start..start + symbol.size()
            })
            .ok_or_else(|| format!("it has no symbol of a function '{COUNTER}'"))?;
        let segments = file
            .segments()
            .filter_map(|segment| Some((segment.address(), segment.data().ok()?.to_vec())))
            .collect();
        Ok(Self { set, segments, counter })
    }

    fn instruction(&self, address: u64) -> Option<Instruction> {
        let from = |(start, bytes): &'_ (u64, Vec<u8>)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            let code = bytes.get(at..).filter(|code| !code.is_empty())?;
            self.set.decode(code)
        };
        self.segments.iter().find_map(from)
    }
}

/// A translation block.
#[derive(Debug)]
struct Block {
    start: u64,
    /// Its instructions and their addresses.
    instructions: Vec<(u64, Instruction)>,
}

/// An execution of the first instructions of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Execution {
    block: usize,
    instructions: usize,
}

/// How often the same instructions were executed, and how often the last of them branched.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    executed: u64,
    taken: u64,
}

/// Executed blocks between two readings of the counter.
type Section = HashMap<Execution, Times>;

/// Reader of a log.
#[derive(Debug)]
pub(super) struct Reader<'c> {
    code: &'c Code,
    blocks: Vec<Block>,
    /// Blocks by the host address that the log calls them by.
    handles: HashMap<u64, usize>,
    /// Addresses of the block that is being listed.
    listed: Vec<u64>,
    /// The execution that the next line may take back.
    last: Option<Execution>,
    sections: Vec<Section>,
    /// Lines that belong to no log: what the emulator says.
    pub(super) messages: String,
}

impl<'c> Reader<'c> {
    pub(super) fn new(code: &'c Code) -> Self {
        Self {
            code,
            blocks: Vec::new(),
            handles: HashMap::new(),
            listed: Vec::new(),
            last: None,
            sections: vec![Section::new()],
            messages: String::new(),
        }
    }

    /// Reads to the log's end.
    pub(super) fn read(&mut self, mut log: impl BufRead) -> Result<(), String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            match log.read_until(b'\n', &mut line) {
                Ok(0) => break,
                // An emulator that is stopped may leave half a line.
                Ok(_) if line.last() != Some(&b'\n') => break,
                Ok(_) => self.line(&String::from_utf8_lossy(&line))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the emulator's log cannot be read: {error}")),
            }
        }
        self.commit(None);
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("Trace ") {
            let (handle, start) =
                executed(rest).ok_or_else(|| format!("unknown form of log line: {line}"))?;
            self.execute(handle, start)
        } else if line.starts_with("IN:") {
            self.listed.clear();
            Ok(())
        } else if let Some(rest) = line.strip_prefix("0x") {
            let address =
                rest.split(':').next().and_then(|text| u64::from_str_radix(text, 16).ok());
            self.listed.extend(address);
            Ok(())
        } else if line.starts_with("Stopped execution of TB chain before") {
            self.last = None;
            Ok(())
        } else if let Some(address) =
            line.strip_prefix("cpu_io_recompile: rewound execution of TB to ")
        {
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)
                .map_err(|_| format!("unknown form of log line: {line}"))?;
            self.rewind(address);
            Ok(())
        } else if line.starts_with("OBJD-") {
            Err("this emulator lists no instructions: it was built without a disassembler".into())
        } else {
            let known = line.is_empty() || line.starts_with("---") || line.starts_with("Priv:");
            if !known && self.messages.len() < 10_000 {
                self.messages.push_str(line);
                self.messages.push('\n');
            }
            Ok(())
        }
    }

    /// A block is about to be executed.
    fn execute(&mut self, handle: u64, start: u64) -> Result<(), String> {
        self.commit(Some(start));
        if self.listed.first() == Some(&start) {
            let listed = std::mem::take(&mut self.listed);
            let instructions = listed
                .into_iter()
                .map(|address| {
                    let found = self.code.instruction(address).map(|code| (address, code));
                    found.ok_or_else(|| format!("no code at {address:#x} in the firmware"))
                })
                .collect::<Result<_, _>>()?;
            self.handles.insert(handle, self.blocks.len());
            self.blocks.push(Block { start, instructions });
        }
        let known = self.handles.get(&handle).copied();
        let Some(block) = known.filter(|&block| self.blocks[block].start == start) else {
            // The log begins at any time: what was translated before is of no interest.
            return match self.sections.len() {
                1 => Ok(()),
                _ => Err(format!("the block at {start:#x} was executed but not listed")),
            };
        };
        self.last = Some(Execution { block, instructions: self.blocks[block].instructions.len() });
        Ok(())
    }

    /// The last execution went no further than before `address`: there it goes on with a new block.
    fn rewind(&mut self, address: u64) {
        if let Some(last) = &mut self.last {
            let block = &self.blocks[last.block].instructions;
            let at = block.iter().position(|(other, _)| *other == address);
            last.instructions = at.unwrap_or(last.instructions);
        }
    }

    /// Counts the last execution, now that nothing takes it back and it is known where it went on.
    fn commit(&mut self, next: Option<u64>) {
        let Some(execution) = self.last.take() else { return };
        let block = &self.blocks[execution.block];
        if block.start == self.code.counter.start {
            self.sections.push(Section::new());
        }
        let last = execution.instructions.checked_sub(1).map(|last| block.instructions[last]);
        let (Some(section), Some((address, last))) = (self.sections.last_mut(), last) else {
            return;
        };
        if self.code.counter.contains(&block.start) {
            return;
        }
        let goes_on = next == Some(address + u64::from(last.length));
        let times = section.entry(execution).or_default();
        times.executed += 1;
        times.taken += u64::from(last.branch.is_some() && !goes_on);
    }

    /// Instructions executed between the `n`-th reading of the counter, from 0, and the next.
    pub(super) fn section(&self, n: usize) -> Option<LayerMix> {
        // The first section comes before the first reading; the last is not ended by one.
        let section = self.sections.get(n + 1).filter(|_| n + 2 < self.sections.len())?;
        let mut mix = LayerMix::default();
        for (execution, times) in section {
            let instructions = &self.blocks[execution.block].instructions[..execution.instructions];
            mix.add(
                instructions.iter().map(|(_, instruction)| instruction),
                times.executed,
                times.taken,
            );
        }
        Some(mix)
    }
}

/// Host address and start of the block in `0: 0x7f15a4000500 [00800408/00000404/...] main`.
fn executed(rest: &str) -> Option<(u64, u64)> {
    let (handle, place) = rest.split_once(" [")?;
    let handle = handle.rsplit_once("0x")?.1;
    let start = place.split(['/', ']']).nth(1)?;
    Some((u64::from_str_radix(handle, 16).ok()?, u64::from_str_radix(start, 16).ok()?))
}
