//! Messages between a host and a device, and their framing over a byte stream.
//!
//! The code does no input or output itself: [`encode`] writes one frame into a buffer of the caller,
//! [`Receiver`] is fed with whatever bytes arrive and hands out whole, checked frames. It therefore
//! serves a UART, a USB CDC line, a pipe to an emulator or a socket alike.
//!
//! # Frame
//!
//! ```text
//! COBS( version: u8 | sequence: u8 | postcard(message) | CRC-32/ISO-HDLC, little-endian ) 0x00
//! ```
//!
//! * [COBS](https://doi.org/10.1109/90.769765) leaves no zero byte inside a frame, so a receiver that
//!   lost its place finds the next frame behind the next zero.
//! * The CRC covers everything before it. A frame that fails it is dropped, never half-used.
//! * `version` is [`PROTOCOL_VERSION`]. It is compared before the message is parsed, so two sides that
//!   speak different versions tell their users so ([`FrameError::Version`]) instead of
//!   misunderstanding each other. The place and meaning of this byte and of the CRC never change.
//! * `sequence` is chosen by the host and repeated in every response to that request: an answer that
//!   comes late, after the host gave up on it, is recognised and skipped.
//!
//! A message is at most [`MAX_MESSAGE`] bytes long; longer data travels in chunks of [`CHUNK`] bytes.
//! The host asks, the device answers; only [`Request::Profile`] has several answers. Unasked, a device says
//! that it was [reset](DeviceError::Restarted) when it starts, so that no host waits for an answer that is lost.

use crc::{CRC_32_ISO_HDLC, Crc};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// The version of the messages and the frame that this crate speaks.
pub const PROTOCOL_VERSION: u8 = 2;

/// Bytes of payload in one [`Request::Load`], [`Request::LoadSamples`], [`Response::Output`] or
/// [`Response::Input`].
pub const CHUNK: usize = 512;

/// Longest encoded message in bytes, without version, sequence and CRC: one [`CHUNK`] and the fields
/// beside it.
pub const MAX_MESSAGE: usize = CHUNK + 32;

/// Longest frame in bytes, with the zero that ends it: the message, 6 bytes around it, one byte of
/// COBS overhead per 254 bytes begun, and the zero.
pub const MAX_FRAME: usize = {
    let content = MAX_MESSAGE + 6;
    content + content / 254 + 1 + 1
};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const CRC_BYTES: usize = 4;
const HEADER_BYTES: usize = 2;

