//! What the cycle estimate must know of an instruction: its class and its registers.

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Bytes that it takes.
    pub(super) length: u8,
    pub(super) kind: Kind,
    /// How it transfers control, if it does.
    pub(super) branch: Option<Branch>,
    /// Registers that it reads, one bit each.
    pub(super) reads: u32,
    /// Those of them that form the address of a load or store.
    pub(super) address: u32,
    /// Registers that it writes, one bit each.
    pub(super) writes: u32,
}

/// Class of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Arithmetic, moves, branches and all the rest.
    Plain,
    /// A load of one register; narrow if it loads a byte or a half-word.
    Load {
        narrow: bool,
    },
    /// A store of one register; indexed if its address is the sum of two registers.
    Store {
        indexed: bool,
    },
    /// A load or store of several words.
    Multiple {
        load: bool,
        words: u8,
    },
    /// A product of 32 bits or fewer; `accumulate` if something is added to it.
    Multiply {
        accumulate: bool,
    },
    /// A product of 64 bits.
    LongMultiply {
        accumulate: bool,
    },
    Divide,
}

impl Kind {
    pub(super) fn accesses_memory(self) -> bool {
        matches!(self, Self::Load { .. } | Self::Store { .. } | Self::Multiple { .. })
    }

    pub(super) fn multiplies(self) -> bool {
        matches!(self, Self::Multiply { .. } | Self::LongMultiply { .. })
    }
}

/// How an instruction transfers control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branch {
    /// To an address in the instruction or in a register.
    Plain,
    /// The same, leaving a return address.
    Call,
    /// To an address loaded from memory.
    Loaded,
}

/// Instruction sets that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionSet {
    /// Armv6-M to Armv8.1-M.
    Thumb,
    /// RV32 with the extensions M, A and C.
    RiscV,
}

impl InstructionSet {
    /// The first instruction of `code`; `None` where the code ends within it.
    pub(super) fn decode(self, code: &[u8]) -> Option<Instruction> {
        let half = |at: usize| Some(u16::from_le_bytes([*code.get(at)?, *code.get(at + 1)?]));
        let first = half(0)?;
        match self {
            Self::Thumb if first >> 11 < 0b11101 => Some(super::thumb::narrow(first)),
            Self::Thumb => Some(super::thumb::wide(first, half(2)?)),
            Self::RiscV if first & 3 != 3 => Some(super::riscv::compressed(first)),
            Self::RiscV => Some(super::riscv::wide(u32::from(first) | u32::from(half(2)?) << 16)),
        }
    }
}

/// The set with one register.
pub(super) fn bit(register: impl Into<u32>) -> u32 {
    1 << (register.into() & 31)
}
