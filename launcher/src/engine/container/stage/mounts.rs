//! The mounts of a stage, in its own mount namespace.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, open_tree,
};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use super::fill::fill;
use super::{COPIED, GROUPS, Spec, tied};
use crate::engine::plan::{ContainerRoot, Format, Upper};
use crate::failure::{About, Failure};
use crate::host::child;
use crate::sys;

/// The lower tree, where writes go, the root of the container, and the runtime's files, in the place of the stage.
const LOWER: &str = "lower";
const WRITES: &str = "writes";
const ROOT: &str = "root";
const BUNDLE: &str = "bundle";
const INIT: &str = "init";
/// The name of the file that says in which format an upper directory is.
const FORMAT: &str = "format";

/// How long fuse-overlayfs may take to mount.
const MOUNTED: Duration = Duration::from_secs(10);

/// Plain overlays, as in a VM. `userxattr` excludes redirected directories.
const PLAIN: &str = "userxattr,metacopy=off,xino=on";

/// The size of a file system for nothing but mount points and a few files of init.
const SMALL: &CStr = c"size=4M,mode=0755";

/// The mounts of one container.
pub(super) struct Stage<'a> {
    spec: &'a Spec,
}

/// Makes the next process that this one starts, by `command`, the first one of a process namespace, with the `/proc` of that
/// namespace.
pub(super) fn make_first(command: &mut Command) -> Result<(), Failure> {
    sys::unshare(UnshareFlags::NEWPID).about("process namespace")?;
    sys::mount_proc(command);
    Ok(())
}

impl<'a> Stage<'a> {
    /// Mounts the place, and enters it.
    pub(super) fn begin(spec: &'a Spec) -> Result<Self, Failure> {
        // Nothing that is mounted from here on is seen outside, and what the host unmounts goes away here too.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).about("mount namespace")?;
        if spec.hide_cgroups {
            mount("lamina", "/sys/fs/cgroup", "tmpfs", MountFlags::RDONLY, SMALL).about("/sys/fs/cgroup")?;
        }
        mount_init(spec)?;
        Ok(Self { spec })
    }

