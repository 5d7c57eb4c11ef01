//! Writes layers as tars. The encoder is independent of the reader under test.
//!
//! Sources: POSIX.1-2001 `pax`, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar
//! Format" and "Storing Sparse Files"; libarchive `tar(5)`.

use std::io::{self, Write};

use super::header::{BLOCK, Header};
use super::sparse;
use super::stack::{Content, Dialect, Entry, Frame, Layer, Mtime, Node, Packing, SparseFormat, XattrStyle};

impl Layer {
    /// The uncompressed tar. The layer's DiffID is its digest.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        for entry in &self.entries {
            write_entry(entry, &mut tar).expect("writing to memory does not fail");
        }
        tar.resize(tar.len() + BLOCK * self.frame.end_blocks, 0);
        tar.extend(&self.frame.trailing);
        tar.truncate(tar.len().saturating_sub(self.frame.cut));
        tar
    }

    /// The layer as a registry would serve it.
    #[must_use]
    pub fn packed(&self) -> Vec<u8> {
        pack(&self.tar(), &self.frame).expect("packing in memory does not fail")
    }
}

fn pack(tar: &[u8], frame: &Frame) -> io::Result<Vec<u8>> {
    let share = tar.len().div_ceil(frame.members.max(1)).max(1);
    let mut packed = Vec::new();
    let parts: Vec<&[u8]> = if tar.is_empty() { vec![tar] } else { tar.chunks(share).collect() };
    for part in parts {
        match frame.packing {
            Packing::Plain => packed.extend(part),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
                encoder.write_all(part)?;
                encoder.finish()?;
            }
            Packing::Zstd => packed.extend(zstd::encode_all(part, 1)?),
        }
    }
    Ok(packed)
}

/// Writes one entry: the extension headers it needs, its header, its body.
pub fn write_entry(entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    let mut writing = Writing::new(entry);
    match writing.dialect {
        Dialect::Gnu => writing.gnu_fields(),
        Dialect::V7 => writing.v7_fields(),
        Dialect::Ustar | Dialect::Pax => writing.posix_fields(),
    }
    writing.xattrs();
    let body = writing.body();
    writing.pax.extend(entry.tape.pax.iter().cloned());
    for (field, bytes) in &entry.tape.header {
        writing.header.bytes(std::str::from_utf8(field).expect("header fields have ASCII names"), bytes);
    }
    if !entry.tape.header.iter().any(|(field, _)| field == b"chksum") {
        writing.header.seal();
    }
    writing.finish(&body, out)
}

/// An entry that is being written.
struct Writing<'entry> {
    entry: &'entry Entry,
    dialect: Dialect,
    header: Header,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU `K` and `L` entries before the header: type, content.
    long: Vec<(u8, Vec<u8>)>,
}

/// The bytes between an entry's header and the next header.
struct Body {
    /// The bytes between header and content: the rest of a sparse map, in whole blocks.
    map: Vec<u8>,
    content: Option<Content>,
    /// The parts of the content that are written: offset and length.
    extents: Vec<(u64, u64)>,
}

impl<'entry> Writing<'entry> {
    fn new(entry: &'entry Entry) -> Self {
        let mut writing =
            Self { entry, dialect: entry.tape.dialect, header: Header::new(), pax: Vec::new(), long: Vec::new() };
        let (typeflag, default_mode) = match &entry.node {
            Node::Directory => (b'5', 0o755),
            Node::File(Content::Sparse { .. }) if entry.tape.sparse == SparseFormat::Gnu => (b'S', 0o644),
            Node::File(_) | Node::Junk(_) => (b'0', 0o644),
            Node::HardLink(_) => (b'1', 0o644),
            Node::Symlink(_) => (b'2', 0o777),
            Node::CharDevice(..) => (b'3', 0o644),
            Node::BlockDevice(..) => (b'4', 0o644),
            Node::Fifo => (b'6', 0o644),
            Node::Global => (b'g', 0o644),
        };
        writing.header.bytes("typeflag", &[typeflag]);
        writing.header.octal("mode", entry.mode.unwrap_or(default_mode).into());
        writing.header.octal("size", 0);
        if let Node::CharDevice(major, minor) | Node::BlockDevice(major, minor) = entry.node {
            for (field, number) in [("devmajor", major), ("devminor", minor)] {
                if Header::fits_octal(field, number.into()) {
                    writing.header.octal(field, number.into());
                } else {
                    writing.header.base256(field, number.into());
                }
            }
        }
        writing
    }

