//! Commands on a host that differs from this one, in a mount namespace of their own.

use std::process::{Command, Stdio};

use crate::{Actor, programs};

/// Returns a command that runs `command` as the ordinary user after root has run the shell script `setup`, whose mounts
/// nothing else sees.
///
/// # Panics
/// When `command` is not one of a session.
#[must_use]
pub fn on_other_host(setup: &str, command: &Command) -> Command {
    let (uid, gid) = Actor::User.ids();
    // The mounts of other tests, which the namespace would keep alive, are not in it.
    let script = format!(
        "umount --all --lazy --types fuse.lamina; set -e; {setup}
        exec setpriv --reuid {uid} --regid {gid} --clear-groups -- \"$@\""
    );
    let mut wrapped = Command::new(programs::installed("unshare"));
    wrapped.args(["--mount", "sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    wrapped.env_clear().stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        wrapped.env(name, value.unwrap_or_default());
    }
    wrapped.current_dir(command.get_current_dir().expect("a session's command has a directory"));
    wrapped
}
