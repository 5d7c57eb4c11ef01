//! What a process may do: its groups, its limits, and the capabilities that it can never have.

use std::fs;
use std::process::Command;

use guest_protocol::account;
use guest_protocol::{Limit, Privileges, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

use crate::sys;

/// Returns the ids of the groups that are added to those of an account.
pub(crate) fn added_groups(privileges: &Privileges) -> Result<Vec<u32>, StartError> {
    if privileges.groups.is_empty() {
        return Ok(Vec::new());
    }
    let text = fs::read("/etc/group").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let found = privileges.groups.iter().map(|group| account::group(group, &text));
    let failed = |cause| StartError { status: 125, cause: format!("--group-add: {cause}") };
    found.collect::<Result<_, _>>().map_err(failed)
}

/// Restricts the new process. Must come before it changes its account, which gives up the right to do this.
pub(crate) fn restrict(command: &mut Command, privileges: &Privileges, in_container: bool) -> Result<(), StartError> {
    let limits = privileges.limits.iter().map(|limit| checked(limit, in_container)).collect::<Result<Vec<_>, _>>()?;
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim_end().parse().ok());
    let known = 0..=last.unwrap_or(40_u32);
    let dropped: Vec<CapabilitySet> = known
        .map(|number| 1_u64 << number)
        .filter(|bit| privileges.dropped_capabilities & bit != 0)
        .map(CapabilitySet::from_bits_retain)
        .collect();
    let no_new_privileges = privileges.no_new_privileges;
    if limits.is_empty() && dropped.is_empty() && !no_new_privileges {
        return Ok(());
    }
    sys::before_exec(command, move || {
        for (resource, limit) in &limits {
            setrlimit(*resource, *limit)?;
        }
        // The process gets no capability that is not in this set when it executes its program; init's inheritable and
        // ambient sets are empty.
        for capability in &dropped {
            remove_capability_from_bounding_set(*capability)?;
        }
        if no_new_privileges {
            set_no_new_privs(true)?;
        }
        Ok(())
    });
    Ok(())
}

/// Returns a limit as the kernel takes it.
fn checked(limit: &Limit, in_container: bool) -> Result<(Resource, Rlimit), StartError> {
    let refused = |cause: &str| StartError { status: 125, cause: format!("--ulimit {}: {cause}", limit.resource) };
    let resource = match limit.resource.as_str() {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(refused("the guest has no such limit")),
    };
    let ours = getrlimit(resource).maximum;
    let raises = |ours: u64| limit.hard.is_none_or(|hard| hard > ours);
    if let Some(ours) = ours.filter(|&ours| in_container && raises(ours)) {
        return Err(refused(&format!(
            "this host allows its user at most {ours}; raise that (ulimit -H, limits.conf(5)), or use a VM"
        )));
    }
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim_end().parse::<u64>().ok());
    let is_too_high = |most: u64| limit.hard.is_none_or(|hard| hard > most);
    if let Some(most) = most.filter(|&most| resource == Resource::Nofile && is_too_high(most)) {
        return Err(refused(&format!("the guest's kernel allows at most {most}; raise it with --sysctl fs.nr_open=N")));
    }
    Ok((resource, Rlimit { current: limit.soft, maximum: limit.hard }))
}
