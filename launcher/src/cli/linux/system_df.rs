//! `lamina system df`: docker's summary of what takes disk space. `lamina du` has the details.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::template::FormatArg;
use crate::cli::{Global, du, size, store};
use crate::failure::{About, Failure};
use crate::machine::volumes::Volume;
use crate::machine::{self, Record};
use crate::print;

/// Show the disk space of images, machines and volumes
///
/// `lamina du` has the details of images.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina system df
  lamina system df --format '{{.Type}}: {{.Size}}'")]
pub(in crate::cli) struct SystemDf {
    /// Show what each image takes, as `lamina du` does
    #[arg(short = 'v')]
    details: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl SystemDf {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        if self.details {
            return du::Du::default().execute(global);
        }
        let rows = [images(global)?, machines()?, volumes()?];
        if global.json {
            return print::json_pretty(&rows).map(|()| 0);
        }
        if self.format.print(rows.iter().cloned())? {
            return Ok(0);
        }
        say!("{:10}  {:>5}  {:>6}  {:>10}  {:>11}", "TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE");
        for row in &rows {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            say!(
                "{:10}  {:>5}  {:>6}  {:>10}  {:>11}",
                text("Type"),
                text("TotalCount"),
                text("Active"),
                text("Size"),
                text("Reclaimable")
            );
        }
        Ok(0)
    }
}

/// Returns a row as docker has it, with the numbers beside it.
fn row(kind: &str, total: usize, active: usize, bytes: u64, reclaimable: u64) -> Value {
    json!({
        "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(), "Size": size(bytes),
        "Reclaimable": size(reclaimable), "bytes": bytes, "reclaimable_bytes": reclaimable,
    })
}

fn images(global: &Global) -> Result<Value, Failure> {
    let opened = store::look_into(global)?;
    let usage = opened.usage().about("lamina system df")?;
    let used: HashSet<String> = machine::all()?.into_iter().map(|record| record.root).collect();
    let active = usage.images.iter().filter(|image| used.contains(&image.reference)).count();
    let bytes = usage.blobs + usage.indexes + usage.remnants + usage.bases + usage.manifests + usage.partial;
    let reclaimable = opened.collect(true).about("lamina system df")?.bytes;
    Ok(row("Images", usage.images.len(), active, bytes, reclaimable))
}

fn machines() -> Result<Value, Failure> {
    let records = machine::all()?;
    let taken = |record: &Record| machine::directory_of(&record.name).map_or(0, |directory| taken_by(&directory));
    let active = records.iter().filter(|record| record.state.is_active()).count();
    let bytes = records.iter().map(taken).sum();
    let reclaimable = records.iter().filter(|record| !record.state.is_active()).map(taken).sum();
    Ok(row("Machines", records.len(), active, bytes, reclaimable))
}

fn volumes() -> Result<Value, Failure> {
    let (mut active, mut bytes, mut reclaimable) = (0, 0, 0);
    let volumes = Volume::all()?;
    for volume in &volumes {
        let taken = taken_by(&volume.data());
        bytes += taken;
        match volume.users()?.is_empty() {
            true => reclaimable += taken,
            false => active += 1,
        }
    }
    Ok(row("Volumes", volumes.len(), active, bytes, reclaimable))
}

/// Returns the bytes that a directory takes. What cannot be read, because a container wrote it under another id, counts
/// as nothing.
fn taken_by(directory: &Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            sum += found.blocks() * 512;
            if found.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    sum
}
