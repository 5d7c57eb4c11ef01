//! Where a guest's writes to its root go: an overlay's upper directory in memory or on a disk of the machine.
//!
//! The place holds `upper` and `work`, as overlayfs requires, and `own`, the list of what init itself put into `upper`:
//! those are not changes by the user. A root that will be read-only has such a place too until init has written what
//! it must; the place does not count as one for the guest's writes. Once the root is entered, no path leads to the
//! place, and init's tools reach it by the descriptors that init keeps.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use guest_protocol::{Overlay, Part};
use rustix::mount::{MountFlags, mount_remount};

use crate::boot::{self, mount_at};
use crate::changes::{Own, Stack};
use crate::{device, missing};

/// Where the place is mounted in the initramfs.
const PLACE: &str = "/writes";

/// The place and the tree below it.
static KEPT: OnceLock<(File, File)> = OnceLock::new();

/// Mounts the tree at `lower`, with the writes that `overlay` names over it, at `root`.
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
            // Space that is freed here is returned to the host's file system.
            mount_at(&device::disk(serial)?, PLACE, "ext4", MountFlags::NOATIME, Some(c"discard"))?;
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
    // Without the first two options, `upper` would hold what only the kernel can read: renamed directories, and files
    // without their content. Without `xino`, files and directories would have different device numbers. It makes the
    // layers one file system, because their inode numbers leave the high bits free.
    let plain = "redirect_dir=off,metacopy=off,xino=on";
    let options = c_string(&format!("lowerdir={lower},upperdir={PLACE}/upper,workdir={PLACE}/work,{plain}"))?;
    mount_at("lamina", root, "overlay", MountFlags::empty(), Some(&options))
}

/// Keeps the place and the tree below it of a root that something else has mounted.
pub(crate) fn keep(place: File, lower: File) {
    let _ = KEPT.set((place, lower));
}

/// Where the writes of a read-only root's volumes are, in the entered root, while the volumes are being mounted.
const VOLUMES: &str = "/run/lamina/volumes";

/// Makes directories of the root writable although the root will be read-only. The writes go to a file system in
/// memory.
pub(crate) fn mount_volumes(volumes: &[String]) -> Result<(), String> {
    if volumes.is_empty() {
        return Ok(());
    }
    mount_at("volumes", VOLUMES, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))?;
    for (number, volume) in volumes.iter().enumerate() {
        let path = Path::new("/").join(volume);
        let path = path.to_str().unwrap_or_default();
        let place = format!("{VOLUMES}/{number}");
        for part in ["upper", "work"] {
            fs::create_dir_all(format!("{place}/{part}")).map_err(|error| format!("{path}: {error}"))?;
        }
        like(path, &format!("{place}/upper"))?;
        // Without the backslash, each of these bytes would be part of the option's syntax.
        let lower = path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
        let options = c_string(&format!("lowerdir={lower},upperdir={place}/upper,workdir={place}/work"))?;
        mount_at("volume", path, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(&options))?;
    }
    // The mounts keep it; it need not stay visible.
    let detach = rustix::mount::UnmountFlags::DETACH;
    rustix::mount::unmount(VOLUMES, detach).map_err(|error| format!("{VOLUMES}: cannot unmount: {error}"))?;
    let _ = fs::remove_dir(VOLUMES);
    Ok(())
}

/// Sets a directory's owner and mode to those of another one, because an overlay shows those of its upper directory.
fn like(model: &str, directory: &str) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let set = || {
        let model = fs::metadata(model)?;
        std::os::unix::fs::chown(directory, Some(model.uid()), Some(model.gid()))?;
        fs::set_permissions(directory, model.permissions())
    };
    set().map_err(|error: std::io::Error| format!("{model}: {error}"))
}

/// Makes the entered root read-only.
pub(crate) fn make_read_only() -> Result<(), String> {
    mount_remount("/", MountFlags::RDONLY, "").map_err(|error| format!("/: cannot make it read-only: {error}"))
}

/// Notes what init has put into `upper`, before any program of the image runs: everything in it at the first start, and
/// at later starts the files that init has `written` again.
pub(crate) fn note_own(written: &[PathBuf]) {
    let Some(stack) = stack() else { return };
    if let Err(error) = Own::note(&stack, written) {
        missing::note(format!("the list of what belongs to the machine: {error}"));
    }
}

/// Returns whether a user has put something at a path of the root at an earlier start.
pub(crate) fn is_of_user(path: &str) -> bool {
    let path = Path::new(path.trim_start_matches('/'));
    stack().is_some_and(|stack| stack.is_of_user(path).unwrap_or_default())
}

/// Returns how much room is left, if this guest can write.
pub(crate) fn room() -> Option<rustix::fs::StatFs> {
    KEPT.get().and_then(|(place, _)| rustix::fs::fstatfs(place).ok())
}

/// Returns the writes and the tree below them, if this guest can write.
fn stack() -> Option<Stack> {
    let [place, lower] = paths()?;
    Some(Stack::new(Path::new(&place), Path::new(&lower)))
}

/// Returns paths to the place and to the tree below it that every process of root can use.
pub(crate) fn paths() -> Option<[String; 2]> {
    use std::os::fd::AsRawFd;
    let (place, lower) = KEPT.get()?;
    Some([place, lower].map(|directory| format!("/proc/1/fd/{}", directory.as_raw_fd())))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a NUL byte"))
}
