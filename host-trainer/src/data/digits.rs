//! The embedded data set, default of every command. See `digits.ATTRIBUTION.md`.

use flate2::read::GzDecoder;

use super::load::{Parsed, Source};
use super::normalise::Scaling;
use super::{DataError, Features};

const FILE: &[u8] = include_bytes!("digits.csv.gz");
const SIDE: usize = 8;
const CLASSES: usize = 10;

pub(super) fn read() -> Result<Parsed, DataError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(GzDecoder::new(FILE));
    let mut features = Vec::new();
    let mut labels = Vec::new();
    for record in reader.deserialize() {
        // The file is part of the program, and a test reads it.
        let values: Vec<u8> = record.expect("embedded data are intact");
        let (label, pixels) = values.split_last().expect("embedded data are intact");
        features.extend_from_slice(pixels);
        labels.push(u32::from(*label));
    }
    Ok(Parsed {
        name: "digits".to_owned(),
        shape: [SIDE, SIDE, 1],
        unit: "intensity, 0..=16".to_owned(),
        features: Features::U8(features),
        labels,
        label_names: (0..CLASSES).map(|digit| digit.to_string()).collect(),
        groups: None,
        splits: None,
        scaling: Scaling::WholeNumbers,
        sound: None,
        source: Source {
            format: "embedded".to_owned(),
            location: None,
            licence: Some("CC BY 4.0".to_owned()),
            attribution: Some(
                "E. Alpaydin, C. Kaynak, \"Optical Recognition of Handwritten Digits\", UCI Machine \
                 Learning Repository, 1998, doi:10.24432/C50P49 (test part, copy of scikit-learn)"
                    .to_owned(),
            ),
            missing: Vec::new(),
        },
    })
}
