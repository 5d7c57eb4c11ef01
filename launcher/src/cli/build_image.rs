//! `lamina build-image`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use layer_store::Cancellation;

use super::on_top::OnTop;
use super::{Global, store};
use crate::failure::{About, Failure};
use crate::meter::Meter;
use crate::print;

/// Write an image as one read-only file that a kernel mounts (EROFS)
///
/// For hypervisors without virtiofs, and for guests that want a disk. The same image and layers give the same bytes.
/// The file holds everything: owners, modes, times to the nanosecond, extended attributes, hard links and devices.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina build-image debian:12 debian.erofs
  sudo mount -t erofs -o loop debian.erofs /mnt
  lamina build-image debian:12 agent.erofs --layer ./agent --force")]
pub(super) struct BuildImage {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    on_top: OnTop,
    /// Replace the file if it exists
    #[arg(long, short)]
    force: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

impl BuildImage {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        // Checked before the work: the most common mistake is the cheapest to find.
        self.check_place()?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let opened = self.on_top.open(global)?;
        let image = store::image(&opened, &self.image)?;
        let base = store::prepare(&opened, &image, &self.on_top.layers(&opened)?)?;
        let meter = Meter::new("written", self.quiet).until(&cancellation);
        // Written next to the target under another name, so that a failure leaves nothing.
        let directory = self.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staged = tempfile::Builder::new()
            .prefix(".lamina-image-")
            .permissions(PermissionsExt::from_mode(0o644))
            .tempfile_in(directory)
            .about(self.file.display())?;
        let target = (self.file.as_path(), staged.as_file());
        let written = opened.bases().write_block_image(&base, target, &meter);
        let summary = written.about("lamina build-image")?;
        drop(meter);
        self.check_place()?;
        let kept = if self.force { staged.persist(&self.file) } else { staged.persist_noclobber(&self.file) };
        kept.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => in_the_way(&self.file),
            _ => Failure::new(self.file.display(), error.error),
        })?;
        if summary.xattrs_left_out > 0 {
            let count = summary.xattrs_left_out;
            tell!("lamina: {count} extended attributes were left out: EROFS cannot store them");
        }
        if global.json {
            print::json(&serde_json::json!({ "file": self.file, "base": base.to_string(), "image": summary }))?;
        } else if !self.quiet {
            say!("wrote {} ({}, {} inodes)", self.file.display(), super::size(summary.bytes), summary.inodes);
        }
        Ok(0)
    }

    /// Refuses to replace a regular file without --force, and always refuses to replace anything else. A symbolic link
    /// itself would be replaced, not its target.
    fn check_place(&self) -> Result<(), Failure> {
        match std::fs::symlink_metadata(&self.file) {
            Ok(there) if !there.is_file() => {
                Err(Failure::new(self.file.display(), "it is not a regular file").with_hint("choose another file"))
            }
            Ok(_) if !self.force => Err(in_the_way(&self.file)),
            _ => Ok(()),
        }
    }
}

fn in_the_way(file: &Path) -> Failure {
    Failure::new(file.display(), "it already exists").with_hint("choose another file, or use --force")
}
