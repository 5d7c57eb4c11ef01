//! Images with what the tests look at, mounted, and the trees that they are compared with.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use end_to_end::layout::Layer;
use end_to_end::oracle::Unpacked;
use end_to_end::{Actor, Layout, Session};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

pub(crate) const REFERENCE: &str = "lamina.test/image:1";

/// A store of `actor` that holds the image of a layout.
pub(crate) fn session_with(actor: Actor, layout: &Path) -> Session {
    let session = Session::new(actor);
    session.import(layout, REFERENCE);
    session
}

/// Mounts the image for every user, with owners and modes checked. Only root may do so everywhere.
pub(crate) fn mount_for_all(session: &Session, name: &str) -> PathBuf {
    session.mount_with(REFERENCE, name, &["-o", "allow_other"])
}

/// A tree of directories of one layer and of both layers, nested in each other and next to each other.
pub(crate) fn merged_tree() -> Layout {
    let lower = "
        mkdir -p both/both/lower/deep both/lower/deep/er lower/a/b gone hidden/below empty
        echo one > both/one; echo two > both/both/two; ln both/one lower/a/one
        echo old > both/replaced; echo below > hidden/below/file; echo gone > gone/file
        for size in 0 1 4095 4096 4097 100000; do head -c $size /dev/urandom > lower/$size; done
        ln -s one both/link; ln -s $(printf '%059d' 0) lower/link-59; ln -s $(printf '%060d' 0) lower/link-60
        mkfifo lower/fifo; mknod lower/null c 1 3; mknod lower/disk b 8 17
        setfattr -n user.mime -v text/plain both/one; setfattr -n trusted.note -v root-only lower/1
        chown -h 1001:1001 lower/link-59 both/both; chown 12345:54321 both/one; chmod 4755 lower/4096; chmod 1777 empty
        touch -d '1969-12-31 23:59:58.75 UTC' lower/1; touch -hd '2001-02-03 04:05:06.123456789 UTC' both/link
    ";
    let upper = "
        mkdir -p both/both/upper/deep both/upper/deep/er upper/a/b hidden/above empty/full
        touch .wh.gone hidden/.wh..wh..opq both/.wh.vanished
        echo new > both/replaced; echo above > hidden/above/file; echo three > both/both/three
        ln both/both/three upper/a/three; ln both/both/three upper/a/b/three
        chmod 700 upper/a
    ";
    Layout::of(&[Layer::of_script(lower), Layer::of_script(upper)])
}

/// Where a [`ReadOnly`] and the mount that is compared with it are: equally long paths.
pub(crate) const MODEL: &str = "model";
pub(crate) const SHOWN: &str = "shown";

/// An image unpacked by umoci, shown by a read-only superblock, as a mounted image is: by overlayfs
/// without an upper layer.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    overlay: PathBuf,
    root: PathBuf,
    _unpacked: Unpacked,
}

impl ReadOnly {
    pub(crate) fn of(session: &Session, layout: &Path) -> Self {
        let unpacked = Unpacked::of(&format!("{}:latest", layout.display()), Path::new("/tmp"));
        let (overlay, root, empty) = (session.work("overlay"), session.work(MODEL), session.work("empty"));
        // Without a layer to write to, overlayfs wants two to read from. The tree is one directory below, because
        // what is in both layers has a link count of 1 there.
        let bundle = unpacked.root().parent().expect("a bundle").to_owned();
        let options = CString::new(format!("lowerdir={}:{}", bundle.display(), empty.display())).expect("a plain path");
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount("overlay", &overlay, "overlay", flags, Some(options.as_c_str())).expect("overlayfs on the unpacked tree");
        let model = Self { overlay, root, _unpacked: unpacked };
        mount_bind(model.overlay.join("rootfs"), &model.root).expect("the unpacked tree at its place");
        model
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        for point in [&self.root, &self.overlay] {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}