    /// Returns the path as tar programs write it: that of a directory ends in a slash.
    fn path(&self) -> Vec<u8> {
        let mut path = self.entry.path.clone();
        if self.entry.node == Node::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path
    }

    fn target(&self) -> Option<&'entry Vec<u8>> {
        match &self.entry.node {
            Node::HardLink(target) | Node::Symlink(target) => Some(target),
            _ => None,
        }
    }

    fn numbers(&self) -> [(&'static str, i128); 3] {
        let entry = self.entry;
        let mtime = entry.mtime.unwrap_or(super::stack::DEFAULT_MTIME);
        [
            ("uid", entry.uid.unwrap_or(0).into()),
            ("gid", entry.gid.unwrap_or(0).into()),
            ("mtime", mtime.seconds.into()),
        ]
    }

    fn record(&mut self, keyword: &str, value: impl Into<Vec<u8>>) {
        self.pax.push((keyword.as_bytes().to_vec(), value.into()));
    }

    fn posix_fields(&mut self) {
        let every = self.dialect == Dialect::Pax;
        self.header.bytes("magic", b"ustar\x0000");
        let path = self.path();
        match split_path(&path) {
            Some((prefix, name)) if !every => {
                self.header.bytes("prefix", prefix);
                self.header.bytes("name", name);
            }
            _ => {
                self.header.bytes("name", &path);
                self.record("path", path);
            }
        }
        if let Some(target) = self.target() {
            self.header.bytes("linkname", target);
            if every || target.len() > Header::width("linkname") {
                self.record("linkpath", target.clone());
            }
        }
        for (field, number) in self.numbers() {
            if Header::fits_octal(field, number) {
                self.header.octal(field, number as u64);
            }
            let mtime = self.entry.mtime.unwrap_or(super::stack::DEFAULT_MTIME);
            let fraction = field == "mtime" && mtime.nanoseconds > 0;
            if every || fraction || !Header::fits_octal(field, number) {
                let text = if field == "mtime" { mtime.to_string() } else { number.to_string() };
                self.record(field, text);
            }
        }
    }

    fn gnu_fields(&mut self) {
        self.header.bytes("magic", b"ustar  \0");
        let path = self.path();
        self.header.bytes("name", &path);
        for (typeflag, field, long) in [(b'K', "linkname", self.target()), (b'L', "name", Some(&path))] {
            if let Some(long) = long.filter(|long| long.len() > Header::width(field)) {
                self.long.push((typeflag, [&long[..], b"\0"].concat()));
            }
        }
        if let Some(target) = self.target() {
            self.header.bytes("linkname", target);
        }
        for (field, number) in self.numbers() {
            if Header::fits_octal(field, number) {
                self.header.octal(field, number as u64);
            } else {
                self.header.base256(field, number);
            }
        }
        let Mtime { nanoseconds, .. } = self.entry.mtime.unwrap_or(super::stack::DEFAULT_MTIME);
        assert!(nanoseconds == 0, "GNU headers have no fractions: {}", self.entry);
    }

    fn v7_fields(&mut self) {
        let path = self.path();
        assert!(path.len() <= Header::width("name"), "V7 has no long names: {}", self.entry);
        self.header.bytes("name", &path);
        match self.entry.node {
            Node::Directory | Node::File(_) | Node::Junk(_) => self.header.bytes("typeflag", b"\0"),
            Node::HardLink(_) | Node::Symlink(_) => {}
            _ => panic!("V7 has files, directories and links only: {}", self.entry),
        }
        if let Some(target) = self.target() {
            self.header.bytes("linkname", target);
        }
        for (field, number) in self.numbers() {
            assert!(Header::fits_octal(field, number), "V7 has small numbers only: {}", self.entry);
            self.header.octal(field, number as u64);
        }
    }

    fn xattrs(&mut self) {
        for (name, value) in &self.entry.xattrs {
            match self.entry.tape.xattr_style {
                XattrStyle::Schily => self.pax.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone())),
                XattrStyle::Libarchive => {
                    let keyword = format!("LIBARCHIVE.xattr.{}", url_encoded(name));
                    self.pax.push((keyword.into_bytes(), base64(value)));
                }
            }
        }
    }

    fn body(&mut self) -> Body {
        let (Node::File(content) | Node::Junk(content)) = &self.entry.node else {
            return Body { map: Vec::new(), content: None, extents: Vec::new() };
        };
        let (map, extents) = match content {
            Content::Sparse { size, extents } => {
                let path = self.path();
                let format = self.entry.tape.sparse;
                let extents = sparse::with_end(extents, *size);
                let map = sparse::write_map(format, &path, *size, &extents, &mut self.header, &mut self.pax);
                (map, extents)
            }
            whole => (Vec::new(), vec![(0, whole.size())]),
        };
        // The other map blocks of an old GNU header do not count as content.
        let counted_map = if self.entry.tape.sparse == SparseFormat::Pax10 { map.len() as u64 } else { 0 };
        let size = counted_map + extents.iter().map(|(_, length)| length).sum::<u64>();
        if Header::fits_octal("size", size.into()) {
            self.header.octal("size", size);
        } else if self.dialect == Dialect::Gnu {
            self.header.base256("size", size.into());
        }
        if self.dialect == Dialect::Pax || (self.dialect == Dialect::Ustar && !Header::fits_octal("size", size.into()))
        {
            self.record("size", size.to_string());
        }
        Body { map, content: Some(content.clone()), extents }
    }

    fn finish(&self, body: &Body, out: &mut impl Write) -> io::Result<()> {
        if self.entry.node == Node::Global {
            return write_extension(b'g', &pax_records(&self.pax), out);
        }
        if !self.pax.is_empty() {
            write_extension(b'x', &pax_records(&self.pax), out)?;
        }
        for (typeflag, content) in &self.long {
            write_extension(*typeflag, content, out)?;
        }
        out.write_all(self.header.block())?;
        out.write_all(&body.map)?;
        let Some(content) = &body.content else { return Ok(()) };
        let mut written = 0;
        for &(offset, length) in &body.extents {
            written += write_range(content, offset, length, out)?;
        }
        out.write_all(&vec![0; padding(written)])
    }
}

