//! A stack of layers as text, one line for each tar entry.
//!
//! ```text
//! layer gzip members=2
//!   dir   a 0755 uid=0 gid=0 mtime=1.5
//!   file  a/b 0644 "content" xattr.user.note="x"
//!   link  a/c -> a/b
//!   sym   l -> target
//!   char  d 5,1
//!   fifo  p
//!   wh    a/b            # a/.wh.b
//!   opq   a              # a/.wh..wh..opq
//!   file  big fill=70000
//!   file  s size=100000 data=4096+512 sparse=1.0
//!   file  n as=gnu head.name="junk" pax.comment="text"
//!   global pax.mtime="5"
//!   junk  x "body" head.typeflag="Q"
//! ```
//!
//! `layer` begins a layer (`plain`, `gzip`, `zstd`, `members=N`, `end-blocks=N`, `trailing="..."`, `cut=N`);
//! the lowest comes first. The words after a path say what the entry *means*; `as=`, `head.FIELD=`, `pax.KEY=`,
//! `xattrs=` and `sparse=` say how it is *written* and change nothing about the expected tree. The same lines serve
//! as expectations. How words are quoted is described in `tokens`.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};

use super::stack::{
    Content, Dialect, Entry, Frame, Layer, Mtime, Node, Packing, SparseFormat, Stack, Tape, XattrStyle,
};
use super::tokens::{Word, quote, quote_always, words};

impl FromStr for Stack {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut stack = Self::default();
        for (number, line) in text.lines().enumerate() {
            read_line(&mut stack, line).with_context(|| format!("line {}: {}", number + 1, line.trim()))?;
        }
        Ok(stack)
    }
}

fn read_line(stack: &mut Stack, line: &str) -> Result<()> {
    let words = words(line)?;
    let Some((kind, rest)) = words.split_first() else { return Ok(()) };
    if kind.text()? == "layer" {
        stack.layers.push(Layer { entries: Vec::new(), frame: read_frame(rest)? });
        return Ok(());
    }
    let layer = stack.layers.last_mut().context("an entry before the first `layer`")?;
    layer.entries.push(read_entry(kind.text()?, rest)?);
    Ok(())
}

/// Parses lines of entries without a `layer`: the tree that a case expects.
pub fn entries(text: &str) -> Result<Vec<Entry>> {
    let stack: Stack = format!("layer\n{text}").parse()?;
    let [layer] = <[Layer; 1]>::try_from(stack.layers).map_err(|_| anyhow!("an expectation has no layers"))?;
    Ok(layer.entries)
}

fn number<T: FromStr>(bytes: &[u8]) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = std::str::from_utf8(bytes)?;
    text.parse().with_context(|| format!("{text:?} is not such a number"))
}

fn pair_of<T: FromStr>(bytes: &[u8], between: char) -> Result<(T, T)>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = std::str::from_utf8(bytes)?;
    let (left, right) = text.split_once(between).with_context(|| format!("{text:?} has no {between:?}"))?;
    Ok((number(left.as_bytes())?, number(right.as_bytes())?))
}

fn read_frame(words: &[Word]) -> Result<Frame> {
    let mut frame = Frame::default();
    for word in words {
        match word.pair() {
            Some((b"members", value)) => frame.members = number(value)?,
            Some((b"end-blocks", value)) => frame.end_blocks = number(value)?,
            Some((b"cut", value)) => frame.cut = number(value)?,
            Some((b"trailing", value)) => frame.trailing = value.to_vec(),
            Some((key, _)) => bail!("a layer has no {}", String::from_utf8_lossy(key)),
            None => {
                frame.packing = match word.text()? {
                    "plain" => Packing::Plain,
                    "gzip" => Packing::Gzip,
                    "zstd" => Packing::Zstd,
                    other => bail!("a layer is not {other:?}"),
                }
            }
        }
    }
    Ok(frame)
}

/// Returns the whiteout of `a/b`: `a/.wh.b`.
pub(crate) fn whiteout_of(path: &[u8]) -> Vec<u8> {
    let base = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..base], b".wh.", &path[base..]].concat()
}

/// Returns the opaque marker of `directory`.
pub(crate) fn opaque_marker_in(directory: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() || directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, b".wh..wh..opq"].concat()
}

