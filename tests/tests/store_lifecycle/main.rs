//! A store in use: many processes at once, killed at any moment, on disks that are full or read-only, and
//! collected while in use.

mod additional_store;
mod concurrent_commands;
mod filesystem_kinds;
mod full_disks;
mod garbage_collection;
mod killed_commands;
mod killed_runs;
mod machines;
mod power_cuts;
mod remnants;
mod shared_content;
mod small_disk;
mod versions;

use std::path::PathBuf;

use end_to_end::layout::{Layer, noise};
use end_to_end::{Layout, Session};

/// Images with a common layer, which is larger than each image's own layer, so it is begun first.
struct Images {
    first: Layout,
    second: Layout,
}

impl Images {
    fn new() -> Self {
        let shared = Layer::of_files(&[("etc/os-release", b"ID=life\n"), ("noise", &noise(1, 400_000))]);
        let image = |seed| {
            Layout::of(&[shared.clone(), Layer::of_files(&[("own", &noise(seed, 60_000)), ("seed", &[b'0'; 1])])])
        };
        Self { first: image(2), second: image(3) }
    }
}

/// Two images of the same kind, small enough to be written again and again.
fn small_images() -> [Layout; 2] {
    let shared = Layer::of_files(&[("etc/os-release", b"ID=life\n"), ("noise", &noise(1, 9_000))]);
    [2, 3].map(|seed| Layout::of(&[shared.clone(), Layer::of_files(&[("etc/own", &noise(seed, 3_000))])]))
}

/// A directory to put on top of an image, which holds one file.
fn top(session: &Session, content: &str) -> PathBuf {
    let directory = session.work("top");
    std::fs::write(directory.join("on-top"), content).expect("a file of the test");
    directory
}
