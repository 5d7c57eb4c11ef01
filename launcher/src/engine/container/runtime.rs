//! The OCI runtime: crun or runc, whichever is installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::host::child;

/// An OCI runtime of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    pub(super) program: PathBuf,
}

/// The variable that names another runtime: a program in `PATH`, or a path.
const RUNTIME: &str = "LAMINA_RUNTIME";

/// Where Debian has runc, which is not in the `PATH` of ordinary users.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The magic number of a cgroup v2 file system (statfs(2)).
const CGROUP2: i64 = 0x6367_7270;

impl Runtime {
    /// Finds the one that the variable [`RUNTIME`] names, else crun, else runc.
    ///
    /// # Errors
    /// None is installed.
    pub(super) fn find() -> Result<Self, Failure> {
        if let Some(name) = std::env::var(RUNTIME).ok().filter(|name| !name.is_empty()) {
            let program = if name.contains('/') {
                Some(PathBuf::from(&name)).filter(|program| program.is_file())
            } else {
                child::find(&name, &SYSTEM)
            };
            return program.map(|program| Self { program }).ok_or_else(|| {
                Failure::new(&name, format_args!("not found, and {RUNTIME} asks for it"))
                    .with_hint(format_args!("install it, or unset {RUNTIME}"))
            });
        }
        let found = ["crun", "runc"].iter().find_map(|name| child::find(name, &SYSTEM));
        found.map(|program| Self { program }).ok_or_else(|| {
            Failure::new("crun", "neither crun nor runc was found in PATH")
                .with_hint("install one (Debian: apt-get install crun)")
        })
    }

    pub(super) fn is_crun(&self) -> bool {
        self.program.file_name().is_some_and(|name| name.to_string_lossy().contains("crun"))
    }

    /// Returns whether the host's control groups must be hidden from it: crun refuses a host with those of version 1.
    pub(super) fn needs_hidden_cgroups(&self) -> bool {
        self.is_crun() && !has_unified_cgroups()
    }

    /// Returns the arguments that run the bundle `bundle` as the container `name`, which inherits `descriptors`
    /// descriptors from number 3 on. `state` is the directory of the runtime's own files.
    pub(super) fn arguments(&self, name: &str, state: &Path, bundle: &Path, descriptors: usize) -> Vec<PathBuf> {
        let mut words: Vec<PathBuf> = vec!["--root".into(), state.into()];
        if self.is_crun() {
            words.push("--cgroup-manager=disabled".into());
        }
        words.extend(["run".into(), "--preserve-fds".into(), descriptors.to_string().into()]);
        words.extend(["--bundle".into(), bundle.into(), name.into()]);
        words
    }
}

/// Returns whether the host has control groups of version 2 and no others.
pub(super) fn has_unified_cgroups() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2)
        && fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runtimes_inherit_the_descriptors_and_only_crun_is_told_to_leave_cgroups_alone() {
        for (program, own) in [("/usr/bin/crun", true), ("/usr/sbin/runc", false)] {
            let runtime = Runtime { program: program.into() };
            let words = runtime.arguments("m", Path::new("/p/run"), Path::new("/p/bundle"), 4);
            assert_eq!(words.contains(&"--cgroup-manager=disabled".into()), own);
            let end: Vec<PathBuf> = ["run", "--preserve-fds", "4", "--bundle", "/p/bundle", "m"].map(Into::into).into();
            assert!(words.ends_with(&end), "{words:?}");
        }
    }
}
