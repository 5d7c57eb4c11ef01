use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::*;

fn packed(path: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut packer = Packer::new(&mut bytes);
    pack_tree(&mut packer, path, Path::new(name)).unwrap();
    packer.finish().unwrap();
    bytes
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("lamina-archive-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let scratch = scratch("tree");
    let from = scratch.join("from");
    fs::create_dir_all(from.join("sub/closed")).unwrap();
    fs::write(from.join("sub/file"), "content").unwrap();
    fs::hard_link(from.join("sub/file"), from.join("sub/other")).unwrap();
    symlink("file", from.join("sub/link")).unwrap();
    fs::write(from.join("sub/closed/inner"), "x").unwrap();
    fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(from.join("sub/closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let to = scratch.join("to");
    unpack(packed(&from, "").as_slice(), &Destination::At { path: to.clone(), name: "from".into() }, true).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(fs::read_to_string(to.join("sub/other")).unwrap(), "content");
    assert_eq!(fs::metadata(to.join("sub/file")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(to.join("sub/link")).unwrap(), Path::new("file"));
    assert_eq!((mode(to.join("sub/file")), mode(to.join("sub/closed"))), (0o4751, 0o555));
    let modified = |root: &Path| fs::metadata(root.join("sub/file")).unwrap().modified().unwrap();
    let difference = modified(&from).duration_since(modified(&to)).unwrap_or_default();
    assert!(difference.as_secs() < 1);
    // A copy to an existing directory goes into it, and bits for which a guest is not trusted are dropped.
    unpack(packed(&from, "").as_slice(), &Destination::At { path: to.clone(), name: "again".into() }, false).unwrap();
    assert_eq!(mode(to.join("again/sub/file")), 0o751);
    fs::set_permissions(to.join("sub/closed"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(scratch).unwrap();
}

/// A writer that removes paths once some bytes were written to it.
struct Remover {
    stream: Vec<u8>,
    at: &'static [u8],
    doomed: Vec<PathBuf>,
}

impl Write for Remover {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.extend(bytes);
        if self.stream.windows(self.at.len()).any(|window| window == self.at) {
            self.doomed.drain(..).for_each(|path| {
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
            });
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_gone_when_it_is_reached_is_left_out() {
    let scratch = scratch("gone");
    fs::create_dir(scratch.join("directory")).unwrap();
    for (name, content) in [("a", "the first"), ("b", "b"), ("directory/inner", "x"), ("z", "the last")] {
        fs::write(scratch.join(name), content).unwrap();
    }
    let doomed = ["b", "directory"].map(|name| scratch.join(name)).into();
    let mut out = Remover { stream: Vec::new(), at: b"the first", doomed };
    let mut packer = Packer::new(&mut out);
    pack_tree(&mut packer, &scratch, Path::new("")).unwrap();
    packer.finish().unwrap();
    let mut archive = tar::Archive::new(out.stream.as_slice());
    let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [Path::new("."), Path::new("a"), Path::new("z")]);
    assert!(pack_tree(&mut Packer::new(io::sink()), &scratch.join("b"), Path::new("")).is_err(), "the top is missed");
    fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn a_file_that_goes_between_look_and_packing_leaves_nothing_in_the_stream() {
    let scratch = scratch("between");
    let (first, second) = (scratch.join("first"), scratch.join("second"));
    fs::write(&first, "content").unwrap();
    fs::hard_link(&first, &second).unwrap();
    let found = fs::symlink_metadata(&first).unwrap();
    fs::remove_file(&first).unwrap();
    let mut bytes = Vec::new();
    let mut packer = Packer::new(&mut bytes);
    let xattrs = [("user.of".to_owned(), b"first".to_vec())];
    let gone = packer.entry(&first, Path::new("first"), &found, &xattrs);
    assert_eq!(io::Error::from(gone.unwrap_err()).kind(), io::ErrorKind::NotFound);
    packer.entry(&second, Path::new("second"), &found, &[]).unwrap();
    packer.finish().unwrap();
    assert!(!bytes.windows(7).any(|window| window == b"user.of"));
    let mut archive = tar::Archive::new(bytes.as_slice());
    assert!(archive.entries().unwrap().next().unwrap().unwrap().header().entry_type().is_file());
    fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn one_file_goes_to_a_path_or_into_a_directory() {
    let scratch = scratch("file");
    let from = scratch.join("from");
    fs::write(&from, "content").unwrap();
    let at = |path: &str| Destination::At { path: scratch.join(path), name: "from".into() };
    fs::create_dir(scratch.join("there")).unwrap();
    for (destination, expected) in [(at("new"), "new"), (at("there"), "there/from")] {
        unpack(packed(&from, "").as_slice(), &destination, false).unwrap();
        assert_eq!(fs::read_to_string(scratch.join(expected)).unwrap(), "content");
    }
    fs::remove_dir_all(scratch).unwrap();
}

/// Makes a forged stream, given each entry's type, name, and link target or content.
fn forged(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for &(kind, name, what) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_mtime(1);
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            header.set_size(0);
            header.set_link_name(what).unwrap();
        } else {
            header.set_size(what.len() as u64);
        }
        // Bypasses the builder, which would refuse some of these names.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let content = if header.size().unwrap() == 0 { "" } else { what };
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn nothing_leads_outside_of_the_destination() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let scratch = scratch("outside");
    let outside = scratch.join("outside");
    let precious = outside.join("precious");
    let (away, file) = (outside.to_str().unwrap(), precious.to_str().unwrap());
    let root = (Directory, "./", "");
    for (name, entries) in [
        ("link below", vec![root, (Symlink, "out", away), (Regular, "out/escaped", "evil")]),
        ("link below, of a directory", vec![root, (Symlink, "out", away), (Directory, "out/escaped/", "")]),
        ("root link", vec![(Symlink, ".", away), (Regular, "escaped", "evil")]),
        ("root link, then a directory", vec![(Symlink, ".", away), (Directory, ".", "")]),
        ("directory, then a root link", vec![root, (Symlink, ".", away), (Regular, "escaped", "evil")]),
        ("root hard link", vec![(Link, ".", file)]),
        ("hard link below", vec![root, (Link, "out", file)]),
        ("no root", vec![(Symlink, "out", away), (Regular, "out/escaped", "evil")]),
        ("file, then more", vec![(Regular, ".", "evil"), (Regular, "escaped", "evil")]),
        ("directory above", vec![root, (Directory, "../outside/", "")]),
        ("absolute directory", vec![root, (Directory, away, "")]),
    ] {
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir(scratch.join("into")).unwrap();
        fs::write(&precious, "precious").unwrap();
        let before = fs::metadata(&outside).unwrap();
        let stream = forged(&entries);
        let done = unpack(stream.as_slice(), &Destination::At { path: scratch.join("at"), name: "x".into() }, false);
        // Entries that are skipped are not an error.
        assert!(done.is_err() || name.contains("absolute") || name.contains("above"), "{name}");
        let _ = unpack(stream.as_slice(), &Destination::Into(scratch.join("into")), true);
        let after = fs::metadata(&outside).unwrap();
        assert_eq!((before.mtime(), before.mode()), (after.mtime(), after.mode()), "{name}");
        assert_eq!(fs::metadata(&precious).unwrap().nlink(), 1, "{name}");
        assert_eq!(names_in(&outside).unwrap(), ["precious"], "{name}");
    }
    fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn a_link_at_the_destination_is_not_followed_to_a_directory() {
    let scratch = scratch("link-there");
    fs::create_dir_all(scratch.join("outside")).unwrap();
    fs::create_dir(scratch.join("there")).unwrap();
    symlink("../outside", scratch.join("there/from")).unwrap();
    let stream = forged(&[(EntryType::Directory, "./", ""), (EntryType::Regular, "escaped", "evil")]);
    let destination = Destination::At { path: scratch.join("there"), name: "from".into() };
    assert!(unpack(stream.as_slice(), &destination, false).is_err());
    assert!(names_in(&scratch.join("outside")).unwrap().is_empty());
    fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn a_pipe_or_a_device_at_the_destination_stays() {
    let scratch = scratch("special");
    fs::write(scratch.join("from"), "content").unwrap();
    fs::create_dir(scratch.join("there")).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, scratch.join("there/from"), kind, mode, 0).unwrap();
    symlink("there/from", scratch.join("link")).unwrap();
    let at = |path: &str| Destination::At { path: scratch.join(path), name: "from".into() };
    for destination in [at("there"), at("there/from"), at("link")] {
        let error = unpack(packed(&scratch.join("from"), "").as_slice(), &destination, true).unwrap_err();
        assert!(error.to_string().contains("a device or a pipe is there"), "{destination:?}: {error}");
    }
    let stream = packed(&scratch.join("from"), "from");
    assert!(unpack(stream.as_slice(), &Destination::Into(scratch.join("there")), true).is_err());
    assert!(!fs::symlink_metadata(scratch.join("there/from")).unwrap().is_file());
    assert!(fs::symlink_metadata(scratch.join("link")).unwrap().is_symlink());
    fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn a_link_alone_is_copied_as_one() {
    let scratch = scratch("link");
    symlink("/nowhere", scratch.join("from")).unwrap();
    let destination = Destination::At { path: scratch.join("to"), name: "from".into() };
    unpack(packed(&scratch.join("from"), "").as_slice(), &destination, false).unwrap();
    assert_eq!(fs::read_link(scratch.join("to")).unwrap(), Path::new("/nowhere"));
    fs::remove_dir_all(scratch).unwrap();
}
