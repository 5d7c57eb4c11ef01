//! `lamina doctor`.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use composefs_fuse::Server;
use composefs_fuse::mount::MountPoint;
use composefs_fuse::portable::{ServeError, ServeOptions, serve};
use layer_store::{Silent, Store};

use crate::cli::Global;
use crate::cli::finding::{self, Finding};
use crate::failure::{About, Failure};

/// Find out what this host can do, by trying
///
/// Writes to the store, and mounts an empty file system. The exit status is 1 if the store cannot be written. Machines need
/// Linux, so nothing is tried for them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina doctor
  lamina doctor --json | jq -r '.[] | select(.works | not) | .remedy'")]
pub(in crate::cli) struct Doctor {}

impl Doctor {
    #[expect(clippy::unused_self, reason = "as on Linux, which has options")]
    pub(in crate::cli) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let mounts = fuse().map(|()| "this user can mount".to_owned());
        let findings = [Finding::new("store", true, finding::store(global)), Finding::new("FUSE", false, mounts)];
        finding::report(&findings, global)
    }
}

/// Checks whether this user can mount FUSE file systems, by mounting an empty view and listing it.
fn fuse() -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("lamina-fuse-").tempdir().about("temporary directory")?;
    fuse_below(scratch.path())
}

fn fuse_below(scratch: &Path) -> Result<(), Failure> {
    let store = Store::open(&scratch.join("store")).about("temporary store")?;
    let base = store.bases().prepare_layers(&[], &[], &Silent).about("temporary store")?;
    let server = Arc::new(Server::new(Arc::new(store.bases().open(&base).about("temporary store")?)));
    let path = scratch.join("mount");
    fs::create_dir(&path).about(path.display())?;
    let point = MountPoint::new(&path).about("fuse")?;
    let mut listed: Option<io::Result<Vec<_>>> = None;
    // The error takes the mount away.
    let list = || -> io::Result<()> {
        listed = Some(fs::read_dir(&path).and_then(Iterator::collect));
        Err(io::ErrorKind::Interrupted.into())
    };
    match serve(server, &point, &ServeOptions::default(), list) {
        Err(ServeError::Unwanted(_)) => {}
        outcome => {
            let cause =
                outcome.err().map_or_else(|| "a signal has ended the try".to_owned(), |error| error.to_string());
            return Err(
                Failure::new("fuse", cause).with_hint("allow macFUSE's system extension in the system's settings")
            );
        }
    }
    match listed.transpose().about("fuse")? {
        Some(entries) if entries.is_empty() => Ok(()),
        _ => Err(Failure::new("fuse", "an empty mount is not empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_tried_and_taken_away() {
        let scratch = tempfile::tempdir().unwrap();
        fuse_below(scratch.path()).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(scratch.path().to_str().unwrap()), "{mounts}");
    }
}
