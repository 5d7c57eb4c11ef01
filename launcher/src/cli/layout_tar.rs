//! Packs an OCI layout into an archive that docker, podman and Lamina load: it also has the list that older versions of docker
//! read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use guest_protocol::archive::{Packer, pack_tree};
use layer_store::Reference;
use serde_json::{Value, json};

use crate::failure::{About, Failure};

/// Creates a directory to make an archive in: on the file system of the file, or else in the temporary directory.
pub(super) fn staging(file: Option<&Path>) -> Result<tempfile::TempDir, Failure> {
    let beside = file.map(|file| match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    });
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lamina-export-");
    match beside {
        None => builder.tempdir().about("temporary directory"),
        Some(directory) => builder.tempdir_in(directory).about(directory.display()),
    }
}

/// Writes the archive of a layout to a file, or to standard output. `names` are those of its images, in their order.
#[expect(clippy::disallowed_methods, reason = "an archive stays byte-exact")]
pub(super) fn write(layout: &Path, names: &[&str], file: Option<&Path>, staging: &Path) -> Result<(), Failure> {
    let index = read_json(&layout.join("index.json"))?;
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    let list: Vec<Value> = entries
        .iter()
        .zip(names)
        .filter_map(|(entry, name)| of_docker(layout, entry, name).transpose())
        .collect::<Result<_, _>>()?;
    // An index for several platforms has no place in that list.
    if !list.is_empty() {
        fs::write(layout.join("manifest.json"), Value::Array(list).to_string()).about(layout.display())?;
    }
    let written = match file {
        None => pack(layout, io::stdout().lock()),
        Some(file) => {
            let made = staging.join("archive");
            File::create(&made).and_then(|file| pack(layout, file)).and_then(|()| fs::rename(&made, file))
        }
    };
    let written = written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) });
    written.about(file.unwrap_or(Path::new("standard output")).display())
}

fn read_json(path: &Path) -> Result<Value, Failure> {
    let bytes = fs::read(path).about(path.display())?;
    serde_json::from_slice(&bytes).about(path.display())
}

/// Returns an image's entry in docker's list. `None` for an index.
fn of_docker(layout: &Path, entry: &Value, name: &str) -> Result<Option<Value>, Failure> {
    let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap_or_default().replace(':', "/"));
    let manifest = read_json(&layout.join(blob(&entry["digest"])))?;
    let Some(layers) = manifest["layers"].as_array() else { return Ok(None) };
    let layers: Vec<String> = layers.iter().map(|layer| blob(&layer["digest"])).collect();
    let reference = name.parse::<Reference>().ok().and_then(|reference| match reference.digest() {
        None => Some(reference),
        Some(_) => reference.without_digest(),
    });
    let tags: Vec<String> = reference.iter().map(Reference::familiar).collect();
    Ok(Some(json!({ "Config": blob(&manifest["config"]["digest"]), "RepoTags": tags, "Layers": layers })))
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
