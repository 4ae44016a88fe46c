//! Tests of what holds for every data set: order of values, splits, augmentation; and of real data.

use std::collections::{BTreeMap, HashSet};

use niwaki_core::model::{FeatureKind, FrontEnd};
use proptest::prelude::*;

use super::testing::{Folder, assert_refused, real_data, spec};
use super::*;

fn digits() -> Dataset {
    load("digits", &LoadOptions::default()).unwrap()
}

#[test]
fn digits_are_the_published_ones() {
    let digits = digits();
    assert_eq!(digits.shape, [8, 8, 1]);
    assert_eq!(describe_counts(&digits), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    let Features::U8(values) = &digits.features else { panic!("digits are bytes") };
    assert_eq!(values.len(), 1797 * 64);
    assert_eq!(values.iter().max(), Some(&16));
    // The first row of the file.
    assert_eq!(values[..16], [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]);
    assert_eq!(digits.raw(0)[..4], [0.0, 0.0, 5.0, 13.0]);
}

fn describe_counts(dataset: &Dataset) -> Vec<usize> {
    (0..dataset.classes() as u32)
        .map(|class| dataset.labels.iter().filter(|&&label| label == class).count())
        .collect()
}

#[test]
fn drawn_splits_depend_on_the_seed_alone() {
    let base = digits();
    assert_eq!(base.splits, digits().splits);
    let seeded = LoadOptions { seed: 1, ..LoadOptions::default() };
    assert_ne!(base.splits, load("digits", &seeded).unwrap().splits);
    // Setting samples aside for validation leaves the test split, and so the published figures, alone.
    let validated = LoadOptions { val_fraction: 0.1, ..LoadOptions::default() };
    let validated = load("digits", &validated).unwrap();
    assert_eq!(base.indices(Split::Test), validated.indices(Split::Test));
    assert_eq!(validated.indices(Split::Val).len(), 145);
    assert_eq!(
        Split::ALL.map(|split| validated.indices(split).len()).iter().sum::<usize>(),
        validated.len()
    );
}

#[test]
fn normalisation_is_that_of_the_training_split() {
    let digits = digits();
    let training = digits.indices(Split::Train);
    let raw: Vec<f64> = training.iter().flat_map(|&i| digits.raw(i)).map(f64::from).collect();
    let mean = raw.iter().sum::<f64>() / raw.len() as f64;
    let variance = raw.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / raw.len() as f64;
    let Normalisation { mean: whole, std } = &digits.normalisation;
    assert_eq!(*whole, [mean.round() as f32]);
    assert!((f64::from(std[0]) - variance.sqrt()).abs() < 1e-5);
    let sample = digits.batch(&[7], None);
    for (normalised, raw) in sample.iter().zip(digits.raw(7)) {
        assert_eq!(*normalised, (raw - whole[0]) / std[0]);
    }
}

/// Two samples of 2 x 3 pixels and 2 channels, with the values 0..24 in order.
fn tiny(features: Features) -> Dataset {
    Dataset {
        name: "tiny".to_owned(),
        shape: [2, 3, 2],
        unit: String::new(),
        features,
        labels: vec![0, 0],
        label_names: vec!["only".to_owned()],
        groups: None,
        splits: vec![Split::Train; 2],
        normalisation: Normalisation { mean: vec![4.0], std: vec![2.0] },
        sound: None,
    }
}

#[test]
fn batches_are_channels_first() {
    let expected: Vec<f32> =
        [12, 14, 16, 18, 20, 22, 13, 15, 17, 19, 21, 23, 0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
            .map(|raw: i16| (f32::from(raw) - 4.0) / 2.0)
            .to_vec();
    let bytes = tiny(Features::U8((0..24).collect()));
    assert_eq!(bytes.batch(&[1, 0], None), expected);
    let reals = tiny(Features::F32((0..24u8).map(f32::from).collect()));
    assert_eq!(reals.batch(&[1, 0], None), expected);
    assert_eq!(reals.batch(&[], None), Vec::<f32>::new());
}

/// All results that an augmentation may have for an image, each computed pixel by pixel.
fn possible(
    image: &[f32],
    reach: i32,
    flip: bool,
    turn: bool,
    mirrored: bool,
    blank: f32,
) -> Vec<Vec<f32>> {
    const SIDE: i32 = 8;
    let fold = |i: i32| {
        if i < 0 {
            -i
        } else if i >= SIDE {
            2 * (SIDE - 1) - i
        } else {
            i
        }
    };
    let pixel = |row: i32, column: i32| {
        let inside = (0..SIDE).contains(&row) && (0..SIDE).contains(&column);
        match inside || mirrored {
            true => image[(fold(row) * SIDE + fold(column)) as usize],
            false => blank,
        }
    };
    let mut results = Vec::new();
    for (down, right) in (-reach..=reach).flat_map(|d| (-reach..=reach).map(move |r| (d, r))) {
        for flipped in [false, true].into_iter().filter(|&flipped| flip || !flipped) {
            let all = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
            results.push(
                all.map(|(row, column)| {
                    let column = if flipped { SIDE - 1 - column } else { column };
                    pixel(row - down, column - right)
                })
                .collect(),
            );
        }
    }
    let quarter = |image: &Vec<f32>| -> Vec<f32> {
        let all = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
        all.map(|(row, column)| image[(column * SIDE + SIDE - 1 - row) as usize]).collect()
    };
    let mut turned = results.clone();
    for _ in 0..if turn { 3 } else { 0 } {
        turned = turned.iter().map(quarter).collect();
        results.extend(turned.clone());
    }
    results
}

#[test]
fn augmentation_moves_and_mirrors_and_nothing_else() {
    let digits = digits();
    let black = digits.normalisation.apply(0, 0.0);
    for (text, reach, flip, turn, mirrored) in [
        ("shift=2", 2, false, false, false),
        ("crop=3,flip", 3, true, false, true),
        ("flip", 0, true, false, false),
        ("rot90", 0, false, true, false),
        ("shift=1,flip,rot90", 1, true, true, false),
    ] {
        let augment: Augment = text.parse().unwrap();
        augment.check(&digits).unwrap();
        assert_eq!(augment.to_string(), text);
        let mut seen = HashSet::new();
        let original = digits.batch(&[3], None);
        let possible = possible(&original, reach, flip, turn, mirrored, black);
        for epoch in 0..500 {
            let key = AugmentKey { seed: 1, epoch };
            let batch = digits.batch(&[3], Some((&augment, key)));
            let which = possible.iter().position(|p| *p == batch);
            seen.insert(which.unwrap_or_else(|| panic!("{text}: not a result of it")));
        }
        // Some results may look alike; nearly all turn up.
        assert!(seen.len() * 10 >= possible.len() * 8, "{text}: {} seen", seen.len());
    }
}

#[test]
fn augmentation_depends_on_seed_epoch_and_sample_alone() {
    let digits = digits();
    let augment: Augment = "shift=2,flip".parse().unwrap();
    let key = AugmentKey { seed: 5, epoch: 3 };
    let indices: Vec<usize> = (0..200).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| digits.batch(&indices, Some((&augment, key))))
    };
    let batch = run(1);
    assert_eq!(batch, run(4));
    let single: Vec<f32> =
        indices.iter().flat_map(|&i| digits.batch(&[i], Some((&augment, key)))).collect();
    assert_eq!(batch, single);
    for other in [AugmentKey { epoch: 4, ..key }, AugmentKey { seed: 6, ..key }] {
        assert_ne!(batch, digits.batch(&indices, Some((&augment, other))));
    }
}

