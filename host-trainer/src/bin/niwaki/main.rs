//! The `niwaki` command.

mod data;
mod output;

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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Data(args) => data::run(args, cli.format),
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
