//! `niwaki train`: trains a sparse network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use niwaki::{
    data::{Augment, Dataset, LoadOptions, load},
    net::{self, DataInfo, NetSpec, PRESETS, RunFile, Summary, spec::Task},
    sparse::{
        self, Config, EpochRow, Event, Method, Outcome,
        criteria::Criterion,
        decoupled::Decoupled,
        mask::{Distribution, Structure},
        method::{METHODS, MaskKind},
        optimiser::Rule,
    },
};

use crate::output::{self, Format};

/// Arguments of `niwaki train`.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(crate) struct TrainArgs {
    /// Data set: digits, fashion-mnist, mnist, or a path [default: digits]
    #[arg(long)]
    data: Option<String>,
    /// Network: a preset, optionally with its width, or a .toml file [default: lenet; of sound: ds-cnn]
    #[arg(long, value_name = "PRESET[:width=W]|FILE.toml")]
    net: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "FOLDER", default_value = "runs/latest")]
    out: PathBuf,
    /// Device to train on: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Continue an interrupted run with the settings it was started with
    #[arg(long)]
    resume: bool,
    /// Replace a run that is already in the folder
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Begin with the weights of another run of the same network
    #[arg(long, value_name = "RUN")]
    start: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    load: LoadOptions,
}

/// Settings that have a default and are remembered by the run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training options")]
struct Settings {
    /// Share of all weights that is nonzero in the end [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    density: Option<f64>,
    /// How it gets there, optionally with settings of the method [default: decoupled-gmp;
    /// decoupled with --mask-from]
    #[arg(long, value_name = "METHOD[:SETTING=VALUE,...]")]
    method: Option<Method>,
    /// Methods decoupled and decoupled-*: how the backbone is chosen, whatever their name says
    #[arg(long, value_enum)]
    mask: Option<MaskKind>,
    /// Take the masks of a run of the same network, and its density, where the method would draw
    /// random ones
    #[arg(long, value_name = "RUN")]
    mask_from: Option<PathBuf>,
    /// Seed of everything random [default: 0]
    // Not to be confused with the seed of a split, which has this identifier in `LoadOptions`.
    #[arg(long = "seed", id = "training-seed", value_name = "SEED")]
    seed: Option<u64>,
    #[command(flatten)]
    pruning: Pruning,
    #[command(flatten)]
    recipe: Recipe,
}

/// Which weights are kept, where it is the same for all layers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training options")]
pub(crate) struct Pruning {
    /// How the density is divided among the layers [default: erk]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Which weights of a layer are kept or dropped together [default: unstructured]
    #[arg(long, value_enum)]
    structure: Option<Structure>,
    /// What weights are scored by, for methods that keep the best ones [default: l1]
    #[arg(long, value_enum)]
    criterion: Option<Criterion>,
}

impl Pruning {
    /// These settings where given, else those of `base`.
    pub(crate) fn over(&self, base: Config) -> Config {
        Config {
            distribution: self.distribution.unwrap_or(base.distribution),
            structure: self.structure.unwrap_or(base.structure),
            criterion: self.criterion.unwrap_or(base.criterion),
            ..base
        }
    }
}

/// How a network is trained, whatever the method is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training options")]
pub(crate) struct Recipe {
    /// Passes over the training data [default: 12]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Last epochs that simulate int8 arithmetic [default: a fifth of the epochs, at most 2]
    #[arg(long, value_name = "N")]
    qat_epochs: Option<usize>,
    /// Samples per step [default: 128, less for small data sets]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Update rule [default: sgd]
    #[arg(long, value_enum)]
    optimizer: Option<Rule>,
    /// Largest learning rate [default: 0.1 for sgd, 0.002 for adamw]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Epochs in which the learning rate rises to it [default: 0.5]
    #[arg(long, value_name = "EPOCHS")]
    warmup: Option<f64>,
    /// Weight decay [default: 0.0005 for sgd, 0.01 for adamw]
    #[arg(long, value_name = "RATE")]
    weight_decay: Option<f64>,
    /// Share of the target probability that is spread over all classes [default: 0]
    #[arg(long, value_name = "SHARE")]
    label_smoothing: Option<f64>,
    /// Random changes of training samples: shift=PIXELS or crop=PIXELS, flip, rot90 of images [default: none];
    /// shift=Nms, noise=NdB of sound [default: shift=100ms,noise=20dB]
    #[arg(long, value_name = "LIST")]
    augment: Option<Augment>,
}

