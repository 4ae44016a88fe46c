//! `niwaki search` and `niwaki worker`: evaluate the candidates of a study.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::{Args, Subcommand};
use indicatif::{HumanDuration, ProgressBar};
use niwaki::data::{Augment, Dataset, LoadOptions, Split, load};
use niwaki::experiment::{
    ArchRow, SearchRow, Spread, Staging, Store, Way, evaluations_for_time, read_rows,
    summarise_searches, summarise_stages, write_arch_page, write_search_page,
};
use niwaki::net::{DataInfo, spec::Task};
use niwaki::search::arch::{Arch, ArchProblem};
use niwaki::search::optimiser::{Algorithm, Settings};
use niwaki::search::settings::{Cost, Limits, Needs, Search, What};
use niwaki::search::sparse::{DENSITIES, Preparation, Sparse, SparseProblem};
use niwaki::search::study::{Place, Status, Study, StudyError};
use niwaki::search::view::View;
use niwaki::search::worker::{Event, Outcome, Problem, work};
use niwaki::sparse::criteria::Criterion;
use niwaki::sparse::mask::Structure;
use niwaki::sparse::optimiser::Rule;
use niwaki::sparse::{self, Config, Method};
use niwaki::target::cost::Core;

use crate::experiment::Series;
use crate::output::{self, Format};
use crate::quantity;
use crate::study::{self, Finish};
use crate::train::{self, figure};

/// Arguments of `niwaki search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(subcommand)]
    what: SearchWhat,
}

#[derive(Debug, Subcommand)]
enum SearchWhat {
    /// Search how much of each layer is kept, by which criterion, in which structure
    Sparse(SparseArgs),
    /// Search depth, shape, operators and widths of a network, in two stages, and train the best ones for longer
    Arch(ArchArgs),
}

/// Arguments of `niwaki search arch`.
#[derive(Debug, Args)]
#[command(after_help = "\
The first stage finds depth and coarse shape with short trainings; the second one operators, kernel sizes,
widths and strides of the shapes that were good, where each network begins with the weights of the most similar
one. The last evaluations train members of the front for longer, dense and sparse (by self-decoupled training).
Before them, the network is evaluated next that is predicted to add the most hypervolume by a regression on those
that are known. With --stages 1, the control, all of it is searched at once and every network is trained from scratch.

Study, limits, workers and results are those of `niwaki search sparse`. A study keeps the stages that it began with:
more --evaluations belong to the last one.

Examples:
  niwaki search arch --data scenes/ --resize 64x64 --target cortex-m4 --flash 128K --ram 128K --evaluations 300 \\
      --study runs/scenes
  niwaki search arch --data scenes/ --resize 64x64 --instructions 20M --min-accuracy 0.7 \\
      --costs instructions --study runs/accurate
  niwaki search arch --data digits --flash 16K --evaluations 30 --epochs 3 --coarse-epochs 1 --study runs/a
  niwaki search arch --data digits --stages 1 --study runs/control")]
struct ArchArgs {
    /// Stages: 2, or 1 as a control
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    stages: u8,
    #[command(flatten)]
    plan: ArchPlan,
    #[command(flatten)]
    common: Common,
}

/// Shares of the evaluations for the first and the last stage, where none are given.
const COARSE_SHARE: f64 = 0.3;
const SPARSE_SHARE: f64 = 0.2;

/// How the evaluations of a search for architectures are divided.
#[derive(Debug, Args)]
struct ArchPlan {
    /// Passes over the training data in the first stage
    #[arg(long, value_name = "N", default_value_t = 2)]
    coarse_epochs: usize,
    /// Share of the evaluations for the first stage [default: 0.3]
    #[arg(long, value_name = "SHARE")]
    coarse_share: Option<f64>,
    /// Share of the evaluations for longer trainings of the front's members in the end
    /// [default: 0.2]
    #[arg(long, value_name = "SHARE")]
    sparse_share: Option<f64>,
    /// Densities of these trainings; 1 is dense
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "1,0.5,0.25")]
    densities: Vec<f64>,
    /// Passes over the training data of one of them [default: twice those of a candidate before]
    #[arg(long, value_name = "N")]
    sparse_epochs: Option<usize>,
    /// Accuracy on the validation split below which networks count for nothing: the search spends itself on
    /// those above it [default: guessing]
    #[arg(long, value_name = "SHARE")]
    min_accuracy: Option<f64>,
    /// Predict nothing: candidates are proposed by breeding alone
    #[arg(long)]
    no_surrogate: bool,
}

/// Arguments of `niwaki experiment arch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every seed makes three studies in --runs, 2-SEED, 1-SEED and 1-longer-SEED: one in two stages, and the control
twice, where everything varies at once and every network is trained from scratch. It has as many evaluations as
make the same number of epochs, and then so many that it takes at least as long. Finished searches are one line
each of rows.jsonl in --out and never repeated; an interrupted one goes on. README.md has the comparison,
hypervolume.svg the plot.

