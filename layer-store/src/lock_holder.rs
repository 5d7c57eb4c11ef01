//! Who holds a lock, for messages.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;

use crate::user_dirs::user_name;

/// The processes that hold a `flock` on a file, as far as this process can see them.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    /// Process ids with their users. The user is not known for a process of another namespace.
    processes: Vec<(u32, Option<u32>)>,
}

impl Holders {
    /// Reads `/proc/locks` (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 708 fe:01:1311 0 EOF`. A line with `->` is a
    /// process that waits.
    pub(crate) fn of(file: &File) -> Self {
        let Ok(found) = rustix::fs::fstat(file) else { return Self::default() };
        let device = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
        let name = format!("{:02x}:{:02x}:{}", device.0, device.1, found.st_ino);
        let text = fs::read_to_string("/proc/locks").unwrap_or_default();
        let processes = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields.as_slice() {
                [_, "FLOCK", _, _, process, file, ..] if *file == name => process.parse().ok(),
                _ => None,
            }
        });
        let user = |process: u32| fs::metadata(format!("/proc/{process}")).ok().map(|found| found.uid());
        Self { processes: processes.map(|process| (process, user(process))).collect() }
    }

    /// Whether all of them are known to be processes of users other than this one and root. False if none is known.
    pub(crate) fn are_all_others(&self) -> bool {
        let is_other = |user: &Option<u32>| user.is_some_and(|user| user != 0 && user != geteuid().as_raw());
        !self.processes.is_empty() && self.processes.iter().all(|(_, user)| is_other(user))
    }
}

/// Text to add to the work that others do: ` (process 7 of alice)`, or nothing.
impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((process, user)) = self.processes.first() else { return Ok(()) };
        write!(f, " (process {process}")?;
        if let Some(user) = user.filter(|user| *user != geteuid().as_raw()) {
            write!(f, " of {}", user_name(user))?;
        }
        match self.processes.len() {
            1 => f.write_str(")"),
            more => write!(f, " and {} more)", more - 1),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn holder_of_a_lock_is_named() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Holders::of(&file).to_string(), "");
        file.lock().unwrap();
        let holders = Holders::of(&file);
        assert_eq!(holders.to_string(), format!(" (process {})", std::process::id()));
        assert!(!holders.are_all_others());
    }
}
