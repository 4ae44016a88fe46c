//! `niwaki experiment`: many trainings that differ in one thing, and their comparison.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use niwaki::{
    data::{Dataset, LoadOptions, Split, load},
    experiment::{
        self, Bench, Event, Impossible, Outcome, Page, Store, Summary, Teachers, Trial, Variant,
        as_stored, read_rows, summarise, write_page,
    },
    net::{self, DataInfo, Graph, spec::Task},
    sparse::{
        self, Config, Flow, Method,
        layerwise::{Chooser, Layerwise},
        method::METHODS,
    },
    target::cost::Core,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    layerwise::Options,
    output::{self, Format},
    search::{ArchExperimentArgs, SearchExperimentArgs},
    train::{Pruning, Recipe, figure, methods_help},
};

/// Arguments of `niwaki experiment`.
#[derive(Debug, Args)]
pub(crate) struct ExperimentArgs {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// Compare methods of sparse training with the same network, data, epochs and seeds
    Methods(MethodsArgs),
    /// Compare the layer-wise search with uniform criteria and with chance, at the same cost
    Criteria(CriteriaArgs),
    /// Compare ways of finding sparse candidates at the same number of true evaluations
    Search(SearchExperimentArgs),
    /// Compare architecture search in two stages with that in a single one, at equal epochs and time
    Arch(ArchExperimentArgs),
    /// Compare networks that are trained in the same way
    Networks(NetworksArgs),
    /// Compare ways in which devices learn together, and apart, over rounds and over bytes
    Federated(crate::federated::FederatedArgs),
    /// Compare ways in which parties learn one network together, each in a part of its own or all in the same
    Multiparty(crate::multiparty::MultipartyArgs),
}

/// Arguments of `niwaki experiment criteria`.
#[derive(Debug, Args)]
#[command(after_help = "\
The search may choose another criterion, structure and density in each layer. Its controls have the same
criterion and structure everywhere, for all combinations of the lists, or strategies by chance. All have the
same dense teacher per seed, the same epochs in total and, by the cost model of the target, the same
instructions: those of a network whose single weights have the density asked for.

Finished trainings are never repeated; see `niwaki experiment methods --help`.

Examples:
  niwaki experiment criteria --epochs 24 --out docs/results/criteria-digits
  niwaki experiment criteria --data fashion-mnist --density 0.1 --seeds 3 --epochs 24 --train-limit 20000 \\
      --criteria l1,geometric-median,taylor --structures unstructured,block4,channels \\
      --out docs/results/criteria-fashion-mnist")]
struct CriteriaArgs {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `niwaki experiment methods`.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
struct MethodsArgs {
    /// Methods to compare, each with its settings if any [default: all]
    #[arg(long, value_name = "all|METHOD,...", default_value = "all", hide_default_value = true)]
    methods: String,
    #[command(flatten)]
    pruning: Pruning,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `niwaki experiment networks`.
#[derive(Debug, Args)]
#[command(after_help = "\
--net takes a list here. Networks from files are compared with the best of those that are presets. Finished
trainings are never repeated, and more networks are added to what is there; see `niwaki experiment methods --help`.

Examples:
  niwaki experiment networks --net lenet,mlp --epochs 10 --out docs/results/networks-digits
  niwaki study export runs/scenes --pick best-accuracy -o scenes.niwaki --net scenes.toml
  niwaki experiment networks --data scenes/ --net scenes.toml,mobilenet-v1:width=0.25,resnet8 --epochs 30 \\
      --out docs/results/networks-scenes")]
struct NetworksArgs {
    /// How every network is trained, for each density: a method with its settings if any
    #[arg(long, value_name = "METHOD[:SETTING=VALUE,...]", default_value = "dense")]
    method: Method,
    #[command(flatten)]
    pruning: Pruning,
    #[command(flatten)]
    common: Common,
}

/// How often an experiment is repeated, and where.
#[derive(Debug, Args)]
pub(crate) struct Series {
    /// Number of seeds: everything is repeated with the seeds 1 to N
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..1000))]
    pub(crate) seeds: u64,
    /// Folder for rows, tables and plots
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Folder for the runs or studies themselves [default: runs/ and the name of --out]
    #[arg(long, value_name = "FOLDER")]
    runs: Option<PathBuf>,
    /// Device to train on: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Run nothing: only write tables and plots of what is finished
    #[arg(long)]
    pub(crate) summarise: bool,
}

