//! Decoding of Thumb instructions (Armv7-M Architecture Reference Manual, DDI 0403E, chapter A5).
//!
//! Only what [`Instruction`] holds is decoded. Floating-point arithmetic and rare system instructions
//! count as plain ones.

use super::decode::{Branch, Instruction, Kind, bit};

const SP: u32 = 1 << 13;
const LR: u32 = 1 << 14;
const PC: u16 = 15;

fn plain(length: u8) -> Instruction {
    Instruction { length, kind: Kind::Plain, branch: None, reads: 0, address: 0, writes: 0 }
}

/// A load or store of one register. `to` is written by a load and read by a store.
fn single(
    length: u8,
    load: bool,
    narrow: bool,
    to: u32,
    address: u32,
    indexed: bool,
) -> Instruction {
    let kind = if load { Kind::Load { narrow } } else { Kind::Store { indexed } };
    let (reads, writes) = if load { (address, to) } else { (address | to, 0) };
    Instruction { kind, reads, address, writes, ..plain(length) }
}

/// A load or store of the registers in `list`.
fn multiple(length: u8, load: bool, list: u32, base: u32, written_back: bool) -> Instruction {
    let moved = if load { list } else { 0 };
    let reads = base | if load { 0 } else { list };
    Instruction {
        kind: Kind::Multiple { load, words: list.count_ones() as u8 },
        branch: (load && list & bit(PC) != 0).then_some(Branch::Loaded),
        reads,
        address: base,
        writes: moved | if written_back { base } else { 0 },
        ..plain(length)
    }
}

/// A 16-bit instruction.
pub(super) fn narrow(code: u16) -> Instruction {
    let low = |at: u32| bit(code >> at & 7);
    let base = plain(2);
    match code >> 11 {
        // Shifts by a constant; additions and subtractions of three operands.
        0b00000..=0b00010 => Instruction { reads: low(3), writes: low(0), ..base },
        0b00011 => {
            let register = code & 0x0400 == 0;
            let reads = low(3) | if register { low(6) } else { 0 };
            Instruction { reads, writes: low(0), ..base }
        }
        // MOV, CMP, ADD, SUB with a constant of eight bits.
        0b00100 => Instruction { writes: low(8), ..base },
        0b00101 => Instruction { reads: low(8), ..base },
        0b00110 | 0b00111 => Instruction { reads: low(8), writes: low(8), ..base },
        0b01000 => data_processing(code),
        0b01001 => single(2, true, false, low(8), bit(PC), false),
        0b01010 | 0b01011 => {
            let operation = code >> 9 & 7;
            let (load, narrow) = (operation >= 3, operation != 0b100);
            single(2, load, narrow, low(0), low(3) | low(6), true)
        }
        0b01100..=0b10001 => {
            let (load, narrow) = (code & 0x0800 != 0, code >> 12 != 0b0110);
            single(2, load, narrow, low(0), low(3), false)
        }
        0b10010 | 0b10011 => single(2, code & 0x0800 != 0, false, low(8), SP, false),
        0b10100 => Instruction { writes: low(8), ..base },
        0b10101 => Instruction { reads: SP, writes: low(8), ..base },
        0b10110 | 0b10111 => miscellaneous(code),
        0b11000 | 0b11001 => {
            let list = u32::from(code & 0xff);
            multiple(2, code & 0x0800 != 0, list, low(8), true)
        }
        // Conditions 14 and 15 are undefined instructions and supervisor calls.
        0b11010 | 0b11011 if code >> 9 & 7 != 0b111 => {
            Instruction { branch: Some(Branch::Plain), ..base }
        }
        0b11100 => Instruction { branch: Some(Branch::Plain), ..base },
        _ => base,
    }
}

