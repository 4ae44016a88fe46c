//! SVG charts.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::export::Analysis;
use crate::sparse::EpochRow;
use crate::sparse::layerwise::Choice;
use crate::target::sweep::{Curves, Format, Sweep};

const GREEN: RGBColor = RGBColor(74, 124, 89);
const BROWN: RGBColor = RGBColor(166, 108, 60);
const GREY: RGBColor = RGBColor(160, 160, 155);
const BLUE: RGBColor = RGBColor(58, 98, 160);
const INK: RGBColor = RGBColor(60, 60, 60);

/// Figure of merit in training and testing over the epochs.
pub(super) fn training(epochs: &[EpochRow]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 300)).into_drawing_area();
        draw_training(&area, epochs).map_err(|error| anyhow!("drawing the training: {error}"))?;
    }
    Ok(svg)
}

fn draw_training(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    epochs: &[EpochRow],
) -> Result<(), Box<dyn std::error::Error>> {
    let held_out = |row: &EpochRow| row.val.or(row.test);
    let merits = epochs.iter().flat_map(|row| [Some(row.train), held_out(row)]).flatten();
    let (least, most) = merits.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), merit| {
        (least.min(merit), most.max(merit))
    });
    let margin = (most - least).max(1e-3) * 0.05;
    let last = epochs.len().max(2) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(1.0..last, least - margin..most + margin)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("epoch").draw()?;
    let train = epochs.iter().map(|row| (row.epoch as f64, row.train));
    chart
        .draw_series(LineSeries::new(train, BROWN.stroke_width(2)))?
        .label("training batches")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BROWN.stroke_width(2)));
    let held_out = epochs.iter().filter_map(|row| Some((row.epoch as f64, held_out(row)?)));
    chart
        .draw_series(LineSeries::new(held_out, GREEN.stroke_width(2)))?
        .label("held-out split")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], GREEN.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}

/// Lines that a chart of strategies names; the others are thin and grey.
const NAMED: usize = 6;

/// Weights of a layer's strategies over the search.
pub(super) fn strategies(choice: &Choice, layer: usize) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 300)).into_drawing_area();
        draw_strategies(&area, choice, layer)
            .map_err(|error| anyhow!("drawing the strategies: {error}"))?;
    }
    Ok(svg)
}

fn draw_strategies(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    choice: &Choice,
    layer: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let line = |candidate: usize| {
        choice.records.iter().map(move |record| {
            let weight = record.weights.get(layer).and_then(|weights| weights.get(candidate));
            (record.at, f64::from(*weight.unwrap_or(&0.0)))
        })
    };
    let candidates = &choice.layers[layer].candidates;
    let last = |candidate: usize| line(candidate).next_back().map_or(0.0, |(_, weight)| weight);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| last(b).total_cmp(&last(a)));
    let most = order.iter().flat_map(|&c| line(c)).map(|(_, w)| w).fold(0.0, f64::max);
    let end = choice.records.last().map_or(1.0, |record| record.at);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..1.05 * most.max(1e-3))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("epoch of the search")
        .y_desc("weight")
        .draw()?;
    for &candidate in order.iter().skip(NAMED) {
        chart.draw_series(LineSeries::new(line(candidate), GREY.mix(0.5)))?;
    }
    for (place, &candidate) in order.iter().take(NAMED).enumerate().rev() {
        let style = Palette99::pick(place).stroke_width(if place == 0 { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(line(candidate), style))?
            .label(candidates[candidate].to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The arena's bytes over the layers: outputs while they are needed, and working memory.
pub(super) fn arena(analysis: &Analysis) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 300)).into_drawing_area();
        draw_arena(&area, analysis).map_err(|error| anyhow!("drawing the arena: {error}"))?;
    }
    Ok(svg)
}

