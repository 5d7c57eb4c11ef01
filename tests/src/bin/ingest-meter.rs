//! Stores the layer on standard input in a new store below the given directory, and prints the peak of this
//! process's memory in kilobytes.

use anyhow::Context as _;
use layer_store::{ExpectedLayer, Store};

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: ingest-meter DIRECTORY < LAYER")?;
    let store = Store::open(&std::path::Path::new(&directory).join("store"))?;
    store.layers().ingest(&mut std::io::stdin(), &ExpectedLayer::default())?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    println!("{}", peak.trim().trim_end_matches("kB").trim());
    Ok(())
}