/// `0b01000...`: register operations on low and on high registers, BX and BLX.
fn data_processing(code: u16) -> Instruction {
    let low = |at: u32| bit(code >> at & 7);
    let base = plain(2);
    if code & 0x0400 == 0 {
        let operation = code >> 6 & 15;
        let kind = match operation {
            0b1101 => Kind::Multiply { accumulate: false },
            _ => Kind::Plain,
        };
        // TST, CMP and CMN write nothing; MVN reads one operand.
        let compares = matches!(operation, 0b1000 | 0b1010 | 0b1011);
        let reads = low(3) | if operation == 0b1111 { 0 } else { low(0) };
        return Instruction { kind, reads, writes: if compares { 0 } else { low(0) }, ..base };
    }
    let to = (code >> 4 & 8) | (code & 7);
    let from = bit(code >> 3 & 15);
    let branch = (to == PC).then_some(Branch::Plain);
    match code >> 8 & 3 {
        0b00 => Instruction { reads: from | bit(to), writes: bit(to), branch, ..base },
        0b01 => Instruction { reads: from | bit(to), ..base },
        0b10 => Instruction { reads: from, writes: bit(to), branch, ..base },
        _ => {
            let call = code & 0x80 != 0;
            let branch = if call { Branch::Call } else { Branch::Plain };
            let writes = if call { LR } else { 0 };
            Instruction { reads: from, branch: Some(branch), writes, ..base }
        }
    }
}

/// `0b1011...`: pushes and pops, extensions, byte reversals, CBZ, hints.
fn miscellaneous(code: u16) -> Instruction {
    let low = |at: u32| bit(code >> at & 7);
    let base = plain(2);
    match code >> 8 & 15 {
        0b0000 => Instruction { reads: SP, writes: SP, ..base },
        0b0001 | 0b0011 | 0b1001 | 0b1011 => {
            Instruction { reads: low(0), branch: Some(Branch::Plain), ..base }
        }
        0b0010 | 0b1010 => Instruction { reads: low(3), writes: low(0), ..base },
        0b0100 | 0b0101 => {
            let list = u32::from(code & 0xff) | if code & 0x100 != 0 { LR } else { 0 };
            multiple(2, false, list, SP, true)
        }
        0b1100 | 0b1101 => {
            let list = u32::from(code & 0xff) | if code & 0x100 != 0 { bit(PC) } else { 0 };
            multiple(2, true, list, SP, true)
        }
        _ => base,
    }
}

/// A 32-bit instruction: its first and its second half.
pub(super) fn wide(first: u16, second: u16) -> Instruction {
    let base = plain(4);
    let (n, t, d, m) = (bit(first & 15), second >> 12, bit(second >> 8 & 15), bit(second & 15));
    match first >> 9 {
        0b111_0100 => load_store_several(first, second),
        // Data processing with a shifted register.
        0b111_0101 => {
            let moves = first & 15 == PC;
            Instruction { reads: m | if moves { 0 } else { n }, writes: d, ..base }
        }
        0b111_0110 | 0b111_1110 => floating_point(first, second),
        0b111_1000..=0b111_1011 => {
            if second & 0x8000 == 0 {
                // Data processing with a constant. That of MOVW takes the place of a register's number.
                let reads = match first & 0xfbf0 {
                    0xf240 => 0,
                    0xf2c0 => d,
                    _ => n,
                };
                return Instruction { reads, writes: d, ..base };
            }
            // The second half begins with 11x1 in BL, 10x1 in B and 10x0 in a conditional branch, whose
            // conditions 14 and 15 stand for hints, barriers and system registers. What is left are the
            // low-overhead loops of Armv8.1-M.
            let call = second & 0xd000 == 0xd000;
            let system = second & 0xd000 == 0x8000 && first >> 7 & 7 == 7;
            let branch = match (call, system) {
                (true, _) => Some(Branch::Call),
                (_, true) => None,
                _ => Some(Branch::Plain),
            };
            Instruction { branch, writes: if call { LR } else { 0 }, ..base }
        }
        0b111_1100 => {
            let (load, size) = (first & 0x10 != 0, first >> 5 & 3);
            if size == 3 {
                return base;
            }
            // Bit 7 of the first half tells 12-bit offsets; without them it is a register or a short
            // offset. A base of PC always has a 12-bit offset.
            let by_register = first & 0x80 == 0 && second & 0x0fc0 == 0 && first & 15 != PC;
            let address = n | if by_register { m } else { 0 };
            if load && t == PC && size < 2 {
                return base; // a hint to preload
            }
            let mut load_store = single(4, load, size < 2, bit(t), address, by_register);
            let writes_back = first & 0x80 == 0 && second & 0x0900 == 0x0900;
            load_store.writes |= if writes_back { n } else { 0 };
            load_store.branch = (load && t == PC).then_some(Branch::Loaded);
            load_store
        }
        0b111_1101 => multiply_or_register(first, second),
        _ => base,
    }
}

