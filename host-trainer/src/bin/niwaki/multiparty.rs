//! `niwaki experiment multiparty`: ways in which parties learn one network together, compared.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Result, bail, ensure};
use clap::Args;
use niwaki::data::{LoadOptions, load};
use niwaki::experiment::{
    self, Bench, Event, Outcome, PartiesSummary, Row, Store, Trial, read_rows, summarise_parties,
    write_parties_page,
};
use niwaki::federate::parties;
use niwaki::net::{self, DataInfo, RunFile};
use niwaki::sparse::multiparty::{Multiparty, Way, multiparty};
use niwaki::sparse::{self, Config, Flow, Method};
use niwaki::target::cost::Core;
use serde::Serialize;

use crate::experiment::{command, commit};
use crate::output::{self, Format};

/// Arguments of `niwaki experiment multiparty`.
#[derive(Debug, Args)]
#[command(after_help = "\
Parties have samples that they do not show, divided by groups such as speakers, or class by class by proportions
from a Dirichlet distribution. They learn one network together: `personal`, the method, each in a sparse part of
it that is its own, with contrastive distillation between its model and the global one; the controls on one
random mask that all share (`fedavg`, `fedprox`, `moon`), alone (`local`), and with all weights (`fedavg-dense`).
All have the same epochs, and messages of the same format, whose bytes are counted.

This is learning of whole networks on computers. For microcontrollers, which tune the last layers of a
model, see `niwaki federate`.

Every run is one line of rows.jsonl in --out and never repeated. README.md has the table, global.svg the accuracy over
bytes, personal.svg that of the parties' own models; the networks are in --runs, for `niwaki export`.

Examples:
  niwaki experiment multiparty --parties 8 --rounds 20 --out docs/results/multiparty-digits
  niwaki experiment multiparty --data fashion-mnist --net lenet --parties 10 --alpha 0.3 --train-limit 6000 \\
      --rounds 20 --seeds 3 --out docs/results/multiparty-fashion-mnist")]
pub(crate) struct MultipartyArgs {
    /// Data set: digits, fashion-mnist, mnist, or a path
    #[arg(long, default_value = "digits")]
    data: String,
    /// Network: a preset, optionally with its width, or a .toml file
    #[arg(long, value_name = "PRESET[:width=W]|FILE.toml", default_value = "lenet")]
    net: String,
    /// Share of all weights that each party, and the global network, keeps
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    density: f64,
    /// Ways to compare [default: all]
    #[arg(long, value_name = "WAY,...", value_delimiter = ',')]
    ways: Vec<String>,
    /// Parties [default: one for each group of training samples, or 10]
    #[arg(long, value_name = "N")]
    parties: Option<usize>,
    /// Without groups: concentration of the Dirichlet distribution that divides each class among the parties
    #[arg(long, default_value_t = 0.5, value_name = "ALPHA")]
    alpha: f64,
    /// Rounds
    #[arg(long, default_value_t = 20, value_name = "N")]
    rounds: usize,
    /// Passes over a party's samples in a round
    #[arg(long, default_value_t = 2, value_name = "N")]
    epochs: usize,
    /// Samples per step
    #[arg(long, default_value_t = 16, value_name = "N")]
    batch: usize,
    /// Learning rate
    #[arg(long, default_value_t = 0.02, value_name = "RATE")]
    lr: f64,
    /// Weight of the contrastive loss (personal, moon)
    #[arg(long, default_value_t = 0.5, value_name = "WEIGHT")]
    contrast: f64,
    /// Its temperature
    #[arg(long, default_value_t = 0.5, value_name = "T")]
    temperature: f64,
    /// Weight of the pull towards the global weights (fedprox)
    #[arg(long, default_value_t = 0.01, value_name = "WEIGHT")]
    proximal: f64,
    /// Share of its weights that a party moves in the first round (personal)
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    adjust: f64,
    /// Share of a party's samples that it does not learn from: its own test
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    own_test: f64,
    /// Number of seeds: every way is run with the seeds 1 to N
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..1000))]
    seeds: u64,
    /// Folder for rows, table and charts
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Folder for the runs themselves [default: runs/ and the name of --out]
    #[arg(long, value_name = "FOLDER")]
    runs: Option<PathBuf>,
    /// Core that models are exported for and instructions predicted for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
    /// Device to train on: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Run nothing: only write table and charts of what is finished
    #[arg(long)]
    summarise: bool,
    #[command(flatten)]
    load: LoadOptions,
}

