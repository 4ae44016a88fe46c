//! The most stack that a function can take, from the machine code of a firmware.
//!
//! Every function between the entry and the leaves is read once: what its instructions move the stack pointer
//! down by, and which functions it calls. The bound is the deepest sum along a path of calls. It is never too
//! small: what a function gives back before it takes more is counted twice. Calls through pointers and recursion
//! have no such bound and are errors; the core has neither.
//!
//! Thumb only (Armv7-M Architecture Reference Manual, DDI 0403E, chapter A7).

use std::collections::{BTreeMap, BTreeSet};

use object::{Architecture, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// A function's part of the stack and whom it calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    bytes: u64,
    calls: Vec<u64>,
}

/// Bytes of stack that the function called `name`, or else the one whose symbol contains it, takes at most, with
/// all that it calls. `None` where the code is not Thumb.
///
/// # Errors
///
/// When the file cannot be read, no or more than one function is called so, or its stack has no bound; the
/// message says at which address.
pub fn stack_bound(elf: &[u8], name: &str) -> Result<Option<u64>, String> {
    let file = object::File::parse(elf).map_err(|error| error.to_string())?;
    if file.architecture() != Architecture::Arm {
        return Ok(None);
    }
    let code = Code::read(&file)?;
    let called = |is: &dyn Fn(&str) -> bool| {
        let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
        let found = functions.filter(|symbol| symbol.name().is_ok_and(is));
        found.map(|symbol| symbol.address() & !1).collect::<BTreeSet<_>>()
    };
    let mut entries = called(&|found| found == name);
    if entries.is_empty() {
        // Rust's symbols have the crate, the path and a hash around the name.
        entries = called(&|found| found.contains(name));
    }
    let entries = Vec::from_iter(entries);
    match entries[..] {
        [entry] => code.bound(entry, &mut BTreeMap::new()).map(Some),
        [] => Err(format!("no function is called '{name}'")),
        _ => Err(format!("{} functions are called '{name}'", entries.len())),
    }
}

/// The functions of a firmware.
struct Code {
    /// By address: the end of each function.
    functions: BTreeMap<u64, u64>,
    /// Sections with instructions: address and bytes.
    sections: Vec<(u64, Vec<u8>)>,
    /// By address: whether instructions begin there, or data among them.
    mapping: BTreeMap<u64, bool>,
}