fn draw_arena(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    analysis: &Analysis,
) -> Result<(), Box<dyn std::error::Error>> {
    let layers = analysis.layers.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..layers.max(1.0), 0.0..analysis.arena_bytes.max(1) as f64)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .disable_x_mesh()
        .x_desc("layer")
        .y_desc("byte")
        .y_label_formatter(&|byte| format!("{byte:.0}"))
        .draw()?;
    let rectangle = |bytes: [usize; 2], steps: [usize; 2]| {
        [(steps[0] as f64 + 0.03, bytes[0] as f64), (steps[1] as f64 + 0.97, bytes[1] as f64)]
    };
    for (index, layer) in analysis.layers.iter().enumerate() {
        let output = rectangle(layer.arena, layer.live);
        chart.draw_series([Rectangle::new(output, GREEN.mix(0.6).filled())])?;
        if layer.scratch_bytes > 0 {
            let scratch = rectangle(layer.scratch, [index, index]);
            chart.draw_series([Rectangle::new(scratch, GREY.mix(0.6).filled())])?;
        }
    }
    area.present()?;
    Ok(())
}

/// Points of one kind.
pub(super) struct Points<'a> {
    pub(super) name: &'a str,
    pub(super) at: &'a [(f64, f64)],
}

/// Points in the plane, the second kind in the foreground; `x` on a logarithmic scale if `logarithmic`.
/// Otherwise both axes have the same range and the diagonal is drawn.
pub(super) fn scatter(kinds: &[Points<'_>], x: &str, y: &str, logarithmic: bool) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 360)).into_drawing_area();
        draw_scatter(&area, kinds, x, y, logarithmic)
            .map_err(|error| anyhow!("drawing {y} over {x}: {error}"))?;
    }
    Ok(svg)
}

