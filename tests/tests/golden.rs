//! Imported models against the outputs of TensorFlow Lite Micro's reference kernels, byte by byte.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use niwaki::export::{AlignedVec, Exported, KernelChoice, run_all, write, write_with};
use niwaki::target::cost::Core;
use niwaki_core::kernels::KernelId;
use niwaki_core::{Model, Session};
use npyz::npz::NpzArchive;

/// Prefix of the data files, model, and arena that the best other engine needs.
const MLPERF_TINY: [(&str, &str, usize); 4] = [
    ("ic", "resnet8_int8", 52_224),
    ("kws", "dscnn_kws_int8", 16_492),
    ("vww", "mobilenet_vww_int8", 100_676),
    ("ad", "autoencoder_ad_int8", 1_536),
];

/// The MLPerf Tiny reference models with their goldens: under `NIWAKI_DATA`, or beside the
/// repository.
fn mlperf_tiny() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = std::env::var_os("NIWAKI_DATA").map_or_else(|| root.join("shared/data"), Into::into);
    let folder = data.join("mlperf-tiny");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there; NIWAKI_DATA names its parent", folder.display());
        return None;
    }
    Some(folder)
}

fn import(path: &Path) -> Result<Exported> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    write(&niwaki::import::tflite(&bytes, "test")?)
}

fn npy(path: &Path) -> Result<Vec<i8>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(npyz::NpyFile::new(BufReader::new(file))?.into_vec()?)
}

fn npz(path: &Path) -> Result<NpzArchive<BufReader<File>>> {
    NpzArchive::open(path).with_context(|| path.display().to_string())
}

fn array(archive: &mut NpzArchive<BufReader<File>>, key: &str) -> Result<Vec<i8>> {
    let array = archive.by_name(key)?.with_context(|| format!("no array `{key}`"))?;
    Ok(array.into_vec()?)
}

fn differences(found: &[i8], expected: &[i8]) -> usize {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).filter(|(a, b)| a != b).count()
}

#[test]
fn mlperf_tiny_outputs() -> Result<()> {
    let Some(folder) = mlperf_tiny() else { return Ok(()) };
    for (prefix, model, other_arena) in MLPERF_TINY {
        let exported = import(&folder.join(format!("{model}.tflite")))?;
        let inputs = npy(&folder.join(format!("{prefix}_inputs.npy")))?;
        let golden = npy(&folder.join(format!("{prefix}_golden.npy")))?;
        let outputs = run_all(&exported.bytes, &inputs)?;
        let arena = exported.plan.arena_len;
        println!(
            "{prefix}: {} output bytes, {} differ; blob {} bytes, arena {arena} (bound {}, others \
             {other_arena})",
            golden.len(),
            differences(&outputs, &golden),
            exported.bytes.len(),
            exported.plan.lower_bound,
        );
        assert_eq!(differences(&outputs, &golden), 0, "{prefix}");
        assert!(arena <= other_arena, "{prefix}: an arena of {arena} bytes");
    }
    Ok(())
}

#[test]
fn mlperf_tiny_layers() -> Result<()> {
    let Some(folder) = mlperf_tiny() else { return Ok(()) };
    for (prefix, model, _) in MLPERF_TINY {
        let exported = import(&folder.join(format!("{model}.tflite")))?;
        let mut layers = npz(&folder.join(format!("{prefix}_layers.npz")))?;
        let table = std::fs::read_to_string(folder.join(format!("{prefix}_layers.csv")))?;
        // Order, kind and key of each operator; reshapes are views.
        let rows: Vec<Vec<&str>> =
            table.lines().skip(1).map(|line| line.split(',').collect()).collect();
        let computed = rows.iter().filter(|row| !["INPUT", "RESHAPE"].contains(&row[1]));
        let keys: Vec<&str> = computed.map(|row| row[2]).collect();

        let blob = AlignedVec::new(&exported.bytes);
        let model = Model::new(blob.as_bytes())?;
        ensure!(model.op_count() == keys.len(), "{prefix}: {} operators", model.op_count());
        let mut arena = AlignedVec::zeroed(model.arena_len());
        let mut session: Session<'_, '_> = Session::new(model, arena.as_arena())?;
        session.set_input(&array(&mut layers, rows[0][2])?)?;
        let mut compared = 0;
        for (index, key) in keys.iter().enumerate() {
            session.step()?;
            let output = model.op(index).context("an operator")?.output();
            let expected = array(&mut layers, key)?;
            // Channels that carry nothing are removed; the layers behind show that it was nothing.
            if output.len() < expected.len() {
                continue;
            }
            compared += 1;
            let wrong = differences(&session.arena()[output.range()], &expected);
            assert_eq!(wrong, 0, "{prefix} {key} {}", model.op_name(index));
        }
        println!("{prefix}: {compared} of {} layers have all of their channels", keys.len());
        assert!(compared >= keys.len() / 3, "{prefix}: only {compared} layers compared");
    }
    Ok(())
}

/// Small models of every operator: `tests/fixtures/make.py` says what they are. `NIWAKI_FIXTURES` names
/// another folder of such pairs of files.
#[test]
fn fixtures() -> Result<()> {
    let other = std::env::var_os("NIWAKI_FIXTURES").map(PathBuf::from);
    let own = other.is_none();
    let folder = other.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"));
    let mut wrong = Vec::new();
    let (mut count, mut by_rows) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "tflite") {
            continue;
        }
        count += 1;
        let graph = niwaki::import::tflite(&std::fs::read(&path)?, "test")
            .with_context(|| path.display().to_string())?;
        let mut archive = npz(&path.with_extension("npz"))?;
        let (inputs, golden) = (array(&mut archive, "inputs")?, array(&mut archive, "outputs")?);
        let variants = [
            KernelChoice::Cheapest(Core::CortexM4),
            KernelChoice::Only(KernelId::ConvDense),
            KernelChoice::Only(KernelId::ConvPacked),
            KernelChoice::Only(KernelId::ConvSparse),
            KernelChoice::Only(KernelId::ConvBlock2),
            KernelChoice::Only(KernelId::ConvBlock4),
            KernelChoice::Only(KernelId::LinearDense),
            KernelChoice::Only(KernelId::LinearSparse),
        ];
        for choice in variants {
            let exported = write_with(&graph, choice)?;
            let found = differences(&run_all(&exported.bytes, &inputs)?, &golden);
            let rows = exported.plan.by_rows.iter().filter(|&&by_rows| by_rows).count();
            by_rows += rows;
            println!(
                "{}: {found} of {} differ, arena {}, {rows} row by row",
                path.display(),
                golden.len(),
                exported.plan.arena_len
            );
            if found != 0 {
                wrong.push((path.clone(), choice));
            }
        }
    }
    assert!(count > 0, "no fixtures");
    assert!(!own || by_rows > 2, "{by_rows} operators are executed row by row");
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}