Examples:
  niwaki experiment arch --evaluations 20 --epochs 3 --seeds 1 --out docs/results/arch-digits
  niwaki experiment arch --data scenes/ --flash 128K --ram 128K --evaluations 60 --epochs 8 --seeds 3 \\
      --out docs/results/arch-scenes
  niwaki study export runs/arch-scenes/2-1 --pick best-accuracy -o scenes.niwaki --net scenes.toml")]
pub(crate) struct ArchExperimentArgs {
    #[command(flatten)]
    series: Series,
    #[command(flatten)]
    plan: ArchPlan,
    #[command(flatten)]
    basis: Basis,
}

/// Arguments of `niwaki search sparse`.
#[derive(Debug, Args)]
#[command(after_help = "\
The dense network is trained once; a candidate is that network under masks, fine-tuned, exported and evaluated
in integers on the validation split. Objectives are its error, its predicted instructions and its flash;
candidates that exceed --flash, --ram or --instructions are never trained. In the end the models of the front
are in STUDY/front, each compared with the target byte by byte, beside STUDY/report.html.

The same command, started again after Ctrl-C or a crash, goes on where it was, to the same result; more
--evaluations go on with a finished study. Other computers join with `niwaki worker`, where --study is the URL
of a PostgreSQL database.

Examples:
  niwaki search sparse
  niwaki search sparse --data fashion-mnist --net lenet --flash 32K --ram 16K --instructions 1M --study runs/s
  niwaki search sparse --data cifar10/ --net resnet8 --evaluations 200 --seed 1 --jobs 2 --study runs/c
  niwaki search sparse --method nsga2 --study runs/control
  niwaki search sparse --data fashion-mnist --study postgres://me@server/niwaki#fashion")]
struct SparseArgs {
    #[command(flatten)]
    choices: Choices,
    /// Predict nothing: candidates are proposed by breeding alone
    #[arg(long)]
    no_surrogate: bool,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `niwaki experiment search`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every way makes a study of its own for each seed, in --runs, with the same settings and the same number of
evaluations: MOEA/D on predictions of the surrogate, MOEA/D, NSGA-II, and chance. Finished searches are one
line each of rows.jsonl in --out and never repeated; an interrupted one goes on. README.md has the comparison and
hypervolume.svg the plot.

Examples:
  niwaki experiment search --evaluations 40 --out docs/results/search-digits
  niwaki experiment search --data fashion-mnist --evaluations 100 --seeds 3 --train-limit 20000 \\
      --out docs/results/search-fashion-mnist")]
pub(crate) struct SearchExperimentArgs {
    /// Ways to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "surrogate,moead,nsga2,random"
    )]
    ways: Vec<Way>,
    #[command(flatten)]
    series: Series,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    basis: Basis,
}

/// What can be chosen for the layers of a network.
#[derive(Debug, Args)]
struct Choices {
    /// Network: a preset, optionally with its width, or a .toml file [default: lenet; of sound: ds-cnn]
    #[arg(long, value_name = "PRESET[:width=W]|FILE.toml")]
    net: Option<String>,
    /// Criteria to choose from
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "l1,geometric-median,batch-norm,taylor"
    )]
    criteria: Vec<Criterion>,
    /// Structures to choose from
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "unstructured,block4,fan-in,channels"
    )]
    structures: Vec<Structure>,
    /// Densities to choose from, rising
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_values_t = DENSITIES)]
    densities: Vec<f64>,
    /// Epochs of the dense network, which is trained once
    #[arg(long, value_name = "N", default_value_t = 12)]
    base_epochs: usize,
    /// Epochs of the supernet that predictions come from, which is trained once
    #[arg(long, value_name = "N", default_value_t = 12)]
    supernet_epochs: usize,
    /// How a candidate is fine-tuned: static, or decoupled (twice the time), optionally with settings
    #[arg(long, value_name = "METHOD[:SETTING=VALUE,...]", default_value = "static")]
    tune: Method,
    /// Last epochs of a candidate that simulate int8 arithmetic [default: a fifth, at most 2]
    #[arg(long, value_name = "N")]
    qat_epochs: Option<usize>,
}

/// What all searches have in common.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    basis: Basis,
    /// Seed of everything random
    // Not to be confused with the seed of a split, which has this identifier in `LoadOptions`.
    #[arg(long = "seed", id = "search-seed", value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Where the study is: a folder, or postgres://USER@HOST/DATABASE#NAME
    #[arg(long, value_name = "FOLDER|URL", default_value = "runs/search")]
    study: Place,
    /// Only start the study, or raise its budget, and leave all work to `niwaki worker`
    #[arg(long)]
    start_only: bool,
    /// How candidates are found
    #[arg(long, value_enum, default_value_t = Algorithm::Moead)]
    method: Algorithm,
    #[command(flatten)]
    runner: Runner,
    #[command(flatten)]
    finish: Finish,
}

