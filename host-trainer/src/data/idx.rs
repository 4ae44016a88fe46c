//! IDX files, the format of MNIST: <http://yann.lecun.com/exdb/mnist/>.

use std::path::{Path, PathBuf};

use super::bytes::ByteReader;
use super::load::{Parsed, Source, data_home, name_of, numbered_classes};
use super::normalise::Scaling;
use super::{DataError, Features, Split};

/// Unsigned bytes in one and in three dimensions.
const MAGIC_LABELS: u32 = 0x0000_0801;
const MAGIC_IMAGES: u32 = 0x0000_0803;

/// Largest image side; a header that says more is damaged.
const SIDE_MAX: u32 = 65_536;

/// Data sets that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    FashionMnist,
    Mnist,
}

impl Known {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "fashion-mnist" => Some(Self::FashionMnist),
            "mnist" => Some(Self::Mnist),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::FashionMnist => "fashion-mnist",
            Self::Mnist => "mnist",
        }
    }

    /// The folders in which the data set may lie, the most deliberate choice first.
    pub(super) fn folders(self) -> Vec<PathBuf> {
        let name = self.name();
        // The second is where torchvision unpacks to.
        let (plain, torchvision) = match self {
            Self::FashionMnist => (name, "FashionMNIST/raw"),
            Self::Mnist => (name, "MNIST/raw"),
        };
        let mut parents: Vec<PathBuf> = data_home().into_iter().collect();
        parents.extend(["data", "/usr/share/datasets"].map(PathBuf::from));
        parents.iter().flat_map(|parent| [parent.join(plain), parent.join(torchvision)]).collect()
    }

    /// How to get it.
    pub(super) fn hint(self) -> String {
        let places: Vec<_> =
            self.folders().iter().map(|folder| folder.display().to_string()).collect();
        let get = match self {
            Self::FashionMnist => {
                "install it with `apt install dataset-fashion-mnist` (Debian, Ubuntu), \
                 or give the path of the folder with its four files"
            }
            Self::Mnist => {
                "give the path of the folder with its four files, or name the folder above it in NIWAKI_DATA"
            }
        };
        format!("no IDX files in {}; {get}", places.join(", "))
    }

    fn label_names(self) -> Vec<String> {
        let names = match self {
            Self::FashionMnist => [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
            Self::Mnist => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        };
        names.map(str::to_owned).to_vec()
    }

    fn attribution(self) -> &'static str {
        match self {
            Self::FashionMnist => {
                "H. Xiao, K. Rasul, R. Vollgraf, \"Fashion-MNIST: a Novel Image Dataset for Benchmarking \
                 Machine Learning Algorithms\", arXiv:1708.07747, 2017; Zalando SE"
            }
            Self::Mnist => {
                "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, \"Gradient-Based Learning Applied to Document \
                 Recognition\", Proceedings of the IEEE 86(11), 1998"
            }
        }
    }

    fn licence(self) -> Option<&'static str> {
        match self {
            Self::FashionMnist => Some("MIT"),
            Self::Mnist => None,
        }
    }
}

/// Whether a folder looks like IDX data.
pub(super) fn holds(folder: &Path) -> bool {
    find(folder, "train-images", 3).is_ok()
}

/// The file under any of its usual names.
fn find(folder: &Path, part: &str, dimensions: u8) -> Result<PathBuf, DataError> {
    let names = ['-', '.']
        .map(|dot| format!("{part}{dot}idx{dimensions}-ubyte"))
        .into_iter()
        .flat_map(|name| [format!("{name}.gz"), name]);
    let found = names.map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let expected = format!("the file {part}-idx{dimensions}-ubyte[.gz] in this folder");
        DataError::damaged(folder, super::Place::File, expected, "no such file")
    })
}

