use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::learn::testing::{FORMATS, Kind, Net, Random};
use crate::learn::{Learner, Plan, Settings};
use crate::link::{self, FrameError, Receiver, Request, Response};
use crate::model::{Model, Window};
use crate::session::Session;
use crate::store::testing::{Failure, Simulated};
use crate::store::{Counters, Store, StoreError};

const KEY: [u8; 32] = *b"a key of thirty-two random bytes";

fn aligned(len: usize) -> &'static mut [u8] {
    &mut vec![0u32; len.div_ceil(4)].leak().as_mut_bytes()[..len]
}

/// A convolution and a classifier behind a frozen one.
fn model() -> Model<'static> {
    let mut random = Random(42);
    let r = &mut random;
    let mut net = Net::new([4, 4, 4], r);
    net.score_range = 10.0;
    let window = Window { kernel: [3, 3], stride: [1, 1], pad: [1, 1] };
    net.weighted(r, 8, Some(window), 1, false, true, FORMATS[0], 1.0);
    net.weighted(r, 8, Some(window), 1, false, true, FORMATS[2], 0.5);
    net.push(Kind::Mean, [1, 1, 8]);
    net.weighted(r, 5, None, 1, false, false, FORMATS[1], 1.0);
    let blob = net.blob(2);
    let bytes = aligned(blob.len());
    bytes.copy_from_slice(&blob);
    Model::new(bytes).unwrap()
}

fn session(model: &Model<'static>) -> Session<'static, 'static> {
    let arena = <[i8]>::mut_from_bytes(aligned(model.arena_len())).unwrap();
    Session::new(*model, arena).unwrap()
}

fn samples(count: usize, seed: u64) -> Vec<(Vec<i8>, usize)> {
    let mut random = Random(seed);
    let sample = |_| {
        let label = random.below(5);
        let value = |i: usize, noise: i32| (if i % 4 == label { 90 } else { 0 } + noise) as i8;
        ((0..64).map(|i| value(i, random.below(60) as i32 - 30)).collect(), label)
    };
    (0..count).map(sample).collect()
}

fn flash(model: &Model<'static>) -> Simulated {
    let plan = Plan::new(model).unwrap();
    let state = Client::snapshot_len(&plan);
    Simulated::new(Store::<Simulated>::flash_len(state) / Simulated::PAGE)
}

type Journalled = Store<Simulated>;
type Fault = ClientError<StoreError<Failure>>;

fn store(flash: Simulated) -> Journalled {
    let range = 0..flash.bytes.len() as u32;
    Store::new(flash, range).unwrap()
}

/// A device that has just started.
fn boot(model: &Model<'static>, store: &mut Journalled) -> Result<Client<'static, 'static>, Fault> {
    let plan = Plan::new(model).unwrap();
    let learner = Learner::new(&plan, aligned(plan.learner_len()), Settings::default()).unwrap();
    let counters = store.counters().map_err(ClientError::Journal)?;
    let channel = Channel::new(&KEY, Side::Device, counters, 16);
    Client::new(learner, channel, aligned(Client::memory_len(&plan)), store)
}

fn server(key: &[u8; 32]) -> Channel {
    Channel::new(key, Side::Server, Counters::default(), 1)
}

fn seal(server: &mut Channel, command: &Command<'_>) -> Vec<u8> {
    if let Some(counters) = server.needed_to_send().unwrap() {
        server.reserved(counters);
    }
    server.seal(command, &mut [0; MAX_PACKET]).unwrap().0.to_vec()
}

