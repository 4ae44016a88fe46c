//! Sound: folders of WAV files, and the features that networks take of them.
//!
//! A folder holds either `clips.csv` with the columns `path`, `label` and optionally `speaker` and `split`,
//! or one folder of WAV files per class. The features are computed by [`niwaki_core::frontend`], the code
//! that a device runs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hound::{SampleFormat, WavReader};
use niwaki_core::Model;
use niwaki_core::frontend::{Extractor, FrontEndError};
use niwaki_core::model::{FeatureKind, FrontEnd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::load::{Parsed, Source, entries, has_extension, name_of};
use super::normalise::Scaling;
use super::table::{column, csv_error, numbered};
use super::{CLASSES_MAX, DataError, Features, Groups, Place, Split};
use crate::export::AlignedVec;

const CLIPS_FILE: &str = "clips.csv";
/// A longer clip is a recording that was not cut.
const SECONDS_MAX: u32 = 60;

/// The clips of a data set of sound, and how they become features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Parameters of the features.
    pub front_end: FrontEnd,
    /// Samples of all clips, each of the length that the parameters name.
    pub samples: Vec<i16>,
    /// Clips that were shorter: silence was added to the end.
    pub padded: usize,
    /// Clips that were longer: their end was cut off.
    pub cut: usize,
}

impl Sound {
    /// The samples of a clip.
    ///
    /// # Panics
    ///
    /// When there is no clip with this index.
    pub fn clip(&self, index: usize) -> &[i16] {
        let len = self.front_end.samples as usize;
        &self.samples[index * len..(index + 1) * len]
    }
}

/// The features of one clip, row after row.
///
/// # Errors
///
/// When the parameters are impossible or `samples` are not one clip.
pub fn features(front_end: &FrontEnd, samples: &[i16]) -> Result<Vec<f32>, FrontEndError> {
    let mut memory = AlignedVec::zeroed(front_end.memory_len());
    let mut features = vec![0.0; front_end.rows() * front_end.row_len()];
    Extractor::new(*front_end, memory.as_arena())?.clip(samples, &mut features)?;
    Ok(features)
}

/// Which features of sound to compute.
///
/// Written `mfcc` or `log-mel`, optionally with settings such as `log-mel:mel=32,window=640`:
///
/// - `mel=N`: bands of the mel spectrum (10 for `log-mel`, 40 for `mfcc`),
/// - `coefficients=N`: cepstral coefficients, for `mfcc` (10),
/// - `window=N`, `hop=N`: samples of a window (30 ms) and from one to the next (20 ms),
/// - `fft=N`: length of the Fourier transform (the next power of two),
/// - `low=HZ`, `high=HZ`: edges of the mel bands (20 Hz, 4 kHz),
/// - `clip=N`: samples of a clip (the most frequent length).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SoundFeatures {
    mfcc: bool,
    settings: [Option<u32>; SETTINGS.len()],
}

const SETTINGS: [&str; 8] = ["mel", "coefficients", "window", "hop", "fft", "low", "high", "clip"];

impl Default for SoundFeatures {
    fn default() -> Self {
        Self { mfcc: false, settings: [None; SETTINGS.len()] }
    }
}

impl SoundFeatures {
    /// The features that a model takes; `None` when it is not a model of sound.
    pub fn of_model(model: &Model<'_>) -> Option<Self> {
        let f = model.front_end()?;
        let (mfcc, coefficients) = match f.kind {
            FeatureKind::LogMel => (false, None),
            FeatureKind::Mfcc { coefficients } => (true, Some(coefficients)),
        };
        let [mel, window, hop, fft, low, high] =
            [f.mel_bins, f.window, f.hop, f.fft, f.low_hz, f.high_hz].map(|v| Some(v.into()));
        let (coefficients, clip) = (coefficients.map(u32::from), Some(f.samples));
        Some(Self { mfcc, settings: [mel, coefficients, window, hop, fft, low, high, clip] })
    }