/// What the host asks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Request<'a> {
    /// Who are you? Answered with [`Response::Version`], with or without a model.
    Version,
    /// What can you do and which model do you hold? Answered with [`Response::Info`].
    Info,
    /// Put these bytes (int8 values) into the input of the model, from `offset` on. Answered with
    /// [`Response::Done`].
    Load {
        /// Index of the first value within the input.
        offset: u32,
        /// At most [`CHUNK`] values.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// Run the model once on the loaded input. Answered with [`Response::Ran`]. The run may overwrite
    /// the input: load it again before the next run.
    Run,
    /// Send `len` values of the last run's output from `offset` on. Answered with
    /// [`Response::Output`].
    ReadOutput {
        /// Index of the first value within the output.
        offset: u32,
        /// At most [`CHUNK`].
        len: u32,
    },
    /// Run the model once, operator by operator. Answered with one [`Response::Layer`] for every
    /// operator in order of execution and one [`Response::Ran`] at the end.
    Profile,
    /// Hand this packet to the federated client: see `niwaki_core::federated`. Answered with
    /// [`Response::Federated`].
    Federated(
        /// At most [`CHUNK`] bytes.
        #[serde(borrow)]
        &'a [u8],
    ),
    /// Put the features of these samples of sound into the input of the model. A clip comes in order:
    /// `offset` is 0, or where the samples before ended. Answered with [`Response::Samples`].
    LoadSamples {
        /// Index of the first sample within the clip.
        offset: u32,
        /// Samples as `i16`, little-endian: at most [`CHUNK`] bytes.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// Send `len` values of the input from `offset` on, before a run overwrites them. Answered with
    /// [`Response::Input`].
    ReadInput {
        /// Index of the first value within the input.
        offset: u32,
        /// At most [`CHUNK`].
        len: u32,
    },
    /// Tune the model's tunable layers from the blob's weights on, alone. From now on [`Request::Run`] runs
    /// the model as it was tuned. Answered with [`Response::Done`].
    BeginLearning {
        /// Step per unit of gradient.
        learning_rate: f32,
        /// Part of the velocity that stays from batch to batch.
        momentum: f32,
        /// Samples of a batch.
        batch: u16,
    },
    /// Be a device of a federation, with this key, from now on and after every reset: packets for the client
    /// come in [`Request::Federated`]. A device that has this key already goes on from where it was, one that has
    /// another refuses. A firmware that was built with a key of its own does not need this. The line must be
    /// trusted at that moment. Answered with [`Response::Done`].
    Provision {
        /// The device's key.
        key: [u8; 32],
        /// Whether the key was in use: a device that does not have it any more has lost its counters, too, and
        /// refuses it.
        used: bool,
    },
    /// Learn the loaded input, alone or for the round. Answered with [`Response::Learned`].
    Learn {
        /// Its class.
        label: u16,
    },
    /// End an epoch: take the step of an unfinished batch, and after the last epoch of a round make the
    /// update. Answered with [`Response::Done`].
    EndEpoch,
    /// Send bytes of what was learned: all weights' parameters as `i16`, then all biases' as `i32`,
    /// little-endian. Answered with [`Response::Output`].
    ReadLearned {
        /// First byte.
        offset: u32,
        /// At most [`CHUNK`].
        len: u32,
    },
    /// Belong to no federation any more, and forget the key and all that was learned. The agent is as it was
    /// flashed after the next reset. Answered with [`Response::Done`].
    Forget,
    /// Keep what was learned alone: the model runs as it was tuned after every reset, too. Answered with
    /// [`Response::Done`].
    Keep,
}

/// What a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Response<'a> {
    /// To [`Request::Version`].
    Version {
        /// Name of the firmware.
        firmware: &'a str,
        /// Its version, as in its package.
        version: &'a str,
    },
    /// To [`Request::Info`].
    Info(#[serde(borrow)] Info<'a>),
    /// The request was carried out and has nothing to tell.
    Done,
    /// The model ran.
    Ran {
        /// Counter units (see [`Info::counter`]) from before the first to after the last operator.
        count: u64,
    },
    /// To [`Request::ReadOutput`].
    Output(&'a [u8]),
    /// To [`Request::Profile`], once per operator.
    Layer {
        /// Index of the operator, from 0.
        index: u16,
        /// Counter units that it took.
        count: u64,
    },
    /// The request was refused or could not be understood.
    Error(DeviceError),
    /// To [`Request::Federated`]: the client's packet.
    Federated(&'a [u8]),
    /// To [`Request::LoadSamples`].
    Samples {
        /// Rows of features of this clip that are complete.
        rows: u16,
        /// Counter units that they took.
        count: u64,
    },
    /// To [`Request::ReadInput`].
    Input(&'a [u8]),
    /// To [`Request::Learn`].
    Learned {
        /// Loss of the sample before it was learned.
        loss: f32,
        /// Counter units that learning it took.
        count: u64,
    },
}

/// What a device tells about itself and its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Info<'a> {
    /// Name of the board.
    pub board: &'a str,
    /// Name of the processor core, such as `cortex-m4`.
    pub core: &'a str,
    /// What the board's counter counts.
    pub counter: CounterUnit,
    /// Kernels that the firmware contains, in the encoding of the model's kernel set.
    pub kernels: u32,
    /// Bytes of memory that the firmware sets aside for the arena.
    pub arena_available: u32,
    /// Bytes of the region that holds the model.
    pub model_region: u32,
    /// Greatest number of bytes of stack that a run has taken since reset; 0 before the first.
    pub stack_high_water: u32,
    /// Whether the model runs as the device has tuned it, and not as it is in the region.
    pub tuned: bool,
    /// The model in the region, or why it cannot run.
    pub model: Result<ModelInfo, DeviceError>,
}

/// What a device tells about the model that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ModelInfo {
    /// The model's id, from its header.
    pub id: [u8; 8],
    /// Bytes of arena that the model uses.
    pub arena: u32,
    /// Values of the input.
    pub input_len: u32,
    /// Values of the output.
    pub output_len: u32,
    /// Operators that a run executes.
    pub operators: u16,
}

/// What the counter of a board counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CounterUnit {
    /// Executed instructions, as an emulator counts them. They are not cycles.
    Instructions,
    /// Clock cycles of the core.
    Cycles,
}

/// Why a device refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum DeviceError {
    /// The frame did not arrive whole, or was of another version.
    Frame(FrameError),
    /// The model region does not hold a valid model.
    NoModel,
    /// The model needs more arena than the firmware has.
    ArenaTooSmall {
        /// Bytes that the model needs.
        needed: u32,
        /// Bytes that there are.
        available: u32,
    },
    /// The model uses kernels that the firmware does not contain.
    MissingKernels {
        /// The missing ones, in the encoding of the model's kernel set.
        kernels: u32,
    },
    /// `offset` and length reach past the end of the input or output, or past a [`CHUNK`].
    Range {
        /// Values that there are.
        len: u32,
    },
    /// There is no output because the model has not run on the loaded input.
    NotRun,
    /// The firmware has no federated client, or it did not accept the packet.
    NotFederated,
    /// The model takes no sound, or the firmware was built without features of sound.
    NoFrontEnd,
    /// The arena leaves too little memory for the features of sound.
    FrontEndMemory {
        /// Bytes that they need.
        needed: u32,
        /// Bytes that there are.
        available: u32,
    },
    /// The samples do not begin where those before ended.
    Sequence {
        /// Index of the sample that is next.
        expected: u32,
    },
    /// The firmware cannot learn, or the model has no layers that can be tuned.
    NotTunable,
    /// The arena leaves too little memory for learning.
    LearningMemory {
        /// Bytes that it needs.
        needed: u32,
        /// Bytes that there are.
        available: u32,
    },
    /// Learning was not begun, or there is no round to learn for.
    NotLearning,
    /// A setting of learning or the class of a sample is out of range.
    Learning,
    /// The device learns alone, which a reset ends, or has kept what it learned or the key of a federation, which
    /// [`Request::Forget`] and a reset end.
    Occupied,
    /// The round asks for noise, and the board has no source of random numbers.
    NoRandomNumbers,
    /// The device was reset: it says so unasked when it starts, and knows nothing of requests before.
    Restarted,
    /// The flash for what is learned is too small for this model's state, or the board has none.
    StateMemory {
        /// Bytes that the model needs.
        needed: u32,
        /// Bytes that there are.
        available: u32,
    },
    /// The flash for what is learned failed.
    State,
    /// The device does not have the key that was in use, and must be given a new one.
    KeyLost,
    /// The device has forgotten what it learned, and waits for a reset.
    Forgotten,
}

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "the device could not read the request: {error}"),
            Self::NoModel => f.write_str("the model region of the device holds no valid model"),
            Self::ArenaTooSmall { needed, available } => {
                write!(f, "the model needs {needed} bytes of arena, the firmware has {available}")
            }
            Self::MissingKernels { kernels } => write!(
                f,
                "the model needs kernels that the firmware was built without (set {kernels:#x})"
            ),
            Self::Range { len } => write!(f, "the request reaches past the {len} values there are"),
            Self::NotRun => f.write_str("the model has not run on the loaded input"),
            Self::NotFederated => {
                f.write_str("the device has no federated client or refused the packet")
            }
            Self::NoFrontEnd => f.write_str(
                "the model takes no sound, or the firmware was built without features of sound",
            ),
            Self::FrontEndMemory { needed, available } => write!(
                f,
                "the features of sound need {needed} bytes of memory, the arena leaves {available}"
            ),
            Self::Sequence { expected } => {
                write!(f, "samples of a clip come in order; the next one is number {expected}")
            }
            Self::NotTunable => f.write_str(
                "the firmware was built without learning, or the model has no layers that can be tuned",
            ),
            Self::LearningMemory { needed, available } => write!(
                f,
                "learning needs {needed} bytes of memory beside the arena, there are {available}"
            ),
            Self::NotLearning => {
                f.write_str("learning was not begun, or there is no round to learn for")
            }
            Self::Learning => {
                f.write_str("a setting of learning or the class of a sample is out of range")
            }
            Self::Occupied => f.write_str(
                "the device learns alone, which a reset ends, or has kept what it learned or a key, which \
                 `niwaki forget` and a reset end",
            ),
            Self::NoRandomNumbers => f.write_str(
                "the round asks for noise, and the board has no source of random numbers",
            ),
            Self::Restarted => f.write_str("the device was reset in the meantime"),
            Self::StateMemory { needed, available } => write!(
                f,
                "what the model learns takes {needed} bytes of flash, the board has {available} for it"
            ),
            Self::State => f.write_str("the flash for what is learned failed"),
            Self::KeyLost => f.write_str("the device has lost its key and needs a new one"),
            Self::Forgotten => {
                f.write_str("the device has forgotten what it learned: reset it to use it again")
            }
        }
    }
}

