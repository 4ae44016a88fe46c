//! The loop that answers the host.

use core::marker::PhantomData;

use embedded_io::{Read, Write};
use embedded_storage::nor_flash::NorFlash;
#[cfg(feature = "learn")]
use niwaki_core::learn::Settings;
use niwaki_core::link::{
    CHUNK, CounterUnit, DeviceError, Frame, Info, MAX_FRAME, ModelInfo, Receiver, Request,
    Response, encode,
};
#[cfg(feature = "learn")]
use niwaki_core::store::Store;
use niwaki_core::{ALL_KERNELS, Model, ModelError, RunError, Session};

#[cfg(feature = "learn")]
use crate::learning::{self, Learning};
use crate::memory::Memory;
#[cfg(feature = "frontend")]
use crate::sound::Sound;
use crate::stack;
use crate::state::State;

/// What a board says about itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its name.
    pub board: &'static str,
    /// Its processor core, such as `cortex-m4`.
    pub core: &'static str,
    /// What its counter counts.
    pub counter: CounterUnit,
}

/// What the agent needs of a board.
pub trait Board {
    /// The line to the host.
    type Serial: Read + Write;

    /// What the board says about itself.
    fn about(&self) -> About;

    /// The line to the host.
    fn serial(&mut self) -> &mut Self::Serial;

    /// A count that only goes up, in the unit that [`About::counter`] names.
    fn counter(&mut self) -> u64;

    /// A model begins or ceases to run: for a board with a light to show it.
    fn busy(&mut self, busy: bool) {
        let _ = busy;
    }

    /// A random number that nobody can foretell, for the noise that protects what a device learned; `None`
    /// where the board has no source of them.
    fn random(&mut self) -> Option<u32> {
        None
    }
}

/// The kernels that this firmware contains, for a host that looks into its ELF file before it flashes a model.
#[unsafe(no_mangle)]
static NIWAKI_KERNELS: u32 = ALL_KERNELS;

/// Answers the host, for ever. `state` is where the board keeps what it learns; a board without flash for that
/// cannot be one of a federation.
pub fn agent<B: Board, F: NorFlash>(mut board: B, memory: Memory, state: State<F>) -> ! {
    let Memory { model: region, arena } = memory;
    let about = board.about();
    defmt::info!(
        "{=str} ({=str}): model region {=usize} bytes, arena {=usize} bytes",
        about.board,
        about.core,
        region.len(),
        arena.len()
    );
    let info = Info {
        board: about.board,
        core: about.core,
        counter: about.counter,
        // By reference, so that the word stays in the firmware.
        kernels: *core::hint::black_box(&NIWAKI_KERNELS),
        arena_available: count(arena.len()),
        model_region: count(region.len()),
        stack_high_water: 0,
        tuned: false,
        model: Err(DeviceError::NoModel),
    };
    let session = Model::from_region(region)
        .map_err(|error| {
            defmt::warn!("no model: {}", error);
            match error {
                ModelError::MissingKernels(kernels) => DeviceError::MissingKernels { kernels },
                _ => DeviceError::NoModel,
            }
        })
        .and_then(|model| {
            let (arena, rest) = split(arena, model.arena_len());
            Session::new(model, arena).map_err(refusal).map(|session| (session, rest))
        });
    let (session, rest) = match session {
        Ok((session, rest)) => (Ok(session), rest),
        Err(error) => (Err(error), Default::default()),
    };
    #[cfg(feature = "learn")]
    let mut store = learning::open(state);
    #[cfg(feature = "learn")]
    let (learning, rest) = match &session {
        Ok(session) => {
            let (learning, rest) = Learning::new(session.model(), as_bytes_mut(rest), &mut store);
            (learning, as_values_mut(rest))
        }
        Err(error) => (Err(*error), rest),
    };
    #[cfg(not(feature = "learn"))]
    let _ = state;
    #[cfg(feature = "frontend")]
    let sound = session.as_ref().map_err(|error| *error).and_then(|session| {
        let front_end = session.model().front_end().ok_or(DeviceError::NoFrontEnd)?;
        Sound::new(front_end, rest)
    });
    #[cfg(not(feature = "frontend"))]
    let _ = rest;
    let mut device = Device::<F> {
        info,
        session,
        #[cfg(feature = "frontend")]
        sound,
        #[cfg(feature = "learn")]
        learning,
        #[cfg(feature = "learn")]
        store,
        #[cfg(feature = "learn")]
        learned: 0,
        #[cfg(feature = "learn")]
        buffer: [0; CHUNK],
        ran: false,
        flash: PhantomData,
    };
    match &device.session {
        Ok(session) => {
            let model = ModelInfo {
                id: session.model().id(),
                arena: count(session.model().arena_len()),
                input_len: count(session.model().input().len()),
                output_len: count(session.model().output().len()),
                operators: session.model().op_count() as u16,
            };
            defmt::info!("model {=[u8; 8]:02x}, {=u32} bytes of arena", model.id, model.arena);
            device.info.model = Ok(model);
        }
        Err(error) => device.info.model = Err(*error),
    }

    let mut receiver = Receiver::new();
    let mut buffer = [0; MAX_FRAME];
    let restarted = Response::Error(DeviceError::Restarted);
    send(&mut board, encode(0, &restarted, &mut buffer).unwrap_or_default());
    loop {
        let received = loop {
            let mut byte = [0];
            // A line error loses bytes; the checksum finds the frame they are missing from.
            if matches!(board.serial().read(&mut byte), Ok(1))
                && let Some(received) = receiver.push(byte[0])
            {
                break received;
            }
        };
        let sequence = received.as_ref().map_or(0, |frame| frame.sequence);
        let mut reply = |board: &mut B, response: Response<'_>| {
            send(board, encode(sequence, &response, &mut buffer).unwrap_or_default());
        };
        let response = match received.and_then(|frame: Frame<'_>| frame.message::<Request<'_>>()) {
            Ok(request) => device.answer(request, &mut board, &mut reply),
            Err(error) => {
                defmt::warn!("request dropped: {}", error);
                Err(DeviceError::Frame(error))
            }
        };
        reply(&mut board, response.unwrap_or_else(Response::Error));
    }
}

