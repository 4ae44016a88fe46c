//! Searches as a user starts them: killed, continued, shared by several workers.

mod shared;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use shared::{NIWAKI, error, json, niwaki, wait_for};

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(NIWAKI);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("niwaki starts")
}

/// A small search of digits at this place.
fn search<'a>(study: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = "search sparse --net mlp:width=16 --train-limit 400 --population 4 \
                 --base-epochs 4 --supernet-epochs 3 --validate-on host --study";
    fixed.split_whitespace().chain([study]).chain(more.iter().copied()).collect()
}

fn candidates(shown: &Value) -> &Vec<Value> {
    shown["candidates"].as_array().expect("a study has candidates")
}

fn count(shown: &Value, status: &str) -> usize {
    candidates(shown).iter().filter(|candidate| candidate["status"] == status).count()
}

/// What a candidate is and is worth, without who evaluated it and when.
fn essence(shown: &Value) -> Vec<Value> {
    let parts = ["id", "status", "genome", "objectives", "predicted", "details"];
    candidates(shown)
        .iter()
        .map(|candidate| parts.iter().map(|part| candidate[part].clone()).collect())
        .collect()
}

/// Members of the front that a program would find among the candidates.
fn front(shown: &Value) -> Vec<i64> {
    let objectives = |candidate: &Value| -> Vec<f64> {
        candidate["objectives"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).collect()
    };
    let done: Vec<&Value> =
        candidates(shown).iter().filter(|candidate| candidate["status"] == "done").collect();
    let points: Vec<Vec<f64>> = done.iter().map(|candidate| objectives(candidate)).collect();
    let beats = |a: &[f64], b: &[f64]| a != b && a.iter().zip(b).all(|(a, b)| a <= b);
    let kept = points.iter().zip(&done).filter(|(own, _)| !points.iter().any(|p| beats(p, own)));
    let mut ids: Vec<i64> = kept.map(|(_, c)| c["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn ids(shown: &Value) -> Vec<i64> {
    let mut ids: Vec<i64> =
        shown["front"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Kills a search as soon as its study has more candidates than each of these.
fn kill_repeatedly(arguments: &[&str], study: &str, at: &[usize]) {
    for at_least in at {
        let mut child = start(arguments);
        wait_for("a candidate", || {
            Path::new(study).join("study.db").exists()
                && niwaki(&["study", "show", study]).status.success()
                && candidates(&json(&["study", "show", study])).len() > *at_least
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A killed search goes on to the same result, candidate for candidate, and its models are on disk.
#[test]
fn killed_searches_go_on() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    // Below what layers that stay dense take, which may be exported larger than was estimated.
    let limit = ["--evaluations", "12", "--flash", "2000", "--epochs", "3"];
    let undisturbed = json(&search(&whole, &limit));
    assert_eq!(count(&undisturbed, "done"), 12, "{undisturbed}");
    assert!(undisturbed["hypervolume"].is_number());
    assert!(undisturbed["tau"].is_number());

    kill_repeatedly(&search(&parts, &limit), &parts, &[0, 3, 7]);
    let continued = json(&search(&parts, &limit));
    assert_eq!(essence(&continued), essence(&undisturbed));
    assert_eq!(continued["hypervolume"], undisturbed["hypervolume"]);

    // The front is what it must be, meets the limit, and every member is a validated model.
    assert_eq!(ids(&continued), front(&continued));
    for id in ids(&continued) {
        let member = &candidates(&continued)[id as usize - 1];
        let bytes = std::fs::metadata(format!("{parts}/front/{id}.niwaki")).unwrap().len();
        assert_eq!(member["objectives"]["flash_bytes"].as_f64(), Some(bytes as f64));
        assert!(bytes <= 2500);
        assert_eq!(member["validation"]["mismatched_bytes"], 0);
    }
    let page = std::fs::read_to_string(path("parts/report.html")).unwrap();
    assert!(page.contains("Kendall") && page.contains("<svg"));
    assert!(!page.contains("<link") && !page.contains("src="), "it needs nothing beside it");

    // Best accuracy is the first member, which eval finds as good on the validation split's sibling.
    let model = path("m.niwaki");
    let picked = json(&["study", "export", &parts, "--pick", "best-accuracy", "-o", &model]);
    assert_eq!(picked["candidate"], continued["front"][0]);
    assert!(json(&["eval", &model])["accuracy"].as_f64().unwrap() > 0.5);

    // More evaluations go on; other settings do not.
    let more = json(&search(&parts, &["--evaluations", "14", "--flash", "2000", "--epochs", "3"]));
    assert_eq!(essence(&more)[..12], essence(&undisturbed)[..]);
    assert_eq!(count(&more, "done"), 14);
    let other = error(&search(&parts, &["--evaluations", "14", "--flash", "7K", "--epochs", "3"]));
    assert!(other.contains("`limits.flash` is 2000 there and 7168 here"), "{other}");
}

/// The same of a search for architectures, whose networks inherit weights: in every stage, also where
/// candidates are proposed by predictions.
#[test]
fn killed_architecture_searches_go_on() {
    fn search<'a>(study: &'a str, evaluations: &'a str) -> Vec<&'a str> {
        let fixed = "search arch --train-limit 300 --population 4 --epochs 1 --coarse-epochs 1 --flash 24K \
                     --costs instructions --validate-on host --study";
        fixed.split_whitespace().chain([study, "--evaluations", evaluations]).collect()
    }
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    let undisturbed = json(&search(&whole, "20"));
    assert_eq!(count(&undisturbed, "done"), 20, "{undisturbed}");
    let predicted = candidates(&undisturbed).iter().filter(|c| !c["predicted"].is_null());
    assert!(predicted.count() > 0, "{undisturbed}");
    // What was asked for makes the front, and nothing else.
    let objectives = candidates(&undisturbed)[0]["objectives"].as_object().unwrap();
    assert_eq!(objectives.keys().collect::<Vec<_>>(), ["error", "instructions"]);
    assert_eq!(ids(&undisturbed), front(&undisturbed));
    let started = json(&[&search(&parts, "20")[..], &["--start-only"]].concat());
    assert_eq!(started["evaluations"], 20);
    assert!(candidates(&json(&["study", "show", &parts])).is_empty());
    kill_repeatedly(&search(&parts, "20"), &parts, &[1, 7, 15, 17]);
    assert_eq!(essence(&json(&search(&parts, "20"))), essence(&undisturbed));
    // More evaluations belong to the last stage.
    let more = json(&search(&parts, "22"));
    assert_eq!(essence(&more)[..20], essence(&undisturbed)[..]);
    assert_eq!(count(&more, "done"), 22);
}

/// A disk that is full ends a search with advice, and loses nothing: with room it goes on to the same result.
#[test]
#[cfg(unix)]
fn full_disks_lose_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    let limit = ["--evaluations", "6", "--epochs", "1"];
    let undisturbed = json(&search(&whole, &limit));
    // A limit on the size of files stands for the disk; bash counts in KiB.
    let size = std::fs::metadata(format!("{whole}/study.db")).unwrap().len();
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", size * 4 / 5 / 1024);
    let mut full = Command::new("bash");
    let full = full.args(["-c", &script, NIWAKI]).args(search(&parts, &limit)).output().unwrap();
    let message = String::from_utf8_lossy(&full.stderr);
    assert!(!full.status.success() && message.contains("make room on the disk"), "{message}");
    assert_eq!(essence(&json(&search(&parts, &limit))), essence(&undisturbed));
}

/// Ways of searching are compared at the same number of evaluations, and the surrogate is asked about candidates
/// that it was not fitted to.
#[test]
fn ways_of_searching_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, runs) = (path("ways"), path("studies"));
    let words = "experiment search --net mlp:width=16 --train-limit 400 --population 4 --evaluations 8 --epochs 1 \
                 --base-epochs 2 --supernet-epochs 2 --ways random,surrogate --seeds 1 --out";
    let arguments: Vec<&str> = words.split_whitespace().chain([&*out, "--runs", &*runs]).collect();
    let compared = json(&arguments);
    let ways = compared["ways"].as_array().unwrap();
    assert_eq!((&ways[0]["way"], &ways[1]["way"]), (&"surrogate".into(), &"random".into()));
    let rows = std::fs::read_to_string(path("ways/rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // It was there first, predicted all of its own candidates, and knows none of chance's.
    assert_eq!(rows[0]["way"], "surrogate");
    assert_eq!(rows[0]["predictions"].as_array().unwrap().len(), 8);
    assert_eq!(rows[1]["curve"].as_array().unwrap().len(), 8);
    assert_eq!(rows[1]["foreign"].as_array().unwrap().len(), 8);
    assert_eq!(json(&arguments)["ways"], compared["ways"]);
}

/// Architectures are searched for in two stages and in one; the best one is trained again beside a preset.
#[test]
fn architectures_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, runs) = (path("arch"), path("studies"));
    let words = "experiment arch --train-limit 300 --population 4 --evaluations 5 --epochs 1 --coarse-epochs 1 \
                 --coarse-share 0.4 --flash 24K --lr 0.03 --seeds 1 --out";
    let arguments: Vec<&str> = words.split_whitespace().chain([&*out, "--runs", &*runs]).collect();
    let compared = json(&arguments);
    assert_eq!(compared["searches"], 3);
    assert_eq!(compared["stages"][0]["evaluations"]["mean"], 5.0);
    let evaluations = |way: usize| compared["stages"][way]["evaluations"]["mean"].as_f64().unwrap();
    assert!(evaluations(2) >= evaluations(1), "{compared}");
    let rows = std::fs::read_to_string(path("arch/rows.jsonl")).unwrap();
    assert_eq!(json(&arguments)["searches"], 3);
    assert_eq!(std::fs::read_to_string(path("arch/rows.jsonl")).unwrap(), rows);

    let (model, net) = (path("best.niwaki"), path("best.toml"));
    let study = path("studies/2-1");
    let export =
        ["study", "export", &study, "--pick", "best-accuracy", "-o", &model, "--net", &net];
    json(&export);
    let list = format!("{net},mlp:width=8");
    let networks = path("networks");
    let words = "experiment networks --train-limit 300 --epochs 1 --seeds 1 --net";
    let arguments: Vec<&str> =
        words.split_whitespace().chain([&*list, "--out", &*networks, "--runs", &*runs]).collect();
    let trained = json(&arguments);
    assert_eq!(trained["finished"], 2);
    assert_eq!(trained["cells"][0]["variant"], "best");
    assert_eq!(trained["cells"][0]["control"], false);
    assert_eq!(trained["cells"][0]["best_control"]["with"], "mlp:width=8");
    let flash = trained["cells"][0]["flash_bytes"].as_f64().unwrap();
    assert!(flash > 0.0 && flash <= 24.0 * 1024.0, "{flash}");

    // More networks are added to what is there; another one of the same name is not taken for the first.
    let rows = std::fs::read_to_string(path("networks/rows.jsonl")).unwrap();
    let longer = format!("{list},mlp:width=4");
    let more: Vec<&str> = arguments.iter().map(|&a| if a == list { &*longer } else { a }).collect();
    assert_eq!(json(&more)["finished"], 3);
    assert!(std::fs::read_to_string(path("networks/rows.jsonl")).unwrap().starts_with(&rows));
    let text = std::fs::read_to_string(&net).unwrap();
    std::fs::write(&net, text.replacen("bias = false", "bias = true", 1)).unwrap();
    assert!(error(&more).contains("are of another network `best`"));
}

#[test]
fn what_cannot_be_is_said_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let study = temporary.path().join("study").to_str().unwrap().to_owned();
    let infeasible = error(&search(&study, &["--flash", "300", "--instructions", "1M"]));
    assert!(infeasible.contains("can meet --flash ("), "{infeasible}");
    assert!(infeasible.contains("smallest reachable values"), "{infeasible}");
    assert!(!Path::new(&study).exists(), "nothing is begun");

    let nowhere = "postgres://me:secret@127.0.0.1:1/none#x";
    for arguments in [search(nowhere, &[]), vec!["worker", "--study", nowhere]] {
        let text = error(&arguments);
        assert!(text.contains("cannot open the study") && !text.contains("secret"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert!(error(&["worker", "--study", &study]).contains("there is no study"));
    assert!(error(&["study", "show", &study]).contains("there is no study"));
    assert!(error(&search(&study, &["--densities", "0.5,0.1"])).contains("rising"));
    assert!(error(&search(&study, &["--flash", "64X"])).contains("such as 64K"));
    let certain = error(&["search", "arch", "--min-accuracy", "1", "--study", &study]);
    assert!(certain.contains("--min-accuracy: expected a share from 0.100"), "{certain}");
    let unbounded = error(&["search", "arch", "--costs", "arena", "--study", &study]);
    assert!(unbounded.contains("needs --ram"), "{unbounded}");
}

/// A PostgreSQL server in a folder, reached over a Unix socket, and over TCP where it can encrypt.
struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

/// Certificate and key that Debian makes for tests; the user `postgres` may read them.
const CERTIFICATE: [&str; 2] =
    ["/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"];

impl Server {
    /// Starts one; `None` where PostgreSQL is not installed.
    fn start() -> Option<Self> {
        let programs = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let programs: PathBuf = programs.flatten().map(|v| v.path().join("bin")).max()?;
        let folder = tempfile::Builder::new().prefix("niwaki-pg-").tempdir_in("/tmp").unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Self { programs, folder, port, process: None };
        if is_root() {
            let folder = server.folder.path();
            let owner = Command::new("chown").arg("postgres").arg(folder).status().unwrap();
            assert!(owner.success(), "the Debian package makes a user `postgres`");
        }
        let made = server
            .program("initdb")
            .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = Command::new(&path);
        if is_root() {
            // The server refuses to run as root.
            command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
        }
        command.current_dir("/tmp");
        command
    }

    fn run(&mut self) {
        let mut command = self.program("postgres");
        command.args(["-c", "fsync=off", "-p", &self.port.to_string(), "-k"]);
        command.arg(self.folder.path()).arg("-D").arg(self.data());
        let [certificate, key] = CERTIFICATE;
        match self.encrypts() {
            true => command
                .args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"])
                .args(["-c", &format!("ssl_cert_file={certificate}")])
                .args(["-c", &format!("ssl_key_file={key}")]),
            false => command.args(["-c", "listen_addresses="]),
        };
        self.process = Some(command.stderr(Stdio::null()).spawn().unwrap());
        let socket = self.folder.path().join(format!(".s.PGSQL.{}", self.port));
        wait_for("PostgreSQL", || socket.exists());
    }

    fn encrypts(&self) -> bool {
        is_root() && CERTIFICATE.iter().all(|path| Path::new(path).exists())
    }

    /// Ends it at once, connections or not.
    fn stop(&mut self) {
        // As root, its parent is `runuser`.
        let id = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = id.lines().next() {
            let _ = Command::new("kill").args(["-INT", id.trim()]).status();
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }

    fn study(&self, name: &str) -> String {
        let (folder, port) = (self.folder.path().display(), self.port);
        format!("postgres://postgres@localhost:{port}/postgres?host={folder}#{name}")
    }

    fn encrypted_study(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=require#{name}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// Four workers share a study in PostgreSQL, two are killed in the middle of an evaluation, one comes back, and the
/// server is restarted: every candidate ends evaluated exactly once.
#[test]
fn workers_share_a_database_and_die() {
    let Some(mut server) = Server::start() else {
        eprintln!("skipped: PostgreSQL is not installed (Debian package `postgresql`)");
        return;
    };
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let study = server.study("shared");
    let outs: Vec<String> = (0..4).map(|worker| path(&format!("worker{worker}"))).collect();
    let evaluations = 24;
    let more = ["--evaluations", "24", "--epochs", "15", "--no-surrogate", "--out", &outs[0]];
    let first = search(&study, &more);
    let worker = |at: usize| vec!["worker", "--study", &study, "--out", &outs[at]];

    let mut leader = start(&first);
    let shown = || json(&["study", "show", &study]);
    wait_for("the study", || niwaki(&["study", "show", &study]).status.success());
    let mut workers: Vec<Child> = (1..4).map(|at| start(&worker(at))).collect();
    let mut killed = Vec::new();
    for mut victim in workers.drain(..2) {
        let mark = format!(":{}:", victim.id());
        let busy = |shown: &Value| {
            candidates(shown).iter().any(|candidate| {
                let holder = candidate["worker"].as_str().unwrap();
                candidate["status"] == "leased" && holder.contains(&mark)
            })
        };
        wait_for("a lease", || busy(&shown()));
        victim.kill().unwrap();
        victim.wait().unwrap();
        killed.push(mark);
    }
    let unfinished = count(&shown(), "done") < evaluations;
    assert!(unfinished, "the workers were killed too late to tell");
    server.stop();
    // Longer than an evaluation takes: results must wait for the server.
    std::thread::sleep(std::time::Duration::from_secs(2));
    server.run();
    wait_for("the study", || niwaki(&["study", "show", &study]).status.success());
    let mut again = start(&worker(1));
    assert!(leader.wait().unwrap().success());
    assert!(workers.pop().unwrap().wait().unwrap().success());
    assert!(again.wait().unwrap().success());

    let end = shown();
    assert_eq!(count(&end, "done"), evaluations, "{end}");
    match server.encrypts() {
        true => {
            let same = json(&["study", "show", &server.encrypted_study("shared")]);
            assert_eq!(candidates(&same), candidates(&end));
        }
        false => eprintln!("skipped: an encrypted connection, for lack of Debian's certificate"),
    }
    let numbers: Vec<i64> = candidates(&end).iter().map(|c| c["id"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=evaluations as i64).collect::<Vec<_>>());
    let mut genomes: Vec<String> =
        candidates(&end).iter().map(|c| c["genome"].to_string()).collect();
    genomes.sort();
    genomes.dedup();
    assert_eq!(genomes.len(), evaluations, "no candidate was made twice");
    // What the dead held was evaluated by others.
    let repeated = candidates(&end).iter().filter(|c| c["attempt"].as_i64().unwrap() > 1);
    assert!(repeated.count() >= 1, "{end}");
    assert_eq!(ids(&end), front(&end));
    for id in ids(&end) {
        let name = path(&format!("{id}.niwaki"));
        json(&["study", "export", &study, "--pick", &id.to_string(), "-o", &name]);
        assert!(json(&["analyze", &name])["instructions"].as_f64().unwrap() > 0.0);
    }
}
