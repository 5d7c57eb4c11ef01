//! The four ways of writing the map of a sparse file (GNU tar manual, "Storing Sparse Files").

use super::header::{BLOCK, GNU_SPARSE, Header};
use super::stack::SparseFormat;

type Record = (Vec<u8>, Vec<u8>);

/// Returns the extents as GNU tar writes them: an empty extent at the end stands for a hole there.
pub(crate) fn with_end(extents: &[(u64, u64)], size: u64) -> Vec<(u64, u64)> {
    let mut extents = extents.to_vec();
    if extents.last().is_none_or(|(offset, length)| offset + length < size) {
        extents.push((size, 0));
    }
    extents
}

/// Writes the map into the header and the records, and returns the blocks that precede the content.
pub(crate) fn write_map(
    format: SparseFormat,
    path: &[u8],
    size: u64,
    extents: &[(u64, u64)],
    header: &mut Header,
    pax: &mut Vec<Record>,
) -> Vec<u8> {
    match format {
        SparseFormat::Gnu => write_gnu(size, extents, header),
        SparseFormat::Pax00 => {
            write_size("GNU.sparse.size", size, extents, pax);
            for (offset, length) in extents {
                record(pax, "GNU.sparse.offset", offset.to_string().as_bytes());
                record(pax, "GNU.sparse.numbytes", length.to_string().as_bytes());
            }
            Vec::new()
        }
        SparseFormat::Pax01 => {
            write_size("GNU.sparse.size", size, extents, pax);
            let pairs: Vec<String> = extents.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
            record(pax, "GNU.sparse.map", pairs.join(",").as_bytes());
            write_true_name(path, header, pax);
            Vec::new()
        }
        SparseFormat::Pax10 => {
            record(pax, "GNU.sparse.major", b"1");
            record(pax, "GNU.sparse.minor", b"0");
            record(pax, "GNU.sparse.realsize", size.to_string().as_bytes());
            write_true_name(path, header, pax);
            let mut map = format!("{}\n", extents.len());
            map.extend(extents.iter().map(|(offset, length)| format!("{offset}\n{length}\n")));
            let mut map = map.into_bytes();
            map.resize(map.len().next_multiple_of(BLOCK), 0);
            map
        }
    }
}

fn record(pax: &mut Vec<Record>, keyword: &str, value: &[u8]) {
    pax.push((keyword.as_bytes().to_vec(), value.to_vec()));
}

fn write_size(keyword: &str, size: u64, extents: &[(u64, u64)], pax: &mut Vec<Record>) {
    record(pax, keyword, size.to_string().as_bytes());
    record(pax, "GNU.sparse.numblocks", extents.len().to_string().as_bytes());
}

/// Moves the name into a record, and replaces it by one that no case uses, so a reader that takes that name is noticed.
fn write_true_name(path: &[u8], header: &mut Header, pax: &mut Vec<Record>) {
    record(pax, "GNU.sparse.name", path);
    header.bytes("name", b"GNUSparseFile.0/wrong-name");
    header.bytes("prefix", b"");
}

/// Type `S`: four extents in the header, 21 in each further block, numbers in octal or base-256.
fn write_gnu(size: u64, extents: &[(u64, u64)], header: &mut Header) -> Vec<u8> {
    let (offset, in_header) = GNU_SPARSE;
    header.bytes("magic", b"ustar  \0");
    let (first, rest) = extents.split_at(extents.len().min(in_header));
    header.raw(offset, &first.iter().flat_map(|&extent| gnu_extent(extent)).collect::<Vec<u8>>());
    header.bytes("gnu-isextended", &[u8::from(!rest.is_empty())]);
    header.bytes("gnu-realsize", &gnu_number(size));
    let mut blocks = Vec::new();
    let mut chunks = rest.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block: Vec<u8> = chunk.iter().flat_map(|&extent| gnu_extent(extent)).collect();
        block.resize(BLOCK, 0);
        block[504] = u8::from(chunks.peek().is_some());
        blocks.extend(block);
    }
    blocks
}

fn gnu_extent((offset, length): (u64, u64)) -> Vec<u8> {
    [gnu_number(offset), gnu_number(length)].concat()
}

fn gnu_number(number: u64) -> Vec<u8> {
    if number >> 33 == 0 { format!("{number:011o}\0").into_bytes() } else { super::header::base256(number.into(), 12) }
}
