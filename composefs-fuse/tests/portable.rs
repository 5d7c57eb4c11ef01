//! Mounts that the crate `fuser` makes and serves by itself, as on a Mac.

#[path = "support/mod.rs"]
mod support;

use composefs_fuse::Server;
use composefs_fuse::mount::{Ended, MountError, MountOptions, MountPoint};
use composefs_fuse::portable::{self, ServeError, ServeOptions, serve};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::{Layer, MTIME, Stored as _};
use tempfile::TempDir;

fn layer() -> Layer {
    (0..600)
        .fold(Layer::new().directory("crowd", 0o755), |layer, number| {
            layer.file(&format!("crowd/{number:04}"), number.to_string().as_bytes())
        })
        .file("file", b"content")
        .symlink("link", "file")
}

/// Mounts [`layer`], does `act` once it can be read, and returns how that has ended.
fn served(act: impl FnOnce(&Path) -> io::Result<()>) -> Result<Ended, ServeError> {
    let (view, _store) = layer().into_view();
    let directory = TempDir::new().unwrap();
    let point = MountPoint::new(directory.path()).unwrap();
    let server = Arc::new(Server::new(Arc::new(view)));
    let options = ServeOptions { mount: MountOptions { fsname: "image".to_owned(), ..MountOptions::default() } };
    let served = serve(server, &point, &options, || act(point.path()));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(point.path().to_str().unwrap()), "{mounts}");
    Ok(served?.ended)
}

/// Unmounts as another program would, without waiting: the server must notice by itself.
fn unmount(point: &Path) {
    assert!(Command::new("fusermount3").arg("-u").arg(point).status().unwrap().success());
}

#[test]
fn a_tree_is_read_until_another_program_unmounts_it() {
    let ended = served(|point| {
        assert_eq!(fs::read(point.join("link"))?, b"content");
        let file = fs::metadata(point.join("file"))?;
        assert_eq!((file.len(), (file.mtime(), file.mtime_nsec())), (7, (MTIME.0, MTIME.1.into())));
        let mut names: Vec<_> = fs::read_dir(point.join("crowd"))?.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!((names.len(), names[599].to_str()), (600, Some("0599")));
        assert_eq!(fs::metadata(point.join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::write(point.join("new"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        unmount(point);
        Ok(())
    });
    assert_eq!(ended.unwrap(), Ended::Unmounted);
}

#[test]
fn umount_says_whether_a_mount_is_busy_or_missing() {
    let ended = served(|point| {
        let open = fs::File::open(point.join("file"))?;
        let refused = portable::unmount(point);
        assert!(matches!(refused, Err(MountError::Busy(_))), "{refused:?}");
        drop(open);
        portable::unmount(point).unwrap();
        let refused = portable::unmount(point);
        assert!(matches!(refused, Err(MountError::NotMounted(_))), "{refused:?}");
        Ok(())
    });
    assert_eq!(ended.unwrap(), Ended::Unmounted);
}

#[test]
fn a_signal_unmounts() {
    let ended = served(|point| {
        assert_eq!(fs::read(point.join("file"))?, b"content");
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM)
    });
    assert_eq!(ended.unwrap(), Ended::Signal(signal_hook::consts::SIGTERM));
}

#[test]
fn a_mount_that_nothing_waits_for_is_taken_away() {
    let ended = served(|_| Err(io::ErrorKind::BrokenPipe.into()));
    assert!(matches!(ended, Err(ServeError::Unwanted(_))), "{ended:?}");
}
