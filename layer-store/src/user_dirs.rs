//! The directories for this user's files: those of the XDG base directory specification, and their fallbacks.
//!
//! A crate such as `etcetera` implements the specification, but neither the private fallback for sockets nor the
//! directories of another user, which are half of this module.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The name of Lamina's directory in each of them.
const NAME: &str = "lamina";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserDirError {
    /// This user has no home directory, and the variable that would replace it is not set.
    #[error("HOME: not set to an absolute path; set HOME or {variable}")]
    NoHome {
        /// The variable that would replace it.
        variable: &'static str,
    },
    /// The directory cannot be created.
    #[error("{path}: cannot create the directory: {source}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The error of the host.
        source: io::Error,
    },
    /// Others can write to the directory, or it belongs to somebody else.
    #[error("{0}: not a private directory of this user; remove it, or set XDG_RUNTIME_DIR")]
    NotPrivate(PathBuf),
    /// A directory for this user's files belongs to somebody else, or others can write to it.
    #[error("{path}: {cause}, so others choose what is in it; set {variable} to a directory of your own")]
    OfOthers {
        /// The directory.
        path: PathBuf,
        /// Who owns it or may write it, in words.
        cause: String,
        /// The variable that names it.
        variable: &'static str,
    },
}

/// Returns `$XDG_DATA_HOME/lamina`, otherwise `~/.local/share/lamina`, or nothing if neither variable is set.
///
/// Unlike the others, it does not look up the home directory in the user database: services without `HOME` keep their
/// store in `/var/lib/lamina`.
pub(crate) fn data() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(data.join(NAME))
}

/// Returns `$XDG_STATE_HOME/lamina`, or else `~/.local/state/lamina`.
///
/// # Errors
/// [`UserDirError::NoHome`] or [`UserDirError::OfOthers`].
pub fn state() -> Result<PathBuf, UserDirError> {
    base("XDG_STATE_HOME", ".local/state")
}

/// Returns `$XDG_CACHE_HOME/lamina`, or else `~/.cache/lamina`.
///
/// # Errors
/// [`UserDirError::NoHome`] or [`UserDirError::OfOthers`].
pub fn cache() -> Result<PathBuf, UserDirError> {
    base("XDG_CACHE_HOME", ".cache")
}

fn base(variable: &'static str, below_home: &str) -> Result<PathBuf, UserDirError> {
    let home = || std::env::home_dir().filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(home()?.join(below_home)));
    let base = base.ok_or(UserDirError::NoHome { variable })?;
    let path = base.join(NAME);
    // What does not exist is created below the first of these that does.
    let existing = base.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)));
    let own = fs::metadata(&path).ok().map(|found| (path.as_path(), found));
    let causes = [
        own.and_then(|(path, found)| Some((path, open_to_others(&found, false)?))),
        existing.and_then(|(path, found)| Some((path, open_to_others(&found, true)?))),
    ];
    if let Some((path, cause)) = causes.into_iter().flatten().next() {
        return Err(UserDirError::OfOthers { path: path.to_owned(), cause, variable });
    }
    Ok(path)
}

/// Returns why others can change what is in a directory of this user, in words. With `is_above`, it is a directory
/// above that one. Such a directory may be root's, and may allow everybody to make their own files in it (sticky).
fn open_to_others(found: &fs::Metadata, is_above: bool) -> Option<String> {
    let own = geteuid().as_raw();
    let (owner, mode) = (found.uid(), found.mode());
    if owner != own && !(is_above && owner == 0) {
        return Some(format!("it belongs to {}", user_name(owner)));
    }
    // A group of the same number is the user's own, which some systems let write by default.
    let by_group = mode & 0o020 != 0 && found.gid() != owner;
    let is_sticky = is_above && mode & 0o1000 != 0;
    ((by_group || mode & 0o002 != 0) && !is_sticky).then(|| "others can write to it".to_owned())
}

