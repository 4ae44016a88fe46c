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
    ["png", "jpg", "jpeg", "bmp"].iter().any(|extension| has_extension(path, extension))
}

pub(super) fn read(folder: &Path, resize: Option<ImageSize>) -> Result<Parsed, DataError> {
    let mut label_names = Vec::new();
    let mut files = Vec::new();
    let mut labels = Vec::new();
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let images: Vec<PathBuf> = entries(&class)?.into_iter().filter(|f| is_image(f)).collect();
        if images.is_empty() {
            let expected = "PNG, JPEG or BMP files in the folder of a class";
            return Err(DataError::damaged(&class, Place::File, expected, "none"));
        }
        labels.resize(labels.len() + images.len(), label_names.len() as u32);
        files.extend(images);
        label_names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
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
        sound: None,
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
    let images: Vec<Pixels> =
        files.par_iter().map(|file| decode_one(file, resize)).collect::<Result<_, _>>()?;
    let size = images[0].size;
    if let Some(i) = images.iter().position(|image| image.size != size) {
        let expected = format!("an image of {size} like {}", files[0].display());
        let found = format!("{}; --resize {size} makes all images one size", images[i].size);
        return Err(DataError::damaged(&files[i], Place::File, expected, found));
    }
    let channels = images.iter().map(|image| image.channels).max().unwrap_or(RGB);
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
    // The content decides about the format; the extension only where the content tells nothing.
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|e| DataError::read(file, e))?;
    let kind = reader.format().map_or_else(|| "PNG, JPEG or BMP".to_owned(), |f| format!("{f:?}"));
    let expected = format!("a whole {kind} image");
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
    let size = ImageSize { height: image.height(), width: image.width() };
    let (channels, bytes) = match image.color().has_color() {
        true => (RGB, image.into_rgb8().into_raw()),
        false => (1, image.into_luma8().into_raw()),
    };
    Ok(Pixels { size, channels, bytes })
}

/// Reads the split of every file. Each must be listed once, and nothing else.
fn read_splits(path: &Path, folder: &Path, files: &[PathBuf]) -> Result<Vec<Split>, DataError> {
    let positions: HashMap<&Path, usize> =
        files.iter().enumerate().map(|(i, file)| (file.as_path(), i)).collect();
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
                return Err(DataError::damaged(path, place(), expected, format!("{split:?}")));
            }
        };
        let Some(&i) = positions.get(folder.join(file).as_path()) else {
            let expected = "the path of an image in a class folder";
            return Err(DataError::damaged(path, place(), expected, format!("{file:?}")));
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    use super::super::testing::{Folder, assert_refused, spec};
    use super::super::{LoadOptions, load};
    use super::*;

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn grey(width: u32, height: u32, value: u8) -> Vec<u8> {
        png(GrayImage::from_pixel(width, height, Luma([value])))
    }

    fn write(folder: &Folder) {
        folder.write("cat/a.png", grey(2, 1, 10));
        folder.write("cat/b.PNG", grey(2, 1, 20));
        folder.write("dog/a.png", grey(2, 1, 30));
        folder.write("dog/notes.txt", "not an image");
        folder.write(".hidden/a.png", "");
        folder.write("split.csv", "path,split\ncat/b.PNG,train\ndog/a.png,val\ncat/a.png,test\n");
    }

    #[test]
    fn classes_are_folders_and_splits_are_listed() {
        let folder = Folder::new();
        write(&folder);
        let dataset = load(spec(folder.path()), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.shape, [1, 2, 1]);
        assert_eq!(dataset.label_names, ["cat", "dog"]);
        assert_eq!(dataset.labels, [0, 0, 1]);
        assert_eq!(dataset.splits, [Split::Test, Split::Train, Split::Val]);
        assert_eq!(dataset.features, Features::U8(vec![10, 10, 20, 20, 30, 30]));

        // One colour image makes all of them colour images.
        folder.write("dog/a.png", png(RgbImage::from_pixel(2, 1, Rgb([1, 2, 3]))));
        let dataset = load(spec(folder.path()), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.shape, [1, 2, 3]);
        assert_eq!(dataset.raw(0), [10.0; 6]);
        assert_eq!(dataset.raw(2), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn images_of_different_sizes_need_a_size() {
        let folder = Folder::new();
        write(&folder);
        folder.write("dog/a.png", grey(5, 7, 30));
        let options = LoadOptions::default();
        let parts = ["dog/a.png", "an image of 1x2", "found 7x5", "--resize 1x2"];
        assert_refused(spec(folder.path()), &options, &parts);
        let options = LoadOptions { resize: Some("4x3".parse().unwrap()), ..options };
        let dataset = load(spec(folder.path()), &options).unwrap();
        assert_eq!(dataset.shape, [4, 3, 1]);
        assert_eq!(dataset.raw(2), [30.0; 12]);
    }

    #[test]
    fn damage_is_located() {
        let whole = grey(20, 20, 1);
        let cases: &[(&str, &[u8], &[&str])] = &[
            ("cat/a.png", b"no picture", &["a whole Png image", "damage"]),
            ("cat/a.png", b"", &["a whole Png image", "damage"]),
            ("cat/a.png", &whole[..whole.len() / 2], &["a whole Png image", "damage"]),
            ("split.csv", b"path,split\ncat/a.png,tset\n", &["line 2: ", "\"tset\""]),
            ("split.csv", b"path,split\ncat/c.png,test\n", &["line 2: ", "\"cat/c.png\""]),
            ("split.csv", b"path,split\ncat/a.png,test\n", &["a line for ", "cat/b.PNG"]),
            ("split.csv", b"path,split\ncat/a.png\n", &["line 2: ", "2 fields", "found 1"]),
            ("split.csv", b"file,split\n", &["line 1: ", "\"path\"", "\"file\""]),
            ("split.csv", b"path,split\ncat/a.png,test\ncat/a.png,test\n", &["line 3: ", "second"]),
        ];
        for (name, bytes, parts) in cases {
            let folder = Folder::new();
            write(&folder);
            folder.write(name, bytes);
            let parts = [&[*name], *parts].concat();
            assert_refused(spec(folder.path()), &LoadOptions::default(), &parts);
        }
        let folder = Folder::new();
        write(&folder);
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert_refused(spec(folder.path()), &LoadOptions::default(), &["empty", "found none"]);
    }
}
