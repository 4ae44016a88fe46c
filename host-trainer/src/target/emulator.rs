//! A QEMU process with the serial line, the log and the model of an emulated board.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Board, TargetError, tools};

/// After this time without a byte it is looked whether the emulator still runs.
const LOOK: Duration = Duration::from_millis(200);
const LINE_FULL: Duration = Duration::from_secs(10);

const LOG_FILE: &str = "log.defmt";
const OUTPUT_FILE: &str = "output.txt";

/// A running emulator. It is the line to the board's serial port, and ends when dropped.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
    serial: UnixStream,
    folder: TempDir,
}

impl Emulator {
    /// Starts `board` with the firmware `elf` and with `model` at `model_address`.
    pub(crate) fn start(
        board: &Board,
        elf: &Path,
        model: &[u8],
        model_address: u64,
    ) -> Result<Self, TargetError> {
        let Some((program, machine)) =
            board.about.emulator.as_ref().and_then(|command| command.split_first())
        else {
            return Err(TargetError::NotEmulated { board: board.name.clone() });
        };
        let folder = tempfile::tempdir().map_err(TargetError::io("making a temporary folder"))?;
        let model_file = folder.path().join("model.niwaki");
        std::fs::write(&model_file, model)
            .map_err(TargetError::io(format!("writing {}", model_file.display())))?;
        let output = File::create(folder.path().join(OUTPUT_FILE))
            .map_err(TargetError::io("making a file for the emulator's output"))?;
        // One socket is the emulator's standard input and output: the board's serial line.
        let (serial, end) = UnixStream::pair().map_err(TargetError::io("making a socket"))?;
        let set = serial.set_read_timeout(Some(LOOK));
        set.and_then(|()| serial.set_write_timeout(Some(LINE_FULL)))
            .map_err(TargetError::io("setting up a socket"))?;
        let other = end.try_clone().map_err(TargetError::io("copying a socket"))?;

        let mut command = Command::new(program);
        command
            .args(machine)
            .args(["-display", "none", "-monitor", "none", "-nodefaults"])
            .args(["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"])
            // One instruction takes one nanosecond of the board's time, whatever the host does.
            .args(["-icount", "shift=0"])
            .arg("-chardev")
            .arg(format!("file,id=log,path={}", quoted(&folder.path().join(LOG_FILE))))
            .args(["-semihosting-config", "enable=on,target=native,chardev=log"])
            .arg("-kernel")
            .arg(elf)
            .arg("-device")
            .arg(format!(
                "loader,file={},addr={model_address:#x},force-raw=on",
                quoted(&model_file)
            ))
            .stdin(Stdio::from(OwnedFd::from(end)))
            .stdout(Stdio::from(OwnedFd::from(other)))
            .stderr(Stdio::from(output));
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TargetError::NoEmulator {
                program: program.clone(),
                get: tools::emulator_packages(program).install_command(),
            },
            _ => TargetError::Io { what: format!("starting {program}"), source },
        })?;
        Ok(Self { child, serial, folder })
    }

    /// What the board wrote to its log, in defmt's encoding.
    pub(crate) fn log(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join(LOG_FILE)).unwrap_or_default()
    }

    /// What the emulator itself printed.
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join(OUTPUT_FILE)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    fn ended(status: ExitStatus) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the emulator ended ({status})"))
    }
}

impl Read for Emulator {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.serial.read(buffer) {
            // The other end was closed: wait for the exit status, which tells more.
            Ok(0) if !buffer.is_empty() => Err(Self::ended(self.child.wait()?)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match self.child.try_wait()? {
                    Some(status) => Err(Self::ended(status)),
                    None => Err(error),
                }
            }
            result => result,
        }
    }
}

impl Write for Emulator {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.serial.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.serial.flush()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, but to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path within a QEMU option, where a comma is doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
