//! Building, measuring and running firmware.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use niwaki_toolchain::firmware::{Build, build, target_folder};
use niwaki_toolchain::{Board, Toolchain};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, elf};

use crate::Context;
use crate::steps::call;

/// The Rust target that the core-only example runs on.
pub(crate) const CORTEX_M4: &str = "thumbv7em-none-eabihf";

#[derive(Debug, Args)]
pub(crate) struct QemuArgs {
    /// The model to put into the board's model region
    model: PathBuf,
    /// The board, as its crate under boards/ is called
    #[arg(long, default_value = "mps2-an386")]
    board: String,
}

/// Builds the agent for `board`.
pub(crate) fn agent(context: &Context, board: &Board) -> Result<PathBuf> {
    program(context, &board.folder, &board.about.triple, Build::default())
}

/// Builds the program of the standalone crate in `folder`.
pub(crate) fn program(
    context: &Context,
    folder: &Path,
    triple: &str,
    options: Build<'_>,
) -> Result<PathBuf> {
    let toolchain = Toolchain::find(triple)?;
    build(&toolchain, folder, &target_folder(&context.checkout), options, &|_| {})
}

/// Runs a board's firmware by hand.
pub(crate) fn qemu(context: &Context, args: &QemuArgs) -> Result<()> {
    let names = || context.emulated().map(|board| board.name.as_str()).collect::<Vec<_>>();
    let board = context
        .emulated()
        .find(|board| board.name == args.board)
        .with_context(|| format!("no board '{}'; there are: {}", args.board, names().join(", ")))?;
    let Some((program, machine)) =
        board.about.emulator.as_ref().and_then(|command| command.split_first())
    else {
        bail!("{} is not emulated", board.name);
    };
    let elf = agent(context, board)?;
    let bytes = std::fs::read(&elf)?;
    let address = object::File::parse(&*bytes)?
        .symbols()
        .find(|symbol| symbol.name() == Ok("_model_start"))
        .context("the firmware has no symbol '_model_start'")?
        .address();
    eprintln!("ctrl-a x ends the emulator");
    call(
        Command::new(program)
            .args(machine)
            .args(["-nographic", "-icount", "shift=0"])
            .args(["-semihosting-config", "enable=on,target=native", "-kernel"])
            .arg(&elf)
            .arg("-device")
            .arg(format!("loader,file={},addr={address:#x},force-raw=on", args.model.display())),
    )
}

/// Prints what each firmware takes.
pub(crate) fn sizes(context: &Context) -> Result<()> {
    println!("{:<24} {:>10} {:>10}", "firmware", "flash", "RAM");
    let row = |name: &str, elf: &Path| -> Result<()> {
        let (flash, ram) = size(elf)?;
        println!("{name:<24} {flash:>10} {ram:>10}");
        Ok(())
    };
    for board in context.emulated() {
        row(&board.name, &agent(context, board)?)?;
    }
    row("bare, with its model", &bare(context)?)?;
    row("every kernel alone", &engine(context, CORTEX_M4, &[])?)
}

/// Builds the core-only example.
pub(crate) fn bare(context: &Context) -> Result<PathBuf> {
    program(context, &context.bare(), CORTEX_M4, Build::default())
}

/// Builds the examples that use the core without the agent.
pub(crate) fn examples(context: &Context) -> Result<()> {
    for folder in context.examples() {
        program(context, &folder, CORTEX_M4, Build::default())?;
        eprintln!("{} built", context.within(&folder).display());
    }
    Ok(())
}

/// Builds inference with every kernel, without a model, for `triple`.
pub(crate) fn engine(context: &Context, triple: &str, features: &[&str]) -> Result<PathBuf> {
    let every = [("NIWAKI_KERNELS", "all")];
    let options = Build { features, environment: &every, ..Build::default() };
    program(context, &context.engine(), triple, options)
}

/// Bytes of flash and of RAM for variables that an ELF file asks for.
pub(crate) fn size(path: &Path) -> Result<(u64, u64)> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let (mut flash, mut ram) = (0, 0);
    for section in file.sections() {
        let SectionFlags::Elf { sh_type, sh_flags } = section.flags() else { continue };
        // Stack and arena are not the program's; dummies hold addresses free that two buses share.
        let name = section.name().unwrap_or_default();
        let is_space = name.ends_with("_dummy") || [".stack", ".niwaki"].contains(&name);
        if sh_flags & elf::SHF_ALLOC != elf::SHF_ALLOC || is_space {
            continue;
        }
        if sh_type == elf::SHT_PROGBITS {
            flash += section.size();
        }
        if sh_flags & elf::SHF_WRITE == elf::SHF_WRITE {
            ram += section.size();
        }
    }
    Ok((flash, ram))
}
