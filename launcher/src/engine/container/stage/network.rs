//! What a new network namespace needs before a container uses it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::failure::{About, Failure};

/// Brings the loopback interface up, and allows every port and `ping` to every user, as docker and podman do. A kernel
/// without one of these settings still runs containers.
pub(super) fn prepare(last_group: u32) {
    if let Err(error) = bring_loopback_up() {
        tell!("lamina: lo: {error}");
    }
    for (name, value) in
        [("ip_unprivileged_port_start", "0".to_owned()), ("ping_group_range", format!("0 {}", last_group))]
    {
        let _ = fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
    }
}

/// Sets system controls of the namespace, which the user has asked for.
///
/// # Errors
/// The kernel has no such control, or not for a user namespace.
pub(super) fn set(system_controls: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in system_controls {
        fs::write(Path::new("/proc/sys").join(name), value)
            .about(format_args!("--sysctl {}={value}", name.replace('/', ".")))
            .map_err(|failure| failure.with_hint("use a VM: --engine auto"))?;
    }
    Ok(())
}

/// Sets `IFF_UP` on interface 1 (`rtnetlink(7)`), which the kernel creates down. The kernel takes native byte order, and the
/// host is x86-64.
fn bring_loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    const REQUEST: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const LOOPBACK: u32 = 1;
    // struct nlmsghdr: length, type, flags, sequence, port. struct ifinfomsg: family and type, index, flags, and which of
    // the flags to change.
    let mut message = 32_u32.to_le_bytes().to_vec();
    message.extend(RTM_NEWLINK.to_le_bytes());
    message.extend(REQUEST.to_le_bytes());
    for word in [0, 0, 0, LOOPBACK, IFF_UP, IFF_UP] {
        message.extend(word.to_le_bytes());
    }
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 1024];
    let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr follows the header: 0, or a negative error number.
    match answer.get(16..20).filter(|_| length >= 20) {
        Some(code) => match i32::from_le_bytes([code[0], code[1], code[2], code[3]]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not a netlink answer")),
    }
}
