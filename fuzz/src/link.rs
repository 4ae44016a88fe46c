//! A receiver survives any bytes on its line, and finds the next frame behind them.

use niwaki_core::link::{MAX_FRAME, Receiver, Request, Response, encode};

/// Feeds the bytes to a receiver, and a sound frame after them.
pub fn run(data: &[u8]) {
    let mut receiver = Receiver::new();
    for &byte in data {
        let Some(Ok(frame)) = receiver.push(byte) else { continue };
        let sequence = frame.sequence;
        // What is read is written again, and reads the same.
        let mut buffer = [0; MAX_FRAME];
        if let Ok(request) = frame.message::<Request<'_>>() {
            let again = encode(sequence, &request, &mut buffer).expect("it fitted into a frame");
            assert!(reads_as(again, |frame| frame.message() == Ok(request)));
        }
        if let Ok(response) = frame.message::<Response<'_>>() {
            let again = encode(sequence, &response, &mut buffer).expect("it fitted into a frame");
            assert!(reads_as(again, |frame| frame.message() == Ok(response)));
        }
    }
    // Whatever came before: an end of frame, then a frame that must be understood.
    let mut buffer = [0; MAX_FRAME];
    let sound = encode(7, &Request::Info, &mut buffer).expect("a short message");
    let _ = receiver.push(0);
    let (last, rest) = sound.split_last().expect("a frame has bytes");
    assert!(rest.iter().all(|&byte| receiver.push(byte).is_none()));
    let frame = receiver.push(*last).expect("the frame ends").expect("it is sound");
    assert_eq!((frame.sequence, frame.message()), (7, Ok(Request::Info)));
}

fn reads_as(bytes: &[u8], check: impl Fn(niwaki_core::link::Frame<'_>) -> bool) -> bool {
    let mut receiver = Receiver::new();
    bytes.iter().any(|&byte| matches!(receiver.push(byte), Some(Ok(frame)) if check(frame)))
}
