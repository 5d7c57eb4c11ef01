use guest_protocol::changes::ChangeList;

use super::*;

/// A place and a lower tree in memory: the tests need what only root may do there.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(scratch.path("place/upper")).unwrap();
        fs::create_dir_all(scratch.path("lower/dir/sub")).unwrap();
        for file in ["lower/gone", "lower/kept", "lower/dir/old", "lower/dir/sub/deep"] {
            fs::write(scratch.path(file), "below").unwrap();
        }
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn stack(&self) -> Stack {
        Stack::new(&self.path("place"), &self.path("lower"))
    }

    fn whiteout(&self, name: &str) {
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
        rustix::fs::mknodat(rustix::fs::CWD, self.path("place/upper").join(name), kind, mode, 0).unwrap();
    }

    fn listed(&self) -> Vec<String> {
        let mut bytes = Vec::new();
        self.stack().list(&mut bytes).unwrap();
        let mut list = ChangeList::new(bytes.as_slice());
        std::iter::from_fn(|| list.next_entry().unwrap())
            .map(|(letter, path)| format!("{letter} {}", path.display()))
            .collect()
    }
}

#[test]
fn what_is_added_changed_and_deleted_is_told_apart() {
    let scratch = Scratch::new();
    fs::write(scratch.path("place/upper/kept"), "above").unwrap();
    fs::create_dir(scratch.path("place/upper/new")).unwrap();
    fs::write(scratch.path("place/upper/new/file"), "x").unwrap();
    scratch.whiteout("gone");
    scratch.whiteout("never-was");
    assert_eq!(scratch.listed(), ["D /gone", "C /kept", "A /new", "A /new/file"]);
}

#[test]
fn a_directory_that_was_made_anew_hides_the_old_one() {
    let scratch = Scratch::new();
    let directory = scratch.path("place/upper/dir");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("old"), "above").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&directory, "trusted.overlay.opaque", b"y", flags).unwrap();
    assert_eq!(scratch.listed(), ["C /dir", "D /dir/sub", "C /dir/old"]);
    let mut bytes = Vec::new();
    scratch.stack().pack(&mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let names: Vec<_> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["dir", "dir/.wh..wh..opq", "dir/old"]);
}

#[test]
fn what_a_user_put_in_the_place_of_inits_is_known_at_the_next_start() {
    let scratch = Scratch::new();
    let upper = scratch.path("place/upper");
    let is_of_user = |name: &str| scratch.stack().is_of_user(Path::new(name)).unwrap();
    // Of the image, from before anything was noted.
    fs::write(upper.join("kept"), "init").unwrap();
    assert!(!is_of_user("kept"));
    Own::note(&scratch.stack(), &[]).unwrap();
    assert!(!is_of_user("kept") && !is_of_user("new") && !is_of_user("gone"));
    fs::write(upper.join("kept"), "user's").unwrap();
    std::os::unix::fs::symlink("/run/other", upper.join("new")).unwrap();
    scratch.whiteout("gone");
    assert!(is_of_user("kept") && is_of_user("new"));
    assert!(!is_of_user("gone"), "what was deleted is not there");
}

#[test]
fn a_tree_in_which_others_work_is_walked_to_its_end() {
    let scratch = Scratch::new();
    let busy = scratch.path("place/upper/busy");
    fs::create_dir(&busy).unwrap();
    fs::write(scratch.path("place/upper/zoo"), "x").unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work = || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for directory in ["a", "b", "c"].map(|name| busy.join(name)) {
                    fs::create_dir(&directory).unwrap();
                    fs::write(directory.join("file"), "x").unwrap();
                    fs::hard_link(directory.join("file"), directory.join("other")).unwrap();
                    fs::remove_dir_all(&directory).unwrap();
                }
            }
        };
        scope.spawn(work);
        let looked: Vec<io::Result<()>> = (0..1000)
            .map(|_| {
                assert!(scratch.stack().changes()?.iter().any(|change| change.path == Path::new("zoo")));
                scratch.stack().pack(io::sink())
            })
            .collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let failed: Vec<_> = looked.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn what_init_made_is_no_change_until_somebody_changes_it() {
    let scratch = Scratch::new();
    let upper = scratch.path("place/upper");
    fs::create_dir_all(upper.join("run/lamina")).unwrap();
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/hosts"), "init").unwrap();
    Own::note(&scratch.stack(), &[]).unwrap();
    assert!(scratch.listed().is_empty(), "{:?}", scratch.listed());
    fs::write(upper.join("run/pid"), "1").unwrap();
    Own::note(&scratch.stack(), &[]).unwrap();
    assert_eq!(scratch.listed(), ["A /run", "A /run/pid"]);
    fs::remove_file(upper.join("etc/hosts")).unwrap();
    fs::write(upper.join("etc/hosts"), "another").unwrap();
    assert_eq!(scratch.listed(), ["A /etc", "A /etc/hosts", "A /run", "A /run/pid"]);
}

#[test]
fn what_init_writes_at_a_later_start_is_no_change_either() {
    let scratch = Scratch::new();
    let upper = scratch.path("place/upper");
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/hosts"), "init").unwrap();
    Own::note(&scratch.stack(), &[]).unwrap();
    fs::write(upper.join("etc/mine"), "user").unwrap();
    fs::write(upper.join("etc/hosts"), "init, elsewhere").unwrap();
    Own::note(&scratch.stack(), &["etc/hosts".into()]).unwrap();
    assert_eq!(scratch.listed(), ["A /etc", "A /etc/mine"]);
    fs::write(upper.join("etc/hosts"), "user").unwrap();
    Own::note(&scratch.stack(), &[]).unwrap();
    assert_eq!(scratch.listed(), ["A /etc", "A /etc/hosts", "A /etc/mine"]);
}
