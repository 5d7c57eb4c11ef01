//! Init's own tools, for requests of the host for which the image may have no program. Each runs as a process that init
//! starts from its own executable, with one of these `argv`:
//!
//! | `argv` | does |
//! |---|---|
//! | `pack PATH NAME` | writes PATH as a tar stream in which it is called NAME |
//! | `pack-target PATH NAME` | does the same with what the symbolic link PATH leads to |
//! | `unpack-into DIRECTORY` | unpacks a tar stream into DIRECTORY |
//! | `unpack-at PATH NAME` | unpacks a tar stream to PATH, or into PATH as NAME if that is a directory |
//! | `unpack-at-with-owners PATH NAME` | does the same, and keeps the owners of the stream |
//! | `ps` | lists the processes |
//! | `await-port PORT` | ends once something listens on this TCP port |
//! | `changes` | lists what has been written to the root, as [`Stack::list`] does |
//! | `pack-changes` | writes that as the tar of an OCI layer |
//!
//! The tools that unpack a stream report at the end what has arrived. Init passes the last two the paths of the writes
//! and of the tree below them.

use std::fs;
use std::io::{self, BufWriter};
use std::path::Path;
use std::thread;
use std::time::Duration;

use guest_protocol::Process;
use guest_protocol::archive::{Destination, Packer, about, pack_tree, unpack, unpack_with_owners};

use crate::changes::Stack;
use crate::{processes, writes};

/// Whether a process is a tool that reads what has been written to the root.
pub(crate) fn looks_at_writes(process: &Process) -> bool {
    process.by_init && process.argv.first().is_some_and(|tool| matches!(tool.as_str(), "changes" | "pack-changes"))
}

/// The arguments of a tool that needs to know where the writes are, after its name.
pub(crate) fn further_arguments(process: &Process) -> Vec<String> {
    looks_at_writes(process).then(writes::paths).flatten().map_or(Vec::new(), Vec::from)
}

/// Runs the tool that the arguments name. Returns its exit status.
pub(crate) fn run(arguments: &[String]) -> u8 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["pack", path, name] => pack(Path::new(path), Path::new(name)),
        ["pack-target", path, name] => {
            fs::canonicalize(path).map_err(about(Path::new(path))).and_then(|path| pack(&path, Path::new(name)))
        }
        ["unpack-into", path] => receive(&Destination::Into(path.into()), false),
        ["unpack-at", path, name] => receive(&at(path, name), false),
        ["unpack-at-with-owners", path, name] => receive(&at(path, name), true),
        ["changes" | "pack-changes"] => Err(io::Error::other("a read-only root has no changes")),
        ["changes", place, lower] => Stack::new(Path::new(place), Path::new(lower)).list(stdout()),
        ["pack-changes", place, lower] => Stack::new(Path::new(place), Path::new(lower)).pack(stdout()),
        ["await-port", port] => await_port(port),
        ["ps"] => processes::list(stdout()),
        unknown => Err(io::Error::other(format!("init has no tool {unknown:?}"))),
    };
    match done {
        Ok(()) => 0,
        // The host no longer wants the output, and says why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 1,
        Err(error) => {
            eprintln!("lamina: {error}");
            1
        }
    }
}

/// How often to look for a listener.
const LOOK: Duration = Duration::from_millis(20);

fn await_port(port: &str) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    while !["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .any(|table| fs::read_to_string(table).is_ok_and(|text| is_listening(&text, port)))
    {
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The state `TCP_LISTEN` (`include/net/tcp_states.h`) as the tables have it.
const LISTEN: &str = "0A";

/// Returns whether a table of TCP sockets such as `/proc/net/tcp` (`Documentation/networking/proc_net_tcp.rst`) has a socket that listens on
/// `port`: after the number of the line come the local and the remote address, each ending in `:PORT` in hex, and the
/// state.
fn is_listening(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some(LISTEN)
    })
}

fn stdout() -> impl io::Write {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

fn at(path: &str, name: &str) -> Destination {
    Destination::At { path: path.into(), name: name.into() }
}

/// Unpacks standard input, and prints how much has arrived: [`guest_protocol::archive::Copied`] as JSON.
fn receive(destination: &Destination, owners: bool) -> io::Result<()> {
    let unpack = if owners { unpack_with_owners } else { unpack };
    let copied = unpack(io::stdin().lock(), destination, true)?;
    serde_json::to_writer(io::stdout(), &copied)?;
    Ok(())
}

fn pack(path: &Path, name: &Path) -> io::Result<()> {
    let mut packer = Packer::new(stdout()).padding();
    pack_tree(&mut packer, path, name)?;
    packer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_on_the_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            \x20  1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0\n";
        assert!(is_listening(table, 8080));
        assert!(!is_listening(table, 8081), "it is connected");
        assert!(!is_listening(table, 80) && !is_listening("", 8080));
    }

    #[test]
    fn tables_of_this_host_are_read() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert!(is_listening(&table, port), "{port} {table}");
    }
}
