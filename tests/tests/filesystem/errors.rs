//! Which calls fail, and how: as on the unpacked tree on a read-only file system, and by the rules of the manual.

use std::path::Path;

use end_to_end::{Actor, Session};
use rustix::fs::{FallocateFlags, IFlags, Mode, OFlags, XattrFlags, open};
use rustix::io::Errno;

use crate::calls::{At, CHANGING, Call, LOOKING, Outcome, dump, paths, tree};
use crate::fixture::{REFERENCE, ReadOnly, SHOWN, mount_for_all, session_with};

end_to_end::on_every_transport! {
    looking_at_every_kind_of_path_says_what_it_says_of_the_unpacked_tree,
    changing_every_kind_of_path_fails_as_on_the_unpacked_tree,
    ordinary_user_sees_in_a_mount_of_their_own_what_root_sees_unpacked,
    every_change_is_refused_because_the_tree_is_read_only,
    open_files_take_no_change_either,
    errors_are_those_of_the_manual,
}

/// What every call returns for every path below `root`.
fn outcomes<'a>(calls: &[&'a Call], root: &Path) -> Vec<(&'a str, String, Outcome)> {
    let mut outcomes = Vec::new();
    for path in paths(root) {
        let below = path.to_string_lossy().replace(&*root.to_string_lossy(), "");
        outcomes.extend(calls.iter().map(|call| (call.name, below.clone(), (call.make)(&At { root, path: &path }))));
    }
    outcomes
}

