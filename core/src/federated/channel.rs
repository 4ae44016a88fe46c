//! Authenticated encryption between one device and the server.
//!
//! # Packet
//!
//! ```text
//! postcard( counter: u64, ChaCha20-Poly1305( postcard(message) ) )
//! ```
//!
//! The cipher is that of [RFC 8439](https://www.rfc-editor.org/rfc/rfc8439). Each device has a key of its
//! own, of 32 random bytes, which it shares with the server only. The nonce is the direction (1 byte: 0
//! towards the device, 1 from it), three zero bytes, and the packet's counter (big-endian); the label
//! [`LABEL`] is authenticated with each packet.
//!
//! # Counters
//!
//! Each side counts the packets it sends, in all its life with a key, and accepts only packets with a
//! counter above all it has accepted. A nonce is therefore never used twice and a packet never accepted
//! twice, across restarts too: numbers are *reserved* on permanent storage before they are used, in blocks
//! so that storage is written seldom, and after a restart a side goes on behind its reservation.
//! [`Channel::seal`] and [`Channel::open`] refuse to go beyond a reservation ([`ChannelError::Reserve`]);
//! the caller stores the one they ask for, tells [`Channel::reserved`], and tries again.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::store::Counters;

/// Authenticated with each packet: what these packets are, and the version of the messages in them.
pub const LABEL: &[u8] = b"niwaki federated 1";
/// Most bytes of a packet: they fit a [`Request::Federated`](crate::link::Request::Federated).
pub const MAX_PACKET: usize = crate::link::CHUNK;
/// Bytes of the authentication tag.
const TAG: usize = 16;
/// Most bytes of a message: a packet has a counter of up to 10 bytes, a length of 2 and the tag around it.
pub const MAX_MESSAGE: usize = MAX_PACKET - TAG - 12;

/// Which side of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Side {
    /// Receives commands, sends answers.
    Device,
    /// Sends commands, receives answers.
    Server,
}

/// Why a packet cannot be sealed or is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ChannelError {
    /// The bytes are no packet: cut short, with bytes behind it, or too long.
    Malformed,
    /// The packet was not sealed with this key for this direction, or was changed since.
    Authentication,
    /// The packet is authentic, but not newer than what was accepted before: sent twice, held back or
    /// recorded.
    Replayed {
        /// Smallest counter that would be accepted.
        expected: u64,
        /// The packet's.
        found: u64,
    },
    /// These counters must be stored before the call is repeated.
    Reserve(Counters),
    /// All counters are used up: the device needs a new key.
    Exhausted,
    /// The message does not fit a packet, or the buffer is too short for it.
    TooLong,
    /// The packet's content is no message that this side expects.
    Message,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed packet"),
            Self::Authentication => f.write_str("packet sealed with another key, or changed"),
            Self::Replayed { expected, found } => {
                write!(f, "replayed packet: expected counter {expected} or above, found {found}")
            }
            Self::Reserve(_) => f.write_str("counters must be stored first"),
            Self::Exhausted => f.write_str("counters used up: provision a new key"),
            Self::TooLong => write!(f, "message longer than {MAX_MESSAGE} bytes or the buffer"),
            Self::Message => f.write_str("packet holds no message of the expected kind"),
        }
    }
}

impl core::error::Error for ChannelError {}

#[derive(Serialize, Deserialize)]
struct Packet<'a> {
    counter: u64,
    #[serde(borrow)]
    sealed: &'a [u8],
}

/// One end of the channel between a device and the server.
pub struct Channel {
    cipher: ChaCha20Poly1305,
    side: Side,
    /// Numbers that come next: to send, and the smallest to accept.
    next: Counters,
    reserved: Counters,
    block: u64,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("side", &self.side).field("next", &self.next).finish()
    }
}

impl Channel {
    /// The end of `side` with the key of one device, behind the counters that were `stored` last (zeros
    /// with a new key). `block` numbers are reserved at a time: 1 where storing is cheap.
    pub fn new(key: &[u8; 32], side: Side, stored: Counters, block: u32) -> Self {
        let cipher = ChaCha20Poly1305::new(key.into());
        Self { cipher, side, next: stored, reserved: stored, block: block.max(1).into() }
    }

    /// Tells that these counters are on permanent storage.
    pub fn reserved(&mut self, counters: Counters) {
        self.reserved = counters;
    }

    /// Goes on sending with `counter` or above: what the other side expects.
    pub fn skip_to(&mut self, counter: u64) {
        self.next.send = self.next.send.max(counter);
    }

    /// Numbers that come next: to send, and the smallest that is accepted.
    pub fn next(&self) -> Counters {
        self.next
    }