    fn setting(&self, name: &str) -> Option<u32> {
        SETTINGS.iter().position(|known| *known == name).and_then(|index| self.settings[index])
    }

    /// The parameters for clips of `samples` samples at `sample_rate`.
    fn front_end(&self, sample_rate: u32, samples: u32) -> Result<FrontEnd, DataError> {
        // Values that do not fit are out of range for the check below too.
        let or = |name: &str, default: u32| {
            u16::try_from(self.setting(name).unwrap_or(default)).unwrap_or(u16::MAX)
        };
        let window = or("window", sample_rate * 30 / 1000);
        let front_end = FrontEnd {
            kind: match self.mfcc {
                true => FeatureKind::Mfcc { coefficients: or("coefficients", 10) },
                false => FeatureKind::LogMel,
            },
            sample_rate,
            samples,
            window,
            hop: or("hop", sample_rate * 20 / 1000),
            fft: or("fft", u32::from(window).next_power_of_two().max(128)),
            mel_bins: or("mel", if self.mfcc { 40 } else { 10 }),
            low_hz: or("low", 20),
            high_hz: or("high", (sample_rate / 2).min(4000)),
        };
        match front_end.check() {
            Ok(()) => Ok(front_end),
            Err(problem) => Err(DataError::option("--features", problem.to_string())),
        }
    }
}

impl FromStr for SoundFeatures {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let (kind, settings) = text.split_once(':').unwrap_or((text, ""));
        let mfcc = match kind {
            "mfcc" => true,
            "log-mel" => false,
            _ => {
                return Err(DataError::Syntax(format!(
                    "expected mfcc or log-mel, optionally with settings such as mfcc:mel=40,hop=320, \
                     found {kind:?}"
                )));
            }
        };
        let mut features = Self { mfcc, ..Self::default() };
        for item in settings.split(',').filter(|item| !item.is_empty()) {
            let setting = item.split_once('=').and_then(|(name, value)| {
                let index = SETTINGS.iter().position(|known| *known == name)?;
                (mfcc || name != "coefficients").then_some((index, value.parse().ok()?))
            });
            let Some((index, value)) = setting else {
                return Err(DataError::Syntax(format!(
                    "expected a setting NAME=NUMBER with a name of {}, found {item:?}{}",
                    SETTINGS.join(", "),
                    if mfcc { "" } else { " (log-mel has no coefficients)" }
                )));
            };
            features.settings[index] = Some(value);
        }
        Ok(features)
    }
}

