//! Firmware for real boards, and the page about them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use niwaki_toolchain::boards::Hardware;
use niwaki_toolchain::firmware::target_folder;
use niwaki_toolchain::{Board, Toolchain};

use crate::Context;
use crate::firmware::{agent, size};
use crate::steps::{Outcome, Steps, call};

/// The generated page.
const PAGE: &str = "docs/boards.md";

#[derive(Debug, Args)]
pub(crate) struct BoardsArgs {
    /// Build only the boards whose name contains this, and leave docs/boards.md alone
    #[arg(value_name = "TEXT")]
    only: Option<String>,
    /// Run clippy on them too
    #[arg(long)]
    clippy: bool,
}

/// What a board's agent takes.
struct Size {
    flash: u64,
    ram: u64,
}

/// Builds the agent for every real board and writes the page about them.
pub(crate) fn run(context: &Context, args: &BoardsArgs) -> Result<()> {
    let wanted = |board: &&Board| args.only.as_ref().is_none_or(|text| board.name.contains(text));
    let boards: Vec<&Board> = context.real().filter(wanted).collect();
    if boards.is_empty() {
        let names: Vec<_> = context.real().map(|board| board.name.as_str()).collect();
        bail!("no board is called so; there are: {}", names.join(", "));
    }
    let mut steps = Steps::default();
    let mut sizes = Vec::new();
    for board in &boards {
        steps.run(&board.name, || {
            let size = measured(context, board)?;
            eprintln!("{}: {} bytes of flash, {} of RAM", board.name, size.flash, size.ram);
            sizes.push(size);
            Ok(Outcome::Passed)
        });
        if args.clippy {
            steps.run(&format!("{}: clippy", board.name), || clippy(context, board));
        }
    }
    if args.only.is_none() && sizes.len() == boards.len() {
        steps.run(PAGE, || {
            let path = context.checkout.join(PAGE);
            std::fs::write(&path, page(&boards, &sizes)?)
                .with_context(|| format!("writing {}", path.display()))?;
            Ok(Outcome::Passed)
        });
    }
    steps.finish("xtask boards")
}

fn measured(context: &Context, board: &Board) -> Result<Size> {
    Toolchain::find_or_install(&board.about.triple, &|line| eprintln!("setup: {line}"))?;
    let (flash, ram) = size(&agent(context, board)?)?;
    Ok(Size { flash, ram })
}

fn clippy(context: &Context, board: &Board) -> Result<Outcome> {
    let toolchain = Toolchain::find(&board.about.triple)?;
    let folder = target_folder(&context.checkout).join(toolchain.way.name());
    let mut command = toolchain.cargo("clippy", &std::path::absolute(folder)?);
    command.args(["--release", "--locked", "--", "-D", "warnings"]).current_dir(&board.folder);
    call(&mut command)?;
    Ok(Outcome::Passed)
}

fn page(boards: &[&Board], sizes: &[Size]) -> Result<String> {
    let mut text = String::from(HEAD);
    for (board, size) in boards.iter().zip(sizes) {
        let hardware = hardware(board)?;
        let (arena, model) = (board.region("ARENA")?.length, board.region("MODEL")?.length);
        writeln!(
            text,
            "| `{}` | {} | {} | {}, {} MHz | {} | {} | {} | {} |",
            board.name,
            hardware.title,
            hardware.chip,
            board.about.core,
            hardware.clock_mhz,
            kib(size.flash),
            kib(size.ram),
            kib(model),
            kib(arena),
        )?;
    }
    text += PARTITIONS;
    for board in boards {
        let hardware = hardware(board)?;
        let place = |name| -> Result<String> {
            let region = board.region(name)?;
            Ok(format!("`{:#010x}`, {}", region.origin, kib(region.length)))
        };
        writeln!(
            text,
            "| `{}` | {} | {} | {} | `{}` | {} |",
            board.name,
            place("FLASH")?,
            place("MODEL")?,
            place("STATE")?,
            hardware.probe_rs_chip,
            hardware.line,
        )?;
    }
    text += FOOT;
    Ok(text)
}

