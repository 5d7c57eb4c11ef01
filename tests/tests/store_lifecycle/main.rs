//! The life of a store: many processes at once, killed at any moment, on disks that are full or read-only, and
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
#[path = "../../../layer-store/tests/support/random.rs"]
mod random;
mod remnants;
mod shared_content;
mod small_disk;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end::layout::{Layer, noise};
use end_to_end::{Layout, Session};
use layer_store::FaultPoint;

/// Images of one layer in common, larger than that which each has for itself, so that it is begun first.
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

/// `lamina` with arguments, which is to die (`name`) or to stop (`name:stop`) at a point.
fn faulty(session: &Session, point: FaultPoint, stop: bool, arguments: &[&str]) -> std::process::Command {
    let mut command = session.lamina(arguments);
    command.env("LAMINA_FAULT", format!("{}{}", point.name(), if stop { ":stop" } else { "" }));
    command
}

/// A directory to put on top of an image, which holds one file.
fn top(session: &Session, content: &str) -> PathBuf {
    let directory = session.work("top");
    std::fs::write(directory.join("on-top"), content).expect("a file of the test");
    directory
}

/// A file of a mount as the user reads it: by a process, for one that this process has open is open for a moment in
/// whatever another thread starts, and the mount then cannot be taken away.
fn content(session: &Session, path: &Path) -> Vec<u8> {
    let read = session.command(&end_to_end::programs::installed("cat")).arg(path).output().expect("cat");
    assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
    read.stdout
}

/// Does `work` while garbage is collected in a loop, with a pause after each time; what came of it, and the number of
/// collections.
fn beside_a_collector<T>(session: &Session, pause: Duration, work: impl FnOnce() -> T) -> (T, usize) {
    /// Ends the loop, also when the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !done.load(Ordering::Relaxed) {
                session.ok(["gc"]);
                collections += 1;
                std::thread::sleep(pause);
            }
            collections
        });
        let end = Done(&done);
        let outcome = work();
        drop(end);
        (outcome, collector.join().expect("every collection succeeds"))
    })
}
