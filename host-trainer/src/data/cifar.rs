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
        sound: None,
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
        0 => Err(DataError::damaged(path, Place::File, "one class name per line", "none")),
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, assert_refused, spec};
    use super::super::{LoadOptions, load};
    use super::*;

    /// Planes of red 1, green 2 and blue 3, but for the red of the second pixel.
    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((1..=3).flat_map(|colour| [colour; PLANE]));
        record[2] = 9;
        record
    }

    fn write(folder: &Folder) {
        folder.write("batches.meta.txt", "cat\ndog\n\n");
        folder.write("data_batch_1.bin", [record(0), record(1)].concat());
        folder.write("data_batch_2.bin", record(1));
        folder.write("test_batch.bin", record(0));
    }

    #[test]
    fn planes_become_pixels() {
        let folder = Folder::new();
        write(&folder);
        let dataset = load(spec(folder.path()), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.labels, [0, 1, 1, 0]);
        assert_eq!(dataset.label_names, ["cat", "dog"]);
        assert_eq!(dataset.indices(Split::Test), [3]);
        let second = dataset.raw(3);
        assert_eq!(second[..9], [1.0, 2.0, 3.0, 9.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn damage_is_located() {
        let cases: &[(&str, Vec<u8>, &[&str])] = &[
            ("data_batch_2.bin", [record(0), record(2)].concat(), &["byte 3073: ", "found 2"]),
            ("data_batch_1.bin", record(0)[..3000].to_vec(), &["byte 0: ", "cut off"]),
            ("test_batch.bin", Vec::new(), &["an empty file"]),
            ("batches.meta.txt", Vec::new(), &["one class name per line"]),
        ];
        for (name, bytes, parts) in cases {
            let folder = Folder::new();
            write(&folder);
            folder.write(name, bytes);
            let parts = [&[*name], *parts].concat();
            assert_refused(spec(folder.path()), &LoadOptions::default(), &parts);
        }
    }
}
