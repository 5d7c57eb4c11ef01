//! A whole tree as text, with one line for each entry, to compare trees that were made in different ways.
//!
//! ```text
//! <path> type=<type> [mount] mode=<octal> owner=<uid>:<gid> [size=<bytes>] mtime=<seconds>.<nanoseconds>
//!        [names=<count>] [link=<first path>] [device=<major>:<minor>] [target=<text>]
//!        [xattr:<name>=<hex>]... [sha256=<hex>]
//! ```
//! The path is relative to the root of the tree (`.` is the root itself). Bytes outside `!` to `~`, and
//! the backslash, are written `\xNN` in paths, targets and xattr names.
//!
//! Not in it, because a file system chooses them freely: the size and link count of directories, block
//! counts, inode and device numbers (`link` says which names share an inode), access and change times.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};
use sha2::{Digest as _, Sha256};

/// The version of the text form; a cached dump of another version is replaced.
pub const FORMAT: u32 = 1;

/// How many differing entries a failed comparison prints.
const SHOWN: usize = 40;

/// The fields of one entry by name, as in the text form.
pub type Fields = BTreeMap<String, String>;

/// One excused difference.
#[derive(Clone, Copy)]
pub struct Deviation {
    /// Why the difference is right.
    pub reason: &'static str,
    /// Whether it covers a field at a path (escaped, relative to the root). An entry of only one tree is
    /// passed with the field `type`, and no fields for the tree that lacks it.
    pub applies: fn(path: &str, field: &str, expected: &Fields, found: &Fields) -> bool,
}

impl fmt::Debug for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

/// A tree, by escaped path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeDump {
    entries: BTreeMap<String, Fields>,
}

impl TreeDump {
    /// Reads every entry below `root`, and `root` itself, without leaving the mount that it is on: a
    /// mount point inside is an entry with the field `mount` and nothing else.
    ///
    /// # Errors
    /// The first entry that cannot be read, with its path.
    pub fn of(root: &Path) -> io::Result<Self> {
        let buffer = vec![0; 2 * LARGEST_XATTR];
        let mut walk = Walk { mount: describe(root)?.stx_mnt_id, buffer, ..Walk::default() };
        walk.visit(root, Path::new("."))?;
        Ok(walk.dump)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// The first line that is not of the form above.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let path = words.next().filter(|path| !path.is_empty()).ok_or_else(|| format!("no path in {line:?}"))?;
            let mut fields = Fields::new();
            for word in words {
                let (name, value) = word.rsplit_once('=').unwrap_or((word, ""));
                fields.insert(name.to_owned(), value.to_owned());
            }
            if !fields.contains_key("type") {
                return Err(format!("no type in {line:?}"));
            }
            entries.insert(path.to_owned(), fields);
        }
        Ok(Self { entries })
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The fields of the entry at an escaped path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Fields> {
        self.entries.get(path)
    }

    /// Every escaped path with its fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fields)> {
        self.entries.iter().map(|(path, fields)| (path.as_str(), fields))
    }

    /// One line for each entry that is in only one of the trees or differs, except for what `deviations` excuse.
    #[must_use]
    pub fn differences(&self, actual: &Self, deviations: &[Deviation]) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in &self.entries {
            let Some(found) = actual.entries.get(path) else {
                if !excused(deviations, path, "type", expected, &Fields::new()) {
                    lines.push(format!("missing  {path} ({})", expected["type"]));
                }
                continue;
            };
            let names: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
            for name in names {
                let (want, have) = (expected.get(name), found.get(name));
                if want != have && !excused(deviations, path, name, expected, found) {
                    let [want, have] = [want, have].map(|value| value.map_or("(absent)", String::as_str));
                    lines.push(format!("differs  {path}: {name} is {have}, should be {want}"));
                }
            }
        }
        for (path, found) in &actual.entries {
            if !self.entries.contains_key(path) && !excused(deviations, path, "type", &Fields::new(), found) {
                lines.push(format!("extra    {path} ({})", found["type"]));
            }
        }
        lines
    }

    /// Panics with a readable list unless `actual` is this tree, except for what `deviations` excuse.
    ///
    /// # Panics
    /// When the trees differ.
    pub fn assert_same(&self, actual: &Self, deviations: &[Deviation], what: &str) {
        let lines = self.differences(actual, deviations);
        if lines.is_empty() {
            return;
        }
        let shown = lines.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect::<String>();
        panic!("{what}: {} differences in {} entries{shown}", lines.len(), self.len());
    }
}

