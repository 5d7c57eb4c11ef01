//! The versions of Cloud Hypervisor, and what their command lines do not have in common.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::host::command_line::CommandLine;
use crate::host::probe_cache::ProbeCache;
use crate::host::version;

/// The first version that boots the kernel images of distributions (bzImage). It knows the serials of disks, too, which
/// guests find them by (since v35).
const OLDEST: u32 = 39;

/// Where to find it: no distribution of our time has a package.
pub(super) const REMEDY: &str =
    "install a release from https://github.com/cloud-hypervisor/cloud-hypervisor/releases, or use --engine qemu";

/// The versions that this process knows, by their programs.
fn known() -> std::sync::MutexGuard<'static, Vec<(PathBuf, Version)>> {
    static KNOWN: Mutex<Vec<(PathBuf, Version)>> = Mutex::new(Vec::new());
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version(pub(super) u32);

impl Version {
    /// The version of which nothing is known but that it is the newest.
    pub(super) const NEWEST: Self = Self(u32::MAX);

    /// Returns the version of a program that this process has asked before, or asks it.
    ///
    /// # Errors
    /// It does not run, or says something else.
    pub(super) fn of(program: &Path) -> Result<Self, Failure> {
        let known = known().iter().find(|(known, _)| known == program).map(|(_, version)| *version);
        known.map_or_else(|| Self::ask(program), Ok)
    }

    /// Does the same, but uses the probe cache in `cache` if the program has not changed.
    ///
    /// # Errors
    /// As for [`Version::of`].
    pub(super) fn cached(program: &Path, cache: &Path) -> Result<Self, Failure> {
        let what = "cloud-hypervisor version";
        let version = ProbeCache::of(cache).recall(what, &[program], || Self::ask(program))?;
        let mut known = known();
        known.retain(|(known, _)| known != program);
        known.push((program.to_owned(), version));
        Ok(version)
    }

    fn ask(program: &Path) -> Result<Self, Failure> {
        let line = version(program).map_err(|failure| failure.with_hint(REMEDY))?;
        Self::parse(&line).ok_or_else(|| {
            let cause = format!("it is not a Cloud Hypervisor: --version says {line:?}");
            Failure::new(program.display(), cause).with_hint(REMEDY)
        })
    }

    /// Reads what `--version` prints: `cloud-hypervisor v51.2` or `... v39.0-dirty`.
    fn parse(line: &str) -> Option<Self> {
        let version = line.strip_prefix("cloud-hypervisor ")?;
        version.trim_start_matches('v').split('.').next()?.parse().ok().map(Self)
    }

    /// Checks that machines run with it.
    ///
    /// # Errors
    /// It is too old.
    pub(super) fn check(self, program: &Path) -> Result<(), Failure> {
        if self >= Self(OLDEST) {
            return Ok(());
        }
        let cause = format!("it is v{}, and machines need v{OLDEST} or newer, which boots bzImage kernels", self.0);
        Err(Failure::new(program.display(), cause).with_hint(REMEDY))
    }

    /// Returns whether a disk's format must be named. Without it, newer versions refuse to write to the first sector of a
    /// disk, and older ones do not know the option.
    pub(super) fn names_formats(self) -> bool {
        self >= Self(51)
    }

    /// Returns whether disks must not be written to by AIO, which is what it does where it may not use io_uring, as in a
    /// confined program. v51 then lets the guest free space and write zeroes, and fails to do so.
    pub(super) fn has_incomplete_aio(self) -> bool {
        self == Self(51)
    }

    /// Adds an option with several values, or nothing if there are no values.
    ///
    /// One flag followed by all values is what every version takes, but for v30 to v35, whose parser (argh) wants the flag
    /// before each value. Only since v52 do others accept that too.
    pub(super) fn option(self, command: CommandLine, flag: &str, values: Vec<String>) -> CommandLine {
        match self.0 {
            _ if values.is_empty() => command,
            30..=35 => values.into_iter().fold(command, |command, value| command.args([flag.to_owned(), value])),
            _ => command.arg(flag).args(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_program_prints_them() {
        for (line, version) in [
            ("cloud-hypervisor v51.2\n", Some(51)),
            ("cloud-hypervisor v53.0-dirty", Some(53)),
            ("cloud-hypervisor v53.0.0-21-g9ed824d6d", Some(53)),
            ("cloud-hypervisor 0.9", Some(0)),
            ("Cloud Hypervisor dummy", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(line), version.map(Version), "{line}");
        }
    }

    #[test]
    fn values_of_one_option_follow_the_dialect_of_the_version() {
        for (version, expected) in [
            (0, "p --fs a b"),
            (29, "p --fs a b"),
            (30, "p --fs a --fs b"),
            (35, "p --fs a --fs b"),
            (36, "p --fs a b"),
            (51, "p --fs a b"),
            (52, "p --fs a b"),
            (u32::MAX, "p --fs a b"),
        ] {
            let line = |values| Version(version).option(CommandLine::new("p"), "--fs", values);
            let words = line(vec!["a".to_owned(), "b".to_owned()]).arguments;
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(format!("p {}", words.join(" ")), expected, "v{version}");
            assert!(line(Vec::new()).arguments.is_empty());
        }
    }

    #[test]
    fn version_that_is_too_old_is_refused_with_the_one_that_is_needed() {
        Version(OLDEST).check(Path::new("/bin/ch")).unwrap();
        let failure = Version(38).check(Path::new("/bin/ch")).unwrap_err().to_string();
        assert!(failure.starts_with("/bin/ch: it is v38, and machines need v39 or newer"), "{failure}");
        assert!(failure.contains("/releases, or use --engine qemu"), "{failure}");
    }
}
