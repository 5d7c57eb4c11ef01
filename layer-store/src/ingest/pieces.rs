//! Buffers that the threads of an import pass on and use again.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The size of a buffer in bytes: all that a layer has in hand fits the caches of a processor.
pub(super) const PIECE: usize = 256 << 10;

/// How many buffers exist in this process.
static EXISTING: AtomicUsize = AtomicUsize::new(0);

/// A part of a stream. Its buffer goes back to its pool when all threads have dropped it.
pub(super) type Piece = Arc<Buffer>;

/// The buffers of one stream. A pool has at least a few, and more of them while the process has few altogether, so
/// neither the size of a layer nor the number of layers decides how much memory an import takes.
pub(super) struct Pool {
    free: Receiver<Bytes>,
    back: Sender<Bytes>,
    /// How many buffers this pool has.
    made: usize,
    least: usize,
    most: usize,
}

impl Pool {
    /// Creates a pool of `least` buffers, or up to `most` if memory allows. There must be at least one.
    pub(super) fn new(least: usize, most: usize) -> Self {
        let (back, free) = channel();
        Self { free, back, made: 0, least, most }
    }

    /// Returns an empty buffer. Waits for one that is in use, if this pool may have no more.
    pub(super) fn take(&mut self) -> Buffer {
        let free = self.free.try_recv().ok();
        let made = free.or_else(|| self.make()).or_else(|| self.free.recv().ok());
        // The channel cannot be closed, because the pool has a sender itself.
        let bytes = made.unwrap_or_else(|| Bytes::new(&EXISTING));
        Buffer { bytes: Some(bytes), filled: 0, back: self.back.clone() }
    }

    fn make(&mut self) -> Option<Bytes> {
        let has_room = || EXISTING.load(Ordering::Relaxed) < shared_buffers();
        let may = self.made < self.least || (self.made < self.most && has_room());
        may.then(|| {
            self.made += 1;
            Bytes::new(&EXISTING)
        })
    }
}

/// Up to how many buffers in this process a pool may take more than its least: 16 MiB, and 8 MiB for each processor.
fn shared_buffers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    ((16 << 20) + processors * (8 << 20)) / PIECE
}

/// The memory of a buffer, which is counted.
struct Bytes {
    bytes: Box<[u8]>,
    count: &'static AtomicUsize,
}

impl Bytes {
    fn new(count: &'static AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self { bytes: vec![0; PIECE].into(), count }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A buffer of [`PIECE`] bytes, some of which are filled.
pub(super) struct Buffer {
    /// Taken when the buffer is dropped.
    bytes: Option<Bytes>,
    filled: usize,
    back: Sender<Bytes>,
}

impl Buffer {
    /// Adds the bytes that one call of `read` returns. Returns how many there were: none at the end, or if this buffer
    /// is full.
    pub(super) fn read_once(&mut self, source: &mut (impl Read + ?Sized)) -> io::Result<usize> {
        let room = self.bytes.as_mut().and_then(|bytes| bytes.bytes.get_mut(self.filled..));
        let read = match room {
            Some(room) if !room.is_empty() => source.read(room)?,
            _ => 0,
        };
        self.filled = (self.filled + read).min(PIECE);
        Ok(read)
    }

    /// Reads until this buffer has at least `wanted` bytes, or until the end.
    pub(super) fn read_to(&mut self, wanted: usize, source: &mut (impl Read + ?Sized)) -> io::Result<()> {
        while self.filled < wanted {
            match self.read_once(source) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.bytes.get(..self.filled)).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            // Without its pool it is freed.
            let _ = self.back.send(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_uses_its_buffers_again_and_has_no_more_than_its_most() {
        let mut pool = Pool::new(2, 3);
        for _ in 0..10 {
            let taken = [pool.take(), pool.take(), pool.take()];
            assert!(pool.made <= 3, "{}", pool.made);
            drop(taken);
        }
        assert!(pool.made >= 2);
    }

    #[test]
    fn many_pools_have_few_buffers_together() {
        const LEAST: usize = 3;
        let mut pools: Vec<_> = (0..64).map(|_| Pool::new(LEAST, 24)).collect();
        let buffers: Vec<Bytes> = pools.iter_mut().flat_map(|pool| std::iter::from_fn(|| pool.make())).collect();
        assert!(pools.iter().all(|pool| pool.made >= LEAST), "every layer makes progress");
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let most = (64 << 20) + processors * (8 << 20);
        assert!(buffers.len() * PIECE <= most, "{} buffers", buffers.len());
        drop((buffers, pools));
        assert_eq!(EXISTING.load(Ordering::Relaxed), 0, "what is dropped is not counted");
    }

    #[test]
    fn a_buffer_is_filled_by_several_reads_and_reads_nothing_beyond_its_end() {
        let mut source = [1; 10].chain(io::repeat(2));
        let mut buffer = Pool::new(1, 1).take();
        assert_eq!(buffer.read_once(&mut source).unwrap(), 10);
        buffer.read_to(PIECE, &mut source).unwrap();
        assert_eq!((buffer.len(), buffer[9], buffer[10]), (PIECE, 1, 2));
        assert_eq!(buffer.read_once(&mut source).unwrap(), 0);
        let mut short = Pool::new(1, 1).take();
        short.read_to(PIECE, &mut [7; 5].as_slice()).unwrap();
        assert_eq!(*short, [7; 5]);
    }
}