/// The way of federated averaging of all weights.
const DENSE: &str = "fedavg-dense";

#[derive(Serialize)]
struct Report {
    folder: PathBuf,
    finished: usize,
    trials: usize,
    ways: Vec<PartiesSummary>,
}

impl MultipartyArgs {
    fn way(&self, variant: &str) -> Result<Way> {
        let name = if variant == DENSE { "fedavg" } else { variant };
        let way: Result<Way, String> = clap::ValueEnum::from_str(name, false);
        way.map_err(|_| {
            anyhow::anyhow!(
                "there is no way `{variant}`: there are personal, fedavg, fedprox, moon, local, {DENSE}"
            )
        })
    }

    fn settings(&self, way: Way) -> Multiparty {
        Multiparty {
            way,
            rounds: self.rounds,
            contrast: self.contrast,
            temperature: self.temperature,
            proximal: self.proximal,
            adjust: self.adjust,
            own_test: self.own_test,
        }
    }

    fn check(&self) -> Result<()> {
        for (name, share) in [("adjust", self.adjust), ("own-test", self.own_test)] {
            ensure!((0.0..1.0).contains(&share), "--{name}: expected a share, found {share}");
        }
        ensure!(self.temperature > 0.0, "--temperature must be above 0");
        ensure!(
            self.rounds > 0 && self.epochs > 0,
            "there is nothing to learn in 0 rounds or epochs"
        );
        Ok(())
    }
}

