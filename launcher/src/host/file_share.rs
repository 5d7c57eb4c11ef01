//! Shares of a single file: the server of one sees that file and no other file next to it.
//!
//! `lamina __file-share FILE DIRECTORY NAME rw|ro SOCKET PROGRAM...` enters a new mount namespace (for an
//! ordinary user within a user namespace in which that user is root) and makes an empty file system its root. It binds
//! FILE there as DIRECTORY/NAME, and adds what a program needs to run, read-only. It becomes PROGRAM, which serves
//! DIRECTORY at SOCKET: the socket is its standard input, and listens already. So root in the guest finds no other file to read, and
//! can create none.

use std::ffi::OsString;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::Mode;
use rustix::process::{Signal, getgid, getuid, set_parent_process_death_signal, umask};
use rustix::thread::UnshareFlags;

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::confine::NewRoot;
use crate::host::confine::enter::{map_one_id, open_proc};
use crate::sys;

/// The first argument with which `lamina` runs as [`enter`]. It is not a command for users.
pub(crate) const FILE_SHARE: &str = "__file-share";

/// Where programs, their libraries and what the loader reads are: the host's own and those of Nix and Guix.
const NEEDED: [&str; 10] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/nix", "/gnu", "/proc"];

/// Returns the command line that serves only `file`. `server` is the command line of a program that serves `directory`
/// at `socket`.
///
/// # Errors
/// This program's own path cannot be found.
pub(crate) fn command(
    file: &Path,
    directory: &Path,
    read_only: bool,
    socket: &Path,
    server: CommandLine,
) -> Result<CommandLine, Failure> {
    let name = file.file_name().ok_or_else(|| Failure::new(file.display(), "it has no name"))?;
    Ok(CommandLine::of_ourselves(FILE_SHARE)?
        .arg(file)
        .arg(directory)
        .arg(name)
        .arg(if read_only { "ro" } else { "rw" })
        .arg(socket)
        .arg(server.program)
        .args(server.arguments))
}

/// Does what the module's documentation says.
///
/// # Errors
/// Always: this returns only if it fails.
pub(crate) fn enter(arguments: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let [file, directory, name, access, socket, program, rest @ ..] = arguments else {
        return Err(Failure::new(FILE_SHARE, "needs a file, a directory, a name, ro or rw, a socket, and a program"));
    };
    let program = Path::new(program);
    let listener = listen(Path::new(socket)).about(Path::new(socket).display())?;
    rustix::stdio::dup2_stdin(&listener).about("standard input")?;
    own_mounts()?;
    let mut root = NewRoot::stage()?;
    for needed in NEEDED {
        root.show(Path::new(needed))?;
    }
    root.show(program)?;
    let target = Path::new(directory).join(name);
    match access.to_str() {
        Some("rw") => root.bind_writable(Path::new(file), &target)?,
        _ => root.bind(Path::new(file), &target).map(drop)?,
    }
    root.enter()?;
    let error = Command::new(program).args(rest).exec();
    Err(Failure::new(program.display(), error))
}

/// Makes the socket, which the program that serves the share could not make in its root.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    let before = umask(Mode::RWXG | Mode::RWXO);
    let listener = UnixListener::bind(socket);
    umask(before);
    listener
}

/// Enters a private mount namespace.
fn own_mounts() -> Result<(), Failure> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let refused = |error: rustix::io::Errno| {
        Failure::new("a share of a single file", format_args!("no user namespace: {error}")).with_hint(
            "allow them (sysctl kernel.unprivileged_userns_clone=1), or share the directory that holds the file",
        )
    };
    let users = if uid == 0 { UnshareFlags::empty() } else { UnshareFlags::NEWUSER };
    sys::unshare(UnshareFlags::NEWNS | users).map_err(refused)?;
    if uid != 0 {
        map_one_id(&open_proc()?, "self", (0, uid), (0, gid))?;
    }
    // New credentials may have cleared it.
    set_parent_process_death_signal(Some(Signal::KILL)).about("prctl(PR_SET_PDEATHSIG)")
}
