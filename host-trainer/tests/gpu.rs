//! Training through Vulkan reaches what training on the processor does. Compiled with `--features vulkan`; needs a
//! driver; `docs/gpu.md` says which have been tried.
#![cfg(feature = "vulkan")]

use std::process::Command;

/// Accuracy of the float and of the int8 network, and the density, after a short training.
fn train(device: &str) -> [f64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_niwaki"))
        .args(["train", "--data", "digits", "--net", "lenet", "--method", "decoupled"])
        .args(["--density", "0.1", "--epochs", "4", "--seed", "1", "--format", "json"])
        .args(["--device", device, "--out"])
        .arg(folder.path().join("run"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    // A signal here is a crash of the driver: see docs/gpu.md.
    assert!(output.status.success(), "{device}: {}\n{errors}", output.status);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    ["/accuracy_float/test", "/accuracy_int8_simulated/test", "/density"]
        .map(|figure| found.pointer(figure).and_then(|value| value.as_f64()).unwrap())
}

#[test]
fn vulkan_trains_as_well_as_the_processor() {
    if let Err(error) = niwaki::sparse::device("vulkan") {
        eprintln!("skipped: {error:#}");
        return;
    }
    let [float, int8, density] = train("flex");
    let found = train("vulkan");
    // Sums are taken in another order, which small networks magnify; a wrong kernel would learn nothing.
    assert!((found[0] - float).abs() < 0.04, "{found:?}, on the processor {float}");
    assert!((found[1] - int8).abs() < 0.04, "{found:?}, on the processor {int8}");
    assert!((found[2] - density).abs() < 0.005, "{found:?}, on the processor {density}");
}