fn read_entry(kind: &str, words: &[Word]) -> Result<Entry> {
    let (path, mut rest) = match (kind, words) {
        ("global", words) => (b"".to_vec(), words),
        (_, [path, rest @ ..]) => (path.bytes.clone(), rest),
        (_, []) => bail!("the path is missing"),
    };
    let mut target = None;
    if let [arrow, to, behind @ ..] = rest
        && arrow.bytes == b"->"
    {
        (target, rest) = (Some(to.bytes.clone()), behind);
    }
    let mut numbers = None;
    if matches!(kind, "char" | "block") {
        let (word, behind) = rest.split_first().context("MAJOR,MINOR is missing")?;
        (numbers, rest) = (Some(pair_of(&word.bytes, ',')?), behind);
    }
    let target_of = |target: Option<Vec<u8>>| target.context("-> TARGET is missing");
    let (major, minor) = numbers.unwrap_or_default();
    let empty = || Content::Literal(Vec::new());
    let (path, node) = match kind {
        "dir" => (path, Node::Directory),
        "file" => (path, Node::File(empty())),
        "link" => (path, Node::HardLink(target_of(target.take())?)),
        "sym" => (path, Node::Symlink(target_of(target.take())?)),
        "char" => (path, Node::CharDevice(major, minor)),
        "block" => (path, Node::BlockDevice(major, minor)),
        "fifo" => (path, Node::Fifo),
        "wh" => (whiteout_of(&path), Node::File(empty())),
        "opq" => (opaque_marker_in(&path), Node::File(empty())),
        "global" => (path, Node::Global),
        "junk" => (path, Node::Junk(empty())),
        other => bail!("{other:?} is no kind of entry"),
    };
    ensure!(target.is_none(), "{kind:?} has no target");
    let mut entry = Entry::new(path, node);
    for word in rest {
        read_word(&mut entry, word)?;
    }
    Ok(entry)
}

impl Entry {
    /// Creates an entry without attributes.
    #[must_use]
    pub fn new(path: impl Into<Vec<u8>>, node: Node) -> Self {
        Self {
            path: path.into(),
            node,
            mode: None,
            uid: None,
            gid: None,
            mtime: None,
            xattrs: Vec::new(),
            tape: Tape::default(),
        }
    }

    fn set_content(&mut self, content: Content) -> Result<()> {
        match &mut self.node {
            Node::File(old) | Node::Junk(old) => *old = content,
            _ => bail!("only a file has content"),
        }
        Ok(())
    }

    fn add_extent(&mut self, extent: (u64, u64)) -> Result<()> {
        match &mut self.node {
            Node::File(Content::Sparse { extents, .. }) => extents.push(extent),
            _ => bail!("data= is for a file with size="),
        }
        Ok(())
    }
}

fn read_word(entry: &mut Entry, word: &Word) -> Result<()> {
    if word.quoted {
        return entry.set_content(Content::Literal(word.bytes.clone()));
    }
    let Some((key, value)) = word.pair() else {
        entry.mode = Some(u32::from_str_radix(word.text()?, 8).context("neither an octal mode nor key=value")?);
        return Ok(());
    };
    if let Some((prefix, name)) = key.iter().position(|&byte| byte == b'.').map(|dot| (&key[..dot], &key[dot + 1..])) {
        let list = match prefix {
            b"xattr" => &mut entry.xattrs,
            b"head" => &mut entry.tape.header,
            b"pax" => &mut entry.tape.pax,
            _ => bail!("an unknown key"),
        };
        list.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    match key {
        b"uid" => entry.uid = Some(number(value)?),
        b"gid" => entry.gid = Some(number(value)?),
        b"mtime" => entry.mtime = Some(std::str::from_utf8(value)?.parse()?),
        b"fill" => entry.set_content(Content::Fill(number(value)?))?,
        b"size" => entry.set_content(Content::Sparse { size: number(value)?, extents: Vec::new() })?,
        b"data" => entry.add_extent(pair_of(value, '+')?)?,
        b"as" => entry.tape.dialect = keyword(value, &DIALECTS)?,
        b"xattrs" => entry.tape.xattr_style = keyword(value, &XATTR_STYLES)?,
        b"sparse" => entry.tape.sparse = keyword(value, &SPARSE_FORMATS)?,
        _ => bail!("an unknown key"),
    }
    Ok(())
}

const DIALECTS: [(&str, Dialect); 4] =
    [("ustar", Dialect::Ustar), ("pax", Dialect::Pax), ("gnu", Dialect::Gnu), ("v7", Dialect::V7)];
const XATTR_STYLES: [(&str, XattrStyle); 2] = [("schily", XattrStyle::Schily), ("libarchive", XattrStyle::Libarchive)];
const SPARSE_FORMATS: [(&str, SparseFormat); 4] = [
    ("gnu", SparseFormat::Gnu),
    ("0.0", SparseFormat::Pax00),
    ("0.1", SparseFormat::Pax01),
    ("1.0", SparseFormat::Pax10),
];

fn keyword<T: Copy>(value: &[u8], choices: &[(&str, T)]) -> Result<T> {
    let choice = choices.iter().find(|(name, _)| name.as_bytes() == value);
    choice.map(|&(_, choice)| choice).with_context(|| format!("{:?} is no choice", String::from_utf8_lossy(value)))
}

fn name_of<T: PartialEq>(choice: &T, choices: &'static [(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, other)| other == choice).map_or("?", |(name, _)| name)
}

impl FromStr for Mtime {
    type Err = Error;

    /// Parses decimal seconds: `-1.5` is half a second after -2.
    fn from_str(text: &str) -> Result<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = number(whole.as_bytes())?;
        ensure!(fraction.len() <= 9, "more digits than nanoseconds");
        let nanoseconds: u32 = number(format!("{fraction:0<9}").as_bytes())?;
        if whole.starts_with('-') && nanoseconds > 0 {
            return Ok(Self { seconds: seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds });
        }
        Ok(Self { seconds, nanoseconds })
    }
}

