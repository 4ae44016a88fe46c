//! Emulated boards give the host's bytes, and say what went wrong when something does.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use niwaki::data::{LoadOptions, Split, load};
use niwaki::export::{AlignedVec, KernelChoice, quantised_inputs, read_model, run_all, write_with};
use niwaki::target::calibrate::random_layer;
use niwaki::target::cost::Core;
use niwaki::target::{
    Board, Device, Engine, Firmware, Samples, Target, TargetError, Timing, bench, stack_bound,
    trace, validate,
};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_tests::boards::{board, emulated};
use niwaki_tests::networks;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn m4() -> (Board, Firmware) {
    board("qemu-cortex-m4").clone()
}

#[test]
fn every_board_gives_the_bytes_of_the_host() {
    let blob = networks::residual(1);
    let model = Model::new(blob.as_bytes()).unwrap();
    let inputs = networks::inputs(2, 20, model.input().len());
    let samples = Samples { inputs: &inputs, labels: None, golden: None, clips: None };
    for (board, firmware) in emulated().iter().cloned() {
        let device = Device::start(&board, &firmware, &model).unwrap();
        let about = device.about();
        assert_eq!((&about.board, &about.core), (&board.name, &board.about.core));
        assert!(Core::from_name(&about.core).is_some(), "{} has no cost model", about.core);
        let target = Target::Board(board);
        let found = validate(&target, Some(&firmware), &model, samples, &|| {}).unwrap();
        assert_eq!((found.samples, found.mismatched_bytes), (20, 0), "{target}");
        assert_eq!(found.layers.len(), model.op_count());
        let sum: u64 = found.layers.iter().filter_map(|layer| layer.instructions).sum();
        let whole = found.instructions_per_inference.unwrap();
        assert!(sum.abs_diff(whole) < whole / 50, "{target}: layers {sum}, whole {whole}");
        let stack = found.stack_bytes.unwrap();
        assert!((64..8192).contains(&stack), "{found:?}");
        let elf = std::fs::read(&firmware.elf).unwrap();
        if let Some(bound) = stack_bound(&elf, "timed_inference").unwrap() {
            // An interrupt stores up to 26 words, aligned to two, and calls its handler.
            let interrupt = 4 * 28 + stack_bound(&elf, "SysTick").unwrap().unwrap();
            assert!(u64::from(stack) <= bound + interrupt, "{target}: {stack} of {bound}");
        }
        assert!(
            found.code_bytes.is_some_and(|bytes| (4096..262_144).contains(&bytes)),
            "{found:?}"
        );
    }
}

/// A sparse model of the digits, on pictures that it was not trained on.
#[test]
fn a_trained_model_recognises_digits_on_every_board() {
    const SAMPLES: usize = 40;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let blob = read_model(&root.join("firmware/examples/bare/src/model/model.niwaki")).unwrap();
    let model = Model::new(blob.as_bytes()).unwrap();
    let data = load("digits", &LoadOptions::default()).unwrap();
    let indices = &data.indices(Split::Test)[..SAMPLES];
    let inputs = quantised_inputs(&model, &data, indices).unwrap();
    let inputs: Vec<Vec<i8>> = inputs.chunks(model.input().len()).map(<[i8]>::to_vec).collect();
    let labels: Vec<usize> = indices.iter().map(|&index| data.labels[index] as usize).collect();
    let samples = Samples { inputs: &inputs, labels: Some(&labels), golden: None, clips: None };
    for (board, firmware) in emulated().iter().cloned() {
        let target = Target::Board(board);
        let found = validate(&target, Some(&firmware), &model, samples, &|| {}).unwrap();
        assert_eq!((found.samples, found.mismatched_bytes), (SAMPLES, 0), "{target}");
        assert!(found.accuracy_target.is_some_and(|share| share > 0.9), "{target}: {found:?}");
        let count = found.instructions_per_inference.unwrap();
        assert!((50_000..1_000_000).contains(&count), "{target}: {count} instructions");
    }
}

#[test]
fn counts_are_exact_from_run_to_run() {
    let blob = networks::residual(3);
    let model = Model::new(blob.as_bytes()).unwrap();
    let input = &networks::inputs(4, 1, model.input().len())[0];
    let (board, firmware) = m4();
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut device = Device::start(&board, &firmware, &model).unwrap();
        for _ in 0..3 {
            counts.push(device.run(input).unwrap().count);
        }
    }
    // The counter goes in steps of 40, and a run does not begin on a step.
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 80, "{counts:?}");
}