fn send<B: Board>(board: &mut B, frame: &[u8]) {
    let serial = board.serial();
    if serial.write_all(frame).and_then(|()| serial.flush()).is_err() {
        defmt::warn!("the line refused a response");
    }
}

struct Device<'a, F: NorFlash> {
    info: Info<'static>,
    session: Result<Session<'a, 'a>, DeviceError>,
    #[cfg(feature = "frontend")]
    sound: Result<Sound<'a>, DeviceError>,
    #[cfg(feature = "learn")]
    learning: Result<Learning<'a>, DeviceError>,
    /// What the board has learned before, in its flash.
    #[cfg(feature = "learn")]
    store: Option<Store<F>>,
    /// Samples learned.
    #[cfg(feature = "learn")]
    learned: u32,
    /// Holds an answer that lies nowhere else.
    #[cfg(feature = "learn")]
    buffer: [u8; CHUNK],
    /// Whether the output belongs to the input that was loaded last.
    ran: bool,
    flash: PhantomData<F>,
}

impl<F: NorFlash> Device<'_, F> {
    /// Carries out one request. Responses before the last go to `reply`.
    fn answer<B: Board>(
        &mut self,
        request: Request<'_>,
        board: &mut B,
        reply: &mut impl FnMut(&mut B, Response<'_>),
    ) -> Result<Response<'_>, DeviceError> {
        let session = self.session.as_mut().map_err(|error| *error);
        match request {
            Request::Version => Ok(Response::Version {
                firmware: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
            }),
            Request::Info => {
                #[cfg(feature = "learn")]
                let tuned = self.learning.as_ref().is_ok_and(|learning| learning.tail().is_some());
                #[cfg(not(feature = "learn"))]
                let tuned = false;
                Ok(Response::Info(Info { tuned, ..self.info }))
            }
            Request::Load { offset, bytes } => {
                self.ran = false;
                let input = session?.input_mut();
                let len = count(input.len());
                let slots = input
                    .get_mut(offset as usize..)
                    .and_then(|rest| rest.get_mut(..bytes.len()))
                    .ok_or(DeviceError::Range { len })?;
                for (slot, byte) in slots.iter_mut().zip(bytes) {
                    *slot = byte.cast_signed();
                }
                Ok(Response::Done)
            }
            Request::Run => {
                let session = session?;
                board.busy(true);
                #[cfg(feature = "learn")]
                let tail = self.learning.as_ref().ok().and_then(Learning::tail);
                #[cfg(not(feature = "learn"))]
                let tail = ();
                let (result, stack) = stack::measure(|| timed_inference(board, session, tail));
                board.busy(false);
                self.info.stack_high_water = self.info.stack_high_water.max(count(stack));
                let count = result.map_err(refusal)?;
                self.ran = true;
                Ok(Response::Ran { count })
            }
            Request::Profile => {
                let session = session?;
                let mut total = 0;
                let mut more = session.model().op_count() > 0;
                let mut index = 0;
                while more {
                    let before = read_counter(board);
                    more = session.step().map_err(refusal)?;
                    let count = read_counter(board) - before;
                    total += count;
                    reply(board, Response::Layer { index, count });
                    index += 1;
                }
                self.ran = true;
                Ok(Response::Ran { count: total })
            }
            Request::ReadOutput { offset, len } => {
                let output = session?.output();
                if !self.ran {
                    return Err(DeviceError::NotRun);
                }
                part(output, offset, len).map(Response::Output)
            }
            Request::ReadInput { offset, len } => {
                part(session?.input_mut(), offset, len).map(Response::Input)
            }
            #[cfg(feature = "frontend")]
            Request::LoadSamples { offset, bytes } => {
                self.ran = false;
                let session = session?;
                let sound = self.sound.as_mut().map_err(|error| *error)?;
                // Every row takes the same stack, and measuring takes longer than most samples do.
                let measured = offset == 0 || sound.rows() == 0;
                let mut load = || sound.load(session, offset, bytes, || board.counter());
                let (result, stack) = if measured { stack::measure(load) } else { (load(), 0) };
                self.info.stack_high_water = self.info.stack_high_water.max(count(stack));
                result.map(|(rows, count)| Response::Samples { rows, count })
            }
            #[cfg(not(feature = "frontend"))]
            Request::LoadSamples { .. } => Err(DeviceError::NoFrontEnd),
            #[cfg(feature = "learn")]
            Request::BeginLearning { learning_rate, momentum, batch } => {
                let settings = Settings { learning_rate, momentum, batch };
                let learning = self.learning.as_mut().map_err(|error| *error)?;
                learning.begin(settings).map(|()| Response::Done)
            }
            #[cfg(feature = "learn")]
            Request::Provision { key, used } => {
                let learning = self.learning.as_mut().map_err(|error| *error)?;
                learning.provision(&key, used, &mut self.store).map(|()| Response::Done)
            }
            #[cfg(feature = "learn")]
            Request::Learn { label } => {
                self.ran = false;
                let session = session?;
                let learning = self.learning.as_mut().map_err(|error| *error)?;
                let mut learn = || {
                    let before = read_counter(board);
                    let loss = learning.learn(session, label)?;
                    Ok(Response::Learned { loss, count: read_counter(board) - before })
                };
                // Every sample takes the same stack, but that the last of a batch takes more: the first few
                // are measured, which takes longer than learning may.
                let measured = self.learned < STACK_SAMPLES;
                let (result, stack) = if measured { stack::measure(learn) } else { (learn(), 0) };
                self.info.stack_high_water = self.info.stack_high_water.max(count(stack));
                self.learned = self.learned.saturating_add(1);
                result
            }
            #[cfg(feature = "learn")]
            Request::Forget => {
                learning::forget(&mut self.store)?;
                self.learning.iter_mut().for_each(Learning::end);
                Ok(Response::Done)
            }
            #[cfg(feature = "learn")]
            Request::Keep => {
                let learning = self.learning.as_mut().map_err(|error| *error)?;
                learning.keep(&mut self.store).map(|()| Response::Done)
            }
            #[cfg(feature = "learn")]
            Request::EndEpoch => {
                let learning = self.learning.as_mut().map_err(|error| *error)?;
                learning.end_epoch(|| board.random()).map(|()| Response::Done)
            }
            #[cfg(feature = "learn")]
            Request::ReadLearned { offset, len } => {
                let learning = self.learning.as_ref().map_err(|error| *error)?;
                learning.read(offset, len, &mut self.buffer).map(Response::Output)
            }
            #[cfg(feature = "learn")]
            Request::Federated(packet) => {
                let Ok(learning) = &mut self.learning else {
                    return Err(DeviceError::NotFederated);
                };
                let len = learning.packet(packet, &mut self.store, &mut self.buffer)?;
                self.buffer.get(..len).map(Response::Federated).ok_or(DeviceError::NotFederated)
            }
            #[cfg(not(feature = "learn"))]
            Request::Federated(_) => Err(DeviceError::NotFederated),
            #[cfg(not(feature = "learn"))]
            Request::BeginLearning { .. }
            | Request::Provision { .. }
            | Request::Forget
            | Request::Keep
            | Request::Learn { .. }
            | Request::EndEpoch
            | Request::ReadLearned { .. } => Err(DeviceError::NotTunable),
        }
    }
}

