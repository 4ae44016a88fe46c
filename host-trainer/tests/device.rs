//! Training through Vulkan, and on a served device, reaches what training on the processor does. Compiled with the
//! features `vulkan` and `remote`; the former needs a driver; `docs/gpu.md` says which have been tried.
#![cfg(any(feature = "vulkan", feature = "remote"))]

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

/// Sums are taken in another order, which small networks magnify; a wrong kernel would learn nothing.
fn assert_near(found: [f64; 3], [float, int8, density]: [f64; 3]) {
    assert!((found[0] - float).abs() < 0.04, "{found:?}, on the processor {float}");
    assert!((found[1] - int8).abs() < 0.04, "{found:?}, on the processor {int8}");
    assert!((found[2] - density).abs() < 0.005, "{found:?}, on the processor {density}");
}

#[cfg(feature = "vulkan")]
#[test]
fn vulkan_trains_as_well_as_the_processor() {
    if let Err(error) = niwaki::sparse::device("vulkan") {
        eprintln!("skipped: {error:#}");
        return;
    }
    assert_near(train("vulkan"), train("flex"));
}

#[cfg(feature = "remote")]
#[test]
fn a_served_processor_trains_as_well_as_the_own_one() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    struct Server(std::process::Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    let server = Command::new(env!("CARGO_BIN_EXE_niwaki"))
        .args(["serve", "--device", "flex", "--listen", "127.0.0.1:0"])
        .env_remove(niwaki::sparse::TOKEN_VARIABLE)
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Server(server.unwrap());
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.ok()?.split_once("ws://")?.1.to_owned()));
    std::thread::spawn(move || lines.count());
    assert_near(train(&format!("remote:ws://{}", address.unwrap())), train("flex"));
}
