//! The received bytes of a layer, piece by piece, and as its decompressor reads them.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::compression::MAGIC;
use super::hash::Hasher;
use super::pieces::{Piece, Pool};
use crate::Digest;

/// How many buffers the received bytes of one layer may take, at least and at most.
const BUFFERS: (usize, usize) = (1, 8);

/// Reads a source piece by piece.
pub(super) struct Source<'a> {
    source: &'a mut (dyn Read + Send),
    pool: Pool,
    /// The first piece, until it is taken.
    first: Option<Piece>,
    taken: u64,
}

impl<'a> Source<'a> {
    /// Begins to read: the first piece has the bytes that tell the compression, if there are so many.
    pub(super) fn new(source: &'a mut (dyn Read + Send)) -> io::Result<Self> {
        let mut made = Self { source, pool: Pool::new(BUFFERS.0, BUFFERS.1), first: None, taken: 0 };
        made.first = made.read_piece(MAGIC)?;
        Ok(made)
    }

    /// Returns the first piece, before it is taken.
    pub(super) fn start(&self) -> &[u8] {
        self.first.as_ref().map(|piece| &***piece).unwrap_or_default()
    }

    /// Returns how many bytes are in the pieces that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the next piece, or `None` at the end.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => self.read_piece(1)?,
        };
        self.taken += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }

    /// Reads a piece of at least `wanted` bytes, unless the source ends before.
    fn read_piece(&mut self, wanted: usize) -> io::Result<Option<Piece>> {
        let mut buffer = self.pool.take();
        buffer.read_to(wanted, self.source)?;
        Ok((!buffer.is_empty()).then(|| Arc::new(buffer)))
    }

    /// Passes all pieces on, until the source ends or nothing takes them any more. Returns the digest of all of them.
    pub(super) fn pass_on(mut self, pieces: &SyncSender<io::Result<Piece>>) -> Digest {
        let mut hasher = Hasher::new();
        while let Some(piece) = self.next_piece().transpose() {
            // Hashed after it was sent, so that the decompressor need not wait.
            let kept = piece.as_ref().ok().cloned();
            if pieces.send(piece).is_err() {
                break;
            }
            let Some(kept) = kept else { break };
            hasher.update(&kept);
        }
        hasher.finish()
    }
}

/// The pieces that another thread reads from a [`Source`].
pub(super) struct Received {
    pieces: Receiver<io::Result<Piece>>,
    piece: Option<Piece>,
    /// How many bytes of the piece were consumed.
    consumed: usize,
    taken: u64,
}

impl Received {
    pub(super) fn new(pieces: Receiver<io::Result<Piece>>) -> Self {
        Self { pieces, piece: None, consumed: 0, taken: 0 }
    }

    /// Returns how many bytes are in the pieces that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    fn rest(&self) -> &[u8] {
        self.piece.as_ref().and_then(|piece| piece.get(self.consumed..)).unwrap_or_default()
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Received {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            // Before it waits: there may be only one buffer.
            self.piece = None;
            self.consumed = 0;
            // At the end, the other thread closes the channel.
            if let Ok(piece) = self.pieces.recv() {
                let piece = piece?;
                self.taken += piece.len() as u64;
                self.piece = Some(piece);
            }
        }
        Ok(self.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    /// Fails after `left` bytes.
    struct Failing {
        left: usize,
    }

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let length = buffer.len().min(self.left).min(1000);
            buffer[..length].fill(7);
            self.left -= length;
            Ok(length)
        }
    }

    #[test]
    fn an_error_arrives_after_the_bytes_before_it() {
        let mut failing = Failing { left: 2500 };
        let source = Source::new(&mut failing).expect("a first piece");
        assert_eq!(source.start().first(), Some(&7));
        let (sender, pieces) = sync_channel(8);
        std::thread::scope(|scope| {
            scope.spawn(move || source.pass_on(&sender));
            let mut received = Received::new(pieces);
            let mut bytes = vec![0; 2500];
            received.read_exact(&mut bytes).expect("all before the error");
            assert!(bytes.iter().all(|byte| *byte == 7) && received.taken() == 2500);
            assert_eq!(received.fill_buf().expect_err("an error").kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn reading_ends_when_nothing_takes_the_pieces() {
        let mut endless = io::repeat(1);
        let source = Source::new(&mut endless).expect("a first piece");
        let (sender, pieces) = sync_channel(1);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || source.pass_on(&sender));
            let mut received = Received::new(pieces);
            received.read_exact(&mut [0; 1_000_000]).expect("bytes");
            drop(received);
            reading.join().expect("it ends");
        });
    }

    #[test]
    fn the_digest_is_that_of_all_bytes() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|number| number as u8).collect();
        let mut source = bytes.as_slice();
        let source = Source::new(&mut source).expect("a first piece");
        let (sender, pieces) = sync_channel(8);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || source.pass_on(&sender));
            let mut found = Vec::new();
            Received::new(pieces).read_to_end(&mut found).expect("bytes");
            assert!(found == bytes);
            assert_eq!(reading.join().expect("it ends"), Digest::of(&bytes));
        });
    }
}
