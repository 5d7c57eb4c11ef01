//! A tar stream that a guest sends for `lamina cp`. Nothing may be written outside its destination.
#![no_main]

use std::path::Path;

use guest_protocol::archive::{Destination, unpack};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let home = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let directory = Path::new(home).join(format!("lamina-fuzz-{}", std::process::id()));
    let (into, at) = (directory.join("into"), directory.join("at"));
    std::fs::create_dir_all(&into).expect("a directory");
    let _ = unpack(bytes, &Destination::Into(into), false);
    let _ = unpack(bytes, &Destination::At { path: at, name: "name".into() }, false);
    for made in std::fs::read_dir(&directory).expect("the directory") {
        let name = made.expect("an entry").file_name();
        assert!(name == "into" || name == "at", "{name:?} is outside");
    }
    // A mode of the stream may forbid this for a user who is not root.
    let _ = std::fs::remove_dir_all(&directory);
});
