//! The programs and data that niwaki uses but does not bring along.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::boards::Board;
use crate::compiler::{Toolchain, output};

/// Debian packages that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packages(pub &'static [&'static str]);

impl Packages {
    /// The command that installs them.
    pub fn install_command(self) -> String {
        let sudo = if is_root() { "" } else { "sudo " };
        format!("{sudo}apt-get install -y {}", self.0.join(" "))
    }

    /// Installs them, where this user may and the system has `apt-get`; else says how to.
    pub fn install(self, say: &dyn Fn(&str)) -> Result<()> {
        let command = self.install_command();
        if which::which("apt-get").is_err() {
            bail!(
                "this system has no apt-get: install what Debian calls {} with its own package manager",
                self.0.join(", ")
            );
        }
        if !is_root() {
            bail!("not running as root: run `{command}`");
        }
        say(&command);
        let apt = |arguments: &[&str]| {
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdin(Stdio::null())
                .output()
                .context("starting apt-get")
        };
        let install: Vec<_> =
            ["install", "-y", "--no-install-recommends"].iter().chain(self.0).copied().collect();
        let first = apt(&install)?;
        if first.status.success() {
            return Ok(());
        }
        // Package lists may be missing (a fresh container) or older than the archive.
        apt(&["update"])?;
        let second = apt(&install)?;
        if !second.status.success() {
            bail!("`{command}` failed:\n{}", String::from_utf8_lossy(&second.stderr).trim());
        }
        Ok(())
    }
}

/// A linker for firmware, where no rustup toolchain brings one.
pub const LINKER_PACKAGES: Packages = Packages(&["lld"]);
/// Debian's backport of a current compiler, made for its web browsers.
const COMPILER_BACKPORT: Packages = Packages(&["rustc-web", "cargo-web", "rust-web-src"]);
/// The compiler of a Debian that is recent enough itself.
const COMPILER: Packages = Packages(&["rustc", "cargo", "rust-src"]);
const QEMU_ARM: Packages = Packages(&["qemu-system-arm"]);
const QEMU_MISC: Packages = Packages(&["qemu-system-misc"]);
const FASHION_MNIST: Packages = Packages(&["dataset-fashion-mnist"]);

/// The command that installs `probe-rs`.
pub const PROBE_RS: &str = "cargo install probe-rs-tools --locked";
/// The command that installs `espflash`.
pub const ESPFLASH: &str = "cargo install espflash --locked";

/// Where Debian's package puts the Fashion-MNIST images.
const FASHION_MNIST_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// The packages with a compiler and the source of `core`.
pub(crate) fn compiler_packages() -> Packages {
    let known = output(Command::new("apt-cache").args(["show", "--no-all-versions", "rustc-web"]));
    if known.is_some_and(|text| !text.is_empty()) || which::which("apt-cache").is_err() {
        COMPILER_BACKPORT
    } else {
        COMPILER
    }
}

/// Installs Debian's compiler with the source of `core`, and a linker if there is none.
pub(crate) fn install_compiler(say: &dyn Fn(&str)) -> Result<()> {
    // The package lists decide which compiler there is: a fresh container has none yet.
    if compiler_packages().install(say).is_err() {
        compiler_packages().install(say)?;
    }
    if crate::compiler::linker().is_none() {
        LINKER_PACKAGES.install(say)?;
    }
    Ok(())
}

/// Something that niwaki uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// What it is.
    pub name: String,
    /// What it serves.
    pub needed_for: &'static str,
    /// Version or place; `None`: it is missing.
    pub found: Option<String>,
    /// The command that brings it.
    pub get: String,
    /// Whether `cargo xtask test` cannot do without it.
    pub required: bool,
}