impl Series {
    /// Folder for the runs.
    pub(crate) fn runs(&self) -> PathBuf {
        let name = || self.out.file_name().unwrap_or("experiment".as_ref());
        self.runs.clone().unwrap_or_else(|| Path::new("runs").join(name()))
    }
}

/// What all experiments of trainings have in common.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Data set: digits, fashion-mnist, mnist, or a path
    #[arg(long, default_value = "digits")]
    pub(crate) data: String,
    /// Network: a preset, optionally with its width, or a .toml file; for `networks` a list
    #[arg(long, value_name = "PRESET[:width=W]|FILE.toml", default_value = "lenet")]
    pub(crate) net: String,
    /// Densities: shares of all weights that are nonzero in the end
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', default_value = "0.1")]
    pub(crate) density: Vec<f64>,
    /// Trainings at the same time; changes no result [default: one per processor core]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Core that models are exported for and instructions predicted for
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    pub(crate) target: Core,
    #[command(flatten)]
    pub(crate) series: Series,
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
}

fn after_help() -> String {
    let methods = methods_help();
    format!(
        "Every training that is finished is one line of rows.jsonl in --out. The same command, started again
after Ctrl-C or a crash, repeats none of them and continues those that had begun; more methods,
densities or seeds are added to what is there. In the end README.md has the tables and accuracy.svg the
plot. `dense` is trained once per seed.

Methods (--methods):
{methods}
Examples:
  niwaki experiment methods --density 0.2,0.1 --epochs 10 --out docs/results/methods-digits
  niwaki experiment methods --data fashion-mnist --methods static,gmp,decoupled,decoupled:distil=0 \\
      --density 0.1,0.05,0.02 --epochs 10 --train-limit 20000 --out docs/results/distillation"
    )
}

/// Runs `niwaki experiment`.
pub(crate) fn run(args: &ExperimentArgs, format: Format) -> Result<()> {
    match &args.experiment {
        Experiment::Methods(args) => methods(args, format),
        Experiment::Criteria(args) => criteria(args, format),
        Experiment::Search(args) => crate::search::experiment(args, format),
        Experiment::Arch(args) => crate::search::arch_experiment(args, format),
        Experiment::Networks(args) => networks(args, format),
        Experiment::Federated(args) => crate::federated::run(args, format),
        Experiment::Multiparty(args) => crate::multiparty::run(args, format),
    }
}

/// Reads a list of methods: a piece without a method's name belongs to the settings before it.
fn parse_methods(text: &str) -> Result<Vec<Method>> {
    if text == "all" {
        return METHODS.iter().map(|(name, _)| name.parse()).collect();
    }
    let mut texts: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match texts.last_mut() {
            Some(last) if piece.contains('=') && !piece.contains(':') => {
                last.push(',');
                last.push_str(piece);
            }
            _ => texts.push(piece.to_owned()),
        }
    }
    let mut methods: Vec<Method> = Vec::new();
    for text in texts {
        let method = text.parse()?;
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    Ok(methods)
}

