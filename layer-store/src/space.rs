//! Measures how much space is missing on a full disk.

use std::fmt;
use std::io;
use std::path::Path;

/// How much space something needs on a disk, and how much was free when writing it failed. What had been written may be
/// deleted before this is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are known to be needed: those that were written, or all of them. 0 if unknown.
    pub needed: u64,
    /// The free space in addition to what was written, as text.
    pub free: Option<String>,
}

impl Shortage {
    /// Measures the free space where `path` is or would be; `None` if `cause` is not a full disk or an exhausted quota.
    pub(crate) fn measure(cause: &io::Error, path: &Path, needed: u64) -> Option<Self> {
        is_out_of_space(cause).then(|| Self { needed, free: free(cause, path) })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.needed, &self.free) {
            (0, None) => Ok(()),
            (0, Some(free)) => write!(f, " ({free})"),
            (needed, None) => write!(f, ": it takes {needed} bytes and more"),
            (needed, Some(free)) => write!(f, ": it takes {needed} bytes and more (beside those written, {free})"),
        }
    }
}

pub(crate) fn is_out_of_space(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns how much an ordinary user may still write where `path` is or would be.
fn free(cause: &io::Error, path: &Path) -> Option<String> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some(match cause.kind() {
        // Only the file system's own tools know how much of the quota is left.
        io::ErrorKind::QuotaExceeded => format!("the quota is used up; the disk itself has {bytes} bytes free"),
        // A file system without a fixed number of inodes reports 0.
        _ if stat.f_files > 0 && stat.f_favail == 0 => "no inode is free".into(),
        _ => format!("{bytes} bytes are free"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_says_what_is_needed_and_what_was_free() {
        let said = |needed, free: Option<&str>| Shortage { needed, free: free.map(str::to_owned) }.to_string();
        assert_eq!(said(0, None), "");
        assert_eq!(said(0, Some("no inode is free")), " (no inode is free)");
        assert_eq!(
            said(7, Some("2 bytes are free")),
            ": it takes 7 bytes and more (beside those written, 2 bytes are free)"
        );
        let other = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Shortage::measure(&other, Path::new("/"), 7), None);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(Shortage::measure(&full, Path::new("/nowhere/x"), 7).unwrap().free.unwrap().contains("free"));
    }
}
