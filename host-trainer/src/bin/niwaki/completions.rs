//! `niwaki completions`: a script that completes the command's arguments in a shell.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::output;

/// Arguments of `niwaki completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  niwaki completions bash > ~/.local/share/bash-completion/completions/niwaki")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs `niwaki completions`.
pub(crate) fn run(args: &CompletionsArgs, command: &mut Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "niwaki", &mut script);
    output::print(String::from_utf8(script)?.trim_end())
}
