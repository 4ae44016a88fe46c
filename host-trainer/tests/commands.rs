//! The commands as a user types them, from data to a model that firmware links.

mod shared;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use shared::{NIWAKI, error, json, wait_for};

#[test]
fn from_data_to_a_linked_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (run, model, module) = (path("run"), path("m.niwaki"), path("module"));

    let described = json(&["data", "describe", "digits"]);
    assert_eq!(described["samples"].as_u64().or(described["len"].as_u64()).unwrap_or(1797), 1797);

    let train = ["train", "--net", "mlp", "--density", "0.2", "--epochs", "3", "--qat-epochs", "1"];
    let trained = json(&[&train[..], &["--seed", "1", "--out", &run]].concat());
    assert!(trained["accuracy_float"]["test"].as_f64().unwrap() > 0.8, "{trained}");

    let exported = json(&["export", &run, "-o", &model, "--rust", &module]);
    let bytes = std::fs::metadata(&model).unwrap().len();
    assert_eq!(exported["model_bytes"].as_u64(), Some(bytes));

    let analysed = json(&["analyze", &model]);
    assert_eq!(analysed, exported);
    assert!(analysed["instructions"].as_f64().unwrap() > 1000.0);

    let evaluated = json(&["eval", &model]);
    assert_eq!(evaluated["samples"].as_u64(), Some(359));
    let accuracy = |name: &str| evaluated[name].as_f64().unwrap();
    assert!((accuracy("accuracy") - accuracy("accuracy_float")).abs() < 0.05, "{evaluated}");

    let validated = json(&["validate", &model, "--target", "host", "--limit", "50"]);
    assert_eq!(validated["mismatched_bytes"].as_u64(), Some(0));
    assert_eq!(validated["samples"].as_u64(), Some(50));
    assert_eq!(validated["arena_bytes"], analysed["arena_bytes"]);

    links(folder.path());
}

/// Compiles a crate that consists of the exported module.
fn links(folder: &Path) {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("core");
    let krate = folder.join("firmware");
    std::fs::create_dir_all(krate.join("src")).unwrap();
    std::fs::rename(folder.join("module"), krate.join("src/model")).unwrap();
    std::fs::write(
        krate.join("Cargo.toml"),
        format!(
            "[package]\nname = \"firmware\"\nedition = \"2024\"\n[dependencies]\n\
             niwaki-core = {{ path = {core:?} }}\n[workspace]\n"
        ),
    )
    .unwrap();
    std::fs::write(
        krate.join("src/main.rs"),
        "mod model;\nfn main() {\n    let mut arena = niwaki_core::Arena::new();\n    \
         let mut session = model::session(model::model().unwrap(), &mut arena).unwrap();\n    \
         assert_eq!(session.run(&[0; model::INPUT_LEN]).unwrap().len(), model::LABELS.len());\n}\n",
    )
    .unwrap();
    // The workspace's lock file names versions that are on this computer already.
    std::fs::copy(core.parent().unwrap().join("Cargo.lock"), krate.join("Cargo.lock")).unwrap();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["run", "--quiet", "--offline"])
        .env("CARGO_TARGET_DIR", krate.join("target"))
        .current_dir(&krate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A search leaves an ordinary run: it is exported, evaluated and continued by other commands.
#[test]
fn a_search_is_an_ordinary_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (run, model) = (path("search"), path("m.niwaki"));
    let search = ["layerwise", "--net", "mlp", "--density", "0.2", "--epochs", "6", "--criteria"];
    let choices = ["l1,taylor", "--structures", "unstructured,channels", "--out", &run];
    let found = json(&[&search[..], &choices].concat());
    let [cost, target] =
        ["cost", "cost_target"].map(|name| found["choice"][name].as_f64().unwrap());
    assert!(cost <= target && cost > 0.9 * target, "{found}");
    let exported = json(&["export", &run, "-o", &model]);
    // Weights that int8 rounds to zero cost nothing any more.
    let instructions = exported["instructions"].as_f64().unwrap();
    assert!((0.8..1.05).contains(&(instructions / cost)), "{instructions} {cost}");
    assert!(json(&["eval", &model])["accuracy"].as_f64().unwrap() > 0.8);

    let tuned = path("tuned");
    let tune = ["train", "--net", "mlp", "--method", "static", "--epochs", "2", "--start", &run];
    let tuned = json(&[&tune[..], &["--mask-from", &run, "--out", &tuned]].concat());
    assert_eq!(tuned["nonzeros"], found["nonzeros"]);
    let again = error(&[&search[..], &choices].concat());
    assert!(again.contains("--resume"), "{again}");
}

