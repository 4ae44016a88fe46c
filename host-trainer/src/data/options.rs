//! How a data set is to be loaded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use niwaki_core::Model;

use super::{DataError, SoundFeatures};

const TEST_FRACTION: f64 = 0.2;

/// Options of [`load`](super::load), shared by every command that takes a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Data options")]
pub struct LoadOptions {
    /// Seed of the split, where the source has none of its own
    #[arg(long = "split-seed", value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Image folder: resize every image to this height and width
    #[arg(long, value_name = "HxW")]
    pub resize: Option<ImageSize>,
    /// Sound: features, such as mfcc, log-mel or log-mel:mel=32,window=640 [default: log-mel]
    #[arg(long, value_name = "KIND[:SETTINGS]")]
    pub features: Option<SoundFeatures>,
    /// CSV: the column with the class [default: label]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// CSV: the column with the group (user, speaker) a sample belongs to; not a feature. Sound: speaker
    #[arg(long, value_name = "COLUMN")]
    pub group: Option<String>,
    /// What is never divided between two splits, where the source has none of its own
    #[arg(long, value_enum, value_name = "UNIT", default_value_t = SplitBy::Sample)]
    pub split_by: SplitBy,
    /// Share of the samples (or groups) to test on, where the source has no split of its own
    #[arg(long, value_name = "SHARE", default_value_t = TEST_FRACTION, value_parser = parse_fraction)]
    pub test_fraction: f64,
    /// Share of the training samples (or groups) to set aside for validation
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_fraction)]
    pub val_fraction: f64,
    /// Learn from N samples of the training split only: every class keeps its share, and the same
    /// samples are taken every time
    #[arg(long, value_name = "N")]
    pub train_limit: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            resize: None,
            features: None,
            label: None,
            group: None,
            split_by: SplitBy::Sample,
            test_fraction: TEST_FRACTION,
            val_fraction: 0.0,
            train_limit: None,
        }
    }
}

impl LoadOptions {
    /// These options, with the features of sound that `model` takes where none are named.
    #[must_use]
    pub fn for_model(&self, model: &Model<'_>) -> Self {
        Self { features: self.features.or_else(|| SoundFeatures::of_model(model)), ..self.clone() }
    }
}

/// What a drawn split keeps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// Single samples; every class has the same share of each split
    Sample,
    /// Groups: all samples of a user or speaker are in one split
    Group,
}

/// Height and width of an image, written `HxW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: u32,
    /// Columns of pixels.
    pub width: u32,
}

/// Larger images are no input of a microcontroller.
const SIDE_MAX: u32 = 4096;

impl FromStr for ImageSize {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let side = |s: &str| s.parse().ok().filter(|side| (1..=SIDE_MAX).contains(side));
        text.split_once('x')
            .and_then(|(height, width)| {
                Some(Self {
                    height: side(height)?,
                    width: side(width)?,
                })
            })
            .ok_or_else(|| {
                DataError::Syntax(format!(
                    "expected HEIGHTxWIDTH, each from 1 to {SIDE_MAX}, such as 64x64, found {text:?}"
                ))
            })
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// Checks what serde cannot: options may also come from a file.
pub(super) fn check_fraction(option: &'static str, fraction: f64) -> Result<(), DataError> {
    if (0.0..1.0).contains(&fraction) {
        Ok(())
    } else {
        let reason = format!("expected a share from 0 to below 1, found {fraction}");
        Err(DataError::option(option, reason))
    }
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|fraction| (0.0..1.0).contains(fraction))
        .ok_or_else(|| "expected a share from 0 to below 1, such as 0.2".to_owned())
}
