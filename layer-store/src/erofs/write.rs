//! Writes an image with its content to a file.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};

use super::ErofsError;
use super::format::BLOCK;
use super::metadata::MetadataWriter;
use super::plan::Plan;
use crate::{Observer, View};

/// Writes a planned image to an empty file.
pub(super) fn write(
    view: &View,
    plan: &Plan,
    file: &File,
    uuid: [u8; 16],
    observer: &dyn Observer,
) -> Result<(), ErofsError> {
    file.set_len(plan.bytes()).map_err(ErofsError::Write)?;
    let mut metadata = BufWriter::with_capacity(256 << 10, file);
    metadata.seek(SeekFrom::Start(0)).map_err(ErofsError::Write)?;
    MetadataWriter { view, plan, observer }.write(uuid, &mut metadata)?;
    metadata.flush().map_err(ErofsError::Write)?;
    let mut copied = |bytes| observer.progress(bytes);
    for place in plan.places.iter().filter(|place| place.is_file && place.block > 0) {
        if observer.cancelled() {
            return Err(ErofsError::Cancelled);
        }
        view.copy_content(place.ino, 0, u64::MAX, file, u64::from(place.block) * BLOCK, &mut copied)?;
    }
    Ok(())
}
