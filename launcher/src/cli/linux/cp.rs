//! `lamina cp`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, PipeReader, PipeWriter};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use guest_protocol::archive::{Copied, Destination, Packer, pack_tree, unpack, unpack_with_owners};
use guest_protocol::{Ending, Process};

use super::outcome::{Outcome, refuse_json};
use crate::cli::Global;
use crate::failure::{About, Failure, USAGE};
use crate::machine::launch;
use crate::machine::{Machine, Piped, SharedBuffer, Signals, Stdio};
use crate::print;

/// Copy files and directories between a machine and the host
///
/// As with cp, a copy to an existing directory goes into it; a source that ends in "/." copies what is in the directory.
/// Modes and times are kept. In the machine the files belong to root, on the host to you; set-user-ID bits are dropped. "-"
/// stands for a tar stream on standard input or output. --json prints the number of files and bytes that arrived.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina cp web:/var/log ./logs
  lamina cp config.toml web:/etc/app/
  lamina cp site/. web:/srv
  lamina cp web:/srv - | tar -t
  tar -c . | lamina cp - web:/srv")]
pub(in crate::cli) struct Cp {
    /// What to copy: a path, NAME:PATH, or "-"
    #[arg(value_name = "[NAME:]SOURCE")]
    source: Place,
    /// Where to: a path, NAME:PATH, or "-"
    #[arg(value_name = "[NAME:]TARGET")]
    target: Place,
    /// Keep the owners of the files: in the machine, and on this host for root
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link in the machine leads to instead of the link; those of this host are always followed
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Accepted: nothing is printed
    #[arg(short, long, hide = true)]
    quiet: bool,
}

/// What is copied along, and how.
#[derive(Clone, Copy, Debug)]
struct Manner {
    owners: bool,
    follows: bool,
}

/// The longest answer of the tool that unpacks a stream in a guest, in bytes.
const MOST_SAID: u64 = 64 << 10;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Stream,
    Host(PathBuf),
    Guest { machine: String, path: String },
}

impl std::str::FromStr for Place {
    type Err = String;

    /// A host path that contains a colon needs a slash before it, as in `./a:b`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text == "-" => Ok(Self::Stream),
            _ if text.is_empty() => Err("the path is empty".to_owned()),
            Some((_, "")) => Err("the path in the machine is empty".to_owned()),
            // A relative path begins at the root, as in docker.
            Some((machine, path)) if !machine.contains('/') && !machine.starts_with('.') => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                Ok(Self::Guest { machine: machine.to_owned(), path })
            }
            _ => Ok(Self::Host(text.into())),
        }
    }
}

impl Cp {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let manner = Manner { owners: self.archive, follows: self.follow_link };
        match (self.source, self.target) {
            (Place::Guest { machine, path }, Place::Stream) => {
                refuse_json(global, "the tar stream")?;
                let (outcome, ends) = Outcome::of(global, false);
                let tool = Process::tool(&[manner.packer(), &path, last_component(&path)]);
                let status = launch::run_tool(&Machine::find(&machine)?, tool, ends, signals)?;
                outcome.tell(&machine, Ending::Status(status))
            }
            (Place::Guest { machine, path }, Place::Host(to)) => {
                from_guest(&machine, &path, &to, manner, signals)?.tell(&machine, global)
            }
            (Place::Stream, Place::Guest { machine, path }) => {
                let said = SharedBuffer::new(MOST_SAID);
                let ends = Stdio::new(io::stdin(), Piped::new(said.clone()));
                let status = run(&Machine::find(&machine)?, &["unpack-into", &path], ends, signals)?;
                Arrived::in_guest(status, &said).tell(&machine, global)
            }
            (Place::Host(from), Place::Guest { machine, path }) => {
                to_guest(&from, &machine, &path, manner, signals)?.tell(&machine, global)
            }
            _ => Err(Failure::new("lamina cp", "one side must be in a machine, and the other must not")
                .with_hint("write that side as NAME:PATH")
                .with_status(USAGE)),
        }
    }
}

impl Manner {
    fn packer(self) -> &'static str {
        if self.follows { "pack-target" } else { "pack" }
    }
}

/// Returns whether a path means what is in a directory, and not the directory.
fn means_content(path: &OsStr) -> bool {
    path == "." || path.as_bytes().ends_with(b"/.")
}

/// Returns the name of a path's last component, or `.` for the root and for what is in a directory.
fn last_component(path: &str) -> &str {
    if means_content(path.as_ref()) {
        return ".";
    }
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(".")
}

/// Returns the name that a host path gets in the guest: its own, which may be a link's, unless it has none (`..`).
fn name_of(from: &Path, found: &Path) -> String {
    if means_content(from.as_os_str()) {
        return ".".to_owned();
    }
    from.file_name().or(found.file_name()).and_then(|name| name.to_str()).unwrap_or(".").to_owned()
}