/// All that niwaki uses, found or missing. `boards` are those whose firmware is to be built; what only real
/// ones need is not required.
pub fn inspect(boards: &[Board]) -> Vec<Tool> {
    let version = |program: &str| {
        let text = output(Command::new(program).arg("--version"))?;
        text.lines().next().map(str::to_owned)
    };
    let mut tools = vec![Tool {
        name: "Rust compiler".into(),
        needed_for: "building niwaki",
        found: version("rustc"),
        get: "https://rustup.rs".into(),
        required: true,
    }];
    for triple in triples(boards) {
        let toolchain = Toolchain::find(triple);
        tools.push(Tool {
            name: format!("Rust for {triple}"),
            needed_for: "building firmware",
            get: match &toolchain {
                Ok(_) => format!("rustup target add {triple}"),
                Err(_) => format!(
                    "rustup target add {triple}   or   {}",
                    compiler_packages().install_command()
                ),
            },
            found: toolchain.ok().map(|toolchain| format!("by way of {}", toolchain.way.name())),
            required: emulated(boards).any(|board| board.about.triple == triple),
        });
    }
    for (program, packages) in emulators(boards) {
        tools.push(Tool {
            name: program.into(),
            needed_for: "emulated boards",
            found: version(program),
            get: packages.install_command(),
            required: true,
        });
    }
    tools.push(Tool {
        name: "defmt-print".into(),
        needed_for: "reading the logs of devices",
        found: version("defmt-print"),
        get: "cargo install defmt-print".into(),
        required: false,
    });
    for (name, needed_for, get) in
        [("probe-rs", "flashing boards", PROBE_RS), ("espflash", "flashing an ESP32", ESPFLASH)]
    {
        let (found, get) = (version(name), get.to_owned());
        tools.push(Tool { name: name.into(), needed_for, found, get, required: false });
    }
    tools.push(Tool {
        name: "Fashion-MNIST".into(),
        needed_for: "--data fashion-mnist",
        found: Path::new(FASHION_MNIST_FOLDER).is_dir().then(|| FASHION_MNIST_FOLDER.into()),
        get: FASHION_MNIST.install_command(),
        required: false,
    });
    tools
}

/// Installs what is missing, where that can be done, and returns what there is afterwards. Fails if
/// something is missing still that the project's tests cannot do without.
pub fn setup(boards: &[Board], say: &dyn Fn(&str)) -> Result<Vec<Tool>> {
    // Compilers for real boards are looked for when one is built.
    for triple in triples(emulated(boards)) {
        Toolchain::find_or_install(triple, say)?;
    }
    for (program, packages) in emulators(boards) {
        if which::which(program).is_err() {
            packages.install(say).with_context(|| format!("{program} is missing"))?;
        }
    }
    if !Path::new(FASHION_MNIST_FOLDER).is_dir()
        && let Err(error) = FASHION_MNIST.install(say)
    {
        say(&format!("Fashion-MNIST is optional and not there: {error:#}"));
    }
    let tools = inspect(boards);
    if let Some(missing) = tools.iter().find(|tool| tool.required && tool.found.is_none()) {
        bail!("{} is missing: {}", missing.name, missing.get);
    }
    Ok(tools)
}

/// The package that brings the emulator `program`.
pub fn emulator_packages(program: &str) -> Packages {
    if program == "qemu-system-arm" { QEMU_ARM } else { QEMU_MISC }
}

fn emulated(boards: &[Board]) -> impl Iterator<Item = &Board> {
    boards.iter().filter(|board| !board.is_real())
}

fn triples<'b>(boards: impl IntoIterator<Item = &'b Board>) -> Vec<&'b str> {
    let mut triples: Vec<_> = boards.into_iter().map(|board| board.about.triple.as_str()).collect();
    triples.sort_unstable();
    triples.dedup();
    triples
}

fn emulators(boards: &[Board]) -> Vec<(&str, Packages)> {
    let mut programs: Vec<_> = boards
        .iter()
        .filter_map(|board| Some(board.about.emulator.as_ref()?.first()?.as_str()))
        .collect();
    programs.sort_unstable();
    programs.dedup();
    programs.into_iter().map(|program| (program, emulator_packages(program))).collect()
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|user| user == "0")
}
