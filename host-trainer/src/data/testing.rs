//! What the tests of the loaders share.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::{DataError, LoadOptions, load};

/// A temporary folder to put data files into.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the folders above it, and gives its path.
    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn spec(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The error with all its causes, as the command prints it.
pub(super) fn message(error: DataError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Checks that loading fails with a message that holds all the given parts.
#[track_caller]
pub(super) fn assert_refused(spec: &str, options: &LoadOptions, parts: &[&str]) {
    let text = message(load(spec, options).expect_err("a data set that must be refused"));
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// The folder with real data sets, where there is one; tests on it are skipped elsewhere.
pub(super) fn real_data(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("NIWAKI_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = home.join(name);
    if !path.exists() {
        println!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}
