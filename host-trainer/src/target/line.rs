//! The line to a board: of an emulator, or a serial port with a real board at its other end.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use serial2::SerialPort;

use super::TargetError;
use super::emulator::Emulator;

/// The rate of boards with a UART. USB lines have none and do not care.
const BAUD: u32 = 115_200;
/// After this time without a byte it is looked whether the time for the answer is over.
const LOOK: Duration = Duration::from_millis(200);
const LINE_FULL: Duration = Duration::from_secs(10);

/// A line to a board.
pub(crate) enum Line {
    Emulated(Emulator),
    Port { port: SerialPort, name: String },
}

impl Line {
    /// Opens the serial port `name`.
    pub(super) fn open(name: &str) -> Result<Self, TargetError> {
        let open = || -> io::Result<SerialPort> {
            let mut port = SerialPort::open(name, BAUD)?;
            port.set_read_timeout(LOOK)?;
            port.set_write_timeout(LINE_FULL)?;
            // What an earlier conversation left behind is not for this one.
            port.discard_buffers()?;
            Ok(port)
        };
        let port = open().map_err(|source| {
            let there = SerialPort::available_ports().unwrap_or_default();
            let there: Vec<_> = there.iter().map(|port| port.display().to_string()).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            TargetError::Io { what: format!("opening {name} (there are: {there})"), source }
        })?;
        Ok(Self::Port { port, name: name.to_owned() })
    }

    pub(super) fn emulator(&mut self) -> Option<&mut Emulator> {
        match self {
            Self::Emulated(emulator) => Some(emulator),
            Self::Port { .. } => None,
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emulated(emulator) => emulator.fmt(f),
            Self::Port { name, .. } => f.debug_tuple("Port").field(name).finish(),
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Emulated(emulator) => emulator.read(buffer),
            Self::Port { port, .. } => port.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Emulated(emulator) => emulator.write(bytes),
            Self::Port { port, .. } => port.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Emulated(emulator) => emulator.flush(),
            Self::Port { port, .. } => port.flush(),
        }
    }
}
