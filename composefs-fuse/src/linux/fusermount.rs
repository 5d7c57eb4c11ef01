//! Mounting with the rights of `fusermount3`, the setuid helper of the fuse3 package.
//!
//! The helper mounts and sends the descriptor of `/dev/fuse` over the socket whose number is in `_FUSE_COMMFD`
//! (`util/fusermount.c` of libfuse). Here that socket is its standard input, so it inherits nothing else of this process,
//! and no other child inherits the socket.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The helper's name, looked up in `PATH`.
const HELPER: &str = "fusermount3";

/// Why the helper did nothing.
#[derive(Debug)]
pub(super) enum HelperError {
    /// It is not installed.
    Missing,
    /// It could not be run, or the socket to it failed.
    Broken(io::Error),
    /// It refused for this reason.
    Refused(String),
}

/// Mounts on `target` with the `-o` options in `options`. Returns the descriptor to serve.
pub(super) fn mount(target: &Path, options: &OsStr) -> Result<OwnedFd, HelperError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| HelperError::Broken(errno.into()))?;
    let mut command = helper();
    command.arg("-o").arg(options).arg("--").arg(target).env("_FUSE_COMMFD", "0").stdin(theirs);
    let child = spawn(&mut command)?;
    // The command holds a copy of the helper's end: without this, the helper's exit would not end the wait.
    drop(command);
    let received = receive_descriptor(&ours);
    let output = finish(child)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(HelperError::Refused(complaint(&output))),
        Err(error) => Err(HelperError::Broken(error)),
    }
}

/// Unmounts `target`. If `lazy`, removes it from the tree at once, even if it is busy.
pub(super) fn unmount(target: &Path, lazy: bool) -> Result<(), HelperError> {
    let mut command = helper();
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(target).stdin(Stdio::null());
    let child = spawn(&mut command)?;
    drop(command);
    let output = finish(child)?;
    if output.status.success() { Ok(()) } else { Err(HelperError::Refused(complaint(&output))) }
}

/// Returns the helper in its own process group: a Ctrl-C between its mount and its message would leave a dead mount.
fn helper() -> Command {
    let mut command = Command::new(HELPER);
    command.process_group(0).env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn spawn(command: &mut Command) -> Result<Child, HelperError> {
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HelperError::Missing,
        _ => HelperError::Broken(error),
    })
}

fn finish(child: Child) -> Result<Output, HelperError> {
    child.wait_with_output().map_err(HelperError::Broken)
}

/// Returns what the helper said on one line, without its name.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .map(|line| line.trim_start_matches("fusermount3:").trim())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { format!("it ended with {}", output.status) } else { lines.join("; ") }
}

/// Receives a descriptor over `socket`. Returns nothing if it is closed without one.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}
