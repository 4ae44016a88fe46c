//! `niwaki experiment federated`: ways of learning together, compared.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use niwaki::data::{LoadOptions, load};
use niwaki::experiment::{
    self, Contest, Standing, Store, read_rows, standings, write_federated_page,
};
use niwaki::export::{self, hexadecimal};
use niwaki::federate::{Aggregation, Learning};
use niwaki::sparse::Flow;
use niwaki_core::Model;
use serde::Serialize;

use crate::experiment::{command, commit, conclude, run_one_by_one};
use crate::output::{self, Format};

/// Arguments of `niwaki experiment federated`.
#[derive(Debug, Args)]
#[command(after_help = "\
Compared are contrastive distillation (the method), federated averaging on the same fixed sparse mask, FedProx,
MOON, every device alone (mean over the devices), all data in one place, and, with --dense, federated averaging
of all weights. All begin with the models as given, learn as many epochs, and are measured on the test split:
train the models on little or other data, or there is nothing left to learn.

Every method with every seed is one line of rows.jsonl in --out and is never run twice. In the end README.md has
the table, rounds.svg and bytes.svg the accuracy over rounds and over the bytes that devices sent.

Examples:
  niwaki experiment federated --model sparse.niwaki --dense dense.niwaki --data wisdm.csv --group user \\
      --split-by group --rounds 30 --seeds 3 --out docs/results/federated-wisdm")]
pub(crate) struct FederatedArgs {
    /// The sparse model, as `niwaki export --tunable` wrote it
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// The same network with all weights, for the dense control
    #[arg(long, value_name = "MODEL")]
    dense: Option<PathBuf>,
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(long, default_value = "digits")]
    data: String,
    /// Devices [default: one for each group of training samples]
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Devices that are asked in a round [default: all]
    #[arg(long, value_name = "N")]
    sampled: Option<usize>,
    /// Rounds
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Number of seeds: every method is run with the seeds 1 to N
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1000))]
    seeds: u64,
    /// Methods to compare [default: all]
    #[arg(long, value_name = "METHOD,...", value_delimiter = ',')]
    methods: Vec<String>,
    /// Measure the accuracy every N rounds, and after the last
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    test_every: u32,
    /// How updates become one: fedavg, trimmed-mean[:SHARE], norm-bound[:NORM]
    #[arg(long, default_value_t = Aggregation::FedAvg, value_name = "RULE")]
    aggregation: Aggregation,
    /// Most samples that a device may count in an epoch
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    max_samples: u32,
    /// Without groups: concentration of the Dirichlet distribution that divides each class among devices
    #[arg(long, default_value_t = 0.5, value_name = "ALPHA")]
    alpha: f64,
    /// Mark this many layers of the models as tunable first, whatever they say
    #[arg(long, value_name = "LAYERS")]
    tunable: Option<usize>,
    /// Folder for rows, table and charts
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Run nothing: only write table and charts of what is finished
    #[arg(long)]
    summarise: bool,
    #[command(flatten)]
    learning: Learning,
    #[command(flatten)]
    options: LoadOptions,
}

#[derive(Serialize)]
struct Report {
    finished: usize,
    trials: usize,
    standings: Vec<Standing>,
}

/// Runs `niwaki experiment federated`.
pub(crate) fn run(args: &FederatedArgs, format: Format) -> Result<()> {
    let read = |path: &PathBuf| export::read_tunable(path, args.tunable);
    let sparse_blob = read(&args.model)?;
    let dense_blob = args.dense.as_ref().map(read).transpose()?;
    let sparse = Model::new(sparse_blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let dense = match &dense_blob {
        None => None,
        Some(blob) => Some(Model::new(blob.as_bytes()).context("the dense model is refused")?),
    };
    let data = load(&args.data, &args.options.for_model(&sparse))?;
    let contest = Contest {
        sparse,
        dense,
        data: &data,
        clients: args.clients,
        alpha: args.alpha,
        sampled: args.sampled,
        rounds: args.rounds,
        test_every: args.test_every,
        aggregation: args.aggregation,
        learning: args.learning,
        max_samples: args.max_samples,
        commit: commit(&args.out),
    };
    let variants = contest.variants();
    if let Some(unknown) = args.methods.iter().find(|name| !variants.contains(&name.as_str())) {
        bail!("there is no method `{unknown}` here: there are {}", variants.join(", "));
    }
    let mut trials = contest.trials(args.seeds);
    trials.retain(|trial| args.methods.is_empty() || args.methods.contains(&trial.variant));
    let mut outcome = None;
    if !args.summarise {
        let settings = serde_json::json!({
            "model": hexadecimal(&sparse.id()),
            "dense": dense.map(|model| hexadecimal(&model.id())),
            "data": args.data,
            "data_options": args.options,
            "clients": args.clients,
            "sampled": args.sampled,
            "rounds": args.rounds,
            "test_every": args.test_every,
            "aggregation": args.aggregation.to_string(),
            "max_samples": args.max_samples,
            "alpha": args.alpha,
            "learning": args.learning,
        });
        // As it is read back: numbers have their shortest text.
        let settings = serde_json::from_str(&settings.to_string())?;
        let mut store = Store::open(&args.out, &settings)?;
        let stop = output::stop_on_ctrl_c()?;
        let bar = output::bar(trials.len() as u64, "runs");
        bar.set_position(trials.iter().filter(|trial| store.holds(trial)).count() as u64);
        bar.reset_eta();
        // One at a time: a federation keeps all cores busy by itself.
        let work = |trial: &experiment::Trial,
                    _: &mut dyn FnMut(niwaki::sparse::Event<'_>) -> Flow| {
            let row = contest.run(trial)?;
            bar.inc(1);
            Ok(Some(row))
        };
        outcome = Some(run_one_by_one(&trials, &mut store, &bar, &stop, &work)?);
    }
    let mut rows: Vec<niwaki::experiment::Row> = read_rows(&args.out)?;
    rows.retain(|row| trials.contains(&row.trial));
    ensure!(!rows.is_empty(), "nothing is finished in {}", args.out.display());
    let standings = standings(&rows)?;
    let title = format!("Federated learning on {}", data.name);
    let devices = rows[0].details["devices"].as_u64().unwrap_or(0);
    let about = format!(
        "{devices} devices, {} of them asked in each of {} rounds, {} epochs per round in batches of {}, learning \
         rate {}, momentum {}, aggregation {}.",
        args.sampled.map_or_else(|| "all".to_owned(), |count| count.to_string()),
        args.rounds,
        args.learning.epochs,
        args.learning.batch,
        args.learning.learning_rate,
        args.learning.momentum,
        args.aggregation,
    );
    write_federated_page(&args.out, &title, &command(), &about, &standings)?;
    print(&Report { finished: rows.len(), trials: trials.len(), standings }, format)?;
    conclude(outcome, trials.len(), "runs")
}

fn print(report: &Report, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(report);
    }
    let mut table =
        output::table(["method", "seeds", "last accuracy", "best", "KiB up", "KiB up to dense"]);
    for standing in &report.standings {
        let to_dense = standing.bytes_up_to_dense;
        table.add_row([
            standing.variant.clone(),
            standing.last.n.to_string(),
            standing.last.text(100.0, 2),
            standing.best.text(100.0, 2),
            standing.bytes_up.text(1.0 / 1024.0, 2),
            to_dense.map_or_else(|| "-".to_owned(), |bytes| bytes.text(1.0 / 1024.0, 2)),
        ]);
    }
    output::print_table(&table)
}
