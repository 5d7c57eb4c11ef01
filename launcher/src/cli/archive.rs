//! `lamina save` and `lamina load`: archives as docker has them.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use guest_protocol::archive::{Packer, pack_tree};
use layer_store::{Cancellation, ImportOptions, ImportSource};
use serde_json::{Value, json};

use super::acquired::{PolicyArgs, Quiet};
use super::limits::{LimitArgs, SharingArgs};
use super::{Global, import, rows, store};
use crate::failure::{About, Failure, USAGE};
use crate::meter::Meter;

/// Write images to an archive that docker, podman and Lamina load
///
/// The archive is an OCI layout in a tar, with the list that older versions of docker read. Its layers are not compressed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina save -o app.tar app:1 db:2
  lamina save app:1 | ssh host docker load")]
pub(super) struct Save {
    /// The images
    #[arg(value_name = "REF", required = true)]
    images: Vec<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Accepted: docker-archive and oci-archive are the same here
    #[arg(long, hide = true)]
    format: Option<String>,
}

impl Save {
    #[expect(clippy::disallowed_methods, reason = "an archive stays byte-exact")]
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.output.is_none() && io::stdout().is_terminal() {
            let failure = Failure::new("lamina save", "an archive is not written to a terminal");
            return Err(failure.with_hint("name a file with -o").with_status(USAGE));
        }
        let opened = store::look_into(global)?;
        let beside = self.output.as_deref().and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
        let staging = match (&self.output, beside) {
            (None, _) => tempfile::tempdir(),
            (Some(_), Some(parent)) => tempfile::tempdir_in(parent),
            (Some(_), None) => tempfile::tempdir_in("."),
        }
        .about("temporary directory")?;
        let whole = staging.path().join("whole");
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let (mut manifests, mut list) = (Vec::new(), Vec::new());
        for (number, name) in self.images.iter().enumerate() {
            let image = store::image(&opened, name)?;
            let meter = Meter::new("saved", self.quiet).until(&cancellation);
            let layout = staging.path().join(number.to_string());
            opened.images().export(&image, &layout, &meter).about("lamina save")?;
            drop(meter);
            let (repository, tag, _) = rows::name_parts(&image.reference);
            let tags = if tag == "<none>" { Vec::new() } else { vec![format!("{repository}:{tag}")] };
            let index = read_json(&layout.join("index.json"))?;
            manifests.extend(index["manifests"].as_array().cloned().unwrap_or_default());
            list.push(of_docker(&layout, &index, &tags)?);
            merge(&layout, &whole).about("lamina save")?;
        }
        let mut index = read_json(&whole.join("index.json"))?;
        index["manifests"] = manifests.into();
        for (name, document) in [("index.json", index), ("manifest.json", list.into())] {
            fs::write(whole.join(name), document.to_string()).about("lamina save")?;
        }
        match &self.output {
            None => pack(&whole, io::stdout().lock()),
            Some(file) => {
                let written = staging.path().join("archive");
                File::create(&written).and_then(|file| pack(&whole, file)).and_then(|()| fs::rename(&written, file))
            }
        }
        .or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        .about(self.output.as_deref().unwrap_or(Path::new("standard output")).display())?;
        Ok(0)
    }
}

fn read_json(path: &Path) -> Result<Value, Failure> {
    let bytes = fs::read(path).about(path.display())?;
    serde_json::from_slice(&bytes).about(path.display())
}

/// Returns an image's entry in docker's list.
fn of_docker(layout: &Path, index: &Value, tags: &[String]) -> Result<Value, Failure> {
    let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap_or_default().replace(':', "/"));
    let manifest = read_json(&layout.join(blob(&index["manifests"][0]["digest"])))?;
    let layers: Vec<String> =
        manifest["layers"].as_array().into_iter().flatten().map(|layer| blob(&layer["digest"])).collect();
    Ok(json!({ "Config": blob(&manifest["config"]["digest"]), "RepoTags": tags, "Layers": layers }))
}

/// Moves the files of one layout into another one.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => merge(&entry.path(), &target)?,
            false => fs::rename(entry.path(), target)?,
        }
    }
    Ok(())
}

fn pack(layout: &Path, to: impl Write) -> io::Result<()> {
    let mut packer = Packer::new(BufWriter::with_capacity(64 << 10, to)).owned_by_root();
    let mut names: Vec<_> =
        fs::read_dir(layout)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        pack_tree(&mut packer, &layout.join(&name), Path::new(&name))?;
    }
    packer.finish().map(drop)
}

/// Add the images of an archive to the store, as `docker load` does
///
/// The same as `lamina import`, which has more options.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina load -i app.tar
  docker save app:1 | lamina load")]
pub(super) struct Load {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    quiet: Quiet,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Load {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.input.is_none() && io::stdin().is_terminal() {
            let failure = Failure::new("lamina load", "standard input is a terminal");
            return Err(failure.with_hint("name a file with -i").with_status(USAGE));
        }
        let opened = store::open(global)?.with_limits(self.limits.limits());
        let opened = opened.with_file_sharing(self.sharing.shares_files());
        let source = self.input.as_deref().unwrap_or(Path::new("-"));
        let options = ImportOptions { policy: self.policy.policy(), ..ImportOptions::default() };
        import::import(global, &opened, &ImportSource::from(source.as_os_str()), &options, &self.quiet)
    }
}
