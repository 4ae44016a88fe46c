//! Clock cycles that instructions take on a core, by its documentation.

use super::LayerMix;

/// How many cycles the instructions of a core take, where its memory never makes it wait.
///
/// An instruction takes one cycle. The fields say what comes on top of that, by class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Name of the core, such as `cortex-m4`.
    pub core: &'static str,
    /// The document that the numbers are from, and what is approximated.
    pub source: &'static str,
    /// A load of one register.
    pub load: f64,
    /// A load that directly follows a load, instead of `load`.
    pub load_pipelined: f64,
    /// A load whose result the next instruction reads.
    pub load_used: f64,
    /// The same for bytes and half-words, on top of `load_used`.
    pub narrow_load_used: f64,
    /// An address that the instruction before has computed.
    pub address_stall: f64,
    /// A store of one register.
    pub store: f64,
    /// A store to the sum of two registers, on top of `store`.
    pub store_indexed: f64,
    /// Each word of a load or store of several.
    pub word: f64,
    /// A product of at most 32 bits with an addition.
    pub multiply_accumulate: f64,
    /// A product of 64 bits.
    pub long_multiply: f64,
    /// The addition to a product of 64 bits, on top of `long_multiply`.
    pub long_accumulate: f64,
    /// A product that the next instruction reads.
    pub multiply_used: f64,
    /// A division.
    pub divide: f64,
    /// A branch that is taken.
    pub branch_taken: f64,
    /// A call, on top of `branch_taken`.
    pub call: f64,
    /// A branch to an address from memory, on top of `branch_taken`.
    pub branch_loaded: f64,
    /// An instruction that is issued together with the one before.
    pub paired: f64,
}

const NOTHING: Timing = Timing {
    core: "",
    source: "",
    load: 0.0,
    load_pipelined: 0.0,
    load_used: 0.0,
    narrow_load_used: 0.0,
    address_stall: 0.0,
    store: 0.0,
    store_indexed: 0.0,
    word: 0.0,
    multiply_accumulate: 0.0,
    long_multiply: 0.0,
    long_accumulate: 0.0,
    multiply_used: 0.0,
    divide: 0.0,
    branch_taken: 0.0,
    call: 0.0,
    branch_loaded: 0.0,
    paired: 0.0,
};

const CORTEX_M4: Timing = Timing {
    core: "cortex-m4",
    source: "Cortex-M4 Technical Reference Manual (DDI 0439), 3.3: loads 2 cycles, 1 after a load; \
             several words 1 + n; an address computed just before 1 more; taken branches 3; \
             divisions 2 to 12, taken as 7",
    load: 1.0,
    address_stall: 1.0,
    store_indexed: 1.0,
    word: 1.0,
    divide: 6.0,
    branch_taken: 2.0,
    ..NOTHING
};

/// The cores with known timing.
pub const TIMINGS: &[Timing] = &[
    Timing {
        core: "cortex-m0",
        source: "Cortex-M0 Technical Reference Manual (DDI 0432), 3.3: loads and stores 2 cycles; \
                 several words 1 + n; taken branches 3, calls 4; products 1 (the fast multiplier)",
        load: 1.0,
        load_pipelined: 1.0,
        store: 1.0,
        word: 1.0,
        branch_taken: 2.0,
        call: 1.0,
        branch_loaded: 1.0,
        ..NOTHING
    },
    Timing {
        core: "cortex-m3",
        source: "Cortex-M3 Technical Reference Manual (DDI 0337), 18.2: as the Cortex-M4, but MLA 2 \
                 cycles, products of 64 bits 3 to 5, taken as 4, with addition 4 to 7, taken as 5.5",
        multiply_accumulate: 1.0,
        long_multiply: 3.0,
        long_accumulate: 1.5,
        ..CORTEX_M4
    },
    CORTEX_M4,
    Timing {
        core: "cortex-m7",
        source: "Arm publishes no timing of the Cortex-M7. Approximated after published measurements \
                 (quinapalus.com/cm7cycles.html): two neighbouring instructions issue together unless \
                 the second reads or writes a result of the first, both access memory or both \
                 multiply; several words (n + 1) / 2; a load used at once 1 more; all branches \
                 predicted, 1 more when taken",
        load_used: 1.0,
        word: 0.5,
        long_accumulate: 0.0,
        divide: 6.0,
        branch_taken: 1.0,
        branch_loaded: 2.0,
        paired: -1.0,
        ..NOTHING
    },
    Timing {
        core: "cortex-m33",
        source: "Arm publishes no timing of the Cortex-M33: its three stages are taken to be those of \
                 the Cortex-M4",
        ..CORTEX_M4
    },
    Timing {
        core: "cortex-m55",
        source: "Not modelled: its timing is taken to be that of the Cortex-M4",
        ..CORTEX_M4
    },
    Timing {
        core: "riscv32",
        source: "SiFive E31 (FE310-G000 manual, 3.3): LW 2 cycles until its result can be read, bytes and \
                 half-words 3, products 5, and no second product meanwhile, divisions 2 to 33, taken \
                 as 17; all branches predicted",
        load_used: 1.0,
        narrow_load_used: 1.0,
        multiply_used: 4.0,
        divide: 16.0,
        ..NOTHING
    },
];

impl Timing {
    /// The timing of a core; `None` if nothing is known of it.
    pub fn of(core: &str) -> Option<&'static Self> {
        // Boards name RISC-V cores by their extensions.
        let core = if core.starts_with("riscv32") { "riscv32" } else { core };
        let core = if core == "cortex-m0plus" { "cortex-m0" } else { core };
        TIMINGS.iter().find(|timing| timing.core == core)
    }

    /// Whether the core has DSP instructions, and runs the kernels that are made of them.
    pub fn has_dsp(&self) -> bool {
        matches!(self.core, "cortex-m4" | "cortex-m7" | "cortex-m33" | "cortex-m55")
    }

    /// Cycles of a mix of instructions.
    pub fn cycles(&self, mix: &LayerMix) -> f64 {
        let on_top = [
            (self.load, mix.loads - mix.loads_pipelined),
            (self.load_pipelined, mix.loads_pipelined),
            (self.load_used, mix.loads_used),
            (self.narrow_load_used, mix.narrow_loads_used),
            (self.address_stall, mix.address_stalls),
            (self.store, mix.stores),
            (self.store_indexed, mix.stores_indexed),
            (self.word, mix.multiple_words),
            (self.multiply_accumulate, mix.multiply_accumulates),
            (self.long_multiply, mix.long_multiplies),
            (self.long_accumulate, mix.long_accumulates),
            (self.multiply_used, mix.multiplies_used),
            (self.divide, mix.divides),
            (self.branch_taken, mix.branches_taken),
            (self.call, mix.calls),
            (self.branch_loaded, mix.branches_loaded),
            (self.paired, mix.paired),
        ];
        let on_top: f64 = on_top.iter().map(|(cycles, count)| cycles * *count as f64).sum();
        mix.instructions as f64 + on_top
    }
}
