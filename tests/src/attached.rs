//! Boards at serial ports.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use niwaki::target::{Board, Firmware};
use tempfile::TempDir;

/// An emulated board that runs the agent with a model, at a pseudo-terminal.
#[derive(Debug)]
pub struct Attached {
    emulator: Child,
    /// The name of the port.
    pub port: String,
    /// Holds the model, which the emulator reads at some time after it has named the port.
    _folder: TempDir,
}

impl Attached {
    /// Starts the emulator.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(board: &Board, firmware: &Firmware, model: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.niwaki");
        std::fs::write(&file, model).unwrap();
        let (program, machine) = board.about.emulator.as_ref().unwrap().split_first().unwrap();
        let address = firmware.model_region.start;
        let loader = format!("loader,file={},addr={address:#x},force-raw=on", file.display());
        let mut emulator = Command::new(program)
            .args(machine)
            .args(["-display", "none", "-monitor", "none", "-nodefaults", "-serial", "pty"])
            .args(["-icount", "shift=0", "-semihosting-config", "enable=on,target=native"])
            .args(["-device", &loader, "-kernel"])
            .arg(&firmware.elf)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // "char device redirected to /dev/pts/3 (label serial0)"
        let mut said = Vec::new();
        let mut output = BufReader::new(emulator.stdout.take().unwrap());
        let port = loop {
            said.clear();
            assert!(output.read_until(b'\n', &mut said).unwrap() > 0, "no port was named");
            let line = String::from_utf8_lossy(&said).into_owned();
            if let Some(word) = line.split_whitespace().find(|word| word.starts_with("/dev/")) {
                break word.to_owned();
            }
        };
        // The log of the board goes there too: somebody has to read it.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { emulator, port, _folder: folder }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}
