//! From data to an emulated microcontroller, with the commands that a user would type.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::Context;
use crate::steps::call;

/// Searches sparse networks, runs those of the front on an emulated Cortex-M4 and exports one, in `runs/demo`.
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
    eprintln!("\ncompiling niwaki: burn takes some minutes the first time");
    call(
        Command::new(&cargo)
            .args(["build", "--release", "--package", "niwaki"])
            .current_dir(&context.checkout),
    )?;
    let study = context.checkout.join("runs/demo");
    if study.exists() {
        std::fs::remove_dir_all(&study)
            .with_context(|| format!("removing the demo before in {}", study.display()))?;
    }
    niwaki(
        "search sparse --data digits --net lenet --target cortex-m4 --flash 32K --ram 8K --evaluations 24 \
         --seed 1 --study runs/demo",
    )?;
    niwaki("study export runs/demo --pick knee -o runs/demo/model.niwaki")?;
    niwaki("analyze runs/demo/model.niwaki")
}
