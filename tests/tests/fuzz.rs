//! The bodies of the fuzz targets, on their corpora and on random damage to them.
#![allow(unreachable_pub, reason = "the targets' own crate exports them")]

#[path = "../../fuzz/src/blob.rs"]
mod blob;
#[path = "../../fuzz/src/data.rs"]
mod data;
#[path = "../../fuzz/src/federated.rs"]
mod federated;
#[path = "../../fuzz/src/link.rs"]
mod link;
#[path = "../../fuzz/src/tflite.rs"]
mod tflite;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder, those of one extension where it is given.
fn files(folder: &Path, extension: Option<&str>) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .filter(|path| extension.is_none_or(|wanted| path.extension().is_some_and(|e| e == wanted)))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{}: no seeds", folder.display());
    found
}

/// Changes, cuts, repeats and inserts bytes.
fn damage(bytes: &[u8], random: &mut Pcg64) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for _ in 0..random.random_range(1..5) {
        if damaged.is_empty() {
            damaged.push(random.random());
        }
        let at = random.random_range(0..damaged.len());
        match random.random_range(0..5) {
            0 => damaged[at] = random.random(),
            1 => damaged[at] ^= 1 << random.random_range(0..8),
            2 => damaged[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            3 => damaged.truncate(at),
            _ => damaged.insert(at, random.random()),
        }
    }
    damaged
}

fn replay(seeds: &[(String, Vec<u8>)], rounds: usize, run: fn(&[u8])) {
    let mut random = Pcg64::seed_from_u64(3);
    for (name, bytes) in seeds {
        run(bytes);
        for round in 0..rounds {
            let damaged = damage(bytes, &mut random);
            let result = catch_unwind(AssertUnwindSafe(|| run(&damaged)));
            assert!(result.is_ok(), "{name}, round {round}: {damaged:02x?}");
        }
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    files(&root().join("fuzz/corpus").join(target), None)
}

#[test]
fn blobs() {
    replay(&corpus("blob"), 500, blob::run);
}

#[test]
fn frames_on_the_link() {
    replay(&corpus("link"), 2000, link::run);
}

#[test]
fn federated_messages() {
    replay(&corpus("federated"), 2000, federated::run);
}

#[test]
fn tflite_files() {
    let mut seeds = files(&root().join("tests/fixtures"), Some("tflite"));
    seeds.extend(files(&root().join("tests/fixtures/refused"), Some("tflite")));
    replay(&seeds, 200, tflite::run);
}

#[test]
fn data_sets() {
    replay(&corpus("data"), 100, data::run);
}
