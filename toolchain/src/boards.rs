//! The board crates of a checkout, described by the `[package.metadata.niwaki]` of their manifests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A crate under `boards/` that holds the agent's firmware for one board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Name of the crate, which is the board's name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The rest of its description.
    pub about: About,
}

impl Board {
    /// Whether the processor core has the DSP instructions, for which there are kernels of their own.
    pub fn has_dsp(&self) -> bool {
        const CORES: [&str; 4] = ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"];
        CORES.contains(&self.about.core.as_str())
    }
}

/// The keys of `[package.metadata.niwaki]` in a board's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// What `--target` calls it.
    pub target: String,
    /// The Rust target that it is built for.
    pub triple: String,
    /// The processor core, as cost models call it.
    pub core: String,
    /// The command that emulates it, without firmware and model. A board without one is a real one.
    pub emulator: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    niwaki: Option<About>,
}

/// The boards of the checkout, sorted by name. Crates that boards share have no description and are
/// left out.
pub fn boards(checkout: &Path) -> Result<Vec<Board>> {
    let folder = checkout.join("boards");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut boards = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("reading {}", manifest.display()))?;
        let Manifest { package } =
            toml::from_str(&text).with_context(|| format!("reading {}", manifest.display()))?;
        let Some(about) = package.metadata.and_then(|metadata| metadata.niwaki) else { continue };
        ensure!(
            about.emulator.as_ref().is_none_or(|command| !command.is_empty()),
            "{}: the emulator's command is empty",
            manifest.display()
        );
        boards.push(Board { name: package.name, folder, about });
    }
    boards.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(boards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_of_the_checkout_is_described_once() {
        let boards = boards(&crate::checkout().unwrap()).unwrap();
        assert!(boards.iter().any(|board| board.about.target == "qemu-cortex-m4"));
        for (index, board) in boards.iter().enumerate() {
            let twin =
                boards[..index].iter().find(|other| other.about.target == board.about.target);
            assert_eq!(twin, None, "two boards are called {}", board.about.target);
        }
    }
}
