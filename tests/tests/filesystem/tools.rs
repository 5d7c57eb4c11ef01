//! Common tools see the same in a mount as in the unpacked tree.

use std::path::Path;

use end_to_end::layout::digest;
use end_to_end::oracle::Unpacked;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Image, Session, TreeDump};

use crate::fixture::{REFERENCE, merged_tree, session_with};

end_to_end::on_every_transport! {
    find_sees_the_unpacked_tree,
    du_counts_what_it_counts_in_the_unpacked_tree,
    tar_packs_the_unpacked_tree,
    rsync_finds_nothing_to_do,
    copy_is_the_unpacked_tree,
    tools_of_root_and_of_an_ordinary_user_see_an_unpacked_debian,
}

/// An image, mounted by `actor` and unpacked.
struct Pair {
    session: Session,
    actor: Actor,
    point: std::path::PathBuf,
    unpacked: Unpacked,
}

impl Pair {
    fn of(actor: Actor, layout: &Path) -> Self {
        Self::beside(actor, layout, Unpacked::of(&format!("{}:latest", layout.display()), Path::new("/tmp")))
    }

    /// A mount beside an image that is unpacked already.
    fn beside(actor: Actor, layout: &Path, unpacked: Unpacked) -> Self {
        let session = session_with(actor, layout);
        let point = session.mount(REFERENCE, "mounted");
        Self { session, actor, point, unpacked }
    }

    /// Runs a program as the actor in the mount, and as root in the unpacked tree. Returns what each prints, which must
    /// not be empty.
    fn both(&self, program: &str, arguments: &[&str]) -> [Vec<u8>; 2] {
        [(self.actor, &self.point), (Actor::Root, &self.unpacked.root())].map(|(actor, root)| {
            let mut command = actor.command(&installed(program));
            command.args(arguments).current_dir(root).env("LANG", "C.UTF-8");
            let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && complaint.is_empty(), "{command:?} in {}: {complaint}", root.display());
            assert!(!output.stdout.is_empty(), "{command:?} prints nothing");
            output.stdout
        })
    }

    /// Checks that a program prints the same lines in both, in whatever order.
    fn same_lines(&self, program: &str, arguments: &[&str]) {
        let outputs = self.both(program, arguments);
        let [found, expected] = outputs.each_ref().map(|output| {
            let mut lines: Vec<_> = output.split(|byte| *byte == b'\n').map(String::from_utf8_lossy).collect();
            lines.sort();
            lines
        });
        let differing: Vec<_> =
            found.iter().zip(&expected).filter(|(found, expected)| found != expected).take(20).collect();
        assert!(found == expected, "{program} {arguments:?} as {:?}: {differing:#?}", self.actor);
    }

    /// `find -xdev`: every path with type, mode, owner, link count, times, and what it points to.
    fn find(&self) {
        self.same_lines("find", &[".", "-xdev", "-printf", "%P %y %Y %m %U:%G %n %T@ -> %l\\n"]);
        self.same_lines("find", &[".", "-xdev", "!", "-type", "d", "-printf", "%P %s\\n"]);
        self.same_lines(
            "find",
            &[".", "-xdev", "-samefile", ".", "-o", "-empty", "-o", "-links", "+1", "!", "-type", "d"],
        );
    }

    /// `tar c`: the listing, then every byte of the archive. Extended attributes are listed in no fixed order,
    /// so `rsync` compares them instead.
    fn tar(&self) {
        let archive = [
            "--create",
            "--sort=name",
            "--format=posix",
            "--numeric-owner",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        ];
        self.same_lines("tar", &[&archive[..], &["--file=/dev/null", "--verbose", "--verbose", "."]].concat());
        let [found, expected] = self.both("tar", &[&archive[..], &["."]].concat()).map(|archive| digest(&archive));
        assert_eq!(found, expected, "the archive as {:?}", self.actor);
    }

    /// `rsync` as root, which also compares owners: it must find nothing to do to turn one tree into the other.
    fn rsync(&self) {
        assert_eq!(self.actor, Actor::Root);
        let mut rsync = Actor::Root.command(&installed("rsync"));
        rsync.args(["-aHAX", "--dry-run", "--checksum", "--itemize-changes", "--delete", "--numeric-ids"]);
        let finished = Finished::of(rsync.arg(self.point.join("")).arg(self.unpacked.root().join(""))).succeeded();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""), "{finished}");
    }

    /// `cp -a` as root: the copy is the tree that was unpacked.
    fn copy(&self) {
        assert_eq!(self.actor, Actor::Root);
        let copy = self.session.work("copies").join("copy");
        Finished::of(Actor::Root.command(&installed("cp")).arg("-a").arg(&self.point).arg(&copy)).succeeded();
        let [copied, expected] = [&copy, &self.unpacked.root()].map(|root| TreeDump::of(root).expect("a tree"));
        expected.assert_same(&copied, &[], "the copy");
    }

    /// The unpacked image.
    fn end(self) -> Unpacked {
        self.session.umount(&self.point);
        self.session.traces().assert_nothing_left();
        self.unpacked
    }
}

fn find_sees_the_unpacked_tree() {
    let layout = merged_tree();
    for actor in [Actor::User, Actor::Root] {
        let pair = Pair::of(actor, layout.path());
        pair.find();
        pair.end();
    }
}

fn du_counts_what_it_counts_in_the_unpacked_tree() {
    let layout = merged_tree();
    for actor in [Actor::User, Actor::Root] {
        let pair = Pair::of(actor, layout.path());
        pair.same_lines("du", &["--all", "--count-links", "--block-size=512", "."]);
        pair.same_lines("du", &["--all", "--count-links", "--block-size=1", "--apparent-size", "."]);
        pair.same_lines("du", &["--summarize", "--block-size=512", "."]);
        pair.end();
    }
}

fn tar_packs_the_unpacked_tree() {
    let pair = Pair::of(Actor::Root, merged_tree().path());
    pair.tar();
    pair.end();
}

fn rsync_finds_nothing_to_do() {
    let pair = Pair::of(Actor::Root, merged_tree().path());
    pair.rsync();
    pair.end();
}

fn copy_is_the_unpacked_tree() {
    let pair = Pair::of(Actor::Root, merged_tree().path());
    pair.copy();
    pair.end();
}

fn tools_of_root_and_of_an_ordinary_user_see_an_unpacked_debian() {
    let layout = Image::Corners.layout();
    let root = Pair::of(Actor::Root, &layout);
    root.rsync();
    root.copy();
    let user = Pair::beside(Actor::User, &layout, root.end());
    user.find();
    user.tar();
    user.end();
}
