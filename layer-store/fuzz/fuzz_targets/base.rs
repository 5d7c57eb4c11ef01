#![no_main]

use std::sync::OnceLock;

#[path = "samples.rs"]
mod samples;

static LAYERS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let indexes = || samples::layers().iter().filter_map(|tar| layer_store::fuzzing::tar(tar)).collect();
    layer_store::fuzzing::base(bytes, LAYERS.get_or_init(indexes));
});
