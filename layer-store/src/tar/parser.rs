//! The state machine that turns a stream of tar blocks into entries.

use super::entry::{Entry, EntryKind, device};
use super::error::{Malformed, TarError};
use super::header::{BLOCK, Header};
use super::pax::Records;
use super::sparse::Segment;
use super::sparse::{Pax10Map, lay_out, old_gnu_segments};

/// The longest PAX header or GNU long name that is read, in bytes. It is the limit of Go's `archive/tar`.
const EXTENSION_MAX: u64 = 1 << 20;

/// The most bytes of such headers and names before one entry, including their header blocks.
const EXTENSIONS_MAX: u64 = 4 * EXTENSION_MAX;

/// The most blocks of sparse map (512 bytes each) that are read before an entry's content.
const MAP_BLOCKS_MAX: u32 = 1 << 15;

/// Receives what the parser finds.
pub(crate) trait Sink {
    /// Why it refuses an entry.
    type Refusal;
    /// Called for each entry. The content of a regular file follows.
    fn entry(&mut self, entry: Entry) -> Result<(), Self::Refusal>;
    /// Called with the next piece of the last entry's stored content.
    fn content(&mut self, piece: &[u8]);
    /// Called at the end of the last entry's content, for regular files only.
    fn content_end(&mut self);
}

/// The state of the parser: what the next bytes of the stream are.
#[derive(Debug)]
enum State {
    /// A header, or the end.
    Header,
    /// A header after one zero block: a second zero block ends the archive.
    AfterZeroBlock,
    /// The body of an extension, with its type and the number of bytes still to come.
    Extension { type_flag: u8, left: u64, body: Vec<u8> },
    /// More blocks of an old GNU sparse map.
    OldSparseMap { header: Box<Header>, map: Vec<(u64, u64)>, blocks: u32 },
    /// Blocks of a PAX 1.0 sparse map.
    Pax10Map { header: Box<Header>, map: Pax10Map, blocks: u32 },
    /// Content of a regular file for the sink.
    Content { left: u64 },
    /// Content of an entry that is skipped, or padding.
    Skip { left: u64 },
    /// What follows the end of the archive.
    Trailer,
}

