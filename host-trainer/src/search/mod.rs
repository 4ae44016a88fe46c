//! Multi-objective search: genomes, the optimisers that propose them, and Pareto fronts.

pub mod genome;
pub mod optimiser;
pub mod pareto;
pub mod study;
pub mod worker;