/// Runs `niwaki experiment multiparty`.
pub(crate) fn run(args: &MultipartyArgs, format: Format) -> Result<()> {
    args.check()?;
    let device = sparse::device(&args.device)?;
    let data = load(&args.data, &args.load)?;
    let net = net::describe(&args.net)?.for_data(data.shape, data.classes())?;
    let all = ["personal", "fedavg", "fedprox", "moon", "local", DENSE];
    let ways = match args.ways.is_empty() {
        true => all.map(str::to_owned).to_vec(),
        false => args.ways.clone(),
    };
    let config = |variant: &str, seed: u64| Config {
        method: Method::Static,
        density: if variant == DENSE { 1.0 } else { args.density },
        epochs: args.epochs,
        qat_epochs: 0,
        batch: args.batch,
        learning_rate: args.lr,
        seed,
        ..Config::default()
    };
    let mut trials = Vec::new();
    for seed in 1..=args.seeds {
        for way in &ways {
            args.way(way)?;
            let config = config(way, seed);
            config.check()?;
            if config.density < 1.0 {
                config.check_density(&net::Graph::new(&net)?)?;
            }
            trials.push(Trial { variant: way.clone(), density: config.density, seed });
        }
    }
    let name = args.out.file_name().map_or_else(|| "multiparty".into(), PathBuf::from);
    let info = DataInfo::new(&args.data, &args.load, &data);
    let bench = Bench {
        net: net.clone(),
        data: &data,
        info: info.clone(),
        device: device.clone(),
        runs: args.runs.clone().unwrap_or_else(|| Path::new("runs").join(name)),
        target: args.target,
        commit: commit(&args.out),
    };
    let count = args.parties.or_else(|| data.groups.is_none().then_some(10));
    let mut outcome = None;
    if !args.summarise {
        let settings = serde_json::json!({
            "data": info.spec,
            "data_options": info.options,
            "net": args.net,
            "target": args.target,
            "parties": args.parties,
            "alpha": args.alpha,
            "epochs": args.epochs,
            "batch": args.batch,
            "learning_rate": args.lr,
            "settings": args.settings(Way::Personal),
        });
        let mut store = Store::open(&args.out, &settings)?;
        let stop = output::stop_on_ctrl_c()?;
        let open = trials.iter().filter(|trial| !store.holds(trial)).count();
        let bar = output::bar((open * args.rounds) as u64, "rounds");
        // One at a time: parties learn at the same time.
        let work = |trial: &Trial,
                    _: &mut dyn FnMut(sparse::Event<'_>) -> Flow|
         -> Result<Option<Row>> {
            let config = config(&trial.variant, trial.seed);
            let settings = args.settings(args.way(&trial.variant)?);
            let parties = parties::divide(&data, count, args.alpha, trial.seed)?;
            let run = bench.runs.join(trial.name());
            let file = RunFile {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                net: net.clone(),
                data: info.clone(),
                config: serde_json::to_value(&config)?,
                summary: None,
            };
            let done =
                multiparty(&run, &file, &data, &parties, &config, &settings, &device, &mut |_| {
                    bar.inc(1);
                    if stop.load(Ordering::Relaxed) { Flow::Stop } else { Flow::Continue }
                })?;
            let Some((rounds, summary)) = done else { return Ok(None) };
            let row = bench.row(trial, &run, &summary)?;
            let last = rounds.last().and_then(|round| round.accuracy);
            Ok(Some(Row {
                // Of parties that learn alone there is no network that all have.
                float: last.unwrap_or(row.float),
                int8: if settings.way == Way::Local { last.unwrap_or(row.int8) } else { row.int8 },
                details: serde_json::json!({ "parties": parties.len(), "rounds": rounds }),
                ..row
            }))
        };
        let ran = experiment::run(&trials, &mut store, 1, &work, &|trial, event| {
            let text = match event {
                Event::Finish(row) => Some(format!(
                    "{}: {:.2} %, {:.0} s",
                    trial.name(),
                    100.0 * row.float,
                    row.seconds
                )),
                Event::Failure(error) => Some(format!("error: {}: {error:#}", trial.name())),
                _ => None,
            };
            match text {
                Some(text) if bar.is_hidden() => eprintln!("{text}"),
                Some(text) => bar.println(text),
                None => {}
            }
            if stop.load(Ordering::Relaxed) { Flow::Stop } else { Flow::Continue }
        })?;
        bar.finish_and_clear();
        outcome = Some(ran);
    }
    let mut rows: Vec<Row> = read_rows(&args.out)?;
    rows.retain(|row| trials.contains(&row.trial));
    ensure!(!rows.is_empty(), "nothing is finished in {}", args.out.display());
    // In the order of the command, whatever was finished first.
    rows.sort_by_key(|row| ways.iter().position(|way| *way == row.trial.variant));
    let summaries = summarise_parties(&rows)?;
    let title = format!("Learning together: {} on {}", net.name, data.name);
    let about = format!(
        "{} parties{}, {} rounds of {} epochs in batches of {}, learning rate {}; contrastive loss {} at temperature \
         {}, {} of the weights move in the first round; each party keeps {} of its samples to itself.",
        rows[0].details["parties"],
        match data.groups {
            Some(_) => String::new(),
            None => format!(" (Dirichlet distribution, alpha {})", args.alpha),
        },
        args.rounds,
        args.epochs,
        args.batch,
        args.lr,
        args.contrast,
        args.temperature,
        args.adjust,
        args.own_test,
    );
    write_parties_page(&args.out, &title, &command(), &about, &rows, &summaries)?;
    let report = Report {
        folder: args.out.clone(),
        finished: rows.len(),
        trials: trials.len(),
        ways: summaries,
    };
    print(&report, format)?;
    match outcome {
        Some(Outcome { left: 1.., finished, .. }) => {
            bail!("stopped after {finished} of {} runs; the same command continues", trials.len())
        }
        Some(Outcome { failed: failed @ 1.., .. }) => {
            bail!("{failed} runs failed, see above; the same command tries them again")
        }
        _ => Ok(()),
    }
}

fn print(report: &Report, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(report);
    }
    let mut table =
        output::table(["way", "seeds", "global, %", "own samples, %", "KiB up", "KiB down"]);
    for way in &report.ways {
        table.add_row([
            way.variant.clone(),
            way.global.n.to_string(),
            way.global.text(100.0, 2),
            way.personal.text(100.0, 2),
            format!("{:.1}", way.bytes_up.mean / 1024.0),
            format!("{:.1}", way.bytes_down.mean / 1024.0),
        ]);
    }
    output::print_table(&table)?;
    output::print(&format!("page: {}", report.folder.join("README.md").display()))
}
