//! The Rust compiler for the firmware.
//!
//! There are two ways to a compiler that builds for a microcontroller:
//!
//! * **rustup**: the target's precompiled `core` is a component that `rustup target add` downloads.
//! * **debian**: where that download is not to be had, Debian's Rust packages bring the *source* of
//!   `core`, and cargo builds it along with the firmware (`build-std`). A stable compiler takes that
//!   option when `RUSTC_BOOTSTRAP` is set. The linker is the `rust-lld` of any rustup toolchain, or
//!   Debian's `lld`.
//!
//! [`Toolchain::find`] takes the first that works. `NIWAKI_TOOLCHAIN=rustup` or `=debian` asks for one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::tools;

/// Names the way to take, `rustup` or `debian`; unset or empty: the first that works.
pub const WAY_VARIABLE: &str = "NIWAKI_TOOLCHAIN";

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where the compiler for the firmware comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The compiler on the `PATH` with a precompiled `core` for the target.
    Rustup,
    /// Debian's compiler, which builds `core` from source.
    Debian,
}

impl Way {
    /// The name that [`WAY_VARIABLE`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// The ways to try, in order.
    fn allowed() -> Result<&'static [Self]> {
        match env::var(WAY_VARIABLE).as_deref() {
            Err(_) | Ok("") => Ok(&[Self::Rustup, Self::Debian]),
            Ok("rustup") => Ok(&[Self::Rustup]),
            Ok("debian") => Ok(&[Self::Debian]),
            Ok(other) => bail!("{WAY_VARIABLE} is '{other}': expected 'rustup' or 'debian'"),
        }
    }
}

/// A compiler that builds for one Rust target.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// Where it comes from.
    pub way: Way,
    /// The Rust target.
    pub triple: String,
    cargo: PathBuf,
    set: Vec<(String, OsString)>,
}

impl Toolchain {
    /// A compiler for `triple`, if one is installed; else an error that says how to get one.
    pub fn find(triple: &str) -> Result<Self> {
        let mut why = Vec::new();
        for way in Way::allowed()? {
            match Self::of(*way, triple) {
                Ok(found) => return Ok(found),
                Err(missing) => why.push(format!("  {}: {missing}", way.name())),
            }
        }
        bail!(
            "no Rust compiler for {triple}:\n{}\n`cargo xtask setup` installs what is missing",
            why.join("\n")
        )
    }

    /// As [`Self::find`], after installing what is missing where that can be done. `say` is told what
    /// is being done.
    pub fn find_or_install(triple: &str, say: &dyn Fn(&str)) -> Result<Self> {
        // What is there already is taken first: downloads may be impossible and slow to fail.
        if let Ok(found) = Self::find(triple) {
            return Ok(found);
        }
        for way in Way::allowed()? {
            let installed = match way {
                Way::Rustup => add_target(triple, say),
                Way::Debian => tools::install_compiler(say),
            };
            if let Err(error) = installed {
                say(&format!("{}: {error:#}", way.name()));
            }
            if let Ok(found) = Self::of(*way, triple) {
                return Ok(found);
            }
        }
        Self::find(triple)
    }

    fn of(way: Way, triple: &str) -> Result<Self, String> {
        match way {
            Way::Rustup => Self::with_precompiled_core(triple),
            Way::Debian => Self::with_core_from_source(triple),
        }
    }

    fn with_precompiled_core(triple: &str) -> Result<Self, String> {
        // `CARGO` is set when cargo runs this program: then it is the toolchain to stay with.
        let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let folder =
            output(Command::new(rustc).args(["--print", "target-libdir", "--target", triple]))
                .ok_or("rustc is not there or does not know the target")?;
        let has_core = std::fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        });
        if !has_core {
            return Err(format!("`rustup target add {triple}`"));
        }
        Ok(Self { way: Way::Rustup, triple: triple.into(), cargo, set: Vec::new() })
    }

    fn with_core_from_source(triple: &str) -> Result<Self, String> {
        let install = tools::compiler_packages().install_command();
        if !Path::new(DEBIAN_CARGO).is_file() || !Path::new(DEBIAN_RUSTC).is_file() {
            return Err(format!("`{install}`"));
        }
        let sysroot = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))
            .ok_or_else(|| format!("{DEBIAN_RUSTC} does not run"))?;
        if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return Err(format!("the source of `core` is not installed: `{install}`"));
        }
        let linker = linker()
            .ok_or_else(|| format!("no linker: `{}`", tools::LINKER_PACKAGES.install_command()))?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(
            std::iter::once(PathBuf::from("/usr/bin")).chain(env::split_paths(&path)),
        )
        .map_err(|error| error.to_string())?;
        let linker_variable =
            format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace(['-', '.'], "_"));
        let set = vec![
            ("PATH".into(), path),
            ("RUSTC".into(), DEBIAN_RUSTC.into()),
            ("RUSTC_BOOTSTRAP".into(), "1".into()),
            ("CARGO_UNSTABLE_BUILD_STD".into(), "core".into()),
            (linker_variable, linker.into()),
        ];
        Ok(Self { way: Way::Debian, triple: triple.into(), cargo: DEBIAN_CARGO.into(), set })
    }

    /// `cargo` of this toolchain, set to build for the target into `target_folder`.
    pub fn cargo(&self, subcommand: &str, target_folder: &Path) -> Command {
        let mut command = Command::new(&self.cargo);
        if self.way == Way::Debian {
            // What rustup and an outer cargo set would lead to their compiler.
            for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO"] {
                command.env_remove(name);
            }
        }
        // Flags that the caller set for the host do not fit the firmware.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command
            .arg(subcommand)
            .args(["--target", &self.triple])
            .arg("--target-dir")
            .arg(target_folder)
            .envs(self.set.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// `rustup target add`, for the toolchain that is active.
fn add_target(triple: &str, say: &dyn Fn(&str)) -> Result<()> {
    let Ok(rustup) = which::which("rustup") else { bail!("rustup is not on the PATH") };
    say(&format!("rustup target add {triple}"));
    let output =
        Command::new(rustup).args(["target", "add", triple]).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().find(|line| line.starts_with("error")).unwrap_or("it failed");
        bail!("`rustup target add {triple}`: {reason}");
    }
    Ok(())
}

/// An LLVM linker: of a rustup toolchain, or of the distribution.
pub(crate) fn linker() -> Option<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))?;
    let subfolders = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> = std::fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        found.sort();
        found
    };
    let of_rustup = subfolders(&rustup.join("toolchains"))
        .into_iter()
        .flat_map(|toolchain| subfolders(&toolchain.join("lib/rustlib")))
        .map(|host| host.join("bin/rust-lld"))
        .find(|linker| linker.is_file());
    of_rustup
        .or_else(|| which::which("rust-lld").ok())
        .or_else(|| which::which("ld.lld").ok())
        .or_else(|| {
            // Debian's versioned packages install `ld.lld-19` and the like.
            subfolders(Path::new("/usr/bin")).into_iter().rfind(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld.lld-"))
            })
        })
}

/// What a command prints, trimmed, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
