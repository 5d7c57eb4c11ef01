//! Refuses a tar stream that would use up the memory of its reader.
//!
//! A reader of tar keeps long names, PAX records and the maps of sparse files in memory, however long they are. A stream
//! from a guest has none that is long, and no sparse file, because our packer writes none.

use std::io::{self, Read};

/// The length of a header, and of the blocks that content fills.
const BLOCK: usize = 512;

/// The longest name or list of PAX records in bytes. Extended attributes are at most 64 KiB, and a file has few.
const LONGEST: u64 = 1 << 20;

/// Reads a stream, and fails at the first header that is refused.
#[derive(Debug)]
pub(super) struct Guard<R> {
    stream: R,
    block: [u8; BLOCK],
    /// How much of `block` has been read from the stream.
    filled: usize,
    /// How much of `block` has been passed on.
    passed: usize,
    /// The content that follows the header, with its padding.
    content: u64,
    /// The PAX records that are being read, if they are, and their length without padding.
    records: Option<(Vec<u8>, usize)>,
}

impl<R: Read> Guard<R> {
    pub(super) const fn new(stream: R) -> Self {
        Self { stream, block: [0; BLOCK], filled: 0, passed: 0, content: 0, records: None }
    }

    /// Reads the next block from the stream, and checks it if it is a header. Leaves it short at the end of the stream.
    fn next_block(&mut self) -> io::Result<()> {
        (self.filled, self.passed) = (0, 0);
        while self.filled < BLOCK {
            match self.stream.read(&mut self.block[self.filled..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.content > 0 {
            self.content -= BLOCK as u64;
            if let Some((records, length)) = &mut self.records {
                records.extend(self.block);
                if self.content == 0 {
                    check_records(&records[..*length])?;
                    self.records = None;
                }
            }
            return Ok(());
        }
        self.check_header()
    }

    fn check_header(&mut self) -> io::Result<()> {
        if self.block == [0; BLOCK] {
            return Ok(());
        }
        let size = size_in(&self.block).ok_or_else(|| refused("a size that is no number"))?;
        let kind = self.block[156];
        match kind {
            b'S' => return Err(refused("a sparse file")),
            b'L' | b'K' | b'x' | b'g' | b'X' if size > LONGEST => {
                return Err(refused("a name or a list of attributes that is too long"));
            }
            // It is at most `LONGEST`.
            b'x' | b'g' | b'X' if size > 0 => self.records = Some((Vec::new(), usize::try_from(size).unwrap_or(0))),
            _ => {}
        }
        // Readers of tar take the size in this way, whatever the type.
        self.content = size.div_ceil(BLOCK as u64).checked_mul(BLOCK as u64).ok_or_else(|| refused("a size"))?;
        Ok(())
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.passed == self.filled {
            // Whole blocks of content need no check.
            if self.content > 0 && self.records.is_none() && buffer.len() >= BLOCK {
                let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len() / BLOCK * BLOCK);
                let count = self.stream.read(&mut buffer[..most])?;
                // A read that ends within a block is completed, so that the next block begins where it should.
                let mut whole = count;
                while whole % BLOCK != 0 {
                    match self.stream.read(&mut buffer[whole..whole.next_multiple_of(BLOCK)])? {
                        0 => break,
                        more => whole += more,
                    }
                }
                self.content -= whole as u64;
                return Ok(whole);
            }
            self.next_block()?;
        }
        let count = buffer.len().min(self.filled - self.passed);
        buffer[..count].copy_from_slice(&self.block[self.passed..self.passed + count]);
        self.passed += count;
        Ok(count)
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stream has {what}"))
}

/// Returns the size in a header: octal digits, or a big-endian number after a byte with the highest bit set.
fn size_in(header: &[u8; BLOCK]) -> Option<u64> {
    let field = &header[124..136];
    if field[0] & 0x80 != 0 {
        let number = field.iter().skip(1).try_fold(u128::from(field[0] & 0x7f), |number, &byte| {
            number.checked_mul(256).map(|number| number | u128::from(byte))
        });
        return number.and_then(|number| u64::try_from(number).ok());
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    // A reader of tar ends the number at the first NUL.
    let text = text.split('\0').next().unwrap_or_default();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Refuses records that give the next file a size different from its header's, because what follows would not be
/// content.
fn check_records(mut records: &[u8]) -> io::Result<()> {
    while let Some(space) = records.iter().position(|&byte| byte == b' ') {
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|length| length.parse::<usize>().ok());
        let Some(record) = length.filter(|&length| length > space).and_then(|length| records.get(space + 1..length))
        else {
            break;
        };
        if record.starts_with(b"size=") || record.starts_with(b"GNU.sparse.") {
            return Err(refused("a size apart from its header, or a sparse file"));
        }
        records = &records[space + 1 + record.len()..];
    }
    if !records.is_empty() {
        return Err(refused("records that are no PAX records"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, size: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_old_mut().size = [0; 12];
        header.as_old_mut().size[..size.len()].copy_from_slice(size.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn padded(content: &[u8]) -> Vec<u8> {
        let mut all = content.to_vec();
        all.resize(content.len().next_multiple_of(BLOCK), 0);
        all
    }

    fn read(stream: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Guard::new(stream).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn a_stream_passes_unchanged_however_it_is_read() {
        let mut stream = header(b'0', "1751");
        stream.extend(padded(&[7; 0o1751]));
        stream.extend(header(b'L', "3"));
        stream.extend(padded(b"abc"));
        stream.extend(header(b'x', "13"));
        stream.extend(padded(b"11 mtime=1\n"));
        stream.extend(header(b'5', ""));
        stream.extend([0; 2 * BLOCK]);
        assert_eq!(read(&stream).unwrap(), stream);
        for step in [1, 7, 511, 512, 513, 4096] {
            let mut guard = Guard::new(stream.as_slice());
            let (mut all, mut buffer) = (Vec::<u8>::new(), vec![0; step]);
            while let count @ 1.. = guard.read(&mut buffer).unwrap() {
                all.extend(&buffer[..count]);
            }
            assert_eq!(all, stream, "{step}");
        }
        // A stream that is cut short is for the reader to refuse.
        assert_eq!(read(&stream[..600]).unwrap(), &stream[..600]);
    }

    #[test]
    fn what_a_reader_would_keep_in_memory_is_refused() {
        let pax = |record: &str| {
            let mut stream = header(b'x', &format!("{:o}", record.len()));
            stream.extend(padded(record.as_bytes()));
            stream
        };
        for stream in [
            header(b'L', "77777777777"),
            header(b'K', "4000001"),
            header(b'x', "77777777777"),
            header(b'g', "77777777777"),
            header(b'S', "0"),
            header(b'0', "9"),
            pax("17 size=10000000\n"),
            pax("11 mtime=1\n13 size=1000\n"),
            pax("25 GNU.sparse.major=1.00\n"),
            pax("99 mtime=1\n"),
            pax("x"),
        ] {
            assert!(read(&stream).is_err(), "{}", String::from_utf8_lossy(&stream[..BLOCK.min(stream.len())]));
        }
        // An attribute may contain any bytes.
        read(&pax("30 SCHILY.xattr.user.a= size=1\n")).unwrap_err();
        read(&pax("31 SCHILY.xattr.user.a= size=1\n")).unwrap();
    }
}
