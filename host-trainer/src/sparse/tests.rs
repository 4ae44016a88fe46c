//! Whole trainings on the embedded digits.

use std::path::Path;

use burn::tensor::Device;
use niwaki_core::Model;

use super::{
    Config, Event, Flow, Method, Outcome, create,
    criteria::Criterion,
    decoupled::Decoupled,
    layerwise::{Chooser, Layerwise, LayerwiseFile, Stage, layerwise, prepare},
    mask::Structure,
    method::{METHODS, MaskKind},
    optimiser::Rule,
    train,
};
use crate::{
    data::{Augment, Dataset, LoadOptions, load},
    export::{AlignedVec, analyse, quantise, write},
    net::{DataInfo, NetSpec, Params, RunFile, Summary, Trained, preset, trained::CHECKPOINT_FILE},
    target::cost::Core,
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
    let without = "decoupled-gmp:norms=shared,distil=0,decay=0,rate=0.5,fade=linear,fade_from=0.3";
    for name in METHODS.iter().map(|(name, _)| *name).chain([without]) {
        let method: Method = name.parse().unwrap();
        let dense = method == Method::Dense;
        let density = if dense { 1.0 } else { 0.2 };
        let run = folder.path().join(name);
        let config = Config { density, ..config(method.clone()) }.fitted();
        start(&run, &data, preset("lenet:width=0.5").unwrap(), &config);
        let summary = finish(&run, &data);
        let accuracy = summary.accuracy_int8_simulated.test.unwrap();
        assert!(accuracy > 0.9, "{name}: {accuracy}");
        // A constant fan-in is a whole number.
        let rounding = if matches!(method, Method::Srigl(_)) { 0.02 } else { 1e-4 };
        assert!((summary.density - density).abs() < rounding, "{name}: {}", summary.density);
        assert_eq!(summary.dropped.is_some(), matches!(method, Method::Decoupled(_)));
        if let Some(dropped) = summary.dropped {
            // They count for next to nothing before they are given up.
            assert!(dropped.last_gamma > 0.0 && dropped.last_gamma < 0.1, "{name}: {dropped:?}");
            assert!(dropped.changed * 100 <= dropped.samples, "{name}: {dropped:?}");
        }

        let trained = Trained::load(&run).unwrap();
        let nonzeros: usize =
            trained.graph.layers.iter().map(|node| trained.params.nonzeros(&node.name)).sum();
        // A weight that was grown where nothing passes is still zero.
        let grows = matches!(method, Method::Set(_) | Method::Rigl(_) | Method::Srigl(_));
        let zeros = if grows { summary.nonzeros / 100 } else { 0 };
        assert!((summary.nonzeros - zeros..=summary.nonzeros).contains(&nonzeros), "{name}");
        for tensor in ["input.range", "relu1.range", "fc.range", "bn1.mean"] {
            assert!(trained.params.find(tensor).is_some(), "{tensor}");
        }
    }
}

/// A training may begin with the masks of another one, and keeps them.
#[test]
fn masks_are_taken_from_a_run() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let [first, second, dense] = ["first", "second", "dense"].map(|name| folder.path().join(name));
    let short =
        |method: &str| Config { epochs: 1, qat_epochs: 0, ..config(method.parse().unwrap()) };
    start(&first, &data, preset("mlp").unwrap(), &short("rigl"));
    finish(&first, &data);
    let given = |run: &Path| Config { mask_from: Some(run.to_owned()), ..short("decoupled") };
    start(&second, &data, preset("mlp").unwrap(), &given(&first));
    finish(&second, &data);
    let masks = |run: &Path| -> Vec<(String, Vec<f32>)> {
        let (params, _) = Params::load(&run.join(CHECKPOINT_FILE)).unwrap();
        let masks = params.iter().filter(|(name, _)| name.ends_with(".mask"));
        masks.map(|(name, mask)| (name.to_owned(), mask.data.clone())).collect()
    };
    assert!(!masks(&first).is_empty());
    assert_eq!(masks(&first), masks(&second));

    start(&dense, &data, preset("mlp").unwrap(), &Config { density: 1.0, ..short("dense") });
    finish(&dense, &data);
    start(&second, &data, preset("mlp").unwrap(), &given(&dense));
    let result = train(&second, &data, &Device::flex(), &mut |_| Flow::Continue);
    assert!(format!("{:#}", result.unwrap_err()).contains("it has none"));
    let gmp = Config { mask_from: Some(first), ..short("gmp") };
    assert!(gmp.check().unwrap_err().to_string().contains("gmp does not have"));
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

