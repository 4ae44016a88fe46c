//! Tasks of this repository, the same on a laptop and in continuous integration.
//!
//! ```text
//! cargo xtask setup   # find or install what is needed
//! cargo xtask demo    # from data to an emulated microcontroller
//! cargo xtask test    # every check and test
//! cargo xtask boards  # the firmware of real boards
//! cargo xtask miri    # the kernels' tests under Miri
//! ```

mod demo;
mod firmware;
mod miri;
mod panics;
mod real;
mod steps;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use niwaki_toolchain::{Board, boards, checkout, tools};

/// Tasks of this repository
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what building and testing need, and install what is missing
    Setup,
    /// Train a sparse network, export it and compare an emulated Cortex-M4 with this computer
    Demo,
    /// Run every check and test
    Test(test::TestArgs),
    /// Run the core's tests under Miri, which finds undefined behaviour
    Miri(miri::MiriArgs),
    /// Run a board's firmware with a model under QEMU, its serial line on this terminal
    Qemu(firmware::QemuArgs),
    /// Print the flash and RAM that each firmware takes
    Size,
    /// Build the firmware of the real boards and write docs/boards.md
    Boards(real::BoardsArgs),
}

/// What tasks work on.
struct Context {
    checkout: PathBuf,
    boards: Vec<Board>,
}

impl Context {
    /// The boards that are emulated.
    fn emulated(&self) -> impl Iterator<Item = &Board> {
        self.boards.iter().filter(|board| !board.is_real())
    }

    /// The boards that are not.
    fn real(&self) -> impl Iterator<Item = &Board> {
        self.boards.iter().filter(|board| board.is_real())
    }

    /// The folder of the core-only example.
    fn bare(&self) -> PathBuf {
        self.checkout.join("firmware/examples/bare")
    }

    /// The folder of the firmware that is inference alone.
    fn engine(&self) -> PathBuf {
        self.checkout.join("firmware/size")
    }

    /// The workspaces that stand outside of the main one.
    fn standalone(&self) -> Vec<PathBuf> {
        let firmware = self.checkout.join("firmware");
        let boards = ["boards", "boards/real"].map(|folder| self.checkout.join(folder));
        boards.into_iter().chain([firmware, self.engine()]).chain(self.examples()).collect()
    }

    /// Examples of firmware that uses the core without the agent.
    fn examples(&self) -> [PathBuf; 3] {
        ["bare", "rtic", "embassy"].map(|name| self.checkout.join("firmware/examples").join(name))
    }

    /// A folder's path within the checkout.
    fn within<'p>(&self, folder: &'p Path) -> &'p Path {
        folder.strip_prefix(&self.checkout).unwrap_or(folder)
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    let checkout = checkout()?;
    let context = Context { boards: boards(&checkout)?, checkout };
    let tools = tools::setup(&context.boards, &|line| eprintln!("setup: {line}"))?;
    match command {
        Command::Setup => {
            for tool in tools {
                let found = tool.found.unwrap_or_else(|| format!("not there: {}", tool.get));
                println!("{:<36} {found}", tool.name);
            }
            Ok(())
        }
        Command::Demo => demo::run(&context),
        Command::Test(args) => test::run(&context, args),
        Command::Miri(args) => miri::run(&context, args),
        Command::Qemu(args) => firmware::qemu(&context, args),
        Command::Size => firmware::sizes(&context),
        Command::Boards(args) => real::run(&context, args),
    }
}