    /// The counters to reserve before the next packet can be sealed, if any.
    ///
    /// # Errors
    ///
    /// When all are used up.
    pub fn needed_to_send(&self) -> Result<Option<Counters>, ChannelError> {
        if self.next.send < self.reserved.send {
            return Ok(None);
        }
        self.reservation(self.next.send, self.next.receive).map(Some)
    }

    /// Seals `message` into `buffer`; returns the packet and its counter.
    ///
    /// # Errors
    ///
    /// When counters must be reserved first, or the message does not fit.
    pub fn seal<'b, T: Serialize>(
        &mut self,
        message: &T,
        buffer: &'b mut [u8],
    ) -> Result<(&'b [u8], u64), ChannelError> {
        if let Some(counters) = self.needed_to_send()? {
            return Err(ChannelError::Reserve(counters));
        }
        let counter = self.next.send;
        let mut content = [0; MAX_MESSAGE + TAG];
        let (text, _) = content.split_at_mut_checked(MAX_MESSAGE).ok_or(ChannelError::TooLong)?;
        let len = postcard::to_slice(message, text).map_err(|_| ChannelError::TooLong)?.len();
        // Never again, whatever becomes of the packet.
        self.next.send = counter.checked_add(1).ok_or(ChannelError::Exhausted)?;
        let text = content.get_mut(..len).ok_or(ChannelError::TooLong)?;
        let nonce = nonce(self.side == Side::Device, counter);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, LABEL, text.into())
            .map_err(|_| ChannelError::TooLong)?;
        let end = len.wrapping_add(TAG);
        let slot = content.get_mut(len..end).ok_or(ChannelError::TooLong)?;
        slot.iter_mut().zip(tag.as_slice()).for_each(|(to, &from)| *to = from);
        let sealed = content.get(..end).ok_or(ChannelError::TooLong)?;
        let packet = postcard::to_slice(&Packet { counter, sealed }, buffer);
        Ok((packet.map_err(|_| ChannelError::TooLong)?, counter))
    }

    /// Opens a packet into `text`; returns its message and its counter.
    ///
    /// # Errors
    ///
    /// When the packet is not accepted, or counters must be reserved first. Nothing changes then.
    pub fn open<'t, T: Deserialize<'t>>(
        &mut self,
        packet: &[u8],
        text: &'t mut [u8; MAX_PACKET],
    ) -> Result<(T, u64), ChannelError> {
        let (Packet { counter, sealed }, rest) =
            postcard::take_from_bytes(packet).map_err(|_| ChannelError::Malformed)?;
        let len = sealed.len().checked_sub(TAG).ok_or(ChannelError::Malformed)?;
        if !rest.is_empty() || packet.len() > MAX_PACKET {
            return Err(ChannelError::Malformed);
        }
        let (cipher_text, tag) = sealed.split_at_checked(len).ok_or(ChannelError::Malformed)?;
        let tag: &Tag = tag.try_into().map_err(|_| ChannelError::Malformed)?;
        let text = text.get_mut(..len).ok_or(ChannelError::Malformed)?;
        text.iter_mut().zip(cipher_text).for_each(|(to, &from)| *to = from);
        let nonce = nonce(self.side == Side::Server, counter);
        self.cipher
            .decrypt_inout_detached(&nonce, LABEL, text.into(), tag)
            .map_err(|_| ChannelError::Authentication)?;
        // Only authentic packets may learn or change anything.
        if counter < self.next.receive {
            let expected = self.next.receive;
            return Err(ChannelError::Replayed { expected, found: counter });
        }
        if counter >= self.reserved.receive {
            return Err(ChannelError::Reserve(self.reservation(self.next.send, counter)?));
        }
        self.next.receive = counter.checked_add(1).ok_or(ChannelError::Exhausted)?;
        match postcard::take_from_bytes(text) {
            Ok((message, [])) => Ok((message, counter)),
            _ => Err(ChannelError::Message),
        }
    }

    /// A reservation with which these numbers can be used.
    fn reservation(&self, send: u64, receive: u64) -> Result<Counters, ChannelError> {
        let beyond = |number: u64| number.checked_add(self.block).ok_or(ChannelError::Exhausted);
        Ok(Counters {
            send: beyond(send)?.max(self.reserved.send),
            receive: beyond(receive)?.max(self.reserved.receive),
        })
    }
}

fn nonce(from_device: bool, counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    if let Some((direction, rest)) = nonce.split_first_mut() {
        *direction = from_device.into();
        if let Some(slot) = rest.last_chunk_mut() {
            *slot = counter.to_be_bytes();
        }
    }
    nonce.into()
}
