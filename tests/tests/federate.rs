//! Learning on emulated boards, and federations of devices.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use niwaki::export::{AlignedVec, mark_tunable};
use niwaki::federate::{
    Aggregation, Boards, Failures, Fleet, Global, Learning, Method, Moon, Party, PartyError,
    Server, Settings, Simulation, Visit, accuracy,
};
use niwaki::learn::{Samples, Schedule, tune, tune_on};
use niwaki::target::{Board, Device, Firmware};
use niwaki_core::Model;
use niwaki_core::federated::{
    Answer, Channel, Command, Enrolment, MAX_PACKET, PART, Part, Reply, Side, Status, Update,
};
use niwaki_core::learn::{self, Plan};
use niwaki_core::store::Counters;
#[cfg(unix)]
use niwaki_tests::attached::Attached;
use niwaki_tests::boards::{board, emulated};
use niwaki_tests::networks;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const CLASSES: usize = 10;

/// A model with random weights whose last two layers can be tuned: a sparse convolution and a classifier.
fn blob() -> AlignedVec {
    AlignedVec::new(
        &mark_tunable(networks::keywords(4, networks::FRONT_END).as_bytes(), 2).unwrap(),
    )
}

/// Samples of classes that differ in their pattern, with noise.
fn samples(model: &Model<'_>, seed: u64, count: usize) -> Samples {
    let mut patterns = Pcg64::seed_from_u64(99);
    let len = model.input().len();
    let patterns: Vec<Vec<i32>> =
        (0..CLASSES).map(|_| (0..len).map(|_| patterns.random_range(-70..70)).collect()).collect();
    let mut random = Pcg64::seed_from_u64(seed);
    let mut all = Samples::default();
    for _ in 0..count {
        let label = random.random_range(0..CLASSES);
        all.labels.push(label);
        let noised = |value: &i32| (value + random.random_range(-57..57)) as i8;
        all.inputs.extend(patterns[label].iter().map(noised));
    }
    all
}

/// The samples in order, `each` for every party.
fn parties(count: usize, each: usize) -> Vec<Vec<usize>> {
    (0..count).map(|party| (party * each..(party + 1) * each).collect()).collect()
}

fn settings(method: Method) -> Settings {
    let learning = Learning {
        epochs: 2,
        learning_rate: 0.02,
        momentum: 0.5,
        batch: 4,
        clip: 1e3,
        noise: 0.0,
        contrast_weight: 0.5,
        temperature: 0.5,
        proximal: 0.01,
    };
    Settings {
        offer: learning.offer(method, [0; 8], 1000),
        sampled: usize::MAX,
        minimum: 1,
        deadline_seconds: 600.0,
        aggregation: Aggregation::FedAvg,
        seed: 5,
    }
}

fn rounds(server: &mut Server<'_>, fleet: &dyn Fleet, until: u32) {
    while server.round() < until {
        server.run_round(fleet, &|_, _| Ok(None)).unwrap();
    }
}

/// A board with floating-point unit, and one without.
fn boards() -> [&'static (Board, Firmware); 2] {
    ["qemu-cortex-m4", "qemu-cortex-m3"].map(board)
}

/// Emulated boards of every core, but for the smallest, whose memory is too small for learning.
fn learning_boards() -> impl Iterator<Item = &'static (Board, Firmware)> {
    emulated().iter().filter(|(board, _)| board.about.core != "cortex-m0")
}