/// The result of a copy: how much arrived, or the exit status of the tool in the guest, which has printed the reason.
#[derive(Debug)]
struct Arrived(Result<Copied, u8>);

impl Arrived {
    /// Parses what the tool in a guest printed.
    fn in_guest(status: u8, said: &SharedBuffer) -> Self {
        Self(match status {
            0 => Ok(said.read().ok().and_then(|said| serde_json::from_reader(said).ok()).unwrap_or_default()),
            status => Err(status),
        })
    }

    fn tell(self, machine: &str, global: &Global) -> Result<u8, Failure> {
        match self.0 {
            Ok(Copied { files, bytes }) if global.json => {
                print::json(&serde_json::json!({ "name": machine, "files": files, "bytes": bytes }))?;
                Ok(0)
            }
            Ok(_) => Ok(0),
            Err(status) => Ok(status),
        }
    }
}

/// Runs one of guest-init's tools in the machine.
fn run(machine: &Machine, tool: &[&str], ends: Stdio, signals: Signals) -> Result<u8, Failure> {
    launch::run_tool(machine, Process::tool(tool), ends, signals)
}

fn from_guest(machine: &str, path: &str, to: &Path, manner: Manner, signals: Signals) -> Result<Arrived, Failure> {
    let machine = Machine::find(machine)?;
    let (reader, writer) = io::pipe().about("pipe")?;
    let destination = Destination::At { name: last_component(path).into(), path: to.to_owned() };
    let owners = manner.owners && rustix::process::geteuid().is_root();
    let unpacking = thread::spawn(move || unpacked(reader, &destination, owners));
    let status = run(&machine, &[manner.packer(), path, ""], Stdio::output(Piped::new(writer)), signals);
    let unpacked = unpacking.join().unwrap_or_else(|_| Err(io::Error::other("unpacking ended early")));
    Ok(Arrived(match status? {
        0 => Ok(unpacked.about(to.display())?),
        status => Err(status),
    }))
}

/// Unpacks a stream. Reads it to its end even after an error, so that the guest does not wait.
fn unpacked(mut reader: PipeReader, destination: &Destination, owners: bool) -> io::Result<Copied> {
    let unpack = if owners { unpack_with_owners } else { unpack };
    let done = unpack(&mut reader, destination, false);
    io::copy(&mut reader, &mut io::sink())?;
    done
}

fn to_guest(from: &Path, machine: &str, path: &str, manner: Manner, signals: Signals) -> Result<Arrived, Failure> {
    let machine = Machine::find(machine)?;
    // Errors about the source are reported before anything starts.
    let found = std::fs::canonicalize(from).about(from.display())?;
    if found.is_file() {
        File::open(&found).about(from.display())?;
    }
    let name = name_of(from, &found);
    let (reader, writer) = io::pipe().about("pipe")?;
    let packing = thread::spawn(move || packed(&found, writer, manner.owners));
    // The reader moves into the session: when that ends, the closed pipe stops the packer.
    let said = SharedBuffer::new(MOST_SAID);
    let tool = if manner.owners { "unpack-at-with-owners" } else { "unpack-at" };
    let status = run(&machine, &[tool, path, &name], Stdio::new(reader, Piped::new(said.clone())), signals)?;
    let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing ended early")));
    match packed {
        Err(error) if status == 0 || error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(from.display(), error))
        }
        _ => Ok(Arrived::in_guest(status, &said)),
    }
}

fn packed(from: &Path, writer: PipeWriter, owners: bool) -> io::Result<()> {
    let packer = Packer::new(BufWriter::with_capacity(64 << 10, writer)).padding();
    let mut packer = if owners { packer } else { packer.owned_by_root() };
    pack_tree(&mut packer, from, Path::new(""))?;
    packer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_place_is_read() {
        let guest = |machine: &str, path: &str| Place::Guest { machine: machine.into(), path: path.into() };
        for (text, expected) in [
            ("-", Place::Stream),
            ("a/b", Place::Host("a/b".into())),
            ("./a:b", Place::Host("./a:b".into())),
            ("web:/", guest("web", "/")),
            ("web:/a:b", guest("web", "/a:b")),
            ("web:etc", guest("web", "/etc")),
            (".:a", Place::Host(".:a".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["", "web:"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
        assert_eq!((last_component("/a/b/"), last_component("/"), last_component("/a/.")), ("b", ".", "."));
    }

    #[test]
    fn a_link_arrives_under_its_own_name() {
        for (from, found, name) in [
            ("link", "/a/target", "link"),
            ("a/link/", "/a/target", "link"),
            ("..", "/a/b", "b"),
            (".", "/a", "."),
            ("site/.", "/a/site", "."),
            ("a.", "/a.", "a."),
            ("/", "/", "."),
        ] {
            assert_eq!(name_of(Path::new(from), Path::new(found)), name, "{from}");
        }
    }
}
