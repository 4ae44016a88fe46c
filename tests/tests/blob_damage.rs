//! Damaged blobs: refused by `Model::new`, or they run to the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use niwaki::export::{AlignedVec, KernelChoice, write_with};
use niwaki::target::cost::Core;
use niwaki_core::kernels::KernelId;
use niwaki_core::model::layout::{CHECKSUM_START, Header, OptionalSections};
use niwaki_core::model::{FrontEndProblem, Section, checksum};
use niwaki_core::{ALL_KERNELS, Model, ModelError, Session};
use niwaki_tests::networks;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Larger arenas than this are not tried: damage can ask for 4 GiB.
const ARENA_MAX: usize = 1 << 20;

/// Blobs that hold every operator and every way of executing one.
fn blobs() -> Vec<Vec<u8>> {
    let cheapest = KernelChoice::Cheapest(Core::CortexM4);
    let variants = [
        ("windows", cheapest),
        ("windows", KernelChoice::Only(KernelId::ConvSparse)),
        ("windows", KernelChoice::Only(KernelId::ConvBlock4)),
        ("windows", KernelChoice::Only(KernelId::ConvDense)),
        ("wide", KernelChoice::Only(KernelId::ConvDense)),
        ("wide", KernelChoice::Only(KernelId::ConvPacked)),
        ("depthwises", cheapest),
        ("pools", cheapest),
        ("residual", cheapest),
        ("squeeze_excite", cheapest),
        ("attention", cheapest),
        ("constants", cheapest),
        ("blocks", cheapest),
        ("perceptron", cheapest),
        ("perceptron", KernelChoice::Only(KernelId::LinearSparse)),
        ("perceptron", KernelChoice::Only(KernelId::LinearBlock2)),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let blob = |(name, choice): (&str, KernelChoice)| {
        let bytes = std::fs::read(folder.join(format!("{name}.tflite"))).unwrap();
        let graph = niwaki::import::tflite(&bytes, name).unwrap();
        write_with(&graph, choice).unwrap().bytes
    };
    let others = [networks::keywords(1, networks::FRONT_END), networks::unusual(1)];
    let others = others.map(|blob| blob.as_bytes().to_vec());
    variants.map(blob).into_iter().chain(others).collect()
}

/// Runs the model if the bytes are one. The inference of a model must succeed.
fn run(bytes: &[u8]) -> bool {
    let blob = AlignedVec::new(bytes);
    let Ok(model) = Model::new(blob.as_bytes()) else { return false };
    if model.arena_len() > ARENA_MAX {
        return true;
    }
    let mut arena = AlignedVec::zeroed(model.arena_len());
    let mut session = Session::new(model, arena.as_arena()).unwrap();
    let input = vec![77; model.input().len()];
    session.run(&input).unwrap();
    assert!((0..model.op_count()).all(|index| model.op_name(index).len() < bytes.len()));
    true
}

/// As [`run`], and says which bytes did it when that panics.
fn run_damaged(bytes: &[u8], damage: &str) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(bytes))).unwrap_or_else(|_| panic!("{damage}"))
}

/// Makes the checksum right.
fn repair(blob: &mut [u8]) {
    let repaired = checksum(blob).to_le_bytes();
    blob[CHECKSUM_START - repaired.len()..CHECKSUM_START].copy_from_slice(&repaired);
}

#[test]
fn truncations_are_refused() {
    for blob in blobs() {
        assert!(run(&blob));
        for len in 0..blob.len() {
            assert!(!run_damaged(&blob[..len], "cut"), "cut to {len} of {}", blob.len());
        }
    }
}

