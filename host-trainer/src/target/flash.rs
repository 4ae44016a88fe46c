//! Writes models and firmware to real boards.
//!
//! The tools that do it are programs of their own: `probe-rs` through a debug probe, `espflash` through the
//! serial boot loader of an ESP32. A board whose boot ROM shows itself as a drive takes a [UF2] file. What is
//! to be done is planned first ([`Plan`]), so that it can be shown before it is done.
//!
//! [UF2]: https://github.com/microsoft/uf2

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, anyhow};
use niwaki_core::kernels::KernelId;
use niwaki_core::{ALL_KERNELS, Model};
use niwaki_toolchain::boards::Hardware;

use super::{Board, Firmware, Region, tools, uf2};

const PROBE_RS: &str = "probe-rs";
const ESPFLASH: &str = "espflash";

/// Why a board is not flashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlashError {
    /// The board is emulated, or its description is damaged.
    #[error("{board} cannot be flashed: {reason:#}")]
    Board {
        /// The board.
        board: String,
        /// Why not.
        reason: anyhow::Error,
    },
    /// The model is larger than its partition.
    #[error("the model has {model} bytes, its partition on {board} has {partition}")]
    ModelTooLarge {
        /// The board.
        board: String,
        /// Size of the model.
        model: usize,
        /// Size of the partition.
        partition: u64,
    },
    /// The model needs more memory than the board has.
    #[error("the model needs {needed} bytes of arena, {board} has {available}")]
    ArenaTooSmall {
        /// The board.
        board: String,
        /// Bytes that the model needs.
        needed: usize,
        /// Bytes that there are.
        available: u64,
    },
    /// The firmware lacks kernels of the model.
    #[error(
        "the model needs kernels that the firmware was built without: {}; \
         export it again with this version of niwaki, or flash a firmware that has them (--firmware)",
        .kernels.join(", ")
    )]
    MissingKernels {
        /// Their names.
        kernels: Vec<String>,
    },
    /// Kernels were chosen for another core.
    #[error(
        "the model was exported for {model} and {board} has a {core}: it would run, but not as fast as it \
         can; export it with `--target {core}`, or flash it all the same with --other-core"
    )]
    OtherCore {
        /// The board.
        board: String,
        /// The core that the model was exported for.
        model: String,
        /// The board's core.
        core: String,
    },
    /// The firmware's ELF file is for another board.
    #[error(
        "{}: not a firmware for {board}: its model lies at {found:#x}, the board's partition at {expected:#x}",
        elf.display()
    )]
    OtherFirmware {
        /// The board.
        board: String,
        /// The file.
        elf: PathBuf,
        /// Where the firmware looks for the model.
        found: u64,
        /// Where the partition is.
        expected: u64,
    },
    /// The tool is not installed.
    #[error("{program} is not on the PATH; get it with `{get}`")]
    NoTool {
        /// The tool.
        program: String,
        /// How to get it.
        get: &'static str,
    },
    /// The tool failed.
    #[error("`{command}` failed ({status}){output}\n{hint}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
        /// What may help.
        hint: String,
    },
    /// The flash does not hold what was written.
    #[error(
        "the flash of {board} differs from {}, first in byte {offset} of it: flash it again",
        file.display()
    )]
    Differs {
        /// The board.
        board: String,
        /// What was written.
        file: PathBuf,
        /// The first byte that differs.
        offset: usize,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What to write and how to reach the board.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The board.
    pub board: &'a Board,
    /// File of the model.
    pub model_file: &'a Path,
    /// The model.
    pub model: &'a Model<'a>,
    /// The firmware that the board runs, where it is not the agent of this version.
    pub firmware: Option<&'a Firmware>,
    /// Write the firmware too, before the model.
    pub write_firmware: bool,
    /// Accept a model whose kernels were chosen for another core.
    pub other_core: bool,
    /// The debug probe, of several, as `probe-rs list` names them.
    pub probe: Option<&'a str>,
    /// The serial port of the boot loader, of several.
    pub port: Option<&'a str>,
    /// Write a UF2 file instead of using a tool.
    pub uf2: Option<&'a Path>,
}

/// One step of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run a tool.
    Run(Call),
    /// Run a tool that copies a part of the flash to a temporary file, named behind these arguments, and
    /// compare that with `file`.
    Compare {
        /// The tool.
        call: Call,
        /// What was written.
        file: PathBuf,
    },
    /// Write a file.
    Write {
        /// The file.
        path: PathBuf,
        /// Its content.
        bytes: Vec<u8>,
    },
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the program.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Call {
    fn new<'a>(program: &'static str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self { program, arguments: arguments.into_iter().map(str::to_owned).collect() }
    }

    fn with<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }
}