impl core::error::Error for DeviceError {}

/// Why bytes from the line are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrameError {
    /// More than [`MAX_FRAME`] bytes came without a zero.
    TooLong,
    /// The frame is not valid COBS, or too short to hold a message.
    Malformed,
    /// The CRC does not match: bytes were lost or changed on the line.
    Checksum,
    /// The sender speaks another version of the protocol.
    Version {
        /// The sender's version.
        found: u8,
        /// The receiver's version.
        expected: u8,
    },
    /// The frame arrived whole but does not hold the expected kind of message.
    Message,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong => write!(f, "no end of frame within {MAX_FRAME} bytes"),
            Self::Malformed => f.write_str("malformed frame"),
            Self::Checksum => f.write_str("checksum of the frame does not match"),
            Self::Version { found, expected } => write!(
                f,
                "the sender speaks version {found} of the protocol, the receiver version {expected}"
            ),
            Self::Message => f.write_str("the frame holds no message of the expected kind"),
        }
    }
}

impl core::error::Error for FrameError {}

/// The message did not fit: it is longer than [`MAX_MESSAGE`] or than the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TooLong;

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the message is longer than {MAX_MESSAGE} bytes or than the buffer")
    }
}

impl core::error::Error for TooLong {}

/// Writes `message` as one frame, its final zero included, into `buffer` and returns the frame.
/// A buffer of [`MAX_FRAME`] bytes holds every message.
pub fn encode<'b, T: Serialize>(
    sequence: u8,
    message: &T,
    buffer: &'b mut [u8],
) -> Result<&'b mut [u8], TooLong> {
    encode_version(PROTOCOL_VERSION, sequence, message, buffer)
}

