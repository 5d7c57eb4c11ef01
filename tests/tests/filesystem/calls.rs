//! System calls on a path, and the paths that they are tried on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use end_to_end::layout::Layer;
use end_to_end::{Layout, TreeDump};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, accessat, chmod, chown, chownat, getxattr, getxattr_query, lgetxattr, link, linkat, listxattr,
    llistxattr, lremovexattr, lsetxattr, lstat, mkdir, mknodat, open, readlink, removexattr, rename, renameat_with,
    rmdir, seek, setxattr, stat, statfs, symlink, unlink, utimensat,
};
use rustix::io::Errno;

use crate::getdents::records;

/// What a call returned, or its error.
pub(crate) type Outcome = Result<String, Errno>;

/// A system call on a path.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&At<'_>) -> Outcome,
}

/// What a call is made on.
pub(crate) struct At<'a> {
    /// The root of the tree.
    pub(crate) root: &'a Path,
    /// The path, below that root.
    pub(crate) path: &'a Path,
}

impl At<'_> {
    /// A name that is free, for calls that want two.
    fn fresh(&self) -> PathBuf {
        self.root.join("fresh")
    }

    /// A file that is there, for calls that want two.
    fn file(&self) -> PathBuf {
        self.root.join("file")
    }
}

/// Every kind of thing that a path can lead to, or fail at.
pub(crate) fn tree() -> Layout {
    let lower = "
        mkdir -p dir/sub empty closed readable; echo content > file; echo inner > dir/inner; ln file hard
        ln -s file to-file; ln -s dir to-dir; ln -s nowhere dangling; ln -s loop loop; ln -s there here; ln -s here there
        ln -s file chain-1; for link in $(seq 2 41); do ln -s chain-$((link - 1)) chain-$link; done
        echo secret > closed/secret; chmod 700 closed; echo listed > readable/listed; chmod 744 readable
        echo private > private; chmod 600 private; echo '#!/bin/sh' > program; chmod 755 program
        mkfifo fifo; mknod null c 1 3; mknod disk b 8 17; mkdir sticky; chmod 1777 sticky; : > nothing
        setfattr -n user.mime -v text/plain file; setfattr -n user.other -v 1 file; setfattr -n user.mime -v d dir
        setfattr -n trusted.note -v root-only file; chown 1001:1001 closed/secret sticky
    ";
    let upper = "
        mkdir dir sticky; echo added > dir/added; chmod 1777 sticky; chown 1001:1001 sticky; touch dir/.wh.inner
        touch $(printf '%0255d' 0)
    ";
    Layout::of(&[Layer::of_script(lower), Layer::of_script(upper)])
}

/// The paths below a root that calls are tried on. The longest ones have the length that the kernel allows, and one byte more.
pub(crate) fn paths(root: &Path) -> Vec<PathBuf> {
    let short = [
        "",
        ".",
        "dir",
        "dir/",
        "dir/.",
        "dir/..",
        "dir/added",
        "dir/inner",
        "dir/sub",
        "empty",
        "file",
        "file/",
        "file/.",
        "file/below",
        "hard",
        "nothing",
        "private",
        "program",
        "fresh",
        "fresh/",
        "fresh/below",
        "to-file",
        "to-file/",
        "to-dir",
        "to-dir/",
        "to-dir/added",
        "dangling",
        "dangling/",
        "dangling/below",
        "loop",
        "loop/below",
        "here",
        "here/",
        "chain-39",
        "chain-40",
        "chain-41",
        "closed",
        "closed/secret",
        "closed/fresh",
        "readable",
        "readable/listed",
        "sticky",
        "sticky/fresh",
        "fifo",
        "null",
        "disk",
        "FILE",
    ];
    let mut paths: Vec<PathBuf> = short.iter().map(|path| root.join(path)).collect();
    for length in [254, 255, 256, 1025] {
        paths.push(root.join("0".repeat(length)));
        paths.push(root.join("empty").join("0".repeat(length)).join("below"));
    }
    // PATH_MAX of linux/limits.h counts the NUL at the end.
    for length in [4095, 4096] {
        let mut path = root.as_os_str().as_bytes().to_vec();
        let filling = length - path.len() - "/file".len();
        path.extend_from_slice(&b"/."[..filling % 2]);
        path.extend(b"/.".iter().copied().cycle().skip(filling % 2).take(filling - filling % 2));
        path.extend_from_slice(b"/file");
        paths.push(OsStr::from_bytes(&path).into());
    }
    paths
}

fn done<T>(_: T) -> String {
    "done".to_owned()
}

fn opened(at: &At<'_>, flags: OFlags) -> Outcome {
    // A FIFO is opened by one side only: without O_NONBLOCK that would wait for the other.
    let file = open(at.path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::from(0o644))?;
    if flags.intersects(OFlags::PATH | OFlags::DIRECTORY | OFlags::WRONLY | OFlags::RDWR) {
        return Ok("opened".to_owned());
    }
    let mut content = [0; 64];
    let read =
        rustix::io::read(&file, &mut content).map(|length| String::from_utf8_lossy(&content[..length]).into_owned());
    Ok(format!("opened, read {read:?}"))
}

