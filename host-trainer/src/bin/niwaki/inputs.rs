//! Inputs that commands run models on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use niwaki::data::{Dataset, Split};
use niwaki::export;
use niwaki_core::Model;

/// The first `limit` samples of a split.
pub(crate) fn samples(data: &Dataset, split: Split, limit: Option<usize>) -> Result<Vec<usize>> {
    let mut samples = data.indices(split);
    samples.truncate(limit.unwrap_or(usize::MAX));
    ensure!(!samples.is_empty(), "no samples: the {split} split of `{}` is empty", data.name);
    Ok(samples)
}

/// Quantised inputs of samples, and their labels.
pub(crate) fn of_samples(
    model: &Model<'_>,
    data: &Dataset,
    samples: &[usize],
) -> Result<(Vec<Vec<i8>>, Vec<usize>)> {
    let inputs = export::quantised_inputs(model, data, samples)?;
    let labels = samples.iter().map(|&sample| data.labels[sample] as usize).collect();
    Ok((rows(&inputs, model.input().len()), labels))
}

/// Values one after the other as rows of `len`.
fn rows(values: &[i8], len: usize) -> Vec<Vec<i8>> {
    values.chunks(len).map(<[i8]>::to_vec).collect()
}

/// The first `limit` rows of an int8 array, each of `len` values.
pub(crate) fn of_file(path: &Path, len: usize, limit: Option<usize>) -> Result<Vec<Vec<i8>>> {
    let read = || -> Result<Vec<i8>> {
        let file = std::io::BufReader::new(std::fs::File::open(path)?);
        Ok(npyz::NpyFile::new(file)?.into_vec()?)
    };
    let values = read().with_context(|| format!("reading int8 values from {}", path.display()))?;
    ensure!(
        values.len().is_multiple_of(len) && !values.is_empty(),
        "{}: expected rows of {len} values, found {} values",
        path.display(),
        values.len()
    );
    let wanted = limit.map_or(values.len(), |limit| limit.saturating_mul(len).min(values.len()));
    Ok(rows(&values[..wanted], len))
}
