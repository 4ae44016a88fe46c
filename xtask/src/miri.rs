//! The core's kernels under Miri, which finds undefined behaviour and reads outside of memory.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::Context;
use crate::steps::call;

/// What installs a compiler with Miri.
const INSTALL: &str = "rustup toolchain install nightly --component miri,rust-src";

#[derive(Debug, Args)]
pub(crate) struct MiriArgs {
    /// Interpret for this target, such as the big-endian s390x-unknown-linux-gnu
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Run only the tests whose name contains one of these
    #[arg(value_name = "TEXT")]
    filters: Vec<String>,
}

/// Runs the core's unit tests with fewer random cases: the portable kernels, and the optimised ones over
/// emulated instructions.
pub(crate) fn run(context: &Context, args: &MiriArgs) -> Result<()> {
    let there = nightly(&["miri", "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        bail!("Miri is not installed for the nightly compiler: run `{INSTALL}`");
    }
    let mut command =
        nightly(&["miri", "test", "--package", "niwaki-core", "--features", "link,pack", "--lib"]);
    if let Some(target) = &args.target {
        command.args(["--target", target]);
    }
    command.arg("--").args(&args.filters);
    // The tests' generator of cases looks for files with earlier failures.
    let flags = std::env::var("MIRIFLAGS").unwrap_or_default();
    command.env("MIRIFLAGS", format!("{flags} -Zmiri-disable-isolation"));
    command.env("PROPTEST_CASES", "4");
    call(command.current_dir(&context.checkout))
}

/// `cargo` of the nightly toolchain, whichever toolchain runs this.
fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(arguments);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}
