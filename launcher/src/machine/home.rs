//! Where machines and their sockets live, and what may name one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::getuid;

use crate::failure::{About, Failure};

/// The directory that holds one directory for each machine: `machines` in `$XDG_STATE_HOME/lamina`, else in
/// `~/.local/state/lamina`.
///
/// # Errors
/// The variable is not set, and this user has no home.
pub(crate) fn machines() -> Result<PathBuf, Failure> {
    Ok(xdg("XDG_STATE_HOME", ".local/state")?.join("machines"))
}

/// `$XDG_CACHE_HOME/lamina`, else `~/.cache/lamina`.
///
/// # Errors
/// The variable is not set, and this user has no home.
pub(crate) fn cache_home() -> Result<PathBuf, Failure> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// The base directory that `variable` names (relative ones are to be ignored, says the XDG specification).
fn xdg(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|path| path.is_absolute());
    match set(variable).or_else(|| Some(home()?.join(below_home))) {
        Some(base) => Ok(base.join("lamina")),
        None => Err(Failure::new("HOME", "it is not set").with_hint(format_args!("set HOME or {variable}"))),
    }
}

/// A short directory for sockets, whose paths have at most 107 bytes: `$XDG_RUNTIME_DIR/lamina`, else
/// `/tmp/lamina-<uid>`, which must be ours alone: who can connect to a machine's sockets controls it.
pub(crate) fn sockets() -> Result<PathBuf, Failure> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usable = |path: &PathBuf| path.is_absolute() && path.is_dir();
    let home = match runtime.filter(usable) {
        Some(runtime) => runtime.join("lamina"),
        None => PathBuf::from(format!("/tmp/lamina-{}", getuid().as_raw())),
    };
    make_private(&home, false)?;
    let found = fs::symlink_metadata(&home).about(home.display())?;
    if !found.is_dir() || found.uid() != getuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(Failure::new(home.display(), "it is not a private directory of this user")
            .with_hint("remove it, or set XDG_RUNTIME_DIR"));
    }
    Ok(home)
}

pub(crate) fn make_private(path: &Path, parents: bool) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).recursive(parents).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.about(path.display()),
    }
}

/// Whether `name` can name a machine: 1 to 40 letters, digits, `-`, `_` and `.`, the first a letter or
/// digit. It becomes a host name and part of socket paths.
#[must_use]
pub(crate) fn is_valid_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A name for a machine that was given none: `vm-` and eight random hex digits.
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