impl fmt::Display for SoundFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.mfcc { "mfcc" } else { "log-mel" })?;
        let given = SETTINGS.iter().zip(self.settings).filter_map(|(name, v)| Some((name, v?)));
        for (index, (name, value)) in given.enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for SoundFeatures {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<SoundFeatures> for String {
    fn from(features: SoundFeatures) -> Self {
        features.to_string()
    }
}

/// Whether a folder holds clips: a list of them, or WAV files in subfolders.
pub(super) fn holds(folder: &Path) -> Result<bool, DataError> {
    if folder.join(CLIPS_FILE).is_file() {
        return Ok(true);
    }
    for path in entries(folder)? {
        if path.is_dir() && entries(&path)?.iter().any(|file| has_extension(file, "wav")) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn read(folder: &Path, features: Option<SoundFeatures>) -> Result<Parsed, DataError> {
    let list = folder.join(CLIPS_FILE);
    let Listed { files, labels, speakers, splits } = match list.is_file() {
        true => read_list(&list, folder)?,
        false => read_folders(folder)?,
    };
    let (labels, label_names) = numbered(labels);
    if label_names.len() > CLASSES_MAX {
        let expected = format!("at most {CLASSES_MAX} classes");
        let found = label_names.len().to_string();
        return Err(DataError::damaged(folder, Place::File, expected, found));
    }
    let sound = decode(&files, features.unwrap_or_default())?;
    let front_end = sound.front_end;
    let impossible = |error: FrontEndError| DataError::option("--features", error.to_string());
    let rows: Vec<Vec<f32>> = (0..files.len())
        .into_par_iter()
        .map(|index| self::features(&front_end, sound.clip(index)))
        .collect::<Result<_, _>>()
        .map_err(impossible)?;
    let unit = match front_end.kind {
        FeatureKind::LogMel => "logarithm of the energy in a mel band",
        FeatureKind::Mfcc { .. } => "mel-frequency cepstral coefficient",
    };
    let licence = entries(folder)?.into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        name.to_lowercase().starts_with("licen").then(|| format!("see {name} in the folder"))
    });
    Ok(Parsed {
        name: name_of(folder),
        shape: [front_end.rows(), front_end.row_len(), 1],
        unit: unit.to_owned(),
        features: Features::F32(rows.concat()),
        labels,
        label_names,
        groups: speakers.map(|speakers| {
            let (ids, names) = numbered(speakers);
            Groups { ids, names }
        }),
        splits,
        scaling: Scaling::PerColumn { columns: front_end.row_len() },
        sound: Some(sound),
        source: Source {
            format: "folder of WAV files".to_owned(),
            location: Some(folder.to_owned()),
            licence,
            attribution: None,
            missing: Vec::new(),
        },
    })
}

/// Clips before they are read.
struct Listed {
    files: Vec<PathBuf>,
    labels: Vec<String>,
    speakers: Option<Vec<String>>,
    splits: Option<Vec<Split>>,
}

fn read_folders(folder: &Path) -> Result<Listed, DataError> {
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let clips = entries(&class)?.into_iter().filter(|file| has_extension(file, "wav"));
        let before = files.len();
        files.extend(clips);
        if files.len() == before {
            let expected = "WAV files in the folder of a class";
            return Err(DataError::damaged(&class, Place::File, expected, "none"));
        }
        let label = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
        labels.resize(files.len(), label);
    }
    Ok(Listed { files, labels, speakers: None, splits: None })
}

fn read_list(path: &Path, folder: &Path) -> Result<Listed, DataError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|e| csv_error(path, 1, e))?;
    let header = reader.headers().map_err(|e| csv_error(path, 1, e))?.clone();
    let optional = |name: &str| match header.iter().any(|found| found == name) {
        true => column(path, &header, name).map(Some),
        false => Ok(None),
    };
    let (path_column, label_column) =
        (column(path, &header, "path")?, column(path, &header, "label")?);
    let (speaker_column, split_column) = (optional("speaker")?, optional("split")?);
    let mut listed = Listed {
        files: Vec::new(),
        labels: Vec::new(),
        speakers: speaker_column.map(|_| Vec::new()),
        splits: split_column.map(|_| Vec::new()),
    };
    let mut lines = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| csv_error(path, 0, e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize, expected: &str| match &record[column] {
            "" => {
                let place = Place::Cell(line, header[column].to_owned());
                Err(DataError::damaged(path, place, expected, "an empty field"))
            }
            text => Ok(text.to_owned()),
        };
        let file = folder.join(field(path_column, "the path of a WAV file")?);
        if !file.is_file() {
            let place = Place::Cell(line, "path".to_owned());
            let expected = format!("the path of a WAV file within {}", folder.display());
            return Err(DataError::damaged(
                path,
                place,
                expected,
                format!("{:?}", &record[path_column]),
            ));
        }
        if let Some(first) = lines.insert(file.clone(), line) {
            let found = format!("{:?}, which is in line {first} too", &record[path_column]);
            return Err(DataError::damaged(path, Place::Line(line), "every file once", found));
        }
        listed.files.push(file);
        listed.labels.push(field(label_column, "a label")?);
        if let (Some(column), Some(speakers)) = (speaker_column, &mut listed.speakers) {
            speakers.push(field(column, "a speaker")?);
        }
        if let (Some(column), Some(splits)) = (split_column, &mut listed.splits) {
            splits.push(match &record[column] {
                "train" => Split::Train,
                "val" => Split::Val,
                "test" => Split::Test,
                other => {
                    let place = Place::Cell(line, "split".to_owned());
                    let expected = "train, val or test";
                    return Err(DataError::damaged(path, place, expected, format!("{other:?}")));
                }
            });
        }
    }
    if listed.files.is_empty() {
        let expected = "lines of data after the header";
        return Err(DataError::damaged(path, Place::File, expected, "none"));
    }
    Ok(listed)
}