    /// Mounts the view by FUSE, to be served by the process that the descriptor is sent to.
    pub(super) fn mount_view() -> Result<OwnedFd, Failure> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .about("/dev/fuse")
            .map_err(|failure| failure.with_hint("as root: modprobe fuse && chmod 666 /dev/fuse"))?;
        // fs/fuse/inode.c: rootmode is the type of the root, in octal.
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
        let flags = MountFlags::RDONLY | MountFlags::NODEV;
        mount("lamina", LOWER, "fuse.lamina", flags, &*c_string(&options)?)
            .about("FUSE in a user namespace")
            .map_err(|failure| failure.with_hint("it needs Linux 4.18"))?;
        Ok(device)
    }

    /// Mounts the root of the container. Returns the process that serves it if there is one, which is then the first one
    /// of the process namespace.
    pub(super) fn mount_root(&self) -> Result<Option<Child>, Failure> {
        if let ContainerRoot::Directory(directory) = &self.spec.root {
            mount_bind_recursive(directory, LOWER).about(directory.display())?;
        }
        for (directory, target) in &self.spec.fills {
            fill(directory, Path::new(LOWER), target)?;
        }
        self.mount_writes()?;
        self.mount_over().map_err(|cause| {
            Failure::new(self.spec.format.title(), cause)
                .with_hint("use Linux 5.11 or later, or install fuse-overlayfs")
        })
    }

    fn mount_writes(&self) -> Result<(), Failure> {
        let about = "what the container writes";
        match &self.spec.upper {
            Upper::Nowhere => mount("lamina", WRITES, "tmpfs", MountFlags::NODEV, SMALL).about(about)?,
            Upper::Memory { limit } => {
                let size = limit.map_or(String::new(), |bytes| format!("size={bytes},"));
                let options = c_string(&format!("{size}mode=0755"))?;
                mount("lamina", WRITES, "tmpfs", MountFlags::NODEV, &*options).about(about)?;
            }
            Upper::Directory(directory) => mount_bind(directory, WRITES).about(directory.display())?,
        }
        for part in ["upper", "work"] {
            let path = Path::new(WRITES).join(part);
            fs::create_dir_all(&path).about(path.display())?;
        }
        Ok(())
    }

    /// Mounts the root, and checks that it works if that is asked for.
    fn mount_over(&self) -> Result<Option<Child>, String> {
        let server = match self.spec.format {
            Format::Kernel => {
                let options = format!("lowerdir={LOWER},upperdir={WRITES}/upper,workdir={WRITES}/work,{PLAIN}");
                let options = c_string(&options).map_err(|failure| failure.to_string())?;
                mount("lamina", ROOT, "overlay", MountFlags::NODEV, &*options).map_err(|error| error.to_string())?;
                None
            }
            Format::FuseOverlayfs => Some(fuse_overlayfs()?),
            Format::None => {
                mount_bind(LOWER, ROOT).map_err(|error| error.to_string())?;
                return Ok(None);
            }
        };
        let changed = self.spec.check.as_ref().map_or(Ok(()), |file| change(&Path::new(ROOT).join(file)));
        let noted = changed.and_then(|()| fs::write(Path::new(WRITES).join(FORMAT), self.spec.format.name()));
        noted.map(|()| server).map_err(|error| error.to_string())
    }

    /// Writes the configuration.
    pub(super) fn write_bundle(&self) -> Result<(), Failure> {
        let mut config = self.spec.config.clone();
        config["mounts"].as_array_mut().into_iter().flatten().for_each(like_the_images);
        if self.spec.format == Format::None {
            config["root"]["readonly"] = true.into();
            let memory = |target: &str, mode: &str| {
                let options = ["nosuid", "nodev", mode];
                json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options })
            };
            if let Some(mounts) = config["mounts"].as_array_mut() {
                // Before those that may be in them.
                let places = [("/run", "mode=755"), ("/tmp", "mode=1777"), ("/var/tmp", "mode=1777")];
                let is_there = |target: &str| {
                    let place = Path::new(LOWER).join(target.trim_start_matches('/'));
                    fs::symlink_metadata(place).is_ok_and(|found| found.is_dir())
                };
                let places = places.into_iter().filter(|(target, _)| is_there(target));
                mounts.splice(0..0, places.map(|(target, mode)| memory(target, mode)));
            }
        }
        let file = Path::new(BUNDLE).join("config.json");
        fs::write(&file, config.to_string()).about(file.display())
    }

    /// Returns the descriptors that init inherits, in their order. Those of directories are copies of the mounts without
    /// anything above them, so that no path leads out of them to the host.
    pub(super) fn descriptors(&self, control: UnixStream, groups: Option<OwnedFd>) -> Result<Vec<OwnedFd>, Failure> {
        let mut control = Some(control);
        let mut groups = groups;
        let open = |name: &str| -> Result<OwnedFd, Failure> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, name, flags).about(name)
        };
        let one = |what: &String| match what.as_str() {
            "control" => control.take().map(Into::into).ok_or_else(|| Failure::new("control", "it is given twice")),
            "groups" => groups.take().ok_or_else(|| Failure::new("control groups", "there are none")),
            "init" => File::open(INIT).map(Into::into).about(INIT),
            "writes" => open(WRITES),
            "lower" => open(LOWER),
            "root" => open(ROOT),
            other => Err(Failure::new(other, "there is no such descriptor")),
        };
        self.spec.descriptors.iter().map(one).collect()
    }
}

/// Gives a volume the owner and the mode of the image's directory, whose content is copied there.
fn like_the_images(mount: &mut Value) {
    let copied = mount["options"].as_array().is_some_and(|options| options.iter().any(|option| option == COPIED));
    let target = mount["destination"].as_str().unwrap_or_default().trim_start_matches('/');
    let Some(found) = fs::metadata(Path::new(LOWER).join(target)).ok().filter(|found| copied && found.is_dir()) else {
        return;
    };
    if let Some(options) = mount["options"].as_array_mut() {
        options.retain(|option| option.as_str().is_some_and(|option| !option.starts_with("mode=")));
        let ids = [format!("uid={}", found.uid()), format!("gid={}", found.gid())];
        options.extend([format!("mode={:o}", found.mode() & 0o7777)].into_iter().chain(ids).map(Value::from));
    }
}

