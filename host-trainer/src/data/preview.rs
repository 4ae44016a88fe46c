//! Contact sheets: several samples of every class in one picture.

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage, imageops};

use super::{DataError, Dataset, Features};

const SAMPLES_PER_CLASS: usize = 12;
/// Rows of the sheet; further classes are left out.
const CLASSES_SHOWN: usize = 64;
/// Small samples are enlarged until their longer side has at least this many pixels.
const SIDE_MIN: usize = 64;
const GAP: usize = 4;
const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);

/// Writes a PNG with one row per class, in the order of the classes, and up to 12 training or other
/// samples in each, spread over the data set. Feature vectors are drawn as bars: one column of pixels
/// per feature, from -3 to +3 standard deviations.
pub fn write_contact_sheet(dataset: &Dataset, path: &Path) -> Result<(), DataError> {
    let mut png = Cursor::new(Vec::new());
    let result = contact_sheet(dataset)
        .write_to(&mut png, ImageFormat::Png)
        .map_err(io::Error::other)
        .and_then(|()| fs::write(path, png.into_inner()));
    result.map_err(|source| DataError::Io { path: path.to_owned(), action: "write", source })
}

fn contact_sheet(dataset: &Dataset) -> RgbImage {
    let classes = dataset.classes().min(CLASSES_SHOWN);
    let mut by_class = vec![Vec::new(); classes];
    for (i, &label) in dataset.labels.iter().enumerate() {
        if let Some(samples) = by_class.get_mut(label as usize) {
            samples.push(i);
        }
    }
    let white = match &dataset.features {
        Features::U8(values) => f32::from(values.iter().copied().max().unwrap_or(u8::MAX).max(1)),
        Features::F32(_) => 1.0,
    };
    let cell = |i| match dataset.shape {
        [1, 1, _] => bars(dataset, i),
        _ => picture(dataset, i, white),
    };
    let (width, height) = cell(0).dimensions();
    let pitch = |side: u32| i64::from(side) + GAP as i64;
    let extent = |count: usize, side: u32| count as u32 * pitch(side) as u32 + GAP as u32;
    let mut sheet =
        RgbImage::from_pixel(extent(SAMPLES_PER_CLASS, width), extent(classes, height), BACKGROUND);
    for (row, samples) in (0..).zip(&by_class) {
        let shown = samples.len().min(SAMPLES_PER_CLASS);
        for column in 0..shown {
            let sample = samples[column * samples.len() / shown];
            let x = GAP as i64 + column as i64 * pitch(width);
            let y = GAP as i64 + row * pitch(height);
            imageops::replace(&mut sheet, &cell(sample), x, y);
        }
    }
    sheet
}

/// A sample with height and width: three channels are colours, of any other number the first is shown in grey.
fn picture(dataset: &Dataset, index: usize, white: f32) -> RgbImage {
    let [height, width, channels] = dataset.shape;
    let values = dataset.raw(index);
    let (low, high) = match dataset.features {
        Features::U8(_) => (0.0, white),
        Features::F32(_) => {
            values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)))
        }
    };
    let range = if high > low { high - low } else { 1.0 };
    let scale = SIDE_MIN.div_ceil(height.max(width));
    RgbImage::from_fn((width * scale) as u32, (height * scale) as u32, |x, y| {
        let pixel = (y as usize / scale * width + x as usize / scale) * channels;
        let channel = |c: usize| ((values[pixel + c] - low) / range * 255.0).round() as u8;
        Rgb(match channels {
            3 => [channel(0), channel(1), channel(2)],
            _ => [channel(0); 3],
        })
    })
}

/// A feature vector as bars from the middle line.
fn bars(dataset: &Dataset, index: usize) -> RgbImage {
    const DEVIATIONS: f32 = 3.0;
    let values = dataset.batch(&[index], None);
    let scale = SIDE_MIN.div_ceil(values.len());
    let middle = SIDE_MIN as f32 / 2.0;
    RgbImage::from_fn((values.len() * scale) as u32, SIDE_MIN as u32, |x, y| {
        let value = (values[x as usize / scale] / DEVIATIONS).clamp(-1.0, 1.0) * middle;
        let height = middle - (y as f32 + 0.5);
        let inside = (0.0..value).contains(&height) || (value..0.0).contains(&height);
        Rgb(if inside { [40, 90, 40] } else { [235, 235, 235] })
    })
}
