use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::layer::Layer;
use super::testing::{FORMATS, Format, Kind, Net, Node, Random};
use super::*;
use crate::model::{Model, Window};

/// Bytes at the alignment that blobs and memory need.
fn aligned(bytes: &[u8]) -> &'static mut [u8] {
    let words = vec![0u32; bytes.len().div_ceil(4)].leak();
    let memory = &mut words.as_mut_bytes()[..bytes.len()];
    memory.copy_from_slice(bytes);
    memory
}

fn model(bytes: &[u8]) -> Model<'static> {
    Model::new(aligned(bytes)).unwrap()
}

fn session(model: &Model<'static>) -> Session<'static, 'static> {
    let words = vec![0u32; model.arena_len().div_ceil(4)].leak();
    let arena = <[i8]>::mut_from_bytes(words.as_mut_bytes()).unwrap();
    Session::new(*model, arena).unwrap()
}

fn learner(model: &Model<'static>, settings: Settings) -> Learner<'static, 'static> {
    let plan = Plan::new(model).unwrap();
    Learner::new(&plan, aligned(&vec![0xa5; plan.learner_len()]), settings).unwrap()
}

fn square(kernel: usize, stride: usize, pad: usize) -> Window {
    Window { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2] }
}

/// What stands between the last convolution and the classifier.
const BETWEEN: usize = 6;

/// A frozen convolution; two tunable ones, the second perhaps depthwise; an operator without weights;
/// a tunable classifier.
fn network(seed: u64, formats: [Format; 3], between: usize, depthwise: bool) -> (Net, u16) {
    network_with(seed, formats, between, depthwise, 0.0)
}

fn network_with(
    seed: u64,
    formats: [Format; 3],
    between: usize,
    depthwise: bool,
    score_range: f64,
) -> (Net, u16) {
    let mut random = Random(seed * 0x9e37_79b9 + 1);
    let r = &mut random;
    let size = 5 + r.below(3);
    let mut net = Net::new([size, size, 4], r);
    net.score_range = score_range;
    let density = r.between(0.4, 0.9);
    net.weighted(r, 8, Some(square(3, 1, 1)), 1, false, true, Format::Dense, 1.0);
    let trunk = net.last();
    let (stride, kernel) = ([1, 2][r.below(2)], [1, 3][r.below(2)]);
    let window = square(kernel, if between == 4 { 1 } else { stride }, kernel / 2);
    net.weighted(r, 8, Some(window), 1, false, true, formats[0], density);
    if depthwise {
        net.weighted(r, 8, Some(square(3, 1, 1)), 1, true, true, Format::Dense, density);
    } else {
        let groups = if formats[1] == Format::Dense { 2 } else { 1 };
        net.weighted(r, 8, Some(square(3, 1, 1)), groups, false, true, formats[1], density);
    }
    let [h, w, c] = net.values[net.last()].shape;
    match between {
        0 => {}
        1 => net.push(Kind::Mean, [1, 1, c]),
        2 => net.push(Kind::AvgPool(square(2, 1, 0)), [h - 1, w - 1, c]),
        3 => net.push(Kind::MaxPool(square(2, 2, 0)), [h / 2, w / 2, c]),
        4 => {
            net.push(Kind::Add { other: trunk, relu: true }, [h, w, c]);
            net.push(Kind::Mean, [1, 1, c]);
        }
        _ => net.push(Kind::Lookup, [h, w, c]),
    }
    net.weighted(r, 5, None, 1, false, false, formats[2], density);
    if r.below(2) == 0 {
        net.push(Kind::Softmax, [1, 1, 5]);
    }
    (net, 3)
}

