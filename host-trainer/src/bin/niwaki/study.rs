//! `niwaki study`: what a search has found.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use niwaki::data::{Dataset, load};
use niwaki::net::DataInfo;
use niwaki::report;
use niwaki::search::front;
use niwaki::search::settings::Search;
use niwaki::search::study::{Candidate, Place, Status, Study};
use niwaki::search::view::{Validated, View};
use niwaki::target::Target;
use niwaki::target::cost::Core;

use crate::output::{self, Format};

/// Arguments of `niwaki study`.
#[derive(Debug, Args)]
pub(crate) struct StudyArgs {
    #[command(subcommand)]
    what: StudyWhat,
}

#[derive(Debug, Subcommand)]
enum StudyWhat {
    /// Show candidates, front and hypervolume
    Show {
        /// Where the study is: a folder, or postgres://USER@HOST/DATABASE#NAME
        #[arg(value_name = "FOLDER|URL")]
        study: Place,
        /// Show all candidates, not only the front
        #[arg(long)]
        all: bool,
    },
    /// Write the model of a candidate
    #[command(after_help = "\
Examples:
  niwaki study export runs/search -o model.niwaki
  niwaki study export runs/search --pick best-accuracy -o model.niwaki
  niwaki study export runs/search --pick 17 -o model.niwaki
  niwaki study export runs/scenes --pick best-accuracy -o model.niwaki --net scenes.toml")]
    Export {
        /// Where the study is: a folder, or postgres://USER@HOST/DATABASE#NAME
        #[arg(value_name = "FOLDER|URL")]
        study: Place,
        /// Which one: knee (nearest to the best of each objective), best-accuracy, or its number
        #[arg(long, default_value = "knee", value_name = "knee|best-accuracy|ID")]
        pick: Pick,
        /// File to write
        #[arg(short, long, value_name = "FILE", default_value = "model.niwaki")]
        output: PathBuf,
        /// File for the description of its network, for `niwaki train --net`
        #[arg(long, value_name = "FILE.toml")]
        net: Option<PathBuf>,
    },
    /// Compare the models of the front with the target and write report.html and the models
    Report {
        /// Where the study is: a folder, or postgres://USER@HOST/DATABASE#NAME
        #[arg(value_name = "FOLDER|URL")]
        study: Place,
        /// Where the data are on this computer [default: as the study says]
        #[arg(long)]
        data: Option<String>,
        /// Folder for report.html and the models [default: that of the study, or runs/ and its name]
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
        #[command(flatten)]
        finish: Finish,
    },
}

/// How the models of a front are compared with the target.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the comparison with the target")]
pub(crate) struct Finish {
    /// Where the models of the front run in the end: a board under boards/, `host` or `none` [default: the
    /// emulated board with the core of --target]
    #[arg(long, value_name = "TARGET")]
    validate_on: Option<String>,
    /// Samples on which each of them is compared
    #[arg(long, value_name = "N", default_value_t = 20)]
    validate_samples: usize,
}

impl Finish {
    /// The target, if there is to be one.
    pub(crate) fn target(&self, core: Core) -> Result<Option<Target>> {
        match self.validate_on.as_deref() {
            Some("none") => Ok(None),
            Some(name) => Ok(Some(Target::find(name)?)),
            None => {
                let fits = |target: &Target| match target {
                    Target::Board(board) => {
                        board.about.core == core.to_string() && board.about.emulator.is_some()
                    }
                    _ => false,
                };
                let found = Target::all()?.into_iter().find(fits);
                found.map(Some).with_context(|| {
                    format!("no emulated board has a {core}; choose one with --validate-on")
                })
            }
        }
    }
}

/// Which candidate.
#[derive(Debug, Clone)]
enum Pick {
    Knee,
    BestAccuracy,
    Id(i64),
}

impl std::str::FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("knee", _) => Ok(Self::Knee),
            ("best-accuracy", _) => Ok(Self::BestAccuracy),
            (_, Ok(id)) => Ok(Self::Id(id)),
            _ => Err(format!(
                "expected knee, best-accuracy or the number of a candidate, found `{text}`"
            )),
        }
    }
}

/// Runs `niwaki study`.
pub(crate) fn run(args: &StudyArgs, format: Format) -> Result<()> {
    match &args.what {
        StudyWhat::Show { study, all } => show(&View::load(&Study::open(study)?)?, *all, format),
        StudyWhat::Export { study, pick, output, net } => {
            let study = Study::open(study)?;
            let view = View::load(&study)?;
            let candidate = picked(&view, pick)?;
            front::export(&study, &view, candidate, output)?;
            if let Some(net) = net {
                front::export_net(&view, candidate, net)?;
            }
            match format {
                Format::Json => output::print_json(&serde_json::json!({
                    "candidate": candidate.id,
                    "model": output,
                })),
                Format::Table => {
                    output::print(&format!("candidate {}: {}", candidate.id, output.display()))
                }
            }
        }
        StudyWhat::Report { study, data, out, finish: options } => {
            let place = study;
            let study = Study::open(place)?;
            let search = View::load(&study)?.search;
            let target = options.target(search.target)?;
            let data = load_data(&search, data.as_deref())?;
            let folder = match (out, place) {
                (Some(out), _) => out.clone(),
                (None, Place::Folder(folder)) => folder.clone(),
                (None, Place::Url { name, .. }) => Path::new("runs").join(name),
            };
            finish(&study, &data, target.as_ref(), &folder, options, format)
        }
    }
}