/// Settings of a search, whatever its seed is and however candidates are found.
#[derive(Debug, Args)]
struct Basis {
    /// Data set: digits, fashion-mnist, mnist, or a path
    #[arg(long, default_value = "digits")]
    data: String,
    /// Core that models are for and whose cost model counts
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
    /// Most bytes of a model, such as 64K
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    flash: Option<u64>,
    /// Most bytes of its arena, such as 48K
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    ram: Option<u64>,
    /// Most instructions of an inference, such as 2M
    #[arg(long, value_name = "COUNT", value_parser = quantity::count)]
    instructions: Option<u64>,
    /// What is to be small beside the error, each of which makes the front longer
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST", default_values_t = Cost::usual())]
    costs: Vec<Cost>,
    /// Candidates to evaluate
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    evaluations: u32,
    /// Members that take part in breeding; the first ones are drawn at random
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..10_000))]
    population: u32,
    /// Passes over the training data for a candidate
    #[arg(long, value_name = "N", default_value_t = 5)]
    epochs: usize,
    /// Samples per step [default: 128, less for small data sets]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Update rule
    #[arg(long, value_enum, default_value_t = Rule::Sgd)]
    optimizer: Rule,
    /// Largest learning rate [default: 0.05 for sgd, 0.1 where architectures are searched; 0.002 for adamw]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Random changes of training samples, such as crop=4,flip,rot90 of images [default: none]
    #[arg(long, value_name = "LIST")]
    augment: Option<Augment>,
    #[command(flatten)]
    load: LoadOptions,
}

/// How a process evaluates candidates; changes no candidate.
#[derive(Debug, Args)]
pub(crate) struct Runner {
    /// Candidates at the same time. With more than one, which are proposed depends on which are done first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1000))]
    jobs: u32,
    /// Device to train on: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Folder for files of this process and for results [default: that of the study, or runs/ and its name]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
}

impl Series {
    /// One candidate at a time, as an experiment must, to be repeatable.
    fn runner(&self) -> Runner {
        Runner { jobs: 1, device: self.device.clone(), out: None }
    }
}

impl Runner {
    /// Folder for files.
    pub(crate) fn folder(&self, place: &Place) -> PathBuf {
        match (&self.out, place) {
            (Some(out), _) => out.clone(),
            (None, Place::Folder(folder)) => folder.clone(),
            (None, Place::Url { name, .. }) => Path::new("runs").join(name),
        }
    }
}

/// Arguments of `niwaki worker`.
#[derive(Debug, Args)]
#[command(after_help = "\
Evaluates candidates of a study that `niwaki search` has started, until there are none left. Any number of
workers on any number of computers share a study in a PostgreSQL database; those of one computer also one in a
folder. A worker that dies loses nothing: another one evaluates its candidate.

The data are loaded as the study says; --data is where they are on this computer.

Examples:
  niwaki worker --study postgres://me@server/niwaki#fashion
  niwaki worker --study postgres://me@server/niwaki#cifar --data /scratch/cifar10 --device cuda:1
  niwaki worker --study runs/search")]
pub(crate) struct WorkerArgs {
    /// Where the study is: a folder, or postgres://USER@HOST/DATABASE#NAME
    #[arg(long, value_name = "FOLDER|URL")]
    study: Place,
    /// Where the data are on this computer [default: as the study says]
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    runner: Runner,
}

impl Basis {
    fn limits(&self) -> Limits {
        Limits { flash: self.flash, ram: self.ram, instructions: self.instructions }
    }

    /// Loads the data; where they have no validation split, a fifth of the training samples becomes one.
    fn data(&self) -> Result<(Dataset, DataInfo)> {
        const VAL_FRACTION: f64 = 0.2;
        let mut options = self.load.clone();
        let mut data = load(&self.data, &options)?;
        if data.indices(Split::Val).is_empty() {
            options.val_fraction = VAL_FRACTION;
            data = load(&self.data, &options)?;
        }
        let info = DataInfo::new(&self.data, &options, &data);
        Ok((data, info))
    }

