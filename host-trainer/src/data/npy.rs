//! NumPy arrays: one file of features (samples first), one of labels.

use std::path::Path;
use std::{fs, io};

use npyz::{DType, Deserialize, NpyFile, NpyHeader, Order};

use super::load::{Parsed, Source, name_of, numbered_classes};
use super::normalise::Scaling;
use super::{CLASSES_MAX, DataError, Features, Place};

/// Longest header of an array file; the usual one has 118 bytes. Long ones could exhaust the stack
/// of the parser.
const HEADER_MAX: usize = 1024;

pub(super) fn read(features_path: &Path, labels_path: &Path) -> Result<Parsed, DataError> {
    let features = Array::read(features_path)?;
    let labels = Array::read(labels_path)?;
    let shape = match features.shape[..] {
        [_, n] => [1, 1, n],
        [_, height, width] => [height, width, 1],
        [_, height, width, channels] => [height, width, channels],
        _ => {
            let expected =
                "an array of samples x features, x height x width or x height x width x channels";
            let found = format!("shape {:?}", features.shape);
            return Err(DataError::damaged(features_path, Place::File, expected, found));
        }
    };
    let samples = features.shape[0];
    if labels.shape.len() != 1 || labels.shape[0] != samples {
        let expected =
            format!("shape [{samples}], one label per sample of {}", features_path.display());
        let found = format!("shape {:?}", labels.shape);
        return Err(DataError::damaged(labels_path, Place::File, expected, found));
    }
    let labels = labels.values.labels(labels_path)?;
    let label_names = numbered_classes(&labels).map_err(|classes| {
        let expected = format!("labels below {CLASSES_MAX}");
        DataError::damaged(labels_path, Place::File, expected, format!("{}", classes - 1))
    })?;
    let image = shape[0] * shape[1] > 1;
    let (features, unit, scaling) = match features.values {
        Values::U8(values) => (Features::U8(values), "value, 0..=255", Scaling::WholeNumbers),
        Values::I8(values) => {
            let values = values.into_iter().map(f32::from).collect();
            (Features::F32(values), "value, -128..=127", Scaling::WholeNumbers)
        }
        Values::Real(values) => {
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                let place = Place::Sample(i / shape.iter().product::<usize>());
                return Err(DataError::damaged(
                    features_path,
                    place,
                    "finite numbers",
                    values[i].to_string(),
                ));
            }
            let scaling = if image { Scaling::Scalar } else { Scaling::PerFeature };
            (Features::F32(values), "value", scaling)
        }
        Values::Whole(_) => {
            let expected = "features of type u8, i8, f32 or f64";
            let found = "another integer type";
            return Err(DataError::damaged(features_path, Place::File, expected, found));
        }
    };
    // A folder names its data set, a lone file its own.
    let named_by = match features_path.parent() {
        Some(folder) if features_path.ends_with("features.npy") && folder != Path::new("") => {
            folder
        }
        _ => features_path,
    };
    Ok(Parsed {
        name: name_of(named_by),
        shape,
        unit: unit.to_owned(),
        features,
        labels,
        label_names,
        groups: None,
        splits: None,
        scaling,
        sound: None,
        source: Source {
            format: "NumPy arrays".to_owned(),
            location: Some(features_path.to_owned()),
            licence: None,
            attribution: None,
            missing: Vec::new(),
        },
    })
}

struct Array {
    shape: Vec<usize>,
    values: Values,
}

/// Values in the widest type that each kind of array needs.
enum Values {
    U8(Vec<u8>),
    I8(Vec<i8>),
    Whole(Vec<i64>),
    Real(Vec<f32>),
}

impl Values {
    fn labels(self, path: &Path) -> Result<Vec<u32>, DataError> {
        let whole: Vec<i64> = match self {
            Self::U8(values) => values.into_iter().map(i64::from).collect(),
            Self::I8(values) => values.into_iter().map(i64::from).collect(),
            Self::Whole(values) => values,
            Self::Real(_) => {
                let expected = "labels of an integer type";
                return Err(DataError::damaged(path, Place::File, expected, "real numbers"));
            }
        };
        let label = |(i, value): (usize, i64)| {
            u32::try_from(value).map_err(|_| {
                let expected = format!("a label from 0 to {}", CLASSES_MAX - 1);
                DataError::damaged(path, Place::Sample(i), expected, value.to_string())
            })
        };
        whole.into_iter().enumerate().map(label).collect()
    }
}

