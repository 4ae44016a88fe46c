//! Power-safe storage of learned state on NOR flash.
//!
//! A [`Store`] holds one [`Snapshot`] (the parameters of a model and the round they belong to) and, apart
//! from it, the [`Counters`] of an authenticated link and its key. Power may fail at any byte of any write or
//! erasure: afterwards the store holds the old snapshot or the new one, never a mixture.
//!
//! Underneath is [`sequential_storage`]'s log-structured map, which spreads wear and repairs what a cut
//! write left. One of its items is old or new; a snapshot is longer than an item and is written as
//! chunks under the keys that the last snapshot does not use, and then made the current one by a single
//! item, its head. That is why the flash must have room for two snapshots:
//! [`Store::flash_len`] says how much.
//!
//! The flash is any that implements [`embedded_storage`]'s blocking NOR flash traits. Where writing may
//! disturb other interrupts' code, as on chips that stall while they write, the caller picks the moment.

use core::fmt;
use core::future::Future;
use core::ops::Range;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use crc::{CRC_32_ISO_HDLC, Crc, Table};
use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};
use embedded_storage_async::nor_flash as asynchronous;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapStorage};
use serde::{Deserialize, Serialize};

/// Bytes of a snapshot that one item of the log holds.
pub const CHUNK: usize = 256;
/// Memory for an item on its way: key, chunk, and rounding up to the largest word of a flash.
const BUFFER: usize = CHUNK + 64;
/// Largest word that the log can write.
const MAX_WORD: usize = 32;

const HEAD: u16 = 0;
const LINK: u16 = 1;
/// Chunks of snapshots with an even and with an odd generation.
const CHUNKS: [u16; 2] = [0x4000, 0x8000];
const MAX_CHUNKS: usize = 0x4000;

const CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Snapshot {
    /// The model that was tuned: [`Model::id`](crate::Model::id).
    pub model: [u8; 8],
    /// Number of the round that ended with this state; the application's own count where there is no
    /// federation.
    pub round: u32,
}

/// Counters of an authenticated link: numbers below these have been used or must count as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Counters {
    /// First number that was never reserved for sending.
    pub send: u64,
    /// First number that was never reserved for receiving.
    pub receive: u64,
}

/// The key of a link and its counters. They are one item, so that no key is ever found with counters of
/// another one, or older than they were: the cipher must not see a number twice.
#[derive(Default, Serialize, Deserialize)]
struct Link {
    key: Option<[u8; 32]>,
    counters: Counters,
}

/// The item that makes chunks a snapshot.
#[derive(Serialize, Deserialize)]
struct Head {
    snapshot: Snapshot,
    generation: u32,
    len: u32,
    checksum: u32,
}

/// Why state cannot be stored or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StoreError<E> {
    /// The flash failed.
    Flash(E),
    /// The range is not made of whole pages, has fewer than two, or lies outside the flash.
    Range,
    /// Words of the flash are too large, or its pages too small, for the log.
    Geometry,
    /// The range is too small for the state: see [`Store::flash_len`].
    Full,
    /// What is stored is damaged. [`Store::erase`] makes the flash usable again.
    Corrupted,
    /// The snapshot is of another model.
    OtherModel {
        /// The model it is of.
        found: [u8; 8],
    },
    /// The snapshot has another length than the memory for it.
    Length {
        /// Bytes of memory.
        expected: usize,
        /// Bytes of the snapshot.
        found: usize,
    },
}

impl<E: fmt::Debug> fmt::Display for StoreError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "the flash failed: {error:?}"),
            Self::Range => {
                f.write_str("the range must be two or more whole pages within the flash")
            }
            Self::Geometry => f.write_str("words too large or pages too small for the log"),
            Self::Full => f.write_str("the range is too small for the state"),
            Self::Corrupted => f.write_str("what is stored is damaged: erase the range"),
            Self::OtherModel { found } => {
                f.write_str("the snapshot is of another model: ")?;
                found.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Length { expected, found } => {
                write!(f, "expected a snapshot of {expected} bytes, found {found}")
            }
        }
    }
}

impl<E: fmt::Debug> core::error::Error for StoreError<E> {}

type LogError<E> = sequential_storage::Error<E>;

