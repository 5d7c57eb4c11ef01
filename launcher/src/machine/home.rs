//! Where machines and their sockets are, and which names a machine may have.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layer_store::user_dirs::{self, UserDirError};

use crate::failure::{About, Failure};
use crate::host::confine::is_root_of_the_host;

/// Returns the directory that holds one directory for each machine: `machines` in `$XDG_STATE_HOME/lamina`, or else in
/// `~/.local/state/lamina`.
///
/// # Errors
/// The variable is not set, and this user has no home.
pub(crate) fn machines() -> Result<PathBuf, Failure> {
    Ok(user_dirs::state().map_err(unusable)?.join("machines"))
}

/// The directory of root's named volumes. The user as whom root's machines run has no way into root's home.
const VOLUMES_OF_ROOT: &str = "/var/lib/lamina-volumes";

/// Returns the directory that holds one directory for each named volume: beside that of the machines, except for root.
///
/// # Errors
/// As for [`machines`].
pub(super) fn volumes() -> Result<PathBuf, Failure> {
    if is_root_of_the_host() {
        return Ok(VOLUMES_OF_ROOT.into());
    }
    Ok(user_dirs::state().map_err(unusable)?.join("volumes"))
}

/// Returns `$XDG_CACHE_HOME/lamina`, or else `~/.cache/lamina`.
///
/// # Errors
/// The variable is not set, and this user has no home.
pub(crate) fn cache_home() -> Result<PathBuf, Failure> {
    user_dirs::cache().map_err(unusable)
}

/// Creates and returns the private directory for sockets ([`user_dirs::runtime`]).
pub(crate) fn sockets() -> Result<PathBuf, Failure> {
    user_dirs::runtime().map_err(unusable)
}

fn unusable(error: UserDirError) -> Failure {
    match error {
        UserDirError::NoHome { variable } => {
            Failure::new("HOME", "it is not set").with_hint(format_args!("set HOME or {variable}"))
        }
        UserDirError::Create { path, source } => Failure::new(path.display(), source),
        UserDirError::NotPrivate(path) => {
            let cause = "it is not a private directory of this user";
            Failure::new(path.display(), cause).with_hint("remove it, or set XDG_RUNTIME_DIR")
        }
        UserDirError::OfOthers { path, cause, variable } => {
            let cause = format!("{cause}, so others choose what is in it");
            Failure::new(path.display(), cause).with_hint(format_args!("set {variable} to a directory of your own"))
        }
        other => Failure::new("this user's directories", other),
    }
}

/// Returns whether a directory is the one for the sockets of the machine called `name`: `NAME` in a private directory of
/// this user for sockets. Nothing else is ever removed because a record names it.
pub(super) fn is_for_sockets(path: &Path, name: &str) -> bool {
    let is_named = is_valid_name(name) && path.file_name().is_some_and(|last| last == name);
    is_named && path.parent().is_some_and(user_dirs::is_runtime)
}

pub(crate) fn make_private(path: &Path, parents: bool) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).recursive(parents).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.about(path.display()),
    }
}

/// Returns whether `name` can name a machine: 1 to 40 letters, digits, `-`, `_` and `.`, the first a letter or digit.
/// It becomes a host name and part of socket paths.
#[must_use]
pub(crate) fn is_valid_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Returns a name for a machine without one: `vm-` and eight random hex digits.
#[must_use]
pub(crate) fn random_name() -> String {
    let mut bytes = [0_u8; 4];
    // Never fails for so few bytes once the host has booted (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("vm-{:08x}", u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_host_names_and_paths() {
        for good in ["a", "web-1", "A.b_c", &"x".repeat(40), &random_name()] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(41)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
