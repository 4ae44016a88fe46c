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
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(open(path)?);
    let header = reader.headers().map_err(|e| csv_error(path, 1, e))?.clone();
    if header.is_empty() {
        let expected = "a header line with the names of the columns";
        return Err(DataError::damaged(
            path,
            Place::File,
            expected,
            "an empty file",
        ));
    }
    let label_column = column(path, &header, label.unwrap_or("label"))?;
    let group_column = group
        .map(|group| column(path, &header, group))
        .transpose()?;
    let feature_columns: Vec<usize> = (0..header.len())
        .filter(|&i| i != label_column && Some(i) != group_column)
        .collect();
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
    while reader
        .read_record(&mut record)
        .map_err(|e| csv_error(path, line + 1, e))?
    {
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
                        return Err(DataError::damaged(
                            path,
                            place,
                            expected,
                            format!("{cell:?}"),
                        ));
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
        let expected = format!(
            "at most {CLASSES_MAX} classes in column {:?}",
            &header[label_column]
        );
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
        source: Source {
            format: "CSV".to_owned(),
            location: Some(path.to_owned()),
            licence: None,
            attribution: None,
            missing: feature_columns
                .iter()
                .zip(missing)
                .filter(|&(_, count)| count > 0)
                .map(|(&column, count)| MissingValues {
                    column: header[column].to_owned(),
                    count,
                })
                .collect(),
        },
    })
}

/// Replaces texts by their position in the list of distinct texts.
fn numbered(texts: Vec<String>) -> (Vec<u32>, Vec<String>) {
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
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => DataError::damaged(
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
