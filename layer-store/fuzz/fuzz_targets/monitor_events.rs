//! What Cloud Hypervisor says about its guest, in pieces of any length.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../../launcher/src/engine/cloud_hypervisor/events.rs"]
mod events;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut reader = events::Reader::default();
    let length = bytes.first().map_or(1, |&byte| usize::from(byte) + 1);
    for piece in bytes.chunks(length) {
        let _ = reader.take(piece);
    }
});