impl fmt::Display for TreeDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, fields) in &self.entries {
            f.write_str(path)?;
            for (name, value) in fields {
                if value.is_empty() && !name.starts_with("xattr:") {
                    write!(f, " {name}")?;
                } else {
                    write!(f, " {name}={value}")?;
                }
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

fn excused(deviations: &[Deviation], path: &str, field: &str, expected: &Fields, found: &Fields) -> bool {
    deviations.iter().any(|deviation| (deviation.applies)(path, field, expected, found))
}

/// The largest list and the largest value of extended attributes that Linux returns (linux/limits.h), in bytes.
const LARGEST_XATTR: usize = 1 << 16;

/// One walk over a tree.
#[derive(Default)]
struct Walk {
    dump: TreeDump,
    /// Everything is read into this buffer: a file's content, or the names of extended attributes and one value.
    buffer: Vec<u8>,
    /// The mount that holds the root, as statx numbers mounts.
    mount: u64,
    /// The first path of each inode that has several names, by device and inode number.
    first_names: HashMap<(u32, u32, u64), String>,
}

impl Walk {
    fn visit(&mut self, path: &Path, relative: &Path) -> io::Result<()> {
        let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let name = escape(relative.as_os_str().as_bytes());
        let stat = describe(path).map_err(about)?;
        if stat.stx_mnt_id != self.mount {
            self.dump.entries.insert(name, [("type", "mount")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let fields = self.fields(path, &name, kind, &stat).map_err(about)?;
        self.dump.entries.insert(name, fields);
        if kind != FileType::Directory {
            return Ok(());
        }
        let mut children = std::fs::read_dir(path)
            .and_then(|list| list.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
            .map_err(about)?;
        children.sort();
        for child in children {
            let below = if relative == Path::new(".") { PathBuf::from(&child) } else { relative.join(&child) };
            self.visit(&path.join(&child), &below)?;
        }
        Ok(())
    }

    fn fields(&mut self, path: &Path, name: &str, kind: FileType, stat: &Statx) -> io::Result<Fields> {
        let mut fields = Fields::new();
        let mut put = |key: &str, value: String| fields.insert(key.to_owned(), value);
        put("type", type_name(kind).to_owned());
        put("mode", format!("{:04o}", stat.stx_mode & 0o7777));
        put("owner", format!("{}:{}", stat.stx_uid, stat.stx_gid));
        put("mtime", format!("{}.{:09}", stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec));
        match kind {
            FileType::RegularFile => {
                put("size", stat.stx_size.to_string());
                put("sha256", content_hash(path, &mut self.buffer)?);
            }
            FileType::Symlink => {
                put("size", stat.stx_size.to_string());
                put("target", escape(std::fs::read_link(path)?.as_os_str().as_bytes()));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                put("device", format!("{}:{}", stat.stx_rdev_major, stat.stx_rdev_minor));
            }
            _ => {}
        }
        if kind != FileType::Directory {
            put("names", stat.stx_nlink.to_string());
            if stat.stx_nlink > 1 {
                let inode = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
                put("link", self.first_names.entry(inode).or_insert_with(|| name.to_owned()).clone());
            }
        }
        for (attribute, value) in xattrs(path, &mut self.buffer)? {
            put(&format!("xattr:{}", escape(&attribute)), hex(&value));
        }
        Ok(fields)
    }
}

fn describe(path: &Path) -> io::Result<Statx> {
    // The bit of STATX_MNT_ID (linux/stat.h); the mount decides where a walk ends, because on
    // overlayfs files of one mount have several device numbers.
    let mount_id = StatxFlags::from_bits_retain(0x1000);
    Ok(statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS | mount_id)?)
}

fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character-device",
        FileType::BlockDevice => "block-device",
        FileType::Unknown => "unknown",
    }
}

fn content_hash(path: &Path, buffer: &mut [u8]) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    loop {
        match io::Read::read(&mut file, buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn xattrs(path: &Path, buffer: &mut [u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let (names, value) = buffer.split_at_mut(LARGEST_XATTR);
    let length = match rustix::fs::llistxattr(path, &mut *names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name_text = std::ffi::OsString::from_vec(name.to_vec());
        let size = rustix::fs::lgetxattr(path, name_text.as_os_str(), &mut *value)?;
        found.push((name.to_vec(), value[..size].to_vec()));
    }
    Ok(found)
}

/// Writes bytes as printable ASCII without spaces and `=`: the others, and the backslash, as `\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'=') {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "content").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b b")).unwrap();
        std::os::unix::fs::symlink("a=\\", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn the_text_form_reads_back_as_the_same_tree() {
        let dir = sample();
        let dump = TreeDump::of(dir.path()).unwrap();
        assert_eq!(dump.len(), 4);
        assert_eq!(TreeDump::parse(&dump.to_string()).unwrap(), dump);
        assert_eq!(dump.get("b\\x20b").unwrap()["link"], "a");
        assert_eq!(dump.get("link").unwrap()["target"], "a\\x3d\\x5c");
    }

    #[test]
    fn a_changed_byte_and_a_broken_link_group_are_differences() {
        let dir = sample();
        let before = TreeDump::of(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("b b")).unwrap();
        std::fs::write(dir.path().join("b b"), "contenu").unwrap();
        let after = TreeDump::of(dir.path()).unwrap();
        let lines = before.differences(&after, &[]).join("\n");
        assert!(lines.contains("b\\x20b: sha256"), "{lines}");
        assert!(lines.contains("differs  a: names is 1, should be 2"), "{lines}");
        assert!(before.differences(&before, &[]).is_empty());
    }
}
