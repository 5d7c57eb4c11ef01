//! A case: a stack of layers, the tree that it must show, and where an oracle is known to differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::dump::{Line, TreeDump};
use super::overlayfs::{Privilege, lines, shown_by_overlayfs};
use super::paths::{image_path, normalise};
use super::stack::{Entry, Node, Stack, content_mark};
use super::subject::Subject;
use super::{text, umoci};

/// One case of the suite. It is built from lines of text, and [`Case::check`] tests it.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    overlay_oracle: &'a Path,
    stack: Stack,
    shows: Vec<Entry>,
    overlayfs: Deviation<'a>,
    overlayfs_root: Deviation<'a>,
    umoci: Deviation<'a>,
}

/// How an oracle differs from the expected tree.
#[derive(Clone, Copy, Debug)]
enum Deviation<'a> {
    None,
    /// At exactly these paths.
    At(&'a [&'a str], Why<'a>),
    /// It cannot unpack this stack.
    Fails(Why<'a>),
}

/// The reason for a deviation, with a link if there is a thread about it.
type Why<'a> = &'a str;

impl<'a> Case<'a> {
    /// Creates a case with this stack. `overlay_oracle` is the path of the program with that name.
    #[must_use]
    pub fn new(overlay_oracle: &'a Path, stack: &str) -> Self {
        Self {
            overlay_oracle,
            stack: stack.parse().unwrap_or_else(|error| panic!("{error:#}")),
            shows: Vec::new(),
            overlayfs: Deviation::None,
            overlayfs_root: Deviation::None,
            umoci: Deviation::None,
        }
    }

    /// Sets the paths that must be shown: all except the root, with the attributes that matter here.
    #[must_use]
    pub fn shows(mut self, tree: &str) -> Self {
        self.shows = text::entries(tree).unwrap_or_else(|error| panic!("{error:#}"));
        self
    }