#[test]
fn a_board_learns_the_bytes_of_the_host() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (train, test) = (samples(&model, 1, 10), samples(&model, 2, 5));
    let settings = learn::Settings { learning_rate: 0.02, momentum: 0.5, batch: 4 };
    let schedule = Schedule { settings, epochs: 2, seed: 1 };
    let on_host = tune(&model, &train, &test, &schedule).unwrap();
    assert!(on_host.losses[1] < on_host.losses[0], "{on_host:?}");
    assert_eq!(on_host.losses.len(), 2);
    for (board, firmware) in boards() {
        let mut device = Device::start(board, firmware, &model).unwrap();
        // A device can begin anew.
        let times = if board.about.core == "cortex-m4" { 2 } else { 1 };
        for _ in 0..times {
            let found = tune_on(&mut device, &model, &train, &test, &schedule, false).unwrap();
            assert_eq!(found.checksum, on_host.checksum, "{}", board.name);
            let bits =
                |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found.losses), bits(&on_host.losses));
            assert_eq!(found.accuracy_before, on_host.accuracy_before);
            assert_eq!(found.accuracy_after, on_host.accuracy_after);
            let count = found.instructions_per_sample.unwrap();
            assert!((100_000..100_000_000).contains(&count), "{}: {count}", board.name);
            let stack = found.stack_bytes.unwrap();
            assert!((64..8192).contains(&stack), "{}: {stack}", board.name);
        }
    }
}

/// What a board keeps it runs after its power has failed, and nothing half.
#[test]
fn a_board_keeps_what_it_learned() {
    let blob = AlignedVec::new(&mark_tunable(networks::classifier(6).as_bytes(), 1).unwrap());
    let model = Model::new(blob.as_bytes()).unwrap();
    let (train, test) = (samples(&model, 1, 4), samples(&model, 2, 1));
    let schedule = |epochs| Schedule {
        settings: learn::Settings { learning_rate: 0.02, momentum: 0.5, batch: 4 },
        epochs,
        seed: 1,
    };
    let (input, _) = test.get(0);
    let (board, firmware) = &boards()[0];
    let untuned = Device::start(board, firmware, &model).unwrap().run(input).unwrap().output;
    let mut outputs = Vec::new();
    for operation in 1.. {
        let mut device = Device::start_failing(board, firmware, &model, operation).unwrap();
        let tune = |device: &mut Device, epochs| {
            tune_on(device, &model, &train, &test, &schedule(epochs), true)
        };
        // Its power fails while it keeps the first state, or the second, or not at all.
        let first = tune(&mut device, 1).is_ok();
        if !first {
            assert_eq!(device.run(input).unwrap().output, untuned, "{operation}");
        }
        let kept = [first, tune(&mut device, 2).is_ok()];
        let output = device.run(input).unwrap().output;
        assert_ne!(output, untuned, "{operation} {kept:?}");
        outputs.push((kept, output));
        if kept == [true, true] {
            break;
        }
    }
    let [second, first] = [2, 1].map(|epochs| {
        let mut device = Device::start(board, firmware, &model).unwrap();
        tune_on(&mut device, &model, &train, &test, &schedule(epochs), false).unwrap();
        device.run(input).unwrap().output
    });
    assert_ne!(first, second);
    let cuts = outputs.iter().filter(|(kept, output)| match kept {
        // The second state is learned from the blob on, whatever came before.
        [_, true] => *output == second,
        [true, false] => *output == first,
        [false, false] => false,
    });
    assert_eq!(cuts.count(), outputs.len(), "{outputs:?}");
    let in_second = outputs.iter().filter(|(kept, _)| *kept == [true, false]).count();
    assert!(in_second > 5 && outputs.len() > in_second + 5, "{outputs:?}");
}

#[test]
fn a_board_refuses_what_it_cannot_learn() {
    let (board, firmware) = &boards()[0];
    let schedule = Schedule { settings: learn::Settings::default(), epochs: 1, seed: 1 };
    let blob = networks::keywords(4, networks::FRONT_END);
    let model = Model::new(blob.as_bytes()).unwrap();
    let train = samples(&model, 1, 2);
    let tunable = self::blob();
    let tunable = Model::new(tunable.as_bytes()).unwrap();
    let mut device = Device::start(board, firmware, &tunable).unwrap();
    let bad = Samples { labels: vec![0, CLASSES], ..train.clone() };
    let error = tune_on(&mut device, &tunable, &bad, &train, &schedule, false).unwrap_err();
    assert!(format!("{error:#}").contains("class of a sample is out of range"), "{error:#}");
    // The device lives on.
    assert!(tune_on(&mut device, &tunable, &train, &train, &schedule, false).is_ok());
}

