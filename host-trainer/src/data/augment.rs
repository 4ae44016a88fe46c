//! Light augmentation: random shift, crop and mirroring of images.

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::DataError;

/// Random changes of training images that keep their class.
///
/// Written as a list such as `shift=2,flip`:
///
/// - `shift=N`: moves the image by up to N pixels in each direction; what is uncovered becomes black
///   (the mean, where the data are not bytes),
/// - `crop=N`: pads every side by N pixels, mirrored at the border, and cuts out the original size,
/// - `flip`: mirrors left and right, every other time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Augment {
    translation: Option<Translation>,
    flip: bool,
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

impl Augment {
    /// Tells whether the augmentation makes sense for samples of this shape (height, width, channels).
    pub fn check(&self, shape: [usize; 3]) -> Result<(), DataError> {
        let [height, width, _] = shape;
        let refuse = |reason: String| Err(DataError::option("--augment", reason));
        if height.max(width) == 1 {
            return refuse("it moves pixels, but these samples are feature vectors".to_owned());
        }
        match self.translation {
            Some(t) if usize::from(t.pixels) >= height.min(width) => refuse(format!(
                "{} pixels move everything out of an image of {height}x{width}",
                t.pixels
            )),
            _ => Ok(()),
        }
    }

    /// Draws the change of one sample.
    pub(super) fn draw(
        &self,
        key: AugmentKey,
        index: usize,
        height: usize,
        width: usize,
    ) -> (Axis, Axis) {
        // Each number passes through the generator before it meets the next one, so that neither
        // neighbouring samples nor neighbouring epochs share a sequence.
        let seed = Pcg64::seed_from_u64(key.seed).next_u64() ^ key.epoch;
        let seed = Pcg64::seed_from_u64(seed).next_u64() ^ index as u64;
        let mut rng = Pcg64::seed_from_u64(seed);

        let flip = self.flip && rng.random::<bool>();
        let (down, right, border) = match self.translation {
            Some(Translation { pixels, border }) => {
                let reach = i32::from(pixels);
                let down = rng.random_range(-reach..=reach);
                (down, rng.random_range(-reach..=reach), border)
            }
            None => (0, 0, Border::Blank),
        };
        let mut columns = axis(width, right, border);
        if flip {
            columns.reverse();
        }
        (axis(height, down, border), columns)
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
        let mut augment = Self { translation: None, flip: false };
        for item in text.split(',').map(str::trim) {
            let (name, pixels) = item.split_once('=').unwrap_or((item, ""));
            let border = match name {
                "flip" if item == "flip" => {
                    augment.flip = true;
                    continue;
                }
                "shift" => Border::Blank,
                "crop" => Border::Mirrored,
                _ => {
                    return Err(DataError::Syntax(format!(
                        "expected shift=PIXELS, crop=PIXELS or flip, separated by commas, found {item:?}"
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
        if let Some(Translation { pixels, border }) = self.translation {
            match border {
                Border::Blank => write!(f, "shift={pixels}")?,
                Border::Mirrored => write!(f, "crop={pixels}")?,
            }
            if self.flip {
                f.write_str(",")?;
            }
        }
        f.write_str(if self.flip { "flip" } else { "" })
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
