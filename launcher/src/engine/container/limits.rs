//! Limits of what a container uses, by control groups of version 2.
//!
//! An ordinary user may limit processes where systemd has delegated control groups to the user. So a container with limits
//! is started by `systemd-run --scope` of the user's service manager, or of the system's if this process is root. So is one
//! that needs control groups of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layer_store::user_dirs;

use super::runtime::has_unified_cgroups;
use crate::engine::plan::Limits;
use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::command_line::CommandLine;
use crate::host::confine::is_root_of_the_host;
use crate::host::probe_cache::ProbeCache;

/// What a probe limits a process to, and what its control group then says.
const TRIED: Limits = Limits { memory: Some(64 << 20), hundredths: Some(50), processes: Some(77) };
const SAID: &str = "67108864 50000 100000 109";

/// Processes and threads of the runtime and of init, which are in the same control group.
const OWN: u64 = 32;

/// Prints the limits of the control group that it is in.
const LOOK: &str = "cd /sys/fs/cgroup$(cut -d: -f3- /proc/self/cgroup) && echo $(cat memory.max cpu.max pids.max)";

/// Returns `command` so that it runs in a control group of its own with these limits, if it `needs` one or has any, or as it
/// is if that is not possible here.
pub(super) fn within(limits: &Limits, needs: bool, command: CommandLine) -> Result<CommandLine, Failure> {
    if !needs && *limits == Limits::default() || possible().is_err() {
        return Ok(command);
    }
    Ok(scope(limits)?.arg(&command.program).args(command.arguments))
}

/// Finds out, by trying, whether a container can have limits.
///
/// # Errors
/// It cannot; says why.
pub(super) fn possible() -> Result<(), Failure> {
    let with = [Path::new("/usr/bin/systemd-run"), Path::new("/sys/fs/cgroup")];
    match user_dirs::cache() {
        Ok(cache) => ProbeCache::of(&cache).recall("limits", &with, attempt),
        Err(_) => attempt(),
    }
}

fn attempt() -> Result<(), Failure> {
    let about = "control groups";
    if !has_unified_cgroups() {
        return Err(Failure::new(about, "this host has none of version 2")
            .with_hint("start its kernel with systemd.unified_cgroup_hierarchy=1"));
    }
    let command = scope(&TRIED)?.args(["sh", "-c", LOOK]);
    let output = Command::new(&command.program).args(&command.arguments).stdin(Stdio::null()).output().about(about)?;
    let said = String::from_utf8_lossy(&output.stdout);
    if said.trim() == SAID {
        return Ok(());
    }
    let cause = match String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ") {
        words if words.is_empty() => format!("limits were set, and they are {}", said.trim()),
        words => words,
    };
    Err(Failure::new(about, cause)
        .with_hint("delegate them to this user: loginctl enable-linger, and Delegate=yes for user@.service"))
}

/// Returns what precedes a command that runs within limits.
fn scope(limits: &Limits) -> Result<CommandLine, Failure> {
    let program = child::find("systemd-run", &["/usr/bin"]).ok_or_else(|| {
        Failure::new("systemd-run", "not found in PATH, and this user has no control groups without it")
    })?;
    let user = !is_root_of_the_host();
    let mut words: Vec<String> = Vec::new();
    // The directory of the user's own service manager, whatever this process uses for its sockets.
    let own = PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
    if user && own.is_dir() {
        words.extend([format!("XDG_RUNTIME_DIR={}", own.display()), program.display().to_string()]);
    }
    words.extend(user.then(|| "--user".to_owned()));
    words.extend(["--scope", "--quiet", "--collect", "--property=Delegate=yes"].map(str::to_owned));
    words.extend(limits.memory.map(|bytes| format!("--property=MemoryMax={bytes}")));
    words.extend(limits.memory.map(|_| "--property=MemorySwapMax=0".to_owned()));
    words.extend(limits.hundredths.map(|hundredths| format!("--property=CPUQuota={hundredths}%")));
    words.extend(limits.processes.map(|most| format!("--property=TasksMax={}", most.saturating_add(OWN))));
    words.push("--".to_owned());
    let first = if user && own.is_dir() { PathBuf::from("/usr/bin/env") } else { program };
    Ok(CommandLine::new(first).args(words))
}
