//! Unmounting by the program umount, which every Unix has.

use crate::mount::MountError;
use std::path::Path;
use std::process::Command;

/// Unmounts what is mounted at `path`. Whether that is a mount of this crate is not checked: systems differ in what they say
/// about a mount.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Busy`], or what the program said.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Unreadable { path: path.to_owned(), source };
    // An absolute path is not taken for an option.
    let absolute = std::path::absolute(path).map_err(failed)?;
    let output = Command::new("umount").arg(absolute).env("LC_ALL", "C").output();
    let output = output.map_err(|source| failed(std::io::Error::new(source.kind(), format!("umount: {source}"))))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(match said.to_ascii_lowercase() {
        said if said.contains("busy") => MountError::Busy(path.to_owned()),
        said if said.contains("not mounted") || said.contains("not currently mounted") => {
            MountError::NotMounted(path.to_owned())
        }
        _ => MountError::UnmountRefused { path: path.to_owned(), complaint: said },
    })
}
