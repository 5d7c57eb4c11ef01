//! `lamina materialize`.

use std::path::PathBuf;

use layer_store::{Cancellation, MaterializeOptions, Materialized};

use crate::cli::on_top::OnTop;
use crate::cli::{Global, size, store};
use crate::failure::{About, Failure};
use crate::meter::Meter;
use crate::print;

/// Unpack an image into a directory, for tools that need one
///
/// If root runs it, the files keep their owners. Other users get a tree that belongs to them: see --without-owners.
/// Set-user-ID bits, devices and capabilities are left out unless --keep-privileges asks for them. Where the file system
/// supports it, content is shared with the store by reflink instead of copied. A failed or interrupted run leaves nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo lamina materialize debian:12 /srv/debian
  lamina materialize --without-owners debian:12 ./tree
  sudo mkdir -m 700 /srv/trees
  sudo lamina materialize --keep-privileges debian:12 /srv/trees/debian
  sudo lamina materialize --hard-link-equal app:2 /srv/app2
  sudo lamina materialize --hard-link-equal=/srv/app1 app:2 /srv/app2")]
pub(in crate::cli) struct Materialize {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// A new directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    on_top: OnTop,
    /// Give all files to the current user, without set-user-ID bits, devices and attributes outside "user."
    #[arg(long)]
    without_owners: bool,
    /// Keep what could give another user of this host privileges: set-user-ID and set-group-ID bits, devices, capabilities
    /// of programs. DIR must be in a directory that nobody else can enter (mode 0700)
    #[arg(long, conflicts_with = "without_owners")]
    keep_privileges: bool,
    /// Hard-link equal files: within the tree, and with the file at the same path below OTHER. Do not write to a file
    /// of either tree, because it would change under all its names
    #[arg(long, value_name = "OTHER", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    hard_link_equal: Option<String>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

impl Materialize {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if !self.without_owners && !rustix::process::geteuid().is_root() {
            return Err(Failure::new("lamina materialize", "only root can set owners and create devices").with_hint(
                "use --without-owners for a tree that belongs to you, or `lamina mount`, which needs neither",
            ));
        }
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let opened = self.on_top.open(global)?;
        let image = store::image(&opened, &self.image)?;
        let base = store::prepare(&opened, &image, &self.on_top.layers(&opened)?)?;
        let view = opened.bases().open(&base).map_err(|error| Failure::of(&self.image, &error))?.verifying();
        if self.hard_link_equal.is_some() && !self.quiet {
            tell!("lamina: equal files become one file: writing to one of its names changes all of them");
        }
        let options = MaterializeOptions {
            without_owners: self.without_owners,
            with_privileges: self.keep_privileges,
            link_equal: self.hard_link_equal.is_some(),
            link_to: self.hard_link_equal.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        let meter = Meter::new("written", self.quiet).until(&cancellation);
        let made = view.materialize(&self.directory, &options, &meter);
        drop(meter);
        let made = made.about("lamina materialize")?;
        if global.json {
            print::json(&serde_json::json!({ "directory": self.directory, "base": base.to_string(), "made": made }))?;
        } else if !self.quiet {
            say!("unpacked {} entries, {} to {}", made.entries, size(made.bytes), self.directory.display());
        }
        if let Some(words) = left_out(&made) {
            let why = if self.without_owners {
                "because only root can create them"
            } else {
                "because they could give users of this host privileges (see --keep-privileges)"
            };
            tell!("lamina: left out, {why}: {words}");
        }
        Ok(0)
    }
}

/// Describes what a tree lacks besides.
fn left_out(made: &Materialized) -> Option<String> {
    let counted = [
        (made.devices_left_out, "device nodes"),
        (made.set_ids_left_out, "set-user-ID and set-group-ID bits"),
        (made.xattrs_left_out, "extended attributes"),
    ];
    let words: Vec<String> =
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