/// An experiment that is killed goes on where it was, and ends with the figures of one that was left
/// alone, however many trainings run at the same time.
#[test]
fn killed_experiments_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows = |name: &str| std::fs::read_to_string(path(name) + "/rows.jsonl").unwrap_or_default();
    // Without what depends on the time of day.
    let results = |name: &str| -> Vec<String> {
        let mut rows: Vec<String> = rows(name)
            .lines()
            .map(|line| {
                let mut row: Value = serde_json::from_str(line).unwrap();
                row["seconds"] = Value::Null;
                row.to_string()
            })
            .collect();
        rows.sort();
        rows
    };
    let arguments = |name: &str, jobs: &'static str| -> Vec<String> {
        let (out, runs) = (path(name), path(&format!("{name}-runs")));
        let fixed = "experiment methods --methods dense,static,rigl,srigl,decoupled:norms=shared \
                     --net mlp:width=16 --density 0.3,0.01 --seeds 2 --epochs 2 --train-limit 300";
        let words = fixed.split_whitespace().map(str::to_owned);
        words
            .chain(["--out".into(), out, "--runs".into(), runs, "--jobs".into(), jobs.into()])
            .collect()
    };
    let run = |name: &str, jobs: &'static str| {
        let arguments = arguments(name, jobs);
        json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let whole = run("whole", "1");
    assert_eq!(whole["trainings"].as_u64(), whole["finished"].as_u64());
    assert_eq!(whole["impossible"][0]["variant"], "srigl");
    assert_eq!(whole["cells"][0]["variant"], "dense");
    let page = std::fs::read_to_string(path("whole/README.md")).unwrap();
    assert!(page.contains("--train-limit 300") && page.contains("| rigl* |"), "{page}");

    let mut child = Command::new(NIWAKI)
        .args(arguments("parts", "2"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while rows("parts").lines().count() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = rows("parts");
    let before = &before[..before.rfind('\n').unwrap() + 1];
    run("parts", "2");
    assert!(rows("parts").starts_with(before));
    assert_eq!(results("parts"), results("whole"));

    let again = rows("parts");
    run("parts", "2");
    assert_eq!(rows("parts"), again);
    let mut other = arguments("parts", "1");
    other.extend(["--lr".into(), "0.05".into()]);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    assert!(error(&other).contains("other settings (config"));
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-a-model.niwaki");
    std::fs::write(&file, b"hello").unwrap();
    let file = file.to_str().unwrap();
    assert!(error(&["eval", "/nowhere.niwaki"]).contains("/nowhere.niwaki"));
    assert!(error(&["analyze", file]).contains("too short for a model"));
    assert!(error(&["export", folder.path().to_str().unwrap()]).contains("run.json"));
    assert!(error(&["train", "--net", "vgg", "--out", file]).contains("lenet"));
    assert!(error(&["train", "--method", "snip", "--out", file]).contains("rigl"));
    assert!(error(&["train", "--method", "set:end=1", "--out", file]).contains("until=0.75"));
    assert!(error(&["bench", file, "--target", "host"]).contains("emulated board"));
    assert!(error(&["bench"]).contains("--kernels"));
    assert!(error(&["validate", file, "--target", "qemu-abacus"]).contains("qemu-cortex-m4"));
}

#[test]
fn targets_are_listed_with_their_memory() {
    let targets = json(&["targets"]);
    let find = |name: &str| {
        let mut all = targets.as_array().unwrap().iter();
        all.find(|target| target["target"] == name).unwrap_or_else(|| panic!("{name}: {targets}"))
    };
    assert_eq!(find("host")["emulated"], false);
    let m4 = find("qemu-cortex-m4");
    assert_eq!(
        (&m4["emulated"], &m4["calibrated"], &m4["dsp"]),
        (&true.into(), &true.into(), &true.into())
    );
    assert_eq!(m4["flash_bytes"].as_u64(), Some(4 << 20));
    assert!(m4["arena_bytes"].as_u64().unwrap() > 1 << 20);
}

/// The demonstration's model: digits.
fn demonstration() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("firmware/examples/bare/src/model/model.niwaki").to_str().unwrap().to_owned()
}

