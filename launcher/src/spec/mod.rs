//! What a machine is asked to be: all that is needed to start it, now or again.

pub(crate) mod command;
pub(crate) mod image_config;
pub(crate) mod ready;
pub(crate) mod secret;
pub(crate) mod share;
pub(crate) mod signal;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_protocol::account::{self, Account};
use guest_protocol::{GuestOptions, Network, Process};
use layer_store::{BaseId, DiffId, Digest, Ino, Kind, Store, View};
use serde::{Deserialize, Serialize};

use crate::engine::{Choice, Limits, RunRequest};
use crate::failure::{About, Failure};
use crate::host::json_file;
use crate::host::network::{NetworkBackend, Publish};
use crate::meter::Told;
use crate::open_store::open_store;
use crate::spec::ready::Ready;
use crate::spec::secret::Secret;
use crate::spec::share::Share;

/// The file's name in the machine's directory.
pub(crate) const FILE: &str = "spec.json";

/// `spec.json`: what a machine was asked to be. It holds the command's environment, so only its owner can read it (mode
/// 0600, in a directory of mode 0700). An ephemeral machine has no spec on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The machine's name.
    pub(crate) name: String,
    /// What it runs on.
    pub(crate) root: Root,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// What it may use of the host if it is a container.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Where writes to the root go.
    pub(crate) writes: Writes,
    /// The further shares; host paths are absolute.
    pub(crate) shares: Vec<Share>,
    /// The image's volumes: directories of the guest that are always writable.
    #[serde(default)]
    pub(crate) image_volumes: Vec<String>,
    /// Ports of the host that lead to the guest.
    pub(crate) published: Vec<Publish>,
    /// The guest's host name, if it is not the machine's name.
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    /// What the user asks of the guest besides.
    #[serde(default)]
    pub(crate) options: GuestOptions,
    /// What the user changes in the guest's `/etc/resolv.conf`.
    #[serde(default)]
    pub(crate) resolver: ResolverChanges,
    /// Labels and annotations, which mean something to the user only.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// How many seconds `lamina stop` gives the command, if it does not say otherwise.
    #[serde(default)]
    pub(crate) stop_timeout: Option<u32>,
    /// What appears in `/run/secrets`: the files' absolute paths, never their content.
    pub(crate) secrets: Vec<Secret>,
    /// The command.
    pub(crate) process: Process,
    /// Whether the command's input stays open in the background, although nothing is written to it.
    #[serde(default)]
    pub(crate) keeps_input_open: bool,
    /// How to run it.
    pub(crate) request: RunRequest,
    /// The guest's kernel, or the newest one if this is absent.
    pub(crate) kernel: Option<PathBuf>,
    /// The most bytes of each of its logs on the host's disk.
    #[serde(default = "default_log_size")]
    pub(crate) log_max_size: u64,
    /// Whether the kernel's console is shown.
    pub(crate) show_console: bool,
    /// When it counts as ready.
    pub(crate) ready: Ready,
    /// How many seconds the guest may take to get ready.
    pub(crate) ready_timeout: u64,
    /// Where to answer `lamina stats`, besides the machine's own socket.
    pub(crate) stats: Option<PathBuf>,
}

/// The most bytes of a log of a machine for which no other size is set.
pub(crate) const fn default_log_size() -> u64 {
    16 << 20
}

/// What a user changes in a guest's `/etc/resolv.conf`. What is empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ResolverChanges {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl ResolverChanges {
    /// Returns the setting of a network card with the changes.
    pub(crate) fn apply(&self, network: Network) -> Network {
        let changed = |own: &[String], present: Vec<String>| match own {
            [] => present,
            // As in docker, this clears the list.
            [dot] if dot == "." => Vec::new(),
            own => own.to_vec(),
        };
        Network {
            name_servers: if self.servers.is_empty() { network.name_servers } else { self.servers.clone() },
            search: changed(&self.search, network.search),
            options: changed(&self.options, network.options),
            ..network
        }
    }
}

/// The tree that a machine runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Root {
    /// Layers of a store.
    Image {
        store: PathBuf,
        /// The stores whose layers are used in place.
        also_read: Vec<PathBuf>,
        /// The canonical name, as it was when the machine was made.
        reference: String,
        /// The digest of its manifest.
        manifest: Digest,
        /// Its layers, bottom first.
        layers: Vec<DiffId>,
        /// The layers on top of them.
        variant: Vec<DiffId>,
    },
    /// A directory of the host.
    Directory(PathBuf),
}

/// Where a guest's writes to its root go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Writes {
    /// To its memory, of which they may fill this many bytes (half of it by default).
    Memory {
        /// Bytes.
        limit: Option<u64>,
    },
    /// To its own disk, a sparse file in its directory: see [`crate::machine::kept`].
    Disk {
        /// Bytes.
        size: u64,
    },
    /// Nowhere: the root is read-only.
    Nowhere,
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { limit: None } => f.write_str("to half of its memory"),
            Self::Memory { limit: Some(bytes) } => write!(f, "to {bytes} bytes of its memory"),
            Self::Disk { size } => write!(f, "to a disk of at most {size} bytes, where they stay"),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// A root that is open.
#[derive(Debug)]
pub(crate) enum Tree {
    /// A directory of the host.
    Directory(PathBuf),
    /// A base, which its view's lease keeps from `gc`, and the store that holds it.
    View(Arc<View>, Box<Store>, BaseId),
}

