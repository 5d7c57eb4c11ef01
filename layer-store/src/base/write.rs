//! Writes a base.

use std::io::{self, Seek, Write};

use zerocopy::IntoBytes;

use super::format::{AttachedRecord, DirRecord, EntryRecord, FORMAT, MERGED, NlinkRecord};
use super::merge::{MergedEntry, MergedTarget, MergedTree};
use crate::section_file::SectionWriter;

impl MergedTree {
    /// Writes the base file.
    pub(crate) fn write<W: Write + Seek>(&self, out: W) -> io::Result<W> {
        let layers: Vec<[u8; 32]> = self.layers.iter().map(|layer| *layer.0.as_bytes()).collect();
        let dirs = self.dirs.iter().map(|dir| DirRecord {
            layer: dir.attributes.layer.into(),
            inode: dir.attributes.inode.into(),
            first: dir.first.into(),
            count: dir.count.into(),
            nlink: (2 + dir.subdirectories).into(),
            parent: dir.parent.into(),
        });
        let dirs: Vec<_> = dirs.collect();
        let entries = self.entries.iter().map(entry_record).collect::<io::Result<Vec<_>>>()?;
        let mut attached: Vec<_> = self.attached.iter().collect();
        attached.sort_unstable();
        let attached = attached.into_iter().map(|(place, &parent)| AttachedRecord {
            layer: place.layer.into(),
            inode: place.inode.into(),
            parent: parent.into(),
        });
        let attached: Vec<_> = attached.collect();
        let nlinks = self.nlinks.iter().map(|&(place, nlink)| NlinkRecord {
            layer: place.layer.into(),
            inode: place.inode.into(),
            nlink: nlink.into(),
        });
        let nlinks: Vec<_> = nlinks.collect();
        let sections = [
            layers.as_bytes(),
            dirs.as_bytes(),
            entries.as_bytes(),
            &self.heap,
            attached.as_bytes(),
            nlinks.as_bytes(),
        ];
        let mut writer = SectionWriter::new(out, FORMAT, &sections.map(|section| section.len() as u64))?;
        for section in sections {
            writer.put(section)?;
            writer.align()?;
        }
        writer.finish()
    }
}

fn entry_record(entry: &MergedEntry) -> io::Result<EntryRecord> {
    let (layer, target) = match entry.target {
        MergedTarget::Layer(place) => (u16::try_from(place.layer).map_err(io::Error::other)?, place.inode),
        MergedTarget::Merged(number) => (MERGED, number),
    };
    Ok(EntryRecord {
        name: entry.name_start.into(),
        target: target.into(),
        layer: layer.into(),
        name_length: entry.name_length,
        d_type: u8::try_from(entry.kind.d_type()).map_err(io::Error::other)?,
    })
}
