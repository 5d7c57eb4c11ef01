#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = layer_store::fuzzing::layer_index(bytes);
});
