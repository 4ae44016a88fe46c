//! What an operator costs on a core: instructions, predicted from its shape, format and density.
//!
//! A kernel's cost is a sum of terms, each a count that follows from the shape (inner steps, outputs,
//! loop heads) times a coefficient. The coefficients are fitted to measurements on an emulator
//! (`niwaki calibrate`) and stored beside this file, one JSON file per core.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use niwaki_core::kernels::sparse::Geometry;
use niwaki_core::kernels::{KernelId, depthwise};
use niwaki_core::model::{Op, Weights};
use serde::{Deserialize, Serialize};

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

/// The terms of an operator's cost and how often each counts.
pub fn terms(op: &Op<'_>) -> Vec<(&'static str, f64)> {
    let output = op.output();
    let pixels = (output.height * output.width) as f64;
    let channels = output.channels as f64;
    let outputs = pixels * channels;
    let mut terms = vec![("operator", 1.0)];
    match op {
        Op::Conv(conv) => match conv.weights {
            Weights::Sparse(stream) => {
                let entries = stream.entries() as f64;
                terms.extend(sparse_conv_terms(stream.geometry(), channels, entries));
            }
            Weights::Packed(_) => {
                let pairs = (output.channels.div_ceil(2)) as f64;
                let per_channel = conv.weights_per_channel();
                let blocks = per_channel.div_ceil(4) as f64;
                let tiles = (output.height * output.width).div_ceil(4) as f64;
                let runs = pixels * conv.window.kernel[0] as f64;
                let bytes = !conv.input.channels.is_multiple_of(4);
                terms.extend([
                    ("block", tiles * pairs * blocks),
                    ("pair", tiles * pairs),
                    ("channel", channels),
                    ("tile", tiles),
                    ("run", runs),
                    ("gathered", pixels * blocks),
                    ("gathered byte", if bytes { pixels * per_channel as f64 } else { 0.0 }),
                    ("byte run", if bytes { runs } else { 0.0 }),
                ]);
            }
            _ => {
                let rows = outputs * conv.window.kernel[0] as f64;
                let macs = outputs * conv.weights_per_channel() as f64;
                terms.extend([("mac", macs), ("kernel row", rows), ("pixel", pixels)]);
            }
        },
        Op::Linear(linear) => match linear.weights {
            Weights::SparseLinear(stream) => {
                let inputs = linear.input.len() as f64;
                terms.extend([
                    ("entry", stream.entries() as f64),
                    ("output", outputs),
                    ("input", if stream.scratch_len() > 0 { inputs } else { 0.0 }),
                ]);
            }
            Weights::Packed(_) => {
                let pairs = (output.channels.div_ceil(2)) as f64;
                let blocks = linear.weights_per_channel().div_ceil(4) as f64;
                terms.extend([("block", pairs * blocks), ("pair", pairs), ("input", blocks)]);
            }
            _ => {
                let macs = outputs * linear.weights_per_channel() as f64;
                terms.extend([("mac", macs), ("output", outputs)]);
            }
        },
        Op::Depthwise(depthwise) => {
            let [kernel_h, kernel_w] = depthwise.window.kernel;
            let area = (kernel_h * kernel_w) as f64;
            let needed = depthwise::scratch_len(&depthwise.input, &output, &depthwise.window);
            if needed == 0 || depthwise.scratch.len < needed {
                let tiles = pixels * (channels / 16.0).ceil();
                terms.extend([
                    ("portable mac", outputs * area),
                    ("portable tap", tiles * area),
                    ("portable pixel", pixels),
                ]);
            } else {
                let groups = (output.channels / 4) as f64;
                let rows = groups * output.height as f64;
                let step = depthwise.window.stride[1];
                let output_name = ["output, step 1", "output, step 2"][usize::from(step > 1)];
                let row_name = ["row, step 1", "row, step 2"][usize::from(step > 1)];
                terms.extend([
                    (output_name, outputs * kernel_h as f64),
                    (row_name, rows),
                    ("requantised", outputs),
                    ("element", depthwise.input.len() as f64),
                    ("input row", groups * depthwise.input.height as f64),
                    ("group", groups),
                ]);
            }
        }
        Op::MaxPool(pool) | Op::AvgPool(pool) => {
            let area = (pool.window.kernel[0] * pool.window.kernel[1]) as f64;
            // Sums of larger windows do not fit the halves that the fast average adds up in.
            let small = matches!(op, Op::MaxPool(_)) || area <= 255.0;
            let by_four = output.channels.is_multiple_of(4) && small;
            let [element, value] = if by_four {
                ["element", "output"]
            } else {
                ["portable element", "portable output"]
            };
            terms.extend([(element, outputs * area), (value, outputs), ("pixel", pixels)]);
        }
        Op::Softmax(_) => terms.extend([("output", outputs), ("row", pixels)]),
        Op::Add(add) => {
            let in_place = add.inputs[0].offset == output.offset;
            terms.extend([("output", outputs), ("copied", if in_place { 0.0 } else { outputs })]);
        }
        Op::Lookup(lookup) => {
            let in_place = lookup.input.offset == output.offset;
            terms.extend([("output", outputs), ("copied", if in_place { 0.0 } else { outputs })]);
        }
        Op::Copy(_) | Op::Mean(_) | Op::Elementwise(_) => {
            let read: usize = op.inputs().iter().flatten().map(|tensor| tensor.len()).sum();
            terms.extend([("output", outputs), ("input", read as f64)]);
        }
    }
    terms
}

/// Terms of a sparse convolution with `entries` blocks in all.
pub fn sparse_conv_terms(
    geometry: &Geometry,
    channels: f64,
    entries: f64,
) -> [(&'static str, f64); 7] {
    let steps = geometry.steps();
    [
        ("entry", steps.tiles * entries),
        ("tile channel", steps.tiles * channels),
        ("band channel", steps.bands * channels),
        ("tile", steps.tiles),
        ("band", steps.bands),
        ("element", steps.elements),
        ("filled", steps.filled),
    ]
}

/// Coefficients of one kernel by term.
pub type Coefficients = BTreeMap<String, f64>;

/// Fitted coefficients of a core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CostModel {
    /// The command that measured and fitted them.
    pub command: String,
    /// What was measured: compiler and emulator.
    pub measured_with: String,
    /// Largest relative error over the measurements that were fitted, by kernel.
    pub worst_error: BTreeMap<String, f64>,
    /// Instructions per term, by kernel.
    pub kernels: BTreeMap<String, Coefficients>,
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

    /// Predicted instructions of an operator. A kernel that was never measured counts nothing.
    pub fn instructions(&self, op: &Op<'_>, kernel: KernelId) -> f64 {
        self.sum(kernel, &terms(op))
    }

    /// Predicted instructions of a kernel with these terms.
    pub fn sum(&self, kernel: KernelId, terms: &[(&'static str, f64)]) -> f64 {
        let Some(coefficients) = self.kernels.get(kernel.name()) else { return 0.0 };
        terms.iter().map(|(term, count)| coefficients.get(*term).unwrap_or(&0.0) * count).sum()
    }
}
