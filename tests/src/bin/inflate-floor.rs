//! Inflates and hashes every layer of a layout's image `latest`, one thread for each layer, and keeps nothing: no
//! import can be faster. Checks each DiffID, so the time covers all of the work.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, ensure};
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn main() -> anyhow::Result<()> {
    let layout = std::env::args().nth(1).context("usage: inflate-floor LAYOUT")?;
    let layout = Path::new(&layout);
    let index: Value = read_json(&layout.join("index.json"))?;
    let tagged = index["manifests"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|each| each["annotations"]["org.opencontainers.image.ref.name"] == "latest");
    let manifest: Value = read_json(&blob(layout, &tagged.context("no image `latest`")?["digest"])?)?;
    let config: Value = read_json(&blob(layout, &manifest["config"]["digest"])?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().context("no DiffIDs")?;
    thread::scope(|scope| {
        let threads: Vec<_> = layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| scope.spawn(move || check(layout, layer, diff_id)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("the thread of a layer"))
    })
}

fn check(layout: &Path, layer: &Value, diff_id: &Value) -> anyhow::Result<()> {
    let path = blob(layout, &layer["digest"])?;
    let mut tar = MultiGzDecoder::new(BufReader::with_capacity(1 << 18, File::open(path)?));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match tar.read(&mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(*diff_id == format!("sha256:{hex}"), "layer {hex} should be {diff_id}");
    Ok(())
}

fn blob(layout: &Path, digest: &Value) -> anyhow::Result<std::path::PathBuf> {
    let name = digest.as_str().context("a digest")?;
    Ok(layout.join("blobs").join(name.replace(':', "/")))
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}
