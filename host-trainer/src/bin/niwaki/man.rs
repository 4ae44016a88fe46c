//! `niwaki man`: the manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};

/// Arguments of `niwaki man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  niwaki man ~/.local/share/man/man1 && man niwaki-flash")]
pub(crate) struct ManArgs {
    /// Folder for the pages, which is made if need be
    folder: PathBuf,
}

/// Runs `niwaki man`.
pub(crate) fn run(args: &ManArgs, command: Command) -> Result<()> {
    let folder = &args.folder;
    let writing = || format!("writing manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(writing)?;
    clap_mangen::generate_to(command, folder).with_context(writing)
}
