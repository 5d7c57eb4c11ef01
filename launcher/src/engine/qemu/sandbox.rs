//! QEMU's own filter of system calls, and what else can confine it here.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::engine::contract::Host;
use crate::failure::{About, Failure};
use crate::host::confine::{Lack, Level, Support};
use crate::host::confinement_probe;
use crate::host::probe_cache::ProbeCache;

/// The value of `-sandbox`: no obsolete calls, no new privileges, no new programs, and no other priorities.
pub(super) const FILTER: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Returns what can confine QEMU here. Nothing is tried if QEMU is not to be confined.
///
/// # Errors
/// It does not start at all.
pub(super) fn support(host: &Host<'_>, program: &Path) -> Result<Support, Failure> {
    let (level, account) = &host.confine;
    if *level == Level::Off {
        return Ok(Support::default());
    }
    let mut probes = ProbeCache::of(host.cache);
    let mut found = confinement_probe::support(program, account.as_ref(), &mut probes, host.thorough)?;
    match probes.recall("qemu filter", &[program], || starts_filtered(program)) {
        Ok(()) => found.own_filter = true,
        Err(failure) => found.lacks.push(Lack {
            part: "no filter of QEMU's own".to_owned(),
            cause: failure.cause().to_owned(),
            remedy: "install a QEMU that was built with seccomp".to_owned(),
        }),
    }
    Ok(found)
}

/// Starts QEMU with its filter and no machine, and tells it to end.
fn starts_filtered(program: &Path) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(["-sandbox", FILTER, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-chardev", "stdio,id=monitor", "-mon", "chardev=monitor,mode=control"]);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut started = pipes.spawn().about(program.display())?;
    if let Some(mut monitor) = started.stdin.take() {
        // Fails if QEMU has given up, which its status says too.
        let _ = monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n");
    }
    let output = started.wait_with_output().about(program.display())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Failure::new(program.display(), words))
}