/// LDM, STM, LDRD, STRD, exclusive accesses and table branches.
fn load_store_several(first: u16, second: u16) -> Instruction {
    let (load, n) = (first & 0x10 != 0, bit(first & 15));
    let (t, t2) = (bit(second >> 12), bit(second >> 8 & 15));
    if first & 0x40 == 0 {
        return multiple(4, load, u32::from(second), n, first & 0x20 != 0);
    }
    let (indexed, written_back) = (first & 0x100 != 0, first & 0x20 != 0);
    if indexed || written_back {
        return multiple(4, load, t | t2, n, written_back);
    }
    if first & 0xfff0 == 0xe8d0 && second & 0x00e0 == 0 {
        let address = n | bit(second & 15);
        return Instruction {
            branch: Some(Branch::Loaded),
            ..single(4, true, true, 0, address, true)
        };
    }
    single(4, load, false, t, n, false)
}

/// Shifts, extensions and parallel additions of registers; products and quotients.
fn multiply_or_register(first: u16, second: u16) -> Instruction {
    let base = plain(4);
    let (n, a, d, m) = (bit(first & 15), second >> 12, bit(second >> 8 & 15), bit(second & 15));
    let operation = first >> 4 & 7;
    if first & 0x100 == 0 {
        // An extension without an addition has no first operand.
        let extends = first & 0x80 == 0 && second & 0x80 != 0 && first & 15 == PC;
        return Instruction { reads: m | if extends { 0 } else { n }, writes: d, ..base };
    }
    if first & 0x80 == 0 {
        let accumulate = a != PC;
        let reads = n | m | if accumulate { bit(a) } else { 0 };
        return Instruction { kind: Kind::Multiply { accumulate }, reads, writes: d, ..base };
    }
    let low = bit(a);
    match operation {
        0b001 | 0b011 => Instruction { kind: Kind::Divide, reads: n | m, writes: d, ..base },
        _ => {
            let accumulate = operation & 0b100 != 0;
            let kind = Kind::LongMultiply { accumulate };
            let reads = n | m | if accumulate { low | d } else { 0 };
            Instruction { kind, reads, writes: low | d, ..base }
        }
    }
}

/// Loads and stores of floating-point registers; everything else of the coprocessors is plain.
fn floating_point(first: u16, second: u16) -> Instruction {
    let n = bit(first & 15);
    let load = first & 0x10 != 0;
    let (before, up, back) = (first & 0x100 != 0, first & 0x80 != 0, first & 0x20 != 0);
    let ours = second >> 9 & 7 == 0b101 && first >> 9 == 0b111_0110;
    if !ours || !(before || up) {
        return plain(4);
    }
    let words = (second & 0xff) as u8;
    let kind = match (before && !back, load) {
        (true, true) if second & 0x100 == 0 => Kind::Load { narrow: false },
        (true, false) if second & 0x100 == 0 => Kind::Store { indexed: false },
        (true, load) => Kind::Multiple { load, words: 2 },
        (false, load) => Kind::Multiple { load, words },
    };
    Instruction { kind, reads: n, address: n, writes: if back { n } else { 0 }, ..plain(4) }
}