fn described(stat: &Stat) -> String {
    let size = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { 0 } else { stat.st_size };
    let Stat { st_mode, st_nlink, st_uid, st_gid, st_rdev, st_mtime, st_mtime_nsec, .. } = stat;
    format!("{st_mode:o} {st_nlink} {st_uid}:{st_gid} {st_rdev:x} {size} {st_mtime}.{st_mtime_nsec}")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The value of an attribute, read into a buffer of `room` bytes.
fn value(path: &Path, name: &str, room: usize) -> Outcome {
    let mut value = vec![0; room];
    getxattr(path, name, &mut value[..]).map(|length| text(&value[..length]))
}

/// The names of a list of attributes, which has no order of its own.
fn sorted(list: &[u8]) -> String {
    let mut names: Vec<_> = list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(text).collect();
    names.sort();
    names.join(" ")
}

fn sought(at: &At<'_>, position: SeekFrom) -> Outcome {
    let file = open(at.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // A directory's positions are its own.
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => seek(&file, position).map(|position| position.to_string()),
        _ => Ok("opened".to_owned()),
    }
}

fn listed(at: &At<'_>) -> Outcome {
    drop(open(at.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    let mut names: Vec<_> = records(at.path).into_iter().map(|record| text(&record.name)).collect();
    names.sort();
    Ok(names.join(" "))
}

const NOW: Timestamps = {
    let now = Timespec { tv_sec: 1, tv_nsec: 0 };
    Timestamps { last_access: now, last_modification: now }
};

macro_rules! calls {
    ($($name:literal => $make:expr,)*) => { &[$(Call { name: $name, make: $make }),*] };
}

/// Calls that change nothing.
pub(crate) const LOOKING: &[Call] = calls! {
    "stat" => |at| stat(at.path).map(|stat| described(&stat)),
    "lstat" => |at| lstat(at.path).map(|stat| described(&stat)),
    "readlink" => |at| readlink(at.path, Vec::new()).map(|target| text(target.as_bytes())),
    "access F_OK" => |at| accessat(CWD, at.path, Access::EXISTS, AtFlags::empty()).map(done),
    "access R_OK" => |at| accessat(CWD, at.path, Access::READ_OK, AtFlags::empty()).map(done),
    "access W_OK" => |at| accessat(CWD, at.path, Access::WRITE_OK, AtFlags::empty()).map(done),
    "access X_OK" => |at| accessat(CWD, at.path, Access::EXEC_OK, AtFlags::empty()).map(done),
    "open O_RDONLY" => |at| opened(at, OFlags::RDONLY),
    "open O_DIRECTORY" => |at| opened(at, OFlags::RDONLY | OFlags::DIRECTORY),
    "open O_NOFOLLOW" => |at| opened(at, OFlags::RDONLY | OFlags::NOFOLLOW),
    "open O_PATH" => |at| opened(at, OFlags::PATH),
    "open O_PATH | O_NOFOLLOW" => |at| opened(at, OFlags::PATH | OFlags::NOFOLLOW),
    "open O_NOATIME" => |at| opened(at, OFlags::RDONLY | OFlags::NOATIME),
    "list" => listed,
    "getxattr" => |at| value(at.path, "user.mime", 100),
    "getxattr of one that is not there" => |at| value(at.path, "user.none", 100),
    "getxattr into little room" => |at| value(at.path, "user.mime", 4),
    "getxattr of a size" => |at| getxattr_query(at.path, "user.mime").map(|size| size.to_string()),
    "getxattr trusted" => |at| value(at.path, "trusted.note", 100),
    "lgetxattr" => |at| {
        let mut value = [0; 100];
        lgetxattr(at.path, "user.mime", &mut value[..]).map(|length| text(&value[..length]))
    },
    "listxattr" => |at| {
        let mut names = [0; 1000];
        listxattr(at.path, &mut names[..]).map(|length| sorted(&names[..length]))
    },
    "listxattr into little room" => |at| listxattr(at.path, &mut [0; 4][..]).map(|length| length.to_string()),
    "llistxattr" => |at| {
        let mut names = [0; 1000];
        llistxattr(at.path, &mut names[..]).map(|length| sorted(&names[..length]))
    },
    "lseek SEEK_DATA at the start" => |at| sought(at, SeekFrom::Data(0)),
    "lseek SEEK_HOLE at the start" => |at| sought(at, SeekFrom::Hole(0)),
    "lseek SEEK_DATA inside" => |at| sought(at, SeekFrom::Data(3)),
    "lseek SEEK_HOLE inside" => |at| sought(at, SeekFrom::Hole(3)),
    "lseek SEEK_DATA after the end" => |at| sought(at, SeekFrom::Data(1000)),
    "lseek SEEK_HOLE after the end" => |at| sought(at, SeekFrom::Hole(1000)),
    "lseek SEEK_END" => |at| sought(at, SeekFrom::End(-1)),
    "statfs" => |at| statfs(at.path).map(|stat| format!("names of {} bytes", stat.f_namelen)),
};

/// Calls that change the tree, each with a path where only the read-only tree prevents the change.
pub(crate) const CHANGING: &[(&str, Call)] = &[
    changing("file", "chmod", |at| chmod(at.path, Mode::from(0o600)).map(done)),
    changing("file", "chown", |at| chown(at.path, Some(Uid::from_raw(1001)), Some(Gid::from_raw(1001))).map(done)),
    changing("to-file", "lchown", |at| {
        chownat(CWD, at.path, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW).map(done)
    }),
    changing("file", "utimensat", |at| utimensat(CWD, at.path, &NOW, AtFlags::empty()).map(done)),
    changing("to-file", "lutimes", |at| utimensat(CWD, at.path, &NOW, AtFlags::SYMLINK_NOFOLLOW).map(done)),
    changing("file", "setxattr", |at| setxattr(at.path, "user.new", b"1", XattrFlags::empty()).map(done)),
    changing("file", "setxattr XATTR_CREATE", |at| setxattr(at.path, "user.mime", b"1", XattrFlags::CREATE).map(done)),
    changing("file", "lsetxattr", |at| lsetxattr(at.path, "user.new", b"1", XattrFlags::empty()).map(done)),
    changing("file", "removexattr", |at| removexattr(at.path, "user.mime").map(done)),
    changing("file", "lremovexattr", |at| lremovexattr(at.path, "user.mime").map(done)),
    changing("file", "open O_WRONLY", |at| opened(at, OFlags::WRONLY)),
    changing("file", "open O_RDWR", |at| opened(at, OFlags::RDWR)),
    changing("file", "open O_WRONLY | O_APPEND", |at| opened(at, OFlags::WRONLY | OFlags::APPEND)),
    changing("file", "open O_RDONLY | O_TRUNC", |at| opened(at, OFlags::RDONLY | OFlags::TRUNC)),
    changing("file", "open O_WRONLY | O_TRUNC", |at| opened(at, OFlags::WRONLY | OFlags::TRUNC)),
    changing("fresh", "open O_CREAT", |at| opened(at, OFlags::RDONLY | OFlags::CREATE)),
    changing("fresh", "open O_WRONLY | O_CREAT | O_TRUNC", |at| {
        opened(at, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
    }),
    changing("fresh", "open O_CREAT | O_EXCL", |at| opened(at, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)),
    changing("sticky", "open O_TMPFILE", |at| opened(at, OFlags::RDWR | OFlags::TMPFILE)),
    changing("fresh", "mkdir", |at| mkdir(at.path, Mode::from(0o755)).map(done)),
    changing("fresh", "mkfifo", |at| mknodat(CWD, at.path, FileType::Fifo, Mode::from(0o644), 0).map(done)),
    changing("fresh", "mknod", |at| mknodat(CWD, at.path, FileType::RegularFile, Mode::from(0o644), 0).map(done)),
    changing("fresh", "symlink", |at| symlink("file", at.path).map(done)),
    changing("file", "link from", |at| link(at.path, at.fresh()).map(done)),
    changing("fresh", "link to", |at| link(at.file(), at.path).map(done)),
    changing("to-file", "link AT_SYMLINK_FOLLOW", |at| {
        linkat(CWD, at.path, CWD, at.fresh(), AtFlags::SYMLINK_FOLLOW).map(done)
    }),
    changing("file", "rename from", |at| rename(at.path, at.fresh()).map(done)),
    changing("fresh", "rename to", |at| rename(at.file(), at.path).map(done)),
    changing("private", "rename over", |at| rename(at.file(), at.path).map(done)),
    changing("private", "rename RENAME_EXCHANGE", |at| {
        renameat_with(CWD, at.path, CWD, at.file(), RenameFlags::EXCHANGE).map(done)
    }),
    changing("fresh", "rename RENAME_NOREPLACE", |at| {
        renameat_with(CWD, at.file(), CWD, at.path, RenameFlags::NOREPLACE).map(done)
    }),
    changing("file", "unlink", |at| unlink(at.path).map(done)),
    changing("empty", "rmdir", |at| rmdir(at.path).map(done)),
];

const fn changing(target: &'static str, name: &'static str, make: fn(&At<'_>) -> Outcome) -> (&'static str, Call) {
    (target, Call { name, make })
}

/// The tree as root sees it.
pub(crate) fn dump(root: &Path) -> TreeDump {
    TreeDump::of(root).unwrap_or_else(|error| panic!("{error}"))
}
