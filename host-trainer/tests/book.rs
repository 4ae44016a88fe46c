//! The book is true: the getting-started page's commands run in order, and every command that a page shows exists
//! with its options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const NIWAKI: &str = env!("CARGO_BIN_EXE_niwaki");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README and the pages of the book.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The lines of fenced blocks of this kind, those that end in a backslash joined with the next.
fn fenced(text: &str, kind: &str) -> Vec<String> {
    let (mut inside, mut lines): (Option<bool>, Vec<String>) = (None, Vec::new());
    let mut open = false;
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            inside = if inside.is_some() { None } else { Some(info == kind) };
        } else if inside == Some(true) && !line.trim().is_empty() {
            let part = line.trim().trim_end_matches('\\').trim().to_owned();
            match lines.last_mut().filter(|_| open) {
                Some(last) => *last += &format!(" {part}"),
                None => lines.push(part),
            }
            open = line.ends_with('\\');
        }
    }
    lines
}

/// Trains, exports, validates: minutes on a slow machine, most of it training.
#[test]
fn a_reader_of_getting_started_reaches_a_validated_model() {
    let page = std::fs::read_to_string(root().join("docs/getting-started.md")).unwrap();
    let commands = fenced(&page, "sh");
    assert!(commands.len() >= 8, "{commands:?}");
    let folder = tempfile::tempdir().unwrap();
    // `cargo niwaki` of this very build, as in a checkout; the tools that `setup` installs are there.
    let script = format!(
        "set -e\ncargo() {{ case $1 in niwaki) shift; '{NIWAKI}' \"$@\" ;; xtask) [ \"$2\" = setup ] ;; \
         *) return 1 ;; esac; }}\n{}\n",
        commands.join("\n")
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("there is a shell");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    // Validation fails at the first byte that differs; here is that it ran.
    assert!(said.contains("mismatched bytes") && said.contains("qemu-cortex-m4"), "{said}");
    assert!(said.contains("probe-rs download --chip nRF52840_xxAA"), "{said}");
    assert!(folder.path().join("firmware/model/mod.rs").is_file());
}

/// The calls of `niwaki` in a page: what follows the name, in fenced blocks, code spans and tables.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for line in text.lines() {
        for (at, _) in line.match_indices("niwaki ") {
            let before = line[..at].trim_end_matches("cargo ");
            // A command stands at the start of a line or of a code span.
            if !before.trim().is_empty() && !before.ends_with('`') && !before.ends_with("$ ") {
                continue;
            }
            let rest =
                line[at + "niwaki ".len()..].split(['`', '#', '&', '|']).next().unwrap_or("");
            calls.push(rest.split_whitespace().map(str::to_owned).collect());
        }
    }
    calls
}

#[test]
fn every_command_of_the_book_exists_with_its_options() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = 0;
    for (path, text) in pages() {
        for call in calls(&text) {
            let Some(command) = call.first() else { continue };
            // Prose such as "the `niwaki` command", and results of other versions.
            if !command.chars().all(|c| c.is_ascii_lowercase()) {
                continue;
            }
            let sub = call
                .get(1)
                .filter(|_| ["data", "experiment", "search", "study"].contains(&command.as_str()));
            let sub = sub.and_then(|word| word.split('|').next()).map(|w| w.trim_end_matches('\\'));
            let arguments: Vec<&str> = [command.as_str()]
                .into_iter()
                .chain(sub.filter(|word| word.starts_with(char::is_alphabetic)))
                .collect();
            let help = helps.entry(arguments.join(" ")).or_insert_with(|| {
                let output = Command::new(NIWAKI).args(&arguments).arg("--help").output().unwrap();
                assert!(output.status.success(), "{}: niwaki {}", path.display(), call.join(" "));
                String::from_utf8(output.stdout).unwrap()
            });
            for option in call.iter().filter(|word| word.starts_with("--")) {
                let option = option.split(['=', ',', ')', '.', ']', ';']).next().unwrap_or(option);
                assert!(
                    help.contains(option),
                    "{}: `niwaki {}`: no option {option}",
                    path.display(),
                    call.join(" ")
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked} options");
}

#[test]
fn links_between_pages_lead_somewhere() {
    for (path, text) in pages() {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or("");
            let file = target.split('#').next().unwrap_or("");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let there = path.parent().unwrap().join(file);
            assert!(there.exists(), "{}: {target}", path.display());
        }
    }
}

#[test]
fn manual_pages_and_completions_cover_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(NIWAKI).arg("man").arg(folder.path()).status().unwrap();
    assert!(status.success());
    let page = std::fs::read_to_string(folder.path().join("niwaki-flash.1")).unwrap();
    assert!(page.contains(r"\-\-dry\-run") && folder.path().join("niwaki.1").is_file());
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(NIWAKI).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("flash") && script.contains("dry-run"), "{shell}");
    }
}