/// Index of a weight in the order of the reference.
fn dense_index(node: &Node, channel: usize, weight: &layer::Weight, groups: usize) -> usize {
    let Kind::Weighted(op) = &node.kind else { panic!("no weights") };
    let per_channel = op.weights.len() / op.bias.len();
    let [kernel_h, kernel_w] = op.window.kernel;
    let depth = per_channel / (kernel_h * kernel_w);
    let first = channel / (op.bias.len() / groups) * depth;
    let input = if op.depthwise { 0 } else { weight.input - first };
    channel * per_channel + (weight.tap[0] * kernel_w + weight.tap[1]) * depth + input
}

/// For each tunable layer: (node, dense index) of its weights in the order of the parameters.
fn weights_of(net: &Net, model: &Model<'static>) -> Vec<(usize, usize)> {
    let plan = Plan::new(model).unwrap();
    let mut all = vec![];
    for entry in plan.layers() {
        let op = model.op(entry.op).unwrap();
        let layer = Layer::new(&op).unwrap();
        let node = &net.nodes[entry.op];
        let Kind::Weighted(weighted) = &node.kind else { panic!("no weights") };
        let mut walk = layer.weights();
        let mut seen = std::collections::BTreeSet::new();
        for channel in 0..layer.channels.len() {
            walk.channel(|weight| {
                let index = dense_index(node, channel, &weight, weighted.groups);
                assert_eq!(weighted.weights[index], weight.value);
                let stream = model.constants_and_weights(entry.op)[1];
                assert_eq!(weight.place.read(stream), weight.value);
                assert!(seen.insert(index));
                all.push((entry.op, index));
            });
        }
        let nonzeros = weighted.weights.iter().filter(|&&w| w != 0).count();
        assert_eq!(seen.len(), nonzeros, "{:?}", weighted.format);
    }
    assert_eq!(all.len(), plan.weight_count());
    all
}

/// The scores' real values and loss, as the integers have them.
fn scores_and_loss(model: &Model<'static>, arena: &[i8], label: usize) -> (Vec<f64>, f64) {
    let scores = Plan::new(model).unwrap().scores;
    let real = |&q: &i8| (f64::from(q) - f64::from(scores.zero_point)) * f64::from(scores.scale);
    let real: Vec<f64> = arena[scores.range()].iter().map(real).collect();
    let largest = real.iter().fold(f64::MIN, |a, &b| a.max(b));
    let loss = real.iter().map(|s| (s - largest).exp()).sum::<f64>().ln() + largest - real[label];
    (real, loss)
}

/// The scores in floats, times `factors`, from the tunable part's inputs as the integers gave them. One
/// weight is changed by `change` steps.
fn reference(
    net: &Net,
    arena: &[i8],
    model: &Model<'static>,
    factors: &[f64],
    changed: (usize, usize),
    change: f64,
) -> f64 {
    let (mut net, nodes) = (net.clone(), net.nodes.clone());
    let first = Plan::new(model).unwrap().layers()[0].op;
    // Tensors that frozen operators wrote, as the integers say.
    for node in &nodes[..first] {
        let tensor = model.op(node.output - 1).unwrap().output();
        let value = &mut net.values[node.output];
        let real = |&q: &i8| (f64::from(q) - f64::from(value.zero)) * value.scale;
        value.real = arena[tensor.range()].iter().map(real).collect();
    }
    let mut scores = vec![];
    for (index, node) in nodes.iter().enumerate().skip(first) {
        if matches!(node.kind, Kind::Softmax) {
            break;
        }
        let weight = |at: usize, q: f64| if (index, at) == changed { q + change } else { q };
        let x = net.values[node.input].real.clone();
        scores = net.evaluate(node, weight, &x, net.values[node.output].shape);
        net.values[node.output].real = scores.clone();
    }
    scores.iter().zip(factors).map(|(score, factor)| score * factor).sum()
}

fn formats() -> impl Strategy<Value = [Format; 3]> {
    [0..5usize, 0..5, 0..5].prop_map(|f| f.map(|f| FORMATS[f]))
}

