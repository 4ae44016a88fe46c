//! Named steps with their times and a summary.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// It could not run here, for this reason.
    Skipped(String),
}

/// What has been run.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, Result<Outcome>)>,
}

impl Steps {
    /// Runs a step, whether or not one before failed.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Outcome>) {
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let result = step();
        let time = start.elapsed();
        match &result {
            Ok(Outcome::Passed) => eprintln!("=== {name}: passed in {:.1} s", time.as_secs_f32()),
            Ok(Outcome::Skipped(why)) => eprintln!("=== {name}: skipped: {why}"),
            Err(error) => eprintln!("=== {name}: FAILED: {error:#}"),
        }
        self.done.push((name.to_owned(), time, result));
    }

    /// Prints what was run, and on the last line the sum. Fails if a step failed.
    pub(crate) fn finish(self, task: &str) -> Result<()> {
        println!();
        let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
        for (name, time, result) in &self.done {
            let outcome = match result {
                Ok(Outcome::Passed) => {
                    passed += 1;
                    "passed".to_owned()
                }
                Ok(Outcome::Skipped(why)) => {
                    skipped += 1;
                    format!("skipped: {why}")
                }
                Err(_) => {
                    failed.push(name.as_str());
                    "FAILED".to_owned()
                }
            };
            println!("{name:<44} {:>7.1} s  {outcome}", time.as_secs_f32());
        }
        let total: Duration = self.done.iter().map(|(_, time, _)| *time).sum();
        let sum = format!(
            "{task}: {passed} passed, {skipped} skipped, {} failed in {:.0} s",
            failed.len(),
            total.as_secs_f32()
        );
        if failed.is_empty() {
            println!("{sum}");
            return Ok(());
        }
        println!("{sum}: {}", failed.join(", "));
        bail!("{} of {} steps failed", failed.len(), self.done.len())
    }
}

/// Runs a command to its end and fails if it does.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    std::iter::once(name).chain(command.get_args().map(|part| part.to_string_lossy())).fold(
        String::new(),
        |line, part| if line.is_empty() { part.into_owned() } else { line + " " + &part },
    )
}
