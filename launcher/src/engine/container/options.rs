//! What the user asks of a container besides, where that differs from a VM: the kernel is the host's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;

use guest_protocol::{CAPABILITIES, GuestOptions};

use crate::failure::Failure;

/// The system controls of a network namespace, as paths below `/proc/sys`. The stage of a container sets them, because it
/// enters that namespace before the runtime starts.
const NETWORK: &str = "net/";

/// The other controls that a container has for itself: those of its IPC namespace (`ipc_namespaces(7)`).
const IPC: [&str; 3] = ["kernel/msg", "kernel/shm", "fs/mqueue/"];
const SEMAPHORES: &str = "kernel/sem";

/// Checks that a container can have what is asked for.
///
/// # Errors
/// It would be the host's.
pub(super) fn check(options: &GuestOptions, host_network: bool) -> Result<(), Failure> {
    for (name, value) in &options.sysctls {
        if host_network && is_of_network(name) {
            let about = format!("--sysctl {}={value}", name.replace('/', "."));
            return Err(Failure::new(about, "with --network host it would be set for this host")
                .with_hint("leave out one of the two"));
        }
        if !is_of_network(name) && !is_of_ipc(name) {
            return Err(Failure::new(
                format_args!("--sysctl {}={value}", name.replace('/', ".")),
                "a container shares the host's kernel, and has only net.*, kernel.msg*, kernel.sem, kernel.shm* and \
                 fs.mqueue.* for itself",
            )
            .with_hint("use a VM: --engine auto"));
        }
    }
    for device in &options.devices {
        let found = fs::metadata(&device.path)
            .is_ok_and(|found| found.file_type().is_char_device() || found.file_type().is_block_device());
        if !found {
            return Err(Failure::new(format_args!("--device {}", device.path), "this host has no such device"));
        }
    }
    Ok(())
}

fn is_of_network(name: &str) -> bool {
    name.starts_with(NETWORK)
}

fn is_of_ipc(name: &str) -> bool {
    name == SEMAPHORES || IPC.iter().any(|start| name.starts_with(start))
}

/// Returns the system controls that the stage sets.
pub(super) fn system_controls_of_stage(options: &GuestOptions) -> Vec<(String, String)> {
    options.sysctls.iter().filter(|(name, _)| is_of_network(name)).cloned().collect()
}

/// Returns the system controls that the runtime sets.
pub(super) fn system_controls_of_runtime(options: &GuestOptions) -> BTreeMap<String, String> {
    let own = options.sysctls.iter().filter(|(name, _)| is_of_ipc(name));
    own.map(|(name, value)| (name.replace('/', "."), value.clone())).collect()
}

/// Returns the names of the capabilities in a set, as far as this kernel has them.
pub(super) fn capabilities(set: u64) -> Vec<String> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim_end().parse().ok());
    let known = CAPABILITIES.iter().take(last.unwrap_or(CAPABILITIES.len() - 1) + 1).enumerate();
    known.filter(|(number, _)| set >> number & 1 == 1).map(|(_, name)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_of_the_host_are_refused_and_the_others_set_once() {
        let of = |name: &str| GuestOptions { sysctls: vec![(name.into(), "1".into())], ..GuestOptions::default() };
        for (name, by_stage) in [("net/core/somaxconn", true), ("kernel/sem", false), ("fs/mqueue/msg_max", false)] {
            check(&of(name), false).unwrap();
            assert_eq!(check(&of(name), true).is_err(), by_stage, "{name}");
            assert_eq!(system_controls_of_stage(&of(name)).len(), usize::from(by_stage), "{name}");
            assert_eq!(system_controls_of_runtime(&of(name)).len(), usize::from(!by_stage), "{name}");
        }
        for name in ["vm/overcommit_memory", "kernel/semaphores", "kernel/domainname", "fs/nr_open"] {
            assert!(check(&of(name), false).unwrap_err().to_string().contains("use a VM"), "{name}");
        }
    }

    #[test]
    fn capabilities_have_their_names_and_unknown_ones_none() {
        assert_eq!(capabilities(1 << 12 | 1), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert!(capabilities(u64::MAX).len() <= CAPABILITIES.len());
    }
}
