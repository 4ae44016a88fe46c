//! Every check and test.

use std::env;
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use niwaki_toolchain::Toolchain;
use niwaki_toolchain::compiler::Way;
use niwaki_toolchain::firmware::target_folder;

use crate::Context;
use crate::firmware::{self, CORTEX_M4};
use crate::panics;
use crate::steps::{Outcome, Steps, call};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run only the steps whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

type Step<'s> = (&'static str, Box<dyn FnOnce() -> Result<Outcome> + 's>);

/// Runs every step, and all of them even if one fails.
pub(crate) fn run(context: &Context, args: &TestArgs) -> Result<()> {
    let cargo = |arguments: &str| -> Result<Outcome> {
        call(&mut host(context, arguments))?;
        Ok(Outcome::Passed)
    };
    let all: Vec<Step<'_>> = vec![
        ("format", Box::new(|| format(context))),
        ("dependencies: licences, sources, bans", Box::new(|| deny(context))),
        ("firmware: build", Box::new(|| build(context))),
        ("firmware: no panic is reachable", Box::new(|| panics::check(context))),
        ("firmware: core-only example runs", Box::new(|| run_bare(context))),
        ("firmware: clippy", Box::new(|| clippy(context))),
        ("core: builds for every kind of processor", Box::new(|| core_targets(context))),
        (
            "core: tests with overflow checks",
            Box::new(|| cargo("test -p niwaki-core -F link,pack")),
        ),
        // The release profile throughout: it is the one that the commands use, and the machine
        // learning framework is compiled once for both.
        (
            "host: clippy",
            Box::new(|| cargo("clippy --release --workspace --all-targets -- -D warnings")),
        ),
        (
            "host and emulated boards: tests",
            Box::new(|| cargo("test --release --workspace --no-fail-fast")),
        ),
        (
            "host: documentation",
            Box::new(|| {
                let arguments = "doc --release --workspace --no-deps";
                call(host(context, arguments).env("RUSTDOCFLAGS", "-D warnings"))?;
                Ok(Outcome::Passed)
            }),
        ),
    ];
    let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
    let wanted = |name: &str| args.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
    if !names.iter().any(|name| wanted(name)) {
        bail!("no step is called so; there are: {}", names.join(", "));
    }
    let mut steps = Steps::default();
    for (name, step) in all {
        if wanted(name) {
            steps.run(name, step);
        }
    }
    steps.finish("xtask test")
}

/// The cargo that runs this, in the checkout.
fn host(context: &Context, arguments: &str) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments.split(' ')).current_dir(&context.checkout);
    command
}

fn format(context: &Context) -> Result<Outcome> {
    call(&mut host(context, "fmt --all --check"))?;
    for folder in context.standalone() {
        call(host(context, "fmt --all --check").current_dir(folder))?;
    }
    Ok(Outcome::Passed)
}

/// What `deny.toml` says of the dependencies, of the boards' too. Not the advisories, which are fetched anew and
/// can fail any day: `cargo deny check` looks at them.
fn deny(context: &Context) -> Result<Outcome> {
    if !host(context, "deny --version").output().is_ok_and(|output| output.status.success()) {
        let why = "cargo-deny is not installed: run `cargo install --locked cargo-deny`";
        return Ok(Outcome::Skipped(why.into()));
    }
    let config = context.checkout.join("deny.toml");
    for folder in ["", "firmware", "boards", "boards/real"] {
        let mut command = host(context, "deny --log-level error --manifest-path");
        command.arg(context.checkout.join(folder).join("Cargo.toml")).arg("--config").arg(&config);
        call(command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    }
    Ok(Outcome::Passed)
}

fn build(context: &Context) -> Result<Outcome> {
    for board in context.emulated() {
        firmware::agent(context, board)?;
        eprintln!("{} built", board.name);
    }
    firmware::examples(context)?;
    Ok(Outcome::Passed)
}

/// The core alone, with all that a device may use, for processors of every kind that it is meant for.
fn core_targets(context: &Context) -> Result<Outcome> {
    const TARGETS: [&str; 7] = [
        "thumbv6m-none-eabi",
        "thumbv7m-none-eabi",
        "thumbv7em-none-eabihf",
        "thumbv8m.main-none-eabihf",
        "riscv32imc-unknown-none-elf",
        "riscv32imac-unknown-none-elf",
        "wasm32-unknown-unknown",
    ];
    let folder = std::path::absolute(target_folder(&context.checkout))?;
    for triple in TARGETS {
        let say = |line: &str| eprintln!("setup: {line}");
        let toolchain = Toolchain::find_or_install(triple, &say)?;
        let mut command = toolchain.cargo("build", &folder.join(toolchain.way.name()));
        command.args(["--quiet", "--release", "--package", "niwaki-core"]);
        command.args(["--features", "federated,frontend,defmt"]);
        call(command.current_dir(&context.checkout))?;
        eprintln!("{triple}: built");
    }
    Ok(Outcome::Passed)
}

fn clippy(context: &Context) -> Result<Outcome> {
    let target_folder = std::path::absolute(target_folder(&context.checkout))?;
    // Those that boards share are workspace members, which clippy looks at with each board.
    let mut crates: Vec<_> = context
        .emulated()
        .map(|board| (board.folder.clone(), board.about.triple.clone()))
        .collect();
    crates.extend(context.examples().map(|folder| (folder, CORTEX_M4.into())));
    crates.push((context.engine(), CORTEX_M4.into()));
    crates.push((context.checkout.join("firmware"), CORTEX_M4.into()));
    for (folder, triple) in crates {
        let toolchain = Toolchain::find(&triple)?;
        if toolchain.way != Way::Rustup {
            let why = "clippy needs the target's precompiled core, which is not installed";
            return Ok(Outcome::Skipped(why.into()));
        }
        eprintln!("{}", context.within(&folder).display());
        let mut command = toolchain.cargo("clippy", &target_folder.join(toolchain.way.name()));
        command.args(["--release", "--locked", "--", "-D", "warnings"]).current_dir(&folder);
        // Only inference alone reads it.
        command.env("NIWAKI_KERNELS", "all");
        call(&mut command)?;
    }
    Ok(Outcome::Passed)
}

/// The example ends the emulator with exit code 0 when its model ran.
fn run_bare(context: &Context) -> Result<Outcome> {
    const LIMIT: Duration = Duration::from_secs(60);
    let elf = firmware::bare(context)?;
    let mut child = Command::new("qemu-system-arm")
        .args(["-machine", "mps2-an386", "-display", "none", "-serial", "null", "-monitor", "none"])
        .args(["-semihosting-config", "enable=on,target=native", "-kernel"])
        .arg(&elf)
        .spawn()
        .context("starting qemu-system-arm")?;
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok(Outcome::Passed)
}