    /// Settings of the training of a candidate.
    fn training(
        &self,
        data: &Dataset,
        device: &Device,
        method: Method,
        seed: u64,
    ) -> Result<Config> {
        let base = train::defaults(data, device);
        if let Some(augment) = &self.augment {
            augment.check(data)?;
        }
        // It begins with trained weights.
        let rate = if self.optimizer == Rule::Sgd { 0.05 } else { self.optimizer.learning_rate() };
        let config = Config {
            method,
            epochs: self.epochs,
            qat_epochs: Config::qat_epochs_for(self.epochs),
            batch: self.batch.unwrap_or(base.batch),
            optimiser: self.optimizer,
            learning_rate: self.lr.unwrap_or(rate),
            weight_decay: self.optimizer.weight_decay(),
            augment: self.augment.clone().or(base.augment.clone()),
            seed,
            ..base
        };
        Ok(config.fitted())
    }

    fn search(
        &self,
        what: What,
        data: DataInfo,
        algorithm: Algorithm,
        surrogate: bool,
        seed: u64,
    ) -> Search {
        let mut costs: Vec<Cost> = Vec::new();
        for &cost in &self.costs {
            if !costs.contains(&cost) {
                costs.push(cost);
            }
        }
        Search {
            what,
            data,
            target: self.target,
            limits: self.limits(),
            optimiser: Settings {
                algorithm,
                objectives: 1 + costs.len(),
                population: self.population as usize,
                seed,
            },
            costs,
            // The others take no notice of predictions.
            surrogate: surrogate && algorithm == Algorithm::Moead,
        }
    }
}

/// Runs `niwaki search`.
pub(crate) fn run(args: &SearchArgs, format: Format) -> Result<()> {
    match &args.what {
        SearchWhat::Sparse(args) => sparse(args, format),
        SearchWhat::Arch(args) => arch(args, format),
    }
}

impl Choices {
    fn sparse(&self, basis: &Basis, data: &Dataset, device: &Device, seed: u64) -> Result<Sparse> {
        let training = basis.training(data, device, self.tune.clone(), seed)?;
        let sparse = Sparse {
            net: train::network(self.net.as_deref(), data)?,
            criteria: self.criteria.clone(),
            structures: self.structures.clone(),
            densities: self.densities.clone(),
            base_epochs: self.base_epochs,
            supernet_epochs: self.supernet_epochs,
            training: match self.qat_epochs {
                Some(qat_epochs) => Config { qat_epochs, ..training }.fitted(),
                None => training,
            },
        };
        sparse.check()?;
        Ok(sparse)
    }
}

fn sparse(args: &SparseArgs, format: Format) -> Result<()> {
    let (common, basis) = (&args.common, &args.common.basis);
    let device = sparse::device(&common.runner.device)?;
    let (data, info) = basis.data()?;
    let what = args.choices.sparse(basis, &data, &device, common.seed)?;
    let (what_for, surrogate) = (What::Sparse(what.clone()), !args.no_surrogate);
    let search = basis.search(what_for, info, common.method, surrogate, common.seed);
    what.check_reach(&search)?;
    begin(common, &search, &data, &device, format)
}

