//! `lamina materialize`: a base as a real directory.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::tree::Fields;
use end_to_end::{Actor, Deviation, Finished, Image, Layout, Session, deviations, oracle, programs};
use rustix::process::Signal;

const REFERENCE: &str = "lamina.test/image:1";

fn session_with(actor: Actor, image: &Path) -> Session {
    let session = Session::new(actor);
    session.import(image, REFERENCE);
    session
}

fn names(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn materialized_by_root_equals_the_oracle(image: Image) {
    let session = session_with(Actor::Root, &image.layout());
    let place = session.work("place");
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
    let tree = place.join("tree");
    session.ok(["materialize", "--keep-privileges", REFERENCE, tree.to_str().unwrap()]);
    oracle::tree_of(image).assert_same(&session.tree(&tree), deviations::MOUNTED, image.name());
    assert_eq!(names(&place), [tree]);
}

#[test]
fn debian_materialized_by_root_equals_what_umoci_unpacks() {
    materialized_by_root_equals_the_oracle(Image::Debian);
}

#[test]
fn corner_cases_materialized_by_root_equal_what_umoci_unpacks() {
    materialized_by_root_equals_the_oracle(Image::Corners);
}

#[test]
fn tree_of_root_has_privileges_only_on_request_and_where_nobody_else_can_enter() {
    let layer = Layer::of_script(
        "cp /usr/bin/id id; chmod 6755 id; cp /usr/bin/id able; chown 33:34 able; setcap cap_net_raw+ep able
         mkdir shared; chmod 2775 shared; mknod disk b 8 0; mknod null c 1 3; setfattr -n user.x -v y able",
    );
    let session = session_with(Actor::Root, Layout::of(&[layer]).path());
    let place = session.work("place");
    let unpack = |options: &[&str], name: &str| {
        let tree = place.join(name);
        let run = ["materialize"].iter().chain(options).copied().chain([REFERENCE, tree.to_str().unwrap()]);
        (session.run(run), tree)
    };
    let (finished, tree) = unpack(&[], "plain");
    let finished = finished.succeeded();
    for words in ["2 device nodes", "2 set-user-ID", "1 extended attributes", "--keep-privileges"] {
        assert!(finished.stderr.contains(words), "{finished}");
    }
    let mode = |tree: &Path, name: &str| tree.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode(&tree, "id"), mode(&tree, "shared")), (0o755, 0o775));
    assert_eq!((tree.join("able").metadata().unwrap().uid(), tree.join("null").exists()), (33, false));
    let attributes = programs::run("getfattr", &["-d", "-m", "-", tree.join("able").to_str().unwrap()]);
    assert!(!String::from_utf8_lossy(&attributes.stdout).contains("security"), "{attributes:?}");

    let (refused, tree) = unpack(&["--keep-privileges"], "privileged");
    refused.refused("other users can enter it");
    assert!(!tree.exists());
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
    let (finished, tree) = unpack(&["--keep-privileges"], "privileged");
    finished.succeeded();
    assert_eq!((mode(&tree, "id"), mode(&tree, "shared")), (0o6755, 0o2775));
}

/// What a tree loses if the user who unpacks it owns its files.
const WITHOUT_OWNERS: &[Deviation] = &[
    Deviation { reason: "everything belongs to the user", applies: |_, field, _, _| field == "owner" },
    Deviation {
        reason: "an ordinary user makes no devices",
        applies: |_, field, expected, _| field == "type" && expected.get("device").is_some(),
    },
    Deviation {
        reason: "only root sets attributes outside user.",
        applies: |_, field, _, _| field.starts_with("xattr:") && !field.starts_with("xattr:user."),
    },
    Deviation {
        reason: "set-user-ID and set-group-ID bits would lend the rights of the wrong user",
        applies: |_, field, expected: &Fields, found: &Fields| {
            let mode =
                |fields: &Fields| u32::from_str_radix(fields.get("mode").map_or("0", String::as_str), 8).unwrap();
            field == "mode" && mode(expected) & 0o6000 != 0 && mode(expected) & 0o1777 == mode(found)
        },
    },
];

#[test]
fn user_gets_a_tree_of_its_own_and_is_told_what_it_lacks() {
    let session = session_with(Actor::User, &Image::Corners.layout());
    let place = session.work("place");
    let tree = place.join("tree");
    let refused = session.run(["materialize", REFERENCE, tree.to_str().unwrap()]);
    refused.refused("--without-owners");
    assert_eq!(names(&place), [] as [PathBuf; 0]);
    let finished = session.run(["materialize", "--without-owners", REFERENCE, tree.to_str().unwrap()]).succeeded();
    for word in ["device nodes", "set-user-ID", "extended attributes"] {
        assert!(finished.stderr.contains(word), "{finished}");
    }
    let found = end_to_end::TreeDump::of(&tree).unwrap();
    oracle::tree_of(Image::Corners).assert_same(&found, WITHOUT_OWNERS, "the user's tree");
}

