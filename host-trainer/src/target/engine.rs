//! What a firmware for one model takes beside the model.

use niwaki_toolchain::firmware::{Build, build, target_folder};
use niwaki_toolchain::{Toolchain, checkout};
use object::{Object, ObjectSection, SectionFlags, elf};
use serde::Serialize;

use super::{Board, TargetError, stack_bound};

/// Flash that checking and running a model takes, without the model itself, without the processor's
/// vectors and start-up code, and with the routines of the compiler that copy memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// Bytes of instructions.
    pub text: u64,
    /// Bytes of constants.
    pub constants: u64,
    /// Bytes of stack that an inference takes at most, by its code; absent where the code is not Arm's or has no
    /// bound.
    pub stack_bound: Option<u64>,
}

impl Engine {
    /// Links the engine with these `kernels` (bits as in [`Model::kernels`](niwaki_core::Model::kernels))
    /// for the core of `board` and measures it. What the compiler does is told to `say`.
    ///
    /// # Errors
    ///
    /// When there is no compiler for the board, or building fails.
    pub fn measure(board: &Board, kernels: u32, say: &dyn Fn(&str)) -> Result<Self, TargetError> {
        let elf = checkout().and_then(|checkout| {
            let toolchain = Toolchain::find_or_install(&board.about.triple, say)?;
            let set = kernels.to_string();
            let options = Build {
                environment: &[("NIWAKI_KERNELS", &set)],
                flags_of: Some(&board.folder),
                ..Build::default()
            };
            let folder = checkout.join("firmware/size");
            build(&toolchain, &folder, &target_folder(&checkout), options, say)
        });
        let elf = elf.map_err(|source| TargetError::Build { board: board.name.clone(), source })?;
        let bytes = std::fs::read(&elf)
            .map_err(TargetError::io(format!("reading the engine {}", elf.display())))?;
        let file = object::File::parse(&*bytes)
            .map_err(|error| TargetError::Elf { path: elf.clone(), problem: error.to_string() })?;
        // The other figures are worth having without it.
        let stack_bound = stack_bound(&bytes, "niwaki_infer").unwrap_or_else(|problem| {
            say(&format!("the stack of {} has no bound: {problem}", elf.display()));
            None
        });
        let mut engine = Self { text: 0, constants: 0, stack_bound };
        for section in file.sections() {
            let SectionFlags::Elf { sh_type: elf::SHT_PROGBITS, sh_flags } = section.flags() else {
                continue;
            };
            if sh_flags & elf::SHF_ALLOC != elf::SHF_ALLOC {
                continue;
            }
            if sh_flags & elf::SHF_EXECINSTR == elf::SHF_EXECINSTR {
                engine.text += section.size();
            } else {
                engine.constants += section.size();
            }
        }
        Ok(engine)
    }

    /// Bytes of flash in all.
    pub fn bytes(&self) -> u64 {
        self.text + self.constants
    }
}