/// Checks that every call has the same outcome on both trees, whose roots are equally long paths.
fn same_outcomes(calls: &[&Call], (shown, actor): (&Path, Actor), (model, model_actor): (&Path, Actor)) {
    assert_eq!(shown.as_os_str().len(), model.as_os_str().len(), "{} and {}", shown.display(), model.display());
    let found = actor.act(|| outcomes(calls, shown));
    let expected = model_actor.act(|| outcomes(calls, model));
    let brief = |path: &str| {
        if path.len() > 80 { format!("{}... ({} bytes)", &path[..40], path.len()) } else { path.to_owned() }
    };
    let wrong: Vec<_> = found
        .iter()
        .zip(&expected)
        .filter(|(found, expected)| found != expected)
        .map(|((call, path, found), (.., expected))| {
            format!("{call} {}: {found:?}, should be {expected:?}", brief(path))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} calls of {actor:?}:\n{}", wrong.len(), found.len(), wrong.join("\n"));
}

/// A mount for every user, with owners and modes checked, and the unpacked tree.
fn shown_and_model() -> (Session, ReadOnly, std::path::PathBuf) {
    let layout = tree();
    let session = session_with(Actor::Root, layout.path());
    let model = ReadOnly::of(&session, layout.path());
    let shown = mount_for_all(&session, SHOWN);
    (session, model, shown)
}

fn looking_at_every_kind_of_path_says_what_it_says_of_the_unpacked_tree() {
    let (session, model, shown) = shown_and_model();
    let calls: Vec<_> = LOOKING.iter().collect();
    for actor in [Actor::Root, Actor::User] {
        same_outcomes(&calls, (&shown, actor), (model.root(), actor));
    }
    drop(model);
    session.umount(&shown);
}

fn changing_every_kind_of_path_fails_as_on_the_unpacked_tree() {
    let (session, model, shown) = shown_and_model();
    let before = dump(&shown);
    let calls: Vec<_> = CHANGING.iter().map(|(_, call)| call).collect();
    for actor in [Actor::Root, Actor::User] {
        same_outcomes(&calls, (&shown, actor), (model.root(), actor));
    }
    assert_eq!(dump(&shown), before);
    drop(model);
    session.umount(&shown);
}

fn ordinary_user_sees_in_a_mount_of_their_own_what_root_sees_unpacked() {
    let layout = tree();
    let session = session_with(Actor::User, layout.path());
    let model = ReadOnly::of(&session, layout.path());
    let shown = session.mount(REFERENCE, SHOWN);
    // Modes are not checked here, and access(2) ignores the mode bits for execution too. The others are what only root
    // may do on any file system.
    let others = ["access X_OK", "getxattr trusted", "listxattr", "llistxattr", "open O_NOATIME"];
    let calls: Vec<_> = LOOKING.iter().filter(|call| !others.contains(&call.name)).collect();
    same_outcomes(&calls, (&shown, Actor::User), (model.root(), Actor::Root));
    drop(model);
    session.umount(&shown);
}

fn every_change_is_refused_because_the_tree_is_read_only() {
    let layout = tree();
    for (actor, options) in [(Actor::User, &[][..]), (Actor::Root, &["-o", "allow_other"])] {
        let session = session_with(actor, layout.path());
        let shown = session.mount_with(REFERENCE, SHOWN, options);
        let wrong: Vec<_> = actor.act(|| {
            let outcome = |target: &str, call: &Call| (call.make)(&At { root: &shown, path: &shown.join(target) });
            let outcomes = CHANGING.iter().map(|(target, call)| (call.name, outcome(target, call)));
            outcomes.filter(|(_, outcome)| *outcome != Err(Errno::ROFS)).collect()
        });
        assert!(wrong.is_empty(), "{actor:?}: {wrong:?}");
        session.umount(&shown);
    }
}

fn open_files_take_no_change_either() {
    let (session, model, shown) = shown_and_model();
    let outcomes = |root: &Path, path: &str| {
        let file = open(root.join(path), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("an open file");
        let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let now = rustix::fs::Timestamps { last_access: now, last_modification: now };
        [
            rustix::fs::fchmod(&file, Mode::from(0o600)),
            rustix::fs::fchown(&file, Some(rustix::fs::Uid::ROOT), None),
            rustix::fs::futimens(&file, &now),
            rustix::fs::fsetxattr(&file, "user.new", b"1", XattrFlags::empty()),
            rustix::fs::fremovexattr(&file, "user.mime"),
            rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE),
            rustix::fs::ftruncate(&file, 0),
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4096),
            rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096),
            rustix::io::pwrite(&file, b"x", 0).map(drop),
            rustix::fs::copy_file_range(&file, None, &file, Some(&mut 4096), 10).map(drop),
        ]
    };
    for actor in [Actor::Root, Actor::User] {
        for path in ["file", "dir"] {
            let found = actor.act(|| outcomes(&shown, path));
            assert!(found.iter().all(Result::is_err), "{path}: {found:?}");
            assert_eq!(found[..6], [Err(Errno::ROFS); 6], "{path}");
            assert_eq!(found, actor.act(|| outcomes(model.root(), path)), "{path}");
        }
    }
    drop(model);
    session.umount(&shown);
}

