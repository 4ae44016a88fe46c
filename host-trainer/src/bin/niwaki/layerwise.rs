//! `niwaki layerwise`: searches a sparse strategy for each layer.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use clap::Args;
use niwaki::{
    data::{Dataset, LoadOptions, load},
    net::{DataInfo, RunFile, Summary, trained::RUN_FILE},
    sparse::{
        self, Config, Method, Outcome,
        criteria::Criterion,
        layerwise::{Chooser, Layerwise, LayerwiseFile, Stage, layerwise, prepare},
        mask::Structure,
    },
    target::cost::Core,
};
use serde::Serialize;

use crate::{
    output::{self, Format},
    train::{Progress, Recipe, print},
};

/// Arguments of `niwaki layerwise`.
#[derive(Debug, Args)]
#[command(after_help = "\
Trains the dense network, searches a strategy for each layer (a criterion, a structure, a share of weights to
keep) that is accurate at a given cost on the target, and retrains the network under the masks of the chosen
strategies. The folder is that of an ordinary run: export, eval and report take it, and the report shows how
the choices were made. Of the epochs (--epochs), a third is for the teacher, a twelfth for the search and the
rest for the retraining; an epoch of the search counts twice.

Examples:
  niwaki layerwise --data digits --net lenet --density 0.1 --out runs/l
  niwaki layerwise --data fashion-mnist --net lenet --density 0.1 --target cortex-m4 --epochs 24 --out runs/fl
  niwaki layerwise --criteria l1,taylor --structures unstructured,block4 --retrain static --out runs/m
  niwaki layerwise --resume --out runs/fl")]
pub(crate) struct LayerwiseArgs {
    /// Data set: digits, fashion-mnist, mnist, or a path [default: digits]
    #[arg(long)]
    data: Option<String>,
    /// Network: a preset, optionally with its width, or a .toml file [default: lenet; of sound: ds-cnn]
    #[arg(long, value_name = "PRESET[:width=W]|FILE.toml")]
    net: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "FOLDER", default_value = "runs/layerwise")]
    out: PathBuf,
    /// Device to train on: auto, flex (CPU), cuda:N, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Continue an interrupted search with the settings it was started with
    #[arg(long)]
    resume: bool,
    /// Replace what is already in the folder
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    recipe: Recipe,
    #[command(flatten)]
    load: LoadOptions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Search options")]