fn hardware(board: &Board) -> Result<&Hardware> {
    board.about.hardware.as_ref().with_context(|| format!("{} is emulated", board.name))
}

/// A size, rounded up.
fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

/// The lines of a board's partition table for the ESP-IDF boot loader, by name: offset and size.
#[cfg(test)]
fn partition(folder: &std::path::Path, name: &str) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(folder.join("partitions.csv")).ok()?;
    let line = text.lines().find(|line| line.split(',').next() == Some(name))?;
    let number = |field: &str| u64::from_str_radix(field.trim().trim_start_matches("0x"), 16).ok();
    let mut fields = line.split(',').skip(3);
    Some((number(fields.next()?)?, number(fields.next()?)?))
}

const HEAD: &str = "\
# Boards

Written by `cargo xtask boards`, which builds the agent for each of them; do not edit.

All boards run the same agent as the emulated ones and answer the same messages. They are described in one place
each: `boards/real/<name>/Cargo.toml` (`[package.metadata.niwaki]`) and `memory.x`. Nobody has run them on the
hardware yet: they are built, and what is flashed where is tested with stand-ins for the tools.

Flash and RAM are those of the agent with every kernel, the front end for sound and learning: code and constants,
and variables without the stack. A firmware of your own links only the kernels of its model.

| `--board` | board | chip | core | agent, flash | agent, RAM | largest model | arena |
|---|---|---|---|---|---|---|---|
";

const PARTITIONS: &str = "
## Partitions

The firmware never writes the model's partition, and `niwaki flash` never the firmware's unless asked with
`--firmware`. The state partition is for what a board has learned ([learning](learning.md)).

| `--board` | firmware | model | learned state | `probe-rs` chip | line to the host |
|---|---|---|---|---|---|
";

const FOOT: &str = "
On the ESP32-C3 these are offsets within the flash, and `boards/real/esp32-c3/partitions.csv` repeats them for the
boot loader. Its agent copies the model to RAM at the start, for the flash's cache shows a program its own pages
only; that bounds the size of a model there.

## Flashing

```text
niwaki flash model.niwaki --board nrf52840-dk --firmware   # the first time
niwaki flash model.niwaki --board nrf52840-dk              # another model
niwaki flash model.niwaki --board nrf52840-dk --dry-run    # only show the commands
niwaki validate model.niwaki --target nrf52840-dk --port /dev/ttyACM0 --data digits
```

A Pico needs no debug probe: `--uf2 model.uf2` writes a file for the drive that it shows while BOOTSEL is held. Logs
go out by RTT: `probe-rs attach --chip CHIP firmware.elf` shows them.

## Where the names and addresses come from

The names of chips and their memory were compared with the target list of probe-rs 0.32, which
`probe-rs chip info CHIP` prints:

```text
probe-rs chip info nRF52840_xxAA
probe-rs chip info STM32L4R5ZI
probe-rs chip info STM32H743ZI
probe-rs chip info RP2040
probe-rs chip info RP235x
probe-rs chip info esp32c3
```

The families of UF2 files are those of the RP2040 and RP2350 datasheets; models go to a Pico 2 in the family
for data at absolute addresses.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_loader_of_an_esp32_knows_the_partitions_of_memory_x() {
        let checkout = niwaki_toolchain::checkout().unwrap();
        let boards = niwaki_toolchain::boards(&checkout).unwrap();
        let espressif = boards.iter().filter(|board| {
            board.about.hardware.as_ref().is_some_and(|hardware| hardware.espflash_chip.is_some())
        });
        let mut seen = 0;
        for board in espressif {
            for (name, region) in [("factory", "FLASH"), ("model", "MODEL"), ("state", "STATE")] {
                let region = board.region(region).unwrap();
                let found = partition(&board.folder, name);
                assert_eq!(found, Some((region.origin, region.length)), "{}: {name}", board.name);
            }
            seen += 1;
        }
        assert!(seen > 0);
    }
}
