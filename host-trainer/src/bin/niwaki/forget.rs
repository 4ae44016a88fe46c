//! `niwaki forget`: a board leaves its federation, or loses what it learned.

use anyhow::{Result, ensure};
use clap::Args;
use niwaki::target::{Device, Target};
use serde::Serialize;

use crate::output::{self, Format};

/// Arguments of `niwaki forget`.
#[derive(Debug, Args)]
#[command(after_help = "\
The board forgets its key and all that it learned, and is as it was flashed after the next reset. Do this before it
joins another federation, and before its model is validated.

Examples:
  niwaki forget --target nrf52840-dk --port /dev/ttyACM0")]
pub(crate) struct ForgetArgs {
    /// The board; `niwaki targets` lists them
    #[arg(long)]
    target: String,
    /// Its serial port, such as /dev/ttyACM0
    #[arg(long, value_name = "PORT")]
    port: String,
}

#[derive(Serialize)]
struct Forgotten<'a> {
    board: &'a str,
    port: &'a str,
}

/// Runs `niwaki forget`.
pub(crate) fn run(args: &ForgetArgs, format: Format) -> Result<()> {
    let target = Target::find(&args.target)?;
    ensure!(
        target != Target::Host,
        "`{}` is this computer: it belongs to no federation",
        args.target
    );
    if let Target::Board(board) = &target {
        Device::forget(board, &args.port)?;
    }
    match format {
        Format::Json => output::print_json(&Forgotten { board: target.name(), port: &args.port }),
        Format::Table => output::print("forgotten; reset the board to use it again"),
    }
}
