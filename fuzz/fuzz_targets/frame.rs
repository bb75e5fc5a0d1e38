//! Frames of the native protocol, as a hostile client or server would send them.
#![no_main]

use codec::frame::{self, Frame, Parsed, WireStart};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        let consumed = match frame::parse(rest) {
            Ok(Parsed::Incomplete { missing }) => {
                assert!(missing > 0, "a reader that waits for nothing waits for ever");
                return;
            }
            Ok(Parsed::Frame { frame, consumed, .. }) => {
                look_at(&frame);
                consumed
            }
            Err(error) => {
                assert!(!error.refusal().text.is_empty(), "a refusal says what is wrong");
                let Some(consumed) = error.consumed else { return };
                consumed
            }
        };
        assert!(consumed >= frame::FRAME_HEADER_BYTES, "every frame takes the reader further");
        rest = &rest[consumed..];
    }
});

/// Lists were checked when the frame was decoded: they must yield as many entries as their bytes hold.
fn look_at(frame: &Frame<'_>) {
    match frame {
        Frame::Published(acks) => assert!(acks.count() > 0),
        Frame::Settle(settlements) => {
            for settlement in *settlements {
                assert!((1..=frame::TOKEN_BYTES_MAX).contains(&settlement.token.len()));
            }
        }
        Frame::Subscribe(subscribe) => {
            if let WireStart::Offsets(offsets) = subscribe.start {
                assert_eq!(offsets.iter().count(), offsets.len());
            }
        }
        _ => {}
    }
}
