//! Light augmentation: random shift, crop, mirroring and quarter turns of images, shift and noise of sound.

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::{DataError, Dataset};

/// Random changes of training samples that keep their class.
///
/// Written as a list such as `shift=2,flip`, or `none`. Of images:
///
/// - `shift=N`: moves the image by up to N pixels in each direction; what is uncovered becomes black
///   (the mean, where the data are not bytes),
/// - `crop=N`: pads every side by N pixels, mirrored at the border, and cuts out the original size,
/// - `flip`: mirrors left and right, every other time,
/// - `rot90`: turns the image by no, one, two or three quarters; for what has no upright position, such as
///   scenes seen from above. Images must be square.
///
/// Of sound, whose features are then computed anew from the changed samples:
///
/// - `shift=Nms`: moves the clip by up to N milliseconds either way; what leaves at one end comes in at the
///   other, so that the background stays what it is,
/// - `noise=NdB`: adds white noise that is N to N + 30 dB below the mean level of the clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Augment {
    translation: Option<Translation>,
    flip: bool,
    rot90: bool,
    shift_ms: Option<u16>,
    noise_db: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Translation {
    pixels: u16,
    border: Border,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Border {
    Blank,
    Mirrored,
}

/// What the random numbers of an augmentation depend on, beside the sample's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AugmentKey {
    /// Seed of the training run.
    pub seed: u64,
    /// Epoch: every epoch sees other changes.
    pub epoch: u64,
}

/// For every row or column of the output, the one of the input to take; `None` is blank.
type Axis = Vec<Option<usize>>;

/// Where every pixel of a changed image comes from.
pub(super) struct Change {
    /// Row of the input for every row of the output; for every column, where the image is transposed.
    pub(super) rows: Axis,
    /// The same of columns.
    pub(super) columns: Axis,
    /// Whether rows and columns change places.
    pub(super) transposed: bool,
}

impl Change {
    /// Takes every pixel from where it is.
    pub(super) fn none(height: usize, width: usize) -> Self {
        let all = |len: usize| (0..len).map(Some).collect();
        Self { rows: all(height), columns: all(width), transposed: false }
    }

    /// Row and column of the input for those of the output; `None` is blank.
    pub(super) fn source(&self, row: usize, column: usize) -> Option<(usize, usize)> {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.rows[row].zip(self.columns[column])
    }
}

impl Augment {
    const NONE: Self =
        Self { translation: None, flip: false, rot90: false, shift_ms: None, noise_db: None };

    /// What suits sound: `shift=100ms,noise=20dB`.
    pub const SOUND: Self = Self { shift_ms: Some(100), noise_db: Some(20), ..Self::NONE };

    /// Tells whether the augmentation makes sense for the data.
    ///
    /// # Errors
    ///
    /// Says why it does not.
    pub fn check(&self, data: &Dataset) -> Result<(), DataError> {
        let [height, width, _] = data.shape;
        let refuse = |reason: String| Err(DataError::option("--augment", reason));
        let changes_images = self.translation.is_some() || self.flip || self.rot90;
        if data.sound.is_none() && self.changes_sound() {
            return refuse(
                "shift=Nms and noise=NdB change sound, but these samples are not sound".to_owned(),
            );
        }
        if data.sound.is_some() && changes_images {
            return refuse(
                "it moves pixels, but these samples are sound; use shift=Nms and noise=NdB"
                    .to_owned(),
            );
        }
        if height.max(width) == 1 && changes_images {
            return refuse("it moves pixels, but these samples are feature vectors".to_owned());
        }
        if self.rot90 && height != width {
            return refuse(format!("rot90 needs square images, but these are {height}x{width}"));
        }
        match self.translation {
            Some(t) if usize::from(t.pixels) >= height.min(width) => refuse(format!(
                "{} pixels move everything out of an image of {height}x{width}",
                t.pixels
            )),
            _ => Ok(()),
        }
    }

    /// Whether clips are changed.
    pub(super) fn changes_sound(&self) -> bool {
        self.shift_ms.is_some() || self.noise_db.is_some()
    }

    /// Draws the change of one image.
    pub(super) fn draw(
        &self,
        key: AugmentKey,
        index: usize,
        height: usize,
        width: usize,
    ) -> Change {
        let mut rng = key.random(index);
        let flip = self.flip && rng.random::<bool>();
        let (down, right, border) = match self.translation {
            Some(Translation { pixels, border }) => {
                let reach = i32::from(pixels);
                let down = rng.random_range(-reach..=reach);
                (down, rng.random_range(-reach..=reach), border)
            }
            None => (0, 0, Border::Blank),
        };
        let (mut rows, mut columns) = (axis(height, down, border), axis(width, right, border));
        if flip {
            columns.reverse();
        }
        let quarters = if self.rot90 { rng.random_range(0..4) } else { 0 };
        if quarters >= 2 {
            rows.reverse();
        }
        if quarters == 1 || quarters == 2 {
            columns.reverse();
        }
        Change { rows, columns, transposed: quarters % 2 == 1 }
    }

