//! Data sets: loaders of several formats into one [`Dataset`] type.
//!
//! A data set is loaded by name or by path with [`load`]:
//!
//! | what | how it is recognised |
//! |---|---|
//! | UCI optical digits, 8x8 | the name `digits`; embedded, needs no file |
//! | Fashion-MNIST, MNIST | the names `fashion-mnist`, `mnist`, looked for in the usual places |
//! | IDX files | a folder with `train-images-idx3-ubyte[.gz]` and its three companions |
//! | CIFAR-10, binary version | a folder with `data_batch_*.bin`, `test_batch.bin`, `batches.meta.txt` |
//! | image folder | one folder of PNG, JPEG or BMP files per class, optionally `split.csv` |
//! | folder of WAV files | a folder with `clips.csv`, or one folder of WAV files per class |
//! | CSV | a file `*.csv` or `*.csv.gz` with a header line |
//! | NumPy arrays | a folder with `features.npy` and `labels.npy`, or `FEATURES.npy,LABELS.npy` |
//!
//! Whatever the format, splits, random numbers and normalisation come out the same way: a source's
//! own split is kept; where there is none it is drawn from a seed; normalisation is computed on
//! the training split alone.
//!
//! ```
//! use niwaki::data::{LoadOptions, Split, load};
//!
//! let digits = load("digits", &LoadOptions::default())?;
//! assert_eq!((digits.len(), digits.shape), (1797, [8, 8, 1]));
//! let batch = digits.batch(&digits.indices(Split::Train)[..32], None);
//! assert_eq!(batch.len(), 32 * digits.sample_len());
//! # Ok::<(), niwaki::data::DataError>(())
//! ```

mod augment;
mod bytes;
mod cifar;
mod describe;
mod digits;
mod error;
mod idx;
mod images;
mod load;
mod normalise;
mod npy;
mod options;
mod preview;
mod sound;
mod split;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use augment::Change;

pub use augment::{Augment, AugmentKey};
pub use describe::{ClassCounts, Description, GroupCounts, SoundCounts, SplitCounts, describe};
pub use error::{DataError, Place};
pub use load::{MissingValues, Source, load, load_with_source};
pub use normalise::Normalisation;
pub use options::{ImageSize, LoadOptions, SplitBy};
pub use preview::write_contact_sheet;
pub use sound::{Sound, SoundFeatures, features};

/// Most classes a data set may have: more is a mistaken label column, not a classification task.
const CLASSES_MAX: usize = 10_000;

/// A labelled data set in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Short name, e.g. `digits`.
    pub name: String,
    /// Height, width and channels of one sample; a vector of n features is `[1, 1, n]`.
    pub shape: [usize; 3],
    /// Unit and range of the raw values, e.g. `pixel, 0..=255`.
    pub unit: String,
    /// Raw values of all samples: samples x height x width x channels, row-major.
    pub features: Features,
    /// Class index of every sample, below `label_names.len()`.
    pub labels: Vec<u32>,
    /// Name of every class.
    pub label_names: Vec<String>,
    /// Who or what each sample comes from, where the source tells.
    pub groups: Option<Groups>,
    /// Split of every sample.
    pub splits: Vec<Split>,
    /// From raw values to network input, computed on the training split.
    pub normalisation: Normalisation,
    /// The clips that the features were computed from, where they are of sound.
    pub sound: Option<Sound>,
}

/// Raw values, in the type that holds them exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum Features {
    /// Bytes: pixels and the like.
    U8(Vec<u8>),
    /// Real numbers, all finite.
    F32(Vec<f32>),
}

impl Features {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of some samples, each of this length.
    fn select(&self, samples: &[usize], len: usize) -> Self {
        fn pick<T: Copy>(values: &[T], samples: &[usize], len: usize) -> Vec<T> {
            samples.iter().flat_map(|&sample| values[sample * len..][..len].to_vec()).collect()
        }
        match self {
            Self::U8(values) => Self::U8(pick(values, samples, len)),
            Self::F32(values) => Self::F32(pick(values, samples, len)),
        }
    }

    fn get(&self, index: usize) -> f32 {
        match self {
            Self::U8(values) => f32::from(values[index]),
            Self::F32(values) => values[index],
        }
    }
}

/// Who or what the samples come from: users, speakers, devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Group of every sample: an index into `names`.
    pub ids: Vec<u32>,
    /// Name of every group.
    pub names: Vec<String>,
}

/// The part of a data set that a sample belongs to.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Weights are fitted on these samples.
    Train,
    /// Choices (architecture, criterion, epoch) are made on these samples.
    Val,
    /// The final figures come from these samples.
    Test,
}

impl Split {
    /// All splits, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        })
    }
}

impl Dataset {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples. A loaded data set has at least one training sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of values of one sample.
    pub fn sample_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.label_names.len()
    }

    /// The samples of a split, in ascending order.
    pub fn indices(&self, split: Split) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.splits[i] == split).collect()
    }

    /// Raw values of a sample in height x width x channel order.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`len`](Self::len).
    pub fn raw(&self, index: usize) -> Vec<f32> {
        let range = index * self.sample_len()..(index + 1) * self.sample_len();
        match &self.features {
            Features::U8(values) => values[range].iter().map(|&v| f32::from(v)).collect(),
            Features::F32(values) => values[range].to_vec(),
        }
    }

    /// Normalised samples in sample x channel x height x width order, as network input.
    ///
    /// An augmentation of sound changes the clip, of which features are computed anew. An augmentation
    /// draws its random numbers from the key and the sample's index in the data
    /// set alone: batch size, order and thread count change nothing. Whether it suits the data is
    /// told by [`Augment::check`].
    ///
    /// # Panics
    ///
    /// When an index is not below [`len`](Self::len).
    pub fn batch(&self, indices: &[usize], augment: Option<(&Augment, AugmentKey)>) -> Vec<f32> {
        let len = self.sample_len();
        let mut batch = vec![0.0; indices.len() * len];
        batch
            .par_chunks_exact_mut(len.max(1))
            .zip(indices)
            .for_each(|(sample, &index)| self.fill(index, augment, sample));
        batch
    }

    fn fill(&self, index: usize, augment: Option<(&Augment, AugmentKey)>, sample: &mut [f32]) {
        let [height, width, channels] = self.shape;
        let change = match augment {
            Some((augment, key)) => augment.draw(key, index, height, width),
            None => Change::none(height, width),
        };
        let start = index * self.sample_len();
        let changed = augment.and_then(|(augment, key)| {
            let sound = self.sound.as_ref().filter(|_| augment.changes_sound())?;
            let mut clip = sound.clip(index).to_vec();
            augment.change_clip(key, index, sound.front_end.sample_rate, &mut clip);
            features(&sound.front_end, &clip).ok()
        });
        let mut sample = sample.iter_mut();
        for channel in 0..channels {
            for row in 0..height {
                for column in 0..width {
                    let Some(value) = sample.next() else { return };
                    *value = match change.source(row, column) {
                        Some((row, column)) => {
                            let element = (row * width + column) * channels + channel;
                            let raw = match &changed {
                                Some(features) => features[element],
                                None => self.features.get(start + element),
                            };
                            self.normalisation.apply(element, raw)
                        }
                        // Uncovered by a shift: black for pixels, else the mean.
                        None => match self.features {
                            Features::U8(_) => self.normalisation.apply(0, 0.0),
                            Features::F32(_) => 0.0,
                        },
                    };
                }
            }
        }
    }
}
