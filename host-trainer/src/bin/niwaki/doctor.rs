//! `niwaki doctor`: says what is installed and what is missing.

use anyhow::{Result, bail};
use niwaki::target::{boards, checkout, tools};
use serde::Serialize;

use crate::output::{self, Format};

#[derive(Serialize)]
struct Finding<'a> {
    name: &'a str,
    needed_for: &'a str,
    required: bool,
    found: Option<&'a str>,
    get: &'a str,
}

/// Runs `niwaki doctor`. Fails when something is missing that every user needs.
pub(crate) fn run(format: Format) -> Result<()> {
    let boards = checkout().and_then(|folder| boards(&folder)).unwrap_or_else(|error| {
        eprintln!("note: {error:#}");
        Vec::new()
    });
    let tools = tools::inspect(&boards);
    match format {
        Format::Json => {
            let findings: Vec<_> = tools
                .iter()
                .map(|tool| Finding {
                    name: &tool.name,
                    needed_for: tool.needed_for,
                    required: tool.required,
                    found: tool.found.as_deref(),
                    get: &tool.get,
                })
                .collect();
            output::print_json(&findings)?;
        }
        Format::Table => {
            let mut table = output::table(["what", "for", "found", "how to get it"]);
            for tool in &tools {
                let (found, get) = match &tool.found {
                    Some(found) => (found.as_str(), ""),
                    None if tool.required => ("MISSING", tool.get.as_str()),
                    None => ("not there", tool.get.as_str()),
                };
                table.add_row([&tool.name, tool.needed_for, found, get]);
            }
            output::print_table(&table)?;
        }
    }
    match tools.iter().filter(|tool| tool.required && tool.found.is_none()).count() {
        0 => Ok(()),
        missing => bail!("{missing} missing; `cargo xtask setup` installs what it can"),
    }
}
