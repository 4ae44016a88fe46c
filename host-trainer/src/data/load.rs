//! Finds out what a data set is, reads it, and finishes it: splits, missing values, normalisation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::normalise::Scaling;
use super::{
    CLASSES_MAX, DataError, Dataset, Features, Groups, LoadOptions, Normalisation, Sound, Split,
    cifar, digits, idx, images, npy, sound, split, table,
};

/// Where a data set comes from, and under which terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The format in words, e.g. `IDX files`.
    pub format: String,
    /// Path that was read; none for embedded data.
    pub location: Option<PathBuf>,
    /// Licence, where known.
    pub licence: Option<String>,
    /// Whom to cite, where known.
    pub attribution: Option<String>,
    /// Columns with missing values, which are replaced by the column's training mean.
    pub missing: Vec<MissingValues>,
}

/// Missing values of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingValues {
    /// Name of the column.
    pub column: String,
    /// Number of samples without a value.
    pub count: usize,
}

/// What a loader reads from a source; the rest is the same for all of them.
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) shape: [usize; 3],
    pub(super) unit: String,
    /// Missing values are NaN.
    pub(super) features: Features,
    pub(super) labels: Vec<u32>,
    pub(super) label_names: Vec<String>,
    pub(super) groups: Option<Groups>,
    /// The source's own split.
    pub(super) splits: Option<Vec<Split>>,
    pub(super) scaling: Scaling,
    pub(super) sound: Option<Sound>,
    pub(super) source: Source,
}

/// Loads a data set by name or path.
///
/// A name is `digits`, `fashion-mnist` or `mnist`, or that of a file or folder in the folder that the
/// environment variable `NIWAKI_DATA` names.
pub fn load(spec: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
    load_with_source(spec, options).map(|(dataset, _)| dataset)
}

/// Like [`load`], and tells where the data come from.
pub fn load_with_source(spec: &str, options: &LoadOptions) -> Result<(Dataset, Source), DataError> {
    let format = find(spec)?;
    refuse_unsuitable(&format, options)?;
    let parsed = match format {
        Format::Digits => digits::read(),
        Format::Idx { folder, known } => idx::read(&folder, known),
        Format::Cifar10(folder) => cifar::read(&folder),
        Format::Images(folder) => images::read(&folder, options.resize),
        Format::Sound(folder) => sound::read(&folder, options.features),
        Format::Csv(path) => table::read(&path, options.label.as_deref(), options.group.as_deref()),
        Format::Npy { features, labels } => npy::read(&features, &labels),
    }?;
    finish(parsed, options)
}

fn finish(parsed: Parsed, options: &LoadOptions) -> Result<(Dataset, Source), DataError> {
    let Parsed {
        name,
        shape,
        unit,
        mut features,
        mut labels,
        label_names,
        mut groups,
        splits,
        scaling,
        mut sound,
        source,
    } = parsed;
    let mut splits = split::assign(splits, &labels, groups.as_ref(), options)?;
    let sample_len: usize = shape.iter().product();
    if let Some(limit) = options.train_limit {
        let chosen = split::limit_training(&splits, &labels, limit, options.seed)?;
        features = features.select(&chosen, sample_len);
        labels = chosen.iter().map(|&sample| labels[sample]).collect();
        splits = chosen.iter().map(|&sample| splits[sample]).collect();
        if let Some(groups) = &mut groups {
            groups.ids = chosen.iter().map(|&sample| groups.ids[sample]).collect();
        }
        if let Some(sound) = &mut sound {
            sound.samples = chosen.iter().flat_map(|&sample| sound.clip(sample)).copied().collect();
        }
    }
    let training: Vec<usize> = (0..splits.len()).filter(|&i| splits[i] == Split::Train).collect();
    let normalisation = Normalisation::fit(&features, sample_len, &training, scaling);
    if let Features::F32(values) = &mut features {
        for (i, value) in values.iter_mut().enumerate().filter(|(_, v)| v.is_nan()) {
            *value = normalisation.mean[i % normalisation.mean.len()];
        }
    }
    let dataset = Dataset {
        name,
        shape,
        unit,
        features,
        labels,
        label_names,
        groups,
        splits,
        normalisation,
        sound,
    };
    Ok((dataset, source))
}

/// A source that was recognised.
#[derive(Debug)]
enum Format {
    Digits,
    Idx { folder: PathBuf, known: Option<idx::Known> },
    Cifar10(PathBuf),
    Images(PathBuf),
    Sound(PathBuf),
    Csv(PathBuf),
    Npy { features: PathBuf, labels: PathBuf },
}

/// Options that this format would silently ignore are mistakes.
fn refuse_unsuitable(format: &Format, options: &LoadOptions) -> Result<(), DataError> {
    let image_folder = matches!(format, Format::Images(_));
    let csv = matches!(format, Format::Csv(_));
    if options.resize.is_some() && !image_folder {
        return Err(DataError::option("--resize", "only image folders are resized"));
    }
    if options.features.is_some() && !matches!(format, Format::Sound(_)) {
        return Err(DataError::option("--features", "only sound has features to choose"));
    }
    if options.label.is_some() && !csv {
        return Err(DataError::option("--label", "only CSV files have a label column"));
    }
    let speaker = matches!(format, Format::Sound(_)) && options.group.as_deref() == Some("speaker");
    if options.group.is_some() && !csv && !speaker {
        let reason = "only CSV files have a group column, and sound the column `speaker`";
        return Err(DataError::option("--group", reason));
    }
    Ok(())
}

