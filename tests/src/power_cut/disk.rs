//! A file system as a recorded command changes it, and which of its changes are on the disk.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::trace::{Call, text};

/// A file or directory, by its place in [`Disk::nodes`].
pub(super) type Number = usize;

/// Names of a directory.
pub(super) type Names = BTreeMap<PathBuf, Number>;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory {
        /// The names as the kernel shows them.
        names: Names,
        /// The names that a sync of the directory put on the disk.
        synced: Names,
        /// Every change since then, in order: a name, and what it refers to after the change.
        pending: Vec<(PathBuf, Option<Number>)>,
    },
    File {
        content: Vec<u8>,
        /// What a sync put on the disk.
        synced: Option<Vec<u8>>,
    },
}

#[derive(Debug, Clone)]
struct Handle {
    node: Number,
    position: usize,
    append: bool,
}

/// The entries of one directory.
#[derive(Debug)]
pub struct Disk {
    pub(super) nodes: Vec<Node>,
    top: PathBuf,
    handles: HashMap<i64, Handle>,
    /// Syncs that have begun: what they will put on the disk.
    syncing: HashMap<u32, (Number, Node)>,
}

/// The top directory.
pub(super) const TOP: Number = 0;

impl Disk {
    /// Everything below `top` now, all of it synced.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of(top: &Path) -> Self {
        let mut disk =
            Self { nodes: Vec::new(), top: top.to_owned(), handles: HashMap::new(), syncing: HashMap::new() };
        disk.load(top);
        disk
    }

    fn load(&mut self, path: &Path) -> Number {
        let number = self.nodes.len();
        if !path.is_dir() {
            let content = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            self.nodes.push(Node::File { synced: Some(content.clone()), content });
            return number;
        }
        self.nodes.push(Node::Directory { names: Names::new(), synced: Names::new(), pending: Vec::new() });
        let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        let below: Names =
            paths.iter().map(|path| (PathBuf::from(path.file_name().expect("a name")), self.load(path))).collect();
        self.nodes[number] = Node::Directory { names: below.clone(), synced: below, pending: Vec::new() };
        number
    }

    /// Whether this call begins a sync: a power cut loses the most just before one.
    #[must_use]
    pub fn is_sync(&self, call: &Call) -> bool {
        call.result.is_none()
            && matches!(call.name.as_str(), "fsync" | "fdatasync")
            && self.handles.contains_key(&number(&call.arguments[0]))
    }

    /// Forgets the descriptors of a command that has ended.
    pub fn forget_handles(&mut self) {
        self.handles.clear();
        self.syncing.clear();
    }

    /// Follows one call.
    ///
    /// # Panics
    /// When this model does not know the call.
    pub fn follow(&mut self, call: &Call) {
        let argument = |position: usize| call.arguments.get(position).map_or("", String::as_str);
        let Some(result) = call.result else {
            return self.begin(call);
        };
        match call.name.as_str() {
            "openat" => self.open(argument(0), argument(1), argument(2), result),
            "open" => self.open("AT_FDCWD", argument(0), argument(1), result),
            "creat" => self.open("AT_FDCWD", argument(0), "O_CREAT|O_TRUNC", result),
            "dup" | "dup2" | "dup3" => self.duplicate(number(argument(0)), result),
            "fcntl" if argument(1).starts_with("F_DUPFD") => self.duplicate(number(argument(0)), result),
            "lseek" => {
                if let Some(handle) = self.handles.get_mut(&number(argument(0))) {
                    handle.position = position(result);
                }
            }
            "write" => {
                self.write(number(argument(0)), &text_if_known(&self.handles, argument(0), argument(1)), result, None);
            }
            "pwrite64" => {
                let at = Some(position(number(argument(3))));
                self.write(number(argument(0)), &text_if_known(&self.handles, argument(0), argument(1)), result, at);
            }
            "ftruncate" => self.truncate(number(argument(0)), position(number(argument(1)))),
            "fallocate" => self.punch(argument(0), argument(1), [argument(2), argument(3)]),
            "fsync" | "fdatasync" => self.end_sync(call.thread),
            "mkdir" => self.make_directory("AT_FDCWD", argument(0)),
            "mkdirat" => self.make_directory(argument(0), argument(1)),
            "rename" => self.rename(("AT_FDCWD", argument(0)), ("AT_FDCWD", argument(1)), ""),
            "renameat" => self.rename((argument(0), argument(1)), (argument(2), argument(3)), ""),
            "renameat2" => self.rename((argument(0), argument(1)), (argument(2), argument(3)), argument(4)),
            "unlink" | "rmdir" => self.set("AT_FDCWD", argument(0), None),
            "unlinkat" => self.set(argument(0), argument(1), None),
            "close" | "clone" | "clone3" | "fcntl" => {}
            _ => self.refuse(call),
        }
    }

    /// Applies what takes effect before the call returns: a closed descriptor may already be reused.
    fn begin(&mut self, call: &Call) {
        let first = call.arguments.first().map_or("", String::as_str);
        match call.name.as_str() {
            "close" => {
                self.handles.remove(&number(first));
            }
            "fsync" | "fdatasync" => {
                if let Some(handle) = self.handles.get(&number(first)) {
                    self.syncing.insert(call.thread, (handle.node, self.nodes[handle.node].clone()));
                }
            }
            _ => {}
        }
    }

    /// Calls that would change a file in a way that the model does not follow must not touch the files of this disk.
    fn refuse(&self, call: &Call) {
        let touches = call.arguments.iter().any(|argument| {
            argument.parse().is_ok_and(|number: i64| self.handles.contains_key(&number))
                || argument.starts_with('"') && self.relative(&text(argument)).is_some()
        });
        assert!(!touches && call.name != "sync", "the recorder does not know {call:?}");
    }

    /// The path below the top, if it is there.
    fn relative(&self, path: &[u8]) -> Option<PathBuf> {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        path.strip_prefix(&self.top).ok().map(Path::to_owned)
    }

    /// The directory and the name that a path in an argument means; `None` outside the disk.
    fn locate(&self, directory: &str, path: &str) -> Option<(Number, PathBuf)> {
        let bytes = text(path);
        let (mut at, path) = match self.handles.get(&number(directory)) {
            Some(handle) if !bytes.starts_with(b"/") => {
                (handle.node, PathBuf::from(std::ffi::OsString::from_vec(bytes)))
            }
            _ => (TOP, self.relative(&bytes)?),
        };
        let name = PathBuf::from(path.file_name()?);
        for part in path.parent()?.components() {
            at = self.names(at)?.get(Path::new(part.as_os_str())).copied()?;
        }
        Some((at, name))
    }

    fn names(&self, directory: Number) -> Option<&Names> {
        match &self.nodes[directory] {
            Node::Directory { names, .. } => Some(names),
            Node::File { .. } => None,
        }
    }

    fn add(&mut self, node: Node) -> Number {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn set(&mut self, directory: &str, path: &str, node: Option<Number>) {
        let Some((at, name)) = self.locate(directory, path) else { return };
        let Node::Directory { names, pending, .. } = &mut self.nodes[at] else {
            panic!("{path} is below a file");
        };
        pending.push((name.clone(), node));
        match node {
            Some(node) => names.insert(name, node),
            None => names.remove(&name),
        };
    }

    fn open(&mut self, directory: &str, path: &str, flags: &str, result: i64) {
        let found = match self.relative(&text(path)) {
            Some(relative) if relative.as_os_str().is_empty() => Some(TOP),
            _ => match self.locate(directory, path) {
                Some((at, name)) => self.names(at).and_then(|names| names.get(&name)).copied(),
                None => return,
            },
        };
        let node = found.unwrap_or_else(|| {
            assert!(flags.contains("O_CREAT"), "a file that no call created was opened: {path}");
            let made = self.add(Node::File { content: Vec::new(), synced: None });
            self.set(directory, path, Some(made));
            made
        });
        if flags.contains("O_TRUNC")
            && let Node::File { content, .. } = &mut self.nodes[node]
        {
            content.clear();
        }
        self.handles.insert(result, Handle { node, position: 0, append: flags.contains("O_APPEND") });
    }

    fn duplicate(&mut self, from: i64, to: i64) {
        if let Some(handle) = self.handles.get(&from).cloned() {
            self.handles.insert(to, handle);
        }
    }

    fn write(&mut self, handle: i64, bytes: &[u8], written: i64, at: Option<usize>) {
        let Some(handle) = self.handles.get_mut(&handle) else { return };
        let Node::File { content, .. } = &mut self.nodes[handle.node] else { return };
        let written = &bytes[..position(written)];
        let start = at.unwrap_or(if handle.append { content.len() } else { handle.position });
        let end = start + written.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(written);
        if at.is_none() {
            handle.position = end;
        }
    }

    fn truncate(&mut self, handle: i64, length: usize) {
        if let Some(handle) = self.handles.get(&handle)
            && let Node::File { content, .. } = &mut self.nodes[handle.node]
        {
            content.resize(length, 0);
        }
    }

    fn punch(&mut self, handle: &str, mode: &str, [start, length]: [&str; 2]) {
        let Some(handle) = self.handles.get(&number(handle)) else { return };
        assert!(mode.contains("FALLOC_FL_PUNCH_HOLE"), "an fallocate that is not followed: {mode}");
        if let Node::File { content, .. } = &mut self.nodes[handle.node] {
            let (start, length) = (position(number(start)), position(number(length)));
            let end = content.len().min(start + length);
            content[start..end].fill(0);
        }
    }

    fn make_directory(&mut self, directory: &str, path: &str) {
        if self.locate(directory, path).is_some() {
            let made = self.add(Node::Directory { names: Names::new(), synced: Names::new(), pending: Vec::new() });
            self.set(directory, path, Some(made));
        }
    }

    fn rename(&mut self, from: (&str, &str), to: (&str, &str), flags: &str) {
        let Some((at, name)) = self.locate(from.0, from.1) else { return };
        assert!(!flags.contains("EXCHANGE") && self.locate(to.0, to.1).is_some(), "a rename that is not followed");
        let node = self.names(at).and_then(|names| names.get(&name)).copied().expect("what is renamed is there");
        self.set(to.0, to.1, Some(node));
        self.set(from.0, from.1, None);
    }

    /// What was there when the sync began is now on the disk.
    fn end_sync(&mut self, thread: u32) {
        let Some((number, then)) = self.syncing.remove(&thread) else { return };
        match (&mut self.nodes[number], then) {
            (Node::File { synced, .. }, Node::File { content, .. }) => *synced = Some(content),
            (Node::Directory { synced, pending, .. }, Node::Directory { names, pending: done, .. }) => {
                *synced = names;
                pending.drain(..done.len().min(pending.len()));
            }
            _ => unreachable!("a file stays a file"),
        }
    }
}

/// Content is decoded only where it goes into a file that is followed: the rest is progress bars.
fn text_if_known(handles: &HashMap<i64, Handle>, handle: &str, content: &str) -> Vec<u8> {
    if handles.contains_key(&number(handle)) { text(content) } else { Vec::new() }
}

/// The descriptor in an argument; `AT_FDCWD` becomes a number that no file has.
fn number(argument: &str) -> i64 {
    argument.parse().unwrap_or(-1)
}

fn position(number: i64) -> usize {
    usize::try_from(number).expect("a length or a position")
}
