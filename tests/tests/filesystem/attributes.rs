//! What `stat` and `statfs` return.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use end_to_end::layout::Layer;
use end_to_end::oracle::Unpacked;
use end_to_end::{Actor, Image, Layout};
use rustix::fs::{StatVfsMountFlags, lstat, statfs, statvfs};

use crate::fixture::{REFERENCE, merged_tree, session_with};
use crate::getdents::{each_directory, records};

end_to_end::on_every_transport! {
    link_and_block_counts_of_merged_directories_equal_those_unpacked,
    link_and_block_counts_of_a_debian_equal_those_unpacked,
    small_directory_takes_a_block_as_on_ext4,
    sparse_file_takes_the_blocks_that_are_stored,
    inode_numbers_are_the_same_after_a_remount,
    paths_share_an_inode_number_where_they_share_the_file,
    statfs_tells_a_full_read_only_file_system_of_the_size_of_its_layers,
}

/// `read` of every path of a tree, `.` for its root.
fn each_path<T>(root: &Path, read: impl Fn(&Path) -> T) -> BTreeMap<PathBuf, T> {
    let mut found = BTreeMap::from([(PathBuf::from("."), read(root))]);
    each_directory(root, &mut |directory, _| {
        for record in records(directory).iter().filter(|record| !record.is_dots()) {
            let path = record.path_in(directory);
            found.insert(path.strip_prefix(root).expect("a path below the root").to_owned(), read(&path));
        }
    });
    found
}