#[test]
fn four_boards_give_the_bytes_of_the_simulation() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (samples, parties) = (samples(&model, 3, 8), parties(4, 2));
    let (board, firmware) = &boards()[0];
    let settings = settings(Method::Contrastive);
    let simulated = Simulation::new(&model, &samples, &parties, 7, None).unwrap();
    let epochs = settings.offer.epochs;
    let emulated = Boards::start(board, firmware, &model, &samples, &parties, 7, epochs).unwrap();
    let run = |fleet: &dyn Fleet| {
        let mut server = Server::open(&model, settings, None).unwrap();
        rounds(&mut server, fleet, 3);
        (server.global().clone(), server.rows().to_vec())
    };
    let (expected, found) = (run(&simulated), run(&emulated));
    assert!(expected.1.iter().all(|row| row.finished == 4 && row.unacknowledged.is_empty()));
    assert_eq!(found.0, expected.0);
    // Losses, norms and the bytes on the line, too.
    assert_eq!(found.1, expected.1);
    assert_ne!(expected.0, Global::new(&Plan::new(&model).unwrap()));
}

/// A fleet whose devices are asked only if `before` lets them: it is told the round and how many packets the device
/// has had in it.
struct Watched<'a> {
    fleet: &'a dyn Fleet,
    before: &'a (dyn Fn(u32, usize) -> Result<(), PartyError> + Sync),
}

impl Fleet for Watched<'_> {
    fn len(&self) -> usize {
        self.fleet.len()
    }

    fn key(&self, client: u32) -> [u8; 32] {
        self.fleet.key(client)
    }

    fn assemble(&self, round: u32, clients: &[u32], visit: &mut Visit<'_>) -> anyhow::Result<()> {
        self.fleet.assemble(round, clients, &mut |parties| {
            let mut watched: Vec<Box<dyn Party + '_>> = Vec::new();
            for party in parties {
                let before = self.before;
                watched.push(Box::new(WatchedParty {
                    party: &mut **party,
                    round,
                    packets: 0,
                    before,
                }));
            }
            visit(&mut watched)
        })
    }
}

struct WatchedParty<'a> {
    party: &'a mut (dyn Party + 'a),
    round: u32,
    packets: usize,
    before: &'a (dyn Fn(u32, usize) -> Result<(), PartyError> + Sync),
}

impl Party for WatchedParty<'_> {
    fn ask(&mut self, packet: &[u8]) -> Result<Vec<u8>, PartyError> {
        (self.before)(self.round, self.packets)?;
        self.packets += 1;
        self.party.ask(packet)
    }

    fn work(&mut self) -> Result<Duration, PartyError> {
        self.party.work()
    }
}

