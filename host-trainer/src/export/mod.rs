//! From a trained network to a `.niwaki` blob: fold, quantise, choose kernels, plan memory, write.
//!
//! [`Graph`] is the meeting point: a network in integers, whether it was trained here
//! ([`quantise`]) or imported. [`blob`] turns a graph into bytes that `niwaki-core` runs.

mod analyse;
mod blob;
mod graph;
mod plan;
mod quantise;
mod run;
mod rust_module;

pub use analyse::{Analysis, LayerAnalysis, analyse};
pub use blob::{Exported, Layer, write};
pub use graph::{Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted};
pub use plan::{Plan, plan};
pub use quantise::quantise;
pub use run::{AlignedVec, quantised_inputs, run_all, top1};
pub use rust_module::write_rust_module;
