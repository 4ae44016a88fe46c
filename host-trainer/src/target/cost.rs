//! What an operator costs on a core: instructions and clock cycles, predicted from its shape, format and
//! density.
//!
//! A kernel's cost is a sum of [`Terms`], each a count that follows from the shape (inner steps, outputs,
//! loop heads) times a coefficient. The coefficients are fitted to measurements on an emulator
//! (`niwaki calibrate`) and stored beside this file, one JSON file per core. Cycles are not measured but
//! estimated from the measured instructions: see [`Timing`](super::Timing).

mod terms;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use serde::{Deserialize, Serialize};

pub use terms::{ChannelCounts, Terms};

/// A processor core with a cost model of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Core {
    /// Armv6-M.
    CortexM0,
    /// Armv7-M.
    CortexM3,
    /// Armv7E-M with DSP instructions: the default of every command.
    CortexM4,
    /// Armv7E-M with DSP instructions, two issued at a time.
    CortexM7,
    /// Armv8-M with DSP instructions.
    CortexM33,
    /// Armv8.1-M with DSP and vector instructions.
    CortexM55,
    /// RV32IMAC.
    Riscv32,
}

impl Core {
    /// The core with this name, as `--target` and boards spell it.
    pub fn from_name(name: &str) -> Option<Self> {
        clap::ValueEnum::from_str(name, false).ok()
    }

    /// Whether the kernels for DSP instructions run on it.
    pub fn has_dsp(self) -> bool {
        super::Timing::of(&self.to_string()).is_some_and(super::Timing::has_dsp)
    }

    fn calibration(self) -> &'static str {
        match self {
            Self::CortexM0 => include_str!("cost/cortex-m0.json"),
            Self::CortexM3 => include_str!("cost/cortex-m3.json"),
            Self::CortexM4 => include_str!("cost/cortex-m4.json"),
            Self::CortexM7 => include_str!("cost/cortex-m7.json"),
            Self::CortexM33 => include_str!("cost/cortex-m33.json"),
            Self::CortexM55 => include_str!("cost/cortex-m55.json"),
            Self::Riscv32 => include_str!("cost/riscv32.json"),
        }
    }
}

impl std::fmt::Display for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(
            clap::ValueEnum::to_possible_value(self).as_ref().map_or("", |value| value.get_name()),
        )
    }
}

/// Coefficients of one kernel by term.
pub type Coefficients = BTreeMap<String, f64>;

/// Fitted coefficients of all kernels in one unit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fit {
    /// Largest relative error over the measurements that were fitted, by kernel.
    pub worst_error: BTreeMap<String, f64>,
    /// Units per term, by kernel.
    pub kernels: BTreeMap<String, Coefficients>,
}

impl Fit {
    /// The predicted count of a kernel with these terms. A kernel that was never measured counts nothing.
    pub fn sum(&self, kernel: KernelId, terms: &Terms) -> f64 {
        let Some(coefficients) = self.kernels.get(kernel.name()) else { return 0.0 };
        terms.iter().map(|(term, count)| coefficients.get(term).unwrap_or(&0.0) * count).sum()
    }
}

/// Fitted coefficients of a core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CostModel {
    /// The command that measured and fitted them.
    pub command: String,
    /// What was measured: compiler and emulator.
    pub measured_with: String,
    /// Executed instructions.
    pub instructions: Fit,
    /// Clock cycles, estimated from the mix of instructions. Without kernels where the core's timing is
    /// not known.
    pub cycles: Fit,
}

/// What an operator is predicted to take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Executed instructions.
    pub instructions: f64,
    /// Clock cycles without waiting for memory.
    pub cycles: f64,
}

impl CostModel {
    /// The stored calibration of a core.
    pub fn of(core: Core) -> &'static Self {
        static MODELS: OnceLock<BTreeMap<String, CostModel>> = OnceLock::new();
        let models = MODELS.get_or_init(|| {
            let parse = |core: &Core| {
                let model = serde_json::from_str(core.calibration());
                (core.to_string(), model.expect("the calibration in the binary is well-formed"))
            };
            <Core as clap::ValueEnum>::value_variants().iter().map(parse).collect()
        });
        &models[&core.to_string()]
    }

    /// Predicted instructions and cycles of a kernel with these terms. Without a timing of the core, a
    /// cycle stands for an instruction.
    pub fn predict(&self, kernel: KernelId, terms: &Terms) -> Prediction {
        let instructions = self.instructions.sum(kernel, terms);
        let cycles = match self.cycles.kernels.is_empty() {
            true => instructions,
            false => self.cycles.sum(kernel, terms),
        };
        Prediction { instructions, cycles }
    }

    /// Predicted instructions and cycles of operator `index` of a model; none where there is no such
    /// operator.
    pub fn predict_operator(&self, model: &Model<'_>, index: usize, core: Core) -> Prediction {
        let terms = Terms::of_model(model, index, core.has_dsp());
        let both = model.kernel(index).zip(terms);
        both.map_or(Prediction::default(), |(kernel, terms)| self.predict(kernel, &terms))
    }
}