impl Spec {
    /// Returns the host name of the machine. A container in the host's network has the host's, as in docker.
    pub(crate) fn hostname(&self) -> String {
        match (&self.hostname, &self.request.network) {
            (Some(name), _) => name.clone(),
            (None, Choice::Forced(NetworkBackend::Host)) => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            (None, _) => self.name.clone(),
        }
    }

    /// Reads the spec in a machine's directory.
    ///
    /// # Errors
    /// It is missing, or cannot be read.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        json_file::read(&directory.join(FILE))
    }

    /// Reads the spec of the machine called `name`, for a command that needs a spec on disk.
    ///
    /// # Errors
    /// The machine is ephemeral, so it has none; or the spec cannot be read.
    pub(crate) fn read_of(name: &str, directory: &Path) -> Result<Self, Failure> {
        match directory.join(FILE).try_exists() {
            Ok(false) => Err(Failure::new(
                format_args!("machine {name}"),
                "it is removed when it ends, and nothing of it is kept",
            )
            .with_hint("run it with --detach or --keep")),
            _ => Self::read(directory),
        }
    }

    /// Writes it so that only its owner can read it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        json_file::write(&directory.join(FILE), self)
    }

    /// Returns the spec with the names of its environment variables, but without their values, which may be secret.
    #[must_use]
    pub(crate) fn without_secrets(mut self) -> Self {
        self.process.env.iter_mut().for_each(|(_, value)| *value = "…".to_owned());
        self
    }
}

impl Tree {
    /// Returns the user and group that `user` (from an image's config, or `--user`) means in this tree, according to
    /// its account files.
    ///
    /// # Errors
    /// There is no such user; the guest refuses it too.
    pub(crate) fn account(&self, user: &str) -> Result<Account, String> {
        account::resolve(user, &self.text("passwd"), &self.text("group"))
    }

    /// Returns the user and group to whom a directory belongs, if there is one at this path. Symbolic links are not
    /// followed.
    pub(crate) fn owner(&self, path: &str) -> Option<(u32, u32)> {
        match self {
            Self::Directory(root) => {
                let found = fs::symlink_metadata(root.join(path.trim_start_matches('/'))).ok()?;
                found.is_dir().then(|| (found.uid(), found.gid()))
            }
            Self::View(view, ..) => {
                let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
                let found =
                    names.into_iter().try_fold(Ino::ROOT, |at, name| view.lookup(at, name.as_bytes()).ok()?)?;
                let found = view.attr(found).ok()?;
                (found.kind == Kind::Directory).then_some((found.uid, found.gid))
            }
        }
    }

    /// Returns a file of `/etc`, or nothing if it is missing. The guest does the same.
    fn text(&self, name: &str) -> String {
        let bytes = match self {
            Self::Directory(path) => fs::read(path.join("etc").join(name)).ok(),
            Self::View(view, ..) => read_from(view, name),
        };
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

/// The most that is read of an account file, in bytes.
const MAX_ACCOUNTS: u64 = 4 << 20;

fn read_from(view: &View, name: &str) -> Option<Vec<u8>> {
    let etc = view.lookup(Ino::ROOT, b"etc").ok()??;
    let file = view.lookup(etc, name.as_bytes()).ok()??;
    let size = view.attr(file).ok()?.size.min(MAX_ACCOUNTS);
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    let mut filled = 0;
    while let Some(left) = bytes.get_mut(filled..).filter(|left| !left.is_empty()) {
        match view.read(file, filled as u64, left).ok()? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}

impl Root {
    /// Returns its name for people.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Image { reference, .. } => reference.clone(),
            Self::Directory(path) => path.display().to_string(),
        }
    }

    /// Opens it, and creates its base if that is missing.
    ///
    /// # Errors
    /// The store lacks a layer, or cannot be read.
    pub(crate) fn open(&self, name: &str) -> Result<Tree, Failure> {
        let (root, also_read, reference, layers, variant) = match self {
            Self::Directory(path) => return Ok(Tree::Directory(path.clone())),
            Self::Image { store, also_read, reference, layers, variant, .. } => {
                (store, also_read, reference, layers, variant)
            }
        };
        let store = open_store(root, also_read)?.with_purpose(&format!("machine {name}"));
        let base = store.bases().prepare_layers(layers, variant, &Told).about(reference)?;
        let view = Arc::new(store.bases().open(&base).about(reference)?);
        Ok(Tree::View(view, Box::new(store), base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_spec_and_one_that_cannot_be_read_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let ephemeral = Spec::read_of("m", directory.path()).unwrap_err();
        assert!(ephemeral.to_string().contains("it is removed when it ends"), "{ephemeral}");
        fs::write(directory.path().join(FILE), "{").unwrap();
        let damaged = Spec::read_of("m", directory.path()).unwrap_err();
        assert!(damaged.to_string().contains(FILE), "{damaged}");
        fs::remove_file(directory.path().join(FILE)).unwrap();
        fs::create_dir(directory.path().join(FILE)).unwrap();
        let unreadable = Spec::read_of("m", directory.path()).unwrap_err();
        assert!(unreadable.to_string().contains(FILE), "{unreadable}");
    }

    #[test]
    fn an_account_is_found_in_the_files_of_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::Directory(root.path().to_owned());
        assert_eq!(tree.account("1000:7").map(|account| (account.uid, account.gid)), Ok((1000, 7)));
        assert!(tree.account("web").is_err());
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "web:x:33:34::/srv:/bin/sh\n").unwrap();
        assert_eq!(tree.account("web").map(|account| (account.uid, account.gid)), Ok((33, 34)));
    }
}