fn methods(args: &MethodsArgs, format: Format) -> Result<()> {
    let common = &args.common;
    let methods = parse_methods(&args.methods)?;
    let prepared = Prepared::new(common)?.pruned(&args.pruning);
    let config = |method: &Method, density: f64, seed: u64| -> Config {
        let base = prepared.config.clone();
        Config { method: method.clone(), density, seed, ..base }.fitted()
    };
    let mut trials = Vec::new();
    let mut configs: HashMap<String, Config> = HashMap::new();
    let mut impossible = Vec::new();
    for seed in 1..=common.series.seeds {
        for &density in &common.density {
            for method in &methods {
                let density = if *method == Method::Dense { 1.0 } else { density };
                let trial = Trial { variant: method.to_string(), density, seed };
                let config = config(method, density, seed);
                let possible = config.check().and_then(|()| config.check_density(&prepared.graph));
                configs.insert(trial.name(), config);
                plan_trial(trial, possible, &mut trials, &mut impossible);
            }
        }
    }
    if let (true, Some(first)) = (trials.is_empty(), impossible.first()) {
        bail!("no training is possible; {}: {}", first.variant, first.reason);
    }
    let variants: Vec<Variant> = methods
        .iter()
        .map(|method| Variant {
            name: method.to_string(),
            control: !matches!(method, Method::Dense | Method::Decoupled(_)),
        })
        .collect();
    let plan = Plan {
        title: format!(
            "Methods of sparse training: {} on {}",
            prepared.graph.name, prepared.data.name
        ),
        trials,
        impossible,
        variants,
        baseline: Some("static".to_owned()),
        shared_net: true,
        settings: Value::Null,
    };
    prepared.run(common, &plan, format, &|bench, trial, observe| {
        bench.train(trial, &configs[&trial.name()], observe)
    })
}

fn networks(args: &NetworksArgs, format: Format) -> Result<()> {
    let common = &args.common;
    let texts: Vec<&str> = common.net.split(',').collect();
    let prepared = Prepared::with_net(common, texts[0])?.pruned(&args.pruning);
    let mut nets: HashMap<String, net::NetSpec> = HashMap::new();
    let mut trials = Vec::new();
    let mut impossible = Vec::new();
    let mut variants: Vec<Variant> = Vec::new();
    for text in &texts {
        let spec = net::describe(text)?;
        let spec = spec.for_data(prepared.data.shape, prepared.data.classes())?;
        let graph = Graph::new(&spec)?;
        // Files that searches write have the same network name.
        let path = Path::new(text);
        let is_file = path.extension().is_some_and(|extension| extension == "toml");
        let stem = path.file_stem().filter(|_| is_file);
        let name = stem.map_or((*text).to_owned(), |stem| stem.to_string_lossy().into_owned());
        ensure!(nets.insert(name.clone(), spec).is_none(), "--net has two networks `{name}`");
        variants.push(Variant { name: name.clone(), control: !is_file });
        for seed in 1..=common.series.seeds {
            for &density in &common.density {
                let density = if args.method == Method::Dense { 1.0 } else { density };
                let trial = Trial { variant: name.clone(), density, seed };
                let config = networks_config(&prepared, args, &trial);
                config.check()?;
                let possible = config.check_density(&graph);
                plan_trial(trial, possible, &mut trials, &mut impossible);
            }
        }
    }
    let plan = Plan {
        title: format!("Networks on {}", prepared.data.name),
        trials,
        impossible,
        variants,
        baseline: None,
        shared_net: false,
        settings: serde_json::json!({ "method": args.method }),
    };
    for row in read_rows::<experiment::Row>(&common.series.out)? {
        let now = nets.get(&row.trial.variant).map(as_stored).transpose()?;
        ensure!(
            now.is_none_or(|net| row.details == net),
            "the rows in {} are of another network `{}`; give the file another name, or another --out",
            common.series.out.display(),
            row.trial.variant
        );
    }
    prepared.run(common, &plan, format, &|bench, trial, observe| {
        let bench = Bench { net: nets[&trial.variant].clone(), ..bench.clone() };
        let row = bench.train(trial, &networks_config(&prepared, args, trial), observe)?;
        let details = as_stored(&bench.net)?;
        Ok(row.map(|row| experiment::Row { details, ..row }))
    })
}

/// Adds a trial once, or says once why it is not possible.
fn plan_trial(
    trial: Trial,
    possible: Result<()>,
    trials: &mut Vec<Trial>,
    impossible: &mut Vec<Impossible>,
) {
    match possible {
        _ if trials.contains(&trial) => {}
        Ok(()) => trials.push(trial),
        Err(error) if trial.seed == 1 => {
            let Trial { variant, density, .. } = trial;
            impossible.push(Impossible { variant, density, reason: format!("{error:#}") });
        }
        Err(_) => {}
    }
}

