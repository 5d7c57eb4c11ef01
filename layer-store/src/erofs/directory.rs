//! Directories: blocks of entries in byte order of their names, including `.` and `..`.
//!
//! Each block holds as many entries as fit: first the [`Dirent`]s, then their names in the same order, then zeros up to
//! the end. The directory ends after the last name of the last block. The offset of the first name says how many
//! entries a block has.

use zerocopy::IntoBytes;

use super::format::{BLOCK, DIRENT, Dirent, file_type};
use crate::{Ino, Kind, View, ViewError};

/// One name of a directory.
pub(super) type Name<'view> = (&'view [u8], Ino, Kind);

/// Returns all names of a directory in byte order.
pub(super) fn names(view: &View, dir: Ino) -> Result<Vec<Name<'_>>, ViewError> {
    let mut names: Vec<Name<'_>> = vec![(b".", dir, Kind::Directory), (b"..", view.parent(dir)?, Kind::Directory)];
    names.extend(view.entries(dir, 0)?.map(|entry| (entry.name, entry.ino, entry.kind)));
    names.sort_unstable_by_key(|(name, _, _)| *name);
    Ok(names)
}

/// Returns the size in bytes of a directory with these names.
pub(super) fn size(names: &[Name<'_>]) -> u64 {
    blocks(names).map(|(block, last)| if last { bytes(block) as u64 } else { BLOCK }).sum()
}

/// Returns the content of a directory; `number` returns an inode's number in the image.
pub(super) fn content(names: &[Name<'_>], number: impl Fn(Ino) -> u64) -> Vec<u8> {
    let mut content = Vec::new();
    for (block, last) in blocks(names) {
        let start = content.len();
        let mut name_at = block.len() * DIRENT;
        for (name, ino, kind) in block {
            let dirent = Dirent {
                number: number(*ino).into(),
                name: u16::try_from(name_at).unwrap_or(u16::MAX).into(),
                kind: file_type(*kind),
                reserved: 0,
            };
            content.extend_from_slice(dirent.as_bytes());
            name_at += name.len();
        }
        block.iter().for_each(|(name, _, _)| content.extend_from_slice(name));
        if !last {
            content.resize(start + BLOCK as usize, 0);
        }
    }
    content
}

/// Returns the names of each block, and whether it is the last one.
fn blocks<'a, 'view>(names: &'a [Name<'view>]) -> impl Iterator<Item = (&'a [Name<'view>], bool)> {
    let mut left = names;
    std::iter::from_fn(move || {
        let mut room = BLOCK as usize;
        let fits = left.iter().take_while(|(name, _, _)| match room.checked_sub(DIRENT + name.len()) {
            Some(less) => {
                room = less;
                true
            }
            None => false,
        });
        let (block, rest) = left.split_at_checked(fits.count())?;
        left = rest;
        (!block.is_empty()).then_some((block, rest.is_empty()))
    })
}

fn bytes(block: &[Name<'_>]) -> usize {
    block.iter().map(|(name, _, _)| DIRENT + name.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_content_agree_at_the_edge_of_a_block() {
        // 12 + 244 bytes: exactly 16 in a block.
        let name = [b'n'; 244];
        for (count, blocks) in [(1, 0), (15, 0), (16, 1), (17, 1), (32, 2), (33, 2)] {
            let names: Vec<Name<'_>> = vec![(&name, Ino::ROOT, Kind::Regular); count];
            let content = content(&names, |_| 7);
            assert_eq!(content.len() as u64, size(&names), "{count} names");
            assert_eq!(content.len() / BLOCK as usize, blocks, "{count} names");
        }
    }

    #[test]
    fn the_first_name_says_how_many_entries_a_block_has() {
        let names: [Name<'_>; 2] = [(b".", Ino::ROOT, Kind::Directory), (b"ab", Ino::ROOT, Kind::Symlink)];
        let content = content(&names, |_| 0x2a);
        assert_eq!(content[..12], [0x2a, 0, 0, 0, 0, 0, 0, 0, 24, 0, 2, 0]);
        assert_eq!(content[12..], [0x2a, 0, 0, 0, 0, 0, 0, 0, 25, 0, 7, 0, b'.', b'a', b'b']);
    }
}
