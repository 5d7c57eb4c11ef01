//! The received bytes of a layer, as its decompressor reads them.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::compression::MAGIC;
use super::pieces::{Piece, Pool};

/// How many buffers the received bytes of one layer may take, at least and at most.
const BUFFERS: (usize, usize) = (1, 8);

/// Reads a source piece by piece, and passes every piece on to a thread that hashes it.
pub(super) struct Source<'a> {
    source: &'a mut (dyn Read + Send),
    pool: Pool,
    piece: Option<Piece>,
    /// How many bytes of the piece were consumed.
    consumed: usize,
    taken: u64,
    copies: Option<SyncSender<Piece>>,
}

impl<'a> Source<'a> {
    /// Begins to read: afterwards the first piece has the bytes that tell the compression, if there are so many.
    pub(super) fn new(source: &'a mut (dyn Read + Send)) -> io::Result<Self> {
        let mut made =
            Self { source, pool: Pool::new(BUFFERS.0, BUFFERS.1), piece: None, consumed: 0, taken: 0, copies: None };
        made.advance(MAGIC)?;
        Ok(made)
    }

    /// Passes all pieces on, from the first on.
    pub(super) fn copy_to(&mut self, copies: SyncSender<Piece>) -> io::Result<()> {
        self.copies = Some(copies);
        self.pass_on()
    }

    /// Returns the rest of the current piece.
    pub(super) fn rest(&self) -> &[u8] {
        self.piece.as_ref().and_then(|piece| piece.get(self.consumed..)).unwrap_or_default()
    }

    /// Returns how many bytes were received.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns a whole piece, or `None` at the end.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        if self.piece.is_none() {
            self.advance(1)?;
        }
        Ok(self.piece.take())
    }

    /// Replaces the piece by the next one, with at least `wanted` bytes unless the source ends before.
    fn advance(&mut self, wanted: usize) -> io::Result<()> {
        self.piece = None;
        let mut buffer = self.pool.take();
        buffer.read_to(wanted, self.source)?;
        self.taken += buffer.len() as u64;
        self.consumed = 0;
        if !buffer.is_empty() {
            self.piece = Some(Arc::new(buffer));
            self.pass_on()?;
        }
        Ok(())
    }

    fn pass_on(&self) -> io::Result<()> {
        let Some((copies, piece)) = self.copies.as_ref().zip(self.piece.as_ref()) else { return Ok(()) };
        copies
            .send(Arc::clone(piece))
            .map_err(|_| io::Error::other("the thread that hashes ended early: this is a bug"))
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            self.advance(1)?;
        }
        Ok(self.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}