/// Mounts the place with init's program in it. The program is read-only there: root in the container can reach it, as the
/// program of its process 1, and it belongs to the user.
fn mount_init(spec: &Spec) -> Result<(), Failure> {
    let place = &spec.place;
    // Opened first, because the place may hide it.
    let program = File::open(&spec.init).about(spec.init.display())?;
    mount("lamina", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755").about(place.display())?;
    std::env::set_current_dir(place).about(place.display())?;
    for name in [LOWER, WRITES, ROOT, BUNDLE, GROUPS, "run"] {
        fs::create_dir(name).about(name)?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
    let flags = inherited(&spec.init)?;
    if flags.contains(MountFlags::NOEXEC) {
        fs::copy(&source, INIT).about(INIT)?;
        fs::set_permissions(INIT, std::os::unix::fs::PermissionsExt::from_mode(0o555)).about(INIT)?;
        return mount_bind(INIT, INIT)
            .and_then(|()| {
                mount_remount(INIT, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")
            })
            .about(INIT);
    }
    fs::write(INIT, "").about(INIT)?;
    mount_bind(&source, INIT).about(INIT)?;
    mount_remount(INIT, MountFlags::BIND | MountFlags::RDONLY | flags, "").about(INIT)
}

/// Starts fuse-overlayfs as the first process of the process namespace, and waits for its mount. When it ends, the kernel
/// ends the container.
fn fuse_overlayfs() -> Result<Child, String> {
    let program = child::find("fuse-overlayfs", &[]).ok_or("it is not installed")?;
    let options = format!("lowerdir={LOWER},upperdir={WRITES}/upper,workdir={WRITES}/work");
    let device = |path: &str| fs::metadata(path).map(|found| found.dev());
    let before = device(ROOT).map_err(|error| error.to_string())?;
    let mut command = tied(&program);
    make_first(&mut command).map_err(|failure| failure.to_string())?;
    let mut server = command.args(["-f", "-o", &options, ROOT]).spawn().map_err(|error| error.to_string())?;
    let start = Instant::now();
    loop {
        if device(ROOT).is_ok_and(|now| now != before) {
            return Ok(server);
        }
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("it ended ({status})"));
        }
        if start.elapsed() > MOUNTED {
            let _ = server.kill();
            let _ = server.wait();
            return Err(format!("it did not mount within {} s", MOUNTED.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Appends to a file, and reads it back.
fn change(file: &Path) -> io::Result<()> {
    const ADDED: &[u8] = b"changed";
    fs::OpenOptions::new().append(true).open(file)?.write_all(ADDED)?;
    let mut content = Vec::new();
    File::open(file)?.read_to_end(&mut content)?;
    if content.ends_with(ADDED) { Ok(()) } else { Err(io::Error::other("a change of a file of the image was lost")) }
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).about("mount options")
}

/// Returns the flags of the mount that holds `path` that a remount in a user namespace must repeat.
fn inherited(path: &Path) -> Result<MountFlags, Failure> {
    use rustix::fs::StatVfsMountFlags as Found;
    let found = rustix::fs::statvfs(path).about(path.display())?.f_flag;
    let pairs = [
        (Found::NOSUID, MountFlags::NOSUID),
        (Found::NODEV, MountFlags::NODEV),
        (Found::NOEXEC, MountFlags::NOEXEC),
        (Found::NOATIME, MountFlags::NOATIME),
        (Found::NODIRATIME, MountFlags::NODIRATIME),
        (Found::RELATIME, MountFlags::RELATIME),
    ];
    let flags = pairs.into_iter().filter(|(has, _)| found.contains(*has)).map(|(_, flag)| flag);
    Ok(flags.fold(MountFlags::empty(), |all, flag| all | flag))
}