proptest! {
    // Always the same networks: in one of a hundred an activation at the end of its range lets the
    // integers' gradient and the float network's part.
    #![proptest_config(ProptestConfig {
        cases: 12,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    /// Every format's weights are walked, and the gradient of each agrees with a finite difference of
    /// the float network. Activations are rounded to 8 bits in one and not in the other, hence a bound
    /// on the angle and length of the whole gradient.
    #[test]
    fn gradients_are_those_of_the_float_network(
        seed in 1u64..100_000, formats in formats(), between in 0..BETWEEN, depthwise: bool,
    ) {
        let (net, tunable) = network(seed, formats, between, depthwise);
        let model = model(&net.blob(tunable));
        let order = weights_of(&net, &model);
        let mut session = session(&model);
        let settings = Settings { learning_rate: 0.0, momentum: 0.0, batch: 1 };
        let mut learner = learner(&model, settings);
        let label = Random(seed).below(5);
        let loss = learner.learn(&mut session, &net.input(), label, None).unwrap();
        let arena = session.arena().to_vec();
        let (scores, exact) = scores_and_loss(&model, &arena, label);
        prop_assert!((exact - f64::from(loss)).abs() < 1e-4 + 1e-5 * exact, "{exact} {loss}");
        // The loss's own derivative, at the scores as they were rounded.
        let sum: f64 = scores.iter().map(|s| (s - scores[label]).exp()).sum();
        let factors: Vec<f64> = scores
            .iter()
            .enumerate()
            .map(|(class, s)| (s - scores[label]).exp() / sum - f64::from(class == label))
            .collect();

        let (mut dot, mut ours, mut theirs) = (0.0, 0.0, 0.0);
        let stride = order.len().div_ceil(60);
        for (slot, &(node, index)) in order.iter().enumerate().step_by(stride) {
            let Kind::Weighted(op) = &net.nodes[node].kind else { panic!("no weights") };
            let step = op.steps[index / (op.weights.len() / op.bias.len())];
            let changed = |change| {
                reference(&net, &arena, &model, &factors, (node, index), change)
            };
            let rise = changed(1e-3) - changed(-1e-3);
            let exact = rise / 2e-3 / step;
            let found = f64::from(learner.velocity[slot].to_f32()) * step;
            dot += exact * found;
            ours += found * found;
            theirs += exact * exact;
        }
        // A gradient of next to nothing is all rounding.
        if theirs > 1e-6 {
            let cosine = dot / (ours * theirs).sqrt();
            let ratio = (ours / theirs).sqrt();
            prop_assert!(cosine > 0.93 && (0.75..1.35).contains(&ratio), "{cosine} {ratio}");
        }
    }

    /// What runs before anything was learned is the blob, byte for byte; learning changes no zero; the
    /// same samples give the same bits.
    #[test]
    fn learning_keeps_masks_and_is_deterministic(
        seed in 1u64..100_000, formats in formats(), between in 0..BETWEEN, depthwise: bool,
    ) {
        let (net, tunable) = network(seed, formats, between, depthwise);
        let model = model(&net.blob(tunable));
        let plan = Plan::new(&model).unwrap();
        let mut sessions = [session(&model), session(&model)];
        let settings = Settings { learning_rate: 0.05, momentum: 0.9, batch: 3 };
        let mut learners = [learner(&model, settings), learner(&model, settings)];
        let frozen = sessions[0].run(&net.input()).unwrap().to_vec();
        let tail = |learner: &Learner<'_, '_>, entry: &plan::LayerPlan| {
            learner.tail().stream(entry).to_vec()
        };
        for entry in plan.layers() {
            let stream = model.constants_and_weights(entry.op)[1];
            prop_assert_eq!(&tail(&learners[0], entry), stream);
        }
        learners[0].set_parameters(&Parameters {
            weights: &vec![0; plan.weight_count()],
            biases: &vec![0; plan.channel_count()],
        }).unwrap();
        let same = learners[0].tail().run(&mut sessions[0], &net.input()).unwrap();
        prop_assert_eq!(same, &frozen[..]);

        let mut random = Random(seed);
        for _ in 0..10 {
            let input: Vec<i8> = net.input().iter().map(|_| random.next() as i8).collect();
            let label = random.below(5);
            let losses = [0, 1].map(|i| {
                learners[i].learn(&mut sessions[i], &input, label, None).unwrap().to_bits()
            });
            prop_assert_eq!(losses[0], losses[1]);
        }
        learners.iter_mut().for_each(Learner::finish_batch);
        prop_assert_eq!(learners[0].parameters(), learners[1].parameters());
        let moved = learners[0].parameters().weights.iter().filter(|&&w| w.unsigned_abs() >= 128);
        prop_assert!(moved.count() > 0);
        for entry in plan.layers() {
            // As many weights as the blob has, each at its place; every other byte is the blob's.
            let op = model.op(entry.op).unwrap();
            let layer = Layer::new(&op).unwrap();
            let mut stream = tail(&learners[0], entry);
            let mut walk = layer.weights();
            for _ in 0..layer.channels.len() {
                walk.channel(|weight| weight.place.write(&mut stream, weight.value));
            }
            prop_assert_eq!(&stream[..], model.constants_and_weights(entry.op)[1]);
        }
    }

    /// A pass over each format gives the same gradients up to the order of additions.
    #[test]
    fn formats_agree(seed in 1u64..100_000, between in 0..BETWEEN) {
        let mut all = vec![];
        for block in [Format::Packed, FORMATS[2], FORMATS[3], FORMATS[4]] {
            // The same values: those of the coarsest block.
            let (mut net, tunable) = network(seed, [FORMATS[4]; 3], between, false);
            for node in &mut net.nodes {
                if let Kind::Weighted(op) = &mut node.kind
                    && op.format == FORMATS[4]
                {
                    op.format = block;
                }
            }
            let model = model(&net.blob(tunable));
            let mut learner =
                learner(&model, Settings { learning_rate: 0.0, momentum: 0.0, batch: 1 });
            learner.learn(&mut session(&model), &net.input(), 2, None).unwrap();
            let mut found: Vec<_> = weights_of(&net, &model)
                .into_iter()
                .zip(learner.velocity.iter().map(|v| v.to_f32()))
                .collect();
            found.sort_by_key(|(key, _)| *key);
            all.push(found);
        }
        for other in &all[1..] {
            let scale = all[0].iter().fold(0f32, |most, (_, v)| most.max(v.abs()));
            for (a, b) in all[0].iter().zip(other) {
                prop_assert_eq!(a.0, b.0);
                prop_assert!((a.1 - b.1).abs() <= 2e-3 * scale, "{:?} {:?}", a, b);
            }
        }
    }

    /// The contrastive loss's gradient is its derivative.
    #[test]
    fn contrastive_gradient(
        seed in 1u64..100_000, zero in -50i8..50, temperature in 0.1f32..2.0,
    ) {
        let mut random = Random(seed);
        let (classes, len) = (4usize, 6usize);
        let mut ints = |count| -> Vec<i8> { (0..count).map(|_| random.next() as i8).collect() };
        let (features, values) = (ints(len), ints(classes * len));
        let counts = [3, 0, 1, 9];
        let contrast = Contrast {
            prototypes: Prototypes { values: &values, counts: &counts }, weight: 0.7, temperature,
        };
        let mut gradient = vec![0.0; len];
        let mut similarities = vec![0.0; classes];
        let loss = loss::contrastive(
            &features, zero, &contrast, 2, &mut similarities, &mut gradient,
        );
        let centred = |v: &[i8]| -> Vec<f64> {
            v.iter().map(|&v| f64::from(v) - f64::from(zero)).collect()
        };
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let exact = |z: &[f64]| {
            let similarity = |class: usize| {
                let p = centred(&values[class * len..][..len]);
                let dot: f64 = z.iter().zip(&p).map(|(a, b)| a * b).sum();
                dot / norm(z) / norm(&p) / f64::from(temperature)
            };
            let sum: f64 = [0, 2, 3].map(|class| similarity(class).exp()).iter().sum();
            f64::from(0.7f32) * (sum.ln() - similarity(2))
        };
        let z = centred(&features);
        prop_assume!(norm(&z) > 20.0);
        prop_assert!((exact(&z) - f64::from(loss)).abs() < 1e-4);
        for (index, &gradient) in gradient.iter().enumerate() {
            let mut moved = [z.clone(), z.clone()];
            moved[0][index] += 1e-4;
            moved[1][index] -= 1e-4;
            let derivative = (exact(&moved[0]) - exact(&moved[1])) / 2e-4;
            prop_assert!((derivative - f64::from(gradient)).abs() < 1e-4 + 1e-3 * derivative.abs());
        }
    }

    #[test]
    fn places_hold_what_is_written(
        mut bytes in proptest::collection::vec(any::<u8>(), 4), weight in -127i8..=127,
        other in -127i8..=127,
    ) {
        use layer::Place;
        for place in [Place::Byte(3), Place::Doubled(2), Place::Low(0), Place::High(0)] {
            place.write(&mut bytes, weight);
            prop_assert_eq!(place.read(&bytes), weight);
        }
        Place::Low(0).write(&mut bytes, other);
        prop_assert_eq!((Place::Low(0).read(&bytes), Place::High(0).read(&bytes)), (other, weight));
    }
}