/// Reads all clips and brings them to one length.
fn decode(files: &[PathBuf], features: SoundFeatures) -> Result<Sound, DataError> {
    let clips: Vec<(u32, Vec<i16>)> =
        files.par_iter().map(|file| decode_one(file)).collect::<Result<_, _>>()?;
    let sample_rate = clips[0].0;
    if let Some(i) = clips.iter().position(|(rate, _)| *rate != sample_rate) {
        let expected = format!("{sample_rate} Hz like {}", files[0].display());
        return Err(DataError::damaged(
            &files[i],
            Place::File,
            expected,
            format!("{} Hz", clips[i].0),
        ));
    }
    let len = features.setting("clip").unwrap_or_else(|| most_frequent(&clips));
    if len > sample_rate.saturating_mul(SECONDS_MAX) {
        let reason = format!(
            "clips of {len} samples at {sample_rate} Hz are longer than {SECONDS_MAX} s; \
             a smaller clip=SAMPLES cuts them"
        );
        return Err(DataError::option("--features", reason));
    }
    let front_end = features.front_end(sample_rate, len)?;
    let len = len as usize;
    let mut sound = Sound { front_end, samples: Vec::new(), padded: 0, cut: 0 };
    sound.samples.reserve_exact(clips.len() * len);
    for (_, clip) in clips {
        sound.padded += usize::from(clip.len() < len);
        sound.cut += usize::from(clip.len() > len);
        sound.samples.extend(clip.into_iter().chain(std::iter::repeat(0)).take(len));
    }
    Ok(sound)
}

/// The most frequent length, the longest where several are equally frequent.
fn most_frequent(clips: &[(u32, Vec<i16>)]) -> u32 {
    let mut counts = HashMap::<usize, usize>::new();
    for (_, clip) in clips {
        *counts.entry(clip.len()).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|&(len, count)| (count, len));
    most.map_or(0, |(len, _)| u32::try_from(len).unwrap_or(u32::MAX))
}

