//! What is in a data set, counted.

use std::collections::BTreeSet;

use serde::Serialize;

use niwaki_core::model::FrontEnd;

use super::{Dataset, Groups, Normalisation, Source, Split};

/// Summary of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Name of the data set.
    pub name: String,
    /// Number of samples.
    pub samples: usize,
    /// Height, width and channels of one sample.
    pub shape: [usize; 3],
    /// Unit of the raw values.
    pub unit: String,
    /// Samples per split.
    pub splits: SplitCounts,
    /// Samples per class and split.
    pub classes: Vec<ClassCounts>,
    /// Groups, where the source has them.
    pub groups: Option<GroupCounts>,
    /// How raw values become network input.
    pub normalisation: Normalisation,
    /// Clips, where the data are sound.
    pub sound: Option<SoundCounts>,
    /// Where the data come from.
    pub source: Source,
}

/// What the clips of a data set of sound are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SoundCounts {
    /// Parameters of the features.
    pub front_end: FrontEnd,
    /// Shorter clips, filled up with silence.
    pub padded: usize,
    /// Longer clips, cut.
    pub cut: usize,
}

/// A number per split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// In the training split.
    pub train: usize,
    /// In the validation split.
    pub val: usize,
    /// In the test split.
    pub test: usize,
}

impl SplitCounts {
    /// Counts by splits.
    pub fn of(splits: impl IntoIterator<Item = Split>) -> Self {
        let mut counts = Self::default();
        for split in splits {
            match split {
                Split::Train => counts.train += 1,
                Split::Val => counts.val += 1,
                Split::Test => counts.test += 1,
            }
        }
        counts
    }

    /// The sum over the splits.
    pub fn total(&self) -> usize {
        self.train + self.val + self.test
    }
}

/// Samples of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// Name of the class.
    pub name: String,
    /// Samples per split.
    #[serde(flatten)]
    pub counts: SplitCounts,
}

/// Groups per split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupCounts {
    /// Number of groups.
    pub count: usize,
    /// Groups that have samples in each split.
    #[serde(flatten)]
    pub counts: SplitCounts,
    /// Groups with samples in more than one split.
    pub shared: usize,
}

impl GroupCounts {
    fn of(groups: &Groups, splits: &[Split]) -> Self {
        let pairs: BTreeSet<(u32, Split)> =
            groups.ids.iter().copied().zip(splits.iter().copied()).collect();
        let counts = SplitCounts::of(pairs.iter().map(|&(_, split)| split));
        let groups: Vec<u32> = pairs.into_iter().map(|(group, _)| group).collect();
        let (distinct, shared) =
            groups.chunk_by(|a, b| a == b).fold((0, 0), |(distinct, shared), splits| {
                (distinct + 1, shared + usize::from(splits.len() > 1))
            });
        Self { count: distinct, counts, shared }
    }
}

/// Counts what is in a data set.
pub fn describe(dataset: &Dataset, source: Source) -> Description {
    let mut by_class = vec![Vec::new(); dataset.classes()];
    for (&label, &split) in dataset.labels.iter().zip(&dataset.splits) {
        by_class[label as usize].push(split);
    }
    Description {
        name: dataset.name.clone(),
        samples: dataset.len(),
        shape: dataset.shape,
        unit: dataset.unit.clone(),
        splits: SplitCounts::of(dataset.splits.iter().copied()),
        classes: dataset
            .label_names
            .iter()
            .zip(by_class)
            .map(|(name, splits)| ClassCounts {
                name: name.clone(),
                counts: SplitCounts::of(splits),
            })
            .collect(),
        groups: dataset.groups.as_ref().map(|groups| GroupCounts::of(groups, &dataset.splits)),
        normalisation: dataset.normalisation.clone(),
        sound: dataset.sound.as_ref().map(|sound| SoundCounts {
            front_end: sound.front_end,
            padded: sound.padded,
            cut: sound.cut,
        }),
        source,
    }
}
