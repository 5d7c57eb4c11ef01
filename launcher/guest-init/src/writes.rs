//! Where a guest's writes to its root go: an overlay's upper directory in memory or on a disk of the machine.
//!
//! The place holds `upper` and `work`, as overlayfs wants them, and `own`: what init itself put into `upper`, which
//! is no change of the user's. A root that is to be read-only has such a place too, until init has put into it what it
//! must: it counts as none. Once the root is entered no path leads to the place any more; init's tools reach it by
//! the descriptors that it keeps.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::changes::{Own, Stack};
use guest_protocol::Overlay;
use guest_protocol::{Part, WRITES_FULL};
use rustix::mount::{MountFlags, mount_remount};

use crate::boot::{self, mount_at};
use crate::disk;

/// Where the place stands in the initramfs.
const PLACE: &str = "/writes";

/// `TMPFS_MAGIC` of `include/uapi/linux/magic.h`.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The place and the tree below it.
static KEPT: OnceLock<(File, File)> = OnceLock::new();

/// Mounts at `root` the tree at `lower` with the writes that `overlay` names over it.
pub(crate) fn mount_over(lower: &str, overlay: &Overlay, root: &str) -> Result<(), String> {
    match overlay {
        // For mount points and init's own files, until `make_read_only`.
        Overlay::ReadOnly => mount_at("lamina", PLACE, "tmpfs", MountFlags::empty(), Some(c"size=4M,mode=0755"))?,
        Overlay::Memory { limit } => {
            let size = limit.map_or(String::new(), |bytes| format!("size={bytes},"));
            mount_at("lamina", PLACE, "tmpfs", MountFlags::empty(), Some(&c_string(&format!("{size}mode=0755"))?))?;
        }
        Overlay::Disk { serial } => {
            boot::load_part(Part::Ext4);
            // What is deleted here is given back to the host's file system.
            mount_at(&disk::find(serial)?, PLACE, "ext4", MountFlags::NOATIME, Some(c"discard"))?;
        }
    }
    for part in ["upper", "work"] {
        let path = format!("{PLACE}/{part}");
        fs::create_dir_all(&path).map_err(|error| format!("{path}: {error}"))?;
    }
    if *overlay != Overlay::ReadOnly {
        let open = |path: &str| File::open(path).map_err(|error| format!("{path}: {error}"));
        let _ = KEPT.set((open(PLACE)?, open(lower)?));
    }
    // Or `upper` would hold what only the kernel can read: renamed directories and files without their content.
    let plain = "redirect_dir=off,metacopy=off";
    let options = c_string(&format!("lowerdir={lower},upperdir={PLACE}/upper,workdir={PLACE}/work,{plain}"))?;
    mount_at("lamina", root, "overlay", MountFlags::empty(), Some(&options))
}

/// Lets the entered root take no more change.
pub(crate) fn make_read_only() -> Result<(), String> {
    mount_remount("/", MountFlags::RDONLY, "").map_err(|error| format!("/: cannot make it read-only: {error}"))
}

/// Notes what is in `upper` before any program of the image has run, at the first start only.
pub(crate) fn note_own() {
    let Some(stack) = stack() else { return };
    if let Err(error) = Own::note(&stack) {
        eprintln!("lamina: {error}");
    }
}

/// Whether a user has put something at a path of the root at an earlier start.
pub(crate) fn is_of_user(path: &str) -> bool {
    let path = Path::new(path.trim_start_matches('/'));
    stack().is_some_and(|stack| stack.is_of_user(path).unwrap_or_default())
}

/// Tells on the console, once, if the writes go to memory and that is full: whoever wrote has only been told that no
/// space is left on a device.
pub(crate) fn tell_if_full() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let Some(place) = KEPT.get().and_then(|(place, _)| rustix::fs::fstatfs(place).ok()) else { return };
    let (blocks, free) = (place.f_blocks, place.f_bfree);
    let full = place.f_type == TMPFS && is_full(blocks, free);
    if full && !TOLD.swap(true, Ordering::Relaxed) {
        let size = size(blocks.saturating_mul(place.f_bsize.unsigned_abs()));
        // By one write, so that the kernel's own lines do not come in between.
        let line = format!("{WRITES_FULL} ({size}); give it more with --tmpfs-size\n");
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Whether so little is free that hardly anything can be written: what failed may have been larger than what is left.
const fn is_full(blocks: u64, free: u64) -> bool {
    free == 0 || free.saturating_mul(100) < blocks
}

/// A size as `--tmpfs-size` takes it, rounded down.
fn size(bytes: u64) -> String {
    let kib = bytes >> 10;
    if kib < 1 << 10 { format!("{kib}K") } else { format!("{}M", kib >> 10) }
}

/// The writes and what they lie over, if this guest can write.
fn stack() -> Option<Stack> {
    let [place, lower] = paths()?;
    Some(Stack::new(Path::new(&place), Path::new(&lower)))
}

/// Paths that lead to the place and to the tree below it from every process of root's.
pub(crate) fn paths() -> Option<[String; 2]> {
    use std::os::fd::AsRawFd;
    let (place, lower) = KEPT.get()?;
    Some([place, lower].map(|directory| format!("/proc/1/fd/{}", directory.as_raw_fd())))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_what_has_next_to_nothing_free() {
        for (blocks, free, full) in [(100, 0, true), (100, 1, false), (1000, 9, true), (1000, 10, false)] {
            assert_eq!(is_full(blocks, free), full, "{free} of {blocks}");
        }
        assert_eq!((size(8 << 20), size(512 << 10), size(251_504_640)), ("8M".into(), "512K".into(), "239M".into()));
    }
}
