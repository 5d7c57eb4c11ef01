//! Creates the server of a machine's root from an open tree, for the backend that was chosen.

mod server;

pub(crate) use server::{DirectRoot, DirectoryRoot, DiskRoot, InsideRoot, MountedRoot, RootServer, UnservedRoot};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use composefs_fuse::stats::Stats;
use composefs_fuse::{Server, UserNamespace};
use layer_store::{BaseId, Observer, Store};

use crate::engine::Backend;
use crate::failure::{About, Failure};
use crate::host::confine;
use crate::host::virtiofsd::{Purpose, Virtiofsd};
use crate::meter::Meter;
use crate::spec::Tree;

/// A root that is ready to be served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) server: Box<dyn RootServer>,
    /// The counters of its requests, if this process answers them.
    pub(crate) stats: Option<Arc<Stats>>,
    /// What the guest has as its root.
    pub(crate) device: RootDevice,
}

/// The device that a guest has its root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootDevice {
    /// A file system, which a server provides.
    FileSystem,
    /// A disk, which a server provides.
    ServedDisk {
        /// How many queues it has.
        queues: u16,
    },
    /// A disk that is this file, which the hypervisor reads.
    ImageFile(PathBuf),
}

/// The tag of a root that is a file system, and the serial of one that is a disk.
pub(crate) const ROOT: &str = "root";

impl Served {
    fn by(server: impl RootServer + 'static) -> Self {
        Self { server: Box::new(server), stats: None, device: RootDevice::FileSystem }
    }
}

/// Creates what `backend` serves `tree` from, if it does not exist yet, and a server for it. A signal from the user
/// sets `caught` to its number, and ends this. `confine` says how programs are confined, and `queues` how many queues the
/// hypervisor has for a disk that a server provides, if it has such disks.
///
/// # Errors
/// virtiofsd is needed and missing, something cannot be created, or a signal arrived.
pub(crate) fn serve(
    tree: Tree,
    (backend, queues): (Backend, Option<u16>),
    virtiofsd: Result<Virtiofsd, Failure>,
    confine: confine::Decision,
    caught: &Arc<AtomicI32>,
) -> Result<Served, Failure> {
    let (view, store, base) = match tree {
        Tree::Directory(path) => {
            let purpose = Purpose::Root;
            return Ok(Served::by(DirectoryRoot { path, virtiofsd: virtiofsd?, purpose, confine, _view: None }));
        }
        Tree::View(view, store, base) => (view, store, base),
    };
    match backend {
        Backend::Block => match queues {
            Some(queues) => {
                let doing = "making the metadata of the root's disk, once for this base:";
                let disk = making(doing, caught, |observer| store.bases().block_device(&base, view, observer));
                let root = DiskRoot::new(disk.about("block device")?, ROOT, queues);
                Ok(Served { device: RootDevice::ServedDisk { queues }, ..Served::by(root) })
            }
            None => {
                let image = block_image(&store, &base, caught)?;
                let root = UnservedRoot { _view: Some(view) };
                Ok(Served { device: RootDevice::ImageFile(image), ..Served::by(root) })
            }
        },
        Backend::Materialize => {
            let own = !rustix::process::geteuid().is_root();
            let path = unpacked(&store, &base, own, caught)?;
            let purpose = if own { Purpose::OwnRoot } else { Purpose::Root };
            Ok(Served::by(DirectoryRoot { path, virtiofsd: virtiofsd?, purpose, confine, _view: Some(view) }))
        }
        Backend::Direct | Backend::Virtiofsd => {
            let server = Arc::new(Server::new(view));
            let stats = Some(Arc::clone(server.stats()));
            let served = match backend {
                Backend::Virtiofsd => Served::by(MountedRoot::new(server, virtiofsd?, confine)),
                _ => Served::by(DirectRoot::new(server)),
            };
            Ok(Served { stats, ..served })
        }
    }
}

/// Returns a server for a root that a container mounts itself.
pub(crate) fn serve_inside(tree: Tree, namespace: UserNamespace) -> Served {
    match tree {
        Tree::Directory(_) => Served::by(UnservedRoot { _view: None }),
        Tree::View(view, ..) => {
            let server = Arc::new(Server::new(view).in_user_namespace(namespace));
            let stats = Some(Arc::clone(server.stats()));
            Served { stats, ..Served::by(InsideRoot::new(server)) }
        }
    }
}

/// Returns the image of a base. The first machine that needs it creates it.
fn block_image(store: &Store, base: &BaseId, caught: &Arc<AtomicI32>) -> Result<PathBuf, Failure> {
    let doing = "making a block image, once for this base:";
    let image = making(doing, caught, |observer| store.bases().block_image(base, observer));
    image.about("block image")
}

/// Returns the unpacked directory of a base. The first machine that needs it creates it. For an ordinary user, all of
/// it belongs to that user.
fn unpacked(store: &Store, base: &BaseId, without_owners: bool, caught: &Arc<AtomicI32>) -> Result<PathBuf, Failure> {
    let made =
        making("unpacking, once for this base:", caught, |observer| store.bases().tree(base, without_owners, observer));
    let (path, _) = made.about("tree")?;
    if without_owners {
        tell!(
            "lamina: all files of the root belong to root in the guest, and devices and set-user-ID bits are left out"
        );
    }
    Ok(path)
}

/// Creates something in the store and shows the progress, until it is done or a signal arrives.
fn making<T>(doing: &str, caught: &Arc<AtomicI32>, make: impl FnOnce(&dyn Observer) -> T) -> T {
    make(&Making { meter: Meter::new(doing, false), caught: Arc::clone(caught) })
}

/// Shows the progress of the work, and ends it when a signal arrives.
#[derive(Debug)]
struct Making {
    meter: Meter,
    caught: Arc<AtomicI32>,
}

impl Observer for Making {
    fn progress(&self, bytes: u64) {
        self.meter.progress(bytes);
    }

    fn notice(&self, line: &str) {
        self.meter.notice(line);
    }

    fn cancelled(&self) -> bool {
        self.caught.load(Ordering::Relaxed) != 0
    }
}