/// Power fails at each operation of a board's flash, from its key to the end of the last round. It starts anew with
/// what it had stored: the round is finished, or given up as if the board had not been there.
#[test]
fn power_may_fail_at_any_operation_of_a_boards_flash() {
    const ROUNDS: u32 = 2;
    let blob = AlignedVec::new(&mark_tunable(networks::classifier(6).as_bytes(), 1).unwrap());
    let model = Model::new(blob.as_bytes()).unwrap();
    let (samples, parties) = (samples(&model, 8, 2), parties(1, 2));
    // The prototypes make a round long enough for counters to be reserved in the middle of it.
    let settings = settings(Method::Contrastive);
    let run = |fleet: &dyn Fleet| {
        let mut server = Server::open(&model, settings, None).unwrap();
        rounds(&mut server, fleet, ROUNDS);
        (server.global().clone(), server.rows().to_vec())
    };
    // The device answers so many packets in that round, and then is not there.
    let simulated = |round, packets| {
        let simulation = Simulation::new(&model, &samples, &parties, 7, None).unwrap();
        let before = |now, had| match now == round && had >= packets {
            true => Err(PartyError::Vanished("for this test".into())),
            false => Ok(()),
        };
        run(&Watched { fleet: &simulation, before: &before })
    };
    let whole = simulated(0, 0);
    assert!(whole.1.iter().all(|row| row.finished == 1 && row.unacknowledged.is_empty()));
    // Without the packet that acknowledges its update the device does not store the round.
    let unacknowledged = |round| {
        let last = |packets: &usize| {
            !simulated(round, *packets).1[round as usize - 1].unacknowledged.is_empty()
        };
        simulated(round, (1..1000).find(last).unwrap())
    };
    let absent: Vec<_> = (1..=ROUNDS).map(|round| simulated(round, 0)).collect();
    let forgotten: Vec<_> = (1..=ROUNDS).map(unacknowledged).collect();

    for (board, firmware) in learning_boards() {
        let on_board = |operation: u32| {
            let device = Device::start_failing(board, firmware, &model, operation).unwrap();
            let keys = vec![[9; 32]];
            let epochs = settings.offer.epochs;
            let boards =
                Boards::provisioned(vec![device], keys, &samples, &parties, 7, epochs).unwrap();
            run(&boards)
        };
        let undisturbed = on_board(0);
        assert_eq!(undisturbed.0, whole.0, "{}", board.name);
        let attempt = |operation: u32| {
            let (global, rows) = on_board(operation);
            let place = format!("{}, operation {operation}: {rows:?}", board.name);
            let given_up: Vec<_> = rows.iter().filter(|row| row.finished == 0).collect();
            let lost: Vec<_> = rows.iter().filter(|row| !row.unacknowledged.is_empty()).collect();
            let expected = match (given_up.as_slice(), lost.as_slice()) {
                ([], []) => &whole,
                ([row], []) => &absent[row.round as usize - 1],
                ([], [row]) => &forgotten[row.round as usize - 1],
                _ => panic!("{place}"),
            };
            assert_eq!(global, expected.0, "{place}");
            let outcome = (!given_up.is_empty(), !lost.is_empty());
            // Whoever fails in a round is asked again, which takes bytes.
            (outcome, rows == undisturbed.1)
        };
        // Every operation on one board; the others share the code.
        let step = if board.about.core == "cortex-m4" { 1 } else { 17 };
        let mut outcomes = Vec::new();
        let mut operation = 1;
        while !(outcomes.iter().any(|(_, same)| !same) && outcomes.last().unwrap().1) {
            outcomes.push(attempt(operation));
            operation += step;
        }
        let count = |outcome| outcomes.iter().filter(|found| found.0 == outcome).count();
        let counts = [count((false, false)), count((true, false)), count((false, true))];
        eprintln!("{}: {} cuts, {counts:?}", board.name, outcomes.len());
        assert!(
            step > 1 || (outcomes.len() > 50 && counts.iter().all(|&count| count > 0)),
            "{counts:?}"
        );
    }
}