#[test]
fn changed_bytes_are_refused_or_run() {
    const FLIPS: usize = 100_000;
    let blobs = blobs();
    let mut random = Pcg64::seed_from_u64(2);
    let mut ran = 0;
    for flip in 0..FLIPS {
        let index = flip % blobs.len();
        let mut blob = blobs[index].clone();
        // Tables stand in front: they get half of the damage.
        let end = if random.random() { blob.len() } else { blob.len().min(1024) };
        let at = random.random_range(0..end);
        let old = blob[at];
        blob[at] =
            if random.random() { random.random() } else { old ^ (1 << random.random_range(0..8)) };
        let damage = format!("blob {index}, byte {at}: {old} to {}", blob[at]);
        if (flip / blobs.len()).is_multiple_of(2) {
            assert!(blob[at] == old || !run_damaged(&blob, &damage), "{damage}: not noticed");
            continue;
        }
        repair(&mut blob);
        ran += usize::from(run_damaged(&blob, &damage));
    }
    assert!(ran > FLIPS / 10, "{ran} damaged blobs were still models");
}

#[test]
fn a_damaged_front_end_is_named() {
    const SPAN: usize = size_of::<Header>();
    let good = networks::keywords(1, networks::FRONT_END).as_bytes().to_vec();
    let error = |change: &dyn Fn(&mut [u8])| {
        let mut blob = good.clone();
        change(&mut blob);
        repair(&mut blob);
        Model::new(AlignedVec::new(&blob).as_bytes()).map(|model| model.front_end().copied())
    };
    assert_eq!(error(&|_| {}), Ok(Some(networks::FRONT_END)));
    let record = u32::from_le_bytes(good[SPAN..SPAN + 4].try_into().unwrap()) as usize;
    let set = |at: usize, value: u16| {
        move |blob: &mut [u8]| blob[at..at + 2].copy_from_slice(&value.to_le_bytes())
    };
    let named = |problem| Err(ModelError::FrontEnd(problem));
    let window = networks::FRONT_END.window;
    // Kind, hop and samples of the record; then the record's span, and the header's length.
    assert_eq!(error(&set(record, 7)), named(FrontEndProblem::Kind(7)));
    assert_eq!(error(&set(record + 14, 0)), named(FrontEndProblem::Hop { hop: 0, window }));
    assert_eq!(error(&set(record + 8, 15_000)), named(FrontEndProblem::Shape));
    assert_eq!(error(&set(SPAN + 4, 23)), named(FrontEndProblem::Size));
    assert_eq!(error(&set(SPAN + 2, 99)), Err(ModelError::Section(Section::FrontEnd)));
    let len = (SPAN + size_of::<OptionalSections>()) as u16;
    assert_eq!(error(&set(10, len + 8)), Err(ModelError::Section(Section::Header)));
    assert_eq!(error(&set(10, len - 4)), Err(ModelError::Section(Section::Header)));
    // Without its span the section is not there.
    assert_eq!(error(&set(SPAN + 4, 0)), Ok(None));
    assert_eq!(error(&set(10, SPAN as u16)), Ok(None));
}

#[test]
fn models_that_need_kernels_left_out_are_refused() {
    const NEEDED: KernelId = KernelId::LinearSparse;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceptron.tflite");
    let graph = niwaki::import::tflite(&std::fs::read(path).unwrap(), "perceptron").unwrap();
    let blob = AlignedVec::new(&write_with(&graph, KernelChoice::Only(NEEDED)).unwrap().bytes);

    let refused = Model::<{ ALL_KERNELS & !NEEDED.bit() }>::with_kernels(blob.as_bytes());
    let error = refused.unwrap_err();
    assert_eq!(error, ModelError::MissingKernels(NEEDED.bit()));
    assert!(error.to_string().contains("linear sparse"), "{error}");

    // What the model does not need may be left out.
    const OTHERS: u32 = KernelId::ConvSparse.bit() | KernelId::Depthwise.bit();
    let all = Model::new(blob.as_bytes()).unwrap();
    let fewer = Model::<{ ALL_KERNELS & !OTHERS }>::with_kernels(blob.as_bytes()).unwrap();
    let input = vec![5; all.input().len()];
    let mut arenas = [0; 2].map(|_| AlignedVec::zeroed(all.arena_len()));
    let [arena, other] = &mut arenas;
    let mut with_all = Session::new(all, arena.as_arena()).unwrap();
    let mut with_fewer = Session::new(fewer, other.as_arena()).unwrap();
    assert_eq!(with_all.run(&input).unwrap(), with_fewer.run(&input).unwrap());
}