/// The log of executed blocks holds the instructions that the board counts, and their classes.
#[test]
fn traced_instructions_are_the_counted() {
    let blob = networks::residual(3);
    let model = Model::new(blob.as_bytes()).unwrap();
    let input = &networks::inputs(4, 1, model.input().len())[0];
    // The log of this emulated core repeats blocks, which `trace` notices and refuses in longer runs.
    for (board, firmware) in emulated().iter().filter(|(board, _)| board.about.core != "cortex-m55")
    {
        let counts = Device::start(board, firmware, &model).unwrap().profile(input).unwrap();
        let mixes = trace(board, firmware, &model, input).unwrap();
        assert_eq!(mixes.len(), counts.len());
        let timing = Timing::of(&board.about.core).unwrap();
        for (index, (mix, count)) in mixes.iter().zip(counts).enumerate() {
            let name = model.op_name(index);
            // One reading of the counter, and the steps of it, of at most 63 instructions. A block that the
            // emulator begins anew is in the log twice.
            let least = (count - count / 100).saturating_sub(160);
            let most = count + count / 500 + 63;
            assert!(
                (least..=most).contains(&mix.instructions),
                "{}, {name}: {count}, {mix:?}",
                board.name
            );
            assert!(mix.loads_pipelined <= mix.loads && mix.branches_taken <= mix.branches);
            // Every value is read and written by something.
            let words = mix.loads + mix.stores + mix.multiple_words;
            assert!(words > 0 && words < mix.instructions * 2, "{name}: {mix:?}");
            let cycles = timing.cycles(mix) / mix.instructions as f64;
            assert!((0.5..3.0).contains(&cycles), "{name}: {cycles} cycles, {mix:?}");
        }
    }
}

#[test]
fn a_wrong_input_is_refused_and_the_device_lives_on() {
    let blob = networks::residual(5);
    let model = Model::new(blob.as_bytes()).unwrap();
    let (board, firmware) = m4();
    let mut device = Device::start(&board, &firmware, &model).unwrap();
    let long = vec![0; model.input().len() + 1];
    let error = device.run(&long).unwrap_err().to_string();
    assert!(error.contains("784 values"), "{error}");
    let input = &networks::inputs(6, 1, model.input().len())[0];
    assert_eq!(device.run(input).unwrap().output.len(), 10);
    assert!(!device.log().is_empty(), "the agent logs the model that it runs");
}

#[test]
fn a_missing_emulator_names_its_package() {
    let blob = networks::residual(7);
    let model = Model::new(blob.as_bytes()).unwrap();
    let (mut board, firmware) = m4();
    board.about.emulator = Some(vec!["qemu-system-arm-of-nowhere".into()]);
    let error = Device::start(&board, &firmware, &model).unwrap_err();
    assert!(matches!(error, TargetError::NoEmulator { .. }));
    assert!(error.to_string().contains("apt-get install"), "{error}");
}

#[test]
fn an_emulator_that_ends_shows_what_it_printed() {
    let blob = networks::residual(8);
    let model = Model::new(blob.as_bytes()).unwrap();
    let (mut board, firmware) = m4();
    if let Some(machine) = board.about.emulator.as_mut().and_then(|command| command.last_mut()) {
        *machine = "no-such-machine".into();
    }
    let error = Device::start(&board, &firmware, &model).unwrap_err().to_string();
    assert!(error.contains("emulator ended") && error.contains("unsupported machine"), "{error}");
}

#[test]
fn an_unknown_target_lists_the_known() {
    let error = Target::find("qemu-abacus").unwrap_err().to_string();
    assert!(error.contains("qemu-cortex-m4") && error.contains("host"), "{error}");
}

