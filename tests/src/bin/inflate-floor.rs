//! Decompresses and hashes every layer of a layout's image `latest`, two threads for each layer, and keeps nothing: no
//! import can be faster. Checks each DiffID, so the time covers all of the work.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, ensure};
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The size of a buffer, and how many there are for each layer.
const PIECE: usize = 1 << 18;
const PIECES: usize = 16;

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
    let mut source = BufReader::with_capacity(PIECE, File::open(path)?);
    let is_zstd = source.fill_buf()?.starts_with(b"\x28\xb5\x2f\xfd");
    let mut tar: Box<dyn Read> = match is_zstd {
        true => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        false => Box::new(MultiGzDecoder::new(source)),
    };
    let (filled, pieces) = sync_channel::<(Vec<u8>, usize)>(PIECES);
    let (emptied, free) = sync_channel(PIECES);
    (0..PIECES).try_for_each(|_| emptied.send(vec![0; PIECE]))?;
    let hashing = thread::spawn(move || {
        let mut hash = Sha256::new();
        for (piece, length) in pieces {
            hash.update(&piece[..length]);
            // The other end is closed once everything is decompressed.
            let _ = emptied.send(piece);
        }
        hash
    });
    loop {
        let mut piece = free.recv()?;
        let length = tar.read(&mut piece)?;
        if length == 0 {
            break;
        }
        filled.send((piece, length))?;
    }
    drop((filled, free));
    let hash = hashing.join().expect("the thread that hashes");
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
