//! Federated messages and packets: any bytes are a message or an error.

use niwaki_core::federated::{Answer, Channel, Command, MAX_PACKET, Side};
use niwaki_core::store::Counters;

const KEY: [u8; 32] = [7; 32];

/// Reads the bytes as a command, as an answer, and as a packet of a channel whose key they do not know.
pub fn run(data: &[u8]) {
    let mut text = [0; MAX_PACKET];
    if let Ok(command) = postcard::from_bytes::<Command<'_>>(data) {
        if let Command::Offer(offer) = &command {
            let sound = offer.check().is_ok();
            let numbers = [offer.learning_rate, offer.momentum, offer.clip, offer.noise];
            assert!(!sound || numbers.iter().all(|number| number.is_finite()), "{offer:?}");
        }
        // Not compared: NaN differs from itself.
        if let Ok(written) = postcard::to_slice(&command, &mut text) {
            assert!(postcard::from_bytes::<Command<'_>>(written).is_ok());
        }
    }
    if let Ok(answer) = postcard::from_bytes::<Answer<'_>>(data) {
        let _ = postcard::to_slice(&answer, &mut text);
    }
    let mut channel = Channel::new(&KEY, Side::Device, Counters::default(), 64);
    let opened = channel.open::<Command<'_>>(data, &mut text).is_ok();
    assert!(!opened, "a packet without the key was let in");
}