/// Boards at serial ports keep their keys and what they learned, and a server that was stopped its own: the rounds
/// go on, and the result is that of the simulation.
#[cfg(unix)]
#[test]
fn a_federation_of_boards_at_ports_goes_on() {
    let blob = AlignedVec::new(&mark_tunable(networks::classifier(6).as_bytes(), 1).unwrap());
    let model = Model::new(blob.as_bytes()).unwrap();
    let (samples, parties) = (samples(&model, 8, 4), parties(2, 2));
    let settings = settings(Method::FedAvg);
    let simulation = Simulation::new(&model, &samples, &parties, 7, None).unwrap();
    let mut expected = Server::open(&model, settings, None).unwrap();
    rounds(&mut expected, &simulation, 3);

    let (board, firmware) = &boards()[0];
    let start = || [0; 2].map(|_| Attached::start(board, firmware, model.as_bytes()));
    let mut attached = start();
    let folder = tempfile::tempdir().unwrap();
    let serve = |attached: &[Attached], folder: &Path, until: u32| {
        let mut server = Server::open(&model, settings, Some(folder))?;
        let connect = |attached: &Attached| Device::connect(board, &attached.port, &model).unwrap();
        let devices = attached.iter().map(connect).collect();
        let epochs = settings.offer.epochs;
        let fleet = Boards::reached(devices, &mut server, folder, &samples, &parties, 7, epochs)?;
        rounds(&mut server, &fleet, until);
        assert!(server.rows().iter().all(|row| row.finished == 2), "{:?}", server.rows());
        anyhow::Ok(server.global().clone())
    };
    serve(&attached, folder.path(), 1).unwrap();
    assert_eq!(serve(&attached, folder.path(), 3).unwrap(), *expected.global());
    // Another server's keys are refused until the board has forgotten its own and was reset.
    let other = tempfile::tempdir().unwrap();
    let refused = format!("{:#}", serve(&attached, other.path(), 1).unwrap_err());
    assert!(refused.contains("device 0") && refused.contains("`niwaki forget`"), "{refused}");
    for board_at_port in &attached {
        Device::forget(board, &board_at_port.port).unwrap();
    }
    let refused = format!("{:#}", serve(&attached, folder.path(), 4).unwrap_err());
    assert!(refused.contains("reset it to use it again"), "{refused}");
    // Boards that have lost their keys get new ones, which were never used.
    let keys = || std::fs::read(folder.path().join("keys.json")).unwrap();
    let before = keys();
    attached = start();
    serve(&attached, folder.path(), 5).unwrap();
    assert_ne!(keys(), before);
    std::fs::remove_file(folder.path().join("server.json")).unwrap();
    let refused = format!("{:#}", serve(&attached, folder.path(), 1).unwrap_err());
    assert!(refused.contains("not the state of the server"), "{refused}");
}

