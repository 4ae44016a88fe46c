//! `niwaki report`: a training run and its model as one HTML page.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use niwaki::data::{Split, load};
use niwaki::export;
use niwaki::net::RunFile;
use niwaki::report::{self, Outcome, Report};
use niwaki::sparse::EpochRow;
use niwaki::sparse::layerwise::LayerwiseFile;
use niwaki::target::cost::Core;
use niwaki::target::{Samples, Target, clips, validate};
use niwaki_core::Model;

use crate::inputs;
use crate::output::{self, Format};

/// Arguments of `niwaki report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Runs the exported model of a training run on the target, compares every output byte with this computer's,
prints the result and writes report.html into the run's folder.

Example:
  niwaki report runs/digits --target qemu-cortex-m4")]
pub(crate) struct ReportArgs {
    /// Folder of a complete training run with its exported model
    run: PathBuf,
    /// The model [default: model.niwaki in the run's folder]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Where to run it: a board under boards/, or `host`
    #[arg(long, default_value = "qemu-cortex-m4")]
    target: String,
    /// Use only the first N samples of the test split
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// File to write [default: report.html in the run's folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs `niwaki report`.
pub(crate) fn run(args: &ReportArgs, format: Format) -> Result<()> {
    let run = RunFile::load(&args.run)?;
    let Some(summary) = run.summary.clone() else {
        bail!(
            "the run in {0} is not complete; continue it with `niwaki train --resume --out {0}`",
            args.run.display()
        );
    };
    let path = args.model.clone().unwrap_or_else(|| args.run.join("model.niwaki"));
    if args.model.is_none() && !path.exists() {
        export::export_run(&args.run, &path, Core::CortexM4, None, None)?;
        eprintln!("wrote {}", path.display());
    }
    let blob = export::read_model(&path)?;
    let model =
        Model::new(blob.as_bytes()).with_context(|| format!("{} is refused", path.display()))?;

    let data = load(&run.data.spec, &run.data.options.for_model(&model))?;
    let samples = inputs::samples(&data, Split::Test, args.limit)?;
    let (inputs, labels) = inputs::of_samples(&model, &data, &samples)?;
    let clips = clips(&model, &data, &samples);
    let target = Target::find(&args.target)?;
    let firmware = output::firmware(&target)?;
    let bar = output::bar(inputs.len() as u64, "samples").with_message(target.name().to_owned());
    let compared = Samples {
        inputs: &inputs,
        labels: (model.label_count() > 0).then_some(&labels),
        golden: None,
        clips: clips.as_deref(),
    };
    let validation = validate(&target, firmware.as_ref(), &model, compared, &|| bar.inc(1))?;
    bar.finish_and_clear();

    let core = match &target {
        Target::Board(board) | Target::Attached { board, .. } => {
            Core::from_name(&board.about.core).unwrap_or(Core::CortexM4)
        }
        Target::Host => Core::CortexM4,
    };
    let analysis = export::analyse(&model, core);
    let choice = match LayerwiseFile::exists(&args.run) {
        true => LayerwiseFile::load(&args.run)?.choice,
        false => None,
    };
    let report = Report {
        choice,
        result: Outcome::new(&summary, &analysis, &validation),
        epochs: epochs(&args.run)?,
        run,
        analysis,
        validation,
    };
    let file = args.output.clone().unwrap_or_else(|| args.run.join("report.html"));
    std::fs::write(&file, report::html(&report)?)
        .with_context(|| format!("writing {}", file.display()))?;
    match format {
        Format::Json => output::print_json(&report.result)?,
        Format::Table => {
            let mut table = output::table([&report.run.net.name, report.run.data.name.as_str()]);
            for (name, value) in report.result.rows() {
                table.add_row([name.to_owned(), value]);
            }
            output::print_table(&table)?;
            output::print(&format!("report: {}", file.display()))?;
        }
    }
    let differing =
        report.result.mismatched_bytes + report.result.mismatched_feature_bytes.unwrap_or_default();
    ensure!(differing == 0, "{differing} bytes of {target} differ from the host's");
    Ok(())
}

fn epochs(run: &Path) -> Result<Vec<EpochRow>> {
    let path = run.join(niwaki::net::METRICS_FILE);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}", path.display(), index + 1))
    };
    text.lines().enumerate().map(parse).collect()
}