impl Code {
    fn read(file: &object::File<'_>) -> Result<Self, String> {
        let sections = file
            .sections()
            .filter(|section| section.kind() == object::SectionKind::Text)
            .map(|section| {
                let bytes = section.data().map_err(|error| error.to_string())?;
                Ok((section.address(), bytes.to_vec()))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let (mut starts, mut mapping) = (BTreeMap::new(), BTreeMap::new());
        for symbol in file.symbols() {
            let address = symbol.address() & !1;
            match symbol.name() {
                Ok(name) if name.starts_with("$t") => {
                    mapping.insert(address, true);
                }
                Ok(name) if name.starts_with("$d") => {
                    mapping.insert(address, false);
                }
                _ if symbol.kind() == SymbolKind::Text => {
                    let size: &mut u64 = starts.entry(address).or_default();
                    *size = symbol.size().max(*size);
                }
                _ => {}
            }
        }
        // Functions in assembly may have no size: they end where the next begins.
        let ends = |start: u64| {
            let next = starts.range(start + 1..).next().map(|(&next, _)| next);
            let section = sections
                .iter()
                .map(|(address, bytes)| *address..*address + bytes.len() as u64)
                .find(|section| section.contains(&start))
                .map(|section| section.end);
            next.into_iter().chain(section).min().unwrap_or(start)
        };
        let functions = starts
            .iter()
            .map(|(&start, &size)| (start, if size > 0 { start + size } else { ends(start) }))
            .collect();
        Ok(Self { functions, sections, mapping })
    }

    /// The bound of the function at `start`. `known` holds those found so far, `None` while they are looked for.
    fn bound(&self, start: u64, known: &mut BTreeMap<u64, Option<u64>>) -> Result<u64, String> {
        match known.get(&start) {
            Some(Some(bound)) => return Ok(*bound),
            Some(None) => return Err(format!("the function at {start:#x} calls itself")),
            None => {}
        }
        known.insert(start, None);
        let frame = self.frame(start)?;
        let mut deepest = 0;
        for call in frame.calls {
            deepest = deepest.max(self.bound(call, known)?);
        }
        let bound = frame.bytes + deepest;
        known.insert(start, Some(bound));
        Ok(bound)
    }

    fn frame(&self, start: u64) -> Result<Frame, String> {
        let end = *self
            .functions
            .get(&start)
            .ok_or_else(|| format!("there is no function at {start:#x}, which is called"))?;
        let mut frame = Frame::default();
        let mut at = start;
        while at < end {
            let mapped = self.mapping.range(..=at).next_back();
            if mapped.is_some_and(|(_, code)| !code) {
                at = self.mapping.range(at + 1..).next().map_or(end, |(&next, _)| next);
                continue;
            }
            let half = |at: u64| {
                self.sections.iter().find_map(|(address, bytes)| {
                    let from = usize::try_from(at.checked_sub(*address)?).ok()?;
                    Some(u16::from_le_bytes([*bytes.get(from)?, *bytes.get(from + 1)?]))
                })
            };
            let missing = || format!("no code at {at:#x}");
            let first = half(at).ok_or_else(missing)?;
            let (length, step) = if first >> 11 < 0b11101 {
                (2, narrow(first, at))
            } else {
                (4, wide(first, half(at + 2).ok_or_else(missing)?, at))
            };
            match step {
                Step::Other => {}
                Step::Down(bytes) => frame.bytes += bytes,
                Step::Jump(to) if (start..end).contains(&to) => {}
                // Armv6-M has no other jump that reaches so far.
                Step::Call(to) if (start + 1..end).contains(&to) => {}
                // A jump out of the function is a call that never returns here.
                Step::Jump(to) | Step::Call(to) => frame.calls.push(to),
                Step::Unbounded(what) => return Err(format!("{what} at {at:#x}")),
            }
            at += length;
        }
        frame.calls.sort_unstable();
        frame.calls.dedup();
        Ok(frame)
    }
}

/// What an instruction means for the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Other,
    /// It moves the stack pointer down by so many bytes.
    Down(u64),
    Call(u64),
    Jump(u64),
    /// It does what has no bound.
    Unbounded(&'static str),
}

const INDIRECT: &str = "a call through a pointer";
const BY_REGISTER: &str = "the stack pointer is moved by a register";

/// A 16-bit instruction at `at`.
fn narrow(code: u16, at: u64) -> Step {
    let branch = |bits: u32, offset: u16| {
        let offset = (i64::from(offset) << (64 - bits)) >> (64 - bits);
        Step::Jump(at.wrapping_add(4).wrapping_add_signed(2 * offset))
    };
    match code {
        // PUSH, with or without the return address.
        0xb400..=0xb5ff => Step::Down(4 * u64::from((code & 0x1ff).count_ones())),
        // SUB SP, #imm.
        0xb080..=0xb0ff => Step::Down(4 * u64::from(code & 0x7f)),
        // MOV SP, Rm ends the alignment of a frame, or gives a frame back.
        _ if code & 0xff87 == 0x4685 => Step::Down(ALIGNMENT),
        // ADD SP, Rm.
        _ if code & 0xff87 == 0x4485 => Step::Unbounded(BY_REGISTER),
        // BLX Rm; BX Rm other than the return. MOV PC is how kernels enter their unrolled loops.
        _ if code & 0xff80 == 0x4780 => Step::Unbounded(INDIRECT),
        _ if code & 0xff80 == 0x4700 && code != 0x4770 => Step::Unbounded(INDIRECT),
        // B, with and without a condition.
        0xe000..=0xe7ff => branch(11, code & 0x7ff),
        0xd000..=0xddff => branch(8, code & 0xff),
        _ => Step::Other,
    }
}

/// The largest alignment of a frame, by which it may grow.
const ALIGNMENT: u64 = 16;

/// A 32-bit instruction at `at`.
fn wide(first: u16, second: u16, at: u64) -> Step {
    const SP: u16 = 13;
    let to = second >> 8 & 15;
    match first {
        // PUSH.W (STMDB SP!).
        0xe92d => Step::Down(4 * u64::from(second.count_ones())),
        // STRD with write-back below SP.
        0xe96d => Step::Down(4 * u64::from(second & 0xff)),
        // STR with write-back below SP.
        0xf84d if second & 0x0f00 == 0x0d00 => Step::Down(u64::from(second & 0xff)),
        // VPUSH (VSTMDB SP!).
        0xed2d | 0xed6d => Step::Down(4 * u64::from(second & 0xff)),
        // SUB.W SP, SP, #const and SUBW SP, SP, #imm12.
        _ if first & 0xfbef == 0xf1ad && to == SP && second & 0x8000 == 0 => {
            Step::Down(expanded(first, second).into())
        }
        _ if first & 0xfbff == 0xf2ad && to == SP && second & 0x8000 == 0 => {
            Step::Down(immediate(first, second).into())
        }
        // SUB.W SP, SP, Rm.
        _ if first & 0xffef == 0xebad && to == SP => Step::Unbounded(BY_REGISTER),
        _ if first & 0xf800 == 0xf000 && second & 0x8000 != 0 => control(first, second, at),
        _ => Step::Other,
    }
}

/// B.W, BL and other instructions that are encoded as they are.
fn control(first: u16, second: u16, at: u64) -> Step {
    let bit = |code: u16, at: u32| u32::from(code >> at & 1);
    let sign = bit(first, 10);
    let (j1, j2) = (bit(second, 13), bit(second, 11));
    let low = u32::from(second & 0x7ff) << 1;
    let to = |offset: u32, bits: u32| {
        let offset = (offset << (32 - bits)) as i32 >> (32 - bits);
        at.wrapping_add(4).wrapping_add_signed(offset.into())
    };
    match second & 0xd000 {
        0x9000 | 0xd000 => {
            let (i1, i2) = (1 ^ j1 ^ sign, 1 ^ j2 ^ sign);
            let high = u32::from(first & 0x3ff) << 12;
            let target = to(sign << 24 | i1 << 23 | i2 << 22 | high | low, 25);
            if second & 0x4000 == 0 { Step::Jump(target) } else { Step::Call(target) }
        }
        // With a condition; other conditions are instructions of other kinds.
        0x8000 if first >> 7 & 7 != 7 => {
            let high = u32::from(first & 0x3f) << 12;
            Step::Jump(to(sign << 20 | j2 << 19 | j1 << 18 | high | low, 21))
        }
        _ => Step::Other,
    }
}

/// A constant of twelve bits.
fn immediate(first: u16, second: u16) -> u32 {
    u32::from(first >> 10 & 1) << 11 | u32::from(second >> 12 & 7) << 8 | u32::from(second & 0xff)
}

/// The same as `ThumbExpandImm` reads it.
fn expanded(first: u16, second: u16) -> u32 {
    let encoded = immediate(first, second);
    let byte = encoded & 0xff;
    match encoded >> 8 {
        0 => byte,
        1 => byte << 16 | byte,
        2 => byte << 24 | byte << 8,
        3 => byte * 0x0101_0101,
        _ => (0x80 | encoded & 0x7f).rotate_right(encoded >> 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes as GNU as writes them.
    #[test]
    fn instructions_are_understood() {
        let narrow = |code| narrow(code, 0x1000);
        assert_eq!(narrow(0xb5f0), Step::Down(20), "push {{r4-r7, lr}}");
        assert_eq!(narrow(0xb08c), Step::Down(48), "sub sp, #48");
        assert_eq!(narrow(0xb00c), Step::Other, "add sp, #48");
        assert_eq!(narrow(0x4770), Step::Other, "bx lr");
        assert_eq!(narrow(0x4798), Step::Unbounded(INDIRECT), "blx r3");
        assert_eq!(narrow(0xe7fe), Step::Jump(0x1000), "b .");
        assert_eq!(narrow(0xd1fd), Step::Jump(0x0ffe), "bne .-2");
        let wide = |first, second| wide(first, second, 0x1000);
        assert_eq!(wide(0xe92d, 0x4ff0), Step::Down(36), "push {{r4-r11, lr}}");
        assert_eq!(wide(0xf5ad, 0x7d00), Step::Down(512), "sub.w sp, sp, #512");
        assert_eq!(wide(0xf2ad, 0x4d0c), Step::Down(1036), "subw sp, sp, #1036");
        assert_eq!(wide(0xf84d, 0x8d04), Step::Down(4), "str r8, [sp, #-4]!");
        assert_eq!(wide(0xed2d, 0x8b10), Step::Down(64), "vpush {{d8-d15}}");
        assert_eq!(wide(0xf000, 0xf802), Step::Call(0x1008), "bl .+8");
        assert_eq!(wide(0xf7ff, 0xfffe), Step::Call(0x1000), "bl .");
        assert_eq!(wide(0xf7ff, 0xbffe), Step::Jump(0x1000), "b.w .");
        assert_eq!(wide(0xf47f, 0xaffe), Step::Jump(0x1000), "bne.w .");
        assert_eq!(wide(0xf3bf, 0x8f4f), Step::Other, "dsb sy");
    }

    /// 0: pushes 8, calls 8, jumps to 16; 8: takes 32; 16: pushes 4, with data that looks like a push.
    fn code(last: u16) -> Code {
        let halves: [u16; 12] = [
            0xb510, 0xf000, 0xf801, 0xe003, // push {r4, lr}; bl 8; b 16
            0xb088, 0xb008, 0x4770, 0xbf00, // sub sp, #32; add sp, #32; bx lr; nop
            0xb401, last, 0x4770, 0xb5ff, // push {r0}; ...; bx lr; data
        ];
        let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        Code {
            functions: [(0, 8), (8, 16), (16, 24)].into(),
            sections: vec![(0, bytes)],
            mapping: [(0, true), (22, false)].into(),
        }
    }

    #[test]
    fn the_deepest_path_counts() {
        let bound = |code: &Code| code.bound(0, &mut BTreeMap::new());
        assert_eq!(bound(&code(0xbf00)), Ok(8 + 32));
        // sub sp, #40 makes the other path the deeper one.
        assert_eq!(bound(&code(0xb08a)), Ok(8 + 4 + 40));
        assert!(bound(&code(0x4790)).unwrap_err().contains("pointer at 0x12"));
        // b 0: back to the caller.
        assert!(bound(&code(0xe7f5)).unwrap_err().contains("calls itself"));
        let mut missing = code(0xbf00);
        missing.functions.remove(&8);
        assert!(bound(&missing).unwrap_err().contains("no function at 0x8"));
    }
}