/// Opens an answer and hands its reply to `f`.
fn open<T>(server: &mut Channel, packet: &[u8], f: impl FnOnce(Answer<'_>) -> T) -> T {
    server.reserved(Counters { receive: u64::MAX, ..server.next() });
    let mut text = [0; MAX_PACKET];
    f(server.open::<Answer<'_>>(packet, &mut text).unwrap().0)
}

/// Sends a command and its answer in frames, as over a line.
fn ask<T>(
    server: &mut Channel,
    client: &mut Client<'_, '_>,
    store: &mut Journalled,
    command: &Command<'_>,
    f: impl FnOnce(Reply<'_>) -> T,
) -> Result<T, Fault> {
    let packet = seal(server, command);
    let (mut frame, mut line) = ([0; link::MAX_FRAME], Receiver::new());
    let mut received = vec![];
    for &byte in link::encode(7, &Request::Federated(&packet), &mut frame).unwrap().iter() {
        if let Some(frame) = line.push(byte) {
            match frame.unwrap().message().unwrap() {
                Request::Federated(bytes) => received.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(received, packet);
    let mut buffer = [0; MAX_PACKET];
    let answer = client.receive(&received, store, &mut buffer)?.packet;
    link::encode(7, &Response::Federated(answer), &mut frame).unwrap();
    let expected = server.next().send - 1;
    Ok(open(server, answer, |answer| {
        assert_eq!(answer.answers, expected);
        f(answer.reply)
    }))
}

fn refusal(reply: Reply<'_>) -> Option<Refusal> {
    if let Reply::Refused(refusal) = reply { Some(refusal) } else { None }
}

fn offer(model: &Model<'_>, round: u32) -> Offer {
    Offer {
        model: model.id(),
        round,
        learning_rate: 0.02,
        momentum: 0.5,
        batch: 4,
        epochs: 2,
        max_samples: 100,
        contrast: Some(Contrast { weight: 0.5, temperature: 0.5 }),
        proximal: 0.0,
        clip: 1e6,
        noise: 0.0,
    }
}

/// The global state as the server holds it.
#[derive(Clone)]
struct Global {
    weights: Vec<i16>,
    biases: Vec<i32>,
    prototypes: Vec<i8>,
    counts: Vec<u32>,
}

impl Global {
    fn new(plan: &Plan<'_>) -> Self {
        let classes = plan.class_count();
        Self {
            weights: vec![0; plan.weight_count()],
            biases: vec![0; plan.channel_count()],
            prototypes: (0..classes * plan.feature_count()).map(|i| (i * 7 % 200) as i8).collect(),
            counts: vec![3; classes],
        }
    }
}

struct Received {
    update: Update,
    weights: Vec<i8>,
    biases: Vec<i8>,
    prototypes: Vec<i8>,
    counts: Vec<u32>,
}

/// A round from the offer to the last value of the update.
fn round(
    server: &mut Channel,
    client: &mut Client<'_, '_>,
    store: &mut Journalled,
    offer: &Offer,
    global: &Global,
    train: &[(Vec<i8>, usize)],
) -> Result<Received, Fault> {
    let model = *client.learner().plan().model();
    let model: Model<'static> = Model::new(aligned_copy(model.as_bytes())).unwrap();
    let mut session = session(&model);
    let accepted = ask(server, client, store, &Command::Offer(*offer), |r| {
        r == Reply::Accepted { round: offer.round }
    })?;
    assert!(accepted);
    let parts = [
        (Part::Weights, global.weights.as_bytes()),
        (Part::Biases, global.biases.as_bytes()),
        (Part::Prototypes, global.prototypes.as_bytes()),
        (Part::Counts, global.counts.as_bytes()),
    ];
    for (part, all) in parts {
        for (number, bytes) in all.chunks(PART).enumerate() {
            let offset = (number * PART) as u32;
            let next = offset + bytes.len() as u32;
            for _ in 0..2 {
                // Twice, as when an answer is lost.
                let command = Command::Global { part, offset, bytes };
                let reply =
                    ask(server, client, store, &command, |r| r == Reply::Received { part, next });
                assert!(reply?);
            }
        }
    }
    ask(server, client, store, &Command::Learn { round: offer.round }, |_| ())?;
    while let Some(_offer) = client.work() {
        for (input, label) in train {
            client.learn(&mut session, input, *label).unwrap();
        }
        client.end_epoch(&mut || 1).unwrap();
    }
    let update = ask(server, client, store, &Command::Status, |reply| match reply {
        Reply::Status(Status::Ready(update)) => update,
        other => panic!("{other:?}"),
    })?;
    update.check(offer).unwrap();
    let mut fetch = |part: Part, len: usize| -> Result<Vec<u8>, Fault> {
        let mut all = vec![];
        while all.len() < len {
            let offset = all.len() as u32;
            let count = (len - all.len()).min(PART) as u16;
            let command = Command::Fetch { round: offer.round, part, offset, len: count };
            ask(server, client, store, &command, |reply| match reply {
                Reply::Part { bytes, .. } => all.extend_from_slice(bytes),
                other => panic!("{other:?}"),
            })?;
        }
        Ok(all)
    };
    let ints = |bytes: Vec<u8>| bytes.into_iter().map(|b| b as i8).collect::<Vec<_>>();
    let counts = fetch(Part::Counts, global.counts.len() * 4)?;
    let counts = counts.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    Ok(Received {
        update,
        weights: ints(fetch(Part::Weights, global.weights.len())?),
        biases: ints(fetch(Part::Biases, global.biases.len())?),
        prototypes: ints(fetch(Part::Prototypes, global.prototypes.len())?),
        counts,
    })
}

fn aligned_copy(bytes: &[u8]) -> &'static mut [u8] {
    let copy = aligned(bytes.len());
    copy.copy_from_slice(bytes);
    copy
}

fn acknowledge(
    server: &mut Channel,
    client: &mut Client<'_, '_>,
    store: &mut Journalled,
    round: u32,
) -> Result<bool, Fault> {
    ask(server, client, store, &Command::Acknowledge { round }, |reply| {
        reply == Reply::Status(Status::Idle { finished: round })
    })
}

#[test]
fn rounds_carry_what_was_learned_without_loss() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let mut store = store(flash(&model));
    let mut client = boot(&model, &mut store).unwrap();
    let mut server = server(&KEY);
    let enrolled =
        ask(&mut server, &mut client, &mut store, &Command::Enrol, |reply| match reply {
            Reply::Enrolled(enrolment) => enrolment,
            other => panic!("{other:?}"),
        });
    let enrolled = enrolled.unwrap();
    assert_eq!((enrolled.model, enrolled.finished), (model.id(), 0));
    assert_eq!(enrolled.weights as usize, plan.weight_count());

    let mut global = Global::new(&plan);
    let (mut lost_weights, mut lost_biases) =
        (vec![0i32; global.weights.len()], vec![0i32; global.biases.len()]);
    let train = samples(20, 1);
    let mut losses = vec![];
    for number in 1..=4 {
        let offer = offer(&model, number);
        let received =
            round(&mut server, &mut client, &mut store, &offer, &global, &train).unwrap();
        let update = received.update;
        assert_eq!((update.samples, update.round), (20, number));
        losses.push(update.loss);
        // Local minus global plus what was left out before is what is sent plus what is left out now.
        let local = client.learner().parameters();
        let (mut weights, mut biases) = (vec![], vec![]);
        let norm = update.differences(
            &plan,
            &received.weights,
            &received.biases,
            f32::INFINITY,
            |index, value| {
                assert_eq!(index, weights.len());
                weights.push(value);
            },
            |index, value| {
                assert_eq!(index, biases.len());
                biases.push(value);
            },
        );
        assert!(norm.unwrap() > 0.0);
        for (i, &sent) in weights.iter().enumerate() {
            let wanted = i32::from(local.weights[i]) - i32::from(global.weights[i]);
            lost_weights[i] += wanted - sent;
            global.weights[i] += sent as i16;
        }
        for (i, &sent) in biases.iter().enumerate() {
            lost_biases[i] += local.biases[i] - global.biases[i] - sent;
            global.biases[i] += sent;
        }
        let largest = update.weight_scales.iter().max().copied().unwrap();
        assert!(lost_weights.iter().all(|lost| lost.unsigned_abs() <= u32::from(largest)));
        let largest = update.bias_scales.iter().max().copied().unwrap();
        assert!(lost_biases.iter().all(|lost| lost.unsigned_abs() <= largest));
        // The device's prototypes are the means of the classes that it has.
        let seen: Vec<u32> =
            (0..5).map(|c| train.iter().filter(|(_, l)| *l == c).count() as u32).collect();
        assert_eq!(received.counts, seen);
        global.prototypes = received.prototypes;
        // The acknowledgement may be repeated.
        assert!(acknowledge(&mut server, &mut client, &mut store, number).unwrap());
        assert!(acknowledge(&mut server, &mut client, &mut store, number).unwrap());
        // A restart goes on with the same state.
        let mut again = boot(&model, &mut store).unwrap();
        assert_eq!(again.finished(), number);
        assert_eq!(again.learner().parameters(), client.learner().parameters());
        let skipped = ask(&mut server, &mut again, &mut store, &Command::Status, refusal);
        if let Some(Refusal::Replayed { expected }) = skipped.unwrap() {
            server.skip_to(expected);
        }
        client = again;
    }
    assert!(losses[3] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn an_update_is_clipped_and_noised() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let global = Global::new(&plan);
    let norm = |clip: f32, noise: f32| {
        let mut store = store(flash(&model));
        let mut client = boot(&model, &mut store).unwrap();
        let offer = Offer { clip, noise, ..offer(&model, 1) };
        let mut server = server(&KEY);
        let received =
            round(&mut server, &mut client, &mut store, &offer, &global, &samples(20, 1)).unwrap();
        let (weights, biases) = (&received.weights, &received.biases);
        received.update.differences(&plan, weights, biases, f32::INFINITY, |_, _| {}, |_, _| {})
    };
    let free = norm(1e6, 0.0).unwrap();
    assert!(free > 4.0, "{free}");
    let clipped = norm(2.0, 0.0).unwrap();
    assert!((clipped - 2.0).abs() < 0.1, "{clipped}");
    // The generator gives the same number always: each value is shifted by the same noise.
    let noised = norm(2.0, 1.0).unwrap();
    assert!(noised > 10.0, "{noised}");
}

#[test]
fn noise_is_gaussian() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let global = Global::new(&plan);
    let mut random = Random(3);
    let mut values = vec![];
    for _ in 0..20 {
        let (mut weights, mut biases) = (global.weights.clone(), global.biases.clone());
        let local = crate::learn::Parameters { weights: &global.weights, biases: &global.biases };
        let (no_weights, no_biases) = (vec![0; weights.len()], vec![0; biases.len()]);
        let buffers = update::Buffers {
            weights: &mut weights,
            biases: &mut biases,
            weight_residuals: &no_weights,
            bias_residuals: &no_biases,
        };
        let offer = Offer { clip: 2.0, noise: 1.5, ..offer(&model, 1) };
        update::make(&plan, &local, buffers, &offer, &mut || random.next() as u32);
        values.extend(weights.iter().map(|&w| f64::from(w) / 256.0));
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    let beyond_two = values.iter().filter(|v| v.abs() > 6.0).count() as f64 / n;
    assert!(mean.abs() < 0.15 && (deviation - 3.0).abs() < 0.1, "{mean} {deviation}");
    assert!((beyond_two - 0.0455).abs() < 0.015, "{beyond_two}");
}

#[test]
fn a_hostile_line_changes_nothing() {
    let model = model();
    let mut store = store(flash(&model));
    let mut client = boot(&model, &mut store).unwrap();
    let mut server = server(&KEY);
    let mut buffer = [0; MAX_PACKET];
    let offer = Command::Offer(offer(&model, 1));
    let packet = seal(&mut server, &offer);
    let idle = |client: &Client<'_, '_>| client.work().is_none() && client.finished() == 0;

    // Flipped bits of the packet, should the frame's checksum miss them.
    for at in 0..packet.len() {
        for bit in 0..8 {
            let mut flipped = packet.clone();
            flipped[at] ^= 1 << bit;
            let error = client.receive(&flipped, &mut store, &mut buffer).err();
            assert!(
                matches!(
                    error,
                    Some(ClientError::Channel(
                        ChannelError::Malformed | ChannelError::Authentication
                    ))
                ),
                "{at} {bit} {error:?}"
            );
        }
    }
    // Dropped and doubled bytes.
    for at in 0..packet.len() {
        let (mut dropped, mut doubled) = (packet.clone(), packet.clone());
        dropped.remove(at);
        doubled.insert(at, packet[at]);
        for bytes in [dropped, doubled] {
            assert!(client.receive(&bytes, &mut store, &mut buffer).is_err());
        }
    }
    // On the line, the frame's checksum finds them.
    let mut frame = [0; link::MAX_FRAME];
    let frame = link::encode(1, &Request::Federated(&packet), &mut frame).unwrap().to_vec();
    for at in 0..frame.len() - 1 {
        let mut bytes = frame.clone();
        bytes.swap(at, (at + 1).min(frame.len() - 2));
        if bytes == frame {
            continue;
        }
        let mut line = Receiver::new();
        for &byte in &bytes {
            if let Some(found) = line.push(byte) {
                let error = found.err();
                assert!(matches!(error, Some(FrameError::Checksum | FrameError::Malformed)));
            }
        }
    }
    // Another device's key, and the device's own answer sent back to it.
    let foreign = seal(&mut self::server(b"another key, of another device ."), &offer);
    let error = client.receive(&foreign, &mut store, &mut buffer).err();
    assert_eq!(error, Some(ClientError::Channel(ChannelError::Authentication)));
    assert!(idle(&client));

    // Twice, and out of order.
    let later = seal(&mut server, &Command::Status);
    let answer = client.receive(&later, &mut store, &mut buffer).unwrap().packet.to_vec();
    let mirrored = client.receive(&answer, &mut store, &mut buffer).err();
    assert_eq!(mirrored, Some(ClientError::Channel(ChannelError::Authentication)));
    for old in [&later, &packet] {
        let Sealed { packet: answer, refused } =
            client.receive(old, &mut store, &mut buffer).unwrap();
        assert_eq!(refused, Some(Refusal::Replayed { expected: 2 }));
        let found = open(&mut server, answer, |answer| refusal(answer.reply));
        assert_eq!(found, refused);
    }
    assert!(idle(&client));

    // A packet recorded before a restart.
    let mut client = boot(&model, &mut store).unwrap();
    for old in [&later, &packet] {
        let refused = client.receive(old, &mut store, &mut buffer).unwrap().refused;
        assert!(matches!(refused, Some(Refusal::Replayed { .. })));
    }
    // The server, which may have lost its counters too, is told where to go on.
    let mut server = self::server(&KEY);
    let told = ask(&mut server, &mut client, &mut store, &Command::Enrol, refusal).unwrap();
    let Some(Refusal::Replayed { expected }) = told else { panic!("{told:?}") };
    server.skip_to(expected);
    assert_eq!(ask(&mut server, &mut client, &mut store, &Command::Enrol, refusal).unwrap(), None);
}

#[test]
fn bad_commands_are_refused_by_name() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let mut store = store(flash(&model));
    let mut client = boot(&model, &mut store).unwrap();
    let mut server = server(&KEY);
    let good = offer(&model, 5);
    let global = Global::new(&plan);
    round(&mut server, &mut client, &mut store, &good, &global, &samples(8, 1)).unwrap();
    assert!(acknowledge(&mut server, &mut client, &mut store, 5).unwrap());
    let before: Vec<i16> = client.learner().parameters().weights.to_vec();

    let mut refused = |command: &Command<'_>| {
        ask(&mut server, &mut client, &mut store, command, refusal).unwrap()
    };
    let next = offer(&model, 6);
    let other = Offer { model: *b"stranger", ..next };
    let expected = model.id();
    assert_eq!(refused(&Command::Offer(other)), Some(Refusal::OtherModel { expected }));
    for round in [0, 4, 5] {
        let stale = refused(&Command::Offer(offer(&model, round)));
        assert_eq!(stale, Some(Refusal::StaleRound { finished: 5 }));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1.0] {
        for (offer, setting) in [
            (Offer { learning_rate: bad, ..next }, Setting::LearningRate),
            (Offer { momentum: bad, ..next }, Setting::Momentum),
            (Offer { clip: bad, ..next }, Setting::Clip),
            (Offer { noise: bad, ..next }, Setting::Noise),
            (Offer { proximal: bad, ..next }, Setting::Proximal),
            (
                Offer { contrast: Some(Contrast { weight: bad, temperature: 1.0 }), ..next },
                Setting::Contrast,
            ),
            (
                Offer { contrast: Some(Contrast { weight: 1.0, temperature: bad }), ..next },
                Setting::Contrast,
            ),
        ] {
            assert_eq!(refused(&Command::Offer(offer)), Some(Refusal::Setting(setting)));
        }
    }
    for (offer, setting) in [
        (Offer { batch: 0, ..next }, Setting::Batch),
        (Offer { epochs: 0, ..next }, Setting::Epochs),
        (Offer { max_samples: 0, ..next }, Setting::MaxSamples),
        (Offer { clip: 0.0, ..next }, Setting::Clip),
    ] {
        assert_eq!(refused(&Command::Offer(offer)), Some(Refusal::Setting(setting)));
    }
    let part = Part::Weights;
    assert_eq!(refused(&Command::Global { part, offset: 0, bytes: &[0; 2] }), Some(Refusal::State));
    let no_round = Some(Refusal::WrongRound { current: None });
    assert_eq!(refused(&Command::Learn { round: 6 }), no_round);
    assert_eq!(refused(&Command::Acknowledge { round: 6 }), no_round);
    assert_eq!(refused(&Command::Acknowledge { round: 4 }), no_round);

    assert_eq!(refused(&Command::Offer(next)), None);
    let len = 2 * plan.weight_count() as u32;
    for (offset, count) in [(0, 3), (1, 2), (len, 2), (u32::MAX - 1, 2), (len - 2, 4)] {
        let bytes = &[0; 8][..count];
        let command = Command::Global { part, offset, bytes };
        assert_eq!(refused(&command), Some(Refusal::Range { len }), "{offset} {count}");
    }
    let gap = refused(&Command::Global { part, offset: 4, bytes: &[0; 2] });
    assert_eq!(gap, Some(Refusal::Gap { expected: 0 }));
    assert_eq!(refused(&Command::Learn { round: 6 }), Some(Refusal::Incomplete(part)));
    let other_round = Some(Refusal::WrongRound { current: Some(6) });
    assert_eq!(refused(&Command::Learn { round: 7 }), other_round);
    let fetch = Command::Fetch { round: 6, part, offset: 0, len: 1 };
    assert_eq!(refused(&fetch), Some(Refusal::State));
    assert_eq!(refused(&Command::Acknowledge { round: 6 }), Some(Refusal::State));
    assert_eq!(refused(&Command::Abort { round: 6 }), None);
    assert_eq!(refused(&Command::Abort { round: 6 }), None);
    assert_eq!(client.learner().parameters().weights, before);

    // A command that only a later version knows.
    let packet = {
        let counters = server.needed_to_send().unwrap().unwrap();
        server.reserved(counters);
        server.seal(&200u32, &mut [0; MAX_PACKET]).unwrap().0.to_vec()
    };
    let mut buffer = [0; MAX_PACKET];
    let refused = client.receive(&packet, &mut store, &mut buffer).unwrap().refused;
    assert_eq!(refused, Some(Refusal::Message));
}

#[test]
fn a_server_that_restarts_offers_the_round_again() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let mut store = store(flash(&model));
    let mut client = boot(&model, &mut store).unwrap();
    let global = Global::new(&plan);
    let train = samples(8, 1);
    let first =
        round(&mut server(&KEY), &mut client, &mut store, &offer(&model, 1), &global, &train)
            .unwrap();
    // The new server knows nothing of the channel's counters.
    let mut server = server(&KEY);
    let told = ask(&mut server, &mut client, &mut store, &Command::Enrol, refusal).unwrap();
    if let Some(Refusal::Replayed { expected }) = told {
        server.skip_to(expected);
    }
    let second =
        round(&mut server, &mut client, &mut store, &offer(&model, 1), &global, &train).unwrap();
    // The round does not depend on the one that was given up.
    assert_eq!((first.update, first.weights), (second.update, second.weights));
    assert!(acknowledge(&mut server, &mut client, &mut store, 1).unwrap());
}

#[test]
fn bad_updates_are_named() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let offer = offer(&model, 3);
    let good = Update {
        model: model.id(),
        round: 3,
        samples: 100,
        loss: 0.5,
        weight_scales: [1; 8],
        bias_scales: [1; 8],
    };
    good.check(&offer).unwrap();
    let claims = Update { samples: u32::MAX, ..good };
    assert_eq!(claims.check(&offer), Err(UpdateError::Samples { limit: 100, found: u32::MAX }));
    assert!(matches!(
        Update { samples: 0, ..good }.check(&offer),
        Err(UpdateError::Samples { .. })
    ));
    let foreign = Update { model: *b"stranger", ..good };
    assert_eq!(foreign.check(&offer), Err(UpdateError::OtherModel { found: *b"stranger" }));
    let stale = Update { round: 2, ..good };
    assert_eq!(stale.check(&offer), Err(UpdateError::OtherRound { found: 2 }));
    for loss in [f32::NAN, f32::INFINITY] {
        assert_eq!(Update { loss, ..good }.check(&offer), Err(UpdateError::Loss));
    }
    assert_eq!(Update { weight_scales: [0; 8], ..good }.check(&offer), Err(UpdateError::Scale));
    let (weights, biases) = (vec![127; plan.weight_count()], vec![127; plan.channel_count()]);
    let huge = Update { weight_scales: [u16::MAX; 8], bias_scales: [u32::MAX; 8], ..good };
    let mut handed = 0;
    let norm = huge.differences(&plan, &weights, &biases, 1e3, |_, _| handed += 1, |_, _| {});
    assert!(matches!(norm, Err(UpdateError::Norm { .. })), "{norm:?}");
    assert_eq!(handed, 0);
    let short = good.differences(&plan, &weights[1..], &biases, 1e3, |_, _| {}, |_, _| {});
    assert!(matches!(short, Err(UpdateError::Length { .. })));
}

/// Power fails at every 23rd byte or so that is written or erased, in a round or in the start before it.
/// The device comes up with the state before or after, never uses a counter twice, and goes on.
#[test]
fn power_may_fail_anywhere_in_a_round() {
    let model = model();
    let plan = Plan::new(&model).unwrap();
    let global = Global::new(&plan);
    let train = samples(4, 9);
    let attempt = |flash: Simulated, server: &mut Channel, number: u32| {
        let mut store = store(flash);
        let result = (|| {
            let mut client = boot(&model, &mut store)?;
            let told = ask(server, &mut client, &mut store, &Command::Enrol, refusal)?;
            if let Some(Refusal::Replayed { expected }) = told {
                server.skip_to(expected);
            }
            let offer = offer(&model, number);
            round(server, &mut client, &mut store, &offer, &global, &train)?;
            let done = acknowledge(server, &mut client, &mut store, number)?;
            if !done {
                // The client said so before it noticed that its power was off.
                return Err(ClientError::NoRound);
            }
            Ok::<Vec<i16>, Fault>(client.learner().parameters().weights.to_vec())
        })();
        (store.release(), result)
    };
    let mut base = flash(&model);
    let mut server_channel = server(&KEY);
    let (flash, first) = attempt(base, &mut server_channel, 1);
    let first = first.unwrap();
    base = flash;
    let start = server_channel.next();
    let resumed = || {
        let mut server = Channel::new(&KEY, Side::Server, start, 1);
        server.reserved(start);
        server
    };
    let copy = |budget| Simulated { bytes: base.bytes.clone(), budget, used: 0 };
    let (flash, second) = attempt(copy(usize::MAX), &mut resumed(), 2);
    let (whole, second) = (flash.used, second.unwrap());
    for budget in (1..whole).step_by(23) {
        let mut server = resumed();
        let (flash, result) = attempt(copy(budget), &mut server, 2);
        assert!(
            matches!(
                result,
                Err(ClientError::NoRound | ClientError::Journal(StoreError::Flash(Failure::Off)))
            ) || matches!(result, Ok(ref weights) if *weights == second),
            "{budget} {result:?}"
        );
        let last_sent = server.next().receive;
        let mut store = store(flash.reboot(usize::MAX));
        let mut client = boot(&model, &mut store).unwrap();
        // Numbers that the server has seen are not used again.
        assert!(client.counters().send >= last_sent, "{budget}");
        let weights = client.learner().parameters().weights.to_vec();
        match client.finished() {
            1 => assert_eq!(weights, first),
            2 => assert_eq!(weights, second),
            other => panic!("{other}"),
        }
        let told = ask(&mut server, &mut client, &mut store, &Command::Enrol, refusal).unwrap();
        if let Some(Refusal::Replayed { expected }) = told {
            server.skip_to(expected);
        }
        if client.finished() == 1 {
            let offer = offer(&model, 2);
            round(&mut server, &mut client, &mut store, &offer, &global, &train).unwrap();
            assert!(acknowledge(&mut server, &mut client, &mut store, 2).unwrap());
            assert_eq!(client.learner().parameters().weights, second);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let model = model();
        let mut store = store(flash(&model));
        let mut client = boot(&model, &mut store).unwrap();
        prop_assert!(client.receive(&bytes, &mut store, &mut [0; MAX_PACKET]).is_err());
    }

    #[test]
    fn quantisation_loses_half_a_scale_at_most(value: i32, scale in 1u32..1_000_000) {
        let limit = i64::from(scale) * 127;
        let value = i64::from(value).clamp(-limit, limit) as i32;
        let back = i64::from(quantise(value, scale)) * i64::from(scale);
        prop_assert!((back - i64::from(value)).abs() * 2 <= i64::from(scale));
    }
}
