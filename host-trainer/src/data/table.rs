//! CSV files with a header line: numeric features, a label column, optionally a group column.

use std::collections::HashMap;
use std::path::Path;

use csv::StringRecord;

use super::bytes::open;
use super::load::{MissingValues, Parsed, Source, in_order, name_of};
use super::normalise::Scaling;
use super::{CLASSES_MAX, DataError, Features, Groups, Place};

pub(super) fn read(
    path: &Path,
    label: Option<&str>,
    group: Option<&str>,
) -> Result<Parsed, DataError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path)?);
    let header = reader.headers().map_err(|e| csv_error(path, 1, e))?.clone();
    if header.is_empty() {
        let expected = "a header line with the names of the columns";
        return Err(DataError::damaged(path, Place::File, expected, "an empty file"));
    }
    let label_column = column(path, &header, label.unwrap_or("label"))?;
    let group_column = group.map(|group| column(path, &header, group)).transpose()?;
    let feature_columns: Vec<usize> =
        (0..header.len()).filter(|&i| i != label_column && Some(i) != group_column).collect();
    if feature_columns.is_empty() {
        let expected = "columns of features beside label and group";
        return Err(DataError::damaged(path, Place::Line(1), expected, "none"));
    }

    let mut features = Vec::new();
    let mut labels = Vec::new();
    let mut groups = Vec::new();
    let mut missing = vec![0; feature_columns.len()];
    let mut record = StringRecord::new();
    let mut line = 1;
    while reader.read_record(&mut record).map_err(|e| csv_error(path, line + 1, e))? {
        line = record.position().map_or(line + 1, csv::Position::line);
        let text = |column: usize, what: &str| match &record[column] {
            "" => {
                let place = Place::Cell(line, header[column].to_owned());
                Err(DataError::damaged(path, place, what, "an empty field"))
            }
            text => Ok(text.to_owned()),
        };
        labels.push(text(label_column, "a label")?);
        if let Some(column) = group_column {
            groups.push(text(column, "a group")?);
        }
        for (missing, &column) in missing.iter_mut().zip(&feature_columns) {
            features.push(match &record[column] {
                "" => {
                    *missing += 1;
                    f32::NAN
                }
                cell => match cell.parse::<f32>() {
                    Ok(value) if value.is_finite() => value,
                    _ => {
                        let place = Place::Cell(line, header[column].to_owned());
                        let expected = "a number (or nothing, where the value is missing)";
                        return Err(DataError::damaged(path, place, expected, format!("{cell:?}")));
                    }
                },
            });
        }
    }
    if labels.is_empty() {
        let expected = "lines of data after the header";
        return Err(DataError::damaged(path, Place::File, expected, "none"));
    }
    let (labels, label_names) = numbered(labels);
    if label_names.len() > CLASSES_MAX {
        let expected =
            format!("at most {CLASSES_MAX} classes in column {:?}", &header[label_column]);
        let found = format!("{} different values", label_names.len());
        return Err(DataError::damaged(path, Place::File, expected, found));
    }
    let groups = group_column.map(|_| {
        let (ids, names) = numbered(groups);
        Groups { ids, names }
    });
    Ok(Parsed {
        name: name_of(path),
        shape: [1, 1, feature_columns.len()],
        unit: "one per column".to_owned(),
        features: Features::F32(features),
        labels,
        label_names,
        groups,
        splits: None,
        scaling: Scaling::PerFeature,
        sound: None,
        source: Source {
            format: "CSV".to_owned(),
            location: Some(path.to_owned()),
            licence: None,
            attribution: None,
            missing: feature_columns
                .iter()
                .zip(missing)
                .filter(|&(_, count)| count > 0)
                .map(|(&column, count)| MissingValues { column: header[column].to_owned(), count })
                .collect(),
        },
    })
}

/// Replaces texts by their position in the list of distinct texts.
pub(super) fn numbered(texts: Vec<String>) -> (Vec<u32>, Vec<String>) {
    let names = in_order(texts.clone());
    let ids: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let numbers = texts.iter().map(|text| ids[text.as_str()]).collect();
    (numbers, names)
}

/// Position of the one column of this name.
pub(super) fn column(path: &Path, header: &StringRecord, name: &str) -> Result<usize, DataError> {
    let mut matches = (0..header.len()).filter(|&i| &header[i] == name);
    match (matches.next(), matches.next()) {
        (Some(i), None) => Ok(i),
        (first, _) => {
            let expected = format!("one column named {name:?}");
            let found = match first {
                Some(_) => "several".to_owned(),
                None => format!("{:?}", header.iter().collect::<Vec<_>>()),
            };
            Err(DataError::damaged(path, Place::Line(1), expected, found))
        }
    }
}

