//! From a trained network to a `.niwaki` blob: fold, quantise, choose kernels, plan memory, write.
//!
//! [`Graph`] is the meeting point: a network in integers, whether it was trained here
//! ([`quantise`]) or imported. [`write`](write()) turns a graph into bytes that `niwaki-core` runs.

mod analyse;
mod assign;
mod blob;
mod choose;
mod estimate;
mod graph;
mod narrow;
mod package;
mod plan;
mod quantise;
mod run;
mod rust_module;
mod simplify;
mod tunable;

pub use analyse::{Analysis, LayerAnalysis, analyse};
pub use blob::{Exported, Layer, write, write_with, write_within};
pub use choose::KernelChoice;
pub use estimate::{Estimate, estimate};
pub use graph::{
    Constant, Function, Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted,
};
pub use package::{
    Card, card_path, export_run, hexadecimal, read_model, read_tunable, write_model,
};
pub use plan::{Needs, Plan, Rows, Sharing, plan};
pub use quantise::quantise;
pub use run::{AlignedVec, Merit, evaluate, mean_squared_error, quantised_inputs, run_all, top1};
pub use rust_module::write_rust_module;
pub use tunable::mark_tunable;