impl Array {
    fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|e| DataError::read(path, e))?;
        let damaged = |place, expected: &str, found: String| {
            Err(DataError::damaged(path, place, expected, found))
        };
        // The reader takes memory for whatever length a header states.
        let header_len = match bytes[..] {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => {
                u32::from_le_bytes([a, b, 0, 0])
            }
            [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => {
                u32::from_le_bytes([a, b, c, d])
            }
            _ => {
                let found = format!("{:02x?}", &bytes[..bytes.len().min(8)]);
                return damaged(Place::Byte(0), "\"\\x93NUMPY\" and a version from 1 to 3", found);
            }
        };
        if header_len as usize > HEADER_MAX {
            let expected = format!("a header of at most {HEADER_MAX} bytes");
            return damaged(Place::Byte(8), &expected, format!("{header_len}"));
        }
        let mut data = &bytes[..];
        let file = match NpyFile::new(&mut data) {
            Ok(file) => file,
            Err(e) => {
                return damaged(Place::Byte(10), "the header of a NumPy array", e.to_string());
            }
        };
        let header = file.header().clone();
        let start = bytes.len() - data.len();
        let dtype = header.dtype();
        let kind = match &dtype {
            DType::Plain(kind) => kind.to_string(),
            _ => dtype.descr(),
        };
        let dims = header.shape();
        let size = dtype.num_bytes().filter(|&size| size > 0);
        let needed = dims
            .iter()
            .try_fold(size.unwrap_or(1), |n, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        if needed != Some(data.len()) || dims.contains(&0) {
            let expected = format!("data of shape {dims:?} and type {kind}, at least one sample");
            let found = format!("{} bytes", data.len());
            return damaged(Place::Byte(start as u64), &expected, found);
        }
        if header.order() != Order::C && dims.len() > 1 {
            let found = "Fortran order; save numpy.ascontiguousarray(x)".to_owned();
            return damaged(Place::File, "C order", found);
        }

        // Fits: the product of the dimensions is the length of the data.
        let shape = dims.iter().map(|&dim| dim as usize).collect();
        let values = match kind.get(1..).unwrap_or_default() {
            "u1" => collect(header, data).map(Values::U8),
            "i1" => collect(header, data).map(Values::I8),
            "i2" => collect::<i16>(header, data).map(whole),
            "i4" => collect::<i32>(header, data).map(whole),
            "i8" => collect(header, data).map(Values::Whole),
            "u2" => collect::<u16>(header, data).map(whole),
            "u4" => collect::<u32>(header, data).map(whole),
            "f4" => collect(header, data).map(Values::Real),
            "f8" => collect::<f64>(header, data)
                .map(|values| Values::Real(values.into_iter().map(|v| v as f32).collect())),
            _ => {
                let expected = "features of type u8, i8, f32 or f64, or labels of an integer type";
                return damaged(Place::File, expected, kind);
            }
        };
        Ok(Self { shape, values: values.map_err(|e| DataError::read(path, e))? })
    }
}

fn collect<T: Deserialize>(header: NpyHeader, data: &[u8]) -> io::Result<Vec<T>> {
    NpyFile::with_header(header, data).into_vec()
}

fn whole<T: Into<i64>>(values: Vec<T>) -> Values {
    Values::Whole(values.into_iter().map(Into::into).collect())
}

#[cfg(test)]
mod tests {
    use npyz::{AutoSerialize, Serialize, WriterBuilder};
    use proptest::prelude::*;

    use super::super::testing::{Folder, assert_refused, spec};
    use super::super::{Dataset, LoadOptions, load};
    use super::*;

