//! Waiting for what another process or the kernel is about to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for something that is about to happen, on a host whose processors are all busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two checks.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `holds` returns `true`.
///
/// # Panics
/// When it still returns `false` after [`PATIENCE`]; the message names `what`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until `look` returns a value. Returns it.
///
/// # Panics
/// When it still returns `None` after [`PATIENCE`]; the message names `what`.
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {} s in vain for {what}", PATIENCE.as_secs());
        std::thread::sleep(PAUSE);
    }
}

/// Does `work` while another thread repeats `step`, at least once. Returns what `work` returned, and the number of steps.
///
/// # Panics
/// When `step` or `work` panics.
pub fn beside<T>(step: impl Fn() + Sync, work: impl FnOnce() -> T) -> (T, usize) {
    /// Ends the loop, even if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let steps = scope.spawn(|| {
            let mut steps = 0;
            while steps == 0 || !done.load(Ordering::Relaxed) {
                step();
                steps += 1;
            }
            steps
        });
        let end = Done(&done);
        let outcome = work();
        drop(end);
        (outcome, steps.join().expect("every step succeeds"))
    })
}
