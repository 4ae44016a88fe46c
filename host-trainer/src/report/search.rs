//! A study as one self-contained HTML page.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Axis, Line, Points, lines, scatter};
use super::{STYLE, grouped};
use crate::search::settings::What;
use crate::search::study::{Candidate, Status};
use crate::search::view::View;

/// The page of a study: front, hypervolume over evaluations, predictions against truth, choices for each
/// layer, and all candidates.
///
/// # Errors
///
/// When a chart cannot be drawn or a candidate is damaged.
pub fn search_html(view: &View) -> Result<String> {
    let what = match &view.search.what {
        What::Sparse(sparse) => format!("Sparse forms of {}", sparse.net.name),
        What::Arch(_) => "Architectures".to_owned(),
    };
    let title = format!("{what} on {}", view.search.data.name);
    let front = front(view)?;
    let volumes: Vec<(f64, f64)> =
        view.curve().into_iter().enumerate().map(|(at, v)| (at as f64 + 1.0, v)).collect();
    let (predictions, taus) = (view.predictions(), view.tau_curve());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (STYLE) (SORTABLE_STYLE) }
            }
            body {
                h1 { (title) }
                p {
                    (view.count(Status::Done)) " of " (view.budget) " candidates are evaluated, "
                    (view.count(Status::Failed)) " failed; the front has " (view.front.len()) "."
                    @if let Some(volume) = view.hypervolume() {
                        " Its hypervolume is " (format!("{volume:.4}"))
                        " of the box between zero and the bound "
                        (bound(view)) "."
                    }
                    " Limits: " (view.search.limits) ". Instructions are those of a " (view.search.target)
                    "; they are not clock cycles. Every model is trained, exported and evaluated in integers \
                     on the validation split."
                }
                h2 { "Front" }
                @for chart in &front { figure { (PreEscaped(chart)) } }
                (front_table(view)?)
                @if volumes.len() > 1 {
                    h2 { "Hypervolume over evaluations" }
                    figure { (PreEscaped(lines(
                        &[Line { name: "front".to_owned(), points: volumes.clone() }],
                        Axis { name: "evaluations", log: false },
                        Axis { name: "hypervolume", log: false },
                    )?)) }
                }
                @if predictions.len() > 1 {
                    h2 { "Predictions against truth" }
                    p {
                        "What the error of each candidate was predicted to be before it was evaluated. Over "
                        (predictions.len()) " predictions, Kendall's tau is "
                        (view.tau().map_or("-".to_owned(), |tau| format!("{tau:.3}"))) "."
                    }
                    figure { (PreEscaped(scatter(
                        &[Points { name: "candidates", at: &predictions }],
                        "predicted error", "error", false,
                    )?)) }
                    @if !taus.is_empty() {
                        figure { (PreEscaped(lines(
                            &[Line { name: "tau".to_owned(), points: taus.clone() }],
                            Axis { name: "predictions so far", log: false },
                            Axis { name: "Kendall's tau", log: false },
                        )?)) }
                    }
                }
                h2 { "Choices for each layer" }
                p { "What each member of the front does with each layer: criterion, structure and share of weights, or the parts of its architecture." }
                (choices(view)?)
                h2 { "All candidates" }
                p { "A click on a heading sorts." }
                (all(view)?)
                h2 { "Settings" }
                pre { (serde_json::to_string_pretty(&view.search)?) }
                script { (PreEscaped(SORT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// Names of the objectives for people.
fn objective_names(view: &View) -> Vec<String> {
    view.search.objective_names().into_iter().map(|name| name.replace('_', " ")).collect()
}

/// Error over each cost that is an objective.
fn front(view: &View) -> Result<Vec<String>> {
    let done = view.done();
    objective_names(view)
        .iter()
        .enumerate()
        .skip(1)
        .map(|(axis, name)| {
            let points = |on_front: bool| -> Vec<(f64, f64)> {
                let of = done.iter().filter(|(c, _)| view.front.contains(&c.id) == on_front);
                of.map(|(_, objectives)| (objectives[axis], objectives[0])).collect()
            };
            let (members, others) = (points(true), points(false));
            let dense: Vec<(f64, f64)> =
                view.reference.iter().map(|r| (r.dense[axis], r.dense[0])).collect();
            let series = [
                Points { name: "other candidates", at: &others },
                Points { name: "front", at: &members },
                Points { name: "dense network or bound", at: &dense },
            ];
            scatter(&series, name, "error", true)
        })
        .collect()
}

/// The bound in words.
fn bound(view: &View) -> String {
    view.reference.as_ref().map_or_else(String::new, |reference| {
        let costs = objective_names(view).into_iter().zip(&reference.bound).skip(1);
        let costs = costs.map(|(name, most)| format!(", {name} {}", number(*most)));
        format!("(error {:.3}{})", reference.bound[0], costs.collect::<String>())
    })
}

fn number(value: f64) -> String {
    grouped(value.round() as u64)
}

fn front_table(view: &View) -> Result<Markup> {
    let members: Vec<&Candidate> = view.front.iter().filter_map(|id| view.candidate(*id)).collect();
    let details = members.iter().map(|member| view.details(member)).collect::<Result<Vec<_>>>()?;
    Ok(html! {
        table.wide.sortable {
            thead { tr {
                th { "model" } th { "merit, validation" } th { "merit, test" } th { "density" }
                th { "instructions, predicted" } th { "measured" } th { "bytes that differ" }
                th { "flash" } th { "arena" } th { "stack" }
            } }
            tbody {
                @for (member, details) in members.iter().zip(&details) {
                    @let validated = view.validated.get(&member.id);
                    @if let Some(details) = details {
                        tr {
                            td { a href=(format!("front/{}.niwaki", member.id)) { (member.id) } }
                            td.number { (format!("{:.4}", details.merit)) }
                            td.number {
                                @if let Some(merit) = validated.and_then(|v| v.merit_test) {
                                    (format!("{merit:.4}"))
                                }
                            }
                            td.number { (format!("{:.3}", details.density)) }
                            td.number { (number(details.needs.instructions)) }
                            td.number {
                                @if let Some(count) = validated.and_then(|v| v.instructions) {
                                    (grouped(count))
                                }
                            }
                            td.number {
                                @if let Some(v) = validated {
                                    (v.mismatched_bytes) " in " (v.samples) " inferences"
                                }
                            }
                            td.number { (grouped(details.needs.flash as u64)) }
                            td.number { (grouped(details.needs.ram as u64)) }
                            td.number {
                                @if let Some(stack) = validated.and_then(|v| v.stack_bytes) {
                                    (grouped(stack.into()))
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

fn choices(view: &View) -> Result<Markup> {
    let mut members = Vec::new();
    for candidate in view.front.iter().filter_map(|id| view.candidate(*id)) {
        if let Some(details) = view.details(candidate)? {
            members.push((candidate.id, details));
        }
    }
    let mut layers: Vec<&str> = Vec::new();
    for (layer, _) in members.iter().flat_map(|(_, details)| &details.layers) {
        if !layers.contains(&layer.as_str()) {
            layers.push(layer);
        }
    }
    // What is said of a layer ends with its share of weights; of an architecture with something else.
    let shares = matches!(view.search.what, What::Sparse(_));
    Ok(html! {
        div.scroll { table.wide {
            tr { th { "model" } @for layer in &layers { th { (layer) } } }
            @for (id, details) in &members {
                tr {
                    td { (id) }
                    @for layer in &layers {
                        @let choice = details.layers.iter().find(|(name, _)| name == layer);
                        @let last = choice.and_then(|(_, text)| text.rsplit(' ').next()?.parse::<f64>().ok());
                        @let shade = last.filter(|_| shares).map_or(0.0, |share| 0.45 * share);
                        td style=(format!("background:rgba(74,124,89,{shade:.2})")) {
                            @if let Some((_, text)) = choice { (text) }
                        }
                    }
                }
            }
        } }
    })
}

fn all(view: &View) -> Result<Markup> {
    let mut rows = Vec::new();
    for candidate in &view.candidates {
        rows.push((candidate, view.details(candidate)?));
    }
    Ok(html! {
        div.scroll { table.wide.sortable {
            thead { tr {
                th { "candidate" } th { "front" } th { "status" }
                th { "error" } th { "instructions" } th { "flash" } th { "arena" } th { "density" } th { "predicted error" } th { "seconds" } th { "attempt" }
                th { "choices" }
            } }
            tbody {
                @for (candidate, details) in &rows {
                    tr {
                        td.number { (candidate.id) }
                        td { @if view.front.contains(&candidate.id) { "yes" } }
                        td {
                            @match candidate.status {
                                Status::Done => "done",
                                Status::Leased => "running",
                                Status::Failed => "failed",
                            }
                        }
                        @if let (Some(evaluation), Some(details)) = (&candidate.evaluation, details) {
                            td.number { (format!("{:.4}", evaluation.objectives[0])) }
                            td.number { (number(details.needs.instructions)) }
                            td.number { (grouped(details.needs.flash as u64)) }
                            td.number { (grouped(details.needs.ram as u64)) }
                            td.number { (format!("{:.3}", details.density)) }
                        } @else { td {} td {} td {} td {} td {} }
                        td.number {
                            @if let Some(predicted) = candidate.proposal.predicted.as_ref().and_then(|p| p.first()) {
                                (format!("{predicted:.4}"))
                            }
                        }
                        td.number { @if let Some(seconds) = candidate.seconds { (format!("{seconds:.1}")) } }
                        td.number { (candidate.attempt) }
                        td.small {
                            @if let Some(details) = details {
                                @for (layer, choice) in &details.layers { (layer) ": " (choice) "; " }
                            }
                            @if let Some(error) = &candidate.error { (error) }
                        }
                    }
                }
            }
        } }
    })
}

const SORTABLE_STYLE: &str = "
.sortable th{cursor:pointer;vertical-align:bottom}
.scroll{overflow-x:auto}
.small{font-size:.75rem;color:#555}
";

/// Sorts a table by the column whose heading is clicked, numbers as numbers; again for the other order.
const SORT: &str = "
for (const table of document.querySelectorAll('table.sortable')) {
  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
    const down = head.dataset.down !== 'true';
    head.dataset.down = down;
    const value = row => row.children[column].textContent.trim();
    const number = text => parseFloat(text.replaceAll(',', ''));
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const [m, n] = [number(x), number(y)];
      const signed = isNaN(m) || isNaN(n) ? (isNaN(m) - isNaN(n)) || x.localeCompare(y) : m - n;
      return down ? signed : -signed;
    };
    const body = table.tBodies[0];
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}
";
