//! `niwaki data`: looks at data sets.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use niwaki::data::{
    self, Description, LoadOptions, SoundCounts, SplitCounts, load_with_source, write_contact_sheet,
};

use crate::output::{self, Format};

/// Arguments of `niwaki data`.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Print shape, classes, splits, groups, normalisation and source of a data set
    Describe(DescribeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  niwaki data describe digits --preview digits.png
  niwaki data describe fashion-mnist --val-fraction 0.1
  niwaki data describe photos/ --resize 64x64
  niwaki data describe activity.csv --label label --group user --split-by group
  niwaki data describe speech/ --features log-mel:mel=32
  niwaki data describe inputs.npy,labels.npy --format json")]
struct DescribeArgs {
    /// Data set: digits, fashion-mnist, mnist, or the path of a folder or file
    #[arg(default_value = "digits")]
    data: String,
    /// Write a contact sheet: one row of samples per class
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    #[command(flatten)]
    options: LoadOptions,
}

/// Runs `niwaki data`.
pub(crate) fn run(args: &DataArgs, format: Format) -> Result<()> {
    match &args.command {
        DataCommand::Describe(args) => describe(args, format),
    }
}

fn describe(args: &DescribeArgs, format: Format) -> Result<()> {
    let (dataset, source) = load_with_source(&args.data, &args.options)?;
    if let Some(path) = &args.preview {
        write_contact_sheet(&dataset, path)?;
        eprintln!("wrote {}: one row per class, in the order of the table", path.display());
    }
    let description = data::describe(&dataset, source);
    match format {
        Format::Json => output::print_json(&description),
        Format::Table => {
            output::print_table(&facts(&description))?;
            output::print_table(&classes(&description))
        }
    }
}

fn facts(description: &Description) -> comfy_table::Table {
    let mut table = output::table(["data set", &description.name]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("samples", description.samples.to_string());
    row("shape", shape(description));
    row("unit", description.unit.clone());
    if let Some(sound) = &description.sound {
        row("features", sound.front_end.to_string());
        row("other lengths", lengths(sound));
    }
    row("normalisation", normalisation(description));
    row("missing values", missing(description));
    row("groups", groups(description));
    let source = &description.source;
    let location = source.location.as_ref().map(|path| format!(", {}", path.display()));
    row("source", source.format.clone() + &location.unwrap_or_default());
    row("licence", source.licence.clone().unwrap_or_else(|| "not known".to_owned()));
    if let Some(attribution) = &source.attribution {
        row("attribution", attribution.clone());
    }
    table
}

fn shape(description: &Description) -> String {
    let [height, width, channels] = description.shape;
    match [height, width] {
        _ if description.sound.is_some() => format!("{height} x {width} (windows x features)"),
        [1, 1] => format!("{channels} features"),
        _ => format!("{height} x {width} x {channels} (height x width x channels)"),
    }
}

fn lengths(sound: &SoundCounts) -> String {
    match (sound.padded, sound.cut) {
        (0, 0) => "none".to_owned(),
        (padded, cut) => {
            format!("{padded} shorter clips, filled up with silence; {cut} longer clips, cut")
        }
    }
}

fn normalisation(description: &Description) -> String {
    let normalisation = &description.normalisation;
    match (&normalisation.mean[..], &normalisation.std[..]) {
        ([mean], [std]) => format!("(x - {mean}) / {std}, from the training split"),
        _ if description.sound.is_some() => {
            "(x - mean) / std per column, from the training split".to_owned()
        }
        _ => "(x - mean) / std per feature, from the training split".to_owned(),
    }
}

fn missing(description: &Description) -> String {
    let columns = &description.source.missing;
    if columns.is_empty() {
        return "none".to_owned();
    }
    let total: usize = columns.iter().map(|column| column.count).sum();
    let columns: Vec<String> =
        columns.iter().map(|column| format!("{} {}", column.column, column.count)).collect();
    format!("{total} ({}), set to the training mean of their column", columns.join(", "))
}

fn groups(description: &Description) -> String {
    match &description.groups {
        None => "none".to_owned(),
        Some(groups) => {
            let SplitCounts { train, val, test } = groups.counts;
            let shared = match groups.shared {
                0 => "none in two splits".to_owned(),
                shared => format!("{shared} in more than one split"),
            };
            format!("{} (train {train}, val {val}, test {test}; {shared})", groups.count)
        }
    }
}

fn classes(description: &Description) -> comfy_table::Table {
    let mut table = output::table(["class", "name", "train", "val", "test", "all"]);
    let mut row = |index: String, name: &str, counts: &SplitCounts| {
        let SplitCounts { train, val, test } = counts;
        let counts = [*train, *val, *test, counts.total()].map(|count| count.to_string());
        table.add_row([index, name.to_owned()].into_iter().chain(counts));
    };
    for (i, class) in description.classes.iter().enumerate() {
        row(i.to_string(), &class.name, &class.counts);
    }
    row(String::new(), "all", &description.splits);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table
}