/// One clip of 250 ms with a short tone in its middle.
fn tone() -> Sound {
    let front_end = FrontEnd {
        kind: FeatureKind::Mfcc { coefficients: 10 },
        sample_rate: 16_000,
        samples: 4_000,
        window: 480,
        hop: 320,
        fft: 512,
        mel_bins: 40,
        low_hz: 20,
        high_hz: 4_000,
    };
    let sample = |n: usize| match n {
        1_000..3_000 => (8_000.0 * (n as f32 * 0.2).sin()) as i16,
        _ => 0,
    };
    Sound { front_end, samples: (0..4_000).map(sample).collect(), padded: 0, cut: 0 }
}

#[test]
fn augmentation_of_sound_shifts_and_adds_noise() {
    assert_eq!(Augment::SOUND.to_string(), "shift=100ms,noise=20dB");
    assert_eq!("shift=100ms,noise=20dB".parse::<Augment>().unwrap(), Augment::SOUND);
    let sound = tone();
    let original = sound.clip(0).to_vec();
    let change = |text: &str, epoch| {
        let mut clip = original.clone();
        let augment: Augment = text.parse().unwrap();
        augment.change_clip(AugmentKey { seed: 1, epoch }, 0, 16_000, &mut clip);
        clip
    };
    let mut shifts = HashSet::new();
    let level = |clip: &mut dyn Iterator<Item = f64>| {
        let powers: Vec<f64> = clip.map(|sample| sample * sample).collect();
        10.0 * (powers.iter().sum::<f64>() / powers.len() as f64).log10()
    };
    for epoch in 0..50 {
        let shifted = change("shift=10ms", epoch);
        let shift = (-160..=160).find(|&shift: &i32| {
            let mut rotated = original.clone();
            rotated.rotate_right(shift.rem_euclid(4_000) as usize);
            rotated == shifted
        });
        shifts.insert(shift.expect("a shift by at most 10 ms"));

        let noisy = change("noise=20dB", epoch);
        let pairs = noisy.iter().zip(&original);
        let noise = level(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let below = level(&mut original.iter().map(|&sample| sample.into())) - noise;
        assert!((19.5..50.5).contains(&below), "{below} dB");
    }
    assert!(shifts.len() > 30 && shifts.iter().any(|s| *s < 0) && shifts.iter().any(|s| *s > 0));

    let features = features(&sound.front_end, sound.clip(0)).unwrap();
    let data = Dataset {
        shape: [sound.front_end.rows(), 10, 1],
        labels: vec![0],
        splits: vec![Split::Train],
        sound: Some(sound),
        ..tiny(Features::F32(features))
    };
    let key = AugmentKey { seed: 2, epoch: 7 };
    let none: Augment = "none".parse().unwrap();
    assert_eq!(none.to_string(), "none");
    assert_eq!(data.batch(&[0], Some((&none, key))), data.batch(&[0], None));
    let batch = data.batch(&[0], Some((&Augment::SOUND, key)));
    assert_ne!(batch, data.batch(&[0], None));
    assert_eq!(batch, data.batch(&[0], Some((&Augment::SOUND, key))));
}

#[test]
fn augmentations_that_make_no_sense_are_refused() {
    for (text, part) in [
        ("", "found \"\""),
        ("shift", "found \"\" in \"shift\""),
        ("shift=0", "from 1 to"),
        ("shift=-1", "found \"-1\""),
        ("flip=2", "found \"flip=2\""),
        ("rot90=3", "found \"rot90=3\""),
        ("shift=1,crop=2", "moves the image twice"),
        ("shift=2s", "found \"2s\""),
        ("shift=0ms", "from 1 to 1000"),
        ("noise=3", "noise=NdB"),
        ("noise=3dB,noise=4dB", "once each"),
    ] {
        let error = text.parse::<Augment>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let augment: Augment = "crop=8".parse().unwrap();
    let shaped = |shape| Dataset { shape, ..tiny(Features::U8(Vec::new())) };
    assert!(augment.check(&shaped([8, 8, 1])).is_err());
    assert!(augment.check(&shaped([1, 1, 43])).is_err());
    assert!(augment.check(&shaped([9, 9, 3])).is_ok());
    let turns: Augment = "rot90".parse().unwrap();
    assert!(turns.check(&shaped([9, 9, 3])).is_ok());
    let error = turns.check(&shaped([9, 8, 3])).unwrap_err().to_string();
    assert!(error.contains("square images, but these are 9x8"), "{error}");
    // Images are not sound, and sound is no image.
    let images = shaped([9, 9, 3]);
    assert!(Augment::SOUND.check(&images).is_err());
    let sound = Dataset { sound: Some(tone()), ..images };
    assert!(augment.check(&sound).is_err());
    Augment::SOUND.check(&sound).unwrap();
}

proptest! {
    #[test]
    fn stratified_splits_take_the_same_share_of_each_class(
        labels in prop::collection::vec(0u32..5, 20..300),
        test_fraction in 0.0..0.5f64,
        val_fraction in 0.0..0.5f64,
        seed: u64,
    ) {
        let options = LoadOptions { seed, test_fraction, val_fraction, ..LoadOptions::default() };
        let splits = split::assign(None, &labels, None, &options).unwrap();
        let mut counts = BTreeMap::<u32, SplitCounts>::new();
        for class in 0..5 {
            let of_class = labels.iter().zip(&splits).filter(|(l, _)| **l == class);
            counts.insert(class, SplitCounts::of(of_class.map(|(_, split)| *split)));
        }
        for counts in counts.values() {
            let test = (counts.total() as f64 * test_fraction).round() as usize;
            prop_assert_eq!(counts.test, test);
            let val = ((counts.total() - test) as f64 * val_fraction).round() as usize;
            prop_assert_eq!(counts.val, val);
        }
    }

    #[test]
    fn no_group_is_in_two_splits(
        ids in prop::collection::vec(0u32..12, 60..300),
        test_fraction in 0.01..0.6f64,
        val_fraction in 0.01..0.6f64,
        seed: u64,
    ) {
        let names = (0..12).map(|id| id.to_string()).collect();
        let distinct = ids.iter().collect::<HashSet<_>>().len();
        prop_assume!(distinct > 6);
        let labels = vec![0; ids.len()];
        let groups = Groups { ids, names };
        let split_by = SplitBy::Group;
        let options =
            LoadOptions { seed, split_by, test_fraction, val_fraction, ..LoadOptions::default() };
        let splits = split::assign(None, &labels, Some(&groups), &options).unwrap();
        let mut by_group = BTreeMap::<u32, HashSet<Split>>::new();
        for (&group, &split) in groups.ids.iter().zip(&splits) {
            by_group.entry(group).or_default().insert(split);
        }
        prop_assert!(by_group.values().all(|splits| splits.len() == 1));
        for split in Split::ALL {
            prop_assert!(splits.contains(&split), "no {}", split);
        }
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let options = |json: &str| serde_json::from_str::<LoadOptions>(json).unwrap();
    for (json, parts) in [
        (r#"{"split_by": "group"}"#, ["--split-by", "no groups"]),
        (r#"{"test_fraction": 1.0}"#, ["--test-fraction", "found 1"]),
        (r#"{"val_fraction": -0.1}"#, ["--val-fraction", "found -0.1"]),
        (r#"{"label": "x"}"#, ["--label", "only CSV"]),
        (r#"{"resize": {"height": 8, "width": 8}}"#, ["--resize", "only image folders"]),
    ] {
        assert_refused("digits", &options(json), &parts);
    }
    assert!("64".parse::<ImageSize>().is_err());
    assert!("0x64".parse::<ImageSize>().is_err());
    let size: ImageSize = "48x64".parse().unwrap();
    assert_eq!((size.height, size.width), (48, 64));
}

#[test]
fn what_is_no_data_set_is_named() {
    let options = LoadOptions::default();
    assert_refused("no-such-thing", &options, &["no-such-thing", "NIWAKI_DATA", "digits"]);
    let folder = Folder::new();
    let path = spec(folder.path());
    assert_refused(path, &options, &[path, "an empty folder", "supported are"]);
    folder.write("zero/1.mp3", "ID3");
    folder.write("one/1.mp3", "ID3");
    assert_refused(path, &options, &[path, "2 subfolders", "2 .mp3"]);
    let file = folder.write("model.tflite", "TFL3");
    assert_refused(spec(&file), &options, &["model.tflite", "no known kind"]);
    let file = folder.write("x.npy", "");
    assert_refused(spec(&file), &options, &["x.npy", "FEATURES.npy,LABELS.npy"]);
}

#[test]
fn contact_sheets_are_pictures_of_every_class() {
    let folder = Folder::new();
    let path = folder.path().join("sheet.png");
    write_contact_sheet(&digits(), &path).unwrap();
    let sheet = image::open(&path).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (12 * 68 + 4, 10 * 68 + 4));
    // The third pixel of the first zero, 5 of 16, eight times enlarged behind a gap of 4.
    assert_eq!(sheet.get_pixel(4 + 2 * 8, 4).0, [80; 3]);
    assert_eq!(sheet.get_pixel(4 + 3 * 8 - 1, 4 + 7).0, [80; 3]);
    let error = write_contact_sheet(&digits(), &folder.path().join("no/sheet.png")).unwrap_err();
    assert!(error.to_string().contains("sheet.png"), "{error}");
}

#[test]
fn real_data_sets_load_as_their_papers_say() {
    let load_real = |name: &str, options: &LoadOptions| {
        real_data(name).map(|path| load_with_source(spec(&path), options).unwrap())
    };
    let counts = |dataset: &Dataset| Split::ALL.map(|split| dataset.indices(split).len());
    let options = LoadOptions::default();

    if let Some((cifar, _)) = load_real("cifar10-jpeg", &options) {
        assert_eq!(cifar.shape, [32, 32, 3]);
        assert_eq!(counts(&cifar), [12_500, 0, 2_500]);
        assert_eq!(describe_counts(&cifar), [1_500; 10]);
        assert_eq!(cifar.label_names[9], "truck");
    }
    if let Some((scenes, _)) = load_real("rsscn7", &options) {
        assert_eq!(scenes.shape, [64, 64, 3]);
        assert_eq!(counts(&scenes), [1_400, 0, 1_400]);
        assert_eq!(describe_counts(&scenes), [400; 7]);
    }
    let by_user = LoadOptions {
        group: Some("user".to_owned()),
        split_by: SplitBy::Group,
        val_fraction: 0.2,
        ..LoadOptions::default()
    };
    if let Some((activity, source)) = load_real("wisdm/wisdm_v1.csv", &by_user) {
        assert_eq!((activity.len(), activity.shape), (5_418, [1, 1, 43]));
        let missing: Vec<_> = source.missing.iter().map(|m| (m.column.as_str(), m.count)).collect();
        assert_eq!(missing, [("XPEAK", 381), ("YPEAK", 131), ("ZPEAK", 103)]);
        let groups = describe(&activity, source).groups.unwrap();
        assert_eq!((groups.count, groups.shared), (36, 0));
        // The column that is 0 in every row.
        assert_eq!(activity.normalisation.std[30], 1.0);
        let everything: Vec<usize> = (0..activity.len()).collect();
        assert!(activity.batch(&everything, None).iter().all(|value| value.is_finite()));
    }
    if let Some(folder) = real_data("mlperf-tiny") {
        let pair = ["kws_inputs.npy", "kws_labels.npy"]
            .map(|file| folder.join(file).display().to_string());
        let keywords = load(&pair.join(","), &options).unwrap();
        assert_eq!((keywords.len(), keywords.shape), (500, [49, 10, 1]));
        assert_eq!(keywords.classes(), 12);
    }
    match load("fashion-mnist", &options) {
        Ok(fashion) => {
            assert_eq!(fashion.shape, [28, 28, 1]);
            assert_eq!(counts(&fashion), [60_000, 0, 10_000]);
            assert_eq!(fashion.label_names[9], "Ankle boot");
            // The mean that everyone quotes, 0.2860 of 255, rounded to a whole pixel value.
            assert_eq!(fashion.normalisation.mean, [73.0]);
        }
        Err(error) => {
            println!("skipped: no fashion-mnist");
            assert!(error.to_string().contains("apt install dataset-fashion-mnist"), "{error}");
        }
    }
}

#[test]
fn a_limit_keeps_the_classes_in_proportion() {
    let all = load("digits", &LoadOptions::default()).unwrap();
    let options = LoadOptions { train_limit: Some(200), ..LoadOptions::default() };
    let some = load("digits", &options).unwrap();
    assert_eq!(some, load("digits", &options).unwrap());
    assert_eq!(some.indices(Split::Train).len(), 200);
    let test = |data: &Dataset| -> Vec<Vec<f32>> {
        data.indices(Split::Test).into_iter().map(|sample| data.raw(sample)).collect()
    };
    assert_eq!(test(&some), test(&all));
    let count = |class: u32| {
        some.indices(Split::Train).iter().filter(|&&sample| some.labels[sample] == class).count()
    };
    assert!((0..10).all(|class| (18..=22).contains(&count(class))));
    for limit in [0, 5000] {
        let options = LoadOptions { train_limit: Some(limit), ..LoadOptions::default() };
        assert!(load("digits", &options).unwrap_err().to_string().contains("--train-limit"));
    }
}
