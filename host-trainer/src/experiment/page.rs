//! The page of an experiment: Markdown with a table per density and a plot.

use std::path::Path;

use anyhow::Result;

use super::{Cell, Impossible, Row, Spread, Summary, plot, rows::commits};
use crate::net::{spec::Task, trained::write_atomically};

const PLOT_FILE: &str = "accuracy.svg";

/// What stands on the page beside the comparison.
pub struct Page<'a> {
    /// Heading.
    pub title: String,
    /// Command that makes it.
    pub command: String,
    /// Sentences on what was done.
    pub about: Vec<String>,
    /// The rows that were compared.
    pub rows: &'a [Row],
    /// Number of trials that the experiment has.
    pub trials: usize,
    /// What the network cannot be.
    pub impossible: &'a [Impossible],
}

/// Writes `README.md` and the plot into the folder of an experiment.
///
/// # Errors
/// When a file cannot be written or the plot not be drawn.
pub fn write_page(folder: &Path, page: &Page<'_>, summary: &Summary) -> Result<()> {
    let svg = plot::draw(summary)?;
    write_atomically(&folder.join(PLOT_FILE), svg.as_bytes())?;
    write_atomically(&folder.join("README.md"), markdown(page, summary).as_bytes())
}

/// The beginning of a page: title, command, commits of the rows, and what was done.
pub(super) fn head<'a>(
    title: &str,
    command: &str,
    of_rows: impl Iterator<Item = Option<&'a str>>,
    about: &str,
) -> String {
    let commits = commits(of_rows);
    let at = if commits.is_empty() { String::new() } else { format!("At {commits}. ") };
    format!("# {title}\n\n```sh\n{command}\n```\n\n{at}{about}")
}

fn markdown(page: &Page<'_>, summary: &Summary) -> String {
    let mut text = format!("# {}\n\n```sh\n{}\n```\n\n", page.title, page.command);
    let commits = commits(page.rows.iter().map(|row| row.commit.as_deref()));
    let hours = page.rows.iter().map(|row| row.seconds).sum::<f64>() / 3600.0;
    text += &format!(
        "{} of {} trainings, {hours:.2} hours of training in all{}.\n",
        page.rows.len(),
        page.trials,
        if commits.is_empty() { String::new() } else { format!(", at {commits}") }
    );
    for sentence in &page.about {
        text += sentence;
        text.push('\n');
    }
    text += &format!(
        "\n![figure of merit over density]({PLOT_FILE})\n\n\
         {} Figures are mean ± standard deviation over seeds, on the test split. Differences are paired by \
         seed; positive is better. `int8` is the exported model, run by the code that devices run; \
         instructions are predicted by the cost model. A control is marked by *.\n",
        match summary.task {
            Task::Classify => "`float` and `int8` are accuracies.",
            Task::Reconstruct => "`float` and `int8` are mean squared errors.",
        }
    );
    let mut densities: Vec<f64> = summary.cells.iter().map(|cell| cell.density).collect();
    densities.dedup();
    for density in densities {
        let cells: Vec<&Cell> =
            summary.cells.iter().filter(|cell| cell.density == density).collect();
        text += &table(density, &cells, summary.task);
    }
    if !page.impossible.is_empty() {
        text += "\n## Not possible\n\n| variant | density | why |\n|---|---|---|\n";
        for Impossible { variant, density, reason } in page.impossible {
            text += &format!("| {variant} | {density} | {reason} |\n");
        }
    }
    text
}

