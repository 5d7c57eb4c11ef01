//! The start of init, from the kernel's handover to an open control channel, and the power-off.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::{MODULES, PORT_NAME, Part, SOCKET_PORT};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;

use crate::sys;

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h`: the kernel unpacks the file itself.
const COMPRESSED: i32 = 4;

/// What `/sys` says of a virtio socket device: its number in the virtio specification, 5.10.1.
const SOCKET_DEVICE: &str = "0x0013";

/// The host answers the port's handshake at once; only a guest that gets hardly any processor time needs this long.
const PORT_DEADLINE: Duration = Duration::from_secs(60);

/// Mounts one file system, and creates its mount point.
pub(crate) fn mount_at(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|error| format!("{target}: cannot make the mount point: {error}"))?;
    mount(source, target, kind, flags, options)
        .map_err(|error| format!("{target}: cannot mount {kind} {source:?}: {error}"))
}

/// Mounts what every later step reads: `/proc`, `/sys` and `/dev`.
fn mount_kernel_filesystems() -> Result<(), String> {
    let hardened = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_at("proc", "/proc", "proc", hardened, None)?;
    mount_at("sysfs", "/sys", "sysfs", hardened, None)?;
    mount_at("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, Some(c"mode=0755"))
}

/// Loads the modules that every guest needs. A module that fails to load is named on the console. If it was needed, the
/// step that uses its device fails.
fn load_modules() {
    load_directory(Path::new(MODULES));
}

/// Loads the modules of a part. Must be called before the root is entered, which hides the initramfs.
pub(crate) fn load_part(part: Part) {
    load_directory(&Path::new(MODULES).join(part.name()));
}

fn load_directory(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect();
    paths.sort();
    for path in paths {
        if let Err(error) = load_module(&path) {
            eprintln!("lamina: {}: cannot load the module: {error}", path.display());
        }
    }
}

fn load_module(path: &Path) -> Result<(), std::io::Error> {
    let flags = if path.extension().is_some_and(|extension| extension == "ko") { 0 } else { COMPRESSED };
    match rustix::system::finit_module(File::open(path)?, c"", flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Mounts what every later step reads, loads the modules that every guest needs, and opens the control channel: the
/// virtio-serial port called [`PORT_NAME`], or a virtio socket that is connected to the host's port [`SOCKET_PORT`].
pub(crate) fn open_control_channel() -> Result<File, String> {
    mount_kernel_filesystems()?;
    load_modules();
    let start = Instant::now();
    let (mut has_driver, mut refused) = (false, None);
    loop {
        if let Some(device) = find_port() {
            let path = Path::new("/dev").join(device);
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| format!("{}: cannot open the control channel: {error}", path.display()));
        }
        if has_driver || has_socket_device(Path::new("/sys/bus/virtio/devices")) {
            if !has_driver {
                load_part(Part::Socket);
                has_driver = true;
            }
            // Fails while the driver sets up the device.
            match sys::connect_to_host(SOCKET_PORT) {
                Ok(socket) => return Ok(socket.into()),
                Err(error) => refused = Some(error),
            }
        }
        if start.elapsed() > PORT_DEADLINE {
            return Err(match refused {
                Some(error) => format!("port {SOCKET_PORT} of the host: {error}: no control channel"),
                None => format!("no virtio-serial port named {PORT_NAME} and no virtio socket: no control channel"),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether there is a virtio socket device, with or without its driver.
fn has_socket_device(devices: &Path) -> bool {
    let is_socket = |device: fs::DirEntry| {
        fs::read_to_string(device.path().join("device")).is_ok_and(|number| number.trim_end() == SOCKET_DEVICE)
    };
    fs::read_dir(devices).is_ok_and(|entries| entries.flatten().any(is_socket))
}

fn find_port() -> Option<std::ffi::OsString> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| port.file_name())
    })
}

/// Writes dirty pages back and powers off. Never returns, because the kernel panics if init ends.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    loop {
        if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
            eprintln!("lamina: cannot power off: {error}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_device_is_told_from_others_by_its_number() {
        let devices = tempfile::tempdir().unwrap();
        assert!(!has_socket_device(devices.path()) && !has_socket_device(&devices.path().join("missing")));
        for (name, number) in [("virtio0", "0x0003\n"), ("virtio1", "0x0001\n")] {
            fs::create_dir(devices.path().join(name)).unwrap();
            fs::write(devices.path().join(name).join("device"), number).unwrap();
        }
        assert!(!has_socket_device(devices.path()));
        fs::write(devices.path().join("virtio1/device"), "0x0013\n").unwrap();
        assert!(has_socket_device(devices.path()));
    }
}
