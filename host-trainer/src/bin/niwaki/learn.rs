//! `niwaki learn`: what tuning a model on a device would bring, one group of samples at a time.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use clap::Args;
use niwaki::data::{Dataset, LoadOptions, Split, load};
use niwaki::export;
use niwaki::learn::{Samples, Schedule, Tuned, tune, tune_on};
use niwaki::target::{Device, Target, TargetError};
use niwaki_core::Model;
use niwaki_core::learn::{Plan, Settings};
use rayon::prelude::*;
use serde::Serialize;

use crate::output::{self, Format};

/// Arguments of `niwaki learn`.
#[derive(Debug, Args)]
#[command(after_help = "\
A group is a person or device that samples come from. For each, the first samples of every class are
learned, and the accuracy on its other samples is measured before and after.

Examples:
  niwaki learn model.niwaki --data wisdm.csv --group user --epochs 3
  niwaki learn model.niwaki --data wisdm.csv --group user --member 7 --per-class 5
  niwaki learn model.niwaki --data wisdm.csv --group user --target qemu-cortex-m4 --out table.md
  niwaki learn model.niwaki --data digits --tunable 1   # no groups: the validation split is learned
  niwaki learn model.niwaki --data wisdm.csv --group user --member 7 --target nrf52840-dk --port /dev/ttyACM0 --keep")]
pub(crate) struct LearnArgs {
    /// The model, as `niwaki export --tunable` wrote it
    model: PathBuf,
    /// Where to learn: host, by the code that devices run, or a board
    #[arg(long, default_value = "host")]
    target: String,
    /// Serial port of a real board that runs the agent with the model, such as /dev/ttyACM0
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Let the board keep what it learned for --member: it runs the model like that after a reset, too, until
    /// `niwaki forget`
    #[arg(long, requires = "port", requires = "member")]
    keep: bool,
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(long, default_value = "digits")]
    data: String,
    /// Tune for this group only [default: each group of the test split]
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
    /// Samples of each class that are learned
    #[arg(long, default_value_t = 5, value_name = "N")]
    per_class: usize,
    /// Times that the samples are learned
    #[arg(long, default_value_t = 3, value_name = "N")]
    epochs: usize,
    /// Step per unit of gradient
    #[arg(long, default_value_t = 0.05, value_name = "RATE")]
    learning_rate: f32,
    /// Part of the velocity that stays from batch to batch
    #[arg(long, default_value_t = 0.9)]
    momentum: f32,
    /// Samples of a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch: u16,
    /// Mark this many layers as tunable first, whatever the model says
    #[arg(long, value_name = "LAYERS")]
    tunable: Option<usize>,
    /// Seed of the samples' order
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    order_seed: u64,
    /// Also write the table to this Markdown file
    #[arg(long, value_name = "FILE.md")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: LoadOptions,
}

#[derive(Debug, Serialize)]
struct Learned {
    target: String,
    /// Mean over the groups; none on the host.
    instructions_per_sample: Option<u64>,
    /// Bytes of RAM that learning needs beside the arena.
    learner_bytes: usize,
    arena_bytes: usize,
    tunable_layers: usize,
    tunable_weights: usize,
    groups: Vec<Group>,
    /// Mean over the groups, and standard deviation.
    accuracy_before: [f64; 2],
    accuracy_after: [f64; 2],
    gain: [f64; 2],
}

#[derive(Debug, Serialize)]
struct Group {
    name: String,
    #[serde(flatten)]
    tuned: Tuned,
}

