//! Lists the content of a layer's files, to find the same content in other layers.

use super::nodes::Payload;
use super::tree::TreeBuilder;
use crate::Kind;
use crate::sharing::Content;

impl TreeBuilder {
    /// Returns the stored content of every regular file that has any, in the order of the index.
    pub(crate) fn contents(&self) -> Vec<Content> {
        let files = self.inodes.iter().filter(|inode| inode.kind == Kind::Regular);
        let contents = files.filter_map(|inode| {
            let (offset, length) = match inode.payload {
                Payload::Whole(offset) => (offset, inode.size),
                // The stored parts of a sparse file are contiguous.
                Payload::Sparse { first, count } => {
                    let (first, count) = (first as usize, count as usize);
                    let segments = self.segments.get(first..first + count)?;
                    (segments.first()?.blob_offset, segments.iter().map(|segment| segment.length).sum())
                }
                _ => return None,
            };
            Some(Content { hash: inode.content_hash.to_le_bytes(), offset, length })
        });
        contents.filter(|content| content.length > 0).collect()
    }
}
