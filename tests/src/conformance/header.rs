//! One 512-byte tar header block, field by field (POSIX.1-1988 ustar and its GNU variants).

/// The size of a block in bytes.
pub(crate) const BLOCK: usize = 512;

/// Name, offset and length of every field that a case can set.
const FIELDS: [(&str, usize, usize); 17] = [
    ("name", 0, 100),
    ("mode", 100, 8),
    ("uid", 108, 8),
    ("gid", 116, 8),
    ("size", 124, 12),
    ("mtime", 136, 12),
    ("chksum", 148, 8),
    ("typeflag", 156, 1),
    ("linkname", 157, 100),
    ("magic", 257, 8),
    ("uname", 265, 32),
    ("gname", 297, 32),
    ("devmajor", 329, 8),
    ("devminor", 337, 8),
    ("prefix", 345, 155),
    ("gnu-isextended", 482, 1),
    ("gnu-realsize", 483, 12),
];

/// Where old GNU sparse maps begin in the header, and how many extents it holds.
pub(crate) const GNU_SPARSE: (usize, usize) = (386, 4);

/// A header block that is being built.
#[derive(Clone, Debug)]
pub(crate) struct Header([u8; BLOCK]);

impl Header {
    /// Creates a block of zeros.
    pub(crate) const fn new() -> Self {
        Self([0; BLOCK])
    }

    fn place(field: &str) -> (usize, usize) {
        let found = FIELDS.iter().find(|(name, ..)| *name == field);
        found.map(|&(_, offset, length)| (offset, length)).unwrap_or_else(|| panic!("a header has no field {field:?}"))
    }

    /// Returns the length of a field in bytes.
    pub(crate) fn width(field: &str) -> usize {
        Self::place(field).1
    }

    /// Writes bytes into a field, cut to its length and padded with NUL.
    pub(crate) fn bytes(&mut self, field: &str, bytes: &[u8]) {
        let (offset, length) = Self::place(field);
        let count = bytes.len().min(length);
        self.0[offset..offset + length].fill(0);
        self.0[offset..offset + count].copy_from_slice(&bytes[..count]);
    }

    /// Writes a number into a field as octal digits and a NUL, or zero if the digits do not fit.
    pub(crate) fn octal(&mut self, field: &str, number: u64) {
        let digits = Self::width(field) - 1;
        let fits = u32::try_from(3 * digits).is_ok_and(|bits| bits >= 64 || number >> bits == 0);
        self.bytes(field, format!("{:0digits$o}", if fits { number } else { 0 }).as_bytes());
    }

    /// Returns whether a number fits into a field as octal digits.
    pub(crate) fn fits_octal(field: &str, number: i128) -> bool {
        let bits = 3 * (Self::width(field) - 1);
        number >= 0 && number >> bits == 0
    }

    /// Writes a number into a field in base-256: two's complement with the top bit of the first byte set.
    pub(crate) fn base256(&mut self, field: &str, number: i128) {
        let (offset, length) = Self::place(field);
        self.0[offset..offset + length].copy_from_slice(&base256(number, length));
    }

    /// Writes bytes at any offset, for the tables that are not fields.
    pub(crate) fn raw(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Fills in the checksum: the sum of all bytes with the checksum field read as spaces.
    pub(crate) fn seal(&mut self) {
        self.bytes("chksum", b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.bytes("chksum", format!("{sum:06o}\0 ").as_bytes());
    }

    /// Returns the block.
    pub(crate) const fn block(&self) -> &[u8; BLOCK] {
        &self.0
    }
}

/// Encodes a number in base-256, as GNU tar does if it does not fit as octal digits.
pub(crate) fn base256(number: i128, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).rev().map(|place| (number >> (8 * place)) as u8).collect();
    bytes[0] |= 0x80;
    bytes
}