/// Returns the name of a user in `/etc/passwd`, if there is one.
#[must_use]
pub fn name_of_user(uid: u32) -> Option<String> {
    let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Returns the name of a user, or their number if they have none, in words.
#[must_use]
pub fn user_name(uid: u32) -> String {
    name_of_user(uid).map_or_else(|| format!("user {uid}"), |name| format!("user {name}"))
}

/// The specification says that relative paths must be ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Creates and returns the directory for sockets: `$XDG_RUNTIME_DIR/lamina`, or else `/run/lamina` for root, and for
/// others `/run/user/UID/lamina`, `/tmp/lamina-UID` or `run` in the directory of [`state`]. The first one that can be
/// private to this user is taken, so nobody can stop this user by making one of them first.
///
/// Its path is short, because the path of a socket has at most 107 bytes. Only this user has access (mode 0700): a
/// process that can connect to a socket in it controls the process that listens there.
///
/// # Errors
/// [`UserDirError::Create`] or [`UserDirError::NotPrivate`].
pub fn runtime() -> Result<PathBuf, UserDirError> {
    let uid = geteuid().as_raw();
    let mut failed = None;
    for path in own_runtimes() {
        match make_private(&path, uid) {
            Ok(()) => return Ok(path),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or(UserDirError::NotPrivate(runtime_fallback(uid))))
}

fn make_private(path: &Path, uid: u32) -> Result<(), UserDirError> {
    // The directory of `state` may be missing too.
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(UserDirError::Create { path: path.to_owned(), source })
        }
        _ if !is_private(path, uid) => Err(UserDirError::NotPrivate(path.to_owned())),
        _ => Ok(()),
    }
}

/// Returns where this process's directory for sockets may be, the best place first.
fn own_runtimes() -> Vec<PathBuf> {
    let uid = geteuid().as_raw();
    let login = login_runtime(uid).filter(|_| uid != 0);
    let state = state().ok().map(|state| state.join("run")).filter(|_| uid != 0);
    configured_runtime().into_iter().chain(login).chain([runtime_fallback(uid)]).chain(state).collect()
}

/// Whether a directory has the name of one for sockets, and only this user has access to it.
#[must_use]
pub fn is_runtime(path: &Path) -> bool {
    let uid = geteuid().as_raw();
    let is_named = own_runtimes().iter().any(|own| own.file_name() == path.file_name());
    let is_plain = path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir);
    is_named && is_plain && is_private(path, uid)
}

/// Returns each directory in which a process of user `uid` may have its sockets and to which no other user can write:
/// this process's own directory, that of a login session, and that of a process without `XDG_RUNTIME_DIR`.
#[must_use]
pub fn possible_runtimes(uid: u32) -> Vec<PathBuf> {
    let own = if uid == geteuid().as_raw() { own_runtimes() } else { Vec::new() };
    let mut found = own;
    for path in login_runtime(uid).into_iter().chain([runtime_fallback(uid)]) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found.retain(|path| is_private(path, uid));
    found
}

/// Ignores a directory that does not exist, such as that of a user who has logged out, and one of another user, such as
/// that of the user who became root by su(1).
fn configured_runtime() -> Option<PathBuf> {
    let is_own = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_dir() && open_to_others(&found, false).is_none())
    };
    absolute("XDG_RUNTIME_DIR").filter(is_own).map(|path| path.join(NAME))
}

/// Returns the directory that a login session of a user gives to Lamina, if it exists and is that user's.
fn login_runtime(uid: u32) -> Option<PathBuf> {
    let session = Path::new("/run/user").join(uid.to_string());
    is_private(&session, uid).then(|| session.join(NAME))
}

fn runtime_fallback(uid: u32) -> PathBuf {
    if uid == 0 { Path::new("/run").join(NAME) } else { PathBuf::from(format!("/tmp/{NAME}-{uid}")) }
}

fn is_private(path: &Path, uid: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_directory_that_its_user_alone_can_enter_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let uid = geteuid().as_raw();
        let path = directory.path().join("runtime");
        assert!(!is_private(&path, uid));
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        assert!(is_private(&path, uid) && !is_private(&path, uid + 1));
        for mode in [0o701, 0o750, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(!is_private(&path, uid), "{mode:o}");
        }
        let link = directory.path().join("link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(!is_private(&link, uid), "a link that somebody else may have made");
    }
}
