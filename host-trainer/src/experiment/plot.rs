//! The plot of an experiment: figure of merit over density, one line per variant.

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use super::{Cell, Summary};
use crate::net::spec::Task;

/// Colours that stay apart for people who do not see all of them (Okabe and Ito, 2008), and more.
const COLOURS: [RGBColor; 12] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(150, 75, 0),
    RGBColor(128, 0, 128),
    RGBColor(128, 128, 0),
    RGBColor(0, 60, 60),
    RGBColor(220, 20, 60),
];

const SIZE: (u32, u32) = (900, 520);
const LEGEND_WIDTH: i32 = 220;

/// Draws the int8 figures of merit of all variants; those of density 1 as horizontal lines.
pub(super) fn draw(summary: &Summary) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_on(&area, summary).map_err(|error| anyhow!("drawing the plot: {error}"))?;
    }
    Ok(svg)
}

fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    summary: &Summary,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let factor = match summary.task {
        Task::Classify => 100.0,
        Task::Reconstruct => 1.0,
    };
    let value = |cell: &Cell| factor * cell.int8.mean;
    let spread = |cell: &Cell| factor * cell.int8.std.unwrap_or(0.0);
    let (dense, sparse): (Vec<&Cell>, Vec<&Cell>) =
        summary.cells.iter().partition(|cell| cell.density == 1.0);
    let mut densities: Vec<f64> = sparse.iter().map(|cell| cell.density).collect();
    densities.sort_by(f64::total_cmp);
    densities.dedup();
    let mut variants: Vec<&str> = Vec::new();
    for cell in &sparse {
        if !variants.contains(&cell.variant.as_str()) {
            variants.push(&cell.variant);
        }
    }
    let bounds = summary
        .cells
        .iter()
        .flat_map(|cell| [value(cell) - spread(cell), value(cell) + spread(cell)]);
    let (low, high) =
        bounds.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = (high - low).max(1e-3) * 0.06;
    // Densities are powers apart; each variant has its own place, so that error bars do not overlap.
    let place = |density: f64| density.log10();
    let (first, last) = match densities[..] {
        [first, .., last] => (place(first), place(last)),
        [only] => (place(only), place(only)),
        [] => (-1.0, 0.0),
    };
    let side = ((last - first) * 0.08).max(0.05);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .margin_right(LEGEND_WIDTH)
        .build_cartesian_2d(first - side..last + side, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(match summary.task {
            Task::Classify => "int8 test accuracy, %",
            Task::Reconstruct => "int8 mean squared error",
        })
        .draw()?;
    let label = ("sans-serif", 13).into_font().color(&BLACK);
    let bottom = low - margin;
    for &density in &densities {
        let (x, y) = chart.backend_coord(&(place(density), bottom));
        area.draw(&PathElement::new([(x, y), (x, y + 5)], BLACK))?;
        let text = density.to_string();
        let left = x - 3 * text.len() as i32;
        area.draw(&Text::new(text, (left, y + 8), label.clone()))?;
    }
    let (middle, y) = chart.backend_coord(&(0.5 * (first + last), bottom));
    area.draw(&Text::new("density", (middle - 22, y + 26), label.clone()))?;
    let mut line = 0;
    let mut legend = |name: &str, style: ShapeStyle| {
        let (x, y) = (SIZE.0 as i32 - LEGEND_WIDTH + 14, 24 + 20 * line);
        line += 1;
        area.draw(&PathElement::new([(x, y), (x + 20, y)], style))?;
        area.draw(&Text::new(name.to_owned(), (x + 28, y - 6), label.clone()))
    };

    let style = |index: usize| COLOURS[index % COLOURS.len()].stroke_width(2);
    for cell in dense {
        let y = value(cell);
        let line = [(first - side, y), (last + side, y)];
        let style = BLACK.mix(0.7).stroke_width(1);
        chart.draw_series(DashedLineSeries::new(line, 6, 4, style))?;
        legend(&format!("{} (all weights)", cell.variant), style)?;
    }
    let step = 0.6 * side / variants.len().max(1) as f64;
    for (index, variant) in variants.iter().enumerate() {
        let shift = (index as f64 - 0.5 * (variants.len() - 1) as f64) * step;
        let cells = sparse.iter().filter(|cell| cell.variant == **variant);
        let mut points: Vec<(f64, f64, f64)> =
            cells.map(|cell| (place(cell.density) + shift, value(cell), spread(cell))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bars = points
            .iter()
            .filter(|point| point.2 > 0.0)
            .map(|&(x, y, std)| PathElement::new([(x, y - std), (x, y + std)], style(index)));
        chart.draw_series(bars)?;
        let dots = points.iter().map(|&(x, y, _)| Circle::new((x, y), 3, style(index).filled()));
        chart.draw_series(dots)?;
        let line = points.iter().map(|&(x, y, _)| (x, y));
        chart.draw_series(LineSeries::new(line, style(index)))?;
        legend(variant, style(index))?;
    }
    area.present()?;
    Ok(())
}