fn after_help() -> String {
    let mut text = String::from("Networks (--net):\n");
    for preset in PRESETS {
        text += &format!(
            "  {:<13} {}\n                width: {} [default: {}]\n",
            preset.name, preset.about, preset.width_means, preset.width
        );
    }
    text += "\nMethods (--method), with their settings:\n";
    text += &methods_help();
    text + "\nTimes (at, start, end, until, ...) are shares of the training. Parts of the method decoupled can be
left out: norms=shared, distil=0, decay=0.

Examples:
  niwaki train
  niwaki train --data fashion-mnist --net lenet --density 0.1 --epochs 12 --seed 1 --out runs/fm
  niwaki train --data fashion-mnist --net lenet:width=2 --density 0.05 --mask magnitude --out runs/fm2
  niwaki train --density 0.05 --method rigl:drop=0.2 --out runs/rigl
  niwaki train --mask-from runs/rigl --out runs/from-rigl
  niwaki train --method one-shot:at=0 --criterion taylor --structure block4 --start runs/dense --out runs/b
  niwaki train --density 0.05 --method decoupled-gmp:distil=0 --out runs/no-distillation
  niwaki train --data cifar10/ --net nets/residual-dw.toml --augment crop=4,flip --epochs 30 --out runs/c
  niwaki train --data ../shared/data/arabic-speech --net ds-cnn --epochs 30 --out runs/speech
  niwaki train --resume --out runs/c"
}

/// One entry per method: what it does, and its settings with their defaults.
pub(crate) fn methods_help() -> String {
    let mut text = String::new();
    let mut last = String::new();
    for (name, about) in METHODS {
        text += &format!("  {name:<19} {about}\n");
        let settings = Method::named(name).map(|method| method.settings()).unwrap_or_default();
        let settings: Vec<String> = settings
            .iter()
            .map(|(key, value)| format!("{key}={}", value.to_string().trim_matches('"')))
            .collect();
        let settings = settings.join(" ");
        // The variants of a method differ in one setting.
        let family = name.split('-').next() == last.split('-').next();
        if !settings.is_empty() && !family {
            text += &format!("{:22}{settings}\n", "");
        }
        last = (*name).to_owned();
    }
    text
}

/// Runs `niwaki train`.
pub(crate) fn run(args: &TrainArgs, format: Format) -> Result<()> {
    let device = sparse::device(&args.device)?;
    let data = if args.resume { resume(args)? } else { start(args, &device)? };

    let stop = output::stop_on_ctrl_c()?;
    let file = RunFile::load(&args.out)?;
    let config: Config = serde_json::from_value(file.config.clone())?;
    let mut progress = Progress::new(file.net.task, config.epochs, config.density)?;
    let outcome = sparse::train(&args.out, &data, &device, &mut |event| {
        progress.show(event);
        output::flow(&stop)
    })?;
    progress.bar.finish_and_clear();
    match outcome {
        Outcome::Complete(summary) => print(&args.out, &file, &summary, format),
        Outcome::Stopped(epochs) => bail!(
            "stopped after {epochs} complete epochs; continue with `niwaki train --resume --out {}`",
            args.out.display()
        ),
    }
}

/// Writes the settings of a new run and loads its data.
fn start(args: &TrainArgs, device: &Device) -> Result<Dataset> {
    if RunFile::exists(&args.out) && !args.force {
        let complete = RunFile::load(&args.out).is_ok_and(|file| file.summary.is_some());
        bail!(
            "{} already holds a run{}; give another --out, {}--force to replace it",
            args.out.display(),
            if complete { "" } else { " that is not complete" },
            if complete { "or " } else { "--resume to continue it, or " }
        );
    }
    let spec = args.data.as_deref().unwrap_or("digits");
    let data = load(spec, &args.load)?;
    let net = network(args.net.as_deref(), &data)?;
    let start = args.start.as_deref().map(folder_of).transpose()?;
    let mut base = args.settings.recipe.for_data(&data, device)?;
    if args.settings.mask_from.is_some() {
        // The default method chooses masks itself.
        base.method = Method::Decoupled(Decoupled::default());
    }
    let config = args.settings.over(Config { start, ..base })?;
    let file = RunFile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        net,
        data: DataInfo::new(spec, &args.load, &data),
        config: serde_json::to_value(&config)?,
        summary: None,
    };
    sparse::create(&args.out, &file, &config)?;
    Ok(data)
}

/// The folder of a run, wherever the program is started.
fn folder_of(run: &Path) -> Result<PathBuf> {
    run.canonicalize().with_context(|| format!("looking for the run in {}", run.display()))
}

