//! From data to an emulated microcontroller, with the commands that a user would type.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::Context;
use crate::steps::call;

/// Trains, exports and validates in `runs/demo`.
pub(crate) fn run(context: &Context) -> Result<()> {
    let run = Path::new("runs/demo");
    let model = run.join("model.niwaki");
    let (run, model) = (run.display(), model.display());
    let niwaki = |line: String| -> Result<()> {
        eprintln!("\n$ niwaki {line}");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .args(["run", "--quiet", "--release", "--package", "niwaki", "--bin", "niwaki", "--"])
            .args(line.split(' '))
            .current_dir(&context.checkout);
        call(&mut command)
    };
    niwaki(format!(
        "train --data digits --net lenet --density 0.1 --epochs 12 --seed 1 --out {run}"
    ))?;
    niwaki(format!("export {run} -o {model}"))?;
    niwaki(format!("validate {model} --target qemu-cortex-m4 --data digits"))
}
