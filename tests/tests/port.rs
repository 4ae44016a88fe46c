//! A board at a serial port: an emulated one, whose line is a pseudo-terminal.
#![cfg(unix)]

use std::fs::OpenOptions;
use std::io::Write;

use niwaki::export::run_all;
use niwaki::target::{Device, Engine, Samples, Target, TargetError, bench_attached, validate};
use niwaki_core::Model;
use niwaki_core::link::{CHUNK, MAX_FRAME, Request, encode};
use niwaki_tests::attached::Attached;
use niwaki_tests::boards::{board, emulated};
use niwaki_tests::networks;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

#[test]
fn a_board_at_a_port_is_validated_and_measured() {
    let (board, firmware) = board("qemu-cortex-m4");
    assert_eq!(firmware.kernels, Some(niwaki_core::ALL_KERNELS));
    let blob = networks::residual(1);
    let model = Model::new(blob.as_bytes()).unwrap();
    let inputs = networks::inputs(2, 2, model.input().len());
    let attached = Attached::start(board, firmware, model.as_bytes());
    let port = attached.port.as_str();

    let target = Target::Board(board.clone()).at(Some(port)).unwrap();
    let samples = Samples { inputs: &inputs, labels: None, golden: None, clips: None };
    // Twice: the second conversation finds the line as the first left it.
    for _ in 0..2 {
        let found = validate(&target, None, &model, samples, &|| {}).unwrap();
        assert_eq!((found.samples, found.mismatched_bytes), (2, 0));
        assert_eq!((found.unit, found.code_bytes), (Some("instructions"), None));
    }
    let engine = Engine { text: 1, constants: 2, stack_bound: None };
    let found = bench_attached(board, port, engine, &model, &inputs[..1]).unwrap();
    assert_eq!((found.layers.len(), found.unit), (model.op_count(), "instructions"));

    let other = networks::residual(9);
    let other = Model::new(other.as_bytes()).unwrap();
    let error = Device::connect(board, port, &other).unwrap_err();
    assert!(matches!(error, TargetError::OtherModel { .. }), "{error}");
    let Target::Board(pico) = Target::find("pico").unwrap() else { panic!() };
    let error = Device::connect(&pico, port, &model).unwrap_err().to_string();
    assert!(error.contains("is mps2-an386, expected pico"), "{error}");
}

/// Flips, drops, repeats and moves bytes of good frames, and puts noise between them.
fn hostile_bytes(random: &mut Pcg64, input: &[i8]) -> Vec<u8> {
    let part = &input[..input.len().min(CHUNK)];
    let part: Vec<u8> = part.iter().map(|&x| x as u8).collect();
    let requests = [
        Request::Version,
        Request::Info,
        Request::Load { offset: 0, bytes: &part },
        Request::Load { offset: u32::MAX, bytes: &part },
        Request::Run,
        Request::ReadOutput { offset: 0, len: u32::MAX },
        Request::ReadInput { offset: 1 << 31, len: 7 },
        Request::Federated(&part),
        Request::Learn { label: u16::MAX },
        Request::ReadLearned { offset: u32::MAX, len: 1 },
    ];
    let mut bytes = Vec::new();
    for _ in 0..12 {
        let request = &requests[random.random_range(0..requests.len())];
        let mut buffer = [0; MAX_FRAME];
        let mut frame = encode(random.random(), request, &mut buffer).unwrap().to_vec();
        let at = random.random_range(0..frame.len());
        match random.random_range(0..7) {
            0 => frame[at] ^= 1 << random.random_range(0..8),
            1 => frame.truncate(at),
            2 => drop(frame.remove(at)),
            3 => frame.insert(at, frame[at]),
            4 => frame.extend_from_within(..),
            5 => frame.rotate_left(at),
            _ => frame.extend((0..random.random_range(0..2000)).map(|_| random.random::<u8>())),
        }
        bytes.extend(frame);
    }
    bytes
}

/// Every board answers a good host after a bad line as if nothing had been.
#[test]
fn a_hostile_line_harms_no_board() {
    let blob = networks::residual(1);
    let model = Model::new(blob.as_bytes()).unwrap();
    let inputs = networks::inputs(2, 3, model.input().len());
    let expected = run_all(blob.as_bytes(), &inputs.concat()).unwrap();
    let expected: Vec<_> = expected.chunks(model.output().len()).collect();
    for (board, firmware) in emulated() {
        let attached = Attached::start(board, firmware, model.as_bytes());
        let mut random = Pcg64::seed_from_u64(3);
        for (input, expected) in inputs.iter().zip(&expected) {
            // The first conversation also makes the terminal pass bytes on as they are.
            let mut device = Device::connect(board, &attached.port, &model).unwrap();
            assert_eq!(&device.run(input).unwrap().output, *expected, "{}", board.name);
            drop(device);
            let mut line = OpenOptions::new().write(true).open(&attached.port).unwrap();
            line.write_all(&hostile_bytes(&mut random, input)).unwrap();
        }
        let mut device = Device::connect(board, &attached.port, &model).unwrap();
        assert_eq!(&device.run(&inputs[0]).unwrap().output, expected[0], "{}", board.name);
    }
}

#[test]
fn ports_are_needed_and_named() {
    let find = |name| Target::find(name).unwrap();
    let error = find("nrf52840-dk").at(None).unwrap_err().to_string();
    assert!(error.contains("niwaki flash MODEL --board nrf52840-dk"), "{error}");
    let error = find("host").at(Some("/dev/ttyACM0")).unwrap_err().to_string();
    assert!(error.contains("`host` is this computer"), "{error}");
    let Target::Board(pico) = find("pico") else { panic!() };
    let blob = networks::residual(1);
    let model = Model::new(blob.as_bytes()).unwrap();
    let error = Device::connect(&pico, "/dev/ttyNOWHERE", &model).unwrap_err().to_string();
    assert!(error.contains("opening /dev/ttyNOWHERE (there are: "), "{error}");
}
