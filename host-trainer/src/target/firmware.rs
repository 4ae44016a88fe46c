//! The agent's firmware for a board: built on demand, and what its ELF file tells.

use std::ops::Range;
use std::path::{Path, PathBuf};

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
    bytes: Vec<u8>,
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
        let code_bytes =
            file.sections().filter(|section| in_flash(section)).map(|s| s.size()).sum();
        Ok(Self { elf: path.to_path_buf(), code_bytes, model_region, arena, bytes })
    }

    /// Lines of a log that the firmware wrote in defmt's encoding.
    pub(crate) fn decode_log(&self, log: &[u8]) -> Vec<String> {
        let Ok(Some(table)) = defmt_decoder::Table::parse(&self.bytes) else {
            return vec!["(the firmware has no table to decode its log with)".to_owned()];
        };
        let mut decoder = table.new_stream_decoder();
        decoder.received(log);
        let mut lines = Vec::new();
        loop {
            match decoder.decode() {
                Ok(frame) => lines.push(frame.display(false).to_string()),
                Err(defmt_decoder::DecodeError::UnexpectedEof) => return lines,
                Err(defmt_decoder::DecodeError::Malformed) => {
                    lines.push("(malformed)".to_owned());
                    // Without frames that end with a mark there is no way to find the next one.
                    if !table.encoding().can_recover() {
                        return lines;
                    }
                }
            }
        }
    }
}

fn in_flash<'d>(section: &impl ObjectSection<'d>) -> bool {
    match section.flags() {
        SectionFlags::Elf { sh_type, sh_flags } => {
            sh_type == elf::SHT_PROGBITS && sh_flags & elf::SHF_ALLOC == elf::SHF_ALLOC
        }
        _ => false,
    }
}
