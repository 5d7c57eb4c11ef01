//! One 512-byte tar header.

use super::number::header_number;

/// The unit of a tar file, in bytes.
pub(super) const BLOCK: usize = 512;

/// A header block with a valid checksum.
///
/// Offsets are those of POSIX `ustar` (pax, "ustar Interchange Format"); GNU and star put other things
/// after offset 345.
#[derive(Clone, Debug)]
pub(super) struct Header {
    block: [u8; BLOCK],
}

/// What is wrong with a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the checksum of a header does not match: this is not a tar, or it is damaged")]
    Checksum,
    #[error("the header field {0} is not a number")]
    Number(&'static str),
}

enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Verifies the checksum: the sum of all bytes, with those of the checksum itself counted as spaces. Old writers
    /// summed signed bytes, so either sum is accepted.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderError> {
        let header = Self { block: *block };
        let stored = header.number(148, 8, "chksum")?;
        let with_spaces =
            || block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        let unsigned: i64 = with_spaces().map(i64::from).sum();
        let signed: i64 = with_spaces().map(|byte| i64::from(byte.cast_signed())).sum();
        if stored == unsigned || stored == signed { Ok(header) } else { Err(HeaderError::Checksum) }
    }

    fn field(&self, start: usize, len: usize) -> &[u8] {
        self.block.get(start..start + len).unwrap_or_default()
    }

    fn number(&self, start: usize, len: usize, name: &'static str) -> Result<i64, HeaderError> {
        header_number(self.field(start, len)).ok_or(HeaderError::Number(name))
    }

    fn text(&self, start: usize, len: usize) -> &[u8] {
        self.field(start, len).split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn dialect(&self) -> Dialect {
        match self.field(257, 8) {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") && self.field(508, 4) == b"tar\0" => Dialect::Star,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block.get(156).copied().unwrap_or_default()
    }

    /// Returns the entry's path in the header, including the prefix.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match self.dialect() {
            Dialect::V7 => &[][..],
            Dialect::Ustar => self.text(345, 155),
            Dialect::Star => self.text(345, 131),
            Dialect::Gnu => self.misused_prefix(),
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Returns the ustar prefix that Go before 1.8 wrote with GNU's magic. GNU has access and change time there, so
    /// text at that place that is not a number is such a prefix.
    fn misused_prefix(&self) -> &[u8] {
        let is_time = |field: &[u8]| field.first() == Some(&0) || header_number(field).is_some();
        if is_time(self.field(345, 12)) && is_time(self.field(357, 12)) {
            return &[];
        }
        let prefix = self.text(345, 155);
        if prefix.is_ascii() { prefix } else { &[] }
    }

    pub(super) fn link_target(&self) -> &[u8] {
        self.text(157, 100)
    }

    pub(super) fn mode(&self) -> Result<i64, HeaderError> {
        self.number(100, 8, "mode")
    }

    pub(super) fn uid(&self) -> Result<i64, HeaderError> {
        self.number(108, 8, "uid")
    }

    pub(super) fn gid(&self) -> Result<i64, HeaderError> {
        self.number(116, 8, "gid")
    }

    pub(super) fn size(&self) -> Result<i64, HeaderError> {
        self.number(124, 12, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, HeaderError> {
        self.number(136, 12, "mtime")
    }

    /// Returns the major and minor number. V7 has none.
    pub(super) fn device(&self) -> Result<(i64, i64), HeaderError> {
        match self.dialect() {
            Dialect::V7 => Ok((0, 0)),
            _ => Ok((self.number(329, 8, "devmajor")?, self.number(337, 8, "devminor")?)),
        }
    }

    /// Returns the four sparse segments of an old GNU header (offset 386).
    pub(super) fn old_sparse_segments(&self) -> &[u8] {
        self.field(386, 96)
    }

    /// Whether extension blocks with more sparse segments follow (offset 482).
    pub(super) fn old_sparse_continues(&self) -> bool {
        self.field(482, 1) != [0]
    }

    /// Returns the size of an old GNU sparse file, including its holes (offset 483).
    pub(super) fn old_sparse_real_size(&self) -> Result<i64, HeaderError> {
        self.number(483, 12, "realsize")
    }
}
