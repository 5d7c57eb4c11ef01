//! From the shares to the root that the image's programs see.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use guest_protocol::Part;
use guest_protocol::{Overlay, RootSource, Secret, Setup, Share};
use rustix::fs::Timespec;
use rustix::mount::{MountFlags, mount_bind, mount_move, mount_remount};
use rustix::process::{Resource, Rlimit};

use crate::boot::{self, mount_at};
use crate::{disk, netlink, network, writes};

/// Where the pieces of the root stand in the initramfs.
const LOWER: &str = "/lower";
const ROOT: &str = "/root";
/// Where, in the entered root, the directory behind a single-file share is mounted while the file is bound.
const FILE_SHARES: &str = "/run/lamina/file-shares";

/// Mounts everything that `setup` names and makes the result this process's root.
pub(crate) fn enter(setup: &Setup) -> Result<(), String> {
    set_clock(setup);
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|error| format!("cannot set the host name {:?}: {error}", setup.hostname))?;
    // What Docker gives a container; the kernel's own default of 1,024 and 4,096 breaks databases.
    let open_files = Rlimit { current: Some(1024), maximum: Some(1 << 20) };
    let _ = rustix::process::setrlimit(Resource::Nofile, open_files);
    mount_root(setup)?;
    if let Some(settings) = &setup.network {
        // Its modules are in the initramfs, which the root hides.
        network::bring_up(settings)?;
    }
    carry_over()?;
    switch_root()?;
    mount_conveniences();
    // Before the shares: what lies there is the host's.
    if let Some(settings) = &setup.network {
        network::write_resolv_conf(settings);
    }
    write_missing_files(&setup.hostname);
    for share in &setup.shares {
        mount_share(share)?;
    }
    if let Err(error) = netlink::send(&[netlink::Request::link_up(netlink::LOOPBACK)]) {
        eprintln!("lamina: lo: cannot bring the loopback interface up: {error}");
    }
    write_secrets(&setup.secrets)?;
    if setup.overlay == Overlay::ReadOnly {
        writes::make_read_only()?;
    }
    writes::note_own();
    Ok(())
}

/// Where secrets are.
const SECRETS: &str = "/run/secrets";

/// Writes the secrets to a file system of their own in memory, which then takes no change.
fn write_secrets(secrets: &[Secret]) -> Result<(), String> {
    if secrets.is_empty() {
        return Ok(());
    }
    let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_at("secrets", SECRETS, "tmpfs", hardened, Some(c"mode=0755"))?;
    for secret in secrets {
        let path = Path::new(SECRETS).join(&secret.name);
        fs::write(&path, &secret.content)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o444)))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    mount_remount(SECRETS, hardened | MountFlags::RDONLY, "").map_err(|error| format!("{SECRETS}: {error}"))
}

/// A wrong clock breaks certificates and make(1), but no guest should fail for it.
fn set_clock(setup: &Setup) {
    let now = Timespec { tv_sec: setup.seconds, tv_nsec: setup.nanoseconds.into() };
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now) {
        eprintln!("lamina: cannot set the clock: {error}");
    }
}

fn mount_root(setup: &Setup) -> Result<(), String> {
    let (kind, source) = match &setup.root {
        RootSource::Share(tag) => ("virtiofs", tag.clone()),
        RootSource::Image(serial) => {
            boot::load_part(Part::Erofs);
            ("erofs", disk::find(serial)?)
        }
    };
    mount_at(&source, LOWER, kind, MountFlags::RDONLY, None)?;
    writes::mount_over(LOWER, &setup.overlay, ROOT)
}

/// Moves the kernel's file systems into the new root. The mount points are made in the overlay when the image lacks
/// them.
fn carry_over() -> Result<(), String> {
    for path in ["/proc", "/sys", "/dev"] {
        let target = format!("{ROOT}{path}");
        if !Path::new(&target).is_dir() {
            fs::create_dir(&target)
                .map_err(|error| format!("{path}: the image lacks it and it cannot be made: {error}"))?;
        }
        mount_move(path, target.as_str()).map_err(|error| format!("{path}: cannot move it into the root: {error}"))?;
    }
    Ok(())
}

