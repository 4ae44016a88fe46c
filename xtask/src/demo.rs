//! From data to an emulated microcontroller, with the commands that a user would type.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::Context;
use crate::steps::call;

/// Trains, exports and runs a model on an emulated Cortex-M4, in `runs/demo`.
pub(crate) fn run(context: &Context) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let niwaki = |line: &str| -> Result<()> {
        eprintln!("\n$ cargo niwaki {line}");
        let mut command = Command::new(&cargo);
        command
            .args(["run", "--quiet", "--release", "--package", "niwaki", "--bin", "niwaki", "--"])
            .args(line.split(' '))
            .current_dir(&context.checkout);
        call(&mut command)
    };
    eprintln!("\ncompiling niwaki: about ten minutes on two cores the first time");
    call(
        Command::new(&cargo)
            .args(["build", "--release", "--package", "niwaki"])
            .current_dir(&context.checkout),
    )?;
    niwaki(
        "train --data digits --net lenet --density 0.1 --epochs 20 --seed 1 --out runs/demo --force",
    )?;
    niwaki("export runs/demo")?;
    niwaki("report runs/demo --target qemu-cortex-m4")
}
