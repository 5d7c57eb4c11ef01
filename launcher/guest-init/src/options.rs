//! What a user asks of the guest: system controls, file systems in memory, devices. What cannot be done is fatal, because
//! the user has asked for it.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use guest_protocol::{Device, GuestOptions, Tmpfs};
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::MountFlags;

use crate::boot::mount_at;

/// Sets the system controls.
pub(crate) fn set_system_controls(options: &GuestOptions) -> Result<(), String> {
    for (name, value) in &options.sysctls {
        let dotted = name.replace('/', ".");
        fs::write(Path::new("/proc/sys").join(name), value).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("--sysctl {dotted}: the guest's kernel has no such control"),
            _ => format!("--sysctl {dotted}={value}: {error}"),
        })?;
    }
    Ok(())
}

/// Mounts a file system in memory.
pub(crate) fn mount_tmpfs(tmpfs: &Tmpfs) -> Result<(), String> {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut data = vec!["mode=1777"];
    for option in &tmpfs.options {
        match option.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "noexec" => flags |= MountFlags::NOEXEC,
            "exec" => flags -= MountFlags::NOEXEC,
            "nosuid" => flags |= MountFlags::NOSUID,
            "suid" => flags -= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "dev" => flags -= MountFlags::NODEV,
            "noatime" => flags |= MountFlags::NOATIME,
            other => data.push(other),
        }
    }
    // The last of several modes counts.
    let data = CString::new(data.join(",")).map_err(|_| format!("--tmpfs {}: a NUL byte", tmpfs.target))?;
    mount_at("tmpfs", &tmpfs.target, "tmpfs", flags, Some(&data)).map_err(|cause| format!("--tmpfs {cause}"))
}

/// Checks that the guest has the devices, and creates their further names.
pub(crate) fn find_devices(devices: &[Device]) -> Result<(), String> {
    for Device { path, also } in devices {
        let missing = || format!("--device {path}: the guest has no such device; those of this host do not reach it");
        let found = fs::metadata(path).map_err(|_| missing())?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => FileType::CharacterDevice,
            kind if kind.is_block_device() => FileType::BlockDevice,
            _ => return Err(missing()),
        };
        if let Some(also) = also {
            let make = || -> std::io::Result<()> {
                if let Some(parent) = Path::new(also).parent() {
                    fs::create_dir_all(parent)?;
                }
                Ok(rustix::fs::mknodat(CWD, also, kind, Mode::from_raw_mode(found.mode() & 0o777), found.rdev())?)
            };
            make().map_err(|error| format!("--device {path}:{also}: {error}"))?;
        }
    }
    Ok(())
}