/// Loads the data of an interrupted run and checks that no option contradicts it.
fn resume(args: &TrainArgs) -> Result<Dataset> {
    let file = RunFile::load(&args.out)?;
    let stored: Config = serde_json::from_value(file.config.clone())
        .with_context(|| format!("in the settings of {}", args.out.display()))?;
    let asked = args.settings.over(stored.clone())?;
    ensure!(
        asked == stored,
        "a run is resumed with the settings it was started with; leave them out, or start a new run \
         (found {})",
        differences(&stored, &asked)?
    );
    if let Some(start) = &args.start {
        let same = stored.start == Some(folder_of(start)?);
        ensure!(same, "the run in {} began with other weights", args.out.display());
    }
    let data = load(&file.data.spec, &file.data.options)?;
    let same_data = args.data.as_ref().is_none_or(|spec| *spec == file.data.spec);
    ensure!(same_data, "the run in {} learns from {}", args.out.display(), file.data.spec);
    if let Some(net) = &args.net {
        let net = net::describe(net)?.for_data(data.shape, data.classes())?;
        ensure!(net == file.net, "the run in {} trains another network", args.out.display());
    }
    Ok(data)
}

/// Settings that differ, as `name: stored, not asked`.
fn differences(stored: &Config, asked: &Config) -> Result<String> {
    let (stored, asked) = (serde_json::to_value(stored)?, serde_json::to_value(asked)?);
    let names = stored.as_object().into_iter().flatten();
    let changed = names.filter(|(name, value)| asked[name.as_str()] != **value);
    let texts: Vec<String> =
        changed.map(|(name, value)| format!("{name}: {value}, not {}", asked[name])).collect();
    Ok(texts.join("; "))
}

impl Settings {
    /// These settings where given, else those of `base`.
    fn over(&self, base: Config) -> Result<Config> {
        let mut method = self.method.clone().unwrap_or_else(|| base.method.clone());
        match (&mut method, self.mask) {
            (Method::Decoupled(decoupled), Some(mask)) => decoupled.mask = mask,
            (method, Some(_)) => {
                bail!("--mask belongs to the method decoupled, not to {}", method.name())
            }
            (_, None) => {}
        }
        // A dense network has the density 1, whatever the default of the others is.
        let density = match (&method, self.density) {
            (Method::Dense, Some(density)) if density != 1.0 => {
                bail!("the method dense keeps all weights; leave out --density {density}")
            }
            (Method::Dense, _) => 1.0,
            (_, Some(density)) => density,
            (_, None) => match &self.mask_from {
                Some(run) => density_of(run)?,
                None => base.density,
            },
        };
        let mask_from = match &self.mask_from {
            Some(run) => Some(folder_of(run)?),
            None => base.mask_from.clone(),
        };
        let seed = self.seed.unwrap_or(base.seed);
        let base = self.recipe.over(self.pruning.over(base));
        Ok(Config { method, density, mask_from, seed, ..base }.fitted())
    }
}

/// The density that a run was started with.
fn density_of(run: &Path) -> Result<f64> {
    let file = RunFile::load(run)?;
    let config: Config = serde_json::from_value(file.config)
        .with_context(|| format!("in the settings of {}", run.display()))?;
    Ok(config.density)
}

impl Recipe {
    /// These settings where given, else those of `base`.
    pub(crate) fn over(&self, base: Config) -> Config {
        let optimiser = self.optimizer.unwrap_or(base.optimiser);
        // Rates belong to the rule they were made for.
        let same_rule = optimiser == base.optimiser;
        let rate = |given: Option<f64>, base: f64, default: f64| {
            given.unwrap_or(if same_rule { base } else { default })
        };
        let epochs = self.epochs.unwrap_or(base.epochs);
        let qat_epochs = match (self.qat_epochs, self.epochs) {
            (Some(given), _) => given,
            (None, Some(_)) if epochs != base.epochs => Config::qat_epochs_for(epochs),
            (None, _) => base.qat_epochs,
        };
        Config {
            start: base.start,
            epochs,
            qat_epochs,
            batch: self.batch.unwrap_or(base.batch),
            optimiser,
            learning_rate: rate(self.lr, base.learning_rate, optimiser.learning_rate()),
            warmup: self.warmup.unwrap_or(base.warmup),
            weight_decay: rate(self.weight_decay, base.weight_decay, optimiser.weight_decay()),
            label_smoothing: self.label_smoothing.unwrap_or(base.label_smoothing),
            augment: self.augment.clone().or(base.augment),
            ..base
        }
    }

    /// These settings where given, else what suits data and device.
    pub(crate) fn for_data(&self, data: &Dataset, device: &Device) -> Result<Config> {
        let config = self.over(defaults(data, device));
        if let Some(augment) = &config.augment {
            augment.check(data)?;
        }
        Ok(config)
    }
}

/// The network that was asked for or that suits the data.
pub(crate) fn network(net: Option<&str>, data: &Dataset) -> Result<NetSpec> {
    let usual = if data.sound.is_some() { "ds-cnn" } else { "lenet" };
    Ok(net::describe(net.unwrap_or(usual))?.for_data(data.shape, data.classes())?)
}

