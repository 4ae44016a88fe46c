//! Multi-objective search: genomes, the optimisers that propose them, and Pareto fronts.

pub mod arch;
mod arch_space;
pub mod front;
pub mod genome;
pub mod measure;
pub mod optimiser;
pub mod pareto;
pub mod settings;
pub mod sparse;
pub mod study;
pub mod surrogate;
pub mod view;
pub mod worker;