fn write_range(content: &Content, offset: u64, length: u64, out: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let end = offset + length;
    let mut at = offset;
    while at < end {
        let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let count = content.read_at(at, &mut buffer[..wanted]);
        assert!(count > 0, "an extent reaches beyond the end of its file");
        out.write_all(&buffer[..count])?;
        at += count as u64;
    }
    Ok(length)
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// An extension entry: `x`, `g`, `L` or `K`.
fn write_extension(typeflag: u8, content: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut header = Header::new();
    let gnu = matches!(typeflag, b'L' | b'K');
    header.bytes("name", if gnu { b"././@LongLink" } else { b"PaxHeaders/entry" });
    header.bytes("magic", if gnu { b"ustar  \0" } else { b"ustar\x0000" });
    header.bytes("typeflag", &[typeflag]);
    for field in ["mode", "uid", "gid", "mtime"] {
        header.octal(field, 0);
    }
    header.octal("size", content.len() as u64);
    header.seal();
    out.write_all(header.block())?;
    out.write_all(content)?;
    out.write_all(&vec![0; padding(content.len() as u64)])
}

/// `LENGTH KEYWORD=VALUE\n` for each record, where the length counts itself.
fn pax_records(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (keyword, value) in records {
        let rest = keyword.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() > length {
            length += 1;
        }
        text.extend(format!("{length} ").bytes().chain(keyword.iter().copied()).chain([b'=']));
        text.extend(value);
        text.push(b'\n');
    }
    text
}

/// Cuts a path at a slash into the fields `prefix` and `name`, if there is a place to cut.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= Header::width("name") {
        return Some((b"", path));
    }
    let cuts = |&at: &usize| {
        path[at] == b'/'
            && at > 0
            && at <= Header::width("prefix")
            && at + 1 < path.len()
            && path.len() - at - 1 <= Header::width("name")
    };
    (0..path.len()).find(cuts).map(|at| (&path[..at], &path[at + 1..]))
}

fn url_encoded(name: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b'=';
    name.iter().map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Encodes base64 without padding, as libarchive does.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        text.extend((0..=group.len()).map(|place| DIGITS[(bits >> (18 - 6 * place)) as usize & 63]));
    }
    text
}
