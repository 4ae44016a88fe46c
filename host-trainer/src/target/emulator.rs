//! A QEMU process with the serial line, the log and the model of an emulated board.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Board, TargetError, tools};

/// After this time without a byte it is looked whether the emulator still runs.
const LOOK: Duration = Duration::from_millis(200);
const LINE_FULL: Duration = Duration::from_secs(10);

/// Where the log goes depends on QEMU's version: to its standard output up to 7.2, to the device given
/// for it later.
const LOG_FILES: [&str; 2] = ["stdout.defmt", "log.defmt"];
const OUTPUT_FILE: &str = "output.txt";
/// Socket of the emulator's monitor, which takes commands.
const MONITOR: &str = "monitor";
const MONITOR_LIMIT: Duration = Duration::from_secs(30);

/// A running emulator. It is the line to the board's serial port, and ends when dropped or when this process
/// is gone.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
    watcher: Child,
    serial: UnixStream,
    folder: TempDir,
}

impl Emulator {
    /// Starts `board` with the firmware `elf` and with bytes at some addresses.
    pub(crate) fn start(
        board: &Board,
        elf: &Path,
        memory: &[(&[u8], u64)],
    ) -> Result<Self, TargetError> {
        Self::spawn(board, elf, memory, false, Stdio::from)
    }

    /// As [`start`](Self::start), so that the board can [log every executed block](Self::log_blocks). What the
    /// emulator itself says goes there too, and it stands still while nobody reads.
    pub(crate) fn start_traced(
        board: &Board,
        elf: &Path,
        memory: &[(&[u8], u64)],
    ) -> Result<(Self, ChildStderr), TargetError> {
        let mut emulator = Self::spawn(board, elf, memory, true, |_| Stdio::piped())?;
        let log = emulator.child.stderr.take();
        let log = log.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        Ok((emulator, log.map_err(TargetError::io("opening the emulator's log"))?))
    }

