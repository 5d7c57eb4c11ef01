//! The loopback interface, up: without it nothing in the guest reaches `127.0.0.1`.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

/// Sets `IFF_UP` on interface 1, which is `lo` in every network namespace (`net/core/dev.c`,
/// `LOOPBACK_IFINDEX`).
pub(crate) fn bring_up() -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

/// One `RTM_NEWLINK` request (`rtnetlink(7)`): `struct nlmsghdr` of 16 bytes, then `struct ifinfomsg` of 16.
/// The kernel takes native byte order, and the guest is x86-64.
fn request() -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const LOOPBACK_INDEX: u32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_le_bytes());
    message.extend(RTM_NEWLINK.to_le_bytes());
    message.extend(NLM_F_REQUEST.to_le_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK_INDEX.to_le_bytes());
    message.extend(IFF_UP.to_le_bytes());
    message.extend(IFF_UP.to_le_bytes());
    message
}