pub(super) fn read(folder: &Path, known: Option<Known>) -> Result<Parsed, DataError> {
    let training = Images::read(folder, "train")?;
    let test = Images::read(folder, "t10k")?;
    if training.shape != test.shape {
        let [height, width] = training.shape;
        let expected = format!("images of {height}x{width} as in the training file");
        let [height, width] = test.shape;
        let place = super::Place::Byte(8);
        let path = &test.images_path;
        return Err(DataError::damaged(path, place, expected, format!("{height}x{width}")));
    }
    let label_names = match known {
        Some(known) => known.label_names(),
        // One byte per label: never too many.
        None => numbered_classes(&training.labels).unwrap_or_default(),
    };
    training.check_labels(label_names.len())?;
    test.check_labels(label_names.len())?;

    let mut splits = vec![Split::Train; training.labels.len()];
    splits.resize(training.labels.len() + test.labels.len(), Split::Test);
    let [height, width] = training.shape;
    Ok(Parsed {
        name: known.map_or_else(|| name_of(folder), |known| known.name().to_owned()),
        shape: [height, width, 1],
        unit: "pixel, 0..=255".to_owned(),
        features: Features::U8([training.pixels, test.pixels].concat()),
        labels: [training.labels, test.labels].concat(),
        label_names,
        groups: None,
        splits: Some(splits),
        scaling: Scaling::WholeNumbers,
        sound: None,
        source: Source {
            format: "IDX files".to_owned(),
            location: Some(folder.to_owned()),
            licence: known.and_then(Known::licence).map(str::to_owned),
            attribution: known.map(|known| known.attribution().to_owned()),
            missing: Vec::new(),
        },
    })
}

