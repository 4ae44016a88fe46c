//! Writes a model with random weights and every operator to the file named: something to run where
//! nothing has been trained yet.
//!
//! ```text
//! cargo run --release -p niwaki-tests --example random-model -- model.niwaki
//! ```

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("expected the name of the file to write")?;
    let model = niwaki_tests::networks::residual(1);
    std::fs::write(&path, model.as_bytes()).with_context(|| format!("writing {path}"))
}