/// Runs `niwaki learn`.
pub(crate) fn run(args: &LearnArgs, format: Format) -> Result<()> {
    let target = Target::find(&args.target)?.at(args.port.as_deref())?;
    let blob = export::read_tunable(&args.model, args.tunable)?;
    let model = Model::new(blob.as_bytes())
        .with_context(|| format!("{} is refused", args.model.display()))?;
    let plan = Plan::new(&model)?;
    let data = load(&args.data, &args.options.for_model(&model))?;
    let settings =
        Settings { learning_rate: args.learning_rate, momentum: args.momentum, batch: args.batch };
    let schedule = Schedule { settings, epochs: args.epochs, seed: args.order_seed };
    let members = members(&data, args.member.as_deref())?;
    let firmware = output::firmware(&target)?;
    // A board at a port learns for one group after the other.
    let port_in_use = Mutex::new(());
    let bar = output::bar(members.len() as u64, "groups");
    bar.set_message(target.name().to_owned());
    let groups = members
        .into_par_iter()
        .map(|(name, samples)| {
            let (learned, tested) = divide(&data, &samples, args.per_class);
            let learned = Samples::of(&model, &data, &learned)?;
            let tested = Samples::of(&model, &data, &tested)?;
            let on = |device: Result<Device, TargetError>| -> Result<Tuned> {
                tune_on(&mut device?, &model, &learned, &tested, &schedule, args.keep)
            };
            let tuned = match (&target, &firmware) {
                (Target::Board(board), Some(firmware)) => {
                    on(Device::start(board, firmware, &model))
                }
                (Target::Attached { board, port }, _) => {
                    let _alone = port_in_use.lock().unwrap_or_else(|poison| poison.into_inner());
                    on(Device::connect(board, port, &model))
                }
                _ => tune(&model, &learned, &tested, &schedule),
            };
            let tuned = tuned.with_context(|| format!("group `{name}`"))?;
            bar.inc(1);
            Ok(Group { name, tuned })
        })
        .collect::<Result<Vec<Group>>>()?;
    bar.finish_and_clear();
    let over = |value: &dyn Fn(&Tuned) -> f64| {
        let values: Vec<f64> = groups.iter().map(|group| value(&group.tuned)).collect();
        mean_and_deviation(&values)
    };
    let counts: Vec<u64> =
        groups.iter().filter_map(|group| group.tuned.instructions_per_sample).collect();
    let result = Learned {
        target: target.name().to_owned(),
        instructions_per_sample: counts.iter().sum::<u64>().checked_div(counts.len() as u64),
        learner_bytes: plan.learner_len(),
        arena_bytes: model.arena_len(),
        tunable_layers: plan.layer_count(),
        tunable_weights: plan.weight_count(),
        accuracy_before: over(&|tuned| tuned.accuracy_before),
        accuracy_after: over(&|tuned| tuned.accuracy_after),
        gain: over(&|tuned| tuned.accuracy_after - tuned.accuracy_before),
        groups,
    };
    if let Some(path) = &args.out {
        std::fs::write(path, markdown(&result, &data.name))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    match format {
        Format::Json => output::print_json(&result),
        Format::Table => {
            let header = ["group", "learned", "tested", "before", "after", "last loss"];
            let mut table = output::table(header);
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            for Group { name, tuned } in &result.groups {
                table.add_row([
                    name.clone(),
                    tuned.learned.to_string(),
                    tuned.tested.to_string(),
                    percent(tuned.accuracy_before),
                    percent(tuned.accuracy_after),
                    tuned.losses.last().map_or(String::new(), |loss| format!("{loss:.3}")),
                ]);
            }
            output::print_table(&table)?;
            let [mean, deviation] = result.gain;
            let points = |share: f64| format!("{:.1}", 100.0 * share);
            println!(
                "gain {} points, standard deviation {} over {} groups; {} weights of {} layers tuned in {} bytes of RAM beside the arena of {}",
                points(mean),
                points(deviation),
                result.groups.len(),
                result.tunable_weights,
                result.tunable_layers,
                result.learner_bytes,
                result.arena_bytes,
            );
            if let Some(count) = result.instructions_per_sample {
                println!("{count} instructions per sample learned on {}", result.target);
            }
            Ok(())
        }
    }
}

/// The result as a page.
fn markdown(result: &Learned, data: &str) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let spread =
        |[mean, deviation]: [f64; 2]| format!("{} ± {}", percent(mean), percent(deviation));
    let mut text = format!(
        "# Learning on {} from {data}\n\n```\n{}\n```\n\n| group | learned | tested | before, % | after, % |\n\
         |---|---|---|---|---|\n",
        result.target,
        crate::experiment::command(),
    );
    for Group { name, tuned } in &result.groups {
        let (before, after) = (percent(tuned.accuracy_before), percent(tuned.accuracy_after));
        let row =
            format!("| {name} | {} | {} | {before} | {after} |\n", tuned.learned, tuned.tested);
        text.push_str(&row);
    }
    text += &format!(
        "\nMean ± standard deviation over {} groups: {} % before, {} % after, gain {} points. {} weights in {} layers\n\
         are tuned, in {} bytes of RAM beside the arena of {}.\n",
        result.groups.len(),
        spread(result.accuracy_before),
        spread(result.accuracy_after),
        spread(result.gain),
        result.tunable_weights,
        result.tunable_layers,
        result.learner_bytes,
        result.arena_bytes,
    );
    if let Some(count) = result.instructions_per_sample {
        text += &format!("A learned sample takes {count} instructions.\n");
    }
    text
}

/// Names and samples of the groups to tune for.
fn members(data: &Dataset, member: Option<&str>) -> Result<Vec<(String, Vec<usize>)>> {
    let Some(groups) = &data.groups else {
        ensure!(member.is_none(), "the data `{}` have no groups", data.name);
        // Nobody in particular: the validation and test samples together.
        let mut samples = data.indices(Split::Val);
        samples.extend(data.indices(Split::Test));
        return Ok(vec![("all".to_owned(), samples)]);
    };
    let samples_of = |group: usize| -> Vec<usize> {
        (0..data.len()).filter(|&sample| groups.ids[sample] as usize == group).collect()
    };
    if let Some(member) = member {
        let group = groups.names.iter().position(|name| name == member);
        let group = group.with_context(|| {
            format!("no group `{member}` in `{}`: it has {}", data.name, groups.names.join(", "))
        })?;
        return Ok(vec![(member.to_owned(), samples_of(group))]);
    }
    let tested: std::collections::BTreeSet<u32> =
        data.indices(Split::Test).iter().map(|&sample| groups.ids[sample]).collect();
    let named = |id: u32| (groups.names[id as usize].clone(), samples_of(id as usize));
    Ok(tested.into_iter().map(named).collect())
}

/// The first `per_class` samples of each class, and the others.
fn divide(data: &Dataset, samples: &[usize], per_class: usize) -> (Vec<usize>, Vec<usize>) {
    let mut seen = vec![0; data.classes()];
    samples.iter().partition(|&&sample| {
        let count = &mut seen[data.labels[sample] as usize];
        *count += 1;
        *count <= per_class
    })
}

fn mean_and_deviation(values: &[f64]) -> [f64; 2] {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    [mean, (square / (count - 1.0).max(1.0)).sqrt()]
}