#[test]
fn inputs_go_over_the_line_fast() {
    let blob = networks::classifier(9);
    let model = Model::new(blob.as_bytes()).unwrap();
    let (board, firmware) = m4();
    let mut device = Device::start(&board, &firmware, &model).unwrap();
    let start = std::time::Instant::now();
    for input in networks::inputs(10, 50, model.input().len()) {
        device.run(&input).unwrap();
    }
    // 2 s, and more where other work takes the processors; a wait for every byte would take minutes.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// Every kernel on random layers: the boards' kernels, assembly included, against this computer's.
#[test]
fn every_kernel_gives_the_same_bytes_on_every_board() {
    // Not all at once: an emulator that waits for its host takes a whole processor.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some((board, firmware)) = emulated().get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.extend(layers_that_differ(board, firmware));
        }
        wrong
    };
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            wrong.extend(thread.join().unwrap());
        }
    });
    assert!(wrong.is_empty(), "{} layers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Random layers that have room on the board and give other bytes there than on this computer.
fn layers_that_differ(board: &Board, firmware: &Firmware) -> Vec<String> {
    // The optimised kernels are developed on this core; the others execute the same or portable ones.
    let layers_per_kernel = if board.about.core == "cortex-m4" { 6 } else { 2 };
    let mut random = Pcg64::seed_from_u64(7);
    let mut wrong = Vec::new();
    for &kernel in KernelId::ALL {
        for layer in 0..layers_per_kernel {
            let blob = layer_with_room(kernel, firmware, &mut random);
            let model = Model::new(blob.as_bytes()).unwrap();
            let input: Vec<i8> = (0..model.input().len()).map(|_| random.random()).collect();
            let expected = run_all(blob.as_bytes(), &input).unwrap();
            let mut device = Device::start(board, firmware, &model).unwrap();
            if device.run(&input).unwrap().output != expected {
                let op = model.op(model.op_count() - 1).unwrap();
                wrong.push(format!("{}, {} layer {layer}: {op:.0?}", board.name, kernel.name()));
            }
        }
    }
    wrong
}

/// The first of some random layers that `kernel` executes and that has room on the board of `firmware`.
fn layer_with_room(kernel: KernelId, firmware: &Firmware, random: &mut Pcg64) -> AlignedVec {
    loop {
        let graph = random_layer(kernel, random);
        let exported = write_with(&graph, KernelChoice::Only(kernel)).unwrap();
        let blob = AlignedVec::new(&exported.bytes);
        let model = Model::new(blob.as_bytes()).unwrap();
        if firmware.has_room(&model) && model.kernel(model.op_count() - 1) == Some(kernel) {
            return blob;
        }
    }
}

#[test]
fn a_model_without_room_on_a_board_is_refused_with_the_sizes() {
    let blob = networks::wide(11);
    let model = Model::new(blob.as_bytes()).unwrap();
    let (board, firmware) = board("qemu-cortex-m0");
    assert!(!firmware.has_room(&model));
    let error = Device::start(board, firmware, &model).unwrap_err().to_string();
    let needed = format!("needs {} bytes of arena", model.arena_len());
    assert!(error.contains(&needed) && error.contains("microbit"), "{error}");
}

#[test]
fn an_engine_takes_less_than_the_agent_and_less_with_fewer_kernels() {
    let blob = networks::classifier(5);
    let model = Model::new(blob.as_bytes()).unwrap();
    let inputs = networks::inputs(6, 2, model.input().len());
    for (board, firmware) in emulated() {
        let silent = |_: &str| {};
        let linear = KernelId::LinearPacked.bit();
        let least = Engine::measure(board, linear, &silent).unwrap();
        assert!((2048..12 * 1024).contains(&least.bytes()), "{}: {least:?}", board.name);
        let arm = board.about.core.starts_with("cortex");
        assert_eq!(least.stack_bound.is_some_and(|bound| bound > 64), arm, "{}", board.name);
        let engine = Engine::measure(board, model.kernels() | linear, &silent).unwrap();
        let found = bench(board, firmware, engine, &model, &inputs, true).unwrap();
        assert!(least.bytes() < found.code_bytes && found.code_bytes < firmware.code_bytes);
        assert_eq!(found.layers.len(), model.op_count());
        let sum: u64 = found.layers.iter().map(|layer| layer.instructions).sum();
        let whole = found.instructions_per_inference;
        assert!(sum.abs_diff(whole) < whole / 20 + 400, "{}: {sum} {whole}", board.name);
        let timed = Timing::of(&board.about.core).is_some();
        let cycles = found.cycles_estimated.unwrap_or_default();
        assert_eq!(cycles > 0.5 * whole as f64, timed, "{}: {cycles}", board.name);
    }
}