impl<E> From<LogError<E>> for StoreError<E> {
    fn from(error: LogError<E>) -> Self {
        match error {
            LogError::Storage { value, .. } => Self::Flash(value),
            LogError::FullStorage => Self::Full,
            LogError::ItemTooBig | LogError::BufferTooBig | LogError::BufferTooSmall(_) => {
                Self::Geometry
            }
            _ => Self::Corrupted,
        }
    }
}

/// Learned state and counters on a range of NOR flash.
pub struct Store<F: NorFlash> {
    log: MapStorage<u16, Blocking<F>, Cache<Uncached, Uncached, Uncached, u16>>,
}

impl<F: NorFlash> fmt::Debug for Store<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("range", &self.log.flash_range()).finish_non_exhaustive()
    }
}

// The log's code is long, and is to stand in a firmware once: what calls it is not inlined.
impl<F: NorFlash> Store<F> {
    /// The store in `range` of `flash`, which is used by nobody else: what it holds, or an empty one when
    /// the range is erased.
    ///
    /// # Errors
    ///
    /// When the range or the flash's geometry does not serve.
    pub fn new(flash: F, range: Range<u32>) -> Result<Self, StoreError<F::Error>> {
        let capacity = u32::try_from(flash.capacity()).unwrap_or(u32::MAX);
        if range.start >= range.end || range.end > capacity {
            return Err(StoreError::Range);
        }
        if F::WRITE_SIZE > MAX_WORD || F::READ_SIZE > MAX_WORD {
            return Err(StoreError::Geometry);
        }
        use sequential_storage::map::MapConfigError as Problem;
        let config = MapConfig::try_new(range).map_err(|problem| match problem {
            Problem::PagesTooSmall | Problem::WordSizeTooLarge => StoreError::Geometry,
            _ => StoreError::Range,
        })?;
        Ok(Self { log: MapStorage::new(Blocking(flash), config, Cache::new_uncached()) })
    }

    /// Bytes of flash with which snapshots of `len` bytes can always be stored: two of them, the counters,
    /// and two pages for the log to turn over.
    pub const fn flash_len(len: usize) -> usize {
        let word = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
        // Key, header of the log (8 bytes, padded to words) and chunk.
        let item = (CHUNK + 2).next_multiple_of(word) + 8usize.next_multiple_of(word);
        let per_page = F::ERASE_SIZE.saturating_sub(2 * word) / item;
        let items = 2 * len.div_ceil(CHUNK) + 2;
        let pages = if per_page == 0 { 0 } else { items.div_ceil(per_page) };
        (pages + 2) * F::ERASE_SIZE
    }

    /// Makes the concatenation of `parts` the snapshot. Until it returns, the old one stands.
    ///
    /// # Errors
    ///
    /// When the flash fails or has no room; the old snapshot stands then.
    #[inline(never)]
    pub fn save(
        &mut self,
        snapshot: &Snapshot,
        parts: &[&[u8]],
    ) -> Result<(), StoreError<F::Error>> {
        let generation = match self.head() {
            Ok(head) => head.map_or(0, |head| head.generation.wrapping_add(1)),
            Err(StoreError::Corrupted) => 0,
            Err(error) => return Err(error),
        };
        let mut chunk = [0; CHUNK];
        let (mut filled, mut number, mut total) = (0usize, 0usize, 0usize);
        let mut digest = CRC.digest();
        for part in parts {
            digest.update(part);
            total = total.saturating_add(part.len());
            let mut part = *part;
            while !part.is_empty() {
                let room = chunk.get_mut(filled..).unwrap_or_default();
                let len = room.len().min(part.len());
                let (now, later) = part.split_at_checked(len).unwrap_or((part, &[]));
                room.iter_mut().zip(now).for_each(|(to, &from)| *to = from);
                filled = filled.wrapping_add(len);
                part = later;
                if filled == CHUNK {
                    self.put(chunk_key(generation, number)?, &chunk)?;
                    (filled, number) = (0, number.wrapping_add(1));
                }
            }
        }
        if let Some(rest) = chunk.get(..filled).filter(|rest| !rest.is_empty()) {
            self.put(chunk_key(generation, number)?, rest)?;
        }
        let len = u32::try_from(total).map_err(|_| StoreError::Full)?;
        let head = Head { snapshot: *snapshot, generation, len, checksum: digest.finalize() };
        self.put_record(HEAD, &Some(head))
    }

