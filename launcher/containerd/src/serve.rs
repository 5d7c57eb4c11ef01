//! `lamina containerd serve`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::api::snapshots::SnapshotsServer;
use crate::service::Service;
use crate::snapshotter::Snapshotter;
use crate::store::StoreOptions;
use crate::sys;

/// How often views are looked at that nothing uses, and layers that a process used after their snapshots were removed.
const LOOK: Duration = Duration::from_secs(10);

/// The longest pause between two looks if each fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// For how long calls that have begun may go on after a signal. containerd repeats calls that were cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// Be a snapshotter of containerd
///
/// Layers that the store has need not be unpacked, and all containers on an image share one read-only view of it. Views
/// are served by processes of their own, so this one can be ended and started again while containers run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In /etc/containerd/config.toml:
  [proxy_plugins.lamina]
    type = \"snapshot\"
    address = \"/run/lamina-containerd/lamina.sock\"

Examples:
  lamina containerd serve
  lamina containerd serve --store /srv/lamina --address /run/lamina-containerd/lamina.sock
  ctr run --snapshotter lamina --rm docker.io/library/debian:12 test ls /")]
pub(crate) struct Serve {
    /// Listen at this socket [a socket that systemd passes is used instead]
    #[arg(long, value_name = "SOCKET", default_value = "/run/lamina-containerd/lamina.sock")]
    address: PathBuf,
    /// Keep here what is known about snapshots, and what containers write
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lamina-containerd")]
    root: PathBuf,
    /// Mount views below this directory
    #[arg(long, value_name = "DIR", default_value = "/run/lamina-containerd")]
    run: PathBuf,
}

impl Serve {
    pub(crate) fn execute(&self, store: &StoreOptions) -> anyhow::Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("only root can be a snapshotter of containerd, because it mounts what containers run on");
        }
        let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        let (root, run) = (absolute(&self.root)?, absolute(&self.run)?);
        for path in [&root, &run] {
            // They would end the path in the options of an overlay, and so would what follows a backslash.
            if path.to_str().is_none_or(|path| path.contains([',', ':', '\\'])) {
                bail!(
                    "{}: a comma, a colon or a backslash cannot be in a mount option; choose another directory",
                    path.display()
                );
            }
        }
        // Before the state is opened: a second server at the same socket changes nothing.
        let socket = match sys::passed_socket().context("the socket of systemd")? {
            Some(socket) => socket,
            None => listen(&absolute(&self.address)?)?,
        };
        let snapshotter = Arc::new(Snapshotter::open(&root, &run, store.absolute()?)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let served = runtime.block_on(serve(snapshotter, socket));
        // Otherwise it would wait for the calls that are still at work.
        runtime.shutdown_background();
        served
    }
}

async fn serve(snapshotter: Arc<Snapshotter>, socket: UnixListener) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixListener::from_std(socket)?;
    tokio::spawn(tidy(Arc::clone(&snapshotter)));
    tracing::info!("ready");
    let service = SnapshotsServer::new(Service::new(snapshotter));
    let serving = Server::builder().serve_with_incoming_shutdown(service, UnixListenerStream::new(socket), ended());
    let late = async {
        ended().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        served = serving => served?,
        () = late => {}
    }
    Ok(())
}

/// Unmounts what is idle and frees what is garbage, again and again.
async fn tidy(snapshotter: Arc<Snapshotter>) {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let snapshotter = Arc::clone(&snapshotter);
        pause = match tokio::task::spawn_blocking(move || snapshotter.tidy()).await {
            Ok(Ok(true)) => LOOK,
            // The log has said why.
            Ok(Ok(false)) => LONGEST_PAUSE.min(pause * 2),
            Ok(Err(error)) => {
                tracing::warn!("layers that nothing needs are not freed: {error}");
                LONGEST_PAUSE.min(pause * 2)
            }
            // The thread has said why.
            Err(_) => LONGEST_PAUSE.min(pause * 2),
        };
    }
}

/// Ends with the first signal that asks this process to end.
async fn ended() {
    let next = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(error) => {
                tracing::warn!("cannot wait for a signal: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = next(SignalKind::terminate()) => {}
        () = next(SignalKind::interrupt()) => {}
    }
}

/// Listens at a path. Replaces the socket of a process that has ended.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let name = || path.display().to_string();
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(|| parent.display().to_string())?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!("{}: another process listens there; stop it first", name());
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).with_context(name)?,
        Ok(_) => bail!("{}: it exists and is not a socket; choose another path with --address", name()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(name),
    }
    // Any process that connects can mount, so only root may connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let socket = UnixListener::bind(path);
    rustix::process::umask(before);
    socket.with_context(name)
}
