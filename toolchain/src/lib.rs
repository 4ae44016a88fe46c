//! What builds niwaki's firmware and runs it in an emulator: where it is, how to get it, how to call it.
//!
//! The `niwaki` command and `cargo xtask` share this crate, so that both find the same tools, and
//! `xtask` needs not compile a machine learning framework to do so.
//!
//! * [`boards()`] lists the board crates of a checkout; [`Board::memory`] says what memory a board has.
//! * [`Toolchain::find`] picks a Rust compiler that builds for a board's processor.
//! * [`firmware::build`] builds a crate with it.
//! * [`tools::inspect`] says what is installed and what is missing, [`tools::setup`] installs it.

pub mod boards;
pub mod compiler;
pub mod firmware;
pub mod memory;
pub mod tools;

pub use boards::{Board, boards};
pub use compiler::Toolchain;
pub use memory::Region;

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The folder of the checkout: the current folder or the nearest one above it that holds `boards/` and
/// `firmware/`, else the folder that this program was built from.
pub fn checkout() -> Result<PathBuf> {
    let built_from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let current = std::env::current_dir().unwrap_or_default();
    let candidates = current.ancestors().map(PathBuf::from).chain(built_from.canonicalize());
    for folder in candidates {
        if folder.join("boards").is_dir() && folder.join("firmware/Cargo.toml").is_file() {
            return Ok(folder);
        }
    }
    bail!(
        "no checkout of niwaki here or above, and the one that this program was built from is gone: \
         run the command inside a checkout (git clone)"
    )
}
