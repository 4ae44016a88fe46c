//! `niwaki federate`: devices that learn together, simulated, emulated or real.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use clap::Args;
use niwaki::data::{LoadOptions, load};
use niwaki::export;
use niwaki::federate::{
    Aggregation, Boards, Course, Failures, Fleet, Global, Learning, Method, Moon, Row, Server,
    Settings, Simulation, Totals, accuracy, alone, history_page, parties, samples_of,
};
use niwaki::learn::Samples;
use niwaki::target::{Device, Target};
use niwaki_core::Model;
use niwaki_core::learn::Plan;
use serde::Serialize;

use crate::output::{self, Format};

/// Arguments of `niwaki federate`.
#[derive(Debug, Args)]
#[command(after_help = "\
The server, its rounds and the devices' client are the same however devices are reached. Each group of the
training samples (a user, a speaker) is a device's data; the accuracy is measured on the test split. Bytes are
those of the frames that a serial line would carry.

With --out, the server keeps its state there. The same command, started again after Ctrl-C or a crash, goes on
with the round that was not finished; a larger --rounds goes on from the last. `report.html` shows the rounds.

Examples:
  niwaki export runs/wisdm --out m.niwaki --tunable 2
  niwaki federate --model m.niwaki --data wisdm.csv --group user --split-by group --rounds 20
  niwaki federate --model m.niwaki --data wisdm.csv --group user --split-by group --clients sim:5000 \\
      --sampled 100 --rounds 20 --method contrastive --out runs/f
  niwaki federate --model m.niwaki --data wisdm.csv --group user --clients qemu-cortex-m4:4 --rounds 3
  niwaki federate --model m.niwaki --data wisdm.csv --group user --clients nrf52840-dk --rounds 3 \\
      --port /dev/ttyACM0,/dev/ttyACM1 --out runs/f
  niwaki federate --model m.niwaki --data digits --clients sim:30 --label-flip 0.2 --aggregation trimmed-mean:0.3")]
pub(crate) struct FederateArgs {
    /// The model, as `niwaki export --tunable` wrote it
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(long, default_value = "digits")]
    data: String,
    /// Devices: sim or sim:N in this process, an emulated board such as qemu-cortex-m4:N, or a real one with
    /// --port. Without N, one for each group of training samples, or each port
    #[arg(long, value_name = "KIND[:N]", default_value = "sim")]
    clients: Clients,
    /// Serial ports of boards that run the agent with the model, in the same order every time; their keys are
    /// kept in --out
    #[arg(long, value_name = "PORT,...", value_delimiter = ',', requires = "out")]
    port: Vec<String>,
    /// Rounds in all
    #[arg(long, default_value_t = 20, value_name = "N")]
    rounds: u32,
    /// How devices learn together
    #[arg(long, value_enum, default_value_t = Method::FedAvg)]
    method: Method,
    /// Devices that are asked in a round [default: all]
    #[arg(long, value_name = "N")]
    sampled: Option<usize>,
    /// Updates that a round needs, or it is lost
    #[arg(long, default_value_t = 1, value_name = "N")]
    minimum: usize,
    /// Time that devices have to learn in a round
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    deadline: f64,
    /// How updates become one: fedavg, trimmed-mean[:SHARE], norm-bound[:NORM]
    #[arg(long, default_value_t = Aggregation::FedAvg, value_name = "RULE")]
    aggregation: Aggregation,
    /// Measure the accuracy every N rounds, and after the last
    #[arg(long, default_value_t = 1, value_name = "N")]
    test_every: u32,
    /// Most samples that a device may count in an epoch
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    max_samples: u32,
    /// Without groups: concentration of the Dirichlet distribution that divides each class among devices
    #[arg(long, default_value_t = 0.5, value_name = "ALPHA")]
    alpha: f64,
    /// Mark this many layers as tunable first, whatever the model says
    #[arg(long, value_name = "LAYERS")]
    tunable: Option<usize>,
    /// Seed of all that is drawn by chance
    #[arg(long = "seed", value_name = "SEED", default_value_t = 1)]
    run_seed: u64,
    /// Folder for the server's state, the history and the report
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    learning: Learning,
    #[command(flatten)]
    failures: Failures,
    #[command(flatten)]
    options: LoadOptions,
}

