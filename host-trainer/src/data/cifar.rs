//! CIFAR-10, binary version: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::path::Path;

use super::bytes::ByteReader;
use super::load::{Parsed, Source, entries, name_of};
use super::normalise::Scaling;
use super::{DataError, Features, Place, Split};

const SIDE: usize = 32;
const CHANNELS: usize = 3;
const PLANE: usize = SIDE * SIDE;
const RECORD: u64 = 1 + (PLANE * CHANNELS) as u64;

pub(super) fn read(folder: &Path) -> Result<Parsed, DataError> {
    let label_names = label_names(&folder.join("batches.meta.txt"))?;
    let mut batches: Vec<_> = entries(folder)?
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("data_batch_") && name.ends_with(".bin")
        })
        .map(|path| (path, Split::Train))
        .collect();
    batches.push((folder.join("test_batch.bin"), Split::Test));

    let (mut features, mut labels, mut splits) = (Vec::new(), Vec::new(), Vec::new());
    for (path, split) in batches {
        read_batch(&path, label_names.len(), &mut features, &mut labels)?;
        splits.resize(labels.len(), split);
    }
    Ok(Parsed {
        name: name_of(folder),
        shape: [SIDE, SIDE, CHANNELS],
        unit: "pixel, 0..=255".to_owned(),
        features: Features::U8(features),
        labels,
        label_names,
        groups: None,
        splits: Some(splits),
        scaling: Scaling::WholeNumbers,
        source: Source {
            format: "CIFAR-10 binary batches".to_owned(),
            location: Some(folder.to_owned()),
            licence: None,
            attribution: Some(
                "A. Krizhevsky, \"Learning Multiple Layers of Features from Tiny Images\", technical \
                 report, University of Toronto, 2009"
                    .to_owned(),
            ),
            missing: Vec::new(),
        },
    })
}

fn label_names(path: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(path).map_err(|e| DataError::read(path, e))?;
    let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match names.len() {
        0 => Err(DataError::damaged(
            path,
            Place::File,
            "one class name per line",
            "none",
        )),
        _ => Ok(names),
    }
}

/// Appends the records of a file, turning colour planes into interleaved pixels.
fn read_batch(
    path: &Path,
    classes: usize,
    features: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<(), DataError> {
    let mut reader = ByteReader::open(path)?;
    let len = reader.len().unwrap_or_default();
    if len == 0 || len % RECORD != 0 {
        let expected = format!("one or more whole records of {RECORD} bytes");
        let found = format!("a file of {len} bytes, so that its last record is cut off");
        return Err(match len {
            0 => DataError::damaged(path, Place::File, expected, "an empty file"),
            _ => reader.damaged_at(len - len % RECORD, expected, found),
        });
    }
    let bytes = reader.bytes(len, "records")?;
    for (i, record) in bytes.chunks_exact(RECORD as usize).enumerate() {
        let label = record[0];
        if usize::from(label) >= classes {
            let expected = format!("a label from 0 to {}", classes - 1);
            return Err(reader.damaged_at(i as u64 * RECORD, expected, label.to_string()));
        }
        labels.push(u32::from(label));
        let planes = &record[1..];
        for pixel in 0..PLANE {
            features.extend((0..CHANNELS).map(|channel| planes[channel * PLANE + pixel]));
        }
    }
    Ok(())
}
