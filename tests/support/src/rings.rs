//! FUSE over io_uring, which root may switch on for new mounts.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The parameter of the kernel, for every mount of the host.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// FUSE over io_uring, switched on while this exists. Tests that do so take turns.
///
/// Another process puts the parameter back as soon as this process has ended, however it ends.
#[derive(Debug)]
pub struct RingsOn {
    keeper: Child,
    /// Locked until the keeper has closed it too.
    parameter: File,
}

impl RingsOn {
    /// Switches it on. Returns `None` if this kernel has no such parameter, or if this user is not root.
    ///
    /// # Panics
    /// When root cannot change the parameter, or no process can be started.
    #[must_use]
    pub fn new() -> Option<Self> {
        if !Path::new(PARAMETER).exists() || !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut parameter = File::options().read(true).write(true).open(PARAMETER).expect("the parameter");
        parameter.lock().expect("a lock");
        let mut before = String::new();
        parameter.read_to_string(&mut before).expect("the parameter");
        // It is in another group, and ignores signals: what ends a test that takes too long must not end it.
        let mut keeper = Command::new("sh");
        keeper.args(["-c", "trap '' HUP INT TERM; read -r line; printf %s \"$1\"", "sh", before.trim()]);
        std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
        let shared = parameter.try_clone().expect("a descriptor");
        let keeper = keeper.stdin(Stdio::piped()).stdout(shared).spawn().expect("a shell");
        let on = Self { keeper, parameter };
        on.parameter.write_all_at(b"Y", 0).expect("FUSE over io_uring is switched on");
        Some(on)
    }
}

impl Drop for RingsOn {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let ended = self.keeper.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "FUSE over io_uring stays switched on");
        }
    }
}
