//! Image folders: one folder of image files per class, and optionally `split.csv` (`path,split`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{ImageError, ImageReader};
use rayon::prelude::*;

use super::load::{Parsed, Source, entries, has_extension, name_of};
use super::normalise::Scaling;
use super::table::{column, csv_error};
use super::{CLASSES_MAX, DataError, Features, ImageSize, Place, Split};

const SPLIT_FILE: &str = "split.csv";
const RGB: usize = 3;

/// Whether any subfolder holds an image.
pub(super) fn holds(folder: &Path) -> Result<bool, DataError> {
    for path in entries(folder)? {
        if path.is_dir() && entries(&path)?.iter().any(|file| is_image(file)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_image(path: &Path) -> bool {
    ["png", "jpg", "jpeg", "bmp"]
        .iter()
        .any(|extension| has_extension(path, extension))
}

pub(super) fn read(folder: &Path, resize: Option<ImageSize>) -> Result<Parsed, DataError> {
    let mut label_names = Vec::new();
    let mut files = Vec::new();
    let mut labels = Vec::new();
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let images: Vec<PathBuf> = entries(&class)?
            .into_iter()
            .filter(|f| is_image(f))
            .collect();
        if images.is_empty() {
            let expected = "PNG, JPEG or BMP files in the folder of a class";
            return Err(DataError::damaged(&class, Place::File, expected, "none"));
        }
        labels.resize(labels.len() + images.len(), label_names.len() as u32);
        files.extend(images);
        label_names.push(
            class
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        );
    }
    if label_names.len() > CLASSES_MAX {
        let expected = format!("at most {CLASSES_MAX} class folders");
        let found = label_names.len().to_string();
        return Err(DataError::damaged(folder, Place::File, expected, found));
    }
    let split_file = folder.join(SPLIT_FILE);
    let splits = match split_file.is_file() {
        true => Some(read_splits(&split_file, folder, &files)?),
        false => None,
    };
    let (size, channels, pixels) = decode(&files, resize)?;
    Ok(Parsed {
        name: name_of(folder),
        shape: [size.height as usize, size.width as usize, channels],
        unit: "pixel, 0..=255".to_owned(),
        features: Features::U8(pixels),
        labels,
        label_names,
        groups: None,
        splits,
        scaling: Scaling::WholeNumbers,
        source: Source {
            format: "image folder".to_owned(),
            location: Some(folder.to_owned()),
            licence: None,
            attribution: None,
            missing: Vec::new(),
        },
    })
}

/// One decoded image.
struct Pixels {
    size: ImageSize,
    channels: usize,
    bytes: Vec<u8>,
}

/// Decodes all files to one size: grey when all of them are, else RGB.
fn decode(
    files: &[PathBuf],
    resize: Option<ImageSize>,
) -> Result<(ImageSize, usize, Vec<u8>), DataError> {
    let images: Vec<Pixels> = files
        .par_iter()
        .map(|file| decode_one(file, resize))
        .collect::<Result<_, _>>()?;
    let size = images[0].size;
    if let Some(i) = images.iter().position(|image| image.size != size) {
        let expected = format!("an image of {size} like {}", files[0].display());
        let found = format!(
            "{}; --resize {size} makes all images one size",
            images[i].size
        );
        return Err(DataError::damaged(&files[i], Place::File, expected, found));
    }
    let channels = images
        .iter()
        .map(|image| image.channels)
        .max()
        .unwrap_or(RGB);
    let mut pixels = Vec::with_capacity(images.iter().map(|i| i.bytes.len()).sum());
    for image in images {
        if image.channels == channels {
            pixels.extend(image.bytes);
        } else {
            pixels.extend(image.bytes.iter().flat_map(|&grey| [grey; RGB]));
        }
    }
    Ok((size, channels, pixels))
}

fn decode_one(file: &Path, resize: Option<ImageSize>) -> Result<Pixels, DataError> {
    // The content decides about the format, not the extension.
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|e| DataError::read(file, e))?;
    let expected = match reader.format() {
        Some(format) => format!("a whole {format:?} image"),
        None => "a PNG, JPEG or BMP image".to_owned(),
    };
    let image = reader.decode().map_err(|e| match e {
        ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
            DataError::read(file, e)
        }
        e => DataError::damaged(file, Place::File, expected, format!("damage: {e}")),
    })?;
    let image = match resize {
        Some(size) => image.resize_exact(size.width, size.height, FilterType::Lanczos3),
        None => image,
    };
    let size = ImageSize {
        height: image.height(),
        width: image.width(),
    };
    let (channels, bytes) = match image.color().has_color() {
        true => (RGB, image.into_rgb8().into_raw()),
        false => (1, image.into_luma8().into_raw()),
    };
    Ok(Pixels {
        size,
        channels,
        bytes,
    })
}

/// Reads the split of every file. Each must be listed once, and nothing else.
fn read_splits(path: &Path, folder: &Path, files: &[PathBuf]) -> Result<Vec<Split>, DataError> {
    let positions: HashMap<&Path, usize> = files
        .iter()
        .enumerate()
        .map(|(i, file)| (file.as_path(), i))
        .collect();
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|e| csv_error(path, 1, e))?;
    let header = reader.headers().map_err(|e| csv_error(path, 1, e))?.clone();
    let path_column = column(path, &header, "path")?;
    let split_column = column(path, &header, "split")?;
    let mut splits = vec![None; files.len()];
    for record in reader.records() {
        let record = record.map_err(|e| csv_error(path, 0, e))?;
        let place = || Place::Line(record.position().map_or(0, csv::Position::line));
        let (file, split) = (&record[path_column], &record[split_column]);
        let split = match split {
            "train" => Split::Train,
            "val" => Split::Val,
            "test" => Split::Test,
            _ => {
                let expected = "the split train, val or test";
                return Err(DataError::damaged(
                    path,
                    place(),
                    expected,
                    format!("{split:?}"),
                ));
            }
        };
        let Some(&i) = positions.get(folder.join(file).as_path()) else {
            let expected = "the path of an image in a class folder";
            return Err(DataError::damaged(
                path,
                place(),
                expected,
                format!("{file:?}"),
            ));
        };
        if splits[i].replace(split).is_some() {
            let found = format!("{file:?} for the second time");
            return Err(DataError::damaged(path, place(), "every image once", found));
        }
    }
    match splits.iter().position(Option::is_none) {
        None => Ok(splits.into_iter().flatten().collect()),
        Some(i) => {
            let expected = format!("a line for {}", files[i].display());
            Err(DataError::damaged(path, Place::File, expected, "none"))
        }
    }
}
