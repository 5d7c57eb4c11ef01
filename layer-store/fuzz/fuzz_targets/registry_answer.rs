#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| layer_store::fuzzing::documents::registry_answer(bytes));
