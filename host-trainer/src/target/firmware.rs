//! The agent's firmware for a board: built on demand, and what its ELF file tells.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use niwaki_core::Model;
use niwaki_toolchain::firmware::{Build, build, target_folder};
use niwaki_toolchain::{Toolchain, checkout};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, elf};

use super::{Board, TargetError};

/// The agent built for a board.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// Its ELF file.
    pub elf: PathBuf,
    /// Bytes of flash that it takes: code, constants and the initial values of variables.
    pub code_bytes: u64,
    /// Addresses of the region that holds the model.
    pub model_region: Range<u64>,
    /// Addresses of the arena.
    pub arena: Range<u64>,
    /// The kernels that it contains, where it says so.
    pub kernels: Option<u32>,
    /// Where an emulated board reads after how many operations of its flash its power fails.
    pub power: Option<u64>,
}

impl Firmware {
    /// Builds the agent for `board`, or finds it built, in the checkout's target folder. What the
    /// compiler does is told to `say`.
    ///
    /// # Errors
    ///
    /// When there is no compiler for the board, or building fails.
    pub fn build(board: &Board, say: &dyn Fn(&str)) -> Result<Self, TargetError> {
        let elf = checkout().and_then(|checkout| {
            let toolchain = Toolchain::find_or_install(&board.about.triple, say)?;
            build(&toolchain, &board.folder, &target_folder(&checkout), Build::default(), say)
        });
        match elf {
            Ok(elf) => Self::open(&elf),
            Err(source) => Err(TargetError::Build { board: board.name.clone(), source }),
        }
    }

    /// Reads the agent's ELF file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or lacks the symbols that tell where the model goes.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let bytes = std::fs::read(path)
            .map_err(TargetError::io(format!("reading the firmware {}", path.display())))?;
        let problem = |problem: String| TargetError::Elf { path: path.to_path_buf(), problem };
        let file = object::File::parse(&*bytes).map_err(|error| problem(error.to_string()))?;
        let symbol = |name: &str| {
            file.symbols()
                .find(|symbol| symbol.name() == Ok(name))
                .map(|symbol| symbol.address())
                .ok_or_else(|| problem(format!("it has no symbol '{name}'")))
        };
        let model_region = symbol("_model_start")?..symbol("_model_end")?;
        let arena = symbol("_arena_start")?..symbol("_arena_end")?;
        let code_bytes = file.sections().filter(in_flash).map(|s| s.size()).sum();
        let (kernels, power) = (kernels(&file), symbol("_power").ok());
        Ok(Self { elf: path.to_path_buf(), code_bytes, model_region, arena, kernels, power })
    }

    /// What an emulated board's memory must hold for its power to fail after so many operations of its flash:
    /// bytes and their address.
    pub(super) fn power_failure(&self, operations: u32) -> Option<([u8; 4], u64)> {
        Some((operations.to_le_bytes(), self.power?))
    }

    /// Whether the board's memory holds the model and its arena.
    pub fn has_room(&self, model: &Model<'_>) -> bool {
        let len = |region: &Range<u64>| region.end.saturating_sub(region.start);
        model.as_bytes().len() as u64 <= len(&self.model_region)
            && model.arena_len() as u64 <= len(&self.arena)
    }

    /// Refuses a model that is larger than the region for it.
    pub(super) fn check_fits(&self, board: &Board, model: &Model<'_>) -> Result<(), TargetError> {
        let region = self.model_region.end.saturating_sub(self.model_region.start);
        let model = model.as_bytes().len();
        if model as u64 > region {
            return Err(TargetError::ModelTooLarge { board: board.name.clone(), model, region });
        }
        Ok(())
    }

    /// Lines of a log that the firmware wrote in defmt's encoding, which `defmt-print` reads.
    ///
    /// The tool is called rather than its decoder linked: that crate switches `serde_json` to numbers of
    /// arbitrary precision for the whole program, which breaks tagged enums with numbers in them.
    pub(crate) fn decode_log(&self, log: &[u8]) -> Vec<String> {
        if log.is_empty() {
            return Vec::new();
        }
        let decoded = tempfile::NamedTempFile::new().and_then(|mut file| {
            file.write_all(log)?;
            Command::new("defmt-print")
                .args(["--log-format", "{L} {s}", "-e"])
                .arg(&self.elf)
                .stdin(file.reopen()?)
                .output()
        });
        match decoded {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
            }
            Err(_) => vec![format!(
                "({} bytes in defmt's encoding; `cargo install defmt-print` shows them)",
                log.len()
            )],
        }
    }
}

/// The word that the agent holds for this.
fn kernels(file: &object::File<'_>) -> Option<u32> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok("NIWAKI_KERNELS"))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let word = section.data_range(symbol.address(), 4).ok()??;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

fn in_flash<'d>(section: &impl ObjectSection<'d>) -> bool {
    match section.flags() {
        SectionFlags::Elf { sh_type, sh_flags } => {
            sh_type == elf::SHT_PROGBITS && sh_flags & elf::SHF_ALLOC == elf::SHF_ALLOC
        }
        _ => false,
    }
}
