//! Shares: the command lines of the programs that serve them, which are this program (`lamina __share`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use share_server::GuestOwner;
use share_server::{Sandbox, Share};

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::file_share;

/// The first argument with which `lamina` runs as [`serve`]. It is not a command for users.
pub(crate) const SHARE: &str = "__share";

/// Stands for a socket that is standard input and listens already.
const STANDARD_INPUT: &str = "-";

/// Returns the command line that serves `directory` at `socket`. With an `owner`, the share belongs to that user of the
/// guest.
///
/// # Errors
/// This program's own path cannot be found.
pub(crate) fn command(
    directory: &Path,
    socket: &Path,
    read_only: bool,
    owner: Option<GuestOwner>,
) -> Result<CommandLine, Failure> {
    server(directory, socket, read_only, owner, "namespaces")
}

/// Returns the command line that serves only `file` at `socket`, in a directory that is created at `around`.
///
/// # Errors
/// As for [`command`].
pub(crate) fn command_for_file(
    file: &Path,
    around: &Path,
    socket: &Path,
    read_only: bool,
    owner: Option<GuestOwner>,
) -> Result<CommandLine, Failure> {
    // The server runs in namespaces of its own already, as root.
    let server = server(around, Path::new(STANDARD_INPUT), read_only, owner, "root")?;
    file_share::command(file, around, read_only, socket, server)
}

fn server(
    directory: &Path,
    socket: &Path,
    read_only: bool,
    owner: Option<GuestOwner>,
    sandbox: &str,
) -> Result<CommandLine, Failure> {
    Ok(CommandLine::of_ourselves(SHARE)?
        .arg(directory)
        .arg(socket)
        .arg(if read_only { "ro" } else { "rw" })
        .arg(sandbox)
        .arg(owner.map_or("as-on-the-host".to_owned(), |owner| format!("{}:{}", owner.uid, owner.gid))))
}

/// Returns which user of the guest owns a share: this one, if an ordinary user of the host serves it, perhaps for root
/// (`as_other`). A server that runs as root keeps the owners of the host.
#[must_use]
pub(crate) fn owner(uid: u32, gid: u32, as_other: bool) -> Option<GuestOwner> {
    (as_other || !rustix::process::getuid().is_root()).then_some(GuestOwner { uid, gid })
}

/// Serves a share until the hypervisor ends.
///
/// # Errors
/// The share cannot be served.
pub(crate) fn serve(arguments: &[OsString]) -> Result<u8, Failure> {
    let share = parse(arguments).ok_or_else(|| {
        Failure::new(SHARE, "needs a directory, a socket, ro or rw, namespaces or root, and UID:GID or as-on-the-host")
    })?;
    share_server::serve(&share).about(share.directory.display()).map(|()| 0)
}

fn parse(arguments: &[OsString]) -> Option<Share> {
    let [directory, socket, access, sandbox, owner] = arguments else { return None };
    let owner = match owner.to_str()?.split_once(':') {
        Some((uid, gid)) => Some(GuestOwner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
        None => None,
    };
    Some(Share {
        directory: PathBuf::from(directory),
        socket: (socket != STANDARD_INPUT).then(|| PathBuf::from(socket)),
        read_only: access != "rw",
        sandbox: if sandbox == "root" { Sandbox::Root } else { Sandbox::Namespaces },
        owner,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_reads_the_command_line_that_it_was_given() {
        let owner = Some(GuestOwner { uid: 1000, gid: 100 });
        for (read_only, owner) in [(true, owner), (false, owner), (true, None)] {
            let line = command(Path::new("/d"), Path::new("/s"), read_only, owner).unwrap();
            let share = parse(&line.arguments[1..]).unwrap();
            let expected = Share {
                directory: "/d".into(),
                socket: Some("/s".into()),
                read_only,
                sandbox: Sandbox::Namespaces,
                owner,
            };
            assert_eq!(share, expected);
        }
        assert_eq!(parse(&["/d".into()]), None);
    }
}
