//! The process that serves one view: this program with an argument of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use composefs_fuse::Server;
use composefs_fuse::linux::ServeOptions;
use composefs_fuse::mount::MountOptions;
use composefs_fuse::{MountProgram, ServerProcess, run_mount_program};
use layer_store::BaseId;

use crate::store::StoreOptions;

/// The argument with which this program starts itself. It is not a command for users.
pub(crate) const VIEW: &str = "__view";

/// Serves the view of a base.
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    base: BaseId,
    point: PathBuf,
    #[arg(long)]
    log: PathBuf,
}

/// Returns the arguments for the server of a base at `point`.
pub(crate) fn arguments(store: &StoreOptions, base: &BaseId, point: &Path, log: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![VIEW.into()];
    arguments.extend(store.arguments());
    arguments.extend(["--log".into(), log.into(), base.hex().into(), point.into()]);
    arguments
}

impl View {
    /// Mounts and serves the view. Prints `ready` once it can be read, and returns when it was unmounted.
    pub(crate) fn execute(&self, store: &StoreOptions) -> anyhow::Result<()> {
        // What is mounted is reached by root alone, and containers are given overlays of it with their own rules.
        let mount = MountOptions { allow_other: true, suid: true, dev: true, ..MountOptions::default() };
        let program = MountProgram {
            mount_point: self.point.clone(),
            options: ServeOptions { mount, ..ServeOptions::default() },
            server: ServerProcess::Background,
            log: Some(self.log.clone()),
        };
        let ended = run_mount_program::<anyhow::Error>(&program, || {
            let store = store.open()?.with_purpose("containerd's containers");
            // The view has its own lease.
            Ok(Server::new(Arc::new(store.bases().open(&self.base)?)))
        });
        ended.map(drop)
    }
}
