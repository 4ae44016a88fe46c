//! What commands print: a table for people or JSON for programs.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use niwaki::sparse::Flow;
use niwaki::target::{Firmware, Target};
use serde::Serialize;

/// Form of the results on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and text
    Table,
    /// One JSON value, nothing else
    Json,
}

/// Width of tables that go to a file or a pipe.
const WIDTH_NO_TERMINAL: u16 = 100;

/// An empty table with a header.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !table.is_tty() {
        table.set_width(WIDTH_NO_TERMINAL);
    }
    table
}

/// A progress bar over `len` things, on standard error.
pub(crate) fn bar(len: u64, things: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    match ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {prefix}, {eta} left") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")).with_prefix(things),
        Err(_) => bar,
    }
}

/// A line above a progress bar, or on its own where no bar is shown.
pub(crate) fn line(bar: &ProgressBar, text: &str) {
    if bar.is_hidden() {
        eprintln!("{text}");
    } else {
        bar.println(text);
    }
}

/// Whether to go on, by a flag that says stop.
pub(crate) fn flow(stop: &AtomicBool) -> Flow {
    if stop.load(Ordering::Relaxed) { Flow::Stop } else { Flow::Continue }
}

/// A flag that the first Ctrl-C sets; the second one ends the process at once.
pub(crate) fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("catching Ctrl-C")?;
    Ok(stop)
}

/// The firmware of a board, built if need be with what is being done on standard error. A host has none.
pub(crate) fn firmware(target: &Target) -> anyhow::Result<Option<Firmware>> {
    let Target::Board(board) = target else { return Ok(None) };
    let what = format!("building the firmware of {}", board.name);
    Ok(Some(spin(&what, |say| Firmware::build(board, say))?))
}

/// Does something that takes a while, with what it says on standard error.
pub(crate) fn spin<R>(what: &str, work: impl FnOnce(&dyn Fn(&str)) -> R) -> R {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner.set_message(what.to_owned());
    let result = work(&|line| spinner.set_message(format!("{what}: {}", line.trim())));
    spinner.finish_and_clear();
    result
}

/// Prints lines of text.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    unless_closed(writeln!(io::stdout().lock(), "{text}"))
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> anyhow::Result<()> {
    print(&table.trim_fmt())
}

/// Prints a result as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    print(&text)
}

/// A reader that has seen enough (`| head`) is no error.
fn unless_closed(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
