//! What a hypervisor says on its monitor.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../../launcher/src/engine/qemu/qmp.rs"]
mod qmp;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes;
    while let Ok(Some(line)) = qmp::read_line(&mut lines) {
        let _ = qmp::parse(&line);
    }
});