fn networks_config(prepared: &Prepared, args: &NetworksArgs, trial: &Trial) -> Config {
    let (density, seed) = (trial.density, trial.seed);
    Config { method: args.method.clone(), density, seed, ..prepared.config.clone() }.fitted()
}

fn criteria(args: &CriteriaArgs, format: Format) -> Result<()> {
    let common = &args.common;
    let prepared = Prepared::new(common)?;
    let settings = |chooser: Chooser, density: f64, seed: u64| {
        let base = Config { seed, ..prepared.config.clone() };
        args.options.layerwise(chooser, base, density, common.target)
    };
    let search = settings(Chooser::Search, common.density[0], 1)?;
    let mut choosers = vec![Chooser::Search];
    choosers.extend(search.controls());
    let mut trials = Vec::new();
    let mut impossible = Vec::new();
    let mut all: HashMap<String, Layerwise> = HashMap::new();
    for seed in 1..=common.series.seeds {
        for &density in &common.density {
            let unstructured = Config { density, ..prepared.config.clone() };
            if let Err(error) = unstructured.check_density(&prepared.graph) {
                if seed == 1 {
                    let (variant, reason) = ("all".to_owned(), format!("{error:#}"));
                    impossible.push(Impossible { variant, density, reason });
                }
                continue;
            }
            for &chooser in &choosers {
                let trial = Trial { variant: chooser.to_string(), density, seed };
                all.insert(trial.name(), settings(chooser, density, seed)?);
                trials.push(trial);
            }
        }
    }
    let variant = |chooser: &Chooser| Variant {
        name: chooser.to_string(),
        control: *chooser != Chooser::Search,
    };
    let plan = Plan {
        title: format!(
            "Layer-wise search of criteria: {} on {}",
            prepared.graph.name, prepared.data.name
        ),
        trials,
        impossible,
        variants: choosers.iter().map(variant).collect(),
        baseline: Some(Chooser::Random.to_string()),
        shared_net: true,
        settings: serde_json::json!({
            "criteria": search.criteria,
            "structures": search.structures,
            "ratios": search.ratios,
            "cost_weight": search.cost_weight,
            "search_epochs": search.search_epochs,
            "retrain": search.training.method,
        }),
    };
    let teachers = Teachers::default();
    prepared.run(common, &plan, format, &|bench, trial, observe| {
        bench.layerwise(trial, &all[&trial.name()], &teachers, observe)
    })
}

/// What an experiment consists of.
pub(crate) struct Plan {
    pub(crate) title: String,
    pub(crate) trials: Vec<Trial>,
    pub(crate) impossible: Vec<Impossible>,
    pub(crate) variants: Vec<Variant>,
    pub(crate) baseline: Option<String>,
    /// Whether all trials are of the network that is a setting; else more can be added to the rows.
    pub(crate) shared_net: bool,
    /// Settings beyond those of every experiment; null when there are none.
    pub(crate) settings: Value,
}

/// Data, network and settings of an experiment, loaded and checked.
pub(crate) struct Prepared {
    pub(crate) data: Dataset,
    pub(crate) device: Device,
    pub(crate) net: net::NetSpec,
    pub(crate) graph: Graph,
    /// Settings of every training but method, density and seed.
    pub(crate) config: Config,
}

/// Does the work of a trial.
pub(crate) type Work<'a> = dyn Fn(
        &Bench<'_>,
        &Trial,
        &mut dyn FnMut(sparse::Event<'_>) -> Flow,
    ) -> Result<Option<experiment::Row>>
    + Sync
    + 'a;

impl Prepared {
    pub(crate) fn new(common: &Common) -> Result<Self> {
        Self::with_net(common, &common.net)
    }

    fn pruned(self, pruning: &Pruning) -> Self {
        Self { config: pruning.over(self.config), ..self }
    }