#[test]
fn a_server_that_is_killed_goes_on() {
    const PLENTY: usize = 1_000_000;
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (samples, parties) = (samples(&model, 4, 15), parties(5, 3));
    let settings = Settings { sampled: 3, ..settings(Method::Contrastive) };
    // The server ends, as by a kill, with some packet.
    let left = AtomicUsize::new(PLENTY);
    let before = |_, _| {
        assert!(left.fetch_sub(1, Ordering::Relaxed) > 1, "killed");
        Ok(())
    };
    let simulation = Simulation::new(&model, &samples, &parties, 7, None).unwrap();
    let whole = Watched { fleet: &simulation, before: &before };
    let mut server = Server::open(&model, settings, None).unwrap();
    let (mut globals, mut packets) = (vec![], vec![]);
    for round in 1..=3 {
        rounds(&mut server, &whole, round);
        globals.push(server.global().clone());
        packets.push(PLENTY - left.load(Ordering::Relaxed));
    }
    let [begin, end] = [packets[0] + 1, packets[1]];
    let (mut repeated, mut kept) = (0, 0);
    for kill_at in (begin..=end).step_by(5).chain(end - 3..=end) {
        let folder = tempfile::tempdir().unwrap();
        let open = || Server::open(&model, settings, Some(folder.path())).unwrap();
        let devices = folder.path().join("devices");
        let simulation =
            || Simulation::new(&model, &samples, &parties, 7, Some(devices.as_path())).unwrap();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            let simulation = simulation();
            left.store(kill_at, Ordering::Relaxed);
            let fleet = Watched { fleet: &simulation, before: &before };
            rounds(&mut open(), &fleet, 2);
        }));
        assert!(killed.is_err(), "{kill_at}");
        // All that is left is on disk.
        let simulation = simulation();
        let mut server = open();
        match server.round() {
            1 => {
                assert_eq!(server.global(), &globals[0]);
                rounds(&mut server, &simulation, 3);
                assert_eq!(server.global(), &globals[2], "{kill_at}");
                repeated += 1;
            }
            2 => {
                // Stored, but not every device knows; those abandon the round.
                assert_eq!(server.global(), &globals[1]);
                rounds(&mut server, &simulation, 3);
                assert_eq!(server.rows()[2].finished, 3, "{:?}", server.rows());
                kept += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(repeated > 10 && kept > 0, "{repeated} {kept}");
    // Other settings do not go on with this state.
    let folder = tempfile::tempdir().unwrap();
    rounds(&mut Server::open(&model, settings, Some(folder.path())).unwrap(), &simulation, 1);
    let other = Settings { seed: 6, ..settings };
    let error = Server::open(&model, other, Some(folder.path())).err().unwrap().to_string();
    assert!(error.contains("other settings"), "{error}");
}

#[test]
fn devices_that_fail_are_noted_and_the_others_go_on() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (samples, parties) = (samples(&model, 5, 40), parties(20, 2));
    let failures = Failures { drop_out: 0.2, stragglers: 0.2, label_flip: 0.0 };
    let simulation = |failures| {
        let simulation = Simulation::new(&model, &samples, &parties, 3, None).unwrap();
        simulation.with_failures(failures)
    };
    let mut server = Server::open(&model, settings(Method::FedAvg), None).unwrap();
    let fleet = simulation(failures);
    rounds(&mut server, &fleet, 4);
    let reasons: Vec<&str> = server
        .rows()
        .iter()
        .flat_map(|row| row.dropped.iter().map(|failed| failed.reason.as_str()))
        .collect();
    let count = |text: &str| reasons.iter().filter(|reason| reason.contains(text)).count();
    let (vanished, late) = (count("vanished"), count("no update within 600 s"));
    assert!(vanished > 5 && late > 5 && vanished + late == reasons.len(), "{reasons:?}");
    assert!(server.rows().iter().all(|row| row.aggregated
        && row.finished + row.dropped.len() == row.offered
        && row.unacknowledged.is_empty()));

    // A round without enough updates changes nothing, and the devices return to where they were.
    let folder = tempfile::tempdir().unwrap();
    let kept = |failures| {
        let folder = Some(folder.path());
        let simulation = Simulation::new(&model, &samples, &parties, 3, folder).unwrap();
        simulation.with_failures(failures)
    };
    let strict = Settings { minimum: 20, ..settings(Method::FedAvg) };
    let mut server = Server::open(&model, strict, None).unwrap();
    rounds(&mut server, &kept(failures), 1);
    assert!(!server.rows()[0].aggregated && server.rows()[0].finished > 0);
    assert_eq!(server.global(), &Global::new(&Plan::new(&model).unwrap()));
    rounds(&mut server, &kept(Failures::default()), 2);
    assert!(server.rows()[1].aggregated, "{:?}", server.rows());
}

#[test]
fn every_method_learns() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (train, parties, test) = (samples(&model, 6, 120), parties(6, 20), samples(&model, 7, 200));
    let of = |global: &Global| accuracy(&model, &global.parameters(), &test).unwrap();
    let before = of(&Global::new(&Plan::new(&model).unwrap()));
    let mut checksums = vec![];
    for method in [Method::FedAvg, Method::FedProx, Method::Contrastive, Method::Moon] {
        let mut fleet = Simulation::new(&model, &train, &parties, 7, None).unwrap();
        if method == Method::Moon {
            fleet = fleet.with_moon(Moon { weight: 0.5, temperature: 0.5 });
        }
        let mut server = Server::open(&model, settings(method), None).unwrap();
        rounds(&mut server, &fleet, 8);
        let after = of(server.global());
        eprintln!("{method:?}: {before} {after}");
        assert!(after > before + 0.3, "{method:?}: {before} {after}");
        // Prototypes are there from the second round on.
        let losses: Vec<f64> = server.rows().iter().filter_map(|row| row.loss).collect();
        assert!(losses[7] < losses[1] || method == Method::Moon, "{method:?} {losses:?}");
        checksums.push(server.global().checksum());
    }
    checksums.sort_unstable();
    checksums.dedup();
    assert_eq!(checksums.len(), 4, "every method is another");
}