#[test]
fn an_emulated_board_learns_what_the_host_learns() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.md").to_str().unwrap().to_owned();
    let model = demonstration();
    let learn = ["learn", &model, "--tunable", "1", "--per-class", "3", "--epochs", "2"];
    let host = json(&[&learn[..], &["--out", &table]].concat());
    let board = json(&[&learn[..], &["--target", "qemu-cortex-m4"]].concat());
    let of = |result: &Value, name: &str| result["groups"][0][name].clone();
    for name in ["checksum", "losses", "accuracy_before", "accuracy_after", "learned", "tested"] {
        assert!(!of(&host, name).is_null() && of(&host, name) == of(&board, name), "{name}");
    }
    assert_eq!(of(&host, "learned"), 30);
    assert!(host["instructions_per_sample"].is_null());
    assert!(board["instructions_per_sample"].as_u64().unwrap() > 10_000, "{board}");
    assert!(std::fs::read_to_string(&table).unwrap().contains("| all | 30 | "));
    assert!(
        error(&["learn", &model, "--target", "abacus"]).contains("there is no target 'abacus'")
    );
    assert!(error(&["learn", &model]).contains("no tunable layers"));
}

/// A process that is killed leaves no emulator behind, which would keep a processor busy for ever.
#[test]
#[cfg(target_os = "linux")]
fn a_killed_command_takes_its_emulator_along() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (emulator, number) = (folder.path().join("qemu-system-arm"), folder.path().join("number"));
    // It never answers. The first byte comes when all that belongs to an emulator has been started.
    let script = "#!/bin/sh\nhead -c 1 > \"$NUMBER.new\"; echo $$ > \"$NUMBER.new\"; \
                  mv \"$NUMBER.new\" \"$NUMBER\"\nexec sleep 3000\n";
    std::fs::write(&emulator, script).unwrap();
    std::fs::set_permissions(&emulator, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(NIWAKI)
        .args(["bench", &demonstration(), "--target", "qemu-cortex-m4"])
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("NUMBER", &number)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the emulator", || {
        assert!(command.try_wait().unwrap().is_none(), "the command ended");
        number.exists()
    });
    let number = std::fs::read_to_string(number).unwrap();
    // A process that has ended and that nobody waited for has no arguments any more.
    let arguments = Path::new("/proc").join(number.trim()).join("cmdline");
    let alive = || std::fs::read(&arguments).is_ok_and(|arguments| !arguments.is_empty());
    // Nor has one for a moment while it becomes another program, as that one does.
    wait_for("the emulator's last program", &alive);
    command.kill().unwrap();
    command.wait().unwrap();
    wait_for("the emulator's end", || !alive());
}

