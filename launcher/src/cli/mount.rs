//! `lamina mount`.

use std::path::PathBuf;
use std::sync::Arc;

use composefs_fuse::Server;
use composefs_fuse::linux::background::{self, BackgroundError};
use composefs_fuse::linux::{Ended, MountOptions, MountPoint, ServeOptions, StatsOutlet, serve};

use super::on_top::OnTop;
use super::{Global, store};
use crate::failure::{About, FAILED, Failure};

/// Show an image as a read-only directory, without root and without unpacking it
///
/// Returns when the tree can be read and goes on serving in the background, until `lamina umount`. Only the user
/// who mounts gets in, and reads everything, root's files included; with --allow-other everybody gets in, and the
/// kernel checks owners and modes (POSIX ACLs are shown but not enforced).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina mount debian:12 /tmp/debian && ls /tmp/debian
  lamina mount --foreground debian:12 /srv/debian
  lamina stats /tmp/debian
  lamina umount /tmp/debian")]
pub(super) struct Mount {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// An empty directory to mount it on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    on_top: OnTop,
    /// Do not return until it is unmounted or a signal comes
    #[arg(long, short)]
    foreground: bool,
    /// Let other users in, owners and modes being checked
    #[arg(long)]
    allow_other: bool,
    /// Prove each file's content when it is first read; a damaged file gives an I/O error
    #[arg(long)]
    verify: bool,
    /// Answer `lamina stats` at this socket [default: one in $XDG_RUNTIME_DIR/lamina]
    #[arg(long, value_name = "SOCKET")]
    stats: Option<PathBuf>,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Set by this program for the process that it leaves in the background
    #[arg(long, hide = true)]
    background_child: bool,
}

impl Mount {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.foreground || self.background_child {
            return self.serve(global);
        }
        match background::start("--background-child") {
            Ok(()) => Ok(0),
            // It has said why.
            Err(BackgroundError::Ended(status)) => {
                Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
            }
            Err(error) => Err(Failure::new("lamina mount", error)),
        }
    }

    fn serve(&self, global: &Global) -> Result<u8, Failure> {
        if self.background_child {
            background::detach().about("lamina mount")?;
        }
        // Before the store: the commonest mistake is the cheapest to find.
        let mount_point = MountPoint::new(&self.directory).about("lamina mount")?;
        let purpose = format!("a mount of {} on {}", self.image, self.directory.display());
        let opened = self.on_top.open(global)?.with_purpose(&purpose);
        let image = store::image(&opened, &self.image)?;
        let on_top = self.on_top.layers(&opened)?;
        store::tell_unleased(&opened, &image.layers, &on_top);
        let base = store::prepare(&opened, &image, &on_top)?;
        let view = opened.bases().open(&base).map_err(|error| Failure::new(&self.image, error))?;
        let view = if self.verify { view.verifying() } else { view };
        // From here on the view's own lease holds what is used.
        drop(opened);
        let server = Arc::new(Server::new(Arc::new(view)));
        let stats = match &self.stats {
            Some(path) => StatsOutlet::At(std::path::absolute(path).about(path.display())?),
            None => StatsOutlet::Default,
        };
        let mount = MountOptions { allow_other: self.allow_other, ..MountOptions::default() };
        let options = ServeOptions { mount, threads: self.threads.into(), stats };
        let log = background::default_log();
        let ended = serve(&server, &mount_point, &options, || match self.background_child {
            true => background::report_ready(log.as_deref()),
            false => Ok(()),
        });
        if let Ended::SignalWhileBusy(_) = ended.about("lamina mount")? {
            tracing::warn!("{}: files were still open; reading them fails from now on", self.directory.display());
        }
        if global.verbose > 0 {
            tell!("{}", server.stats().snapshot().to_string().trim_end());
        }
        Ok(0)
    }
}