fn table(density: f64, cells: &[&Cell], task: Task) -> String {
    let unit = match task {
        Task::Classify => "%",
        Task::Reconstruct => "squared error",
    };
    let best_control = cells.iter().find_map(|cell| cell.best_control.as_ref());
    let baseline = cells.iter().find_map(|cell| cell.baseline.as_ref());
    let mut header = vec!["".to_owned(), "density".to_owned()];
    header.extend(["float", "int8"].map(|kind| format!("{kind}, {unit}")));
    if let Some(best) = best_control {
        header.extend(["float", "int8"].map(|kind| format!("{kind} - {}", best.with)));
    }
    if let Some(baseline) =
        baseline.filter(|_| baseline.map(|b| &b.with) != best_control.map(|b| &b.with))
    {
        header.push(format!("float - {}", baseline.with));
    }
    let columns = header.len();
    header.extend(["instructions", "flash, bytes", "arena, bytes", "seconds"].map(str::to_owned));
    let mut text = format!("\n## Density {density}\n\n| {} |\n|---|", header.join(" | "));
    text += &"---:|".repeat(header.len() - 1);
    text.push('\n');
    let sign = if task == Task::Classify { 1.0 } else { -1.0 };
    let most = cells.iter().map(|cell| sign * cell.float.mean).fold(f64::NEG_INFINITY, f64::max);
    for cell in cells {
        let float = figure(cell.float, task, false);
        let mark = if cell.control { "*" } else { "" };
        let mut row = vec![
            format!("{}{mark}", cell.variant),
            format!("{:.4}", cell.density_real),
            if sign * cell.float.mean == most { format!("**{float}**") } else { float },
            figure(cell.int8, task, false),
        ];
        let difference = |spread: Option<Spread>| {
            spread.map_or_else(String::new, |spread| figure(spread, task, true))
        };
        if best_control.is_some() {
            let best = cell.best_control.as_ref();
            row.push(difference(best.map(|best| best.float)));
            row.push(difference(best.map(|best| best.int8)));
        }
        if row.len() < columns {
            row.push(difference(cell.baseline.as_ref().map(|baseline| baseline.float)));
        }
        row.extend([
            format!("{:.0}", cell.instructions),
            format!("{:.0}", cell.flash_bytes),
            format!("{:.0}", cell.arena_bytes),
            format!("{:.0}", cell.seconds),
        ]);
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// A figure of merit or a difference of two, in the unit of the table.
fn figure(spread: Spread, task: Task, signed: bool) -> String {
    let plus = if signed && spread.mean.is_sign_positive() { "+" } else { "" };
    format!("{plus}{}", spread.merit(task))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Variant, rows::tests::row, summarise};

    #[test]
    fn the_page_tells_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = vec![row("dense", 1.0, 1, 0.9)];
        for (variant, merit) in [("static", 0.7), ("gmp", 0.75), ("ours", 0.8)] {
            for seed in 1..=2 {
                rows.push(row(variant, 0.1, seed, merit + 0.01 * seed as f64));
            }
        }
        let variants = [("dense", false), ("static", true), ("gmp", true), ("ours", false)]
            .map(|(name, control)| Variant { name: name.to_owned(), control });
        let summary = summarise(&rows, &variants, Some("static"), Task::Classify);
        let page = Page {
            title: "Methods on x".to_owned(),
            command: "niwaki experiment".to_owned(),
            about: vec!["About.".to_owned()],
            rows: &rows,
            trials: 9,
            impossible: &[Impossible {
                variant: "srigl".to_owned(),
                density: 0.001,
                reason: "too thin".to_owned(),
            }],
        };
        write_page(folder.path(), &page, &summary).unwrap();
        let text = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        for part in [
            "```sh\nniwaki experiment\n```",
            "7 of 9 trainings",
            "## Density 0.1",
            "| ours | 0.1000 | **81.50 ± 0.71** | 80.50 ± 0.71 | +5.00 ± 0.00 | +5.00 ± 0.00 | +10.00 ± 0.00 |",
            "| gmp* | 0.1000 | 76.50 ± 0.71 | 75.50 ± 0.71 |  |  | +5.00 ± 0.00 |",
            "| srigl | 0.001 | too thin |",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        let svg = std::fs::read_to_string(folder.path().join(PLOT_FILE)).unwrap();
        assert!(svg.contains("ours") && svg.contains("dense (all weights)"), "{svg}");
    }
}