/// Type, link count, and blocks of 512 bytes.
fn counts(path: &Path) -> (u32, u64, i64) {
    let stat = lstat(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (stat.st_mode & 0o170_000, stat.st_nlink, stat.st_blocks)
}

/// Whether the blocks of an unpacked file hold only its content: no names that a directory had before, and no
/// extended attributes that do not fit beside the inode.
fn has_blocks_of_content_alone(path: &Path) -> bool {
    // umoci writes the zeros of this file's holes.
    let is_sparse = path.ends_with("corners/files/sparse");
    let bare = rustix::fs::llistxattr_query(path).is_ok_and(|bytes| bytes == 0);
    bare && !is_sparse && lstat(path).is_ok_and(|stat| stat.st_mode & 0o170_000 != 0o040_000)
}

fn counts_equal_those_unpacked(layout: &Path) {
    let session = session_with(Actor::User, layout);
    let point = session.mount(REFERENCE, "mounted");
    let unpacked = Unpacked::of(&format!("{}:latest", layout.display()), Path::new("/tmp"));
    let links = lstat(unpacked.root()).expect("the unpacked root").st_nlink;
    assert!(links > 2, "the file system of /tmp does not count subdirectories in st_nlink: ext4, xfs and tmpfs do");
    let expected = each_path(&unpacked.root(), |path| (counts(path), has_blocks_of_content_alone(path)));
    let found = Actor::User.act(|| each_path(&point, counts));
    assert_eq!(found.len(), expected.len(), "paths");
    let mut wrong = Vec::new();
    for (path, ((kind, links, blocks), comparable)) in expected {
        let found = found.get(&path);
        if !found.is_some_and(|found| found.0 == kind && found.1 == links && (found.2 == blocks || !comparable)) {
            wrong.push(format!("{}: {found:?}, should be {:?}", path.display(), (kind, links, blocks)));
        }
    }
    assert!(wrong.is_empty(), "{} paths differ:\n{}", wrong.len(), wrong.join("\n"));
    session.umount(&point);
}

fn link_and_block_counts_of_merged_directories_equal_those_unpacked() {
    counts_equal_those_unpacked(merged_tree().path());
}

fn link_and_block_counts_of_a_debian_equal_those_unpacked() {
    counts_equal_those_unpacked(&Image::Corners.layout());
}

fn small_directory_takes_a_block_as_on_ext4() {
    let session = session_with(Actor::User, merged_tree().path());
    let point = session.mount(REFERENCE, "mounted");
    let sizes = Actor::User.act(|| {
        let mut sizes = Vec::new();
        each_directory(&point, &mut |directory, _| {
            let stat = lstat(directory).expect("a directory");
            sizes.push((stat.st_size, stat.st_blocks, stat.st_blksize));
        });
        sizes
    });
    assert!(sizes.iter().all(|&sizes| sizes == (4096, 8, 4096)), "{sizes:?}");
    session.umount(&point);
}

fn sparse_file_takes_the_blocks_that_are_stored() {
    // Stored: 8,192 bytes from 1 MiB on, which are two blocks, and one byte at the end, which is a third.
    let script = "
        dd if=/dev/urandom of=sparse bs=4096 seek=256 count=2 status=none
        dd if=/dev/urandom of=sparse bs=1 seek=10000000 count=1 conv=notrunc status=none
    ";
    let session = session_with(Actor::User, Layout::of(&[Layer::of_script_sparse(script)]).path());
    let point = session.mount(REFERENCE, "mounted");
    let stat = Actor::User.act(|| lstat(point.join("sparse"))).expect("the file");
    assert_eq!((stat.st_size, stat.st_blocks), (10_000_001, 3 * 8));
    session.umount(&point);
}

fn inode_numbers_are_the_same_after_a_remount() {
    let session = session_with(Actor::User, &Image::Corners.layout());
    let number = |path: &Path| lstat(path).expect("a listed path").st_ino;
    let point = session.mount(REFERENCE, "first");
    let first = Actor::User.act(|| each_path(&point, number));
    session.umount(&point);
    // Served by another program, at another place, and asked for in another order.
    let base = session.ok(["prepare", REFERENCE]);
    let point = session.work("second");
    let mut program = session.program("composefs-fuse");
    end_to_end::Finished::of(program.arg(base.trim()).arg(&point)).succeeded();
    Actor::User.act(|| {
        for (path, ino) in first.iter().rev() {
            assert_eq!(number(&point.join(path)), *ino, "{}", path.display());
        }
    });
    session.umount(&point);
}

fn paths_share_an_inode_number_where_they_share_the_file() {
    let layout = merged_tree();
    let session = session_with(Actor::User, layout.path());
    let point = session.mount(REFERENCE, "mounted");
    let unpacked = Unpacked::of(&format!("{}:latest", layout.path().display()), Path::new("/tmp"));
    // The paths of each inode.
    let groups = |root: &Path| {
        let mut groups: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        for (path, ino) in each_path(root, |path| lstat(path).expect("a listed path").st_ino) {
            groups.entry(ino).or_default().push(path);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort();
        groups
    };
    let expected = groups(&unpacked.root());
    assert!(expected.iter().any(|paths| paths.len() == 3), "hard links in {expected:?}");
    assert_eq!(Actor::User.act(|| groups(&point)), expected);
    session.umount(&point);
}

fn statfs_tells_a_full_read_only_file_system_of_the_size_of_its_layers() {
    let layers = [("lower", 10_000), ("upper", 50_000)].map(|(name, size)| Layer::of_files(&[(name, &vec![1; size])]));
    let session = session_with(Actor::User, Layout::of(&layers).path());
    let point = session.mount(REFERENCE, "mounted");
    let (stat, view) = Actor::User.act(|| (statfs(&point).expect("statfs"), statvfs(&point).expect("statvfs")));
    let bytes: u64 = layers.iter().map(Layer::tar_bytes).sum();
    // FUSE_SUPER_MAGIC of linux/magic.h.
    assert_eq!(stat.f_type, 0x6573_5546);
    assert_eq!((stat.f_bsize, stat.f_blocks), (4096, bytes.div_ceil(4096)), "{stat:?}");
    assert_eq!((stat.f_bfree, stat.f_bavail, stat.f_ffree), (0, 0, 0), "nothing can be added: {stat:?}");
    // Two roots, of which one is visible, and two files.
    assert_eq!((stat.f_files, stat.f_namelen), (4, 255), "{stat:?}");
    let mounted = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID;
    assert!(view.f_flag.contains(mounted), "{:?}", view.f_flag);
    session.umount(&point);
}