    fn array<T: AutoSerialize + Serialize + Copy>(
        shape: &[u64],
        order: Order,
        values: &[T],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(shape).order(order);
        let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn load_arrays(features: &[u8], labels: &[u8]) -> Dataset {
        let folder = Folder::new();
        folder.write("features.npy", features);
        folder.write("labels.npy", labels);
        load(spec(folder.path()), &LoadOptions::default()).unwrap()
    }

    #[test]
    fn arrays_of_all_types_load() {
        let labels = array(&[2], Order::C, &[1i64, 0]);
        let bytes = load_arrays(&array(&[2, 2], Order::C, &[1u8, 2, 3, 255]), &labels);
        assert_eq!(bytes.shape, [1, 1, 2]);
        assert_eq!(bytes.labels, [1, 0]);
        assert_eq!(bytes.features, Features::U8(vec![1, 2, 3, 255]));

        let labels = array(&[2], Order::C, &[3u8, 0]);
        let signed = load_arrays(&array(&[2, 2, 1], Order::C, &[-128i8, 2, 3, 127]), &labels);
        assert_eq!(signed.shape, [2, 1, 1]);
        assert_eq!(signed.classes(), 4);
        assert_eq!(signed.features, Features::F32(vec![-128.0, 2.0, 3.0, 127.0]));
        assert_eq!(signed.normalisation.mean, [1.0]);

        for features in [
            array(&[2, 1, 1, 2], Order::C, &[0.5f32, 2.0, 1.5, 2.0]),
            array(&[2, 2], Order::C, &[0.5f64, 2.0, 1.5, 2.0]),
        ] {
            let reals = load_arrays(&features, &labels);
            assert_eq!(reals.shape, [1, 1, 2]);
            assert_eq!(reals.normalisation.mean, [1.0, 2.0]);
            assert_eq!(reals.normalisation.std, [0.5, 1.0]);
        }
    }

    #[test]
    fn damage_is_located() {
        let features = array(&[2, 2], Order::C, &[1u8, 2, 3, 4]);
        let labels = array(&[2], Order::C, &[1i32, 0]);
        let with_header = |header: &str| {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.as_bytes());
            bytes
        };
        let huge = with_header(
            "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n",
        );
        let cases: &[(&str, Vec<u8>, &[&str])] = &[
            ("features.npy", Vec::new(), &["byte 0: ", "NUMPY"]),
            ("features.npy", b"PK\x03\x04 a zip file".to_vec(), &["byte 0: ", "NUMPY"]),
            ("features.npy", features[..20].to_vec(), &["byte 10: ", "header"]),
            ("features.npy", features[..features.len() - 1].to_vec(), &["[2, 2]", "found 3 bytes"]),
            ("features.npy", huge, &["4294967296", "found 0 bytes"]),
            ("features.npy", with_header(&"(".repeat(20_000)), &["byte 8: ", "found 20000"]),
            ("features.npy", with_header(&"(".repeat(1_000)), &["byte 10: ", "header"]),
            ("features.npy", array(&[2, 2], Order::Fortran, &[1u8; 4]), &["C order", "Fortran"]),
            ("features.npy", array(&[2], Order::C, &[1u8; 2]), &["samples x features", "[2]"]),
            ("features.npy", array(&[0, 2], Order::C, &[] as &[u8]), &["at least one sample"]),
            ("features.npy", array(&[2, 1], Order::C, &[1i16; 2]), &["u8, i8, f32 or f64"]),
            (
                "features.npy",
                array(&[2, 2], Order::C, &[1.0, 2.0, f32::NAN, 4.0]),
                &["sample 1: ", "found NaN"],
            ),
            ("labels.npy", array(&[3], Order::C, &[1u8; 3]), &["shape [2]", "found shape [3]"]),
            ("labels.npy", array(&[2], Order::C, &[0i8, -1]), &["sample 1: ", "found -1"]),
            ("labels.npy", array(&[2], Order::C, &[0u32, 1 << 31]), &["labels below 10000"]),
            ("labels.npy", array(&[2], Order::C, &[0.0, 1.0]), &["integer type"]),
        ];
        for (name, bytes, parts) in cases {
            let folder = Folder::new();
            folder.write("features.npy", &features);
            folder.write("labels.npy", &labels);
            folder.write(name, bytes);
            let parts = [&[*name], *parts].concat();
            assert_refused(spec(folder.path()), &LoadOptions::default(), &parts);
        }
    }

    proptest! {
        /// Whatever happens to a byte: an answer, and never a panic.
        #[test]
        fn no_damage_panics(at in 0usize..128, value: u8, len in 0usize..=132) {
            let folder = Folder::new();
            let mut features = array(&[2, 2], Order::C, &[1u8, 2, 3, 4]);
            features[at] = value;
            features.truncate(len);
            folder.write("features.npy", &features);
            folder.write("labels.npy", array(&[2], Order::C, &[1u8, 0]));
            let _ = load(spec(folder.path()), &LoadOptions::default());
        }
    }
}
