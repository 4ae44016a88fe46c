//! Rows on disk: appended one by one, each safe before the next.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Trial;
use crate::net::trained::write_atomically;

/// File with one line per finished trial.
pub const ROWS_FILE: &str = "rows.jsonl";
const SETTINGS_FILE: &str = "experiment.json";

/// The result of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was trained.
    #[serde(flatten)]
    pub trial: Trial,
    /// Nonzero weights / all weights.
    pub density_real: f64,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// Figure of merit of the float network on the test split: the share of correct classifications,
    /// or for reconstruction the mean squared error.
    pub float: f64,
    /// The same of the exported int8 model, computed by the code that devices run.
    pub int8: f64,
    /// Instructions of one inference, as the cost model of the target predicts them.
    pub instructions: f64,
    /// Bytes of the exported model.
    pub flash_bytes: usize,
    /// Bytes of its arena.
    pub arena_bytes: usize,
    /// Seconds of training and evaluation.
    pub seconds: f64,
    /// Commit of the program that trained it, where that is known.
    pub commit: Option<String>,
    /// More that an experiment wants to know about its trials.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// A value as it comes back from a file: not every decimal number is what it was.
///
/// # Errors
/// When JSON has no form for it.
pub fn as_stored(value: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

/// The rows of an experiment, open for more.
pub struct Store<R = Row> {
    path: PathBuf,
    file: File,
    rows: Vec<R>,
}

impl<R: Serialize + DeserializeOwned> Store<R> {
    /// Opens the folder of an experiment, which is created if need be, for this process alone.
    ///
    /// # Errors
    /// When the folder holds an experiment with other settings, another process works on it, or a
    /// file cannot be read or written.
    pub fn open(folder: &Path, settings: &Value) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating the folder {}", folder.display()))?;
        let path = folder.join(ROWS_FILE);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("another process works on the experiment in {}", folder.display())
            }
            // Not every file system can lock; the rows are worth more than the lock.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let settings_path = folder.join(SETTINGS_FILE);
        if settings_path.exists() {
            let text = std::fs::read_to_string(&settings_path)
                .with_context(|| format!("reading {}", settings_path.display()))?;
            let given = as_stored(settings)?;
            let stored: Value = serde_json::from_str(&text)
                .with_context(|| format!("in {}", settings_path.display()))?;
            ensure!(
                stored == given,
                "{} holds an experiment with other settings ({}); give another --out",
                folder.display(),
                differences(&stored, &given)
            );
        } else {
            let text = serde_json::to_string_pretty(settings)? + "\n";
            write_atomically(&settings_path, text.as_bytes())?;
        }
        let rows = read(&path, &file)?;
        Ok(Self { path, file, rows })
    }

    /// The rows so far.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// Adds a row; it is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: R) -> anyhow::Result<()> {
        let line = serde_json::to_string(&row)? + "\n";
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("writing {}", self.path.display()))?;
        self.rows.push(row);
        Ok(())
    }
}

impl Store<Row> {
    /// Whether a trial is finished.
    pub fn holds(&self, trial: &Trial) -> bool {
        self.rows.iter().any(|row| row.trial == *trial)
    }
}

/// The rows of an experiment that another process may be working on; none where there is none yet.
///
/// # Errors
/// When the file cannot be read.
pub fn read_rows<R: DeserializeOwned>(folder: &Path) -> anyhow::Result<Vec<R>> {
    let path = folder.join(ROWS_FILE);
    match path.exists() {
        true => Ok(parse(&path)?.0),
        false => Ok(Vec::new()),
    }
}

/// Reads all rows and cuts off half a line at the end, which a process left that was killed.
fn read<R: DeserializeOwned>(path: &Path, file: &File) -> anyhow::Result<Vec<R>> {
    let (rows, complete) = parse(path)?;
    file.set_len(complete as u64).with_context(|| format!("mending {}", path.display()))?;
    Ok(rows)
}

/// All complete rows and the number of bytes that they take.
fn parse<R: DeserializeOwned>(path: &Path) -> anyhow::Result<(Vec<R>, usize)> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let complete = text.rfind('\n').map_or(0, |end| end + 1);
    let parse = |(index, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}", path.display(), index + 1))
    };
    let rows = text[..complete].lines().enumerate().map(parse).collect::<anyhow::Result<_>>()?;
    Ok((rows, complete))
}

/// The commits of the program that made some rows, each once, as the end of "at"; empty where none is known.
pub(super) fn commits<'a>(of_rows: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut commits: Vec<&str> = of_rows.flatten().collect();
    commits.sort_unstable();
    commits.dedup();
    match commits[..] {
        [] => String::new(),
        [one] => format!("commit {one}"),
        _ => format!("commits {}", commits.join(", ")),
    }
}

/// Settings that differ, as `name: stored, not asked`.
fn differences(stored: &Value, asked: &Value) -> String {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    };
    let mut all = names(stored);
    all.extend(names(asked).into_iter().filter(|name| stored.get(name).is_none()));
    let changed = all.iter().filter(|name| stored.get(name) != asked.get(name));
    let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    changed
        .map(|name| format!("{name}: {}, not {}", text(stored.get(name)), text(asked.get(name))))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn row(variant: &str, density: f64, seed: u64, merit: f64) -> Row {
        Row {
            trial: Trial { variant: variant.to_owned(), density, seed },
            density_real: density,
            nonzeros: 10,
            float: merit,
            int8: merit - 0.01,
            instructions: 1000.0,
            flash_bytes: 100,
            arena_bytes: 50,
            seconds: 1.5,
            commit: None,
            details: Value::Null,
        }
    }

    #[test]
    fn rows_survive_a_kill_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let settings = json!({"epochs": 3});
        let open = || Store::<Row>::open(folder.path(), &settings);
        let mut store = open().unwrap();
        assert!(open().err().unwrap().to_string().contains("another process"));
        store.push(row("gmp", 0.1, 1, 0.9)).unwrap();
        drop(store);
        let path = folder.path().join(ROWS_FILE);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"variant\":\"gm";
        std::fs::write(&path, text).unwrap();

        let mut store = open().unwrap();
        assert_eq!(store.rows(), [row("gmp", 0.1, 1, 0.9)]);
        store.push(row("gmp", 0.1, 2, 0.8)).unwrap();
        drop(store);
        let store = open().unwrap();
        assert!(store.holds(&row("gmp", 0.1, 2, 0.0).trial));
        assert!(!store.holds(&row("gmp", 0.05, 2, 0.0).trial));
        drop(store);
        let other =
            Store::<Row>::open(folder.path(), &json!({"epochs": 4})).err().unwrap().to_string();
        assert!(other.contains("epochs: 3, not 4"), "{other}");
    }
}