fn encode_version<'b, T: Serialize>(
    version: u8,
    sequence: u8,
    message: &T,
    buffer: &'b mut [u8],
) -> Result<&'b mut [u8], TooLong> {
    use postcard::ser_flavors::{Cobs, Slice, crc::CrcModifier};
    let limit = buffer.len().min(MAX_FRAME);
    let stuffed = Cobs::try_new(Slice::new(&mut buffer[..limit])).map_err(|_| TooLong)?;
    let flavour = CrcModifier::new(stuffed, CRC.digest());
    postcard::serialize_with_flavor(&(version, sequence, message), flavour).map_err(|_| TooLong)
}

/// One whole frame that arrived with a matching CRC and this crate's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The sequence number that the host gave the request.
    pub sequence: u8,
    message: &'a [u8],
}

impl<'a> Frame<'a> {
    fn decode(bytes: &'a mut [u8]) -> Result<Self, FrameError> {
        let len = cobs::decode_in_place(bytes).map_err(|_| FrameError::Malformed)?;
        let content = bytes.get(..len).ok_or(FrameError::Malformed)?;
        let (content, crc) =
            content.split_last_chunk::<CRC_BYTES>().ok_or(FrameError::Malformed)?;
        if CRC.checksum(content) != u32::from_le_bytes(*crc) {
            return Err(FrameError::Checksum);
        }
        let (header, message) =
            content.split_first_chunk::<HEADER_BYTES>().ok_or(FrameError::Malformed)?;
        let [found, sequence] = *header;
        if found != PROTOCOL_VERSION {
            return Err(FrameError::Version { found, expected: PROTOCOL_VERSION });
        }
        Ok(Self { sequence, message })
    }

    /// The message; its slices point into the receiver's buffer.
    pub fn message<T: Deserialize<'a>>(&self) -> Result<T, FrameError> {
        match postcard::take_from_bytes(self.message) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Message),
        }
    }
}

/// Collects bytes from the line until a frame is whole.
///
/// After an error it goes on with the bytes behind the next zero. Zeros between frames are skipped,
/// so a sender may begin with one to end whatever noise came before.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8, MAX_FRAME>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Collecting,
    /// A frame was handed out: its bytes go when the next one comes.
    Delivered,
    /// The frame is too long; skip to the next zero.
    Skipping,
}