/// Runs `niwaki experiment search`.
pub(crate) fn experiment(args: &SearchExperimentArgs, format: Format) -> Result<()> {
    let basis = &args.basis;
    let device = sparse::device(&args.series.device)?;
    let (data, info) = basis.data()?;
    let search = |way: Way, seed: u64| -> Result<Search> {
        let what = What::Sparse(args.choices.sparse(basis, &data, &device, seed)?);
        let (algorithm, surrogate) = way.algorithm();
        Ok(basis.search(what, info.clone(), algorithm, surrogate, seed))
    };
    let first = search(Way::Random, 1)?;
    let What::Sparse(what) = &first.what else { unreachable!("made above") };
    what.check_reach(&first)?;
    let mut settings = serde_json::to_value(&first)?;
    settings["evaluations"] = basis.evaluations.into();
    let runs = args.series.runs();
    let place = |way: Way, seed: u64| Place::Folder(runs.join(format!("{}-{seed}", way.name())));
    if !args.series.summarise {
        let mut store = Store::<SearchRow>::open(&args.series.out, &settings)?;
        let commit = crate::experiment::commit(&args.series.out);
        let stop = output::stop_on_ctrl_c()?;
        for seed in 1..=args.series.seeds {
            // The surrogate comes first: it is asked about the candidates of the others.
            let mut ways = args.ways.clone();
            ways.sort_unstable();
            for way in ways {
                if store.rows().iter().any(|row| (row.way, row.seed) == (way, seed)) {
                    continue;
                }
                eprintln!("{} with seed {seed}", way.name());
                let settings = search(way, seed)?;
                let study = Study::start(&place(way, seed), &serde_json::to_value(&settings)?)?;
                study.raise_budget(basis.evaluations as usize)?;
                let runner = args.series.runner();
                let again = "the same command continues";
                evaluate(&study, &settings, &data, &device, &runner, &stop, again)?;
                let mut foreign = Vec::new();
                if way != Way::Surrogate && args.ways.contains(&Way::Surrogate) {
                    let settings = search(Way::Surrogate, seed)?;
                    let own = Study::open(&place(Way::Surrogate, seed))?;
                    let folder = runner.folder(own.place());
                    foreign = opinion(&own, &study, &settings, &data, &device, &folder, &stop)?;
                }
                let view = View::load(&study)?;
                store.push(SearchRow::new(way, seed, &view, foreign, commit.clone()))?;
            }
        }
    }
    let mut rows: Vec<SearchRow> = read_rows(&args.series.out)?;
    rows.retain(|row| row.seed <= args.series.seeds && args.ways.contains(&row.way));
    let title = format!("Ways of searching: {} on {}", what.net.name, data.name);
    let about = [
        format!("{} true evaluations per search, {}.", basis.evaluations, first.limits),
        format!(
            "{} training samples, {} validation samples, {} epochs of fine-tuning per candidate, seeds 1 to {}.",
            data.indices(Split::Train).len(),
            data.indices(Split::Val).len(),
            what.training.epochs,
            args.series.seeds
        ),
    ];
    write_search_page(&args.series.out, &title, &crate::experiment::command(), &about, &rows)?;
    let summary = summarise_searches(&rows);
    if format == Format::Json {
        return output::print_json(&serde_json::json!({
            "folder": args.series.out,
            "searches": rows.len(),
            "ways": summary,
        }));
    }
    let mut table =
        output::table(["", "searches", "hypervolume", "gain", "fewer evaluations", "tau"]);
    let mean = |spread: Option<Spread>, digits: usize| {
        spread.map_or(String::new(), |spread| format!("{:.digits$}", spread.mean))
    };
    for way in &summary {
        table.add_row([
            way.way.name().to_owned(),
            way.hypervolume.n.to_string(),
            mean(Some(way.hypervolume), 4),
            mean(way.surrogate_gain, 4),
            mean(way.surrogate_speed, 2),
            mean(way.tau, 3),
        ]);
    }
    output::print_table(&table)?;
    output::print(&format!("page: {}", args.series.out.join("README.md").display()))
}

impl ArchPlan {
    /// Evaluations of the first stage and of the last trainings, of so many.
    fn divide(&self, evaluations: usize) -> Result<[usize; 2]> {
        let share = |name: &str, share: f64| -> Result<usize> {
            ensure!(
                (0.0..1.0).contains(&share),
                "--{name}: expected a share below 1, found {share}"
            );
            Ok((evaluations as f64 * share).round() as usize)
        };
        Ok([
            share("coarse-share", self.coarse_share.unwrap_or(COARSE_SHARE))?,
            share("sparse-share", self.sparse_share.unwrap_or(SPARSE_SHARE))?,
        ])
    }

    /// Where a study is there already, its stages stay where they began, unless shares are given: more
    /// evaluations belong to the last one.
    fn keep_stages(&self, search: &mut Search, place: &Place) -> Result<()> {
        if self.coarse_share.is_some() || self.sparse_share.is_some() {
            return Ok(());
        }
        let study = match Study::open(place) {
            Err(StudyError::Missing { .. }) => return Ok(()),
            study => study?,
        };
        let stored: Search = serde_json::from_value(study.settings()?)
            .with_context(|| format!("in the settings of the study {}", study.place()))?;
        if let (What::Arch(now), What::Arch(before)) = (&mut search.what, stored.what) {
            (now.coarse, now.sparse_from) = (before.coarse, before.sparse_from);
        }
        Ok(())
    }

    fn sparse_epochs(&self, basis: &Basis) -> usize {
        self.sparse_epochs.unwrap_or(2 * basis.epochs)
    }

    /// How so many evaluations are divided, whatever the limits allow.
    fn stages(
        &self,
        basis: &Basis,
        data: &Dataset,
        device: &Device,
        (stages, evaluations, seed): (u8, usize, u64),
    ) -> Result<Arch> {
        let [coarse, last] = self.divide(evaluations)?;
        let training = basis.training(data, device, Config::default().method, seed)?;
        let arch = Arch {
            coarse: if stages == 2 { coarse } else { 0 },
            sparse_from: evaluations.saturating_sub(last),
            densities: self.densities.clone(),
            coarse_epochs: self.coarse_epochs,
            sparse_epochs: self.sparse_epochs(basis),
            min_accuracy: self.min_accuracy,
            training: Config {
                learning_rate: basis.lr.unwrap_or(training.optimiser.learning_rate()),
                ..training
            },
        };
        arch.check(data)?;
        Ok(arch)
    }

