//! A board that runs the agent with a model.

use niwaki_core::Model;

use super::emulator::Emulator;
use super::line::Line;
use super::link::{About, Link, LinkError};
use super::{Board, Firmware, Log, TargetError};
use crate::export::hexadecimal;

/// A board that runs the agent with a model. Dropping it ends the emulator.
#[derive(Debug)]
pub struct Device {
    board: String,
    about: About,
    /// The firmware of an emulated board, whose log it explains.
    firmware: Option<Firmware>,
    link: Link<Line>,
    input_len: usize,
    output_len: usize,
}

/// Features of a clip, computed on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The quantised input of the model.
    pub input: Vec<i8>,
    /// Units of the device's counter that they took.
    pub count: u64,
}

/// One inference on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// What the model gave.
    pub output: Vec<i8>,
    /// Units of the device's counter that it took: instructions on an emulator.
    pub count: u64,
}

impl Device {
    /// Starts `board` with `firmware` and the model `bytes`, and waits until it has accepted the model.
    ///
    /// # Errors
    ///
    /// When the model is refused by the host or the device or does not fit, when the emulator is
    /// missing, or when the device does not answer.
    pub fn start(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
    ) -> Result<Self, TargetError> {
        Self::start_with(board, firmware, model, None)
    }

    /// As [`start`](Self::start), with a board whose power fails, once, at this operation of the flash in which
    /// it keeps what it learns, counted from 1: the operation is carried out by half, and the board starts anew.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_failing(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
        operation: u32,
    ) -> Result<Self, TargetError> {
        Self::start_with(board, firmware, model, firmware.power_failure(operation))
    }

    fn start_with(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
        power: Option<([u8; 4], u64)>,
    ) -> Result<Self, TargetError> {
        firmware.check_fits(board, model)?;
        let mut memory = vec![(model.as_bytes(), firmware.model_region.start)];
        memory.extend(power.iter().map(|(bytes, address)| (bytes.as_slice(), *address)));
        let emulator = Emulator::start(board, &firmware.elf, &memory)?;
        Self::attach(board, firmware, model, emulator)
    }

    /// Talks to `board` at the other end of the serial port `port`, which runs the agent and has `model` in its
    /// flash.
    ///
    /// # Errors
    ///
    /// When the port cannot be opened, nobody answers, or another board or another model does.
    pub fn connect(board: &Board, port: &str, model: &Model<'_>) -> Result<Self, TargetError> {
        let device = Self::hold(board, None, model, Line::open(port)?)?;
        expect_board(board, port, &device.about)?;
        Ok(device)
    }

    /// Waits until a started `emulator` has accepted the model that it was given.
    pub(super) fn attach(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
        emulator: Emulator,
    ) -> Result<Self, TargetError> {
        Self::hold(board, Some(firmware), model, Line::Emulated(emulator))
    }

    /// As [`connect`](Self::connect), for comparisons with the model as it was flashed.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and when the device has tuned the model.
    pub(super) fn connect_untuned(
        board: &Board,
        port: &str,
        model: &Model<'_>,
    ) -> Result<Self, TargetError> {
        let device = Self::connect(board, port, model)?;
        match device.about.tuned {
            false => Ok(device),
            true => Err(TargetError::Tuned { board: board.name.clone(), port: port.to_owned() }),
        }
    }

    /// Makes `board` at the serial port `port`, whatever model it has, belong to no federation any more: it
    /// forgets its key and all that it learned.
    ///
    /// # Errors
    ///
    /// When the port cannot be opened, nobody answers, another board does, or its flash fails.
    pub fn forget(board: &Board, port: &str) -> Result<(), TargetError> {
        let device =
            |source| TargetError::Device { board: board.name.clone(), source, log: Log::default() };
        let mut link = Link::new(Line::open(port)?).map_err(device)?;
        let about = link.about().map_err(device)?;
        expect_board(board, port, &about)?;
        link.forget().map_err(device)
    }

    fn hold(
        board: &Board,
        firmware: Option<&Firmware>,
        model: &Model<'_>,
        line: Line,
    ) -> Result<Self, TargetError> {
        let board = board.name.clone();
        let mut link = Link::new(line).map_err(|source| TargetError::Device {
            board: board.clone(),
            source,
            log: Log::default(),
        })?;
        let about = link.about();
        let about = explain(&board, firmware, &mut link, about)?;
        let held = about.model.map_err(LinkError::from);
        let held = explain(&board, firmware, &mut link, held)?;
        if held.id != model.id() {
            return Err(TargetError::OtherModel {
                board,
                found: hexadecimal(&held.id),
                expected: hexadecimal(&model.id()),
            });
        }
        let (input_len, output_len) = (held.input_len as usize, held.output_len as usize);
        Ok(Self { board, about, firmware: firmware.cloned(), link, input_len, output_len })
    }

    /// What the device tells about itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Runs the model once.
    ///
    /// # Errors
    ///
    /// When `input` has a wrong length or the device fails.
    pub fn run(&mut self, input: &[i8]) -> Result<Ran, TargetError> {
        let mut output = vec![0; self.output_len];
        let count = self.link.run(input, &mut output);
        let count = self.explain(count)?;
        Ok(Ran { output, count })
    }

    /// Runs the model once on a clip of raw samples, whose features the device computes.
    ///
    /// # Errors
    ///
    /// When the clip has a wrong length, the device cannot compute the features, or it fails.
    pub fn run_clip(&mut self, samples: &[i16]) -> Result<(Features, Ran), TargetError> {
        let mut input = vec![0; self.input_len];
        let count = self.link.load_clip(samples, &mut input);
        let features = Features { input, count: self.explain(count)? };
        let mut output = vec![0; self.output_len];
        let count = self.link.run_loaded(&mut output);
        let count = self.explain(count)?;
        Ok((features, Ran { output, count }))
    }

    /// Runs the model once, operator by operator, and returns the counter's units of each.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn profile(&mut self, input: &[i8]) -> Result<Vec<u64>, TargetError> {
        let counts = self.link.profile(input);
        self.explain(counts)
    }

    /// As [`profile`](Self::profile) on the input that is in the arena, with the executed blocks in the
    /// emulator's log.
    pub(super) fn profile_logged(&mut self) -> Result<Vec<u64>, TargetError> {
        let emulator = self.link.line_mut().emulator();
        let logs = emulator.map_or(Ok(()), |emulator| emulator.log_blocks());
        logs.map_err(TargetError::io("asking the emulator for a log of executed blocks"))?;
        let counts = self.link.profile_loaded();
        self.explain(counts)
    }

    /// What `ask` gets over the line, with the device's log added to an error.
    ///
    /// # Errors
    ///
    /// When `ask` fails.
    pub(crate) fn over_line<R>(
        &mut self,
        ask: impl FnOnce(&mut Link<Line>) -> Result<R, LinkError>,
    ) -> Result<R, TargetError> {
        let result = ask(&mut self.link);
        self.explain(result)
    }

    /// The greatest number of bytes of stack that a run has taken.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn stack_bytes(&mut self) -> Result<u32, TargetError> {
        let bytes = self.link.stack_high_water();
        self.explain(bytes)
    }

    /// What the device has logged, where it is emulated.
    pub fn log(&mut self) -> Vec<String> {
        log(self.firmware.as_ref(), &mut self.link).device
    }

    fn explain<R>(&mut self, result: Result<R, LinkError>) -> Result<R, TargetError> {
        explain(&self.board, self.firmware.as_ref(), &mut self.link, result)
    }
}

fn expect_board(board: &Board, port: &str, about: &About) -> Result<(), TargetError> {
    if about.board == board.name {
        return Ok(());
    }
    Err(TargetError::OtherBoard {
        port: port.to_owned(),
        board: board.name.clone(),
        found: about.board.clone(),
    })
}

/// Adds to an error what the device logged.
fn explain<R>(
    board: &str,
    firmware: Option<&Firmware>,
    link: &mut Link<Line>,
    result: Result<R, LinkError>,
) -> Result<R, TargetError> {
    result.map_err(|source| TargetError::Device {
        board: board.to_owned(),
        source,
        log: log(firmware, link),
    })
}

/// What the device logged and its emulator printed. A real board's log goes to its debug probe.
fn log(firmware: Option<&Firmware>, link: &mut Link<Line>) -> Log {
    match (firmware, link.line_mut().emulator()) {
        (Some(firmware), Some(emulator)) => {
            Log { device: firmware.decode_log(&emulator.log()), emulator: emulator.output() }
        }
        _ => Log::default(),
    }
}
