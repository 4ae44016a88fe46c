//! The `niwaki` command.

mod data;
mod doctor;
mod output;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Format;

/// Train sparse neural networks, export them as fixed-point models, run them on microcontrollers.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Form of the results on standard output
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at data sets
    Data(data::DataArgs),
    /// Compare a target's outputs with this computer's, byte by byte
    Validate(validate::ValidateArgs),
    /// Say what is installed, what is missing and how to get it
    Doctor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Data(args) => data::run(args, cli.format),
        Command::Validate(args) => validate::run(args, cli.format),
        Command::Doctor => doctor::run(cli.format),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
