//! Builds the root that the image's programs see, from the shares and disks of the machine.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use guest_protocol::account::Account;
use guest_protocol::archive::{Destination, Packer, pack_tree, unpack};
use guest_protocol::{Overlay, Part, RootSource, Secret, Setup, Share, Tmpfs};
use rustix::fs::Timespec;
use rustix::mount::{MountFlags, mount_bind, mount_move, mount_remount};

use crate::boot::{self, mount_at};
use crate::container::Container;
use crate::process::find_account;
use crate::{defaults, device, etc, missing, netlink, options, writes};

/// Where the tree below the root is mounted in the initramfs.
const LOWER: &str = "/lower";
const ROOT: &str = "/root";
/// Where the directory of a single-file share is mounted, in the entered root, while its file is bound.
const FILE_SHARES: &str = "/run/lamina/file-shares";

/// Mounts everything that `setup` names and makes the result this process's root.
pub(crate) fn enter(setup: &Setup, secrets: &[Secret]) -> Result<(), String> {
    set_clock(setup);
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|error| format!("cannot set the host name {:?}: {error}", setup.hostname))?;
    defaults::set_limits();
    defaults::set_system_controls();
    options::set_system_controls(&setup.options)?;
    mount_root(setup)?;
    if let Some(settings) = &setup.network {
        // Its modules are in the initramfs, which the root hides.
        device::configure_network(settings)?;
    }
    carry_over()?;
    switch_root()?;
    defaults::mount_and_link(setup.options.shm_size);
    // Before the shares are mounted, because the files in them are the host's.
    let root = Path::new("/");
    let written = etc::write(root, &setup.hostname, setup.network.as_ref(), &setup.options.hosts);
    for directory in &setup.directories {
        make_directory(root, directory);
    }
    if setup.init_system {
        mount_for_init_system();
    }
    writes::mount_volumes(&setup.volumes)?;
    mount_inner_last(setup)?;
    options::find_devices(&setup.options.devices)?;
    if let Err(error) = netlink::send(&[netlink::RouteRequest::link_up(netlink::LOOPBACK)]) {
        missing::note(format!("lo: cannot bring the loopback interface up: {error}"));
    }
    write_secrets(secrets, setup.user.as_deref().unwrap_or_default())?;
    if setup.overlay == Overlay::ReadOnly {
        writes::make_read_only()?;
    }
    writes::note_own(&written);
    Ok(())
}

/// Does the same for a container, whose mounts were made before init was started.
pub(crate) fn set_up(setup: &Setup, secrets: &[Secret], container: &mut Container) -> Result<(), String> {
    defaults::set_limits();
    if let Some((place, lower)) = container.writes.take() {
        writes::keep(place, lower);
    }
    if setup.network.as_ref().is_some_and(|network| !network.is_hosts) {
        device::await_network()?;
    }
    let root = container.writable_root();
    let written = etc::write(&root, &setup.hostname, setup.network.as_ref(), &setup.options.hosts);
    for directory in &setup.directories {
        make_directory(&root, directory);
    }
    // From here on the root is what it is for every process.
    container.root = None;
    fill_secrets(secrets, setup.user.as_deref().unwrap_or_default())?;
    writes::note_own(&written);
    Ok(())
}

/// Mounts shares and file systems in memory: what is inside another one comes after it.
fn mount_inner_last(setup: &Setup) -> Result<(), String> {
    let depth = |target: &str| Path::new(target).components().count();
    let shares = setup.shares.iter().map(|share| (depth(&share.target), Ok(share)));
    let tmpfs = setup.options.tmpfs.iter().map(|tmpfs| (depth(&tmpfs.target), Err(tmpfs)));
    let mut mounts: Vec<(usize, Result<&Share, &Tmpfs>)> = shares.chain(tmpfs).collect();
    mounts.sort_by_key(|(depth, _)| *depth);
    mounts.into_iter().try_for_each(|(_, mount)| match mount {
        Ok(share) => mount_share(share),
        Err(tmpfs) => options::mount_tmpfs(tmpfs),
    })
}

/// Creates a directory for the command, if it is missing. A failure is not fatal here: the start of the command reports
/// it.
fn make_directory(root: &Path, path: &str) {
    if let Err(error) = fs::create_dir_all(root.join(path.trim_start_matches('/'))) {
        eprintln!("lamina: {path}: {error}");
    }
}

/// Mounts what an init system expects in a container: directories in memory for files that must not outlive a boot.
fn mount_for_init_system() {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV;
    for path in ["/run", "/run/lock"] {
        if let Err(cause) = mount_at("tmpfs", path, "tmpfs", hardened, Some(c"mode=0755")) {
            missing::note(cause);
        }
    }
}

