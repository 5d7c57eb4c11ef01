//! What Firecracker is told: one document, which its `--config-file` takes, and the same as requests to its API.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::engine::plan::{Disk, Plan, ServedDisk, utf8};
use crate::engine::socket_device::{GUEST, SocketDevice};
use crate::failure::Failure;

/// The kernel's parameters: a reset by the keyboard's controller, which is what ends Firecracker, and no search for a
/// keyboard and a mouse, which it does not have.
const PARAMETERS: [&str; 6] = ["console=ttyS0", "panic=-1", "reboot=k", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd"];

/// Returns the document for `plan`. A network card would need privileges on the host that this program does not have.
///
/// # Errors
/// A path is not UTF-8.
pub(super) fn document(plan: &Plan, device: &SocketDevice) -> Result<Map<String, Value>, Failure> {
    // Letters, digits and "_" only. The guest does not see it.
    let id = |position: usize| format!("disk{position}");
    let first = plan.served_disks.len();
    // Its server says whether it can be written to.
    let served = |(position, disk): (usize, &ServedDisk)| {
        Ok(json!({ "drive_id": id(position), "socket": text(&disk.socket)?, "is_root_device": false }))
    };
    let drive = |(position, disk): (usize, &Disk)| {
        Ok(json!({
            "drive_id": id(first + position),
            "path_on_host": text(&disk.path)?,
            "is_root_device": false,
            "is_read_only": disk.read_only,
            // Otherwise a flush of the guest is ignored.
            "cache_type": if disk.read_only { "Unsafe" } else { "Writeback" },
        }))
    };
    let served = plan.served_disks.iter().enumerate().map(served);
    let drives = served.chain(plan.disks.iter().enumerate().map(drive)).collect::<Result<Vec<Value>, Failure>>()?;
    let boot = json!({
        "kernel_image_path": text(&plan.kernel)?,
        "initrd_path": text(&plan.initramfs)?,
        "boot_args": plan.command_line(&PARAMETERS),
    });
    let machine = json!({ "vcpu_count": plan.cpus, "mem_size_mib": plan.memory_mib });
    let vsock = json!({ "guest_cid": GUEST, "uds_path": text(&device.path())? });
    let parts = [("machine-config", machine), ("boot-source", boot), ("drives", Value::from(drives)), ("vsock", vsock)];
    Ok(parts.map(|(name, part)| (name.to_owned(), part)).into_iter().collect())
}

/// Returns the path and the body of each request that a document amounts to.
pub(super) fn requests(document: Map<String, Value>) -> Vec<(String, Value)> {
    let request = |(name, part): (String, Value)| match part {
        Value::Array(parts) => parts
            .into_iter()
            .map(|part| (format!("/{name}/{}", part["drive_id"].as_str().unwrap_or_default()), part))
            .collect(),
        part => vec![(format!("/{name}"), part)],
    };
    document.into_iter().flat_map(request).collect()
}

/// Returns the body of the request that says where the console's output goes, which is not part of a document.
///
/// # Errors
/// The path is not UTF-8.
pub(super) fn serial(path: &Path) -> Result<Value, Failure> {
    Ok(json!({ "serial_out_path": text(path)? }))
}

/// Returns the body of the request that starts the guest.
pub(super) fn start() -> Value {
    json!({ "action_type": "InstanceStart" })
}

fn text(path: &Path) -> Result<&str, Failure> {
    utf8("Firecracker", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::example;

    #[test]
    fn every_part_of_the_document_is_one_request_and_every_disk_is() {
        let mut plan = example(0);
        let disk = |serial: &str, read_only| Disk { serial: serial.into(), path: "/d".into(), read_only };
        plan.disks = vec![disk("root", true), disk("kept", false)];
        let requests = requests(document(&plan, &SocketDevice::of(&plan)).unwrap());
        let mut paths: Vec<&str> = requests.iter().map(|(path, _)| path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/boot-source", "/drives/disk0", "/drives/disk1", "/machine-config", "/vsock"]);
        let body = |wanted: &str| &requests.iter().find(|(path, _)| path == wanted).unwrap().1;
        assert_eq!(body("/drives/disk1")["is_read_only"], false);
        assert_eq!(body("/drives/disk1")["cache_type"], "Writeback");
        assert_eq!(body("/vsock")["uds_path"], "/run/m/control/vsock");
        assert!(body("/boot-source")["boot_args"].as_str().unwrap().ends_with(" quiet"));
    }

    #[test]
    fn disk_of_a_server_is_its_socket_and_comes_before_the_others() {
        let mut plan = example(0);
        plan.served_disks = vec![ServedDisk { serial: "root".into(), socket: "/run/m/root.sock".into(), queues: 1 }];
        plan.disks = vec![Disk { serial: "kept".into(), path: "/d".into(), read_only: false }];
        let drives = &document(&plan, &SocketDevice::of(&plan)).unwrap()["drives"];
        // Firecracker refuses a socket together with a path or an access.
        assert_eq!(drives[0], json!({ "drive_id": "disk0", "socket": "/run/m/root.sock", "is_root_device": false }));
        assert_eq!((&drives[1]["drive_id"], &drives[1]["path_on_host"]), (&json!("disk1"), &json!("/d")));
    }

    #[test]
    fn path_that_is_not_utf8_is_named() {
        use std::os::unix::ffi::OsStrExt;
        let mut plan = example(0);
        plan.initramfs = Path::new(std::ffi::OsStr::from_bytes(b"/cache/\xff")).to_owned();
        let failure = document(&plan, &SocketDevice::of(&plan)).unwrap_err().to_string();
        assert!(failure.contains("Firecracker takes UTF-8 paths only"), "{failure}");
    }
}
