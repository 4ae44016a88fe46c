//! Where models run: emulated boards, real boards and this computer itself.
//!
//! A [`Target`] names a place. [`Firmware`] is the agent built for a board; [`Device`] is a board that
//! runs it with a model, reached over a serial line by the messages of [`niwaki_core::link`].
//! [`validate`] compares a device's outputs with this computer's, byte by byte; [`bench`](fn@bench) measures a
//! model, [`sweep`] the kernels over density; [`Engine`] is what a firmware for one model takes. [`Plan`] writes
//! models and firmware to real boards.
//!
//! An emulator counts executed *instructions*. They are exact and repeatable, but they are not clock
//! cycles.

mod bench;
pub mod calibrate;
pub mod cost;
mod device;
mod emulator;
mod engine;
mod firmware;
mod flash;
mod line;
mod link;
mod mix;
mod stack;
pub mod sweep;
mod uf2;
mod validate;

pub use bench::{Bench, LayerBench, bench, bench_attached};
pub use device::{Device, Features, Ran};
pub use engine::Engine;
pub use firmware::Firmware;
pub use flash::{Call, FlashError, Order, Plan, Step};
pub use link::{Link, LinkError};
pub use mix::{LayerMix, TIMINGS, Timing, trace};
pub use niwaki_toolchain::{Board, Region, boards, checkout, tools};
pub use stack::stack_bound;
pub use validate::{LayerCost, Samples, Validation, clips, validate};

use std::fmt;
use std::path::PathBuf;

use niwaki_core::frontend::FrontEndError;
use niwaki_core::{ModelError, RunError};

/// A place to run models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This computer, which runs the same core as a device does.
    Host,
    /// A board; where it is emulated, its emulator is started for every run.
    Board(Board),
    /// A board that runs the agent with a model in its flash, at a serial port.
    Attached {
        /// The board.
        board: Board,
        /// Name of the port, such as `/dev/ttyACM0`.
        port: String,
    },
}

impl Target {
    /// Every target of the checkout.
    ///
    /// # Errors
    ///
    /// When there is no checkout, or a board's description is damaged.
    pub fn all() -> Result<Vec<Self>, TargetError> {
        let boards =
            checkout().and_then(|folder| boards(&folder)).map_err(TargetError::Checkout)?;
        Ok(std::iter::once(Self::Host).chain(boards.into_iter().map(Self::Board)).collect())
    }

    /// The target called `name`, such as `qemu-cortex-m4` or `host`.
    ///
    /// # Errors
    ///
    /// When there is none; the error lists those that there are.
    pub fn find(name: &str) -> Result<Self, TargetError> {
        if name == Self::Host.name() {
            return Ok(Self::Host);
        }
        let all = Self::all()?;
        all.iter().find(|target| target.name() == name).cloned().ok_or_else(|| {
            let known = all.iter().map(|target| target.name().to_owned()).collect();
            TargetError::Unknown { name: name.to_owned(), known }
        })
    }

    /// This target at a serial port, where one is given.
    ///
    /// # Errors
    ///
    /// When a real board has no port, or this computer has one.
    pub fn at(self, port: Option<&str>) -> Result<Self, TargetError> {
        match (self, port) {
            (Self::Board(board), Some(port)) => Ok(Self::Attached { board, port: port.to_owned() }),
            (Self::Board(board), None) if board.is_real() => {
                Err(TargetError::NotEmulated { board: board.name })
            }
            (Self::Host, Some(_)) => Err(TargetError::HostHasNoPort),
            (target, _) => Ok(target),
        }
    }

    /// What `--target` calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Board(board) | Self::Attached { board, .. } => &board.about.target,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a target cannot be used, or a run on it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The boards' crates cannot be found or read.
    #[error("cannot read the boards: {0:#}")]
    Checkout(#[source] anyhow::Error),
    /// There is no target of this name.
    #[error("there is no target '{name}'; there are: {}", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The firmware cannot be built.
    #[error("cannot build the firmware of {board}: {source:#}")]
    Build {
        /// The board.
        board: String,
        /// Why.
        source: anyhow::Error,
    },
    /// The firmware's ELF file is not what a board's crate builds.
    #[error("{}: not the firmware of a board: {problem}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Boards without an emulator need a serial port.
    #[error(
        "{board} is not emulated: connect it, write the model with `niwaki flash MODEL --board {board}`, and \
         name its serial port with --port"
    )]
    NotEmulated {
        /// The board.
        board: String,
    },
    /// A serial port leads to a board.
    #[error("--port names the serial port of a board; the target `host` is this computer")]
    HostHasNoPort,
    /// Another board is connected.
    #[error("at {port} is {found}, expected {board}")]
    OtherBoard {
        /// The port.
        port: String,
        /// The board that was asked for.
        board: String,
        /// What the device calls itself.
        found: String,
    },
    /// The device has tuned its model, which is to be compared as it was flashed.
    #[error(
        "{board} at {port} runs its model as it has tuned it: `niwaki forget --target {board} --port {port}` and \
         a reset end that"
    )]
    Tuned {
        /// The board.
        board: String,
        /// The port.
        port: String,
    },
    /// The emulator is not installed.
    #[error("{program} is not installed: {get}")]
    NoEmulator {
        /// Its program.
        program: String,
        /// The command that installs it.
        get: String,
    },
    /// A file or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The bytes are not a model.
    #[error("the model is refused: {0}")]
    Model(#[from] ModelError),
    /// The model does not fit the board's model region.
    #[error("the model has {model} bytes, the model region of {board} has {region}")]
    ModelTooLarge {
        /// The board.
        board: String,
        /// Size of the model.
        model: usize,
        /// Size of the region.
        region: u64,
    },
    /// The host cannot run the model, or an input has a wrong length.
    #[error("the model does not run: {0}")]
    Run(#[from] RunError),
    /// The features of sound cannot be computed.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// The conversation with the device failed.
    #[error("{board}: {source}{log}")]
    Device {
        /// The board.
        board: String,
        /// What happened.
        source: LinkError,
        /// What the device logged and the emulator printed.
        log: Log,
    },
    /// The log of executed instructions cannot be made sense of.
    #[error("{board}: cannot trace the instructions: {problem}")]
    Trace {
        /// The board.
        board: String,
        /// What is wrong.
        problem: String,
    },
    /// The device holds another model than the one that was sent.
    #[error("{board}: holds model {found}, expected {expected}")]
    OtherModel {
        /// The board.
        board: String,
        /// Id of the model that the device reports.
        found: String,
        /// Id of the model that was to run.
        expected: String,
    },
}

impl TargetError {
    /// Adds to an error of a device what its emulator said, where that is not known yet.
    fn with_output(mut self, output: &str) -> Self {
        if let Self::Device { log, .. } = &mut self
            && log.emulator.is_empty()
        {
            log.emulator = output.trim_end().to_owned();
        }
        self
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a device logged and its emulator printed; shown beneath an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Lines of the device's log.
    pub device: Vec<String>,
    /// What the emulator printed.
    pub emulator: String,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Lines shown of a long log: its end tells what happened.
        const SHOWN: usize = 20;
        let hidden = self.device.len().saturating_sub(SHOWN);
        if !self.device.is_empty() {
            write!(f, "\nlog of the device:")?;
        }
        if hidden > 0 {
            write!(f, "\n  ... {hidden} lines before")?;
        }
        for line in self.device.iter().skip(hidden) {
            write!(f, "\n  {line}")?;
        }
        if !self.emulator.is_empty() {
            write!(f, "\noutput of the emulator:\n  {}", self.emulator.replace('\n', "\n  "))?;
        }
        Ok(())
    }
}