fn decode_one(file: &Path) -> Result<(u32, Vec<i16>), DataError> {
    let refused = |error: hound::Error| match error {
        // The reader reports ends of files that come too early as errors of the kind `Other`.
        hound::Error::IoError(e)
            if !matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::Other) =>
        {
            DataError::read(file, e)
        }
        error => {
            let found = format!("damage: {error}");
            DataError::damaged(file, Place::File, "a whole WAV file of 16-bit PCM", found)
        }
    };
    let mut reader = WavReader::open(file).map_err(refused)?;
    let spec = reader.spec();
    let is_pcm = spec.sample_format == SampleFormat::Int && spec.bits_per_sample == 16;
    if !is_pcm || spec.channels != 1 {
        let format = match spec.sample_format {
            SampleFormat::Int => "PCM",
            SampleFormat::Float => "float",
        };
        let found = format!("{}-bit {format}, {} channels", spec.bits_per_sample, spec.channels);
        return Err(DataError::damaged(file, Place::File, "16-bit PCM, 1 channel", found));
    }
    if spec.sample_rate == 0 {
        return Err(DataError::damaged(file, Place::File, "a sample rate", "0 Hz"));
    }
    let samples: Vec<i16> = reader.samples().collect::<Result<_, _>>().map_err(refused)?;
    Ok((spec.sample_rate, samples))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use hound::{WavSpec, WavWriter};

    use super::super::testing::{Folder, assert_refused, real_data, spec};
    use super::super::{Dataset, LoadOptions, SplitBy, load};
    use super::*;

    const PLAIN: WavSpec = WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };

    /// A tone whose pitch and length tell clips apart.
    fn wav(spec: WavSpec, pitch: f32, len: usize) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
        for n in 0..len * usize::from(spec.channels) {
            writer.write_sample((3000.0 * (n as f32 * pitch).sin()) as i16).unwrap();
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_list_tells_label_speaker_and_split() {
        let folder = Folder::new();
        for (name, pitch, len) in [
            ("a/1.wav", 0.1, 800),
            ("a/2.wav", 0.2, 700),
            ("b/1.wav", 0.3, 800),
            ("b/2.WAV", 0.4, 999),
        ] {
            folder.write(name, wav(PLAIN, pitch, len));
        }
        folder.write("LICENCE", "free");
        let list = "path,label,speaker,split\nb/1.wav,off,12,train\na/1.wav,on,9,val\n\
                    a/2.wav,on,12,train\nb/2.WAV,off,9,test\n";
        folder.write("clips.csv", list);
        let path = spec(folder.path()).to_owned();
        let (data, source) =
            super::super::load_with_source(&path, &LoadOptions::default()).unwrap();
        assert_eq!(data.shape, [(800 - 240) / 160 + 1, 10, 1]);
        assert_eq!(
            (&data.labels[..], &data.label_names[..]),
            (&[0, 1, 1, 0][..], &["off".to_owned(), "on".into()][..])
        );
        assert_eq!(data.groups.as_ref().unwrap().names, ["9", "12"]);
        assert_eq!(data.splits, [Split::Train, Split::Val, Split::Train, Split::Test]);
        assert_eq!(source.licence.as_deref(), Some("see LICENCE in the folder"));
        let sound = data.sound.as_ref().unwrap();
        assert_eq!((sound.padded, sound.cut, sound.samples.len()), (1, 1, 3200));
        assert!(sound.clip(2)[700..].iter().all(|&sample| sample == 0));
        for index in 0..4 {
            assert_eq!(data.raw(index), features(&sound.front_end, sound.clip(index)).unwrap());
        }
        // One mean and deviation per band, over the training clips.
        let training = [data.raw(0), data.raw(2)].concat();
        let column: Vec<f32> = training.iter().skip(3).step_by(10).copied().collect();
        let mean = column.iter().sum::<f32>() / column.len() as f32;
        assert_eq!(data.normalisation.mean.len(), 10);
        assert!((data.normalisation.mean[3] - mean).abs() < 1e-4);

        let mfcc = LoadOptions {
            features: Some(
                "mfcc:coefficients=13,clip=480,window=256,hop=128,fft=512".parse().unwrap(),
            ),
            ..LoadOptions::default()
        };
        let data = load(&path, &mfcc).unwrap();
        assert_eq!(data.shape, [2, 13, 1]);
        assert_eq!(data.sound.unwrap().cut, 4);
    }

    #[test]
    fn folders_are_classes() {
        let folder = Folder::new();
        for (name, pitch) in
            [("no/1.wav", 0.1), ("no/2.wav", 0.2), ("yes/1.wav", 0.3), ("yes/2.wav", 0.4)]
        {
            folder.write(name, wav(PLAIN, pitch, 400));
        }
        folder.write("notes.txt", "not a class");
        let options = LoadOptions { test_fraction: 0.5, ..LoadOptions::default() };
        let data = load(spec(folder.path()), &options).unwrap();
        assert_eq!(data.label_names, ["no", "yes"]);
        assert_eq!(data.labels, [0, 0, 1, 1]);
        assert_eq!(data.indices(Split::Test).len(), 2);
        // What is augmented is what the features are of, also when some are left out.
        let limited = LoadOptions { train_limit: Some(1), ..options.clone() };
        let some = load(spec(folder.path()), &limited).unwrap();
        let clip = |data: &Dataset, sample| data.sound.as_ref().unwrap().clip(sample).to_vec();
        assert_eq!(some.labels.len(), 3);
        for sample in 0..3 {
            let origin = (0..4).find(|&origin| data.raw(origin) == some.raw(sample)).unwrap();
            assert_eq!(clip(&some, sample), clip(&data, origin));
        }
        let by_speaker = LoadOptions { split_by: SplitBy::Group, ..options };
        assert_refused(spec(folder.path()), &by_speaker, &["--split-by", "no groups"]);
    }

    #[test]
    fn damage_is_located() {
        let good = wav(PLAIN, 0.1, 400);
        let stereo = wav(WavSpec { channels: 2, ..PLAIN }, 0.1, 400);
        let fast = wav(WavSpec { sample_rate: 16_000, ..PLAIN }, 0.1, 400);
        let cut = &good[..good.len() - 101];
        const BOTH: &str = "path,label\na.wav,x\nb.wav,y\n";
        let cases: &[(&str, &[u8], &[&str])] = &[
            (BOTH, &stereo, &["b.wav: ", "16-bit PCM, 1 channel", "found 16-bit PCM, 2 channels"]),
            (BOTH, &fast, &["b.wav: ", "expected 8000 Hz", "a.wav, found 16000 Hz"]),
            (BOTH, b"RIFF", &["b.wav: ", "a whole WAV file"]),
            (BOTH, b"not sound at all, but text", &["b.wav: ", "a whole WAV file"]),
            (BOTH, cut, &["b.wav: ", "a whole WAV file"]),
            ("path,label\nc.wav,x\n", b"", &["clips.csv: line 2, column \"path\": ", "c.wav"]),
            ("path,label\na.wav,x\na.wav,y\n", b"", &["line 3: ", "every file once", "line 2"]),
            ("path,label\na.wav,\n", b"", &["line 2, column \"label\": ", "a label"]),
            ("path,label,split\na.wav,x,dev\n", b"", &["line 2, column \"split\": ", "\"dev\""]),
            ("path,speaker\na.wav,x\n", b"", &["line 1: ", "\"label\""]),
            ("path,label\n", b"", &["clips.csv: ", "lines of data"]),
        ];
        for (list, bytes, parts) in cases {
            let folder = Folder::new();
            folder.write("a.wav", &good);
            folder.write("b.wav", bytes);
            folder.write("clips.csv", list);
            assert_refused(spec(folder.path()), &LoadOptions::default(), parts);
        }
        let folder = Folder::new();
        folder.write("a/1.wav", &good);
        let options = LoadOptions {
            features: Some("mfcc:high=5000".parse().unwrap()),
            ..LoadOptions::default()
        };
        assert_refused(spec(folder.path()), &options, &["--features", "half of 8000 Hz", "5000"]);
        assert_refused("digits", &options, &["--features", "sound"]);
    }

    #[test]
    fn features_are_written_as_they_are_read() {
        for text in [
            "mfcc",
            "log-mel",
            "mfcc:mel=32,coefficients=13,clip=16000",
            "log-mel:low=60,high=7600",
        ] {
            assert_eq!(text.parse::<SoundFeatures>().unwrap().to_string(), text);
        }
        for text in ["fbank", "mfcc:bands=3", "mfcc:mel=many", "log-mel:coefficients=3"] {
            assert!(text.parse::<SoundFeatures>().is_err(), "{text}");
        }
    }

    #[test]
    fn spoken_digits() {
        let Some(path) = real_data("arabic-speech") else { return };
        let data = load(spec(&path), &LoadOptions::default()).unwrap();
        assert_eq!((data.len(), data.classes(), data.shape), (3000, 10, [49, 10, 1]));
        assert_eq!(data.groups.as_ref().unwrap().names.len(), 30);
        let counts = Split::ALL.map(|split| data.indices(split).len());
        assert_eq!(counts, [1800, 600, 600]);
        let sound = data.sound.unwrap();
        assert_eq!((sound.padded, sound.cut), (0, 0));
    }
}
