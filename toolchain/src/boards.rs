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
    /// Whether the board is a real one and not emulated.
    pub fn is_real(&self) -> bool {
        self.about.hardware.is_some()
    }

    /// Whether the processor core has the DSP instructions, for which there are kernels of their own.
    pub fn has_dsp(&self) -> bool {
        const CORES: [&str; 4] = ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"];
        CORES.contains(&self.about.core.as_str())
    }
}

/// What only a real board has: the keys of `[package.metadata.niwaki.hardware]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hardware {
    /// Maker and name of the board.
    pub title: String,
    /// Its microcontroller.
    pub chip: String,
    /// What `probe-rs` calls the chip.
    pub probe_rs_chip: String,
    /// What `espflash` calls the chip, where that tool writes it.
    pub espflash_chip: Option<String>,
    /// The core's clock in MHz, as the agent sets it.
    pub clock_mhz: u32,
    /// The agent's line to the host.
    pub line: String,
    /// Families of UF2 files, where the boot ROM takes such.
    pub uf2: Option<Uf2>,
}

/// The families that the blocks of UF2 files name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Uf2 {
    /// Of programs for the chip.
    pub firmware_family: u32,
    /// Of data for an address of its flash.
    pub data_family: u32,
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
    /// The command that emulates it, without firmware and model.
    pub emulator: Option<Vec<String>>,
    /// The hardware, of a real board.
    pub hardware: Option<Hardware>,
}

#[derive(Deserialize)]
struct Manifest {
    /// A workspace has none.
    package: Option<Package>,
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

/// The boards of the checkout, the emulated ones first, each kind sorted by name. Crates that boards share
/// have no description and are left out.
pub fn boards(checkout: &Path) -> Result<Vec<Board>> {
    let mut boards = within(&checkout.join("boards"))?;
    boards.extend(within(&checkout.join("boards/real"))?);
    Ok(boards)
}

fn within(folder: &Path) -> Result<Vec<Board>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut boards = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("reading {}", manifest.display()))?;
        let Manifest { package: Some(package) } =
            toml::from_str(&text).with_context(|| format!("reading {}", manifest.display()))?
        else {
            continue;
        };
        let Some(about) = package.metadata.and_then(|metadata| metadata.niwaki) else { continue };
        ensure!(
            about.emulator.as_ref().map_or(about.hardware.is_some(), |command| !command.is_empty()),
            "{}: a board has an emulator's command or hardware",
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
