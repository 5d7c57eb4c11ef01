//! Removes what a container has kept. Its files belong to subordinate ids, which the user may not touch outside a user
//! namespace that has them.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::Kept;
use super::ids::{Ids, become_root};
use crate::failure::{About, Failure};
use crate::host::confine::is_root_of_the_host;
use crate::host::json_file;
use crate::sys;

/// The first argument with which `lamina` runs as [`remove_here`]. It is not a command for users.
pub(crate) const REMOVE: &str = "__remove-container";

/// Removes the directory `writes` of a container, if it exists.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove(writes: &Path) -> Result<(), Failure> {
    if !writes.exists() {
        return Ok(());
    }
    let record = writes.with_extension("json");
    let kept: Option<Kept> = json_file::read(&record).ok();
    // Root needs no namespace for that.
    if let Some(kept) = kept.filter(|_| !is_root_of_the_host()) {
        in_namespace(writes, &kept.ids(None)?)?;
    }
    match fs::remove_dir_all(writes) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).about(writes.display()),
        _ => Ok(()),
    }
}

/// Removes a directory with everything in it, even what containers have written there under other ids.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove_tree(directory: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => return done.about(directory.display()),
    }
    in_namespace(directory, &Ids::subordinate((0, 0), None)?)?;
    fs::remove_dir(directory).about(directory.display())
}

fn in_namespace(writes: &Path, ids: &Ids) -> Result<(), Failure> {
    let ourselves = std::env::current_exe().about("/proc/self/exe")?;
    let mut command = Command::new(ourselves);
    command.arg(REMOVE).arg(writes).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().about(REMOVE)?;
    let mut byte = [0; 1];
    let entered = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut byte));
    if matches!(entered, Some(Ok(()))) {
        let given = ids.give_to(Pid::from_child(&child));
        if given.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        given?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(b"g")).about(REMOVE)?;
    }
    let output = child.wait_with_output().about(REMOVE)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(writes.display(), format_args!("cannot be removed: {words}")))
}

/// Removes the content of a directory, in a user namespace to which the parent gives ids.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove_here(arguments: &[OsString]) -> Result<u8, Failure> {
    let [writes] = arguments else { return Err(Failure::new(REMOVE, "needs a directory")) };
    sys::unshare(UnshareFlags::NEWUSER).about("user namespace")?;
    rustix::io::write(rustix::stdio::stdout(), b"e").about(REMOVE)?;
    io::stdin().read_exact(&mut [0; 1]).about(REMOVE)?;
    become_root()?;
    for entry in fs::read_dir(writes).about(Path::new(writes).display())?.flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.about(path.display())?;
    }
    Ok(0)
}