/// Translates an error of the CSV reader; `line` is where it happened if it does not tell itself.
pub(super) fn csv_error(path: &Path, line: u64, error: csv::Error) -> DataError {
    let line = error.position().map_or(line, csv::Position::line);
    let place = Place::Line(line);
    match error.into_kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => DataError::damaged(
            path,
            place,
            format!("{expected_len} fields as in the header"),
            format!("{len}"),
        ),
        csv::ErrorKind::Utf8 { err, .. } => {
            DataError::damaged(path, place, "text in UTF-8", format!("other bytes ({err})"))
        }
        // A file that opens, but breaks off or decompresses to nonsense.
        csv::ErrorKind::Io(e) if path.extension().is_some_and(|ext| ext == "gz") => {
            DataError::damaged(path, place, "intact gzip data", format!("damage ({e})"))
        }
        csv::ErrorKind::Io(e) => DataError::read(path, e),
        kind => DataError::damaged(path, place, "CSV", format!("{kind:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, assert_refused, gzip, spec};
    use super::super::{LoadOptions, Split, load, load_with_source};
    use super::*;

    const TEXT: &str = "user,x,y,activity\n10,1,5,walk\n9, 2 ,,sit\n10,,5,sit\n9,4,5,walk\n";

    fn options() -> LoadOptions {
        LoadOptions {
            label: Some("activity".to_owned()),
            group: Some("user".to_owned()),
            test_fraction: 0.0,
            ..LoadOptions::default()
        }
    }

    #[test]
    fn columns_become_features_labels_and_groups() {
        let folder = Folder::new();
        let path = folder.write("table.csv.gz", gzip(TEXT.as_bytes()));
        let (dataset, source) = load_with_source(spec(&path), &options()).unwrap();
        assert_eq!(dataset.name, "table");
        assert_eq!(dataset.shape, [1, 1, 2]);
        assert_eq!(dataset.label_names, ["sit", "walk"]);
        assert_eq!(dataset.labels, [1, 0, 0, 1]);
        let groups = dataset.groups.as_ref().unwrap();
        assert_eq!(groups.names, ["9", "10"]);
        assert_eq!(groups.ids, [1, 0, 1, 0]);
        // Missing: the mean of the column, 7/3 and 5; a constant column is divided by 1.
        let third = 7.0 / 3.0;
        assert_eq!(dataset.features, Features::F32(vec![1.0, 5.0, 2.0, 5.0, third, 5.0, 4.0, 5.0]));
        assert_eq!(dataset.batch(&[2, 1], None)[..2], [0.0, 0.0]);
        assert_eq!(dataset.normalisation.std[1], 1.0);
        let missing: Vec<_> = source.missing.iter().map(|m| (m.column.as_str(), m.count)).collect();
        assert_eq!(missing, [("x", 1), ("y", 1)]);
    }

    #[test]
    fn missing_values_take_the_mean_of_the_training_split_alone() {
        let folder = Folder::new();
        let lines: String = (0..40).map(|i| format!("{},{}\n", i * i, i % 2)).collect();
        let path = folder.write("table.csv", format!("x,label\n,0\n{lines}"));
        let dataset = load(spec(&path), &LoadOptions::default()).unwrap();
        let training = dataset.indices(Split::Train);
        let present: Vec<f32> =
            training.iter().filter(|&&i| i > 0).flat_map(|&i| dataset.raw(i)).collect();
        let mean = present.iter().sum::<f32>() / present.len() as f32;
        assert!((dataset.raw(0)[0] - mean).abs() < 1e-3);
        assert_eq!(dataset.batch(&[0], None), [0.0]);
    }

    #[test]
    fn damage_is_located() {
        let zipped = gzip(TEXT.repeat(50).as_bytes());
        let cases: &[(&str, &[u8], &[&str])] = &[
            ("a.csv", b"", &["an empty file"]),
            ("a.csv", b"user,x,activity\n", &["lines of data"]),
            ("a.csv", b"user,activity\n1,walk\n", &["line 1: ", "columns of features"]),
            ("a.csv", b"user,x,label\n1,2,walk\n", &["line 1: ", "\"activity\"", "\"label\""]),
            (
                "a.csv",
                b"user,x,activity,user\n",
                &["line 1: ", "one column named \"user\"", "several"],
            ),
            ("a.csv", b"user,x,activity\n1,2,walk\n1,2\n", &["line 3: ", "3 fields", "found 2"]),
            (
                "a.csv",
                b"user,x,activity\n1,2,walk\n1,fast,sit\n",
                &["line 3, column \"x\": ", "\"fast\""],
            ),
            ("a.csv", b"user,x,activity\n1,inf,walk\n", &["line 2, column \"x\": ", "\"inf\""]),
            ("a.csv", b"user,x,activity\n1,2,\n", &["line 2, column \"activity\": ", "a label"]),
            ("a.csv", b"user,x,activity\n,2,sit\n", &["line 2, column \"user\": ", "a group"]),
            ("a.csv", b"user,x,activity\n1,\xff,sit\n", &["line 2: ", "UTF-8"]),
            ("a.csv.gz", &zipped[..zipped.len() / 2], &["line ", "intact gzip data"]),
        ];
        for (name, bytes, parts) in cases {
            let folder = Folder::new();
            let path = folder.write(name, bytes);
            let parts = [&[*name], *parts].concat();
            assert_refused(spec(&path), &options(), &parts);
        }
    }
}
