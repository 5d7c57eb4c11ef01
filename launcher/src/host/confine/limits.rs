//! Limits and privileges of a confined process. What is set here survives `execve`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::Confinement;

/// Sets the limits of `confinement`, and excludes the memory of this process from core dumps. `proc` is a `/proc`.
pub(super) fn set(confinement: &Confinement, proc: &OwnedFd) -> io::Result<()> {
    no_core_dumps(proc)?;
    if confinement.open_files < u64::MAX {
        at_most(Resource::Nofile, confinement.open_files)?;
    }
    // Before Linux 5.14 the limit counts all processes of the user, not only those in its user namespace.
    if confinement.processes < u64::MAX && counts_per_namespace() {
        at_most(Resource::Nproc, confinement.processes)?;
    }
    Ok(())
}

/// Keeps this process's memory, and that of the programs that it becomes, out of core dumps.
///
/// # Errors
/// The limit cannot be set.
pub(super) fn no_core_dumps(proc: impl AsFd) -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A program that takes core dumps from a pipe gets them whatever the limit says (core(5)). A kernel without core
    // dumps has no such file.
    let _ = write_below(proc, "self/coredump_filter", "0");
    Ok(())
}

fn at_most(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |already| already.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

fn counts_per_namespace() -> bool {
    let uname = rustix::system::uname();
    let mut numbers =
        uname.release().to_str().unwrap_or_default().split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(5_u32), Some(14_u32))
}

/// Writes `text` to a file below `/proc`.
pub(super) fn write_below(proc: impl AsFd, path: &str, text: &str) -> io::Result<()> {
    let file = openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(text.as_bytes())
}

/// Returns the capabilities that a program keeps: to read all files, or none.
const fn kept(reads_all: bool) -> CapabilitySet {
    if reads_all { CapabilitySet::DAC_READ_SEARCH } else { CapabilitySet::empty() }
}

/// Gives up, for good, the capabilities that a program's file could give.
pub(super) fn empty_bounding_set(reads_all: bool) {
    for capability in CapabilitySet::all().difference(kept(reads_all)).iter() {
        // Fails for a capability that this kernel does not know, and without the right to do this, which is needed only
        // where there are capabilities to lose.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// Gives up all capabilities, and the right to get any.
pub(super) fn drop_privileges(reads_all: bool) -> io::Result<()> {
    empty_bounding_set(reads_all);
    clear_ambient_capability_set()?;
    let kept = kept(reads_all);
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    if reads_all {
        configure_capability_in_ambient_set(kept, true)?;
    }
    Ok(set_no_new_privs(true)?)
}