    fn with_net(common: &Common, net: &str) -> Result<Self> {
        let device = sparse::device(&common.series.device)?;
        let data = load(&common.data, &common.load)?;
        ensure!(
            !data.indices(Split::Test).is_empty(),
            "`{}` has no test split to compare on; see --test-fraction",
            data.name
        );
        let net = net::describe(net)?.for_data(data.shape, data.classes())?;
        let graph = Graph::new(&net)?;
        let config = common.recipe.for_data(&data, &device)?;
        Ok(Self { data, device, net, graph, config })
    }

    /// Runs what is left of an experiment and writes its page.
    pub(crate) fn run(
        &self,
        common: &Common,
        plan: &Plan,
        format: Format,
        work: &Work<'_>,
    ) -> Result<()> {
        let info = DataInfo::new(&common.data, &common.load, &self.data);
        let mut config = serde_json::to_value(&self.config)?;
        if let Value::Object(config) = &mut config {
            // These are what trials differ in.
            config.retain(|name, _| !["method", "density", "seed"].contains(&name.as_str()));
        }
        let mut settings = serde_json::json!({
            "data": info.spec,
            "data_options": info.options,
            "target": common.target,
            "config": config,
        });
        if plan.shared_net {
            settings["net"] = common.net.as_str().into();
        }
        if !plan.settings.is_null() {
            settings["experiment"] = plan.settings.clone();
        }
        let bench = Bench {
            net: self.net.clone(),
            data: &self.data,
            info,
            device: self.device.clone(),
            runs: common.series.runs(),
            target: common.target,
            commit: commit(&common.series.out),
        };
        let outcome = match common.series.summarise {
            true => None,
            false => {
                let mut store = Store::open(&common.series.out, &settings)?;
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let jobs = match (common.jobs, self.device == Device::flex()) {
                    (Some(0), _) => bail!("--jobs must not be 0"),
                    (Some(jobs), _) => jobs,
                    (None, true) => cores,
                    (None, false) => 1,
                };
                let open: Vec<&Trial> =
                    plan.trials.iter().filter(|trial| !store.holds(trial)).collect();
                let progress =
                    Progress::new(self, plan.trials.len(), open.len(), output::stop_on_ctrl_c()?)?;
                let work = |trial: &Trial, observe: &mut dyn FnMut(sparse::Event<'_>) -> Flow| {
                    work(&bench, trial, observe)
                };
                let outcome =
                    experiment::run(&plan.trials, &mut store, jobs, &work, &|trial, event| {
                        progress.show(trial, event)
                    })?;
                progress.bar.finish_and_clear();
                Some(outcome)
            }
        };

        let mut rows: Vec<experiment::Row> = read_rows(&common.series.out)?;
        rows.retain(|row| plan.trials.contains(&row.trial));
        let summary = summarise(&rows, &plan.variants, plan.baseline.as_deref(), self.graph.task);
        if !rows.is_empty() {
            let page = Page {
                title: plan.title.clone(),
                command: command(),
                about: self.about(common),
                rows: &rows,
                trials: plan.trials.len(),
                impossible: &plan.impossible,
            };
            write_page(&common.series.out, &page, &summary)?;
        }
        print(common, plan, rows.len(), &summary, format)?;
        conclude(outcome, plan.trials.len(), "trainings")
    }

    /// What was done, in sentences.
    fn about(&self, common: &Common) -> Vec<String> {
        let count = |split| self.data.indices(split).len();
        let config = &self.config;
        vec![
            format!(
                "{}, {} training samples{}, {} test samples, seeds 1 to {}.",
                match common.net.contains(',') {
                    true => format!("Networks `{}`", common.net),
                    false => format!("Network `{}` ({} weights)", common.net, self.weights()),
                },
                count(Split::Train),
                if common.load.train_limit.is_some() { " (a fixed subset)" } else { "" },
                count(Split::Test),
                common.series.seeds,
            ),
            format!(
                "{} epochs of which the last {} simulate int8, batches of {}, {:?} with learning rate {} \
                 and weight decay {}, density divided by {:?}: the same for every training.",
                config.epochs,
                config.qat_epochs,
                config.batch,
                config.optimiser,
                config.learning_rate,
                config.weight_decay,
                config.distribution,
            ),
        ]
    }

