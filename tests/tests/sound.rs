//! Sound from raw samples to the output of a model: features against those of TensorFlow's `tf.signal`,
//! emulated boards against the host.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use niwaki::data::{LoadOptions, Split, features, load};
use niwaki::export::{self, AlignedVec};
use niwaki::net::{self, DataInfo, RunFile, Trained};
use niwaki::sparse::{self, Config, Flow, Method, Outcome};
use niwaki::target::{Device, Firmware, Samples, Target, TargetError, clips, validate};
use niwaki_core::Model;
use niwaki_core::model::{FeatureKind, FrontEnd};
use niwaki_tests::networks;
use npyz::npz::NpzArchive;

const TOLERANCE: f32 = 1e-4;

/// A second of sound at 16 kHz.
fn recording() -> Vec<i16> {
    fixture().by_name("samples").unwrap().unwrap().into_vec().unwrap()
}

fn fixture() -> NpzArchive<File> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/features.npz");
    NpzArchive::new(File::open(path).unwrap()).unwrap()
}

fn board(name: &str) -> (Target, Firmware) {
    let target = Target::find(name).unwrap();
    let Target::Board(board) = &target else { panic!("{name} is no board") };
    let firmware = Firmware::build(board, &|line| eprintln!("{line}")).unwrap();
    (target, firmware)
}

#[test]
fn features_are_those_of_tf_signal() {
    let mut file = fixture();
    let samples = recording();
    for name in ["mfcc", "log_mel", "narrow", "short"] {
        let parameters: Vec<i32> = file.by_name(name).unwrap().unwrap().into_vec().unwrap();
        let expected = file.by_name(&format!("{name}_features")).unwrap().unwrap();
        let expected: Vec<f32> = expected.into_vec().unwrap();
        let [sample_rate, parameters @ ..] = &parameters[..] else { panic!("{name}") };
        let parameters: Vec<u16> = parameters.iter().map(|&v| v.try_into().unwrap()).collect();
        let [window, hop, fft, mel_bins, low_hz, high_hz, coefficients] = parameters[..] else {
            panic!("{name}: {parameters:?}");
        };
        let kind = match coefficients {
            0 => FeatureKind::LogMel,
            coefficients => FeatureKind::Mfcc { coefficients },
        };
        let (sample_rate, len) = (*sample_rate as u32, samples.len() as u32);
        let front_end = FrontEnd {
            kind,
            sample_rate,
            samples: len,
            window,
            hop,
            fft,
            mel_bins,
            low_hz,
            high_hz,
        };
        let found = features(&front_end, &samples).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: largest difference {worst:e}");
        assert!(worst < TOLERANCE, "{name}: {worst}");
    }
}

/// With and without a floating-point unit.
#[test]
fn boards_compute_the_features_of_the_host() {
    let log_mel = FrontEnd {
        kind: FeatureKind::LogMel,
        window: 640,
        fft: 1024,
        mel_bins: 20,
        high_hz: 8000,
        ..networks::FRONT_END
    };
    let mfcc = networks::FRONT_END;
    let samples = recording();
    for (name, front_end) in [
        ("qemu-cortex-m3", mfcc),
        ("qemu-cortex-m4", mfcc),
        ("qemu-cortex-m4", log_mel),
        ("qemu-cortex-m7", log_mel),
    ] {
        let (target, firmware) = board(name);
        let blob = networks::keywords(3, front_end);
        let model = Model::new(blob.as_bytes()).unwrap();
        let mut input = vec![0; model.input().len()];
        model.quantise_input(&features(&front_end, &samples).unwrap(), &mut input);
        // Features of which many values are the same would prove nothing.
        let distinct: HashSet<i8> = input.iter().copied().collect();
        assert!(distinct.len() > 50, "{}", distinct.len());
        let given =
            Samples { inputs: &[input], labels: None, golden: None, clips: Some(&[&samples]) };
        let found = validate(&target, Some(&firmware), &model, given, &|| {}).unwrap();
        assert_eq!(found.mismatched_feature_bytes, Some(0), "{name}: {front_end}");
        assert_eq!(found.mismatched_bytes, 0, "{name}: {front_end}");
        println!("{name}, {front_end}: {} instructions", found.instructions_per_clip.unwrap());
        assert!(found.instructions_per_clip > Some(500_000), "{found:?}");
    }
}

