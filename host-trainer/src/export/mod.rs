//! From a trained network to a `.niwaki` blob: fold, quantise, choose kernels, plan memory, write.
//!
//! [`Graph`] is the meeting point: a network in integers, whether it was trained here
//! ([`quantise`]) or imported. [`blob`] turns a graph into bytes that `niwaki-core` runs.

mod blob;
mod graph;
mod plan;

pub use blob::{Exported, Layer, write};
pub use graph::{Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted};
pub use plan::{Plan, plan};
