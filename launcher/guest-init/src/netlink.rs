//! Requests to the kernel's network configuration (`rtnetlink(7)`), as few as a guest needs.
//!
//! A message is a header of 16 bytes (`struct nlmsghdr`), the fixed part of its type, and attributes, each a 16-bit
//! length and a 16-bit type before its value. The kernel takes native byte order, and the guest is x86-64.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// The number of `lo` in every network namespace (`net/core/dev.c`, `LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 1 | 4;
/// `NLM_F_EXCL | NLM_F_CREATE`.
const CREATE: u16 = 0x200 | 0x400;
const AF_INET: u8 = 2;

/// One message.
#[derive(Debug)]
pub(crate) struct RouteRequest {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl RouteRequest {
    /// Sets `IFF_UP` on an interface.
    pub(crate) fn link_up(index: u32) -> Self {
        const IFF_UP: u32 = 1;
        // struct ifinfomsg: family, type, index, flags, mask of the flags to change.
        let mut body = vec![0; 4];
        body.extend(index.to_le_bytes());
        body.extend(IFF_UP.to_le_bytes());
        body.extend(IFF_UP.to_le_bytes());
        Self { kind: RTM_NEWLINK, flags: REQUEST, body }
    }

    /// Adds an IPv4 address in a network of `prefix` bits to an interface.
    pub(crate) fn address(index: u32, address: [u8; 4], prefix: u8) -> Self {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![AF_INET, prefix, 0, 0];
        body.extend(index.to_le_bytes());
        attribute(&mut body, IFA_LOCAL, &address);
        attribute(&mut body, IFA_ADDRESS, &address);
        Self { kind: RTM_NEWADDR, flags: REQUEST | CREATE, body }
    }

    /// Sets the default route: packets for other networks go to `gateway`.
    pub(crate) fn default_route(index: u32, gateway: [u8; 4]) -> Self {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RTN_UNICAST: u8 = 1;
        // struct rtmsg: family, prefix lengths of destination and source, tos, table, protocol, scope, type, flags.
        let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
        attribute(&mut body, RTA_GATEWAY, &gateway);
        attribute(&mut body, RTA_OIF, &index.to_le_bytes());
        Self { kind: RTM_NEWROUTE, flags: REQUEST | CREATE, body }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(16 + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(&self.body);
        bytes
    }
}

/// All values here have 4 bytes, so attributes need no padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8; 4]) {
    body.extend(8_u16.to_le_bytes());
    body.extend(kind.to_le_bytes());
    body.extend(value);
}

/// Sends the requests in order, each after the kernel has accepted the one before.
pub(crate) fn send(requests: &[RouteRequest]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    for request in requests {
        sendto(&socket, &request.bytes(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 1024];
        let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        granted(&answer[..length.min(answer.len())])?;
    }
    Ok(())
}

/// Reads an answer: `NLMSG_ERROR` with 0, or with a negative error number.
fn granted(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let code = answer.get(16..20).map(|bytes| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not a netlink answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_own_length() {
        for request in [
            RouteRequest::link_up(2),
            RouteRequest::address(2, [10, 0, 2, 15], 24),
            RouteRequest::default_route(2, [1; 4]),
        ] {
            let bytes = request.bytes();
            assert_eq!(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize, bytes.len());
            assert_eq!(bytes.len() % 4, 0);
        }
    }

    #[test]
    fn a_refusal_is_the_error_that_the_kernel_names() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        granted(&answer).unwrap();
        answer[16..20].copy_from_slice(&(-17_i32).to_le_bytes());
        assert_eq!(granted(&answer).unwrap_err().raw_os_error(), Some(17));
        assert!(granted(&answer[..8]).is_err());
    }
}
