//! Whole trainings on the embedded digits.

use std::path::Path;

use burn::tensor::Device;

use super::{
    Config, Event, Flow, Method, Outcome, create,
    decoupled::Decoupled,
    method::{METHODS, MaskKind},
    optimiser::Rule,
    train,
};
use crate::{
    data::{Augment, Dataset, LoadOptions, load},
    net::{DataInfo, NetSpec, Params, RunFile, Summary, Trained, preset, trained::CHECKPOINT_FILE},
};

fn digits() -> Dataset {
    load("digits", &LoadOptions::default()).unwrap()
}

fn start(run: &Path, data: &Dataset, net: NetSpec, config: &Config) {
    let options = LoadOptions::default();
    let file = RunFile {
        version: String::new(),
        net: net.for_data(data.shape, data.classes()).unwrap(),
        data: DataInfo::new("digits", &options, data),
        config: serde_json::to_value(config).unwrap(),
        summary: None,
    };
    create(run, &file, config).unwrap();
}

fn finish(run: &Path, data: &Dataset) -> Summary {
    match train(run, data, &Device::flex(), &mut |_| Flow::Continue).unwrap() {
        Outcome::Complete(summary) => *summary,
        outcome => panic!("{outcome:?}"),
    }
}

fn config(method: Method) -> Config {
    Config { method, epochs: 5, qat_epochs: 1, batch: 64, seed: 3, ..Config::default() }.fitted()
}

/// A training that is stopped in the middle of an epoch, once before and once after its redundant
/// units are dropped, ends with the same bits as one that is left alone.
#[test]
fn resuming_changes_no_bit() {
    let mask = MaskKind::Magnitude;
    let augment: Augment = "shift=1".parse().unwrap();
    resumes(&Config {
        optimiser: Rule::Adamw,
        learning_rate: 2e-3,
        augment: Some(augment),
        ..config(Method::Decoupled(Decoupled { mask, ..Decoupled::default() }))
    });
}

/// The same for methods that move weights while they train.
#[test]
fn resuming_changes_no_mask() {
    for method in ["set", "srigl"] {
        resumes(&config(method.parse().unwrap()));
    }
}

fn resumes(config: &Config) {
    let data = digits();
    let net = || preset("lenet:width=0.5").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));

    start(&whole, &data, net(), config);
    let expected = finish(&whole, &data);

    start(&parts, &data, net(), config);
    for stop_in in [2, 4] {
        let (mut epoch_now, mut steps) = (0, 0);
        let outcome = train(&parts, &data, &Device::flex(), &mut |event| {
            match event {
                Event::Begin { epoch, .. } => (epoch_now, steps) = (epoch, 0),
                Event::Step { .. } => steps += 1,
                _ => {}
            }
            if (epoch_now, steps) == (stop_in, 7) { Flow::Stop } else { Flow::Continue }
        });
        assert_eq!(outcome.unwrap(), Outcome::Stopped(stop_in - 1));
    }
    let summary = finish(&parts, &data);

    let load = |run: &Path| Params::load(&run.join(CHECKPOINT_FILE)).unwrap().0;
    let (a, b) = (load(&whole), load(&parts));
    assert_eq!(a.iter().count(), b.iter().count());
    for ((name, a), (_, b)) in a.iter().zip(b.iter()) {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&a.data), bits(&b.data), "{name}");
    }
    assert_eq!(summary.accuracy_int8_simulated, expected.accuracy_int8_simulated);
    let lines =
        |run: &Path| std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!((lines(&whole), lines(&parts)), (5, 5));
}

/// Every method learns the digits at the density that was asked for, and leaves a run that export
/// can read.
#[test]
fn methods_learn() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in METHODS {
        let method = Method::named(name).unwrap();
        let dense = method == Method::Dense;
        let density = if dense { 1.0 } else { 0.2 };
        let run = folder.path().join(name);
        let config = Config { density, ..config(method.clone()) }.fitted();
        start(&run, &data, preset("lenet:width=0.5").unwrap(), &config);
        let summary = finish(&run, &data);
        let accuracy = summary.accuracy_int8_simulated.test.unwrap();
        assert!(accuracy > 0.9, "{}: {accuracy}", method.name());
        // A constant fan-in is a whole number.
        let rounding = if matches!(method, Method::Srigl(_)) { 0.02 } else { 1e-4 };
        assert!((summary.density - density).abs() < rounding, "{name}: {}", summary.density);
        let dropped = summary.dropped.map(|dropped| (dropped.changed, dropped.samples));
        let expected = matches!(method, Method::Decoupled(_)).then_some((0, 359));
        assert_eq!(dropped, expected);

        let trained = Trained::load(&run).unwrap();
        let nonzeros: usize =
            trained.graph.layers.iter().map(|node| trained.params.nonzeros(&node.name)).sum();
        assert_eq!(nonzeros, summary.nonzeros);
        for tensor in ["input.range", "relu1.range", "fc.range", "bn1.mean"] {
            assert!(trained.params.find(tensor).is_some(), "{tensor}");
        }
    }
}

/// An autoencoder reproduces its input better than the mean image does, whose error is 1.
#[test]
fn autoencoders_learn() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        optimiser: Rule::Adamw,
        learning_rate: 5e-3,
        density: 0.3,
        ..config(Method::Decoupled(Decoupled::default()))
    };
    start(folder.path(), &data, preset("autoencoder").unwrap(), &config);
    let summary = finish(folder.path(), &data);
    let error = summary.accuracy_int8_simulated.test.unwrap();
    assert!(error < 0.7, "{error}");
}