    fn weights(&self) -> usize {
        let shapes = self.graph.layers.iter().filter_map(|node| node.op.weight_shape());
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }
}

/// Runs trials one after the other under a bar that `work` moves, with a line for each.
pub(crate) fn run_one_by_one(
    trials: &[Trial],
    store: &mut Store,
    bar: &ProgressBar,
    stop: &AtomicBool,
    work: &experiment::Work<'_>,
) -> Result<Outcome> {
    let outcome = experiment::run(trials, store, 1, work, &|trial, event| {
        match event {
            Event::Finish(row) => {
                let (name, accuracy) = (trial.name(), 100.0 * row.float);
                output::line(bar, &format!("{name}: {accuracy:.2} %, {:.0} s", row.seconds));
            }
            Event::Failure(error) => {
                output::line(bar, &format!("error: {}: {error:#}", trial.name()));
            }
            Event::Start | Event::Training(_) => {}
        }
        output::flow(stop)
    })?;
    bar.finish_and_clear();
    Ok(outcome)
}

/// An error where not all of an experiment's `all` things are done.
pub(crate) fn conclude(outcome: Option<Outcome>, all: usize, things: &str) -> Result<()> {
    match outcome {
        Some(Outcome { finished, left: 1.., .. }) => {
            bail!("stopped after {finished} of {all} {things}; the same command continues")
        }
        Some(Outcome { failed: failed @ 1.., .. }) => {
            bail!("{failed} {things} failed, see above; the same command tries them again")
        }
        _ => Ok(()),
    }
}

/// Commit of the working directory, marked if files other than results have changed since: those of this experiment
/// and of others beside it.
pub(crate) fn commit(results: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        Command::new("git").args(arguments).stderr(Stdio::null()).stdin(Stdio::null()).output().ok()
    };
    let head =
        git(&["rev-parse", "--short=12", "HEAD"]).filter(|output| output.status.success())?;
    let head = String::from_utf8(head.stdout).ok()?;
    let beside = results.parent().filter(|parent| !parent.as_os_str().is_empty());
    let others = format!(":(exclude){}", beside.unwrap_or(results).display());
    let status = git(&["diff", "--quiet", "HEAD", "--", ".", &others])?.status;
    let clean = match status.code() {
        Some(0) => true,
        Some(1) => false,
        // Results outside the checkout are no part of it, which git refuses to leave out.
        _ => git(&["diff", "--quiet", "HEAD"])?.status.success(),
    };
    Some(format!("{}{}", head.trim(), if clean { "" } else { " with changes" }))
}

/// The command line as a user would type it.
pub(crate) fn command() -> String {
    let plain =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c));
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--summarise");
    let quoted = arguments.map(|argument| {
        if plain(&argument) { argument } else { format!("'{}'", argument.replace('\'', "'\\''")) }
    });
    std::iter::once("niwaki".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Progress on standard error: one bar over the steps of all trainings, one line per training.
struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
    task: Task,
    started: Instant,
    trials: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Trials that are finished or failed.
    done: usize,
    /// Steps of earlier sessions, which say nothing about the speed of this one.
    skipped: u64,
    /// Trials whose first epoch in this session has begun.
    begun: Vec<String>,
}