/// Classes that differ by which channel of the input is bright, if any.
fn samples(net: &Net, count: usize, random: &mut Random) -> Vec<(Vec<i8>, usize)> {
    let len = net.input().len();
    (0..count)
        .map(|_| {
            let label = random.below(5);
            let value = |i: usize, random: &mut Random| {
                let noise = random.below(60) as i32 - 30;
                (if i % 4 == label { 90 + noise } else { noise }) as i8
            };
            ((0..len).map(|i| value(i, random)).collect(), label)
        })
        .collect()
}

#[test]
fn learning_lowers_the_loss_and_raises_the_accuracy() {
    for (formats, between) in [([FORMATS[0]; 3], 1), ([FORMATS[1]; 3], 4), ([FORMATS[2]; 3], 0)] {
        let (net, tunable) = network_with(77, formats, between, false, 10.0);
        let model = model(&net.blob(tunable));
        let mut session = session(&model);
        let mut learner =
            learner(&model, Settings { learning_rate: 0.05, momentum: 0.8, batch: 8 });
        let mut random = Random(5);
        let train = samples(&net, 60, &mut random);
        let test = samples(&net, 60, &mut random);
        let accuracy = |learner: &Learner<'_, '_>, session: &mut Session<'_, '_>| {
            let right = test.iter().filter(|(input, label)| {
                let scores = learner.tail().run(session, input).unwrap();
                (0..5).max_by_key(|&class| scores[class]) == Some(*label)
            });
            right.count()
        };
        let before = accuracy(&learner, &mut session);
        let mut epochs = vec![];
        for _ in 0..12 {
            let mut sum = 0.0;
            for (input, label) in &train {
                sum += learner.learn(&mut session, input, *label, None).unwrap();
            }
            learner.finish_batch();
            epochs.push(sum / 60.0);
        }
        let after = accuracy(&learner, &mut session);
        assert!(epochs[11] < 0.5 * epochs[0], "{formats:?} {epochs:?}");
        assert!(after > before && after >= 45, "{formats:?} {before} {after}");
        // What was learned runs alone too.
        let plan = Plan::new(&model).unwrap();
        let mut tail = Tail::new(&plan, aligned(&vec![0; plan.tail_len()])).unwrap();
        tail.set(&learner.parameters()).unwrap();
        for (input, _) in &test {
            let alone = tail.run(&mut session, input).unwrap().to_vec();
            assert_eq!(alone, learner.tail().run(&mut session, input).unwrap());
        }
    }
}

