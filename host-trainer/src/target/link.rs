//! The host's side of the protocol, over any byte stream.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use niwaki_core::learn::Settings;
use niwaki_core::link::{
    CHUNK, CounterUnit, DeviceError, Frame, FrameError, Info, MAX_FRAME, ModelInfo, Receiver,
    Request, Response, encode,
};

/// How long a device may take to answer what it answers at once. On a machine that is busy with other work
/// an emulator needs seconds for it.
const PROMPT: Duration = Duration::from_secs(60);
/// How long one inference may take. An emulator on a busy machine executes some tens of millions of
/// instructions in a second.
const INFERENCE: Duration = Duration::from_secs(120);

/// Why a conversation with a device failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The line failed.
    #[error("the line failed: {0}")]
    Line(#[from] std::io::Error),
    /// No answer came in time.
    #[error("no answer to {request} within {} s", waited.as_secs())]
    Timeout {
        /// Name of the request.
        request: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The device's answer cannot be read.
    #[error("cannot read the device's answer: {0}")]
    Frame(#[from] FrameError),
    /// The two sides speak different versions of the protocol.
    #[error(
        "the firmware speaks version {device} of the protocol, this niwaki version {host}: \
         flash the firmware of this version of niwaki"
    )]
    Version {
        /// The device's version.
        device: u8,
        /// This host's version.
        host: u8,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device answered something else than was asked.
    #[error("the answer to {request} is of another kind")]
    Unexpected {
        /// Name of the request.
        request: &'static str,
    },
}

/// What a device tells about itself; see [`Info`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Name and version of the firmware.
    pub firmware: String,
    /// Name of the board.
    pub board: String,
    /// Name of the processor core.
    pub core: String,
    /// What its counter counts.
    pub counter: CounterUnit,
    /// Kernels that the firmware contains.
    pub kernels: u32,
    /// Bytes of memory for the arena.
    pub arena_available: u32,
    /// Whether the model runs as the device has tuned it.
    pub tuned: bool,
    /// The model that it holds, or why it cannot run.
    pub model: Result<ModelInfo, DeviceError>,
}

/// The host's end of a line to a device that runs the agent.
///
/// Reading from the line should give up with [`ErrorKind::TimedOut`] or [`ErrorKind::WouldBlock`] after
/// a fraction of a second, so that time limits can be kept.
#[derive(Debug)]
pub struct Link<L> {
    line: L,
    receiver: Receiver,
    sequence: u8,
    /// Received bytes, of which those from `next` on have not been looked at.
    bytes: Vec<u8>,
    next: usize,
}

impl<L: Read + Write> Link<L> {
    /// A link over `line`.
    ///
    /// # Errors
    ///
    /// When the line refuses a byte.
    pub fn new(mut line: L) -> Result<Self, LinkError> {
        // Ends whatever half a frame the device may have received from a host before.
        line.write_all(&[0])?;
        Ok(Self { line, receiver: Receiver::new(), sequence: 0, bytes: Vec::new(), next: 0 })
    }

    /// The line.
    pub fn line_mut(&mut self) -> &mut L {
        &mut self.line
    }

    /// What the device tells about itself: the first question of a conversation. The device may still be
    /// answering what another host has left on the line, or noise.
    ///
    /// # Errors
    ///
    /// When the device does not answer, or speaks another version of the protocol.
    pub fn about(&mut self) -> Result<About, LinkError> {
        let start = Instant::now();
        let firmware = loop {
            let answer = self.ask(Request::Version, PROMPT, |response| match response {
                Response::Version { firmware, version } => Some(format!("{firmware} {version}")),
                _ => None,
            });
            let to_others = matches!(
                answer,
                Err(LinkError::Frame(_) | LinkError::Device(_) | LinkError::Unexpected { .. })
            );
            if !to_others || start.elapsed() > PROMPT {
                break answer?;
            }
        };
        self.info(|info| About {
            firmware,
            board: info.board.to_owned(),
            core: info.core.to_owned(),
            counter: info.counter,
            kernels: info.kernels,
            arena_available: info.arena_available,
            tuned: info.tuned,
            model: info.model,
        })
    }

    /// The greatest number of bytes of stack that a run has taken.
    ///
    /// # Errors
    ///
    /// When the device does not answer.
    pub fn stack_high_water(&mut self) -> Result<u32, LinkError> {
        self.info(|info| info.stack_high_water)
    }

    /// Runs the model on `input`, writes what it gives to `output` and returns the counter's units that
    /// the run took.
    ///
    /// # Errors
    ///
    /// When the device refuses: `input` or `output` have another length than the model's, or there is
    /// no model.
    pub fn run(&mut self, input: &[i8], output: &mut [i8]) -> Result<u64, LinkError> {
        self.load(input)?;
        self.run_loaded(output)
    }

