//! The `niwaki` command.

mod analyze;
mod bench;
mod calibrate;
mod completions;
mod data;
mod doctor;
mod eval;
mod experiment;
mod export;
mod federate;
mod federated;
mod flash;
mod forget;
mod import;
mod inputs;
mod layerwise;
mod learn;
mod man;
mod multiparty;
mod output;
mod quantity;
mod report;
mod search;
mod serve;
mod study;
mod targets;
mod train;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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
    /// Train a sparse network
    Train(train::TrainArgs),
    /// Search a sparse criterion, structure and density for each layer, and train the result
    Layerwise(layerwise::LayerwiseArgs),
    /// Search networks that are accurate, fast and small on a target
    Search(search::SearchArgs),
    /// Show what a search has found, and export its models
    Study(study::StudyArgs),
    /// Evaluate candidates of a search that was started elsewhere
    Worker(search::WorkerArgs),
    /// Let other computers train on a device of this one
    Serve(serve::ServeArgs),
    /// Train many networks and compare them
    Experiment(experiment::ExperimentArgs),
    /// Turn a trained network into a model for devices
    Export(export::ExportArgs),
    /// Turn a TensorFlow Lite model into a model for devices
    Import(import::ImportArgs),
    /// Show what a model holds and costs, layer by layer
    Analyze(analyze::AnalyzeArgs),
    /// Measure a model's accuracy on this computer
    Eval(eval::EvalArgs),
    /// Tune a model's last layers to groups of samples, as a device does
    Learn(learn::LearnArgs),
    /// Let devices, simulated, emulated or real, tune a model together
    Federate(federate::FederateArgs),
    /// Make a board forget what it learned, and its federation
    Forget(forget::ForgetArgs),
    /// Show a training run and its model on one HTML page
    Report(report::ReportArgs),
    /// Compare a target's outputs with this computer's, byte by byte
    Validate(validate::ValidateArgs),
    /// Write a model, and the agent if asked, to a real board
    Flash(flash::FlashArgs),
    /// Measure a model on a board, or the kernels over density on an emulated one
    Bench(bench::BenchArgs),
    /// List the places where models run
    Targets,
    /// Fit the cost model of a core to measurements
    Calibrate(calibrate::CalibrateArgs),
    /// Print a script that completes arguments in a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Man(man::ManArgs),
    /// Say what is installed, what is missing and how to get it
    Doctor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Data(args) => data::run(args, cli.format),
        Command::Train(args) => train::run(args, cli.format),
        Command::Layerwise(args) => layerwise::run(args, cli.format),
        Command::Search(args) => search::run(args, cli.format),
        Command::Study(args) => study::run(args, cli.format),
        Command::Worker(args) => search::run_worker(args, cli.format),
        Command::Serve(args) => serve::run(args),
        Command::Experiment(args) => experiment::run(args, cli.format),
        Command::Export(args) => export::run(args, cli.format),
        Command::Import(args) => import::run(args, cli.format),
        Command::Analyze(args) => analyze::run(args, cli.format),
        Command::Eval(args) => eval::run(args, cli.format),
        Command::Flash(args) => flash::run(args, cli.format),
        Command::Bench(args) => bench::run(args, cli.format),
        Command::Targets => targets::run(cli.format),
        Command::Learn(args) => learn::run(args, cli.format),
        Command::Federate(args) => federate::run(args, cli.format),
        Command::Forget(args) => forget::run(args, cli.format),
        Command::Calibrate(args) => calibrate::run(args, cli.format),
        Command::Report(args) => report::run(args, cli.format),
        Command::Validate(args) => validate::run(args, cli.format),
        Command::Completions(args) => completions::run(args, &mut Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
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
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