/// Every structure trains, and channels that are gone are gone from the exported model, at the density
/// that training reports.
#[test]
fn structures_train_and_channels_leave_the_model() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    for (structure, method) in [
        (Structure::Block4, "static"),
        (Structure::FanIn, "one-shot"),
        (Structure::Channels, "decoupled-magnitude"),
    ] {
        let run = folder.path().join(method);
        let config = Config {
            density: 0.2,
            structure,
            criterion: if method == "one-shot" { Criterion::Taylor } else { Criterion::L1 },
            ..config(method.parse().unwrap())
        };
        start(&run, &data, preset("lenet:width=0.5").unwrap(), &config.fitted());
        let summary = finish(&run, &data);
        let accuracy = summary.accuracy_int8_simulated.test.unwrap();
        assert!(accuracy > 0.9, "{structure:?}: {accuracy}");
        assert!((summary.density - 0.2).abs() < 0.02, "{structure:?}: {}", summary.density);
        if structure == Structure::Channels {
            let graph = quantise(&Trained::load(&run).unwrap()).unwrap();
            let exported = write(&graph).unwrap();
            let blob = AlignedVec::new(&exported.bytes);
            let analysis = analyse(&Model::new(blob.as_bytes()).unwrap(), Core::CortexM4);
            assert_eq!(analysis.weights, summary.nonzeros);
            let conv2 = analysis.layers.iter().find(|layer| layer.name == "conv2").unwrap();
            assert!(conv2.output[2] < 12, "{conv2:?}");
        }
    }
}

fn start_search(folder: &Path, data: &Dataset, chooser: Chooser) -> LayerwiseFile {
    let training = Config { epochs: 8, qat_epochs: 1, batch: 64, seed: 3, ..Config::default() };
    let settings = Layerwise { density: 0.2, ..Layerwise::new(chooser, training, None).unwrap() };
    let file = LayerwiseFile {
        version: String::new(),
        // Narrower, a channel more or less is a seventh of the cost.
        net: preset("lenet:width=0.75").unwrap().for_data(data.shape, data.classes()).unwrap(),
        data: DataInfo::new("digits", &LoadOptions::default(), data),
        settings,
        choice: None,
    };
    prepare(folder, &file).unwrap();
    file
}

/// A search keeps the cost that was asked for, learns, and ends with the same bits when it is stopped in
/// the search and in the retraining.
#[test]
fn a_search_meets_its_cost_and_resumes() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let mut results = Vec::new();
    for stops in [&[][..], &[(Stage::Teacher, 1), (Stage::Search, 1), (Stage::Retraining, 2)]] {
        let folder = folder.path().join(stops.len().to_string());
        start_search(&folder, &data, Chooser::Search);
        let go = |stop: Option<&(Stage, usize)>| {
            let now = std::cell::Cell::new((Stage::Teacher, 0, 0));
            let outcome = layerwise(
                &folder,
                &data,
                &Device::flex(),
                &mut |stage, _| now.set((stage, 0, 0)),
                &mut |event| {
                    let (stage, epoch, step) = now.get();
                    now.set(match event {
                        Event::Begin { epoch, .. } => (stage, epoch, 0),
                        Event::Step { .. } => (stage, epoch, step + 1),
                        _ => (stage, epoch, step),
                    });
                    let (stage, epoch, step) = now.get();
                    match stop {
                        Some(stop) if *stop == (stage, epoch) && step > 5 => Flow::Stop,
                        _ => Flow::Continue,
                    }
                },
            );
            outcome.unwrap()
        };
        for stop in stops {
            assert!(matches!(go(Some(stop)), Outcome::Stopped(_)), "{stop:?}");
        }
        let Outcome::Complete(summary) = go(None) else { panic!() };
        let choice = LayerwiseFile::load(&folder).unwrap().choice.unwrap();
        let (params, _) = Params::load(&folder.join(CHECKPOINT_FILE)).unwrap();
        results.push((choice, params, *summary));
    }
    let [(choice, params, summary), (resumed, other_params, _)] = &results[..] else { panic!() };
    assert_eq!(choice, resumed);
    assert_eq!(params, other_params);
    assert!(choice.cost <= choice.cost_target && choice.cost > 0.95 * choice.cost_target);
    assert!(choice.records.len() >= 10);
    let finalists = &choice.finalists;
    assert!(finalists.len() > 2 && finalists[0].structure.is_none(), "{finalists:?}");
    assert!(finalists.iter().all(|finalist| finalist.cost <= choice.cost_target));
    assert!(finalists.iter().any(|finalist| finalist.cost == choice.cost));
    assert!(summary.accuracy_int8_simulated.test.unwrap() > 0.9, "{summary:?}");
    for layer in &choice.layers {
        assert!(layer.chosen.is_some() && layer.candidates.len() == layer.costs.len());
    }
}

/// Controls cost the same and are what they say.
#[test]
fn controls_of_the_search_cost_the_same() {
    let data = digits();
    let folder = tempfile::tempdir().unwrap();
    let uniform = Chooser::Uniform(Criterion::GeometricMedian, Structure::Channels);
    for chooser in [uniform, Chooser::Random] {
        let run = folder.path().join(chooser.to_string());
        start_search(&run, &data, chooser);
        let outcome =
            layerwise(&run, &data, &Device::flex(), &mut |_, _| {}, &mut |_| Flow::Continue);
        assert!(matches!(outcome.unwrap(), Outcome::Complete(_)));
        let choice = LayerwiseFile::load(&run).unwrap().choice.unwrap();
        assert!(choice.cost <= choice.cost_target && choice.cost > 0.9 * choice.cost_target);
        let conv2 = &choice.layers[0].strategy;
        if chooser == uniform {
            let wanted = (Criterion::GeometricMedian, Structure::Channels);
            assert_eq!((conv2.criterion, conv2.structure), wanted);
        }
    }
}