    /// A search that is checked to reach its limits.
    fn search(
        &self,
        basis: &Basis,
        (data, info): &(Dataset, DataInfo),
        device: &Device,
        algorithm: Algorithm,
        division: (u8, usize, u64),
    ) -> Result<Search> {
        let mut arch = self.stages(basis, data, device, division)?;
        let (what, seed) = (What::Arch(arch.clone()), arch.training.seed);
        let surrogate = !self.no_surrogate;
        let mut search = basis.search(what, info.clone(), algorithm, surrogate, seed);
        arch.check_reach(&search, data)?;
        if arch.coarse > 0 {
            arch.coarse = arch.coarse.min(arch.most_coarse(&search, data));
            search.what = What::Arch(arch);
        }
        Ok(search)
    }
}

fn arch(args: &ArchArgs, format: Format) -> Result<()> {
    let (common, basis) = (&args.common, &args.common.basis);
    let device = sparse::device(&common.runner.device)?;
    let data = basis.data()?;
    let what = (args.stages, basis.evaluations as usize, common.seed);
    let mut search = args.plan.search(basis, &data, &device, common.method, what)?;
    args.plan.keep_stages(&mut search, &common.study)?;
    begin(common, &search, &data.0, &device, format)
}

/// Runs `niwaki experiment arch`.
pub(crate) fn arch_experiment(args: &ArchExperimentArgs, format: Format) -> Result<()> {
    let (basis, plan) = (&args.basis, &args.plan);
    let device = sparse::device(&args.series.device)?;
    let data = basis.data()?;
    let two = basis.evaluations as usize;
    let search = |stages: u8, evaluations: usize, seed: u64| {
        plan.search(basis, &data, &device, Algorithm::Moead, (stages, evaluations, seed))
    };
    let first = search(2, two, 1)?;
    let What::Arch(arch) = &first.what else { unreachable!("made above") };
    let epochs = arch.epochs(two);
    let of_one = |evaluations: usize| -> Result<usize> {
        let arch = plan.stages(basis, &data.0, &device, (1, evaluations, 1))?;
        Ok(arch.epochs(evaluations))
    };
    let mut one = 1;
    while of_one(one + 1)? <= epochs {
        one += 1;
    }
    let mut settings = serde_json::to_value(&first)?;
    settings["evaluations"] = basis.evaluations.into();
    let runs = args.series.runs();
    if !args.series.summarise {
        let mut store = Store::<ArchRow>::open(&args.series.out, &settings)?;
        let commit = crate::experiment::commit(&args.series.out);
        let stop = output::stop_on_ctrl_c()?;
        let all = (1..=args.series.seeds).flat_map(|seed| Staging::ALL.map(|way| (seed, way)));
        for (seed, staging) in all {
            let done = |way| store.rows().iter().find(|row| (row.staging, row.seed) == (way, seed));
            if done(staging).is_some() {
                continue;
            }
            let evaluations = match (staging, done(Staging::Two), done(Staging::One)) {
                (Staging::Two, ..) => two,
                (Staging::OneLonger, Some(two), Some(one)) => evaluations_for_time(two, one),
                (Staging::One | Staging::OneLonger, ..) => one,
            };
            eprintln!("{}, seed {seed}: {evaluations} evaluations", staging.name());
            let settings = search(staging.stages(), evaluations, seed)?;
            let place = Place::Folder(runs.join(format!("{}-{seed}", staging.folder())));
            let study = Study::start(&place, &serde_json::to_value(&settings)?)?;
            study.raise_budget(evaluations)?;
            let runner = args.series.runner();
            let again = "the same command continues";
            evaluate(&study, &settings, &data.0, &device, &runner, &stop, again)?;
            store.push(ArchRow::new(staging, seed, &View::load(&study)?, commit.clone())?)?;
        }
    }
    let mut rows: Vec<ArchRow> = read_rows(&args.series.out)?;
    rows.retain(|row| row.seed <= args.series.seeds);
    let about = [
        format!("{two} evaluations in two stages, {one} in a single one, {}.", first.limits),
        format!(
            "{} training samples, {} validation samples; {} epochs in the first stage, {} in the second one, {} of \
             the last trainings, {epochs} in all; seeds 1 to {}.",
            data.0.indices(Split::Train).len(),
            data.0.indices(Split::Val).len(),
            plan.coarse_epochs,
            basis.epochs,
            plan.sparse_epochs(basis),
            args.series.seeds
        ),
    ];
    let title = format!("Stages of architecture search on {}", data.0.name);
    write_arch_page(&args.series.out, &title, &crate::experiment::command(), &about, &rows)?;
    let summary = summarise_stages(&rows);
    if format == Format::Json {
        return output::print_json(&serde_json::json!({
            "folder": args.series.out,
            "searches": rows.len(),
            "stages": summary,
        }));
    }
    let mut table =
        output::table(["stages", "searches", "hypervolume", "two ahead", "accuracy, %"]);
    let mean = |spread: Option<Spread>, factor: f64, digits: usize| {
        spread.map_or(String::new(), |spread| format!("{:.digits$}", factor * spread.mean))
    };
    for stages in &summary {
        table.add_row([
            stages.staging.name().to_owned(),
            stages.hypervolume.n.to_string(),
            mean(Some(stages.hypervolume), 1.0, 4),
            mean(stages.two_stages_ahead, 1.0, 4),
            mean(stages.accuracy, 100.0, 2),
        ]);
    }
    output::print_table(&table)?;
    output::print(&format!("page: {}", args.series.out.join("README.md").display()))
}