    /// What the current snapshot is of; `None` when none was ever saved.
    ///
    /// # Errors
    ///
    /// When the flash fails or is damaged.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>, StoreError<F::Error>> {
        Ok(self.head()?.map(|head| head.snapshot))
    }

    /// Reads the snapshot of `model` into `parts`, one after the other. `None` when none was ever saved.
    ///
    /// # Errors
    ///
    /// When it is another model's, has another length than the parts, or is damaged; the parts may hold
    /// anything then.
    #[inline(never)]
    pub fn load(
        &mut self,
        model: [u8; 8],
        parts: &mut [&mut [u8]],
    ) -> Result<Option<Snapshot>, StoreError<F::Error>> {
        let Some(head) = self.head()? else { return Ok(None) };
        if head.snapshot.model != model {
            return Err(StoreError::OtherModel { found: head.snapshot.model });
        }
        let expected = parts.iter().fold(0usize, |len, part| len.saturating_add(part.len()));
        if head.len as usize != expected {
            return Err(StoreError::Length { expected, found: head.len as usize });
        }
        let mut buffer = [0; BUFFER];
        let (mut chunk, mut number) = ([0; CHUNK], 0usize);
        // What is left of the chunk, and of all.
        let (mut rest, mut left) = (0..0, expected);
        for part in parts.iter_mut() {
            for slot in part.iter_mut() {
                if rest.is_empty() {
                    let key = chunk_key(head.generation, number)?;
                    number = number.wrapping_add(1);
                    let bytes = self.get(key, &mut buffer)?;
                    let bytes = bytes.filter(|bytes| bytes.len() == left.min(CHUNK));
                    let bytes = bytes.ok_or(StoreError::Corrupted)?;
                    chunk.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
                    rest = 0..bytes.len();
                }
                let at = rest.next().unwrap_or(0);
                *slot = chunk.get(at).copied().unwrap_or(0);
                left = left.wrapping_sub(1);
            }
        }
        let mut digest = CRC.digest();
        parts.iter().for_each(|part| digest.update(part));
        if digest.finalize() != head.checksum {
            return Err(StoreError::Corrupted);
        }
        Ok(Some(head.snapshot))
    }

    /// Stores the counters, whatever the model. One item: old or new.
    ///
    /// # Errors
    ///
    /// When the flash fails or has no room.
    pub fn save_counters(&mut self, counters: &Counters) -> Result<(), StoreError<F::Error>> {
        let key = self.key()?;
        self.put_record(LINK, &Link { key, counters: *counters })
    }

    /// The counters last stored; zeros when none ever were.
    ///
    /// # Errors
    ///
    /// When the flash fails or is damaged.
    pub fn counters(&mut self) -> Result<Counters, StoreError<F::Error>> {
        Ok(self.link()?.counters)
    }

    /// The key of the link, where the device was given one.
    ///
    /// # Errors
    ///
    /// When the flash fails or is damaged.
    pub fn key(&mut self) -> Result<Option<[u8; 32]>, StoreError<F::Error>> {
        Ok(self.link()?.key)
    }

    /// Makes `key` the key of the link, or leaves it none, and forgets counters and snapshot: those of the key
    /// before. A device that loses power meanwhile has either key, with its own counters. A key must be new: one
    /// that was used before would meet the same counters again. The flash keeps a key as it is: a device that
    /// others can take into their hands needs the read-out protection of its chip.
    ///
    /// # Errors
    ///
    /// When the flash fails or has no room.
    #[inline(never)]
    pub fn provision(&mut self, key: Option<[u8; 32]>) -> Result<(), StoreError<F::Error>> {
        // Without its snapshot the old key is still sound; a snapshot without its key is nobody's.
        self.put_record(HEAD, &None::<Head>)?;
        self.put_record(LINK, &Link { key, counters: Counters::default() })
    }

    /// Erases everything, key and counters included: a device whose counters are lost needs a new key, and so
    /// does one that loses power while its flash is erased, for pages are erased one after the other and a key
    /// may stay longer than the newest of its counters.
    ///
    /// # Errors
    ///
    /// When the flash fails.
    #[inline(never)]
    pub fn erase(&mut self) -> Result<(), StoreError<F::Error>> {
        Ok(run(self.log.erase_all())?)
    }

    /// Bytes of flash.
    pub fn flash_bytes(&self) -> u32 {
        let range = self.log.flash_range();
        range.end.saturating_sub(range.start)
    }

    /// Gives the flash back.
    pub fn release(self) -> F {
        self.log.destroy().0.0
    }

    #[inline(never)]
    fn head(&mut self) -> Result<Option<Head>, StoreError<F::Error>> {
        Ok(self.record::<Option<Head>>(HEAD)?.flatten())
    }

    #[inline(never)]
    fn link(&mut self) -> Result<Link, StoreError<F::Error>> {
        Ok(self.record(LINK)?.unwrap_or_default())
    }

    fn record<T: for<'de> Deserialize<'de>>(
        &mut self,
        key: u16,
    ) -> Result<Option<T>, StoreError<F::Error>> {
        let mut buffer = [0; BUFFER];
        match self.get(key, &mut buffer)? {
            None => Ok(None),
            Some(bytes) => postcard::from_bytes(bytes).map(Some).map_err(|_| StoreError::Corrupted),
        }
    }

    fn put_record<T: Serialize>(
        &mut self,
        key: u16,
        record: &T,
    ) -> Result<(), StoreError<F::Error>> {
        let mut bytes = [0; 64];
        let bytes = postcard::to_slice(record, &mut bytes).map_err(|_| StoreError::Geometry)?;
        self.put(key, bytes)
    }

    #[inline(never)]
    fn get<'b>(
        &mut self,
        key: u16,
        buffer: &'b mut [u8; BUFFER],
    ) -> Result<Option<&'b [u8]>, StoreError<F::Error>> {
        Ok(run(self.log.fetch_item::<&[u8]>(buffer, &key))?)
    }

    #[inline(never)]
    fn put(&mut self, key: u16, bytes: &[u8]) -> Result<(), StoreError<F::Error>> {
        let mut buffer = [0; BUFFER];
        Ok(run(self.log.store_item(&mut buffer, &key, &bytes))?)
    }
}

