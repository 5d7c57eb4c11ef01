//! Keeps a guest's packets from the loopback of a host whose passt would carry them there.
//!
//! passt of Debian 12 connects to whatever address a packet has. The root of a guest can send packets to 127.0.0.1 and
//! 0.0.0.0, which are then this host's. Later versions, which can be told what leads to the loopback, drop them
//! themselves.
//!
//! Each frame on the socket between a hypervisor and passt is a 32-bit big-endian length and an Ethernet frame.
#![expect(clippy::big_endian_bytes, reason = "lengths and packets are in network byte order")]

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use crate::failure::{About, Failure};

/// The longest frame in bytes. A network card of QEMU sends no longer ones (`NET_BUFSIZE`).
const LONGEST: usize = 4096 + 65_536;

/// Listens at `guest` for the hypervisor, and passes its packets on to the passt at `passt`, in separate threads that
/// end with the hypervisor.
///
/// # Errors
/// The socket cannot be created.
pub(crate) fn open(guest: &Path, passt: PathBuf) -> Result<(), Failure> {
    let listener = UnixListener::bind(guest).about(guest.display())?;
    thread::spawn(move || {
        let connected = || {
            let (guest, _) = listener.accept()?;
            let passt = UnixStream::connect(&passt)?;
            let (from_passt, to_guest) = (passt.try_clone()?, guest.try_clone()?);
            thread::spawn(move || {
                let _ = io::copy(&mut &from_passt, &mut &to_guest);
                let _ = to_guest.shutdown(Shutdown::Both);
            });
            Ok::<_, io::Error>((guest, passt))
        };
        match connected() {
            Ok((guest, passt)) => {
                if let Err(error) = pass_on(&guest, &passt) {
                    tracing::debug!("packets of the guest: {error}");
                }
                let _ = passt.shutdown(Shutdown::Both);
            }
            Err(error) => tracing::warn!("the guest's network: {error}"),
        }
    });
    Ok(())
}

/// Passes on the frames that may leave the guest, until the end of `from`.
fn pass_on(from: impl Read, to: impl Write) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::with_capacity(LONGEST, from), BufWriter::with_capacity(LONGEST, to));
    let mut frame = Vec::with_capacity(LONGEST);
    loop {
        if from.buffer().is_empty() {
            to.flush()?;
        }
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return to.flush(),
            other => other?,
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {bytes} bytes")));
        }
        frame.resize(bytes, 0);
        from.read_exact(&mut frame)?;
        if may_leave(&frame) {
            to.write_all(&length)?;
            to.write_all(&frame)?;
        }
    }
}

/// Returns whether a guest may send an Ethernet frame: ARP, and IPv4 packets from and to addresses that are not those of
/// the host itself (127.0.0.0/8, 0.0.0.0/8).
fn may_leave(frame: &[u8]) -> bool {
    match (frame.get(12..14), frame.get(26..34)) {
        (Some([8, 6]), _) => true,
        (Some([8, 0]), Some(&[source, _, _, _, target, ..])) => source != 127 && target != 127 && target != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: u16, source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend([0x45; 12]);
        frame.extend(source);
        frame.extend(target);
        frame.extend([1, 2, 3]);
        frame
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat()
    }

    #[test]
    fn only_packets_to_other_hosts_leave() {
        const GUEST: [u8; 4] = [10, 0, 2, 15];
        for (kind, source, target, leaves) in [
            (0x0800, GUEST, [10, 0, 2, 3], true),
            (0x0800, GUEST, [192, 0, 2, 127], true),
            (0x0800, GUEST, [127, 0, 0, 1], false),
            (0x0800, GUEST, [127, 255, 9, 9], false),
            (0x0800, GUEST, [0, 0, 0, 0], false),
            (0x0800, [127, 0, 0, 1], [192, 0, 2, 1], false),
            (0x0806, GUEST, [10, 0, 2, 2], true),
            (0x86dd, GUEST, [10, 0, 2, 2], false),
            (0x8100, GUEST, [10, 0, 2, 2], false),
        ] {
            assert_eq!(may_leave(&packet(kind, source, target)), leaves, "{kind:x} {target:?}");
        }
        assert!(!may_leave(&[]) && !may_leave(&packet(0x0800, GUEST, GUEST)[..33]));
    }

    #[test]
    fn frames_keep_their_order_and_a_length_that_no_card_sends_ends_the_channel() {
        let [kept, dropped] = [[192, 0, 2, 1], [127, 0, 0, 1]].map(|target| packet(0x0800, [10, 0, 2, 15], target));
        let mut last = kept.clone();
        last.push(9);
        let all = [framed(&kept), framed(&dropped), framed(&last)].concat();
        let mut passed = Vec::new();
        pass_on(&all[..], &mut passed).unwrap();
        assert_eq!(passed, [framed(&kept), framed(&last)].concat());
        let error = pass_on(&u32::MAX.to_be_bytes()[..], io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(pass_on(&all[..all.len() - 1], io::sink()).is_err(), "it ends within a frame");
    }

    #[test]
    fn packets_go_both_ways_until_the_hypervisor_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (outer, inner) = (directory.path().join("filter"), directory.path().join("passt"));
        let passt = UnixListener::bind(&inner).unwrap();
        open(&outer, inner).unwrap();
        let mut guest = UnixStream::connect(&outer).unwrap();
        let (mut carried, _) = passt.accept().unwrap();
        let packet = framed(&packet(0x0800, [10, 0, 2, 15], [192, 0, 2, 1]));
        guest.write_all(&packet).unwrap();
        let mut seen = vec![0; packet.len()];
        carried.read_exact(&mut seen).unwrap();
        assert_eq!(seen, packet);
        carried.write_all(b"back").unwrap();
        guest.read_exact(&mut seen[..4]).unwrap();
        assert_eq!(&seen[..4], b"back");
        drop(guest);
        assert_eq!(carried.read(&mut seen).unwrap(), 0);
    }
}