/// As one would type it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        for argument in &self.arguments {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
            if !argument.is_empty() && argument.chars().all(plain) {
                write!(f, " {argument}")?;
            } else {
                write!(f, " '{}'", argument.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(call) => call.fmt(f),
            Self::Compare { call, file } => {
                write!(f, "{call} READ && cmp READ {}", file.display())
            }
            Self::Write { path, bytes } => {
                write!(f, "write {} ({} bytes of UF2)", path.display(), bytes.len())
            }
        }
    }
}

/// How a board is flashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    board: String,
    chip: String,
    /// The address of the model's partition, as the tool takes it.
    pub model_address: u64,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Plans to carry out `order`, whose model is checked against board and firmware.
    ///
    /// # Errors
    ///
    /// When the board is emulated, or the model does not fit it or its firmware.
    pub fn new(order: &Order<'_>) -> Result<Self, FlashError> {
        let board = order.board;
        let refused = |reason| FlashError::Board { board: board.name.clone(), reason };
        let hardware = board.about.hardware.as_ref();
        let hardware = hardware
            .ok_or_else(|| anyhow!("it is emulated, and `niwaki validate` starts it with a model"))
            .map_err(refused)?;
        let region = |name| board.region(name).map_err(refused);
        let partition = region("MODEL")?;
        check(order, &partition, &region("ARENA")?)?;
        let steps = match order.uf2 {
            Some(path) => uf2_steps(order, hardware, path, &partition)?,
            None if hardware.espflash_chip.is_some() => espflash(order, hardware, &partition),
            None => probe_rs(order, hardware, &partition),
        };
        Ok(Self {
            board: board.name.clone(),
            chip: hardware.chip.clone(),
            model_address: partition.origin,
            steps,
        })
    }

    /// Carries the plan out. `say` is told each step before it is done.
    ///
    /// # Errors
    ///
    /// When a tool is missing or fails, or the flash does not hold what was written.
    pub fn run(&self, say: &dyn Fn(&Step)) -> Result<(), FlashError> {
        for step in &self.steps {
            say(step);
            match step {
                Step::Run(call) => {
                    self.call(call, None)?;
                }
                Step::Compare { call, file } => self.compare(call, file)?,
                Step::Write { path, bytes } => std::fs::write(path, bytes)
                    .map_err(|source| FlashError::File { path: path.clone(), source })?,
            }
        }
        Ok(())
    }

    fn compare(&self, call: &Call, file: &Path) -> Result<(), FlashError> {
        let error = |path: &Path| {
            let path = path.to_path_buf();
            |source| FlashError::File { path, source }
        };
        let folder = tempfile::tempdir().map_err(error(&std::env::temp_dir()))?;
        let copy = folder.path().join("flash.bin");
        self.call(call, Some(copy.as_os_str()))?;
        let found = std::fs::read(&copy).map_err(error(&copy))?;
        let expected = std::fs::read(file).map_err(error(file))?;
        let differs = |offset: &usize| expected.get(*offset) != found.get(*offset);
        match (0..expected.len()).find(differs) {
            None => Ok(()),
            Some(offset) => Err(FlashError::Differs {
                board: self.board.clone(),
                file: file.to_path_buf(),
                offset,
            }),
        }
    }

    fn call(&self, call: &Call, last: Option<&OsStr>) -> Result<Output, FlashError> {
        let get = if call.program == PROBE_RS { tools::PROBE_RS } else { tools::ESPFLASH };
        let program = which::which(call.program)
            .map_err(|_| FlashError::NoTool { program: call.program.to_owned(), get })?;
        let output = Command::new(program)
            .args(&call.arguments)
            .args(last)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| FlashError::File { path: call.program.into(), source })?;
        if output.status.success() {
            return Ok(output);
        }
        let text = [&output.stdout[..], &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned())
            .concat();
        Err(FlashError::Failed {
            command: call.to_string(),
            status: output.status.to_string(),
            output: if text.is_empty() { text.clone() } else { format!(":\n{text}") },
            hint: self.hint(&text),
        })
    }

    /// What to do about a failure of a tool that said `text`.
    fn hint(&self, text: &str) -> String {
        let text = text.to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if says(&["no connected probes", "no probe", "no debug probe", "no serial ports"]) {
            return format!(
                "connect {} by USB; on Linux, see https://probe.rs/docs/getting-started/probe-setup/ for \
                 the rights to a probe",
                self.board
            );
        }
        if says(&["mismatch", "unexpected", "not found in", "does not support chip"]) {
            return format!("is it {}, with a {}, that is connected?", self.board, self.chip);
        }
        "what was being written may be incomplete, and an agent refuses an incomplete model: see that \
         board and probe have power, and flash again"
            .to_owned()
    }
}

