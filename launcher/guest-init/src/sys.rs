//! The unsafe calls of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `prepare` in the child of a command, between fork and exec. It may only make system calls: it must neither
/// allocate nor take a lock.
pub(crate) fn before_exec(command: &mut Command, prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the closures of this crate make only direct system calls (rustix's linux_raw backend); they neither
    // allocate nor take a lock that another thread of init may have held at the fork.
    unsafe { command.pre_exec(prepare) };
}

/// Takes a descriptor that this program was started with. Programs that it starts do not inherit it.
pub(crate) fn inherited(number: i32) -> io::Result<File> {
    // SAFETY: the caller takes each number once, before this program has opened any file, so nothing else owns it. If it
    // is not open, the next call fails, and closing it does nothing.
    let file = unsafe { File::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)?;
    Ok(file)
}

/// Stops sharing what `flags` name with other threads and processes.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "threads keep one table of files");
    // SAFETY: the table of files stays shared, so a descriptor means the same to all threads.
    unsafe { unshare_unsafe(flags) }
}

/// The signal with this number, which may be one of those without a name (`signal(7)`, "Real-time signals").
pub(crate) fn signal_of(number: u32) -> Option<Signal> {
    let number = i32::try_from(number).ok().filter(|number| (1..=64).contains(number))?;
    // SAFETY: the number is that of a Linux signal. A signal that a libc reserves must not be sent to, or handled by, a
    // process that does not expect it. Here it goes only to the image's processes, whose user has asked for it.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// A `sockaddr_vm` of `linux/vm_sockets.h`.
#[derive(Debug)]
#[repr(C)]
struct VirtioSocketAddress {
    family: u16,
    reserved: u16,
    port: u32,
    context: u32,
    flags: u8,
    zero: [u8; 3],
}

// SAFETY: the closure gets a pointer to this value and its length, and the value is laid out as the kernel reads an
// address of this family. Every field is initialized, and there is no padding.
unsafe impl SocketAddrArg for VirtioSocketAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        const { assert!(size_of::<VirtioSocketAddress>() == 16) };
        f(std::ptr::from_ref(self).cast(), 16)
    }
}

/// Connects to a port of the host by a virtio socket.
pub(crate) fn connect_to_host(port: u32) -> rustix::io::Result<OwnedFd> {
    /// `VMADDR_CID_HOST`.
    const HOST: u32 = 2;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let family = AddressFamily::VSOCK.as_raw();
    let address = VirtioSocketAddress { family, reserved: 0, port, context: HOST, flags: 0, zero: [0; 3] };
    connect(&socket, &address)?;
    Ok(socket)
}