/// Starts a study or goes on with it, to its end.
fn begin(
    common: &Common,
    search: &Search,
    data: &Dataset,
    device: &Device,
    format: Format,
) -> Result<()> {
    // A target that cannot be used must not be found out about at the end.
    let target = common.finish.target(search.target)?;
    let study = Study::start(&common.study, &serde_json::to_value(search)?)?;
    study.raise_budget(common.basis.evaluations as usize)?;
    if common.start_only {
        let (place, evaluations) = (study.place().to_string(), study.budget()?);
        return match format {
            Format::Json => output::print_json(
                &serde_json::json!({ "study": place, "evaluations": evaluations }),
            ),
            Format::Table => output::print(&format!(
                "the study {place} is to have {evaluations} evaluations; start workers with `niwaki worker`"
            )),
        };
    }
    let stop = output::stop_on_ctrl_c()?;
    let again = "the same command continues";
    evaluate(&study, search, data, device, &common.runner, &stop, again)?;
    let folder = common.runner.folder(&common.study);
    study::finish(&study, data, target.as_ref(), &folder, &common.finish, format)
}

/// Runs `niwaki worker`.
pub(crate) fn run_worker(args: &WorkerArgs, format: Format) -> Result<()> {
    let device = sparse::device(&args.runner.device)?;
    let study = Study::open(&args.study)?;
    let search = View::load(&study)?.search;
    let data = study::load_data(&search, args.data.as_deref())?;
    let stop = output::stop_on_ctrl_c()?;
    let again = "another worker evaluates what was begun";
    evaluate(&study, &search, &data, &device, &args.runner, &stop, again)?;
    let view = View::load(&study)?;
    let (done, failed) = (view.count(Status::Done), view.count(Status::Failed));
    if format == Format::Json {
        let study = study.place().to_string();
        return output::print_json(
            &serde_json::json!({ "study": study, "evaluated": done, "failed": failed }),
        );
    }
    output::print(&format!(
        "the study {} is complete: {done} evaluated, {failed} failed",
        study.place()
    ))
}

/// Evaluates candidates until the study is complete.
fn evaluate(
    study: &Study,
    search: &Search,
    data: &Dataset,
    device: &Device,
    runner: &Runner,
    stop: &AtomicBool,
    again: &str,
) -> Result<()> {
    let folder = runner.folder(study.place());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    let stopped = || stop.load(Ordering::Relaxed);
    let outcome = match &search.what {
        What::Sparse(sparse) => {
            let preparing = RefCell::new(None::<train::Progress>);
            let prepared = SparseProblem::prepare(
                study,
                search,
                sparse,
                data,
                device,
                &folder,
                &stopped,
                &mut |event| prepare_progress(event, sparse.net.task, &preparing),
            )?;
            if let Some(progress) = preparing.take() {
                progress.bar.finish_and_clear();
            }
            let Some(problem) = prepared else { bail!("stopped; {again}") };
            solve(study, &problem, search, runner, &stopped)?
        }
        What::Arch(arch) => {
            let prepared = ArchProblem::prepare(study, search, arch, data, device, &stopped)?;
            let Some(problem) = prepared else { bail!("stopped; {again}") };
            solve(study, &problem, search, runner, &stopped)?
        }
    };
    ensure!(outcome == Outcome::Complete, "stopped; {again}");
    Ok(())
}