struct Settings {
    /// The network is to cost as much as one whose single weights have this density
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    density: f64,
    /// Core whose cost model counts
    #[arg(long, value_enum, default_value_t = Core::CortexM4)]
    target: Core,
    #[command(flatten)]
    options: Options,
    /// Folder of a complete run of the dense network, to use as teacher instead of training one
    #[arg(long, value_name = "RUN")]
    teacher: Option<PathBuf>,
    /// Seed of everything random
    // Not to be confused with the seed of a split, which has this identifier in `LoadOptions`.
    #[arg(long = "seed", id = "training-seed", value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

/// What a search chooses from and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Search options")]
pub(crate) struct Options {
    /// Criteria to choose from [default: l1,l2,geometric-median,batch-norm,taylor]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    criteria: Option<Vec<Criterion>>,
    /// Structures to choose from [default: unstructured,block4,fan-in,channels]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    structures: Option<Vec<Structure>>,
    /// Shares of weights to choose from, as multiples of a layer's usual one [default: 0.5,1,2,4]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    ratios: Option<Vec<f64>>,
    /// Epochs of the search, each of which counts twice [default: a twelfth of all]
    #[arg(long, value_name = "N")]
    search_epochs: Option<usize>,
    /// How the result is retrained: decoupled or static (fine-tuning), optionally with settings
    #[arg(long, value_name = "METHOD[:SETTING=VALUE,...]", default_value = "decoupled")]
    retrain: Method,
    /// Weight of the cost's relative distance from what is asked for, squared
    #[arg(long, value_name = "WEIGHT")]
    cost_weight: Option<f64>,
}

impl Settings {
    fn layerwise(&self, base: Config) -> Result<Layerwise> {
        let teacher = match &self.teacher {
            Some(teacher) => {
                let file = RunFile::load(teacher)?;
                let config: Config = serde_json::from_value(file.config)?;
                let by_scale = self.options.criteria.as_ref();
                ensure!(
                    config.qat_epochs == 0
                        || by_scale.is_some_and(|list| !list.contains(&Criterion::BatchNorm)),
                    "the teacher in {} has no batch norms to score channels by any more, as it was trained for \
                     int8; train it with --qat-epochs 0, or leave batch-norm out of --criteria",
                    teacher.display()
                );
                ensure!(
                    file.summary.is_some(),
                    "the training of the teacher in {} is not complete",
                    teacher.display()
                );
                Some(teacher.canonicalize().context("looking for the teacher")?)
            }
            None => None,
        };
        let base = Config { seed: self.seed, ..base };
        let settings = self.options.layerwise(Chooser::Search, base, self.density, self.target)?;
        Ok(Layerwise { teacher, ..settings })
    }
}

impl Options {
    /// Settings of a search or one of its controls; `base` has the epochs in all.
    pub(crate) fn layerwise(
        &self,
        chooser: Chooser,
        base: Config,
        density: f64,
        target: Core,
    ) -> Result<Layerwise> {
        let defaults = Layerwise::new(chooser, base, self.search_epochs)?;
        let method = self.retrain.clone();
        let settings = Layerwise {
            density,
            target,
            criteria: self.criteria.clone().unwrap_or(defaults.criteria),
            structures: self.structures.clone().unwrap_or(defaults.structures),
            ratios: self.ratios.clone().unwrap_or(defaults.ratios),
            cost_weight: self.cost_weight.unwrap_or(defaults.cost_weight),
            training: Config { method, density, ..defaults.training }.fitted(),
            ..defaults
        };
        settings.check()?;
        Ok(settings)
    }
}

/// Runs `niwaki layerwise`.
pub(crate) fn run(args: &LayerwiseArgs, format: Format) -> Result<()> {
    let device = sparse::device(&args.device)?;
    let data = if args.resume { resume(args)? } else { start(args, &device)? };
    let stop = output::stop_on_ctrl_c()?;
    let file = LayerwiseFile::load(&args.out)?;
    let (task, density) = (file.net.task, file.settings.density);
    let progress = std::cell::RefCell::new(Progress::new(task, 0, density)?);
    let outcome = layerwise(
        &args.out,
        &data,
        &device,
        &mut |stage, epochs| {
            let name = match stage {
                Stage::Teacher => "dense teacher",
                Stage::Search => "search",
                Stage::Retraining => "retraining",
            };
            progress.borrow().bar.finish_and_clear();
            eprintln!("{name}: {epochs} epochs");
            if let Ok(next) = Progress::new(task, epochs, density) {
                *progress.borrow_mut() = next;
            }
        },
        &mut |event| {
            progress.borrow_mut().show(event);
            output::flow(&stop)
        },
    )?;
    progress.borrow().bar.finish_and_clear();
    match outcome {
        Outcome::Complete(summary) => show(args, &summary, format),
        Outcome::Stopped(_) => {
            bail!("stopped; continue with `niwaki layerwise --resume --out {}`", args.out.display())
        }
    }
}

fn start(args: &LayerwiseArgs, device: &Device) -> Result<Dataset> {
    let exists = LayerwiseFile::exists(&args.out) || args.out.join(RUN_FILE).exists();
    if exists && !args.force {
        bail!(
            "{} already holds a run; give another --out, --resume to continue a search or --force to replace \
             it",
            args.out.display()
        );
    }
    let spec = args.data.as_deref().unwrap_or("digits");
    let data = load(spec, &args.load)?;
    let net = crate::train::network(args.net.as_deref(), &data)?;
    let settings = args.settings.layerwise(args.recipe.for_data(&data, device)?)?;
    let file = LayerwiseFile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        net,
        data: DataInfo::new(spec, &args.load, &data),
        settings,
        choice: None,
    };
    prepare(&args.out, &file)?;
    Ok(data)
}

fn resume(args: &LayerwiseArgs) -> Result<Dataset> {
    let file = LayerwiseFile::load(&args.out)?;
    let same_data = args.data.as_ref().is_none_or(|spec| *spec == file.data.spec);
    ensure!(same_data, "the search in {} learns from {}", args.out.display(), file.data.spec);
    Ok(load(&file.data.spec, &file.data.options)?)
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    choice: &'a sparse::layerwise::Choice,
}

fn show(args: &LayerwiseArgs, summary: &Summary, format: Format) -> Result<()> {
    let file = LayerwiseFile::load(&args.out)?;
    let choice = file.choice.context("the search has no result")?;
    if format == Format::Json {
        return output::print_json(&Report { summary, choice: &choice });
    }
    let mut table = output::table(["layer", "strategy", "weights"]);
    for layer in &choice.layers {
        let weights = format!("{} of {}", layer.kept, layer.weights);
        table.add_row([layer.name.clone(), layer.strategy.to_string(), weights]);
    }
    output::print_table(&table)?;
    print(&args.out, &RunFile::load(&args.out)?, summary, format)
}
