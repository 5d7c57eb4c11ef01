#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    layer_store::fuzzing::block_map(bytes);
});