#[test]
fn contrast_pulls_features_to_their_prototype() {
    let (net, tunable) = network_with(77, [FORMATS[2]; 3], 1, false, 10.0);
    let model = model(&net.blob(tunable));
    let mut session = session(&model);
    let mut learner = learner(&model, Settings { learning_rate: 0.02, momentum: 0.5, batch: 4 });
    let plan = Plan::new(&model).unwrap();
    let mut random = Random(9);
    let features = plan.feature_count();
    let own = |i: usize| i % features % 5 == i / features;
    let values: Vec<i8> = (0..5 * features).map(|i| if own(i) { 100 } else { -128 }).collect();
    let contrast = Contrast {
        prototypes: Prototypes { values: &values, counts: &[1; 5] },
        weight: 5.0,
        temperature: 0.5,
    };
    let train = samples(&net, 20, &mut random);
    let mut epochs = vec![];
    for _ in 0..10 {
        let mut sum = 0.0;
        for (input, label) in &train {
            sum += learner.learn(&mut session, input, *label, Some(&contrast)).unwrap();
        }
        epochs.push(sum);
    }
    assert!(epochs[9] < 0.8 * epochs[0], "{epochs:?}");
}

#[test]
fn memory_is_what_the_plan_says() {
    let (net, tunable) = network(3, [FORMATS[2], FORMATS[1], FORMATS[3]], 4, false);
    let model = model(&net.blob(tunable));
    let plan = Plan::new(&model).unwrap();
    let needed = plan.learner_len();
    let (mut session, settings) = (session(&model), Settings::default());
    let short = Learner::new(&plan, aligned(&vec![0; needed - 1]), settings);
    assert_eq!(short.err(), Some(LearnError::Memory { expected: needed, found: needed - 1 }));
    let odd = &mut aligned(&vec![0; needed + 1])[1..];
    assert_eq!(Learner::new(&plan, odd, settings).err(), Some(LearnError::MemoryMisaligned));
    // Nothing outside of it is touched.
    let memory: &'static mut [u8] = aligned(&vec![0xa5; needed + 64]);
    let (inside, outside) = memory.split_at_mut(needed);
    let mut learner = Learner::new(&plan, inside, settings).unwrap();
    for (input, label) in samples(&net, 20, &mut Random(1)) {
        learner.learn(&mut session, &input, label, None).unwrap();
    }
    assert!(outside.iter().all(|&byte| byte == 0xa5));
}

