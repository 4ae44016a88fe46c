//! Decoding of RV32IMAC instructions (The RISC-V Instruction Set Manual, volume I).

use super::decode::{Branch, Instruction, Kind, bit};

const X0: u32 = 1;
const RA: u32 = 1 << 1;
const SP: u32 = 1 << 2;

fn plain(length: u8, reads: u32, writes: u32) -> Instruction {
    // x0 is always zero: nothing depends on it.
    let (reads, writes) = (reads & !X0, writes & !X0);
    Instruction { length, kind: Kind::Plain, branch: None, reads, address: 0, writes }
}

fn load(length: u8, narrow: bool, to: u32, address: u32) -> Instruction {
    Instruction { kind: Kind::Load { narrow }, address, ..plain(length, address, to) }
}

fn store(length: u8, from: u32, address: u32) -> Instruction {
    let kind = Kind::Store { indexed: false };
    Instruction { kind, address, ..plain(length, address | from, 0) }
}

fn jump(length: u8, reads: u32, writes: u32) -> Instruction {
    let branch = if writes & !X0 == 0 { Branch::Plain } else { Branch::Call };
    Instruction { branch: Some(branch), ..plain(length, reads, writes) }
}

/// A 32-bit instruction.
pub(super) fn wide(code: u32) -> Instruction {
    let (d, s1, s2) = (bit(code >> 7), bit(code >> 15), bit(code >> 20));
    let function = code >> 12 & 7;
    match code & 0x7f {
        0x03 | 0x07 => load(4, function & 3 != 2, d, s1),
        0x23 | 0x27 => store(4, s2, s1),
        0x2f => Instruction {
            // An atomic operation waits for what it loads.
            kind: Kind::Load { narrow: false },
            address: s1,
            ..plain(4, s1 | s2, d)
        },
        0x63 => Instruction { branch: Some(Branch::Plain), ..plain(4, s1 | s2, 0) },
        0x67 => jump(4, s1, d),
        0x6f => jump(4, 0, d),
        0x33 if code >> 25 == 1 => {
            let kind = match function {
                0 => Kind::Multiply { accumulate: false },
                1..=3 => Kind::LongMultiply { accumulate: false },
                _ => Kind::Divide,
            };
            Instruction { kind, ..plain(4, s1 | s2, d) }
        }
        0x33 => plain(4, s1 | s2, d),
        0x13 | 0x73 => plain(4, s1, d),
        0x17 | 0x37 => plain(4, 0, d),
        _ => plain(4, 0, 0),
    }
}

/// A 16-bit instruction.
pub(super) fn compressed(code: u16) -> Instruction {
    let full = |at: u32| bit(code >> at & 31);
    let short = |at: u32| bit(8 + (code >> at & 7));
    let (d, s2) = (full(7), full(2));
    match (code & 3, code >> 13) {
        (0, 0b000) => plain(2, SP, short(2)),
        (0, 0b001..=0b011) => load(2, false, short(2), short(7)),
        (0, 0b101..=0b111) => store(2, short(2), short(7)),
        (1, 0b000) => plain(2, d, d),
        (1, 0b001) => jump(2, 0, RA),
        (1, 0b010 | 0b011) => plain(2, if d == SP { SP } else { 0 }, d),
        (1, 0b100) => {
            let two = code >> 10 & 3 == 3;
            plain(2, short(7) | if two { short(2) } else { 0 }, short(7))
        }
        (1, 0b101) => jump(2, 0, 0),
        (1, 0b110 | 0b111) => Instruction { branch: Some(Branch::Plain), ..plain(2, short(7), 0) },
        (2, 0b000) => plain(2, d, d),
        (2, 0b001..=0b011) => load(2, false, d, SP),
        (2, 0b100) => match (code & 0x1000 != 0, s2 == X0) {
            (false, true) => jump(2, d, 0),
            (true, true) if d == X0 => plain(2, 0, 0), // a breakpoint
            (true, true) => jump(2, d, RA),
            (false, false) => plain(2, s2, d),
            (true, false) => plain(2, s2 | d, d),
        },
        (2, 0b101..=0b111) => store(2, s2, SP),
        _ => plain(2, 0, 0),
    }
}
