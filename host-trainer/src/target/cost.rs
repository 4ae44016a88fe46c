//! What an operator costs on a core: instructions, predicted from its shape, format and density.
//!
//! A kernel's cost is a sum of terms, each a count that follows from the shape (inner steps, outputs,
//! loop heads) times a coefficient. The coefficients are fitted to measurements on an emulator
//! (`niwaki calibrate`) and stored beside this file, one JSON file per core.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use niwaki_core::kernels::{KernelId, sparse};
use niwaki_core::model::{Op, Tensor, Weights};
use serde::{Deserialize, Serialize};

/// A family of processor cores that executes the same kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Core {
    /// Armv7E-M with DSP instructions: the default of every command.
    CortexM4,
}

impl Core {
    /// The core with this name, as `--target` and boards spell it.
    pub fn from_name(name: &str) -> Option<Self> {
        clap::ValueEnum::from_str(name, false).ok()
    }

    fn calibration(self) -> &'static str {
        match self {
            Self::CortexM4 => include_str!("cost/cortex-m4.json"),
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

/// All that the cost of an operator depends on.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Kernel.
    pub kernel: KernelId,
    /// Height, width and channels of what it reads.
    pub input: [usize; 3],
    /// Height, width and channels of what it writes.
    pub output: [usize; 3],
    /// Height and width of the window; 1 for operators without one.
    pub window: [usize; 2],
    /// Weights of one output channel when dense; 0 without weights.
    pub weights_per_channel: usize,
    /// Entries of the sparse stream; 0 for dense kernels.
    pub entries: usize,
}

impl Workload {
    /// The workload of an operator of a model.
    pub fn of(op: &Op<'_>, kernel: KernelId) -> Self {
        let shape = |tensor: &Tensor| [tensor.height, tensor.width, tensor.channels];
        let (window, weights_per_channel, entries) = match op {
            Op::Conv(conv) | Op::Linear(conv) => {
                let entries = match conv.weights {
                    Weights::Dense(_) => 0,
                    Weights::Sparse(stream) => sparse::entries(stream, conv.output.channels),
                };
                (conv.window.kernel, conv.weights_per_channel(), entries)
            }
            Op::Depthwise(depthwise) => {
                let [height, width] = depthwise.window.kernel;
                (depthwise.window.kernel, height * width, 0)
            }
            Op::MaxPool(pool) | Op::AvgPool(pool) => (pool.window.kernel, 0, 0),
            Op::Mean(mean) => {
                let [height, width, channels] = mean.spans();
                ([height, width * channels], 0, 0)
            }
            Op::Add(_) | Op::Softmax(_) | Op::Lookup(_) | Op::Copy(_) | Op::Elementwise(_) => {
                ([1, 1], 0, 0)
            }
        };
        Self {
            kernel,
            input: op.inputs()[0].map_or([0; 3], |input| shape(&input)),
            output: shape(&op.output()),
            window,
            weights_per_channel,
            entries,
        }
    }

    /// The terms of the cost and how often each counts.
    pub fn terms(&self) -> Vec<(&'static str, f64)> {
        let [height, width, channels] = self.output.map(|size| size as f64);
        let pixels = height * width;
        let outputs = pixels * channels;
        let area = (self.window[0] * self.window[1]) as f64;
        let per_channel = self.weights_per_channel as f64;
        let mut terms = vec![("operator", 1.0), ("output", outputs)];
        match self.kernel {
            KernelId::ConvDense | KernelId::LinearDense => {
                let rows = pixels * channels * self.window[0] as f64;
                terms.extend([
                    ("mac", outputs * per_channel),
                    ("kernel row", rows),
                    ("pixel", pixels),
                ]);
            }
            KernelId::ConvSparse | KernelId::LinearSparse => {
                let entries = self.entries as f64;
                let tiles = height * (width / 8.0).ceil();
                terms.extend([
                    ("entry pixel", pixels * entries),
                    ("entry tile", tiles * entries),
                    ("channel tile", tiles * channels),
                ]);
            }
            KernelId::Depthwise => {
                let tiles = pixels * (channels / 16.0).ceil();
                terms.extend([
                    ("mac", outputs * per_channel),
                    ("tap", tiles * per_channel),
                    ("pixel", pixels),
                ]);
            }
            KernelId::MaxPool | KernelId::AvgPool | KernelId::Mean => {
                terms.extend([("element", outputs * area), ("pixel", pixels)]);
            }
            KernelId::Softmax => terms.push(("row", pixels)),
            KernelId::Add
            | KernelId::Lookup
            | KernelId::Copy
            | KernelId::Mul
            | KernelId::AddBroadcast => {}
        }
        terms
    }
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
    pub fn instructions(&self, work: &Workload) -> f64 {
        let Some(coefficients) = self.kernels.get(work.kernel.name()) else { return 0.0 };
        let terms = work.terms();
        terms.iter().map(|(term, count)| coefficients.get(*term).unwrap_or(&0.0) * count).sum()
    }
}
