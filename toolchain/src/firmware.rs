//! Builds firmware crates, which stand outside the host workspace.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::compiler::Toolchain;

/// What to build and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Build<'a> {
    /// Features of the crate to switch on.
    pub features: &'a [&'a str],
    /// Environment of the build, such as what its build script reads.
    pub environment: &'a [(&'a str, &'a str)],
    /// Folder whose `.cargo/config.toml` sets the compiler's flags, such as a board's: the crate's own
    /// where none is given.
    pub flags_of: Option<&'a Path>,
}

/// The folder that firmware is built into: `firmware` within cargo's target folder of the checkout.
pub fn target_folder(checkout: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| checkout.join("target"), PathBuf::from)
        .join("firmware")
}

/// Builds the one program of the crate in `folder` for release and returns the path of its ELF file.
/// Every line that cargo prints goes to `say`.
pub fn build(
    toolchain: &Toolchain,
    folder: &Path,
    target_folder: &Path,
    build: Build<'_>,
    say: &dyn Fn(&str),
) -> Result<PathBuf> {
    let target_folder = std::path::absolute(target_folder)?.join(toolchain.way.name());
    let mut command = toolchain.cargo("build", &target_folder);
    command.args(["--release", "--locked", "--manifest-path"]);
    command.arg(std::path::absolute(folder)?.join("Cargo.toml"));
    command.current_dir(build.flags_of.unwrap_or(folder));
    if !build.features.is_empty() {
        command.args(["--features", &build.features.join(",")]);
    }
    command.envs(build.environment.iter().copied());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    let mut printed = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            say(&line);
            printed.push(line);
        }
    }
    if !child.wait()?.success() {
        bail!("building {} failed:\n{}", folder.display(), printed.join("\n"));
    }
    let program = program(folder)?;
    let elf = target_folder.join(&toolchain.triple).join("release").join(&program);
    if !elf.is_file() {
        bail!("{} was built, but {} is not there", folder.display(), elf.display());
    }
    Ok(elf)
}

/// The name of a crate's program, which is the name of the crate.
fn program(folder: &Path) -> Result<String> {
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest)
        .with_context(|| format!("reading {}", manifest.display()))?;
    let table: toml::Table =
        toml::from_str(&text).with_context(|| format!("reading {}", manifest.display()))?;
    table
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("{}: no package.name", manifest.display()))
}