/// An image file and its label file.
struct Images {
    images_path: PathBuf,
    labels_path: PathBuf,
    shape: [usize; 2],
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Images {
    fn read(folder: &Path, part: &str) -> Result<Self, DataError> {
        let images_path = find(folder, &format!("{part}-images"), 3)?;
        let labels_path = find(folder, &format!("{part}-labels"), 1)?;

        let mut reader = ByteReader::open(&images_path)?;
        let count = header(&mut reader, MAGIC_IMAGES, "images")?;
        let mut side = |what: &str, offset: u64| {
            let side = reader.u32_be(what)?;
            if (1..=SIDE_MAX).contains(&side) {
                Ok(side)
            } else {
                let expected = format!("{what} from 1 to {SIDE_MAX}");
                Err(reader.damaged_at(offset, expected, side.to_string()))
            }
        };
        let (height, width) = (side("image height", 8)?, side("image width", 12)?);
        // Below 2^64: three 32-bit numbers, two of them at most 2^16.
        let len = u64::from(count) * u64::from(height) * u64::from(width);
        let pixels = reader.bytes(len, "pixels")?;
        reader.end()?;

        let mut reader = ByteReader::open(&labels_path)?;
        let label_count = header(&mut reader, MAGIC_LABELS, "labels")?;
        if label_count != count {
            let expected = format!("{count} labels, one per image of {}", images_path.display());
            return Err(reader.damaged_at(4, expected, format!("{label_count}")));
        }
        let labels = reader.bytes(u64::from(label_count), "labels")?;
        reader.end()?;
        Ok(Self {
            images_path,
            labels_path,
            shape: [height as usize, width as usize],
            pixels,
            labels: labels.into_iter().map(u32::from).collect(),
        })
    }

    fn check_labels(&self, classes: usize) -> Result<(), DataError> {
        match self.labels.iter().position(|&label| label as usize >= classes) {
            None => Ok(()),
            Some(i) => Err(DataError::damaged(
                &self.labels_path,
                super::Place::Sample(i),
                format!("a label from 0 to {}", classes.saturating_sub(1)),
                self.labels[i].to_string(),
            )),
        }
    }
}

/// Checks the magic number and gives the number of items.
fn header(reader: &mut ByteReader, magic: u32, what: &str) -> Result<u32, DataError> {
    let found = reader.u32_be("the IDX magic number")?;
    if found != magic {
        let expected = format!("magic number {magic:#010x} (IDX, {what} of unsigned bytes)");
        return Err(reader.damaged_at(0, expected, format!("{found:#010x}")));
    }
    match reader.u32_be(&format!("the number of {what}"))? {
        0 => Err(reader.damaged_at(4, format!("at least one of the {what}"), "0")),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Folder, assert_refused, gzip, spec};
    use super::super::{LoadOptions, load};
    use super::*;

    fn idx(magic: u32, dims: &[u32], data: &[u8]) -> Vec<u8> {
        let header = [&[magic], dims].concat();
        header.into_iter().flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
    }

    /// A valid data set of 2 x 1 pixels: three training images, one for testing.
    fn write(folder: &Folder) {
        let pixels = [1, 2, 3, 4, 5, 6];
        folder.write("train-images-idx3-ubyte", idx(MAGIC_IMAGES, &[3, 2, 1], &pixels));
        folder.write("train-labels-idx1-ubyte.gz", gzip(&idx(MAGIC_LABELS, &[3], &[0, 1, 2])));
        folder.write("t10k-images.idx3-ubyte.gz", gzip(&idx(MAGIC_IMAGES, &[1, 2, 1], &[7, 8])));
        folder.write("t10k-labels.idx1-ubyte", idx(MAGIC_LABELS, &[1], &[2]));
    }

    #[test]
    fn files_load_under_all_their_names() {
        let folder = Folder::new();
        write(&folder);
        let dataset = load(spec(folder.path()), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.shape, [2, 1, 1]);
        assert_eq!(dataset.features, Features::U8((1..=8).collect()));
        assert_eq!(dataset.labels, [0, 1, 2, 2]);
        assert_eq!(dataset.label_names, ["0", "1", "2"]);
        assert_eq!(dataset.indices(Split::Test), [3]);
    }

    #[test]
    fn damage_is_located() {
        let whole = gzip(&idx(MAGIC_LABELS, &[3], &[0, 1, 2]));
        let cases: &[(&str, Vec<u8>, &[&str])] = &[
            (
                "train-images-idx3-ubyte",
                idx(MAGIC_LABELS, &[3, 2, 1], &[0; 6]),
                &["byte 0: ", "0x00000803", "0x00000801"],
            ),
            ("train-images-idx3-ubyte", Vec::new(), &["byte 0: ", "end of the file"]),
            (
                "train-images-idx3-ubyte",
                idx(MAGIC_IMAGES, &[3, 2, 1], &[0; 5]),
                &["byte 21: ", "6 bytes of pixels"],
            ),
            (
                "train-images-idx3-ubyte",
                idx(MAGIC_IMAGES, &[3, 2, 1], &[0; 7]),
                &["byte 22: ", "more bytes"],
            ),
            // Four billion images: refused by the size of the file, not by the allocator.
            (
                "train-images-idx3-ubyte",
                idx(MAGIC_IMAGES, &[u32::MAX, 65_536, 65_536], &[0; 6]),
                &["byte 22: ", "bytes of pixels"],
            ),
            (
                "train-images-idx3-ubyte",
                idx(MAGIC_IMAGES, &[3, 0, 1], &[]),
                &["byte 8: ", "image height"],
            ),
            ("train-images-idx3-ubyte", idx(MAGIC_IMAGES, &[0, 2, 1], &[]), &["at least one"]),
            (
                "train-labels-idx1-ubyte.gz",
                gzip(&idx(MAGIC_LABELS, &[2], &[0, 1])),
                &["byte 4 after decompression: ", "3 labels", "found 2"],
            ),
            (
                "train-labels-idx1-ubyte.gz",
                whole[..whole.len() - 2].to_vec(),
                &["byte 11 after decompression: ", "damaged gzip data"],
            ),
            ("train-labels-idx1-ubyte.gz", whole[..12].to_vec(), &["damaged gzip data"]),
            (
                "train-labels-idx1-ubyte.gz",
                b"not gzip at all".to_vec(),
                &["byte 0 after decompression: ", "damaged gzip data"],
            ),
            (
                "t10k-labels.idx1-ubyte",
                idx(MAGIC_LABELS, &[1], &[3]),
                &["sample 0: ", "from 0 to 2", "found 3"],
            ),
        ];
        for (name, bytes, parts) in cases {
            let folder = Folder::new();
            write(&folder);
            folder.write(name, bytes);
            let parts = [&[*name], *parts].concat();
            assert_refused(spec(folder.path()), &LoadOptions::default(), &parts);
        }
    }

    #[test]
    fn missing_files_and_known_names_are_told() {
        let folder = Folder::new();
        write(&folder);
        std::fs::remove_file(folder.path().join("t10k-labels.idx1-ubyte")).unwrap();
        let options = LoadOptions::default();
        assert_refused(spec(folder.path()), &options, &["t10k-labels-idx1-ubyte[.gz]"]);
        assert!(Known::FashionMnist.hint().contains("apt install dataset-fashion-mnist"));
    }

    proptest! {
        /// Whatever happens to a byte: an answer, and never a panic.
        #[test]
        fn no_damage_panics(at in 0usize..22, value: u8, len in 0usize..=22) {
            let folder = Folder::new();
            write(&folder);
            let mut bytes = idx(MAGIC_IMAGES, &[3, 2, 1], &[1, 2, 3, 4, 5, 6]);
            bytes[at] = value;
            bytes.truncate(len);
            folder.write("train-images-idx3-ubyte", &bytes);
            let _ = load(spec(folder.path()), &LoadOptions::default());
        }
    }
}