/// Where devices run, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clients {
    /// A target's name; none for simulated devices.
    target: Option<String>,
    count: Option<usize>,
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, count) = match text.split_once(':') {
            None => (text, None),
            Some((kind, count)) => {
                let count = count.parse().ok().filter(|&count: &usize| count > 0);
                let problem = || format!("expected a number of devices above 0 in {text:?}");
                (kind, Some(count.ok_or_else(problem)?))
            }
        };
        if kind.is_empty() {
            return Err("expected sim[:N] or the name of a board[:N]".into());
        }
        Ok(Self { target: (kind != "sim").then(|| kind.to_owned()), count })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    method: Method,
    devices: usize,
    tunable_weights: usize,
    /// Accuracy of the model as exported.
    accuracy_before: f64,
    #[serde(flatten)]
    totals: Totals,
    /// CRC-32 of the global parameters.
    checksum: u32,
    history: &'a [Row],
}

/// Runs `niwaki federate`.
pub(crate) fn run(args: &FederateArgs, format: Format) -> Result<()> {
    let blob = export::read_tunable(&args.model, args.tunable)?;
    let model = Model::new(blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let plan = Plan::new(&model)?;
    let data = load(&args.data, &args.options.for_model(&model))?;
    let (samples, test) = samples_of(&model, &data)?;
    let count = match (args.port.len(), args.clients.count) {
        (0, count) => count,
        (ports, None) => Some(ports),
        (ports, Some(count)) => {
            ensure!(ports == count, "{count} devices are asked for and {ports} ports given");
            Some(ports)
        }
    };
    let parties = parties::divide(&data, count, args.alpha, args.run_seed)?;
    let before = accuracy(&model, &Global::new(&plan).parameters(), &test)?;
    let offer = args.learning.offer(args.method, model.id(), args.max_samples);
    let learns_alone = matches!(args.method, Method::Local | Method::Central);
    let failures = args.failures;
    ensure!(
        failures == Failures::default() || (args.clients.target.is_none() && !learns_alone),
        "only simulated devices of a federation fail by chance"
    );
    let (rows, checksum) = if learns_alone {
        ensure!(
            args.clients.target.is_none() && args.out.is_none(),
            "the method has no server and no boards: leave out --out and --clients"
        );
        let parties = match args.method {
            Method::Central => vec![parties.concat()],
            _ => parties.clone(),
        };
        let bar = output::bar(args.rounds.into(), "rounds");
        let mut rows = Vec::new();
        let course = Course { offer, rounds: args.rounds, seed: args.run_seed };
        alone(&model, &parties, &samples, &test, &course, |round, accuracy| {
            rows.push(Row { round, accuracy: Some(accuracy), ..Row::default() });
            bar.set_message(format!("{:.2} %", 100.0 * accuracy));
            bar.inc(1);
        })?;
        bar.finish_and_clear();
        (rows, 0)
    } else {
        let settings = Settings {
            offer,
            sampled: args.sampled.unwrap_or(parties.len()).min(parties.len()),
            minimum: args.minimum,
            deadline_seconds: args.deadline,
            aggregation: args.aggregation,
            seed: args.run_seed,
        };
        let mut server = Server::open(&model, settings, args.out.as_deref())?;
        match &args.clients.target {
            None => {
                ensure!(
                    args.port.is_empty(),
                    "simulated devices have no --port: name the board with --clients"
                );
                let folder = args.out.as_ref().map(|out| out.join("devices"));
                let mut fleet =
                    Simulation::new(&model, &samples, &parties, args.run_seed, folder.as_deref())?
                        .with_failures(failures);
                if args.method == Method::Moon {
                    let Learning { contrast_weight: weight, temperature, .. } = args.learning;
                    fleet = fleet.with_moon(Moon { weight, temperature });
                }
                rounds(args, &mut server, &fleet, &model, &test)?;
            }
            Some(name) => {
                ensure!(args.method != Method::Moon, "boards have no memory for two more models");
                let target = Target::find(name)?;
                let Target::Board(board) = &target else {
                    anyhow::bail!("devices on this computer are called sim, not {name}")
                };
                let (seed, epochs) = (args.run_seed, offer.epochs);
                let fleet = match &args.out {
                    Some(out) if !args.port.is_empty() => {
                        let connect = |port: &String| Device::connect(board, port, &model);
                        let devices = args.port.iter().map(connect).collect::<Result<_, _>>()?;
                        let server = &mut server;
                        Boards::reached(devices, server, out, &samples, &parties, seed, epochs)?
                    }
                    _ => {
                        // A real board needs a port.
                        let target = target.clone().at(None)?;
                        ensure!(
                            server.round() == 0,
                            "emulated boards forget what they learned when they end: give another --out"
                        );
                        let firmware = output::firmware(&target)?;
                        let firmware = firmware.context("the board has no firmware")?;
                        let what = format!("starting {} boards", parties.len());
                        output::spin(&what, |_| {
                            Boards::start(
                                board, &firmware, &model, &samples, &parties, seed, epochs,
                            )
                        })?
                    }
                };
                rounds(args, &mut server, &fleet, &model, &test)?;
            }
        }
        (server.rows().to_vec(), server.global().checksum())
    };
    if let Some(out) = &args.out {
        let title = format!("Federation: {} on {}", args.model.display(), data.name);
        let page = history_page(&title, before, &rows)?;
        let path = out.join("report.html");
        std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    let report = Report {
        method: args.method,
        devices: parties.len(),
        tunable_weights: plan.weight_count(),
        accuracy_before: before,
        totals: Totals::new(&rows),
        checksum,
        history: &rows,
    };
    match format {
        Format::Json => output::print_json(&report),
        Format::Table => print(&report),
    }
}

/// Runs the rounds that are left, until Ctrl-C.
fn rounds(
    args: &FederateArgs,
    server: &mut Server<'_>,
    fleet: &dyn Fleet,
    model: &Model<'_>,
    test: &Samples,
) -> Result<()> {
    ensure!(args.test_every > 0, "--test-every must be above 0");
    let stop = output::stop_on_ctrl_c()?;
    let bar = output::bar(args.rounds.into(), "rounds");
    bar.set_position(server.round().into());
    bar.reset_eta();
    while server.round() < args.rounds && !stop.load(Ordering::Relaxed) {
        let row = server.run_round(fleet, &|round, global| {
            let due = round % args.test_every == 0 || round == args.rounds;
            due.then(|| accuracy(model, &global.parameters(), test)).transpose()
        })?;
        if let Some(accuracy) = row.accuracy {
            bar.set_message(format!("{:.2} %", 100.0 * accuracy));
        }
        for failed in &row.dropped {
            let text = format!("round {}: device {}: {}", row.round, failed.client, failed.reason);
            output::line(&bar, &text);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(report: &Report<'_>) -> Result<()> {
    let header = ["round", "accuracy", "loss", "updates", "norm", "bytes up", "bytes down"];
    let mut table = output::table(header);
    let share = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", 100.0 * share))
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    for row in report.history {
        table.add_row([
            row.round.to_string(),
            share(row.accuracy),
            number(row.loss),
            format!("{}/{}", row.finished, row.offered),
            number(row.norm),
            row.bytes_up.to_string(),
            row.bytes_down.to_string(),
        ]);
    }
    output::print_table(&table)?;
    output::print(&format!(
        "accuracy {} before, {} after {} rounds; {} devices, {} weights; {} bytes up, {} bytes down",
        share(Some(report.accuracy_before)),
        share(report.totals.accuracy),
        report.totals.rounds,
        report.devices,
        report.tunable_weights,
        report.totals.bytes_up,
        report.totals.bytes_down
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_with_their_number() {
        let sim = Clients { target: None, count: Some(30) };
        assert_eq!("sim:30".parse(), Ok(sim));
        let boards = Clients { target: Some("qemu-cortex-m4".into()), count: None };
        assert_eq!("qemu-cortex-m4".parse(), Ok(boards));
        for text in ["sim:0", "sim:x", ":3"] {
            assert!(text.parse::<Clients>().is_err(), "{text}");
        }
    }
}