impl fmt::Display for Mtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut seconds, mut nanoseconds) = (i128::from(self.seconds), self.nanoseconds);
        if seconds < 0 && nanoseconds > 0 {
            (seconds, nanoseconds) = (seconds + 1, 1_000_000_000 - nanoseconds);
            if seconds == 0 {
                f.write_char('-')?;
            }
        }
        write!(f, "{seconds}")?;
        if nanoseconds > 0 {
            write!(f, ".{}", format!("{nanoseconds:09}").trim_end_matches('0'))?;
        }
        Ok(())
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layers.iter().try_for_each(|layer| layer.fmt(f))
    }
}

impl fmt::Debug for Stack {
    /// Includes the text, because a failing random stack can become a case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frame, usual) = (&self.frame, Frame::default());
        f.write_str("layer")?;
        f.write_str(match frame.packing {
            Packing::Plain => "",
            Packing::Gzip => " gzip",
            Packing::Zstd => " zstd",
        })?;
        for (key, value, usual) in [
            ("members", frame.members, usual.members),
            ("end-blocks", frame.end_blocks, usual.end_blocks),
            ("cut", frame.cut, usual.cut),
        ] {
            if value != usual {
                write!(f, " {key}={value}")?;
            }
        }
        if !frame.trailing.is_empty() {
            write!(f, " trailing={}", quote_always(&frame.trailing))?;
        }
        f.write_char('\n')?;
        self.entries.iter().try_for_each(|entry| writeln!(f, "  {entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_kind_and_path(f)?;
        match &self.node {
            Node::HardLink(target) | Node::Symlink(target) => write!(f, " -> {}", quote(target))?,
            Node::CharDevice(major, minor) | Node::BlockDevice(major, minor) => write!(f, " {major},{minor}")?,
            Node::File(content) | Node::Junk(content) => write_content(f, content)?,
            Node::Directory | Node::Fifo | Node::Global => {}
        }
        if let Some(mode) = self.mode {
            write!(f, " {mode:04o}")?;
        }
        for (key, number) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(number) = number {
                write!(f, " {key}={number}")?;
            }
        }
        if let Some(mtime) = self.mtime {
            write!(f, " mtime={mtime}")?;
        }
        let tape = &self.tape;
        for (prefix, list) in [("xattr", &self.xattrs), ("head", &tape.header), ("pax", &tape.pax)] {
            for (name, value) in list {
                write!(f, " {prefix}.{}={}", quote(name), quote_always(value))?;
            }
        }
        let usual = Tape::default();
        if tape.dialect != usual.dialect {
            write!(f, " as={}", name_of(&tape.dialect, &DIALECTS))?;
        }
        if tape.xattr_style != usual.xattr_style {
            write!(f, " xattrs={}", name_of(&tape.xattr_style, &XATTR_STYLES))?;
        }
        if tape.sparse != usual.sparse {
            write!(f, " sparse={}", name_of(&tape.sparse, &SPARSE_FORMATS))?;
        }
        Ok(())
    }
}

impl Entry {
    fn write_kind_and_path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let parent = &self.path[..base];
        let directory = parent.strip_suffix(b"/").unwrap_or(parent);
        if matches!(self.node, Node::File(_)) {
            if opaque_marker_in(directory) == self.path {
                return write!(f, "opq {}", quote(directory));
            }
            if let Some(name) = self.path[base..].strip_prefix(b".wh.") {
                return write!(f, "wh {}", quote(&[parent, name].concat()));
            }
        }
        let kind = match self.node {
            Node::Directory => "dir",
            Node::File(_) => "file",
            Node::HardLink(_) => "link",
            Node::Symlink(_) => "sym",
            Node::CharDevice(..) => "char",
            Node::BlockDevice(..) => "block",
            Node::Fifo => "fifo",
            Node::Global => return f.write_str("global"),
            Node::Junk(_) => "junk",
        };
        write!(f, "{kind} {}", quote(&self.path))
    }
}

fn write_content(f: &mut fmt::Formatter<'_>, content: &Content) -> fmt::Result {
    match content {
        Content::Literal(bytes) if bytes.is_empty() => Ok(()),
        Content::Literal(bytes) => write!(f, " {}", quote_always(bytes)),
        Content::Fill(size) => write!(f, " fill={size}"),
        Content::Sparse { size, extents } => {
            write!(f, " size={size}")?;
            extents.iter().try_for_each(|(offset, length)| write!(f, " data={offset}+{length}"))
        }
    }
}