    /// Changes the samples of one clip.
    pub(super) fn change_clip(
        &self,
        key: AugmentKey,
        index: usize,
        sample_rate: u32,
        clip: &mut [i16],
    ) {
        /// Difference of the loudest and the faintest noise in dB.
        const NOISE_RANGE: f32 = 30.0;
        let mut rng = key.random(index);
        if let Some(ms) = self.shift_ms {
            let reach = i64::from(ms) * i64::from(sample_rate) / 1000;
            let shift = rng.random_range(-reach..=reach);
            clip.rotate_right(shift.rem_euclid(clip.len().max(1) as i64) as usize);
        }
        if let Some(db) = self.noise_db {
            let power = clip.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>();
            let level = (power / clip.len().max(1) as f64).sqrt() as f32;
            let below = f32::from(db) + rng.random_range(0.0..NOISE_RANGE);
            let deviation = level * 10f32.powf(-below / 20.0);
            for sample in clip {
                let noise: f32 = StandardNormal.sample(&mut rng);
                // `as` saturates.
                *sample = (f32::from(*sample) + deviation * noise).round() as i16;
            }
        }
    }
}

impl AugmentKey {
    /// Random numbers for one sample.
    fn random(self, index: usize) -> Pcg64 {
        // Each number passes through the generator before it meets the next one, so that neither
        // neighbouring samples nor neighbouring epochs share a sequence.
        let seed = Pcg64::seed_from_u64(self.seed).next_u64() ^ self.epoch;
        let seed = Pcg64::seed_from_u64(seed).next_u64() ^ index as u64;
        Pcg64::seed_from_u64(seed)
    }
}

fn axis(len: usize, offset: i32, border: Border) -> Axis {
    let len = len as i64;
    (0..len)
        .map(|i| {
            let source = i - i64::from(offset);
            let source = match border {
                Border::Blank => (0..len).contains(&source).then_some(source),
                Border::Mirrored => {
                    // The border itself is not repeated: 2 1 0 1 2.
                    let folded = source.rem_euclid((2 * (len - 1)).max(1));
                    Some(if folded < len { folded } else { 2 * (len - 1) - folded })
                }
            };
            source.map(|s| s as usize)
        })
        .collect()
}

impl FromStr for Augment {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let mut augment = Self::NONE;
        if text == "none" {
            return Ok(augment);
        }
        for item in text.split(',').map(str::trim) {
            let (name, pixels) = item.split_once('=').unwrap_or((item, ""));
            let of_sound = match name {
                "shift" => pixels.strip_suffix("ms").map(|n| (&mut augment.shift_ms, n)),
                "noise" => Some((&mut augment.noise_db, pixels.strip_suffix("dB").unwrap_or(""))),
                _ => None,
            };
            if let Some((slot, number)) = of_sound {
                match number.parse() {
                    Ok(number @ 1..=1000) if slot.is_none() => *slot = Some(number),
                    _ => {
                        return Err(DataError::Syntax(format!(
                            "expected shift=Nms or noise=NdB once each, with a number from 1 to 1000, \
                             found {item:?}"
                        )));
                    }
                }
                continue;
            }
            let border = match name {
                "flip" if item == "flip" => {
                    augment.flip = true;
                    continue;
                }
                "rot90" if item == "rot90" => {
                    augment.rot90 = true;
                    continue;
                }
                "shift" => Border::Blank,
                "crop" => Border::Mirrored,
                _ => {
                    return Err(DataError::Syntax(format!(
                        "expected shift=PIXELS, crop=PIXELS, flip or rot90 for images, shift=Nms or noise=NdB \
                         for sound, separated by commas, or none, found {item:?}"
                    )));
                }
            };
            let pixels = match pixels.parse() {
                Ok(pixels @ 1..) => pixels,
                _ => {
                    return Err(DataError::Syntax(format!(
                        "expected a number of pixels from 1 to {}, found {pixels:?} in {item:?}",
                        u16::MAX
                    )));
                }
            };
            if augment.translation.is_some() {
                return Err(DataError::Syntax(format!(
                    "{text:?} moves the image twice; give one of shift and crop"
                )));
            }
            augment.translation = Some(Translation { pixels, border });
        }
        Ok(augment)
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let translation = self.translation.map(|Translation { pixels, border }| match border {
            Border::Blank => format!("shift={pixels}"),
            Border::Mirrored => format!("crop={pixels}"),
        });
        let items = [
            translation,
            self.flip.then(|| "flip".to_owned()),
            self.rot90.then(|| "rot90".to_owned()),
            self.shift_ms.map(|ms| format!("shift={ms}ms")),
            self.noise_db.map(|db| format!("noise={db}dB")),
        ];
        let items: Vec<String> = items.into_iter().flatten().collect();
        f.write_str(if items.is_empty() { "none" } else { "" })?;
        f.write_str(&items.join(","))
    }
}

impl TryFrom<String> for Augment {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<Augment> for String {
    fn from(augment: Augment) -> Self {
        augment.to_string()
    }
}