fn errors_are_those_of_the_manual() {
    let long = "0".repeat(255);
    let longer = "0".repeat(256);
    let rules: &[(Actor, &str, &str, Errno)] = &[
        (Actor::User, "stat", "fresh", Errno::NOENT),
        (Actor::User, "stat", "fresh/below", Errno::NOENT),
        (Actor::User, "stat", "dangling", Errno::NOENT),
        (Actor::User, "stat", "FILE", Errno::NOENT),
        (Actor::User, "stat", "dir/inner", Errno::NOENT),
        (Actor::User, "stat", "file/below", Errno::NOTDIR),
        (Actor::User, "stat", "file/", Errno::NOTDIR),
        (Actor::User, "open O_DIRECTORY", "file", Errno::NOTDIR),
        (Actor::User, "list", "fifo", Errno::NOTDIR),
        (Actor::User, "stat", "loop", Errno::LOOP),
        (Actor::User, "stat", "here/below", Errno::LOOP),
        (Actor::User, "stat", "chain-41", Errno::LOOP),
        (Actor::User, "open O_NOFOLLOW", "to-file", Errno::LOOP),
        (Actor::User, "stat", &longer, Errno::NAMETOOLONG),
        (Actor::User, "mkdir", &longer, Errno::NAMETOOLONG),
        (Actor::User, "open O_WRONLY", "dir", Errno::ISDIR),
        (Actor::User, "open O_CREAT", "dir/", Errno::ISDIR),
        (Actor::User, "unlink", "dir/sub", Errno::ROFS),
        (Actor::User, "stat", "closed/secret", Errno::ACCESS),
        (Actor::User, "list", "closed", Errno::ACCESS),
        (Actor::User, "open O_RDONLY", "private", Errno::ACCESS),
        (Actor::User, "stat", "readable/listed", Errno::ACCESS),
        (Actor::User, "access X_OK", "file", Errno::ACCESS),
        (Actor::Root, "access X_OK", "file", Errno::ACCESS),
        (Actor::Root, "access W_OK", "file", Errno::ROFS),
        (Actor::User, "open O_RDONLY", "null", Errno::ACCESS),
        (Actor::User, "readlink", "file", Errno::INVAL),
        (Actor::User, "readlink", "dir", Errno::INVAL),
        (Actor::User, "mkdir", "dir", Errno::EXIST),
        (Actor::User, "open O_CREAT | O_EXCL", "file", Errno::EXIST),
        (Actor::User, "getxattr into little room", "file", Errno::RANGE),
        (Actor::User, "listxattr into little room", "file", Errno::RANGE),
        (Actor::User, "getxattr of one that is not there", "file", Errno::NODATA),
        (Actor::User, "getxattr", "nothing", Errno::NODATA),
        (Actor::User, "getxattr trusted", "file", Errno::NODATA),
        (Actor::User, "lseek SEEK_DATA after the end", "file", Errno::NXIO),
        (Actor::User, "lseek SEEK_DATA at the start", "nothing", Errno::NXIO),
        (Actor::User, "open O_NOATIME", "file", Errno::PERM),
    ];
    let session = session_with(Actor::Root, tree().path());
    let shown = mount_for_all(&session, SHOWN);
    let call = |name: &str| {
        let mut calls = LOOKING.iter().chain(CHANGING.iter().map(|(_, call)| call));
        calls.find(|call| call.name == name).unwrap_or_else(|| panic!("no call {name}"))
    };
    let make = |actor: Actor, name: &str, path: &str| {
        actor.act(|| (call(name).make)(&At { root: &shown, path: &shown.join(path) }))
    };
    for (actor, name, path, errno) in rules {
        assert_eq!(make(*actor, name, path), Err(*errno), "{name} {path} as {actor:?}");
    }
    for (actor, name, path, said) in [
        (Actor::User, "access F_OK", long.as_str(), "done"),
        (Actor::User, "access F_OK", "chain-40", "done"),
        (Actor::User, "access X_OK", "program", "done"),
        (Actor::Root, "access F_OK", "closed/secret", "done"),
        (Actor::User, "open O_RDONLY", "file", "opened, read Ok(\"content\\n\")"),
        (Actor::User, "open O_CREAT", "file", "opened, read Ok(\"content\\n\")"),
        (
            Actor::User,
            "open O_RDONLY",
            "dir",
            "opened, read Err(Os { code: 21, kind: IsADirectory, message: \"Is a directory\" })",
        ),
        (Actor::User, "readlink", "to-dir", "dir"),
        (Actor::User, "getxattr of a size", "file", "10"),
        (Actor::User, "listxattr", "file", "user.mime user.other"),
        (Actor::Root, "getxattr trusted", "file", "root-only"),
        (Actor::User, "lseek SEEK_HOLE at the start", "file", "8"),
        (Actor::User, "lseek SEEK_DATA inside", "file", "3"),
    ] {
        assert_eq!(make(actor, name, path).as_deref(), Ok(said), "{name} {path} as {actor:?}");
    }
    session.umount(&shown);
}