/// Where secrets are.
const SECRETS: &str = "/run/secrets";

/// Writes the secrets to a separate file system in memory, which then becomes read-only. Only the command's user can
/// read them.
fn write_secrets(secrets: &[Secret], user: &str) -> Result<(), String> {
    if secrets.is_empty() {
        return Ok(());
    }
    let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_at("secrets", SECRETS, "tmpfs", hardened, Some(c"mode=0755"))?;
    fill_secrets(secrets, user)?;
    mount_remount(SECRETS, hardened | MountFlags::RDONLY, "").map_err(|error| format!("{SECRETS}: {error}"))
}

/// Writes the secrets where they are mounted.
fn fill_secrets(secrets: &[Secret], user: &str) -> Result<(), String> {
    // For a user that is not in the image's files, the command is not started.
    let owner = find_account(user).ok();
    for secret in secrets {
        let path = Path::new(SECRETS).join(&secret.name);
        write_secret(&path, secret, owner.as_ref()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn write_secret(path: &Path, secret: &Secret, owner: Option<&Account>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    file.write_all(&secret.content)
}

/// A wrong clock breaks certificates and make(1), but no guest should fail for it.
fn set_clock(setup: &Setup) {
    let now = Timespec { tv_sec: setup.seconds, tv_nsec: setup.nanoseconds.into() };
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now) {
        missing::note(format!("the clock: cannot set it: {error}"));
    }
}

fn mount_root(setup: &Setup) -> Result<(), String> {
    let (kind, source) = match &setup.root {
        RootSource::Share(tag) => ("virtiofs", tag.clone()),
        RootSource::Image(serial) => {
            boot::load_part(Part::Erofs);
            ("erofs", device::disk(serial)?)
        }
    };
    mount_at(&source, LOWER, kind, MountFlags::RDONLY, None)?;
    writes::mount_over(LOWER, &setup.overlay, ROOT)
}

/// Moves the kernel's file systems into the new root. The mount points are created in the overlay if the image lacks
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

/// Does what switch_root(8) does, but does not empty the initramfs, which has only a few megabytes and holds this
/// running program.
fn switch_root() -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot enter the root: {error}");
    std::env::set_current_dir(ROOT).map_err(|error| failed(&error))?;
    mount_move(".", "/").map_err(|error| failed(&error))?;
    rustix::process::chroot(".").map_err(|error| failed(&error))?;
    std::env::set_current_dir("/").map_err(|error| failed(&error))
}

fn mount_share(share: &Share) -> Result<(), String> {
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let Some(file) = &share.file else {
        if share.fill {
            fill(share).map_err(|cause| format!("volume at {}: {cause}", share.target))?;
        }
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
    // The bind mount keeps the file; its siblings need not stay visible.
    rustix::mount::unmount(directory.as_str(), rustix::mount::UnmountFlags::DETACH)
        .map_err(|error| format!("{directory}: cannot unmount: {error}"))?;
    let _ = fs::remove_dir(&directory);
    Ok(())
}

/// Copies what the root has at the target of a share into the share, if the share is empty.
fn fill(share: &Share) -> Result<(), String> {
    let (source, directory) = (Path::new(&share.target), format!("{FILE_SHARES}/{}", share.tag));
    let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
    if !source.is_dir() || is_empty(source) {
        return Ok(());
    }
    mount_at(&share.tag, &directory, "virtiofs", MountFlags::empty(), None)?;
    if is_empty(Path::new(&directory)) {
        copy(source, Path::new(&directory)).map_err(|error| error.to_string())?;
    }
    rustix::mount::unmount(directory.as_str(), rustix::mount::UnmountFlags::empty())
        .map_err(|error| format!("{directory}: cannot unmount: {error}"))?;
    let _ = fs::remove_dir(&directory);
    Ok(())
}

/// Copies what is in one directory into another one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut packer = Packer::new(BufWriter::new(writer)).owned_by_root();
            for entry in fs::read_dir(from)? {
                let name = entry?.file_name();
                pack_tree(&mut packer, &from.join(&name), Path::new(&name))?;
            }
            packer.finish().map(drop)
        });
        let unpacked = unpack(reader, &Destination::Into(to.to_owned()), true).map(drop);
        unpacked.and(packing.join().unwrap_or_else(|_| Err(io::Error::other("packing ended early"))))
    })
}

/// Creates a file to mount on, if it does not exist. An existing file must not be copied into the overlay for this.
fn make_file(path: &str) -> io::Result<()> {
    if Path::new(path).exists() {
        return Ok(());
    }
    if let Some(parent) = Path::new(path).parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path).map(drop)
}