/// Samples whose learning is watched for the stack that it takes.
#[cfg(feature = "learn")]
const STACK_SAMPLES: u32 = 16;

/// What was learned, if anything was.
#[cfg(feature = "learn")]
type LearnedTail<'a, 'm> = Option<&'a niwaki_core::learn::Tail<'m, 'm>>;
#[cfg(not(feature = "learn"))]
type LearnedTail<'a, 'm> = ();

/// An inference on the input that is loaded, and what it took. A function of its own, the bound of whose stack a
/// host reads from its code.
#[inline(never)]
fn timed_inference<B: Board>(
    board: &mut B,
    session: &mut Session<'_, '_>,
    _tail: LearnedTail<'_, '_>,
) -> Result<u64, RunError> {
    let before = read_counter(board);
    #[cfg(feature = "learn")]
    if let Some(tail) = _tail {
        tail.run_loaded(session).map_err(|_| RunError::ModelChanged)?;
        return Ok(read_counter(board) - before);
    }
    while session.step()? {}
    Ok(read_counter(board) - before)
}

/// Reads the counter, in a function of its own: its name tells a host that traces the execution where an
/// operator begins and ends.
#[inline(never)]
fn read_counter<B: Board>(board: &mut B) -> u64 {
    board.counter()
}

fn refusal(error: RunError) -> DeviceError {
    match error {
        RunError::ArenaTooSmall { expected, found } => {
            DeviceError::ArenaTooSmall { needed: count(expected), available: count(found) }
        }
        other => {
            defmt::error!("cannot run: {}", other);
            DeviceError::NoModel
        }
    }
}

