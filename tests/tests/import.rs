//! Models that cannot be imported are refused with everything that stands in the way; damaged ones
//! are refused, never imported wrongly enough to panic.

use std::path::{Path, PathBuf};

use niwaki::import::{ImportError, Problem, Remedy, tflite};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn problems(name: &str) -> (Vec<Problem>, String) {
    let bytes = std::fs::read(fixtures().join(format!("refused/{name}.tflite"))).unwrap();
    let error = tflite(&bytes, name).unwrap_err();
    let text = error.to_string();
    println!("{name}: {text}\n");
    match error {
        ImportError::Unsupported(problems) => (problems, text),
        other => panic!("{name}: {other}"),
    }
}

#[test]
fn unsupported_operators_are_named_all_at_once() {
    let (problems, text) = problems("operators");
    for (operator, count) in [("PRELU", 1), ("TILE", 2), ("TRANSPOSE_CONV", 1)] {
        let found = problems.iter().filter(|p| p.place.contains(operator)).count();
        assert_eq!(found, count, "{operator}: {text}");
    }
    assert!(problems.iter().all(|problem| problem.remedy == Remedy::ReplaceOperator), "{text}");
    assert!(text.contains("operator 1, PRELU, output `"), "{text}");
}

#[test]
fn other_types_are_told_to_quantise() {
    for name in ["float", "dynamic_range", "int16"] {
        let (problems, text) = problems(name);
        assert!(problems.iter().all(|problem| problem.remedy == Remedy::FullInteger), "{text}");
        assert!(text.contains("representative_dataset"), "{text}");
    }
}

#[test]
fn shapes_and_borders() {
    let (found, text) = problems("batch");
    assert!(found.iter().any(|problem| problem.remedy == Remedy::FixedShape), "{text}");
    let (found, text) = problems("two_outputs");
    assert!(found.iter().any(|problem| problem.remedy == Remedy::OneInputOneOutput), "{text}");
    // Found by a fuzzer: an activation whose output has other channels than its input.
    let (_, text) = problems("other_shape");
    assert!(text.contains("it changes the shape from"), "{text}");
}

#[test]
fn no_tflite_file() {
    for bytes in [&b""[..], b"TFL3", &[0; 64], b"\x1c\0\0\0TFL3"] {
        assert!(matches!(tflite(bytes, "x"), Err(ImportError::Damaged(_))));
    }
}

#[test]
fn damaged_files_never_panic() {
    let mut random = Pcg64::seed_from_u64(7);
    let mut exported = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "tflite") {
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(37) {
            assert!(tflite(&whole[..len], "cut").is_err(), "{} cut to {len}", path.display());
        }
        for round in 0..1000 {
            let mut damaged = whole.clone();
            for _ in 0..random.random_range(1..=3) {
                let at = random.random_range(0..damaged.len());
                damaged[at] = random.random();
            }
            let Ok(graph) = tflite(&damaged, "damaged") else { continue };
            // What is imported can be exported or is refused there. That takes longer.
            if round % 8 == 0 {
                exported += usize::from(niwaki::export::write(&graph).is_ok());
            }
        }
    }
    assert!(exported > 100, "{exported} damaged files were still models");
}