/// What switch_root(8) does, except for emptying the initramfs: it is a few megabytes, and this very
/// program is being run from it.
fn switch_root() -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot enter the root: {error}");
    std::env::set_current_dir(ROOT).map_err(|error| failed(&error))?;
    mount_move(".", "/").map_err(|error| failed(&error))?;
    rustix::process::chroot(".").map_err(|error| failed(&error))?;
    std::env::set_current_dir("/").map_err(|error| failed(&error))
}

/// Mounts and links that programs expect of a running Linux; a guest without one of them still runs.
fn mount_conveniences() {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let hardened = quiet | MountFlags::NODEV;
    let mounts = [
        ("devpts", "/dev/pts", "devpts", quiet, Some(c"gid=5,mode=0620,ptmxmode=0666")),
        ("shm", "/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777")),
        ("mqueue", "/dev/mqueue", "mqueue", hardened, None),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", hardened, None),
    ];
    for (source, target, kind, flags, options) in mounts {
        if let Err(cause) = mount_at(source, target, kind, flags, options) {
            eprintln!("lamina: {cause}");
        }
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("core", "/proc/kcore")]
    {
        // devtmpfs makes none of these; one that a later kernel does make is as good.
        let _ = symlink(target, Path::new("/dev").join(name));
    }
}

fn mount_share(share: &Share) -> Result<(), String> {
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let Some(file) = &share.file else {
        return mount_at(&share.tag, &share.target, "virtiofs", flags, None);
    };
    let directory = format!("{FILE_SHARES}/{}", share.tag);
    mount_at(&share.tag, &directory, "virtiofs", flags, None)?;
    make_file(&share.target).map_err(|error| format!("{}: cannot make the mount point: {error}", share.target))?;
    let source = format!("{directory}/{file}");
    mount_bind(source.as_str(), share.target.as_str())
        .map_err(|error| format!("{}: cannot mount the file: {error}", share.target))?;
    if share.read_only {
        mount_remount(share.target.as_str(), MountFlags::BIND | MountFlags::RDONLY, "")
            .map_err(|error| format!("{}: cannot make the file read-only: {error}", share.target))?;
    }
    // The bind mount keeps the file; its siblings need not stay in view.
    rustix::mount::unmount(directory.as_str(), rustix::mount::UnmountFlags::DETACH)
        .map_err(|error| format!("{directory}: cannot unmount: {error}"))?;
    let _ = fs::remove_dir(&directory);
    Ok(())
}

/// Makes a file to mount on, if none is there: one that is there must not be copied into the overlay for that.
fn make_file(path: &str) -> std::io::Result<()> {
    if Path::new(path).exists() {
        return Ok(());
    }
    if let Some(parent) = Path::new(path).parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path).map(drop)
}

/// Writes a file unless it holds that already: written at every start, it would count as the user's change.
pub(crate) fn write_if_other(path: &str, content: &str) -> std::io::Result<()> {
    if fs::read(path).is_ok_and(|present| present == content.as_bytes()) {
        return Ok(());
    }
    fs::write(path, content)
}

/// Gives an image without them the three files that name resolution reads. An image's own are its own.
fn write_missing_files(hostname: &str) {
    let files = [
        ("/etc/hostname", format!("{hostname}\n")),
        ("/etc/hosts", format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{hostname}\n")),
        ("/etc/resolv.conf", String::new()),
    ];
    for (path, content) in files {
        let missing = fs::metadata(path).is_ok_and(|file| file.len() == 0) || !Path::new(path).exists();
        if missing {
            // An image whose file is a dangling link: left as it is.
            let _ = fs::create_dir_all("/etc").and_then(|()| write_if_other(path, &content));
        }
    }
}