/// Loads the data of a study, from another place if one is given.
pub(crate) fn load_data(search: &Search, place: Option<&str>) -> Result<Dataset> {
    let known = &search.data;
    let data = load(place.unwrap_or(&known.spec), &known.options)?;
    let found = DataInfo::new(&known.spec, &known.options, &data);
    ensure!(
        found.normalisation == known.normalisation && found.label_names == known.label_names,
        "{} holds other data than those that the study was started with ({})",
        place.unwrap_or(&known.spec),
        known.name
    );
    Ok(data)
}

fn picked<'v>(view: &'v View, pick: &Pick) -> Result<&'v Candidate> {
    let found = match pick {
        Pick::Knee => view.knee(),
        Pick::BestAccuracy => view.front.first().and_then(|id| view.candidate(*id)),
        Pick::Id(id) => {
            let found = view.candidate(*id);
            let candidate =
                found.with_context(|| format!("the study {} has no candidate {id}", view.place))?;
            ensure!(
                candidate.status == Status::Done,
                "candidate {id} has no model: {}",
                candidate.error.as_deref().unwrap_or("it is being evaluated")
            );
            found
        }
    };
    found.with_context(|| format!("the study {} has no evaluated candidate yet", view.place))
}

/// Share by which measured instructions may differ from predicted ones before a warning is due.
const MOST_OFF: f64 = 0.1;

/// Writes models and report of a front, after comparing them with the target.
pub(crate) fn finish(
    study: &Study,
    data: &Dataset,
    target: Option<&Target>,
    folder: &Path,
    options: &Finish,
    format: Format,
) -> Result<()> {
    let view = View::load(study)?;
    if let Some(target) = target {
        let firmware = output::firmware(target)?;
        let bar = output::bar(view.front.len() as u64, "models");
        bar.set_message(target.name().to_owned());
        let samples = options.validate_samples;
        front::validate_front(
            study,
            &view,
            data,
            target,
            firmware.as_ref(),
            samples,
            &mut |_, _| {
                bar.inc(1);
            },
        )?;
        bar.finish_and_clear();
    }
    let view = View::load(study)?;
    let models = folder.join("front");
    if models.exists() {
        std::fs::remove_dir_all(&models)
            .with_context(|| format!("emptying {}", models.display()))?;
    }
    std::fs::create_dir_all(&models)
        .with_context(|| format!("creating the folder {}", models.display()))?;
    for candidate in view.front.iter().filter_map(|id| view.candidate(*id)) {
        front::export(study, &view, candidate, &models.join(format!("{}.niwaki", candidate.id)))?;
    }
    let page = folder.join("report.html");
    std::fs::write(&page, report::search_html(&view)?)
        .with_context(|| format!("writing {}", page.display()))?;
    show(&view, false, format)?;
    if format == Format::Table {
        output::print(&format!("models: {}\nreport: {}", models.display(), page.display()))?;
    }
    let off = |(id, validated): (&i64, &Validated)| {
        let details = view.details(view.candidate(*id)?).ok()??;
        Some((validated.instructions? as f64 / details.needs.instructions - 1.0).abs())
    };
    // What was predicted is of the core that the search was for.
    if options.validate_on.is_none()
        && let Some(worst) = view.validated.iter().filter_map(off).max_by(f64::total_cmp)
    {
        let text = format!(
            "measured instructions are within {:.1} % of those predicted, for {} models",
            100.0 * worst,
            view.validated.len()
        );
        if worst > MOST_OFF {
            eprintln!(
                "warning: {text}; `niwaki calibrate` fits the cost model to this version's kernels"
            );
        } else if format == Format::Table {
            output::print(&text)?;
        }
    }
    let wrong: Vec<String> = view
        .validated
        .iter()
        .filter(|(_, validated)| validated.mismatched_bytes > 0)
        .map(|(id, validated)| format!("{} of candidate {id}", validated.mismatched_bytes))
        .collect();
    if !wrong.is_empty() {
        bail!("output bytes of the target differ from the host's: {}", wrong.join(", "));
    }
    Ok(())
}

fn show(view: &View, all: bool, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&view.to_json()?);
    }
    let mut table = output::table([
        "",
        "merit, val",
        "merit, test",
        "instructions",
        "measured",
        "differ",
        "flash",
        "arena",
        "density",
    ]);
    let on_front = view.front.iter().filter_map(|id| view.candidate(*id));
    let shown: Vec<&Candidate> =
        if all { view.candidates.iter().collect() } else { on_front.collect() };
    for candidate in shown {
        let mark = if all && view.front.contains(&candidate.id) { "*" } else { "" };
        let id = format!("{}{mark}", candidate.id);
        let Some(details) = view.details(candidate)? else {
            let status = candidate.error.clone().unwrap_or_else(|| "being evaluated".to_owned());
            table.add_row([id, status]);
            continue;
        };
        let validated = view.validated.get(&candidate.id);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let merit = |value: f64| format!("{value:.4}");
        table.add_row([
            id,
            merit(details.merit),
            or_dash(validated.and_then(|v| v.merit_test).map(merit)),
            format!("{:.0}", details.needs.instructions),
            or_dash(validated.and_then(|v| v.instructions).map(|count| count.to_string())),
            or_dash(validated.map(|v| v.mismatched_bytes.to_string())),
            details.needs.flash.to_string(),
            details.needs.ram.to_string(),
            format!("{:.3}", details.density),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    output::print_table(&table)?;
    let volume = view.hypervolume().map_or("-".to_owned(), |volume| format!("{volume:.4}"));
    let tau = view.tau().map_or(String::new(), |tau| {
        format!(", tau of {} predictions {tau:.3}", view.predictions().len())
    });
    output::print(&format!(
        "{} of {} evaluated, {} failed, front {}, hypervolume {volume}{tau}",
        view.count(Status::Done),
        view.budget,
        view.count(Status::Failed),
        view.front.len(),
    ))
}