fn draw_scatter(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    kinds: &[Points<'_>],
    x: &str,
    y: &str,
    logarithmic: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = kinds.iter().flat_map(|kind| kind.at).map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    // Decades are drawn by hand: a chart has one type of axis.
    let place = |value: f64| if logarithmic { value.max(1e-9).log10() } else { value };
    let ((mut left, mut right), (mut low, mut high)) = (range(|p| p.0), range(|p| p.1));
    if !logarithmic {
        (left, low) = (left.min(low), left.min(low));
        (right, high) = (right.max(high), right.max(high));
    }
    (left, right) = (place(left), place(right));
    let side = (right - left).max(1e-3) * 0.04;
    let margin = (high - low).max(1e-3) * 0.05;
    low = (low - margin).max(-margin);
    high += margin;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(left - side..right + side, low..high)?;
    let label = |value: &f64| match logarithmic {
        true => format!("{:.0}", 10_f64.powf(*value)),
        false => format!("{value:.2}"),
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&label)
        .draw()?;
    if !logarithmic {
        let diagonal = [(left, left), (right, right)];
        chart.draw_series(LineSeries::new(diagonal, GREY.stroke_width(1)))?;
    }
    let colours = if kinds.len() == 1 { [GREEN; 3] } else { [GREY, GREEN, BROWN] };
    for (kind, colour) in kinds.iter().zip(colours) {
        let dots = kind.at.iter().map(|&(x, y)| Circle::new((place(x), y), 4, colour.filled()));
        let drawn = chart.draw_series(dots)?;
        if kinds.len() > 1 {
            drawn
                .label(kind.name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        }
    }
    if kinds.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

/// Instructions over density: a panel for each layer, a curve for each format, break-even marked.
///
/// # Errors
///
/// When the chart cannot be drawn.
pub fn break_even(sweep: &Sweep) -> Result<String> {
    const COLUMNS: usize = 2;
    let rows = sweep.layers.len().div_ceil(COLUMNS).max(1);
    let mut svg = String::new();
    {
        let size = (960, 320 * rows as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| {
            let panels = area.split_evenly((rows, COLUMNS));
            for (panel, layer) in panels.iter().zip(&sweep.layers) {
                draw_break_even(panel, layer)?;
            }
            Ok(area.present()?)
        });
        drawn.map_err(|error: Box<dyn std::error::Error>| {
            anyhow!("drawing the break-even curves: {error}")
        })?;
    }
    Ok(svg)
}

fn draw_break_even(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    layer: &Curves,
) -> Result<(), Box<dyn std::error::Error>> {
    let costs = layer.points.iter().map(|point| point.instructions_per_mac);
    let (least, most) = costs.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), cost| {
        (least.min(cost), most.max(cost))
    });
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .caption(&layer.layer, ("sans-serif", 15))
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d((1.0..100.0).log_scale(), (least * 0.8..most * 1.25).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("density in percent")
        .y_desc("instructions per dense MAC")
        .x_label_formatter(&|density| format!("{density:.0}"))
        .y_labels(6)
        .y_label_formatter(&|cost| format!("{}", (cost * 1e3).round() / 1e3))
        .draw()?;
    let dense = layer.of(Format::Dense).next().map(|point| point.instructions_per_mac);
    for (format, colour) in Format::ALL.into_iter().zip([INK, GREEN, BROWN, BLUE]) {
        let curve: Vec<(f64, f64)> = match (format, dense) {
            (Format::Dense, Some(dense)) => vec![(1.0, dense), (100.0, dense)],
            _ => layer
                .of(format)
                .map(|point| (point.density_percent.into(), point.instructions_per_mac))
                .collect(),
        };
        chart
            .draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?
            .label(format.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        if format != Format::Dense {
            let measured = curve.iter().map(|&at| Circle::new(at, 2, colour.filled()));
            chart.draw_series(measured)?;
        }
        let crossing = layer.break_even.iter().find(|at| at.format == format);
        if let (Some(density), Some(dense)) = (crossing.and_then(|at| at.instructions), dense)
            && density < 100.0
        {
            chart.draw_series([Circle::new((density, dense), 6, colour.stroke_width(2))])?;
            let text = format!("{density:.0} %");
            // One below the other: the densities of formats are often close.
            let line = 14 * (format as i32);
            // Left of its ring where there is no room on the right.
            let beside = if density > 60.0 { -40 } else { 10 };
            let label = EmptyElement::at((density, dense))
                + Text::new(
                    text,
                    (beside, line - 6),
                    ("sans-serif", 12).into_font().color(&colour),
                );
            chart.draw_series([label])?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

/// A line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// An axis of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis<'a> {
    /// What it shows.
    pub name: &'a str,
    /// Whether it shows powers of ten; points at 0 and below are left out then.
    pub log: bool,
}

/// A chart of lines over a common axis.
///
/// # Errors
///
/// When it cannot be drawn.
pub fn lines(lines: &[Line], x: Axis<'_>, y: Axis<'_>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (860, 420)).into_drawing_area();
        draw_lines(&area, lines, x, y).map_err(|error| anyhow!("drawing the lines: {error}"))?;
    }
    Ok(svg)
}

fn draw_lines(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    lines: &[Line],
    x: Axis<'_>,
    y: Axis<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let place = |axis: Axis<'_>, value: f64| match axis.log {
        true => (value > 0.0).then(|| value.log10()),
        false => Some(value),
    };
    let placed: Vec<(&str, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|line| {
            let points = line.points.iter();
            let points = points.filter_map(|&(at, value)| Some((place(x, at)?, place(y, value)?)));
            (line.name.as_str(), points.collect())
        })
        .collect();
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let all = placed.iter().flat_map(|(_, points)| points).map(of);
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let margin = (high - low).max(1e-3) * 0.04;
        low - margin..high + margin
    };
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(range(&|point| point.0), range(&|point| point.1))?;
    let label = |axis: Axis<'_>, value: f64| match axis.log {
        true => format!("{:.3}", 10f64.powf(value))
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => format!("{}", (value * 100.0).round() / 100.0),
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|value| label(x, *value))
        .y_label_formatter(&|value| label(y, *value))
        .draw()?;
    for (index, (name, points)) in placed.iter().enumerate() {
        let style = Palette99::pick(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}
