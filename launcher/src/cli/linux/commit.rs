//! `lamina commit`.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use guest_protocol::Process;
use layer_store::{ConfigChange, DiffId, Digest, ExpectedLayer, Provenance, Store};
use transfer_cli::SharingArgs;

use crate::cli::{Global, store};
use crate::failure::{About, Failure, USAGE};
use crate::machine::launch;
use crate::machine::{Machine, Piped, Signals, Stdio};
use crate::open_store::open_store;
use crate::print;
use crate::spec::{Root, Spec};

/// Create an image from what a machine has written
///
/// The machine must be running or have been created with --keep. The new image has the config and layers of the machine's
/// image, the layers added by `run --layer` and `--variant`, and one new layer with what was added and changed, and a
/// whiteout for each deletion. Shares, secrets and files that Lamina itself puts into a guest are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina run --keep --name build debian:12 apt-get install --yes jq
  lamina commit build example.test/debian-jq:1
  lamina commit --message 'with our CA' build example.test/debian-ca:1
  lamina commit --change 'CMD [\"nginx\"]' --change 'ENV LANG=C.UTF-8' build example.test/web:1")]
pub(in crate::cli) struct Commit {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
    /// The new image's name
    #[arg(value_name = "REF")]
    reference: String,
    /// Change the new image's config, as an instruction of a Dockerfile does: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR (repeatable)
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<ConfigChange>,
    /// A comment for the image's history
    #[arg(short, long)]
    message: Option<String>,
    /// The author for the image's history
    #[arg(short, long)]
    author: Option<String>,
    /// Accepted: a running machine is read as it is
    #[arg(short, long, hide = true, num_args = 0..=1, require_equals = true)]
    pause: Option<Option<bool>>,
    /// Print only the digest of the new image
    #[arg(short, long)]
    quiet: bool,
    /// Write the digest of the new image to this file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Commit {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let reference = store::reference(&self.reference)?;
        if reference.digest().is_some() {
            // Checked before the work, because it would fail after it.
            let failure = Failure::new(&self.reference, "the digest of a new image is not known before it is made");
            return Err(failure.with_hint("give a name without a digest").with_status(USAGE));
        }
        let reference = reference.to_string();
        let machine = Machine::find(&self.name)?;
        let (opened, base, variant) = self.base(&machine)?;
        let layer = self.layer(&machine, &opened, signals)?;
        let provenance = Provenance {
            created: DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
            created_by: format!("lamina commit {}", self.name),
            author: self.author.clone(),
            comment: self.message.clone(),
        };
        let on_top: Vec<DiffId> = variant.into_iter().chain([layer]).collect();
        let manifest = opened.images().commit(&base, &on_top, &self.change, &provenance, &reference);
        let manifest = manifest.about(&reference)?;
        if let Some(file) = &self.iidfile {
            std::fs::write(file, manifest.to_string()).about(file.display())?;
        }
        if global.json {
            print::json(&serde_json::json!({ "reference": reference, "manifest": manifest, "layer": layer }))?;
        } else if self.quiet {
            say!("{manifest}");
        } else {
            let bytes = opened.layers().bytes(&layer).unwrap_or_default();
            say!("{reference}: added a layer of {}", crate::cli::size(bytes));
        }
        Ok(0)
    }

    /// Returns the store of the machine's root, its image's manifest, and the layers on top of it.
    fn base(&self, machine: &Machine) -> Result<(Store, Digest, Vec<DiffId>), Failure> {
        let about = || format!("machine {}", self.name);
        let spec = Spec::read_of(&self.name, &machine.directory()?)?;
        let Root::Image { store, also_read, manifest, variant, .. } = spec.root else {
            return Err(Failure::new(about(), "it runs on a directory of this host, not on an image"));
        };
        let opened = open_store(&store, &also_read)?.with_file_sharing(self.sharing.shares_files());
        Ok((opened, manifest, variant))
    }

    /// Streams what the machine has written into the store.
    fn layer(&self, machine: &Machine, opened: &Store, signals: Signals) -> Result<DiffId, Failure> {
        let (mut reader, writer) = io::pipe().about("pipe")?;
        let about = format!("machine {}", self.name);
        thread::scope(|scope| {
            let ingesting = scope.spawn(move || {
                let expected = ExpectedLayer { compressed: None, diff_id: None };
                let ingested = opened.layers().ingest(&mut reader, &expected);
                // Always read to the end, so that the guest does not wait.
                let _ = io::copy(&mut reader, &mut io::sink());
                ingested
            });
            let ends = Stdio::output(Piped::new(writer));
            let status = launch::run_tool(machine, Process::tool(&["pack-changes"]), ends, signals);
            let ingested = ingesting.join().map_err(|_| Failure::new(&about, "its changes could not be read"))?;
            match status? {
                0 => Ok(ingested.about(&about)?.diff_id),
                status => Err(Failure::new(&about, "its changes could not be read").with_status(status)),
            }
        })
    }
}