#[test]
fn equal_files_become_one_and_unequal_ones_do_not() {
    let layers = Layer::of_script(
        "head -c 100000 /dev/zero | tr '\\0' a > one; cp -p one two; cp -p one other-time; touch -d @5 other-time
         cp -p one other-mode; chmod 600 other-mode; cp -p one other-attribute; setfattr -n user.x -v y other-attribute
         mkdir below; cp -p one below/three; head -c 100000 /dev/zero | tr '\\0' b > other-content; touch -r one other-content
         : > empty; : > empty2; touch -r one two below/three",
    );
    let session = session_with(Actor::Root, Layout::of(&[layers]).path());
    let place = session.work("place");
    let unpack = |option: &str, name: &str| {
        let tree = place.join(name);
        let finished = session.run(["materialize", option, REFERENCE, tree.to_str().unwrap()]).succeeded();
        assert!(finished.stderr.contains("changes all"), "{finished}");
        tree
    };
    let inode = |path: PathBuf| path.metadata().unwrap().ino();
    let first = unpack("--hard-link-equal", "first");
    for same in ["two", "below/three"] {
        assert_eq!(inode(first.join("one")), inode(first.join(same)), "{same}");
    }
    for other in ["other-time", "other-mode", "other-attribute", "other-content"] {
        assert_ne!(inode(first.join("one")), inode(first.join(other)), "{other}");
    }
    // A change in the other tree must have no effect here.
    std::fs::write(first.join("other-mode"), "changed").unwrap();
    let second = unpack(&format!("--hard-link-equal={}", first.display()), "second");
    for same in ["one", "two", "below/three", "other-time", "other-attribute", "other-content", "empty"] {
        assert_eq!(inode(first.join(same)), inode(second.join(same)), "{same}");
    }
    assert_eq!(second.join("other-mode").metadata().unwrap().len(), 100_000);
}

/// Content that is aligned to blocks in its blob shares their space with the blob, but is independent of it.
#[test]
fn file_system_with_reflinks_has_aligned_content_once() {
    const LARGE: usize = 8 << 20;
    // A header of 512 bytes before each: `large` begins at 4,096, and `odd` is not aligned.
    let (before, large, odd) = (noise(1, 3072), noise(2, LARGE), noise(3, 5 << 20));
    let layer = Layer::of_files(&[("before", &before), ("large", &large), ("odd", &odd)]);
    for kind in ["btrfs", "xfs"] {
        let session = Session::new(Actor::Root);
        let (disk, point) = (session.directory().join(kind), session.directory().join("disk"));
        std::fs::create_dir(&point).unwrap();
        std::fs::File::create(&disk).and_then(|file| file.set_len(512 << 20)).unwrap();
        let of = |program: &str, arguments: &[&std::ffi::OsStr]| {
            Finished::of(Command::new(installed(program)).args(arguments)).succeeded().stdout
        };
        of(&format!("mkfs.{kind}"), &["-q".as_ref(), disk.as_os_str()]);
        of("mount", &["-o".as_ref(), "loop".as_ref(), disk.as_os_str(), point.as_os_str()]);
        let (store, tree) = (point.join("store"), point.join("tree"));
        let used = || {
            of("sync", &["-f".as_ref(), point.as_os_str()]);
            let stat = rustix::fs::statvfs(&point).unwrap();
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        };
        let lamina = |arguments: &[&str]| {
            Finished::of(session.lamina(arguments).env("LAMINA_STORE", &store)).succeeded();
        };
        lamina(&["import", Layout::of(std::slice::from_ref(&layer)).path().to_str().unwrap(), "--tag", REFERENCE]);
        let before_it = used();
        lamina(&["materialize", REFERENCE, tree.to_str().unwrap()]);
        let taken = used() - before_it;
        assert!(taken < (5 << 20) + (LARGE as u64) / 2, "{kind}: {taken} bytes");
        for (name, content) in [("large", &large), ("odd", &odd)] {
            assert!(std::fs::read(tree.join(name)).unwrap() == *content, "{kind}: {name}");
        }
        std::fs::write(tree.join("large"), "changed").unwrap();
        lamina(&["verify"]);
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
        session.traces().assert_nothing_left();
    }
}

#[test]
fn tree_that_cannot_be_made_leaves_nothing() {
    let session = session_with(Actor::User, &Image::Corners.layout());
    let place = session.work("place");
    let unpack =
        |directory: &Path| session.lamina(["materialize", "--without-owners", REFERENCE, directory.to_str().unwrap()]);
    let full = session.work("full");
    std::fs::write(full.join("file"), "in the way").unwrap();
    Finished::of(&mut unpack(&full)).refused("is not empty");
    Finished::of(&mut unpack(Path::new("/nowhere/at/all"))).refused("/nowhere/at");
    let interrupted = session.start(unpack(&place.join("tree")));
    while names(&place).is_empty() {
        std::thread::yield_now();
    }
    interrupted.signal(Signal::TERM);
    let finished = interrupted.finish();
    assert!(!finished.status.success() && finished.stderr.contains("cancelled"), "{finished}");
    assert_eq!(names(&place), [] as [PathBuf; 0], "{finished}");
}

#[test]
fn tree_deeper_than_a_path_can_be_is_unpacked() {
    // The path is short enough in the image, but too long in the directory that it is unpacked to.
    let script = "python3 -c \"
import os
for level in range(16):
    os.mkdir('x' * 253)
    os.chdir('x' * 253)
open('file', 'w').write('deep')
os.chmod('.', 0o555)\"";
    let session = session_with(Actor::Root, Layout::of(&[Layer::of_script(script)]).path());
    let tree = session.work("place").join("tree");
    session.ok(["materialize", REFERENCE, tree.to_str().unwrap()]);
    let script = "import os\nfor level in range(16): os.chdir('x' * 253)\nprint(open('file').read())";
    let python = installed("python3");
    let finished = Finished::of(session.command(&python).args(["-c", script]).current_dir(&tree)).succeeded();
    assert_eq!(finished.stdout, "deep\n");
    assert_eq!(tree.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
}
