//! `niwaki experiment multiparty`: ways in which parties learn one network together, compared.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use niwaki::data::{LoadOptions, load};
use niwaki::experiment::{
    Bench, DENSE, PartiesSummary, Row, Store, Trial, read_rows, summarise_parties,
    write_parties_page,
};
use niwaki::federate::parties;
use niwaki::net::{self, DataInfo};
use niwaki::sparse::multiparty::{Multiparty, Way, multiparty};
use niwaki::sparse::{self, Config, Flow, Method};
use niwaki::target::cost::Core;
use serde::Serialize;

use crate::experiment::{Series, command, commit, conclude, run_one_by_one};
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
    /// Core that models are exported for and instructions predicted for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
    #[command(flatten)]
    series: Series,
    #[command(flatten)]
    load: LoadOptions,
}

#[derive(Serialize)]
struct Report {
    folder: PathBuf,
    finished: usize,
    trials: usize,
    ways: Vec<PartiesSummary>,
}

/// All variants: the ways, and federated averaging of all weights.
fn variants() -> Vec<String> {
    let ways = Way::value_variants().iter().filter_map(Way::to_possible_value);
    let ways = ways.map(|way| way.get_name().to_owned());
    ways.chain([DENSE.to_owned()]).collect()
}

fn way(variant: &str) -> Result<Way> {
    let name = if variant == DENSE { "fedavg" } else { variant };
    let way: Result<Way, String> = Way::from_str(name, false);
    way.map_err(|_| {
        anyhow::anyhow!("there is no way `{variant}`: there are {}", variants().join(", "))
    })
}

impl MultipartyArgs {
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
    let device = sparse::device(&args.series.device)?;
    let data = load(&args.data, &args.load)?;
    let net = net::describe(&args.net)?.for_data(data.shape, data.classes())?;
    let ways = if args.ways.is_empty() { variants() } else { args.ways.clone() };
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
    for seed in 1..=args.series.seeds {
        for way in &ways {
            self::way(way)?;
            let config = config(way, seed);
            config.check()?;
            if config.density < 1.0 {
                config.check_density(&net::Graph::new(&net)?)?;
            }
            trials.push(Trial { variant: way.clone(), density: config.density, seed });
        }
    }
    let info = DataInfo::new(&args.data, &args.load, &data);
    let bench = Bench {
        net: net.clone(),
        data: &data,
        info: info.clone(),
        device: device.clone(),
        runs: args.series.runs(),
        target: args.target,
        commit: commit(&args.series.out),
    };
    let count = args.parties.or_else(|| data.groups.is_none().then_some(10));
    let mut outcome = None;
    if !args.series.summarise {
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
        let mut store = Store::open(&args.series.out, &settings)?;
        let stop = output::stop_on_ctrl_c()?;
        let open = trials.iter().filter(|trial| !store.holds(trial)).count();
        let bar = output::bar((open * args.rounds) as u64, "rounds");
        // One at a time: parties learn at the same time.
        let work = |trial: &Trial,
                    _: &mut dyn FnMut(sparse::Event<'_>) -> Flow|
         -> Result<Option<Row>> {
            let config = config(&trial.variant, trial.seed);
            let settings = args.settings(way(&trial.variant)?);
            let parties = parties::divide(&data, count, args.alpha, trial.seed)?;
            let run = bench.runs.join(trial.name());
            let file = bench.run_file(&config)?;
            let done =
                multiparty(&run, &file, &data, &parties, &config, &settings, &device, &mut |_| {
                    bar.inc(1);
                    output::flow(&stop)
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
        outcome = Some(run_one_by_one(&trials, &mut store, &bar, &stop, &work)?);
    }
    let mut rows: Vec<Row> = read_rows(&args.series.out)?;
    rows.retain(|row| trials.contains(&row.trial));
    ensure!(!rows.is_empty(), "nothing is finished in {}", args.series.out.display());
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
    write_parties_page(&args.series.out, &title, &command(), &about, &rows, &summaries)?;
    let report = Report {
        folder: args.series.out.clone(),
        finished: rows.len(),
        trials: trials.len(),
        ways: summaries,
    };
    print(&report, format)?;
    conclude(outcome, trials.len(), "runs")
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
