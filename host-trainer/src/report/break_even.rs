//! A sweep over formats and densities as a Markdown page, as CSV and as an SVG chart.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

pub use super::chart::break_even as break_even_svg;
use crate::target::sweep::{Curves, DENSITIES, Format, Point, Sweep};

/// The sweep as a Markdown page. `command` made it; `chart` is the file of the chart, relative to the page.
pub fn break_even_markdown(sweep: &Sweep, command: &str, chart: &str) -> String {
    let mut page = format!(
        "# Break-even densities on {core}\n\n```sh\n{command}\n```\n\n\
         Measured on `{target}` ({measured_with}). Instructions are those that the emulator counts; \
         they are not clock cycles. Weights and inputs are random, blocks are kept or dropped as a whole. \
         Layers: window, height x width x input channels -> output channels, stride 1.\n\n\
         ![Instructions over density]({chart})\n\n\
         ## Break-even\n\n\
         Below this density a format takes fewer instructions than the dense kernel, interpolated between \
         the measured densities.\n\n",
        core = sweep.core,
        target = sweep.target,
        measured_with = sweep.measured_with,
    );
    let cycles = sweep.layers.iter().any(|layer| layer.points[0].cycles_estimated.is_some());
    let formats = || Format::ALL.into_iter().filter(|format| *format != Format::Dense);
    let percent = |density: Option<f64>| match density {
        None => "never".to_owned(),
        Some(density) if density >= 100.0 => "always".to_owned(),
        Some(density) => format!("{density:.0} %"),
    };
    row(&mut page, std::iter::once("layer").chain(formats().map(Format::name)));
    rule(&mut page, formats().count());
    for layer in &sweep.layers {
        let cells = layer.break_even.iter().map(|at| match cycles {
            true => format!("{} / {}", percent(at.instructions), percent(at.cycles)),
            false => percent(at.instructions),
        });
        row(&mut page, std::iter::once(layer.layer.clone()).chain(cells));
    }
    if cycles {
        page += "\nInstructions / estimated cycles.\n";
    }
    for layer in &sweep.layers {
        let _ = write!(page, "\n## {}\n\n", layer.layer);
        if let Some(wanted) = &layer.instead_of {
            let _ =
                write!(page, "In place of {wanted}, which does not fit the board's memory.\n\n");
        }
        let what = if cycles { "Instructions / estimated cycles" } else { "Instructions" };
        let _ = write!(page, "{what} for each of the dense layer's {} MACs.\n\n", layer.macs);
        row(&mut page, std::iter::once("density").chain(Format::ALL.map(Format::name)));
        rule(&mut page, Format::ALL.len());
        for density in DENSITIES {
            let cells = Format::ALL.map(|format| cell(layer, format, density));
            row(&mut page, std::iter::once(format!("{density} %")).chain(cells));
        }
    }
    page
}

/// Figures per MAC of the dense layer; the dense kernel's do not depend on density.
fn cell(layer: &Curves, format: Format, density: u32) -> String {
    let mut points = layer.of(format);
    let point = points.find(|point| point.density_percent == density || format == Format::Dense);
    let Some(point) = point else { return String::new() };
    let instructions = format!("{:.3}", point.instructions_per_mac);
    match point.cycles_estimated {
        Some(cycles) => format!("{instructions} / {:.3}", cycles / layer.macs as f64),
        None => instructions,
    }
}

fn row(page: &mut String, cells: impl IntoIterator<Item = impl AsRef<str>>) {
    for cell in cells {
        let _ = write!(page, "| {} ", cell.as_ref());
    }
    *page += "|\n";
}

/// The line below the head of a table with a column of text and `numbers` columns to the right of it.
fn rule(page: &mut String, numbers: usize) {
    *page += "|---|";
    *page += &"---:|".repeat(numbers);
    *page += "\n";
}

/// Every measurement of the sweep as CSV.
///
/// # Errors
///
/// When writing to memory fails: never in practice.
pub fn break_even_csv(sweep: &Sweep) -> Result<String> {
    #[derive(Serialize)]
    struct Record<'a> {
        target: &'a str,
        layer: &'a str,
        macs: u64,
        format: Format,
        density_percent: u32,
        nonzeros: usize,
        instructions: u64,
        instructions_per_mac: f64,
        cycles_estimated: Option<f64>,
        flash_bytes: usize,
        arena_bytes: usize,
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for layer in &sweep.layers {
        for point in &layer.points {
            let Point { format, density_percent, nonzeros, instructions, .. } = *point;
            writer.serialize(Record {
                target: &sweep.target,
                layer: &layer.layer,
                macs: layer.macs,
                format,
                density_percent,
                nonzeros,
                instructions,
                // As many digits as the steps of the counter bear.
                instructions_per_mac: (point.instructions_per_mac * 1e5).round() / 1e5,
                cycles_estimated: point.cycles_estimated.map(f64::round),
                flash_bytes: point.flash_bytes,
                arena_bytes: point.arena_bytes,
            })?;
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