impl Receiver {
    /// A receiver that has seen nothing.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), state: State::Collecting }
    }

    /// Takes the next byte from the line; with the zero that ends a frame, returns the frame or what
    /// is wrong with it.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame<'_>, FrameError>> {
        if self.state == State::Delivered {
            self.bytes.clear();
            self.state = State::Collecting;
        }
        if byte != 0 {
            if self.state == State::Collecting && self.bytes.push(byte).is_err() {
                self.state = State::Skipping;
            }
            return None;
        }
        let skipped = self.state == State::Skipping;
        self.state = State::Delivered;
        if skipped {
            return Some(Err(FrameError::TooLong));
        }
        if self.bytes.is_empty() {
            return None;
        }
        Some(Frame::decode(&mut self.bytes))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec as StdVec;

    fn receive(
        receiver: &mut Receiver,
        bytes: &[u8],
    ) -> StdVec<Result<(u8, StdVec<u8>), FrameError>> {
        let mut frames = StdVec::new();
        for byte in bytes {
            if let Some(frame) = receiver.push(*byte) {
                frames.push(frame.map(|frame| (frame.sequence, frame.message.to_vec())));
            }
        }
        frames
    }

    fn request() -> impl Strategy<Value = (u8, u32, StdVec<u8>)> {
        (any::<u8>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..=CHUNK))
    }

    proptest! {
        #[test]
        fn every_request_survives_the_line((sequence, offset, bytes) in request()) {
            let sent = Request::Load { offset, bytes: &bytes };
            let mut buffer = [0; MAX_FRAME];
            let frame = encode(sequence, &sent, &mut buffer).unwrap();
            prop_assert_eq!(frame.iter().position(|byte| *byte == 0), Some(frame.len() - 1));
            let mut receiver = Receiver::new();
            let (last, body) = frame.split_last().unwrap();
            for byte in body {
                prop_assert!(receiver.push(*byte).is_none());
            }
            let received = receiver.push(*last).unwrap().unwrap();
            prop_assert_eq!(received.sequence, sequence);
            prop_assert_eq!(received.message::<Request>().unwrap(), sent);
        }

        #[test]
        fn any_noise_is_survived_and_the_next_frame_arrives(
            noise in prop::collection::vec(any::<u8>(), 0..3 * MAX_FRAME),
        ) {
            let mut receiver = Receiver::new();
            for byte in &noise {
                if let Some(Ok(frame)) = receiver.push(*byte) {
                    // Whatever passes the CRC by chance must still parse or be refused.
                    let _ = frame.message::<Request>();
                    let _ = frame.message::<Response>();
                }
            }
            receiver.push(0);
            let mut buffer = [0; MAX_FRAME];
            let frame = encode(7, &Request::Run, &mut buffer).unwrap();
            let frames = receive(&mut receiver, frame);
            prop_assert_eq!(frames.len(), 1);
            prop_assert_eq!(frames[0].as_ref().unwrap().0, 7);
        }

        #[test]
        fn any_message_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let frame = Frame { sequence: 0, message: &bytes };
            let _ = frame.message::<Request>();
            let _ = frame.message::<Response>();
        }

        #[test]
        fn a_changed_byte_is_noticed(
            (sequence, offset, bytes) in request(), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let mut buffer = [0; MAX_FRAME];
            let frame = encode(sequence, &Request::Load { offset, bytes: &bytes }, &mut buffer).unwrap();
            let at = at.index(frame.len() - 1);
            frame[at] ^= flip;
            for frame in receive(&mut Receiver::new(), frame) {
                prop_assert!(frame.is_err());
            }
        }
    }

    #[test]
    fn the_other_version_is_named() {
        let mut buffer = [0; MAX_FRAME];
        let frame = encode_version(9, 1, &Request::Info, &mut buffer).unwrap();
        assert_eq!(
            receive(&mut Receiver::new(), frame),
            [Err(FrameError::Version { found: 9, expected: PROTOCOL_VERSION })]
        );
    }

    #[test]
    fn too_much_is_refused_on_both_sides() {
        let mut buffer = [0; 2 * MAX_FRAME];
        let bytes = [1; MAX_MESSAGE + 64];
        assert_eq!(
            encode(0, &Request::Load { offset: 0, bytes: &bytes }, &mut buffer),
            Err(TooLong)
        );
        assert_eq!(encode(0, &Request::Info, &mut []), Err(TooLong));
        let mut line = StdVec::from([1; MAX_FRAME + 1]);
        line.push(0);
        assert_eq!(receive(&mut Receiver::new(), &line), [Err(FrameError::TooLong)]);
    }

    #[test]
    fn the_largest_response_fits() {
        let longest = Response::Info(Info {
            board: "a-board-with-quite-a-long-name-indeed",
            core: "cortex-m33",
            counter: CounterUnit::Cycles,
            kernels: u32::MAX,
            arena_available: u32::MAX,
            model_region: u32::MAX,
            stack_high_water: u32::MAX,
            tuned: true,
            model: Err(DeviceError::ArenaTooSmall { needed: u32::MAX, available: u32::MAX }),
        });
        let mut buffer = [0; MAX_FRAME];
        encode(0, &longest, &mut buffer).unwrap();
        encode(0, &Response::Output(&[0xff; CHUNK]), &mut buffer).unwrap();
    }
}