fn chunk_key<E>(generation: u32, number: usize) -> Result<u16, StoreError<E>> {
    let base = if generation & 1 == 0 { CHUNKS[0] } else { CHUNKS[1] };
    if number < MAX_CHUNKS { Ok(base.wrapping_add(number as u16)) } else { Err(StoreError::Full) }
}

/// Runs a future of the log over [`Blocking`], which never waits: one poll is all it takes.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

/// A blocking flash behind the asynchronous traits of the log.
struct Blocking<F>(F);

impl<F: ReadNorFlash> asynchronous::ErrorType for Blocking<F> {
    type Error = F::Error;
}

impl<F: ReadNorFlash> asynchronous::ReadNorFlash for Blocking<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<F: NorFlash> asynchronous::NorFlash for Blocking<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        self.0.erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.write(offset, bytes)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::vec;
    use std::vec::Vec;

    use embedded_storage::nor_flash::{
        ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase,
        check_read, check_write,
    };

    /// A NOR flash whose power fails after a number of bytes were written or erased.
    pub(crate) struct Simulated {
        pub(crate) bytes: Vec<u8>,
        /// Bytes until the power fails.
        pub(crate) budget: usize,
        /// Bytes written or erased.
        pub(crate) used: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Failure {
        Off,
        Misuse(NorFlashErrorKind),
        Rewritten,
    }

    impl NorFlashError for Failure {
        fn kind(&self) -> NorFlashErrorKind {
            NorFlashErrorKind::Other
        }
    }

    impl Simulated {
        pub(crate) const PAGE: usize = 1024;

        pub(crate) fn new(pages: usize) -> Self {
            Self { bytes: vec![0xff; pages * Self::PAGE], budget: usize::MAX, used: 0 }
        }

        /// The same flash after the power came back, until it fails again.
        pub(crate) fn reboot(self, budget: usize) -> Self {
            Self { bytes: self.bytes, budget, used: 0 }
        }

        /// How many of `len` bytes are reached.
        fn spend(&mut self, len: usize) -> (usize, Result<(), Failure>) {
            let reached = len.min(self.budget);
            self.budget -= reached;
            self.used += reached;
            (reached, if reached == len { Ok(()) } else { Err(Failure::Off) })
        }
    }

    impl ErrorType for Simulated {
        type Error = Failure;
    }

    impl ReadNorFlash for Simulated {
        const READ_SIZE: usize = 1;

        fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Failure> {
            check_read(self, offset, bytes.len()).map_err(Failure::Misuse)?;
            if self.budget == 0 {
                return Err(Failure::Off);
            }
            bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
            Ok(())
        }

        fn capacity(&self) -> usize {
            self.bytes.len()
        }
    }

    impl NorFlash for Simulated {
        const WRITE_SIZE: usize = 4;
        const ERASE_SIZE: usize = Self::PAGE;

        fn erase(&mut self, from: u32, to: u32) -> Result<(), Failure> {
            check_erase(self, from, to).map_err(Failure::Misuse)?;
            let (reached, result) = self.spend((to - from) as usize);
            self.bytes[from as usize..][..reached].fill(0xff);
            result
        }

        fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
            check_write(self, offset, bytes.len()).map_err(Failure::Misuse)?;
            let (reached, result) = self.spend(bytes.len());
            for (cell, &byte) in self.bytes[offset as usize..].iter_mut().zip(&bytes[..reached]) {
                // Bits can only be cleared.
                if *cell & byte != byte {
                    return Err(Failure::Rewritten);
                }
                *cell = byte;
            }
            result
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::testing::{Failure, Simulated};
    use super::*;

    const LEN: usize = 700;
    const MODEL: [u8; 8] = *b"a model.";

    /// State that belongs to a round.
    fn state(round: u32) -> Vec<u8> {
        (0..LEN).map(|i| (i as u32).wrapping_mul(round.wrapping_add(7)).to_le_bytes()[0]).collect()
    }

    fn store(flash: Simulated) -> Store<Simulated> {
        let range = 0..flash.bytes.len() as u32;
        Store::new(flash, range).unwrap()
    }

    fn save(store: &mut Store<Simulated>, round: u32) -> Result<(), StoreError<Failure>> {
        let state = state(round);
        let (a, b) = state.split_at(301);
        store.save(&Snapshot { model: MODEL, round }, &[a, b])?;
        store.save_counters(&Counters { send: round.into(), receive: 2 * u64::from(round) })
    }

    fn load(store: &mut Store<Simulated>) -> Option<u32> {
        let mut found = vec![0; LEN];
        let (a, b) = found.split_at_mut(500);
        let snapshot = store.load(MODEL, &mut [a, b]).unwrap()?;
        assert_eq!(found, state(snapshot.round));
        Some(snapshot.round)
    }

    fn pages() -> usize {
        Store::<Simulated>::flash_len(LEN) / Simulated::PAGE
    }

    #[test]
    fn power_may_fail_at_any_byte() {
        // As many saves before as make the log turn over its pages, each page once at least.
        for before in 0..12 {
            let mut flash = Simulated::new(pages());
            for round in 1..=before {
                let mut store = store(flash);
                save(&mut store, round).unwrap();
                flash = store.release();
            }
            let old = (before > 0).then_some(before);
            let new = before + 1;
            let whole = {
                let copy = Simulated { bytes: flash.bytes.clone(), ..Simulated::new(0) };
                let mut store = store(copy);
                save(&mut store, new).unwrap();
                store.release().used
            };
            let start = flash.bytes;
            let (mut old_seen, mut new_seen) = (false, false);
            // Every byte for one, so that the test does not take minutes.
            let step = if before == 5 { 1 } else { 53 };
            for budget in (1..whole).step_by(step) {
                let flash = Simulated { bytes: start.clone(), budget, used: 0 };
                let mut store = store(flash);
                let cut = save(&mut store, new);
                assert_eq!(cut, Err(StoreError::Flash(Failure::Off)), "{before} {budget}");
                let mut store = self::store(store.release().reboot(usize::MAX));
                let found = load(&mut store);
                assert!(found == old || found == Some(new), "{before} {budget} {found:?}");
                (old_seen, new_seen) = (old_seen | (found == old), new_seen | (found != old));
                let counters = store.counters().unwrap().send;
                let whole = [u64::from(before), u64::from(new)];
                assert!(whole.contains(&counters), "{before} {budget} {counters}");
                assert!(counters == u64::from(before) || found == Some(new));
                // And work goes on.
                save(&mut store, 99).unwrap();
                assert_eq!(load(&mut store), Some(99));
                assert_eq!(store.counters().unwrap(), Counters { send: 99, receive: 198 });
            }
            assert!(old_seen && (new_seen || step > 1));
        }
    }

    /// A device gets a key in place of another: it has one of them, and with each its own counters.
    #[test]
    fn power_may_fail_while_a_key_is_changed() {
        const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
        let mut old = store(Simulated::new(pages()));
        old.provision(Some(KEYS[0])).unwrap();
        for round in 1..=7 {
            save(&mut old, round).unwrap();
        }
        let old = old.release().bytes;
        let mut seen = [false; 3];
        for budget in 1.. {
            let mut store = store(Simulated { bytes: old.clone(), budget, used: 0 });
            let whole = store.provision(Some(KEYS[1])).is_ok();
            let mut store = self::store(store.release().reboot(usize::MAX));
            let (key, counters) = (store.key().unwrap(), store.counters().unwrap());
            let state = (key, counters.send, load(&mut store));
            let states =
                [(Some(KEYS[0]), 7, Some(7)), (Some(KEYS[0]), 7, None), (Some(KEYS[1]), 0, None)];
            let place = states.iter().position(|known| *known == state);
            seen[place.unwrap_or_else(|| panic!("{state:?}"))] = true;
            // It can be tried again, and work goes on.
            store.provision(Some(KEYS[1])).unwrap();
            save(&mut store, 1).unwrap();
            assert_eq!((store.key().unwrap(), load(&mut store)), (Some(KEYS[1]), Some(1)));
            if whole {
                break;
            }
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn power_may_fail_again_and_again() {
        let mut flash = Simulated::new(pages());
        let mut last = None;
        for round in 1..400u32 {
            flash = flash.reboot((round as usize * 7919) % 2500 + 1);
            let mut store = store(flash);
            let whole = save(&mut store, round).is_ok();
            let mut store = self::store(store.release().reboot(usize::MAX));
            let found = load(&mut store);
            assert!(found == last || found == Some(round), "{round} {found:?} {last:?}");
            assert!(!whole || found == Some(round));
            last = found;
            flash = store.release();
        }
        assert!(last > Some(300));
    }

    #[test]
    fn the_length_named_is_enough() {
        for len in [10, 700, 3000] {
            let pages = Store::<Simulated>::flash_len(len) / Simulated::PAGE;
            let mut store = store(Simulated::new(pages));
            let bytes = vec![0x5a; len];
            for round in 0..60 {
                store.save(&Snapshot { model: MODEL, round }, &[&bytes]).unwrap();
                store.save_counters(&Counters::default()).unwrap();
            }
        }
        let mut small = store(Simulated::new(3));
        let bytes = vec![0x5a; 3000];
        let result = small.save(&Snapshot { model: MODEL, round: 0 }, &[&bytes]);
        assert_eq!(result, Err(StoreError::Full));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let empty = &mut store(Simulated::new(pages()));
        assert_eq!(load(empty), None);
        assert_eq!(empty.counters().unwrap(), Counters::default());
        save(empty, 4).unwrap();
        let mut bytes = [0; LEN];
        let other = empty.load(*b"another.", &mut [&mut bytes]);
        assert_eq!(other, Err(StoreError::OtherModel { found: MODEL }));
        let short = empty.load(MODEL, &mut [&mut bytes[1..]]);
        assert_eq!(short, Err(StoreError::Length { expected: LEN - 1, found: LEN }));
        empty.erase().unwrap();
        assert_eq!(load(empty), None);

        let new = |range| Store::new(Simulated::new(4), range).err();
        for range in [0..5 * 1024, 100..2048, 0..1024, 2048..2048] {
            assert_eq!(new(range), Some(StoreError::Range));
        }
    }
}
