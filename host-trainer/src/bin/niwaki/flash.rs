//! `niwaki flash`: writes a model, and the agent if asked, to a real board.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use niwaki::export::{self, hexadecimal};
use niwaki::target::{Board, Firmware, Order, Plan, Step, Target};
use niwaki_core::{Model, ModelError};
use serde::Serialize;

use crate::output::{self, Format};

/// Arguments of `niwaki flash`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the model to its own partition of the flash and leaves the firmware alone, unless --firmware is given.
`probe-rs` does it through a debug probe, `espflash` for an ESP32; `niwaki doctor` says how to get them. What was
written is read back and compared. The boards and their partitions: docs/boards.md.

Examples:
  niwaki flash model.niwaki --board nrf52840-dk --firmware       # the first time: agent and model
  niwaki flash model.niwaki --board nrf52840-dk                  # another model
  niwaki flash model.niwaki --board nucleo-h743zi --dry-run      # only show the commands
  niwaki flash model.niwaki --board pico --firmware --uf2 m.uf2  # files to copy to the drive of a Pico
  niwaki flash model.niwaki --board esp32-c3 --port /dev/ttyUSB0
  niwaki validate model.niwaki --target nrf52840-dk --port /dev/ttyACM0 --data digits")]
pub(crate) struct FlashArgs {
    /// The model, as `niwaki export` or `niwaki import` wrote it
    model: PathBuf,
    /// The board; `niwaki targets` lists them
    #[arg(long)]
    board: String,
    /// Write the agent's firmware too, built if need be
    #[arg(long)]
    firmware: bool,
    /// A firmware of your own for the board: checked against the model, and written with --firmware
    #[arg(long, value_name = "ELF")]
    elf: Option<PathBuf>,
    /// Show what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write this UF2 file instead, and with --firmware another one beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["probe", "port"])]
    uf2: Option<PathBuf>,
    /// The debug probe, if there are several: VID:PID or VID:PID:SERIAL, as `probe-rs list` shows them
    #[arg(long, value_name = "PROBE")]
    probe: Option<String>,
    /// The serial port of an ESP32, if there are several
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Flash a model whose kernels were chosen for another core
    #[arg(long)]
    other_core: bool,
}

#[derive(Serialize)]
struct Done<'a> {
    board: &'a str,
    model: String,
    model_bytes: usize,
    model_address: u64,
    dry_run: bool,
    steps: Vec<String>,
}

/// Runs `niwaki flash`.
pub(crate) fn run(args: &FlashArgs, format: Format) -> Result<()> {
    let board = find(&args.board)?;
    let blob = export::read_model(&args.model)?;
    let model = Model::new(blob.as_bytes()).map_err(|error| match error {
        ModelError::MissingKernels(_) => anyhow::Error::new(error)
            .context("the agent of this version lacks kernels that the model needs"),
        error => anyhow::Error::new(error).context(format!("{} is refused", args.model.display())),
    })?;
    let firmware = match &args.elf {
        Some(elf) => Some(Firmware::open(elf)?),
        None if args.firmware => output::firmware(&Target::Board(board.clone()))?,
        None => None,
    };
    let plan = Plan::new(&Order {
        board: &board,
        model_file: &args.model,
        model: &model,
        firmware: firmware.as_ref(),
        write_firmware: args.firmware,
        other_core: args.other_core,
        probe: args.probe.as_deref(),
        port: args.port.as_deref(),
        uf2: args.uf2.as_deref(),
    })?;
    if !args.dry_run {
        plan.run(&|step| eprintln!("{step}"))?;
    }
    let done = Done {
        board: &board.name,
        model: hexadecimal(&model.id()),
        model_bytes: model.as_bytes().len(),
        model_address: plan.model_address,
        dry_run: args.dry_run,
        steps: plan.steps.iter().map(Step::to_string).collect(),
    };
    if format == Format::Json {
        return output::print_json(&done);
    }
    if args.dry_run {
        return output::print(&done.steps.join("\n"));
    }
    let verified = if args.uf2.is_some() {
        "written to the file; hold BOOTSEL while you connect the board and copy it to the drive"
    } else {
        "written and verified"
    };
    output::print(&format!(
        "{}: model {}, {} bytes at {:#x}, {verified}",
        done.board, done.model, done.model_bytes, done.model_address
    ))
}

fn find(name: &str) -> Result<Board> {
    let all = Target::all()?.into_iter().filter_map(|target| match target {
        Target::Board(board) | Target::Attached { board, .. } => Some(board),
        Target::Host => None,
    });
    let all: Vec<Board> = all.collect();
    let named = |board: &&Board| board.name == name || board.about.target == name;
    let real = || {
        let names = all.iter().filter(|board| board.is_real()).map(|board| board.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let found = all.iter().find(named);
    found.cloned().with_context(|| format!("there is no board '{name}'; there are: {}", real()))
}