/// Reads a tar that arrives in pieces of any size.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
    /// Bytes of an incomplete block.
    partial: Vec<u8>,
    /// How many bytes were read so far.
    offset: u64,
    header_offset: u64,
    /// Padding after the current content.
    padding: u64,
    global: Records,
    local: Option<Records>,
    /// What is wrong with a PAX header. It is reported when the name of the next entry is known.
    malformed_records: Option<Malformed>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Bytes of extensions since the last entry.
    extensions: u64,
    /// The path of the last entry, for messages.
    last_path: Vec<u8>,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            partial: Vec::with_capacity(BLOCK),
            offset: 0,
            header_offset: 0,
            padding: 0,
            global: Records::default(),
            local: None,
            malformed_records: None,
            long_name: None,
            long_link: None,
            extensions: 0,
            last_path: Vec::new(),
        }
    }

    /// Parses the next piece of the stream.
    pub(crate) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), TarError<S::Refusal>> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Trailer => bytes.len(),
                State::Content { left } => {
                    let piece = up_to(bytes, *left);
                    sink.content(piece);
                    *left -= piece.len() as u64;
                    piece.len()
                }
                State::Skip { left } => {
                    let piece = up_to(bytes, *left);
                    *left -= piece.len() as u64;
                    piece.len()
                }
                State::Extension { left, body, .. } => {
                    let piece = up_to(bytes, *left);
                    body.extend_from_slice(piece);
                    *left -= piece.len() as u64;
                    piece.len()
                }
                State::Header | State::AfterZeroBlock | State::OldSparseMap { .. } | State::Pax10Map { .. } => {
                    let piece = up_to(bytes, (BLOCK - self.partial.len()) as u64);
                    self.partial.extend_from_slice(piece);
                    piece.len()
                }
            };
            self.offset += taken as u64;
            bytes = bytes.get(taken..).unwrap_or_default();
            self.advance(sink)?;
        }
        Ok(())
    }

    /// Ends the stream. Fails if an entry is incomplete.
    pub(crate) fn finish<R>(&self) -> Result<(), TarError<R>> {
        let ended = match self.state {
            State::Header => self.partial.is_empty() && self.local.is_none() && self.long_name.is_none(),
            State::AfterZeroBlock => self.partial.iter().all(|&byte| byte == 0),
            State::Trailer => true,
            _ => false,
        };
        if ended { Ok(()) } else { Err(self.malformed(Malformed::Truncated)) }
    }

    fn malformed<R>(&self, cause: Malformed) -> TarError<R> {
        let entry = String::from_utf8_lossy(&self.last_path).into_owned();
        TarError::Malformed { offset: self.header_offset, entry, cause }
    }

    /// Leaves states that are complete, including those that an empty body completes at once.
    fn advance<S: Sink>(&mut self, sink: &mut S) -> Result<(), TarError<S::Refusal>> {
        loop {
            match &mut self.state {
                State::Content { left: 0 } => {
                    sink.content_end();
                    self.state = State::Skip { left: self.padding };
                }
                State::Skip { left: 0 } => {
                    self.state = State::Header;
                    return Ok(());
                }
                State::Extension { type_flag, left: 0, body } => {
                    let (type_flag, body) = (*type_flag, std::mem::take(body));
                    self.extension(type_flag, &body);
                    self.state = State::Skip { left: self.padding };
                }
                State::Header | State::AfterZeroBlock | State::OldSparseMap { .. } | State::Pax10Map { .. }
                    if self.partial.len() == BLOCK =>
                {
                    self.block(sink)?;
                    self.partial.clear();
                }
                _ => return Ok(()),
            }
        }
    }

    fn block<S: Sink>(&mut self, sink: &mut S) -> Result<(), TarError<S::Refusal>> {
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.partial);
        let entry = match std::mem::replace(&mut self.state, State::Trailer) {
            State::AfterZeroBlock if block == [0; BLOCK] => return Ok(()),
            State::AfterZeroBlock => Err(Malformed::LoneZeroBlock),
            State::Header if block == [0; BLOCK] => {
                self.state = State::AfterZeroBlock;
                return Ok(());
            }
            State::Header => {
                self.header_offset = self.offset - BLOCK as u64;
                self.header(&block)
            }
            State::OldSparseMap { header, map, blocks } => self.old_sparse_block(header, map, blocks, &block),
            State::Pax10Map { header, map, blocks } => self.pax_10_block(header, map, blocks, &block),
            state => {
                self.state = state;
                return Ok(());
            }
        };
        match entry {
            Ok(Some(entry)) => sink.entry(entry).map_err(TarError::Refused),
            Ok(None) => Ok(()),
            Err(cause) => Err(self.malformed(cause)),
        }
    }

    /// Handles a header block: that of an extension, an entry, or the start of a sparse map.
    fn header(&mut self, block: &[u8; BLOCK]) -> Result<Option<Entry>, Malformed> {
        let header = Header::parse(block)?;
        let type_flag = header.type_flag();
        if matches!(type_flag, b'x' | b'X' | b'g' | b'L' | b'K') {
            return self.extension_header(type_flag, &header);
        }
        self.extensions = 0;
        let records = self.local.get_or_insert_with(|| Records::from_global(&self.global));
        let long_name = self.long_name.take();
        let path = records.sparse.name.clone().or_else(|| records.path.clone()).or(long_name);
        self.last_path = path.unwrap_or_else(|| header.path());
        if let Some(malformed) = self.malformed_records.take() {
            return Err(malformed);
        }
        match type_flag {
            b'S' => {
                let mut map = Vec::new();
                old_gnu_segments(header.old_sparse_segments(), &mut map)?;
                if header.old_sparse_continues() {
                    self.state = State::OldSparseMap { header: Box::new(header), map, blocks: 0 };
                    return Ok(None);
                }
                self.old_sparse_file(&header, &map).map(Some)
            }
            0 | b'0' | b'7' if records.sparse.major == Some(1) && records.sparse.minor == Some(0) => {
                self.state = State::Pax10Map { header: Box::new(header), map: Pax10Map::default(), blocks: 0 };
                Ok(None)
            }
            b'M' => Err(Malformed::MultiVolume),
            0 | b'0'..=b'7' | b'D' => self.plain_entry(&header),
            _ => {
                let records = self.local.take().unwrap_or_default();
                self.long_link = None;
                let size = self.stored_size(&header, &records)?;
                self.skip(size)?;
                Ok(None)
            }
        }
    }

    fn extension_header(&mut self, type_flag: u8, header: &Header) -> Result<Option<Entry>, Malformed> {
        let left = u64::try_from(header.size()?).map_err(|_| Malformed::Range("size"))?;
        if left > EXTENSION_MAX {
            return Err(Malformed::ExtensionTooLong);
        }
        self.extensions += BLOCK as u64 + left;
        if self.extensions > EXTENSIONS_MAX {
            return Err(Malformed::ExtensionsTooLong);
        }
        self.padding = padding(left);
        self.state = State::Extension { type_flag, left, body: Vec::new() };
        Ok(None)
    }

    /// Returns an entry that needs no more blocks.
    fn plain_entry(&mut self, header: &Header) -> Result<Option<Entry>, Malformed> {
        let records = self.local.take().unwrap_or_default();
        let stored = self.stored_size(header, &records)?;
        let link_target = |long: Option<Vec<u8>>| {
            records.link_target.clone().or(long).unwrap_or_else(|| header.link_target().to_vec())
        };
        let long_link = self.long_link.take();
        let kind = match header.type_flag() {
            b'1' => EntryKind::HardLink { target: link_target(long_link) },
            b'2' => EntryKind::Symlink { target: link_target(long_link) },
            b'3' => {
                let (major, minor) = device(header, &records)?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device(header, &records)?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'D' => {
                self.skip(stored)?;
                return Entry::new(self.last_path.clone(), EntryKind::Directory, header, records).map(Some);
            }
            0 if self.last_path.ends_with(b"/") => EntryKind::Directory,
            _ => {
                let (size, segments) = match records.sparse.map()? {
                    Some(map) => {
                        let size = records.sparse.real_size.ok_or(Malformed::Sparse)?;
                        (size, lay_out(&map, size, self.offset, stored)?)
                    }
                    None => (stored, whole(stored, self.offset)),
                };
                self.content(stored)?;
                EntryKind::Regular { size, segments }
            }
        };
        if !matches!(kind, EntryKind::Regular { .. }) {
            self.state = State::Header;
        }
        Entry::new(self.last_path.clone(), kind, header, records).map(Some)
    }

    fn old_sparse_block(
        &mut self,
        header: Box<Header>,
        mut map: Vec<(u64, u64)>,
        blocks: u32,
        block: &[u8; BLOCK],
    ) -> Result<Option<Entry>, Malformed> {
        if blocks == MAP_BLOCKS_MAX {
            return Err(Malformed::Sparse);
        }
        let (segments, rest) = block.split_at(21 * 24);
        old_gnu_segments(segments, &mut map)?;
        if rest.first() != Some(&0) {
            self.state = State::OldSparseMap { header, map, blocks: blocks + 1 };
            return Ok(None);
        }
        self.old_sparse_file(&header, &map).map(Some)
    }

    fn old_sparse_file(&mut self, header: &Header, map: &[(u64, u64)]) -> Result<Entry, Malformed> {
        let records = self.local.take().unwrap_or_default();
        self.long_link = None;
        let stored = self.stored_size(header, &records)?;
        let size = u64::try_from(header.old_sparse_real_size()?).map_err(|_| Malformed::Range("size"))?;
        let segments = lay_out(map, size, self.offset, stored)?;
        self.content(stored)?;
        Entry::new(self.last_path.clone(), EntryKind::Regular { size, segments }, header, records)
    }

    fn pax_10_block(
        &mut self,
        header: Box<Header>,
        mut map: Pax10Map,
        blocks: u32,
        block: &[u8; BLOCK],
    ) -> Result<Option<Entry>, Malformed> {
        if blocks == MAP_BLOCKS_MAX {
            return Err(Malformed::Sparse);
        }
        let Some(complete) = map.block(block)? else {
            self.state = State::Pax10Map { header, map, blocks: blocks + 1 };
            return Ok(None);
        };
        let records = self.local.take().unwrap_or_default();
        self.long_link = None;
        let in_map = (u64::from(blocks) + 1) * BLOCK as u64;
        let stored = self.stored_size(&header, &records)?.checked_sub(in_map).ok_or(Malformed::Sparse)?;
        let size = records.sparse.real_size.ok_or(Malformed::Sparse)?;
        let segments = lay_out(&complete, size, self.offset, stored)?;
        self.content(stored)?;
        Entry::new(self.last_path.clone(), EntryKind::Regular { size, segments }, &header, records).map(Some)
    }

    /// Returns the bytes of content in the archive. Fails if the content would end beyond the largest file offset.
    fn stored_size(&self, header: &Header, records: &Records) -> Result<u64, Malformed> {
        let size = match records.size {
            Some(size) => size,
            None => u64::try_from(header.size()?).map_err(|_| Malformed::Range("size"))?,
        };
        let end = self.offset.checked_add(size).and_then(|end| i64::try_from(end).ok());
        end.map(|_| size).ok_or(Malformed::Range("size"))
    }

    fn content(&mut self, stored: u64) -> Result<(), Malformed> {
        self.padding = padding(stored);
        self.state = State::Content { left: stored };
        Ok(())
    }

    fn skip(&mut self, size: u64) -> Result<(), Malformed> {
        let left = size.checked_add(padding(size)).ok_or(Malformed::Range("size"))?;
        self.state = State::Skip { left };
        Ok(())
    }

    fn extension(&mut self, type_flag: u8, body: &[u8]) {
        // GNU ends its long names with a NUL; what follows it is not part of the name.
        let name = || Some(body.split(|&byte| byte == 0).next().unwrap_or_default().to_vec());
        let applied = match type_flag {
            b'L' => {
                self.long_name = name();
                Ok(())
            }
            b'K' => {
                self.long_link = name();
                Ok(())
            }
            b'g' => self.global.apply(body),
            _ => self.local.get_or_insert_with(|| Records::from_global(&self.global)).apply(body),
        };
        if let Err(error) = applied {
            self.malformed_records.get_or_insert(error.into());
        }
    }
}

fn whole(size: u64, blob_offset: u64) -> Vec<Segment> {
    if size == 0 { Vec::new() } else { vec![Segment { file_offset: 0, blob_offset, length: size }] }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn up_to(bytes: &[u8], limit: u64) -> &[u8] {
    let length = usize::try_from(limit).map_or(bytes.len(), |limit| limit.min(bytes.len()));
    bytes.get(..length).unwrap_or_default()
}
