//! Commands as a user starts them, and what they say.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const NIWAKI: &str = env!("CARGO_BIN_EXE_niwaki");

pub(crate) fn niwaki(arguments: &[&str]) -> Output {
    Command::new(NIWAKI).args(arguments).output().expect("niwaki starts")
}

/// Standard output of a command that must succeed, which must be JSON and nothing else.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let output = niwaki(&[arguments, &["--format", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// What a command that must fail says; it must say it on standard error alone.
pub(crate) fn error(arguments: &[&str]) -> String {
    let output = niwaki(arguments);
    assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(600), "{what} takes too long");
        std::thread::sleep(Duration::from_millis(200));
    }
}
