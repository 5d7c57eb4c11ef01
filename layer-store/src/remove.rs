//! Removes trees from images, in which directories may not be writable or readable.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a directory and everything below it, regardless of the modes.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path);
            fs::remove_dir_all(path)
        }
        outcome => outcome,
    }
}

/// Gives the owner access to every directory. If that fails, the later removal reports the error.
fn open_directories(path: &Path) {
    let mut todo = vec![path.to_owned()];
    while let Some(directory) = todo.pop() {
        let _ = fs::set_permissions(&directory, PermissionsExt::from_mode(0o700));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        // The type of the entry itself: a link to a directory is not a directory.
        todo.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_without_permissions_go_and_links_out_of_the_tree_are_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, PermissionsExt::from_mode(0o555)).unwrap();
        let tree = scratch.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        for directory in ["a/b", "a"] {
            fs::set_permissions(tree.join(directory), PermissionsExt::from_mode(0o000)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(outside.metadata().unwrap().permissions().mode() & 0o777, 0o555);
    }
}
