//! The rights that init has in a container and the container's processes have not.
//!
//! Where the container's command is an init, init makes a namespace for it, for which it is given capabilities. No process
//! of the image can have them. Nor can one get them by a user namespace of its own: the container may make none.

use std::process::Command;

use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set};

use crate::sys;

/// What makes namespaces, and finds those of another user's process. `CAP_SYS_BOOT`, which init is given as well, stays: it
/// ends the namespace of a process and nothing else.
const OWN: [CapabilitySet; 2] = [CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_PTRACE];

/// Returns whether this process may make namespaces.
pub(crate) fn makes_namespaces() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Keeps init's own rights from a new process of a container, except those that the user has `added` to the process. Must
/// come before it changes its account, which gives up the right to do this.
pub(crate) fn keep_from(command: &mut Command, added: u64) {
    if makes_namespaces() {
        let kept: Vec<CapabilitySet> = OWN.into_iter().filter(|own| added & own.bits() == 0).collect();
        sys::before_exec(command, move || {
            for capability in &kept {
                // Root gets no capability that is not in this set when it executes a program.
                remove_capability_from_bounding_set(*capability)?;
            }
            Ok(())
        });
    }
}