#[test]
fn devices_learn_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = demonstration();
    let federate = |more: &[&str]| {
        let common = ["federate", "--model", &model, "--tunable", "1", "--learning-rate", "0.02"];
        let common = [&common[..], &["--train-limit", "60", "--method", "contrastive"]].concat();
        json(&[&common[..], more].concat())
    };
    // In one go and in two.
    let (whole, parts) = (path("whole"), path("parts"));
    let expected = federate(&["--clients", "sim:4", "--rounds", "3", "--out", &whole]);
    federate(&["--clients", "sim:4", "--rounds", "1", "--out", &parts]);
    assert_eq!(federate(&["--clients", "sim:4", "--rounds", "3", "--out", &parts]), expected);
    let history = expected["history"].as_array().unwrap();
    assert_eq!(history.len(), 3);
    let sum = |name: &str| history.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(expected["bytes_up"], sum("bytes_up"));
    // A byte per weight and device at least.
    let least = 12 * expected["tunable_weights"].as_u64().unwrap();
    assert!((least..4 * least).contains(&sum("bytes_up")), "{expected}");
    assert!(std::fs::read_to_string(path("whole/report.html")).unwrap().contains("</svg>"));
    assert_eq!(std::fs::read_to_string(path("whole/rounds.jsonl")).unwrap().lines().count(), 3);

    assert_eq!(federate(&["--clients", "qemu-cortex-m4:4", "--rounds", "3"]), expected);

    let refused = error(&["federate", "--model", &model, "--tunable", "1"]);
    assert!(refused.contains("have no groups"), "{refused}");
    let refused = error(&["federate", "--model", &model, "--aggregation", "median"]);
    assert!(refused.contains("trimmed-mean[:SHARE"), "{refused}");
}

/// Parties learn a network that can be exported; what is finished is never run again.
#[test]
fn parties_learn_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, runs, model) = (path("out"), path("runs"), path("m.niwaki"));
    let words = "experiment multiparty --net mlp:width=8 --train-limit 300 --parties 3 --rounds 2 --epochs 1 \
                 --density 0.3 --seeds 1 --ways personal,local,fedavg-dense --out";
    let arguments: Vec<&str> = words.split_whitespace().chain([&*out, "--runs", &*runs]).collect();
    let compared = json(&arguments);
    let ways = compared["ways"].as_array().unwrap();
    assert_eq!((ways.len(), &compared["finished"]), (3, &3.into()));
    assert_eq!(
        (&ways[0]["variant"], &ways[1]["bytes_up"]["mean"]),
        (&"personal".into(), &0.0.into())
    );
    let up = |way: usize| ways[way]["bytes_up"]["mean"].as_f64().unwrap();
    assert!(up(0) > 0.0 && up(0) < up(2), "{} {}", up(0), up(2));
    let rows = std::fs::read_to_string(path("out/rows.jsonl")).unwrap();
    assert_eq!(json(&arguments)["finished"], 3);
    assert_eq!(std::fs::read_to_string(path("out/rows.jsonl")).unwrap(), rows);
    json(&["export", &path("runs/personal-0.3-1"), "-o", &model]);
    let analysis = json(&["analyze", &model]);
    assert!(analysis["density"].as_f64().unwrap() < 0.35, "{analysis}");
    let mut other = arguments.clone();
    other.extend(["--adjust", "2"]);
    assert!(error(&other).contains("--adjust"), "{}", error(&other));
}

#[test]
fn federated_methods_are_compared_and_never_run_twice() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let model = demonstration();
    let compare = |more: &[&str]| {
        let common = ["experiment", "federated", "--model", &model, "--dense", &model];
        let small = ["--tunable", "1", "--train-limit", "40", "--clients", "4", "--rounds", "2"];
        json(&[&common[..], &small[..], &["--out", &out], more].concat())
    };
    let first = compare(&["--seeds", "1", "--methods", "fedavg,local"]);
    assert_eq!(first["finished"], 2);
    let rows = || std::fs::read_to_string(folder.path().join("out/rows.jsonl")).unwrap();
    let before = rows();
    let all = compare(&["--seeds", "1"]);
    assert_eq!((all["finished"].as_u64(), all["trials"].as_u64()), (Some(7), Some(7)));
    assert!(rows().starts_with(&before) && rows().lines().count() == 7);
    let page = std::fs::read_to_string(folder.path().join("out/README.md")).unwrap();
    for method in ["contrastive", "fedavg", "fedprox", "moon", "local", "central", "fedavg-dense"] {
        assert!(page.contains(&format!("| {method} | 1 | ")), "{page}");
    }
}