/// Refuses a model that the board or its firmware cannot run.
fn check(order: &Order<'_>, partition: &Region, arena: &Region) -> Result<(), FlashError> {
    let (board, model) = (order.board.name.clone(), order.model);
    let len = model.as_bytes().len();
    if len as u64 > partition.length {
        let partition = partition.length;
        return Err(FlashError::ModelTooLarge { board, model: len, partition });
    }
    let mut available = arena.length;
    let mut kernels = ALL_KERNELS;
    if let Some(firmware) = order.firmware {
        let (found, expected) = (firmware.model_region.start, partition.origin);
        if found != expected {
            let elf = firmware.elf.clone();
            return Err(FlashError::OtherFirmware { board, elf, found, expected });
        }
        available = firmware.arena.end.saturating_sub(firmware.arena.start);
        kernels = firmware.kernels.unwrap_or(kernels);
    }
    let needed = model.arena_len();
    if needed as u64 > available {
        return Err(FlashError::ArenaTooSmall { board, needed, available });
    }
    let missing = model.kernels() & !kernels;
    if missing != 0 {
        let names = KernelId::ALL.iter().filter(|kernel| missing & kernel.bit() != 0);
        let kernels = names.map(|kernel| kernel.name().to_owned()).collect();
        return Err(FlashError::MissingKernels { kernels });
    }
    let core = order.board.about.core.clone();
    if !order.other_core && !model.core_name().is_empty() && model.core_name() != core {
        return Err(FlashError::OtherCore { board, model: model.core_name().to_owned(), core });
    }
    Ok(())
}

fn probe_rs(order: &Order<'_>, hardware: &Hardware, partition: &Region) -> Vec<Step> {
    let call = |command: &str| {
        let call = Call::new(PROBE_RS, [command, "--chip", &hardware.probe_rs_chip]);
        call.with(order.probe.iter().flat_map(|probe| ["--probe", probe]))
    };
    let mut steps = Vec::new();
    if let Some(firmware) = written(order) {
        let elf = firmware.elf.display().to_string();
        steps.push(Step::Run(call("download").with(["--verify", "--binary-format", "elf", &elf])));
    }
    // `--verify` reads back what was written, and fails where it differs. Sectors of the flash that the model
    // does not reach are left alone.
    let address = format!("{:#010x}", partition.origin);
    let file = order.model_file.display().to_string();
    let write = ["--verify", "--binary-format", "bin", "--base-address", &address, &file];
    steps.push(Step::Run(call("download").with(write)));
    steps.push(Step::Run(call("reset")));
    steps
}

fn espflash(order: &Order<'_>, hardware: &Hardware, partition: &Region) -> Vec<Step> {
    let chip = hardware.espflash_chip.as_deref().unwrap_or_default();
    let call = |command: &str| {
        let call = Call::new(ESPFLASH, [command, "--chip", chip]);
        call.with(order.port.iter().flat_map(|port| ["--port", port]))
    };
    let mut steps = Vec::new();
    if let Some(firmware) = written(order) {
        let table = order.board.folder.join("partitions.csv").display().to_string();
        let elf = firmware.elf.display().to_string();
        steps.push(Step::Run(call("flash").with(["--partition-table", &table, &elf])));
    }
    let address = format!("{:#x}", partition.origin);
    let file = order.model_file.display().to_string();
    steps.push(Step::Run(call("write-bin").with([address.as_str(), &file])));
    let len = format!("{:#x}", order.model.as_bytes().len());
    let call = call("read-flash").with([address.as_str(), &len]);
    steps.push(Step::Compare { call, file: order.model_file.to_path_buf() });
    steps
}

fn uf2_steps(
    order: &Order<'_>,
    hardware: &Hardware,
    path: &Path,
    partition: &Region,
) -> Result<Vec<Step>, FlashError> {
    let refused = |reason| FlashError::Board { board: order.board.name.clone(), reason };
    let families = hardware.uf2.context("its boot ROM takes no UF2 file").map_err(refused)?;
    let mut steps = Vec::new();
    if let Some(firmware) = written(order) {
        let elf = &firmware.elf;
        let bytes =
            std::fs::read(elf).map_err(|source| FlashError::File { path: elf.clone(), source })?;
        let bytes = uf2::of_elf(&bytes, families.firmware_family)
            .with_context(|| elf.display().to_string())
            .map_err(refused)?;
        steps.push(Step::Write { path: path.with_extension("firmware.uf2"), bytes });
    }
    let pieces = [(partition.origin as u32, order.model.as_bytes())];
    let bytes = uf2::write(&pieces, families.data_family);
    steps.push(Step::Write { path: path.to_path_buf(), bytes });
    Ok(steps)
}

fn written<'a>(order: &Order<'a>) -> Option<&'a Firmware> {
    order.firmware.filter(|_| order.write_firmware)
}