    fn spawn(
        board: &Board,
        elf: &Path,
        memory: &[(&[u8], u64)],
        monitored: bool,
        output_to: impl FnOnce(File) -> Stdio,
    ) -> Result<Self, TargetError> {
        let Some((program, machine)) =
            board.about.emulator.as_ref().and_then(|command| command.split_first())
        else {
            return Err(TargetError::NotEmulated { board: board.name.clone() });
        };
        let folder = tempfile::tempdir().map_err(TargetError::io("making a temporary folder"))?;
        let create = |name: &str| {
            File::create(folder.path().join(name))
                .map_err(TargetError::io("making a file for the emulator's output"))
        };
        let (log, output) = (create(LOG_FILES[0])?, create(OUTPUT_FILE)?);
        // The emulator's standard input is a socket, and that is the board's serial line.
        let (serial, end) = UnixStream::pair().map_err(TargetError::io("making a socket"))?;
        let set = serial.set_read_timeout(Some(LOOK));
        set.and_then(|()| serial.set_write_timeout(Some(LINE_FULL)))
            .map_err(TargetError::io("setting up a socket"))?;

        let mut command = Command::new(program);
        command
            .args(machine)
            .args(["-display", "none", "-monitor", "none", "-nodefaults"])
            .args(["-chardev", "socket,id=serial,fd=0", "-serial", "chardev:serial"])
            // One instruction takes one nanosecond of the board's time, whatever the host does.
            .args(["-icount", "shift=0"])
            .arg("-chardev")
            .arg(format!("file,id=log,path={}", quoted(&folder.path().join(LOG_FILES[1]))))
            .args(["-semihosting-config", "enable=on,target=native,chardev=log"])
            .arg("-kernel")
            .arg(elf)
            .stdin(Stdio::from(OwnedFd::from(end)))
            .stdout(Stdio::from(log))
            .stderr(output_to(output));
        for (index, (bytes, address)) in memory.iter().enumerate() {
            let file = folder.path().join(format!("memory-{index}"));
            std::fs::write(&file, bytes)
                .map_err(TargetError::io(format!("writing {}", file.display())))?;
            let loader = format!("loader,file={},addr={address:#x},force-raw=on", quoted(&file));
            command.args(["-device", &loader]);
        }
        if monitored {
            let path = quoted(&folder.path().join(MONITOR));
            let socket = format!("socket,id=monitor,path={path},server=on,wait=off");
            command.args(["-chardev", &socket, "-mon", "chardev=monitor,mode=readline"]);
        }
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TargetError::NoEmulator {
                program: program.clone(),
                get: tools::emulator_packages(program).install_command(),
            },
            _ => TargetError::Io { what: format!("starting {program}"), source },
        })?;
        match watch(&child) {
            Ok(watcher) => Ok(Self { child, watcher, serial, folder }),
            Err(source) => {
                finish(&mut child);
                Err(TargetError::Io {
                    what: format!("starting a shell to watch {program}"),
                    source,
                })
            }
        }
    }

    /// From now on, an emulator that was started for it logs every executed block. Before that it runs at
    /// full speed.
    pub(crate) fn log_blocks(&mut self) -> io::Result<()> {
        // The monitor shows this before it reads a command.
        const PROMPT: &[u8] = b"(qemu) ";
        let mut monitor = UnixStream::connect(self.folder.path().join(MONITOR))?;
        monitor.set_read_timeout(Some(MONITOR_LIMIT))?;
        monitor.write_all(b"log exec,nochain,in_asm\n")?;
        // One prompt came with the connection; the next says that the command was carried out.
        let (mut heard, mut buffer) = (Vec::new(), [0; 256]);
        while heard.windows(PROMPT.len()).filter(|window| *window == PROMPT).count() < 2 {
            match monitor.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => heard.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(())
    }

    /// What the board wrote to its log, in defmt's encoding.
    pub(crate) fn log(&self) -> Vec<u8> {
        let read = |name| std::fs::read(self.folder.path().join(name)).unwrap_or_default();
        LOG_FILES.iter().flat_map(read).collect()
    }

    /// What the emulator itself printed.
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join(OUTPUT_FILE)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// In place of an error of the line, where the reason for it is that the emulator has ended.
    fn or_ended(&mut self, error: io::Error) -> io::Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WouldBlock};
        let status = match error.kind() {
            // The other end is closed: the emulator ends or has ended.
            BrokenPipe | ConnectionReset | UnexpectedEof => self.child.wait().map(Some),
            WouldBlock => self.child.try_wait(),
            _ => Ok(None),
        };
        match status {
            Ok(None) => error,
            Ok(Some(status)) => {
                // Another process may be given its number.
                finish(&mut self.watcher);
                io::Error::new(UnexpectedEof, format!("the emulator ended ({status})"))
            }
            Err(error) => error,
        }
    }
}

impl Read for Emulator {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.serial.read(buffer) {
            Ok(0) if !buffer.is_empty() => Err(self.or_ended(io::ErrorKind::UnexpectedEof.into())),
            result => result.map_err(|error| self.or_ended(error)),
        }
    }
}

impl Write for Emulator {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.serial.write(bytes).map_err(|error| self.or_ended(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.serial.flush()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // The watcher first: it must not kill another process that is given the emulator's number.
        finish(&mut self.watcher);
        finish(&mut self.child);
    }
}

/// Ends a process, which may have ended by itself; then there is nothing to kill, but to wait for.
fn finish(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Kills the emulator when this process is gone, however that came about: the watcher's standard input ends then.
/// The emulator itself would go on with a serial line that nobody is at the other end of.
fn watch(emulator: &Child) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", "read -r _; kill -9 \"$0\"", &emulator.id().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What a terminal sends to all of its processes is not for this one.
        .process_group(0)
        .spawn()
}

/// A path within a QEMU option, where a comma is doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