/// The arena of a model and the memory behind it.
fn split(memory: &mut [i8], arena_len: usize) -> (&mut [i8], &mut [i8]) {
    match arena_len.next_multiple_of(align_of::<u32>()) {
        len if len <= memory.len() => memory.split_at_mut(len),
        _ => (memory, Default::default()),
    }
}

/// A part of an input or output, as the protocol sends it.
fn part(values: &[i8], offset: u32, len: u32) -> Result<&[u8], DeviceError> {
    let range = DeviceError::Range { len: count(values.len()) };
    if len as usize > CHUNK {
        return Err(range);
    }
    let rest = values.get(offset as usize..).ok_or(range)?;
    rest.get(..len as usize).map(as_bytes).ok_or(range)
}

/// A size as the protocol sends it. Nothing on these devices is as large as 4 GiB.
pub(crate) fn count(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

#[cfg(feature = "learn")]
fn as_bytes_mut(values: &mut [i8]) -> &mut [u8] {
    zerocopy::IntoBytes::as_mut_bytes(values)
}

#[cfg(feature = "learn")]
fn as_values_mut(bytes: &mut [u8]) -> &mut [i8] {
    zerocopy::FromBytes::mut_from_bytes(bytes).unwrap_or_default()
}

fn as_bytes(values: &[i8]) -> &[u8] {
    // SAFETY: `i8` and `u8` have the same size and alignment, and every bit pattern of one is a value
    // of the other.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}
