//! Where a guest's writes to its root go: an overlay's upper directory in memory or on a disk of the machine.
//!
//! The place holds `upper` and `work`, as overlayfs wants them, and `own`: what init itself put into `upper`, which
//! is no change of the user's. A root that is to be read-only has such a place too, until init has put into it what it
//! must: it counts as none. Once the root is entered no path leads to the place any more; init's tools reach it by
//! the descriptors that it keeps.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;

use guest_init::Part;
use guest_init::changes::{Own, Stack};
use guest_init::protocol::Overlay;
use rustix::mount::{MountFlags, mount_remount};

use crate::boot::{self, mount_at};
use crate::disk;

/// Where the place stands in the initramfs.
const PLACE: &str = "/writes";

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