#[test]
fn what_cannot_be_tuned_is_named() {
    let (net, _) = network(3, [FORMATS[0]; 3], 4, false);
    assert_eq!(Plan::new(&model(&net.blob(0))).err(), Some(LearnError::NotTunable));
    // With the stem tunable the shortcut forks the chain.
    let fork = Plan::new(&model(&net.blob(4))).err();
    assert!(matches!(fork, Some(LearnError::Branch { .. })), "{fork:?}");
    let too_many = Model::new(aligned(&net.blob(5))).err();
    assert_eq!(too_many, Some(crate::ModelError::Tunable { marked: 5, weighted: 4 }));

    let model = model(&net.blob(1));
    let mut learner = learner(&model, Settings::default());
    let mut session = session(&model);
    let input = net.input();
    let error = |result: Result<f32, LearnError>| result.err();
    assert_eq!(
        error(learner.learn(&mut session, &input, 5, None)),
        Some(LearnError::Label { label: 5, classes: 5 })
    );
    let short = learner.learn(&mut session, &input[1..], 0, None).err();
    assert!(matches!(short, Some(LearnError::Run(RunError::InputLength { .. }))));
    let contrast = Contrast {
        prototypes: Prototypes { values: &[], counts: &[] },
        weight: 1.0,
        temperature: 1.0,
    };
    let unfit = learner.learn(&mut session, &input, 0, Some(&contrast)).err();
    assert!(matches!(unfit, Some(LearnError::Prototypes { .. })));
    for bad in [f32::NAN, f32::INFINITY, -1.0, 1e9] {
        let settings = Settings { learning_rate: bad, ..Settings::default() };
        assert_eq!(learner.set_settings(settings), Err(LearnError::Setting("learning rate")));
        let settings = Settings { momentum: bad, ..Settings::default() };
        assert_eq!(learner.set_settings(settings), Err(LearnError::Setting("momentum")));
    }
    let settings = Settings { batch: 0, ..Settings::default() };
    assert_eq!(learner.set_settings(settings), Err(LearnError::Setting("batch")));
    let unfit = Parameters { weights: &[0], biases: &[] };
    assert!(matches!(learner.set_parameters(&unfit), Err(LearnError::Parameters { .. })));
    let _: Box<dyn core::error::Error> = Box::new(LearnError::TooLarge);
}