#[test]
fn wrong_labels_cost_little_with_a_trimmed_mean() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let (honest, parties, test) =
        (samples(&model, 8, 300), parties(15, 20), samples(&model, 9, 500));
    let mut attacked = honest.clone();
    // Three of fifteen devices.
    for label in &mut attacked.labels[..60] {
        *label = CLASSES - 1 - *label;
    }
    let run = |samples: &Samples, aggregation: Aggregation| {
        let fleet = Simulation::new(&model, samples, &parties, 7, None).unwrap();
        let settings = Settings { aggregation, ..settings(Method::FedAvg) };
        let mut server = Server::open(&model, settings, None).unwrap();
        rounds(&mut server, &fleet, 12);
        accuracy(&model, &server.global().parameters(), &test).unwrap()
    };
    let clean = run(&honest, Aggregation::FedAvg);
    let robust = run(&attacked, Aggregation::TrimmedMean(0.2));
    let plain = run(&attacked, Aggregation::FedAvg);
    eprintln!("clean {clean}, attacked: trimmed {robust}, plain {plain}");
    assert!(clean > 0.8, "{clean}");
    assert!(robust > clean - 0.02, "{clean} {robust}");
}

/// A device that answers as it pleases.
struct Hostile<'a> {
    channel: Channel,
    plan: &'a Plan<'a>,
    lie: &'a Lie,
    round: u32,
}

/// What a hostile device says in place of an honest update.
enum Lie {
    Update(fn(&mut Update)),
    Counts(u32),
    /// 2^32 samples: more than the message has room for.
    TooManyToEncode,
}

impl Party for Hostile<'_> {
    fn ask(&mut self, packet: &[u8]) -> Result<Vec<u8>, PartyError> {
        let mut text = [0; MAX_PACKET];
        let (command, answers) = self.channel.open::<Command<'_>>(packet, &mut text).unwrap();
        let plan = self.plan;
        let (model, classes) = (plan.model().id(), plan.class_count());
        let mut update = Update {
            model,
            round: self.round,
            samples: 10,
            loss: 1.0,
            weight_scales: [1; 8],
            bias_scales: [1; 8],
        };
        let mut bytes = [127; PART];
        let reply = match command {
            Command::Enrol => Reply::Enrolled(Enrolment {
                model,
                weights: plan.weight_count() as u32,
                biases: plan.channel_count() as u32,
                classes: classes as u16,
                features: plan.feature_count() as u32,
                finished: 0,
            }),
            Command::Offer(offer) => {
                self.round = offer.round;
                Reply::Accepted { round: offer.round }
            }
            Command::Global { part, offset, bytes } => {
                Reply::Received { part, next: offset + bytes.len() as u32 }
            }
            Command::Learn { .. } | Command::Status => {
                if let Lie::TooManyToEncode = self.lie {
                    // As postcard encodes an answer whose fourth kind of reply is the fourth status.
                    let wide = (
                        answers,
                        3u32,
                        3u32,
                        model,
                        self.round,
                        1u64 << 32,
                        1.0f32,
                        [1u16; 8],
                        [1u32; 8],
                    );
                    let mut buffer = [0; MAX_PACKET];
                    return Ok(self.channel.seal(&wide, &mut buffer).unwrap().0.to_vec());
                }
                if let Lie::Update(change) = self.lie {
                    change(&mut update);
                }
                Reply::Status(Status::Ready(update))
            }
            Command::Fetch { part, offset, len, .. } => {
                if part == Part::Counts {
                    let count = if let Lie::Counts(count) = *self.lie { count } else { 1 };
                    for slot in bytes.chunks_mut(4) {
                        slot.copy_from_slice(&count.to_le_bytes());
                    }
                }
                Reply::Part { part, offset, bytes: &bytes[..len.into()] }
            }
            Command::Acknowledge { .. } | Command::Abort { .. } => {
                Reply::Status(Status::Idle { finished: 0 })
            }
        };
        let mut buffer = [0; MAX_PACKET];
        Ok(self.channel.seal(&Answer { answers, reply }, &mut buffer).unwrap().0.to_vec())
    }

    fn work(&mut self) -> Result<Duration, PartyError> {
        Ok(Duration::ZERO)
    }
}