#[test]
fn clips_of_a_wrong_length_are_refused_and_the_device_lives_on() {
    let (target, firmware) = board("qemu-cortex-m4");
    let Target::Board(board) = &target else { return };
    let samples = recording();
    let blob = networks::keywords(5, networks::FRONT_END);
    let model = Model::new(blob.as_bytes()).unwrap();
    let mut device = Device::start(board, &firmware, &model).unwrap();
    let long = vec![0; samples.len() + 1];
    let error = device.run_clip(&long).unwrap_err().to_string();
    assert!(error.contains("16000 values"), "{error}");
    assert_eq!(device.run_clip(&samples).unwrap().1.output.len(), 10);

    let of_images = networks::classifier(5);
    let model = Model::new(of_images.as_bytes()).unwrap();
    let mut device = Device::start(board, &firmware, &model).unwrap();
    let error = device.run_clip(&samples).unwrap_err();
    assert!(matches!(error, TargetError::Device { .. }), "{error}");
    assert!(error.to_string().contains("takes no sound"), "{error}");
}

/// A few spoken digits of the real data, where they are.
fn few_clips(folder: &Path) -> Option<PathBuf> {
    const PER_SPLIT: usize = 40;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = std::env::var_os("NIWAKI_DATA").map_or_else(|| root.join("shared/data"), Into::into);
    let data = data.join("arabic-speech");
    let Ok(list) = std::fs::read_to_string(data.join("clips.csv")) else {
        eprintln!("skipped: {} is not there; NIWAKI_DATA names its parent", data.display());
        return None;
    };
    let mut lines = list.lines();
    let mut few = format!("{}\n", lines.next()?);
    for split in ["train", "test"] {
        let of_split: Vec<&str> = lines.clone().filter(|line| line.ends_with(split)).collect();
        for line in of_split.iter().step_by(of_split.len() / PER_SPLIT).take(PER_SPLIT) {
            few += &format!("{}/{line}\n", data.canonicalize().ok()?.display());
        }
    }
    std::fs::write(folder.join("clips.csv"), few).ok()?;
    Some(folder.to_owned())
}

#[test]
fn a_trained_model_hears_the_same_on_a_board() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clips_folder) = few_clips(folder.path()) else { return };
    let spec = clips_folder.to_str().unwrap();
    let options = LoadOptions::default();
    let data = load(spec, &options).unwrap();
    let run = folder.path().join("run");
    let config = Config {
        method: Method::Static,
        density: 0.3,
        epochs: 2,
        qat_epochs: 1,
        batch: 16,
        augment: Some(niwaki::data::Augment::SOUND),
        ..Config::default()
    };
    let file = RunFile {
        version: String::new(),
        net: net::describe("ds-cnn:width=16")
            .unwrap()
            .for_data(data.shape, data.classes())
            .unwrap(),
        data: DataInfo::new(spec, &options, &data),
        config: serde_json::to_value(&config).unwrap(),
        summary: None,
    };
    sparse::create(&run, &file, &config).unwrap();
    let device = sparse::device("flex").unwrap();
    let outcome = sparse::train(&run, &data, &device, &mut |_| Flow::Continue).unwrap();
    assert!(matches!(outcome, Outcome::Complete(_)));

    let graph = export::quantise(&Trained::load(&run).unwrap()).unwrap();
    let blob = AlignedVec::new(&export::write(&graph).unwrap().bytes);
    let model = Model::new(blob.as_bytes()).unwrap();
    assert_eq!(model.front_end(), data.sound.as_ref().map(|sound| &sound.front_end));
    // Another choice of features is refused, the model's own is found.
    let mfcc = LoadOptions { features: Some("mfcc".parse().unwrap()), ..options.clone() };
    let other = load(spec, &mfcc).unwrap();
    let error = export::quantised_inputs(&model, &other, &[0]).unwrap_err().to_string();
    assert!(error.contains("MFCC") && error.contains("log-mel"), "{error}");
    assert_eq!(load(spec, &options.for_model(&model)).unwrap(), data);

    let indices: Vec<usize> = data.indices(Split::Test).into_iter().take(5).collect();
    let inputs = export::quantised_inputs(&model, &data, &indices).unwrap();
    let inputs: Vec<Vec<i8>> = inputs.chunks(model.input().len()).map(<[i8]>::to_vec).collect();
    let clips = clips(&model, &data, &indices);
    assert!(clips.is_some());
    let samples = Samples { inputs: &inputs, labels: None, golden: None, clips: clips.as_deref() };
    let (target, firmware) = board("qemu-cortex-m4");
    for target in [&target, &Target::Host] {
        let firmware = matches!(target, Target::Board(_)).then_some(&firmware);
        let found = validate(target, firmware, &model, samples, &|| {}).unwrap();
        assert_eq!(found.mismatched_feature_bytes, Some(0), "{target}");
        assert_eq!((found.samples, found.mismatched_bytes), (5, 0), "{target}");
    }
}
