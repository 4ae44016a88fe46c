//! `niwaki targets`: the places where models run.

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement};
use niwaki::target::cost::Core;
use niwaki::target::{Board, Target};
use serde::Serialize;

use crate::output::{self, Format};

/// A target as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    target: String,
    board: Option<String>,
    core: String,
    triple: Option<String>,
    dsp: bool,
    emulated: bool,
    emulator: Option<String>,
    calibrated: bool,
    flash_bytes: Option<u64>,
    model_region_bytes: Option<u64>,
    arena_bytes: Option<u64>,
    ram_bytes: Option<u64>,
}

/// Runs `niwaki targets`.
pub(crate) fn run(format: Format) -> Result<()> {
    let rows = Target::all()?
        .iter()
        .map(|target| match target {
            Target::Host => Ok(host()),
            Target::Board(board) | Target::Attached { board, .. } => describe(board),
        })
        .collect::<Result<Vec<Row>>>()?;
    if format == Format::Json {
        return output::print_json(&rows);
    }
    let mut table = output::table([
        "target",
        "board",
        "core",
        "DSP",
        "emulated",
        "calibrated",
        "flash",
        "model",
        "arena",
        "RAM",
    ]);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    for row in rows {
        table.add_row([
            row.target,
            row.board.unwrap_or_else(|| "-".to_owned()),
            row.core,
            yes(row.dsp),
            yes(row.emulated),
            yes(row.calibrated),
            size(row.flash_bytes),
            size(row.model_region_bytes),
            size(row.arena_bytes),
            size(row.ram_bytes),
        ]);
    }
    for index in 6..10 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::print_table(&table)
}

fn host() -> Row {
    Row {
        target: Target::Host.name().to_owned(),
        board: None,
        core: std::env::consts::ARCH.to_owned(),
        triple: None,
        dsp: false,
        emulated: false,
        emulator: None,
        calibrated: false,
        flash_bytes: None,
        model_region_bytes: None,
        arena_bytes: None,
        ram_bytes: None,
    }
}

fn describe(board: &Board) -> Result<Row> {
    let memory = board.memory()?;
    let region =
        |name: &str| memory.iter().find(|region| region.name == name).map(|region| region.length);
    Ok(Row {
        target: board.about.target.clone(),
        board: Some(board.name.clone()),
        core: board.about.core.clone(),
        triple: Some(board.about.triple.clone()),
        dsp: board.has_dsp(),
        emulated: board.about.emulator.is_some(),
        emulator: board.about.emulator.as_ref().map(|command| command.join(" ")),
        calibrated: Core::from_name(&board.about.core).is_some(),
        flash_bytes: region("FLASH"),
        model_region_bytes: region("MODEL"),
        arena_bytes: region("ARENA"),
        ram_bytes: region("RAM"),
    })
}

/// A number of bytes as linker scripts and `--arena-limit` spell it.
fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        Some(bytes) if bytes.is_multiple_of(1 << 10) => format!("{}K", bytes >> 10),
        Some(bytes) => bytes.to_string(),
    }
}