/// What the surrogate of a complete study says of the errors of another one's candidates, and what they are.
fn opinion(
    own: &Study,
    other: &Study,
    search: &Search,
    data: &Dataset,
    device: &Device,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<Vec<(f64, f64)>> {
    let What::Sparse(sparse) = &search.what else { return Ok(Vec::new()) };
    let stopped = || stop.load(Ordering::Relaxed);
    let prepared =
        SparseProblem::prepare(own, search, sparse, data, device, folder, &stopped, &mut |_| {})?;
    let Some(problem) = prepared else { bail!("stopped; the same command continues") };
    Ok(problem.foreign(&own.candidates()?, &other.candidates()?))
}

/// Evaluates candidates of a problem that is prepared, several at a time.
fn solve(
    study: &Study,
    problem: &impl Problem,
    search: &Search,
    runner: &Runner,
    stopped: &(dyn Fn() -> bool + Sync),
) -> Result<Outcome> {
    let progress = Progress::new(study)?;
    let outcome = on_all(runner.jobs as usize, study, &|study, number| {
        work(study, problem, &search.optimiser, number, stopped, &mut |event| {
            progress.show(study, event);
        })
    })?;
    progress.bar.finish_and_clear();
    Ok(outcome)
}

fn prepare_progress(event: Preparation<'_>, task: Task, shown: &RefCell<Option<train::Progress>>) {
    let begin = |what: &str, epochs: usize| {
        eprintln!("{what}: {epochs} epochs");
        *shown.borrow_mut() = train::Progress::new(task, epochs, 1.0).ok();
    };
    match event {
        Preparation::Base(epochs) => begin("dense network", epochs),
        Preparation::Supernet(epochs) => begin("supernet", epochs),
        Preparation::Training(event) => {
            if let Some(progress) = shown.borrow_mut().as_mut() {
                progress.show(event);
            }
        }
    }
}

/// Does the same in so many threads, each on its share of the processor cores, over connections of their own.
fn on_all(
    jobs: usize,
    study: &Study,
    work: &(dyn Fn(&Study, usize) -> Result<Outcome, niwaki::search::study::StudyError> + Sync),
) -> Result<Outcome> {
    if jobs == 1 {
        return Ok(work(study, 0)?);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / jobs).max(1);
    let job = |number: usize| -> Result<Outcome> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let own = Study::open(study.place())?;
        pool.install(|| Ok(work(&own, number)?))
    };
    std::thread::scope(|scope| {
        let job = &job;
        let threads: Vec<_> = (0..jobs).map(|number| scope.spawn(move || job(number))).collect();
        let mut all = Outcome::Complete;
        for thread in threads {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            if outcome == Outcome::Stopped {
                all = outcome;
            }
        }
        Ok(all)
    })
}

/// Progress on standard error: one line per evaluation, and a bar.
struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// Candidates that were evaluated before.
    before: usize,
    task: Task,
    said_wait: Mutex<bool>,
}

impl Progress {
    fn new(study: &Study) -> Result<Self> {
        let view = View::load(study)?;
        let before = view.count(Status::Done) + view.count(Status::Failed);
        let bar = output::bar(view.budget as u64, "evaluations");
        bar.set_position(before as u64);
        bar.reset_eta();
        let task = view.search.what.task();
        Ok(Self { bar, begun: Instant::now(), before, task, said_wait: Mutex::new(false) })
    }

    fn show(&self, study: &Study, event: Event<'_>) {
        match event {
            Event::Begin(candidate) if candidate.attempt > 1 => output::line(
                &self.bar,
                &format!(
                    "candidate {} is evaluated again (attempt {}): its worker died",
                    candidate.id, candidate.attempt
                ),
            ),
            Event::Begin(_) | Event::Progress(_) => {}
            Event::Wait => {
                let mut said = self.said_wait.lock().unwrap_or_else(|p| p.into_inner());
                if !std::mem::replace(&mut *said, true) {
                    output::line(
                        &self.bar,
                        "waiting for the candidates that other workers evaluate",
                    );
                }
            }
            Event::Lost(candidate) => output::line(
                &self.bar,
                &format!(
                    "candidate {} was evaluated by another worker in the meantime",
                    candidate.id
                ),
            ),
            Event::End(candidate) => {
                if let Ok(view) = View::load(study) {
                    self.end(&view, candidate);
                }
            }
        }
    }

    fn end(&self, view: &View, id: i64) {
        let failed = view.count(Status::Failed);
        let done = view.count(Status::Done) + failed;
        let Some(candidate) = view.candidate(id) else { return };
        let result = match (view.details(candidate), &candidate.error) {
            (Ok(Some(details)), _) => {
                let figure = figure(self.task, details.merit);
                let Needs { flash, instructions, .. } = details.needs;
                format!("{figure}, {instructions:.0} instructions, {flash} bytes")
            }
            (Err(error), _) => format!("{error:#}"),
            (_, Some(error)) => format!("failed: {error}"),
            _ => String::new(),
        };
        let here = done.saturating_sub(self.before).max(1);
        let rest = view.budget.saturating_sub(done);
        let seconds = self.begun.elapsed().as_secs_f64() / here as f64 * rest as f64;
        let left = HumanDuration(Duration::from_secs_f64(seconds));
        let volume = view.hypervolume().map_or("-".to_owned(), |volume| format!("{volume:.4}"));
        output::line(
            &self.bar,
            &format!(
                "{done:>3}/{} #{id} {result}; hypervolume {volume}, front {}, failed {failed}, {left:#} left",
                view.budget,
                view.front.len(),
            ),
        );
        self.bar.set_position(done as u64);
    }
}