fn find(spec: &str) -> Result<Format, DataError> {
    if spec == "digits" {
        return Ok(Format::Digits);
    }
    if let Some(known) = idx::Known::from_name(spec) {
        return known.folders().into_iter().find(|f| idx::holds(f)).map_or_else(
            || {
                let hint = known.hint();
                Err(not_found(spec, hint))
            },
            |folder| Ok(Format::Idx { folder, known: Some(known) }),
        );
    }
    if let Some((features, labels)) = spec.split_once(',')
        && [features, labels].iter().all(|path| has_extension(Path::new(path), "npy"))
    {
        return Ok(Format::Npy { features: existing(features)?, labels: existing(labels)? });
    }
    recognise(existing(spec)?)
}

fn not_found(spec: &str, hint: String) -> DataError {
    DataError::NotFound { spec: spec.to_owned(), hint }
}

/// The path itself, or the same in the folder of data sets.
fn existing(spec: &str) -> Result<PathBuf, DataError> {
    let path = PathBuf::from(spec);
    if path.exists() {
        return Ok(path);
    }
    let home = data_home().map(|home| home.join(spec));
    match home {
        Some(path) if path.exists() => Ok(path),
        _ => Err(not_found(
            spec,
            "neither a path that exists, nor in the folder that NIWAKI_DATA names, \
             nor one of the names digits, fashion-mnist, mnist"
                .to_owned(),
        )),
    }
}

/// The folder in which data sets are looked for by name.
pub(super) fn data_home() -> Option<PathBuf> {
    std::env::var_os("NIWAKI_DATA").map(PathBuf::from)
}

fn recognise(path: PathBuf) -> Result<Format, DataError> {
    let unrecognised = |found: String| DataError::Unrecognised { path: path.clone(), found };
    if path.is_dir() {
        if idx::holds(&path) {
            let known = path.file_name().and_then(OsStr::to_str);
            let known = known.and_then(idx::Known::from_name);
            return Ok(Format::Idx { folder: path, known });
        }
        if path.join("data_batch_1.bin").is_file() {
            return Ok(Format::Cifar10(path));
        }
        let (features, labels) = (path.join("features.npy"), path.join("labels.npy"));
        if features.is_file() {
            return Ok(Format::Npy { features, labels });
        }
        if sound::holds(&path)? {
            return Ok(Format::Sound(path));
        }
        if images::holds(&path)? {
            return Ok(Format::Images(path));
        }
        return Err(unrecognised(content(&path)?));
    }
    let name = path.to_string_lossy().to_lowercase();
    if name.ends_with(".csv") || name.ends_with(".csv.gz") {
        Ok(Format::Csv(path))
    } else if name.ends_with(".npy") {
        Err(unrecognised(
            "one array is either features or labels; give both as FEATURES.npy,LABELS.npy"
                .to_owned(),
        ))
    } else {
        Err(unrecognised("a single file of no known kind".to_owned()))
    }
}

/// What a folder holds, in words.
fn content(folder: &Path) -> Result<String, DataError> {
    let mut folders = 0;
    let mut kinds = BTreeMap::<String, usize>::new();
    for path in entries(folder)? {
        let is_dir = path.is_dir();
        folders += usize::from(is_dir);
        for file in if is_dir { entries(&path)? } else { vec![path] } {
            let extension = file.extension().unwrap_or_default().to_string_lossy();
            *kinds.entry(extension.to_lowercase()).or_default() += 1;
        }
    }
    if kinds.is_empty() && folders == 0 {
        return Ok("an empty folder".to_owned());
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let kinds: Vec<String> = kinds
        .into_iter()
        .take(5)
        .map(|(extension, count)| match extension.as_str() {
            "" => format!("{count} files without extension"),
            _ => format!("{count} .{extension}"),
        })
        .collect();
    let files = match kinds.is_empty() {
        true => "no files".to_owned(),
        false => format!("files: {}", kinds.join(", ")),
    };
    Ok(match folders {
        0 => format!("a folder with {files}"),
        _ => format!("a folder with {folders} subfolders and {files}"),
    })
}

/// The visible entries of a folder, sorted by name.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = |e| DataError::read(folder, e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Name of a data set read from a path: the last component without extensions.
pub(super) fn name_of(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().unwrap_or_default().to_string_lossy();
    match full.is_dir() {
        true => name.into_owned(),
        false => name.split('.').next().unwrap_or_default().to_owned(),
    }
}

/// Names of classes or groups in the order in which people count: numbers by value, else by letter.
pub(super) fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    let number = |name: &String| name.parse::<i64>().ok();
    if names.iter().all(|name| number(name).is_some()) {
        names.sort_by_key(number);
    }
    names
}

/// Names for classes that are only numbered, and a check of how many there are.
pub(super) fn numbered_classes(labels: &[u32]) -> Result<Vec<String>, usize> {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    match classes <= CLASSES_MAX {
        true => Ok((0..classes).map(|class| class.to_string()).collect()),
        false => Err(classes),
    }
}