impl Progress {
    fn new(prepared: &Prepared, trials: usize, open: usize, stop: Arc<AtomicBool>) -> Result<Self> {
        let samples = prepared.data.indices(Split::Train).len();
        let steps = samples / prepared.config.batch.min(samples).max(1) * prepared.config.epochs;
        let bar = ProgressBar::new((steps * open) as u64);
        bar.set_style(
            ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}")?.progress_chars("=> "),
        );
        let counts = Mutex::new(Counts { done: trials - open, ..Counts::default() });
        let task = prepared.graph.task;
        Ok(Self { bar, stop, task, started: Instant::now(), trials, counts })
    }

    fn show(&self, trial: &Trial, event: Event<'_>) -> Flow {
        let mut counts = self.counts.lock().unwrap_or_else(|poison| poison.into_inner());
        match event {
            Event::Start => {}
            Event::Training(sparse::Event::Begin { epoch, steps }) => {
                let name = trial.name();
                if !counts.begun.contains(&name) {
                    counts.begun.push(name);
                    let earlier = ((epoch - 1) * steps) as u64;
                    counts.skipped += earlier;
                    self.bar.inc(earlier);
                }
                self.bar.set_message(format!(
                    "{} of {} trainings, {} left",
                    counts.done,
                    self.trials,
                    self.left(&counts)
                ));
            }
            Event::Training(sparse::Event::Step { .. }) => self.bar.inc(1),
            Event::Training(_) => {}
            Event::Finish(row) => {
                counts.done += 1;
                output::line(
                    &self.bar,
                    &format!(
                        "{:>3}/{} {} density {} seed {}: float {}, int8 {}, {:.0} s; {} left",
                        counts.done,
                        self.trials,
                        trial.variant,
                        trial.density,
                        trial.seed,
                        figure(self.task, row.float),
                        figure(self.task, row.int8),
                        row.seconds,
                        self.left(&counts)
                    ),
                );
            }
            Event::Failure(error) => {
                counts.done += 1;
                output::line(
                    &self.bar,
                    &format!(
                        "error: {} density {} seed {}: {error:#}",
                        trial.variant, trial.density, trial.seed
                    ),
                );
            }
        }
        output::flow(&self.stop)
    }

    /// Time that is left, from the speed of this session.
    fn left(&self, counts: &Counts) -> String {
        let done = self.bar.position().saturating_sub(counts.skipped);
        let rest = self.bar.length().unwrap_or(0).saturating_sub(self.bar.position());
        if done == 0 {
            return "unknown time".to_owned();
        }
        let seconds = self.started.elapsed().as_secs_f64() * rest as f64 / done as f64;
        HumanDuration(Duration::from_secs(seconds as u64)).to_string()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    folder: &'a Path,
    finished: usize,
    trainings: usize,
    impossible: &'a [Impossible],
    #[serde(flatten)]
    summary: &'a Summary,
}

fn print(
    common: &Common,
    plan: &Plan,
    finished: usize,
    summary: &Summary,
    format: Format,
) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&Report {
            folder: &common.series.out,
            finished,
            trainings: plan.trials.len(),
            impossible: &plan.impossible,
            summary,
        });
    }
    let spread = |spread: experiment::Spread| spread.merit(summary.task);
    let mut table = output::table([
        "density",
        "variant",
        "seeds",
        "float",
        "int8",
        "- best control",
        "instructions",
        "flash",
        "arena",
        "seconds",
    ]);
    for cell in &summary.cells {
        table.add_row([
            cell.density.to_string(),
            cell.variant.clone(),
            cell.float.n.to_string(),
            spread(cell.float),
            spread(cell.int8),
            cell.best_control.as_ref().map_or(String::new(), |best| spread(best.float)),
            format!("{:.0}", cell.instructions),
            format!("{:.0}", cell.flash_bytes),
            format!("{:.0}", cell.arena_bytes),
            format!("{:.0}", cell.seconds),
        ]);
    }
    for index in [0, 2, 3, 4, 5, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::print_table(&table)?;
    for Impossible { variant, density, reason } in &plan.impossible {
        output::print(&format!("not possible: {variant} at density {density}: {reason}"))?;
    }
    if finished > 0 {
        output::print(&format!("page: {}", common.series.out.join("README.md").display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_listed_with_their_settings() {
        let names = |text: &str| -> Vec<String> {
            parse_methods(text).unwrap().iter().map(Method::to_string).collect()
        };
        assert_eq!(names("all").len(), METHODS.len());
        assert_eq!(
            names("gmp:end=0.7,start=0.2,static,rigl,rigl"),
            ["gmp:end=0.7,start=0.2", "static", "rigl"]
        );
        assert!(parse_methods("static,snip").is_err());
    }
}