/// Settings that suit data and device.
pub(crate) fn defaults(data: &Dataset, device: &Device) -> Config {
    let train = data.splits.iter().filter(|&&split| split == niwaki::data::Split::Train).count();
    // About thirty steps per epoch are the least that a short training can work with.
    let batch = (train / 30).next_power_of_two().clamp(16, 128);
    // A GPU is busy with a whole batch; a CPU computes parts of it in parallel.
    let shards = if *device == Device::flex() { Config::default().shards } else { 1 };
    let augment = data.sound.is_some().then_some(Augment::SOUND);
    Config { batch, shards, augment, ..Config::default() }
}

/// Progress on standard error: one bar for the whole training, one line per epoch.
pub(crate) struct Progress {
    pub(crate) bar: ProgressBar,
    task: Task,
    epochs: usize,
    first: bool,
    loss: f64,
    density: f64,
}

impl Progress {
    pub(crate) fn new(task: Task, epochs: usize, density: f64) -> Result<Self> {
        let bar = ProgressBar::no_length();
        bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  ETA {eta}")?);
        Ok(Self { bar, task, epochs, first: true, loss: f64::NAN, density })
    }

    pub(crate) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Begin { epoch, steps } => {
                if std::mem::take(&mut self.first) {
                    self.bar.set_length((steps * self.epochs) as u64);
                    self.bar.set_position(((epoch - 1) * steps) as u64);
                    // The estimate must not count epochs of an earlier session.
                    self.bar.reset_eta();
                }
                self.loss = f64::NAN;
            }
            Event::Step { loss, merit, images_per_s } => {
                let mean = if self.loss.is_nan() { loss } else { self.loss };
                self.loss = mean + 0.05 * (loss - mean);
                self.bar.inc(1);
                self.bar.set_message(format!(
                    "loss {:.3}  {}  density {:.3}  {images_per_s:.0} samples/s",
                    self.loss,
                    figure(self.task, merit),
                    self.density
                ));
            }
            Event::Epoch(row) => {
                self.density = row.density;
                output::line(&self.bar, &epoch_line(row, self.task, self.epochs));
            }
            Event::Note(note) => output::line(&self.bar, &note),
        }
    }
}

pub(crate) fn figure(task: Task, merit: f64) -> String {
    match task {
        Task::Classify => format!("accuracy {:.2} %", 100.0 * merit),
        Task::Reconstruct => format!("error {merit:.4}"),
    }
}

fn epoch_line(row: &EpochRow, task: Task, epochs: usize) -> String {
    let mut line = format!(
        "epoch {:>3}/{epochs}  loss {:.4}  train {}",
        row.epoch,
        row.loss,
        figure(task, row.train)
    );
    for (split, merit) in [("val", row.val), ("test", row.test)] {
        if let Some(merit) = merit {
            line += &format!("  {split} {}", figure(task, merit));
        }
    }
    if let Some(gamma) = row.gamma {
        line += &format!("  gamma {gamma:.2}");
    }
    if row.quantised {
        line += "  int8";
    }
    line + &format!("  density {:.3}  {:.0} samples/s", row.density, row.images_per_s)
}

#[derive(serde::Serialize)]
struct Report<'a> {
    path: &'a PathBuf,
    network: &'a str,
    data: &'a str,
    #[serde(flatten)]
    summary: &'a Summary,
}

pub(crate) fn print(
    out: &PathBuf,
    file: &RunFile,
    summary: &Summary,
    format: Format,
) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&Report {
            path: out,
            network: &file.net.name,
            data: &file.data.name,
            summary,
        });
    }
    let mut table = output::table([file.net.name.as_str(), file.data.name.as_str()]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let task = file.net.task;
    for (name, accuracy) in
        [("float", summary.accuracy_float), ("int8 (simulated)", summary.accuracy_int8_simulated)]
    {
        for (split, merit) in [("val", accuracy.val), ("test", accuracy.test)] {
            if let Some(merit) = merit {
                row(&format!("{name}, {split}"), figure(task, merit));
            }
        }
    }
    row("density", format!("{:.4}", summary.density));
    row("nonzeros", format!("{} of {}", summary.nonzeros, summary.weights));
    row("MACs", format!("{} of {}", summary.macs, summary.macs_dense));
    if let Some(dropped) = summary.dropped {
        row(
            "redundant units",
            format!(
                "dropped; they changed {} of {} predictions at their last factor",
                dropped.changed, dropped.samples
            ),
        );
    }
    row("samples/s", format!("{:.0}", summary.images_per_s));
    row("seconds", format!("{:.1}", summary.seconds));
    row("path", out.display().to_string());
    output::print_table(&table)
}