/// Absurd settings and inputs give finite parameters and no panic.
#[test]
fn learning_never_leaves_the_numbers() {
    let (net, tunable) = network(11, [FORMATS[1]; 3], 2, true);
    let model = model(&net.blob(tunable));
    let mut session = session(&model);
    let mut learner = learner(&model, Settings { learning_rate: 1e3, momentum: 0.99, batch: 1 });
    for (step, (input, _)) in samples(&net, 50, &mut Random(2)).iter().enumerate() {
        let loss = learner.learn(&mut session, input, step % 5, None).unwrap();
        assert!(loss.is_finite());
    }
    assert!(learner.velocity.iter().all(|v| v.is_finite()));
    assert!(learner.bias_velocity.iter().all(|v| v.is_finite()));
}

/// What a fixed run learns, bit for bit. Targets without a floating-point unit must give the same.
#[test]
fn learning_is_the_same_everywhere() {
    let (net, tunable) = network_with(5, [FORMATS[3], FORMATS[2], FORMATS[1]], 1, false, 10.0);
    let model = model(&net.blob(tunable));
    let plan = Plan::new(&model).unwrap();
    let values: Vec<i8> =
        (0..5 * plan.feature_count()).map(|i| (i * 37 % 256) as u8 as i8).collect();
    let contrast = Contrast {
        prototypes: Prototypes { values: &values, counts: &[1; 5] },
        weight: 0.5,
        temperature: 0.5,
    };
    let mut session = session(&model);
    let mut learner = learner(&model, Settings { learning_rate: 0.03, momentum: 0.9, batch: 4 });
    for (input, label) in samples(&net, 40, &mut Random(8)) {
        learner.learn(&mut session, &input, label, Some(&contrast)).unwrap();
    }
    let parameters = learner.parameters();
    let crc = crc::Crc::<u32>::new(&crate::model::layout::CHECKSUM);
    let mut digest = crc.digest();
    digest.update(parameters.weights.as_bytes());
    digest.update(parameters.biases.as_bytes());
    assert_eq!(digest.finalize(), 1_876_548_958, "{:?}", &parameters.weights[..8]);
}

/// A weight of -128, which other exporters may write, stays as it is until it learns, and no weight leaves
/// the range of the blob's format.
#[test]
fn what_has_learned_nothing_is_the_blob() {
    for blob in i8::MIN..=i8::MAX {
        assert_eq!(tail::tuned(blob, 0), blob);
        for change in [-1_000_000, -300, 0, 300, 1_000_000] {
            let parameter = tail::changed(blob, 0, change);
            let learned = i32::from(tail::tuned(blob, parameter));
            let low = if blob == i8::MIN { -128 } else { -127 };
            assert!((low..=127).contains(&learned), "{blob} {change} {learned}");
            assert!((learned - i32::from(blob)) * change >= 0, "{blob} {change} {learned}");
        }
    }
}