    /// Runs the model on the input that was loaded last; else as [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_loaded(&mut self, output: &mut [i8]) -> Result<u64, LinkError> {
        let count = self.ask(Request::Run, INFERENCE, |response| match response {
            Response::Ran { count } => Some(count),
            _ => None,
        })?;
        self.read(output, |offset, len| Request::ReadOutput { offset, len })?;
        Ok(count)
    }

    /// Sends a clip of raw samples, whose features become the input of the model; writes that to `input`
    /// and returns the counter's units that the features took.
    ///
    /// # Errors
    ///
    /// When the device refuses: the clip or `input` have another length than the model's, the model takes no
    /// sound, or the device cannot compute its features.
    pub fn load_clip(&mut self, samples: &[i16], input: &mut [i8]) -> Result<u64, LinkError> {
        let (mut offset, mut count) = (0, 0);
        let mut bytes = Vec::with_capacity(CHUNK);
        for part in samples.chunks(CHUNK / 2) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|sample| sample.to_le_bytes()));
            let request = Request::LoadSamples { offset, bytes: &bytes };
            count = self.ask(request, INFERENCE, |response| match response {
                Response::Samples { count, .. } => Some(count),
                _ => None,
            })?;
            offset += part.len() as u32;
        }
        self.read(input, |offset, len| Request::ReadInput { offset, len })?;
        Ok(count)
    }

    fn read(
        &mut self,
        values: &mut [i8],
        request: impl Fn(u32, u32) -> Request<'static>,
    ) -> Result<(), LinkError> {
        let mut offset = 0;
        for part in values.chunks_mut(CHUNK) {
            let len = part.len() as u32;
            self.ask(request(offset, len), PROMPT, |response| match response {
                Response::Output(bytes) | Response::Input(bytes) if bytes.len() == part.len() => {
                    for (slot, byte) in part.iter_mut().zip(bytes) {
                        *slot = byte.cast_signed();
                    }
                    Some(())
                }
                _ => None,
            })?;
            offset += len;
        }
        Ok(())
    }

    /// Runs the model on `input` operator by operator and returns the counter's units that each took.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn profile(&mut self, input: &[i8]) -> Result<Vec<u64>, LinkError> {
        self.load(input)?;
        self.profile_loaded()
    }

    /// As [`profile`](Self::profile), on the input that the arena holds.
    pub(super) fn profile_loaded(&mut self) -> Result<Vec<u64>, LinkError> {
        self.send(Request::Profile)?;
        let mut counts = Vec::new();
        loop {
            let more = self.receive(Request::Profile, INFERENCE, |response| match response {
                Response::Layer { index, count } => Some(Some((index, count))),
                Response::Ran { .. } => Some(None),
                _ => None,
            })?;
            match more {
                Some((index, count)) if usize::from(index) == counts.len() => counts.push(count),
                Some(_) => return Err(LinkError::Unexpected { request: name(Request::Profile) }),
                None => return Ok(counts),
            }
        }
    }

    /// Makes the device tune its model alone, from the blob's weights on.
    ///
    /// # Errors
    ///
    /// When the device cannot learn.
    pub fn begin_learning(&mut self, settings: Settings) -> Result<(), LinkError> {
        let Settings { learning_rate, momentum, batch } = settings;
        self.done(Request::BeginLearning { learning_rate, momentum, batch })
    }

    /// Makes the device one of a federation, with this key, which it must have already if it was `used`.
    ///
    /// # Errors
    ///
    /// When the device cannot learn, has another key, or has lost this one.
    pub fn provision(&mut self, key: [u8; 32], used: bool) -> Result<(), LinkError> {
        self.done(Request::Provision { key, used })
    }

    /// Makes the device forget its federation and all that it learned.
    ///
    /// # Errors
    ///
    /// When its flash fails.
    pub fn forget(&mut self) -> Result<(), LinkError> {
        self.done(Request::Forget)
    }

    /// Makes the device keep what it learned alone.
    ///
    /// # Errors
    ///
    /// When the device does not learn alone, or its flash fails.
    pub fn keep(&mut self) -> Result<(), LinkError> {
        self.done(Request::Keep)
    }

    /// Learns one sample; returns its loss and the counter's units that it took.
    ///
    /// # Errors
    ///
    /// When the device refuses the sample, or does not learn.
    pub fn learn(&mut self, input: &[i8], label: u16) -> Result<(f32, u64), LinkError> {
        self.load(input)?;
        self.ask(Request::Learn { label }, INFERENCE, |response| match response {
            Response::Learned { loss, count } => Some((loss, count)),
            _ => None,
        })
    }

    /// Ends an epoch.
    ///
    /// # Errors
    ///
    /// When the device does not learn.
    pub fn end_epoch(&mut self) -> Result<(), LinkError> {
        self.done(Request::EndEpoch)
    }

    /// Reads what was learned: all weights' parameters, then all biases', little-endian.
    ///
    /// # Errors
    ///
    /// When the device has learned nothing, or `bytes` are too many.
    pub fn read_learned(&mut self, bytes: &mut [u8]) -> Result<(), LinkError> {
        let values = zerocopy::FromBytes::mut_from_bytes(bytes).unwrap_or_default();
        self.read(values, |offset, len| Request::ReadLearned { offset, len })
    }

    /// Hands a packet to the device's federated client and returns the answer.
    ///
    /// # Errors
    ///
    /// When the client does not answer.
    pub fn federated(&mut self, packet: &[u8]) -> Result<Vec<u8>, LinkError> {
        self.ask(Request::Federated(packet), INFERENCE, |response| match response {
            Response::Federated(packet) => Some(packet.to_vec()),
            _ => None,
        })
    }

    fn done(&mut self, request: Request<'_>) -> Result<(), LinkError> {
        self.ask(request, INFERENCE, |response| (response == Response::Done).then_some(()))
    }

    fn load(&mut self, input: &[i8]) -> Result<(), LinkError> {
        let mut offset = 0;
        for part in input.chunks(CHUNK) {
            let bytes = zerocopy::IntoBytes::as_bytes(part);
            self.ask(Request::Load { offset, bytes }, PROMPT, |response| {
                (response == Response::Done).then_some(())
            })?;
            offset += part.len() as u32;
        }
        Ok(())
    }

    fn info<R>(&mut self, take: impl FnOnce(Info<'_>) -> R) -> Result<R, LinkError> {
        self.ask(Request::Info, PROMPT, |response| match response {
            Response::Info(info) => Some(take(info)),
            _ => None,
        })
    }

    fn ask<R>(
        &mut self,
        request: Request<'_>,
        limit: Duration,
        take: impl FnOnce(Response<'_>) -> Option<R>,
    ) -> Result<R, LinkError> {
        self.send(request)?;
        self.receive(request, limit, take)
    }

    fn send(&mut self, request: Request<'_>) -> Result<(), LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut buffer = [0; MAX_FRAME];
        let frame = encode(self.sequence, &request, &mut buffer)
            .map_err(|error| std::io::Error::new(ErrorKind::InvalidInput, error))?;
        self.line.write_all(frame)?;
        self.line.flush()?;
        Ok(())
    }

    fn receive<R>(
        &mut self,
        request: Request<'_>,
        limit: Duration,
        take: impl FnOnce(Response<'_>) -> Option<R>,
    ) -> Result<R, LinkError> {
        let request = name(request);
        let start = Instant::now();
        loop {
            while let Some(byte) = self.bytes.get(self.next) {
                self.next += 1;
                let Some(received) = self.receiver.push(*byte) else { continue };
                let frame: Frame<'_> = match received {
                    Ok(frame) => frame,
                    Err(FrameError::Version { found, expected }) => {
                        return Err(LinkError::Version { device: found, host: expected });
                    }
                    Err(error) => return Err(error.into()),
                };
                // Sequence 0 answers a request that the device could not read.
                if frame.sequence != self.sequence && frame.sequence != 0 {
                    continue;
                }
                return match frame.message()? {
                    Response::Error(DeviceError::Frame(FrameError::Version {
                        found: host,
                        expected: device,
                    })) => Err(LinkError::Version { device, host }),
                    Response::Error(error) => Err(error.into()),
                    response => take(response).ok_or(LinkError::Unexpected { request }),
                };
            }
            let waited = start.elapsed();
            if waited > limit {
                return Err(LinkError::Timeout { request, waited });
            }
            self.bytes.resize(MAX_FRAME, 0);
            self.next = 0;
            let read = match self.line.read(&mut self.bytes) {
                Ok(0) => {
                    let closed = "the device's end of the line was closed";
                    return Err(std::io::Error::new(ErrorKind::UnexpectedEof, closed).into());
                }
                Ok(read) => read,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted
                    ) =>
                {
                    0
                }
                Err(error) => {
                    self.bytes.clear();
                    return Err(error.into());
                }
            };
            self.bytes.truncate(read);
        }
    }
}

fn name(request: Request<'_>) -> &'static str {
    match request {
        Request::Version => "version",
        Request::Info => "info",
        Request::Load { .. } => "load",
        Request::Run => "run",
        Request::ReadOutput { .. } => "read output",
        Request::Profile => "profile",
        Request::Federated(_) => "federated",
        Request::LoadSamples { .. } => "load samples",
        Request::ReadInput { .. } => "read input",
        Request::BeginLearning { .. } => "begin learning",
        Request::Provision { .. } => "provision",
        Request::Forget => "forget",
        Request::Keep => "keep",
        Request::Learn { .. } => "learn",
        Request::EndEpoch => "end epoch",
        Request::ReadLearned { .. } => "read learned",
    }
}