/// Honest devices and, as the last, a hostile one.
struct Infiltrated<'a> {
    honest: &'a Simulation<'a>,
    plan: &'a Plan<'a>,
    lie: &'a Lie,
}

impl Fleet for Infiltrated<'_> {
    fn len(&self) -> usize {
        self.honest.len() + 1
    }

    fn key(&self, client: u32) -> [u8; 32] {
        self.honest.key(client)
    }

    fn assemble(&self, round: u32, clients: &[u32], visit: &mut Visit<'_>) -> anyhow::Result<()> {
        let (&last, honest) = clients.split_last().unwrap();
        let mut channel = Channel::new(&self.key(last), Side::Device, Counters::default(), 1);
        channel.reserved(Counters { send: u64::MAX, receive: u64::MAX });
        let (plan, lie) = (self.plan, self.lie);
        let mut hostile = Hostile { channel, plan, lie, round: 0 };
        self.honest.assemble(round, honest, &mut |parties| {
            let always = |_, _| Ok(());
            let mut all: Vec<Box<dyn Party + '_>> = Vec::new();
            for party in parties {
                all.push(Box::new(WatchedParty {
                    party: &mut **party,
                    round,
                    packets: 0,
                    before: &always,
                }));
            }
            all.push(Box::new(WatchedParty {
                party: &mut hostile,
                round,
                packets: 0,
                before: &always,
            }));
            visit(&mut all)
        })
    }
}

#[test]
fn hostile_updates_are_refused_by_name_and_change_nothing() {
    let blob = blob();
    let model = Model::new(blob.as_bytes()).unwrap();
    let plan = Plan::new(&model).unwrap();
    let (samples, parties) = (samples(&model, 10, 30), parties(3, 10));
    let mut settings = settings(Method::Contrastive);
    settings.offer.clip = 50.0;
    let honest = || Simulation::new(&model, &samples, &parties, 7, None).unwrap();
    let mut alone = Server::open(&model, settings, None).unwrap();
    rounds(&mut alone, &honest(), 1);
    let lies = [
        (Lie::Update(|update| update.loss = f32::NAN), "loss is no number"),
        (Lie::Update(|update| update.loss = f32::NEG_INFINITY), "loss is no number"),
        (
            Lie::Update(|update| update.samples = u32::MAX),
            "counts 4294967295 samples: expected 1 to 1000",
        ),
        (Lie::Update(|update| update.samples = 0), "counts 0 samples"),
        (Lie::TooManyToEncode, "no message of the expected kind"),
        (Lie::Update(|update| update.weight_scales = [u16::MAX; 8]), "norm of the update"),
        (Lie::Update(|update| update.bias_scales = [u32::MAX; 8]), "norm of the update"),
        (Lie::Update(|update| update.weight_scales[0] = 0), "scale of the update is zero"),
        (Lie::Update(|update| update.model = *b"stranger"), "another model: 737472616e676572"),
        (Lie::Update(|update| update.round = 77), "another round: 77"),
        (Lie::Counts(u32::MAX), "classes count 42949672950 samples, the update 10"),
        (Lie::Counts(0), "classes count 0 samples"),
    ];
    for (lie, reason) in &lies {
        let simulation = honest();
        let fleet = Infiltrated { honest: &simulation, plan: &plan, lie };
        let mut server = Server::open(&model, settings, None).unwrap();
        rounds(&mut server, &fleet, 1);
        let row = &server.rows()[0];
        assert_eq!((row.offered, row.finished, row.dropped.len()), (4, 3, 1), "{reason}: {row:?}");
        assert_eq!(row.dropped[0].client, 3);
        assert!(row.dropped[0].reason.contains(reason), "{reason}: {row:?}");
        assert_eq!(server.global(), alone.global(), "{reason}");
    }
}
