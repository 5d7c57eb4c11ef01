//! Sparse files: the old GNU map and the three PAX formats (GNU tar manual, "Storing Sparse Files").

use super::number::{decimal, header_number};

/// A run of a file's content in the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where the run begins in the file, in bytes.
    pub(crate) file_offset: u64,
    /// Where the run begins in the blob, in bytes.
    pub(crate) blob_offset: u64,
    /// Bytes, more than 0.
    pub(crate) length: u64,
}

/// A sparse map is refused. Reading it incorrectly would give wrong content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its sparse map is malformed")]
pub(super) struct MapError;

/// Reads 24-byte segments (offset and length, 12 bytes each) until the first empty one.
pub(super) fn old_gnu_segments(bytes: &[u8], map: &mut Vec<(u64, u64)>) -> Result<(), MapError> {
    for segment in bytes.chunks_exact(24) {
        let (offset, length) = segment.split_at(12);
        if length.iter().all(|&byte| byte == 0) && offset.iter().all(|&byte| byte == 0) {
            break;
        }
        let number = |field| header_number(field).and_then(|number| u64::try_from(number).ok()).ok_or(MapError);
        map.push((number(offset)?, number(length)?));
    }
    Ok(())
}

/// Reads the comma-separated map of PAX format 0.1.
pub(super) fn pax_01_map(text: &[u8]) -> Result<Vec<(u64, u64)>, MapError> {
    let numbers: Option<Vec<u64>> = text.split(|&byte| byte == b',').map(decimal).collect();
    pairs(&numbers.ok_or(MapError)?)
}

/// Pairs up offsets and lengths.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, MapError> {
    numbers
        .chunks(2)
        .map(|pair| match pair {
            &[offset, length] => Ok((offset, length)),
            _ => Err(MapError),
        })
        .collect()
}

/// Reads the map of PAX format 1.0, which is before the content and padded to whole blocks. It has decimal numbers, one
/// on each line: the number of segments, then the offset and length of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax10Map {
    expected: Option<u64>,
    digits: Vec<u8>,
    numbers: Vec<u64>,
}

impl Pax10Map {
    /// Reads one block. Returns the map after the last one.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<(u64, u64)>>, MapError> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err(MapError);
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or(MapError)?;
            self.digits.clear();
            match self.expected {
                None => self.expected = Some(number.checked_mul(2).ok_or(MapError)?),
                Some(_) => self.numbers.push(number),
            }
            if self.expected == Some(self.numbers.len() as u64) {
                return pairs(&self.numbers).map(Some);
            }
        }
        Ok(None)
    }
}

/// Maps a map's segments to the stored bytes that start at `blob_offset`. Fails unless they are in order, do not
/// overlap, end within `real_size` and use exactly `stored` bytes. Empty segments only mark the end of the file and are
/// left out.
pub(super) fn lay_out(
    map: &[(u64, u64)],
    real_size: u64,
    blob_offset: u64,
    stored: u64,
) -> Result<Vec<Segment>, MapError> {
    let mut segments = Vec::with_capacity(map.len());
    let (mut file_end, mut used) = (0u64, 0u64);
    for &(file_offset, length) in map {
        let end = file_offset.checked_add(length).ok_or(MapError)?;
        if file_offset < file_end || end > real_size {
            return Err(MapError);
        }
        if length > 0 {
            let blob_offset = blob_offset.checked_add(used).ok_or(MapError)?;
            segments.push(Segment { file_offset, blob_offset, length });
        }
        file_end = end;
        used += length;
    }
    if used == stored { Ok(segments) } else { Err(MapError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_lie_one_behind_the_other_in_the_blob() {
        let segments = lay_out(&[(0, 10), (100, 5), (200, 0)], 200, 1000, 15).expect("a good map");
        assert_eq!(
            segments,
            [
                Segment { file_offset: 0, blob_offset: 1000, length: 10 },
                Segment { file_offset: 100, blob_offset: 1010, length: 5 }
            ]
        );
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert_eq!(lay_out(&[(5, 10), (0, 5)], 20, 0, 15), Err(MapError));
        assert_eq!(lay_out(&[(0, 10)], 5, 0, 10), Err(MapError));
        assert_eq!(lay_out(&[(0, 10)], 10, 0, 11), Err(MapError));
        assert_eq!(lay_out(&[(u64::MAX, 2)], u64::MAX, 0, 2), Err(MapError));
        assert_eq!(pax_01_map(b"1,2,3"), Err(MapError));
    }

    #[test]
    fn the_map_of_format_1_0_may_span_blocks() {
        let mut map = Pax10Map::default();
        assert_eq!(map.block(b"2\n0\n5\n1"), Ok(None));
        assert_eq!(map.block(b"0\n7\n\0\0\0"), Ok(Some(vec![(0, 5), (10, 7)])));
        assert_eq!(Pax10Map::default().block(b"x\n"), Err(MapError));
    }
}