    /// Notes that overlayfs differs at exactly these paths, whichever user mounts it.
    #[must_use]
    pub const fn overlayfs_differs(mut self, paths: &'a [&'a str], why: Why<'a>) -> Self {
        self.overlayfs = Deviation::At(paths, why);
        self.overlayfs_root = self.overlayfs;
        self
    }

    /// Notes that overlayfs differs at exactly these paths when root mounts it.
    #[must_use]
    pub const fn overlayfs_root_differs(mut self, paths: &'a [&'a str], why: Why<'a>) -> Self {
        self.overlayfs_root = Deviation::At(paths, why);
        self
    }

    /// Notes that umoci differs at exactly these paths.
    #[must_use]
    pub const fn umoci_differs(mut self, paths: &'a [&'a str], why: Why<'a>) -> Self {
        self.umoci = Deviation::At(paths, why);
        self
    }

    /// Notes that umoci fails.
    #[must_use]
    pub const fn umoci_fails(mut self, why: Why<'a>) -> Self {
        self.umoci = Deviation::Fails(why);
        self
    }

    /// Compares the expectation, the model, the implementation and both oracles.
    pub fn check(self) {
        let expected = self.stack.expected().unwrap_or_else(|error| panic!("the model refuses: {error:#}"));
        self.check_expectation(&expected);
        let shown = shown(&self.stack).unwrap_or_else(|error| panic!("refused: {error:#}\n{}", self.stack));
        let difference = expected.difference(&shown);
        assert!(difference.is_empty(), "the view differs (- expected, + shown):\n{difference}\n{}", self.stack);
        self.check_overlayfs(&expected);
        self.check_umoci(&expected);
    }

    fn check_expectation(&self, model: &TreeDump) {
        let mut named = BTreeSet::from([b"/".to_vec()]);
        for entry in &self.shows {
            let path = image_path(&normalise(&entry.path).expect("an expectation has a path"));
            let Some(line) = model.lines.get(&path) else { panic!("{entry} is expected, but not in\n{model}") };
            assert!(agrees(entry, line, model), "{entry} is expected, but the model has\n{line}");
            named.insert(path);
        }
        let modelled: BTreeSet<Vec<u8>> = model.lines.keys().cloned().collect();
        assert_eq!(named, modelled, "the case must name all paths of\n{model}");
    }

    fn check_overlayfs(&self, expected: &TreeDump) {
        for &privilege in Privilege::available() {
            let expected = lines(&privilege.comparable(expected.clone()).to_string());
            let shown = shown_by_overlayfs(self.overlay_oracle, privilege, &self.stack);
            let deviation = match privilege {
                Privilege::Root => self.overlayfs_root,
                Privilege::User => self.overlayfs,
            };
            self.judge(&format!("overlayfs ({privilege:?})"), deviation, &expected, shown);
        }
    }

    fn check_umoci(&self, expected: &TreeDump) {
        let comparable = |dump: TreeDump| lines(&umoci::comparable(&self.stack, dump).to_string());
        let shown = umoci::unpacked_by_umoci(&self.stack).map(comparable);
        self.judge("umoci", self.umoci, &comparable(expected.clone()), shown);
    }

    fn judge(
        &self,
        oracle: &str,
        deviation: Deviation<'_>,
        expected: &BTreeMap<String, String>,
        shown: anyhow::Result<BTreeMap<String, String>>,
    ) {
        let shown = match (shown, deviation) {
            (Err(_), Deviation::Fails(_)) => return,
            (Err(error), _) => panic!("{oracle} fails: {error:#}\n{}", self.stack),
            (Ok(_), Deviation::Fails(why)) => panic!("{oracle} does not fail any more: {why}"),
            (Ok(shown), _) => shown,
        };
        let (paths, why) = match deviation {
            Deviation::At(paths, why) => (paths, why),
            _ => (&[][..], "no deviation is listed"),
        };
        let all: BTreeSet<&String> = expected.keys().chain(shown.keys()).collect();
        let differing: Vec<&str> =
            all.into_iter().filter(|path| expected.get(*path) != shown.get(*path)).map(String::as_str).collect();
        let listed: Vec<&str> = paths.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if differing != listed {
            let mut text = String::new();
            for path in &differing {
                text.push_str(&format!("- {path} {:?}\n+ {path} {:?}\n", expected.get(*path), shown.get(*path)));
            }
            panic!("{oracle} differs at {differing:?}, listed are {listed:?} ({why}):\n{text}\n{}", self.stack);
        }
    }

    /// Tests that the model and the implementation refuse the stack, and that the error names `name`.
    pub fn is_refused(self, name: &str) {
        assert!(self.stack.expected().is_err(), "the model takes\n{}", self.stack);
        self.fails_to_import(name);
    }

    /// Tests that the implementation refuses the stack, and that the error names `name`. The stack is broken in a way
    /// that the model, which reads no tar, does not see.
    pub fn fails_to_import(self, name: &str) {
        match shown(&self.stack) {
            Ok(shown) => panic!("taken, though it must be refused:\n{}\n{shown}", self.stack),
            Err(error) => {
                let complaint = format!("{error:#}");
                assert!(complaint.contains(name), "{name:?} is not named in: {complaint}");
            }
        }
    }
}

/// Returns what the implementation shows of the stack, from a new store.
fn shown(stack: &Stack) -> anyhow::Result<TreeDump> {
    Subject::new()?.shown(stack)
}

/// Returns whether a line has everything that an expectation names.
fn agrees(entry: &Entry, line: &Line, model: &TreeDump) -> bool {
    use layer_store::Kind;
    let node = match &entry.node {
        Node::HardLink(target) => {
            let target = image_path(&normalise(target).expect("an expectation has a target"));
            return model.lines.get(&target).is_some_and(|other| other.first_name == line.first_name);
        }
        Node::Directory => line.kind == Kind::Directory,
        Node::Fifo => line.kind == Kind::Fifo,
        Node::Symlink(target) => line.target.as_ref() == Some(target),
        Node::CharDevice(major, minor) => line.kind == Kind::CharDevice && line.rdev == (*major, *minor),
        Node::BlockDevice(major, minor) => line.kind == Kind::BlockDevice && line.rdev == (*major, *minor),
        Node::File(content) => {
            let read_at = |offset, buffer: &mut [u8]| anyhow::Ok(content.read_at(offset, buffer));
            let mark = content_mark(content.size(), read_at).expect("content of a case can be read");
            line.content == Some((content.size(), mark))
        }
        Node::Global | Node::Junk(_) => false,
    };
    let owner = |said: Option<u64>, is: u32| said.is_none_or(|said| said == u64::from(is));
    node && entry.mode.is_none_or(|mode| mode == line.permissions)
        && owner(entry.uid, line.uid)
        && owner(entry.gid, line.gid)
        && entry.mtime.is_none_or(|mtime| mtime == line.mtime)
        && entry.xattrs.iter().cloned().collect::<BTreeMap<_, _>>() == line.xattrs
}
