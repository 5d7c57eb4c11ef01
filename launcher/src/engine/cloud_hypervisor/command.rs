//! Cloud Hypervisor's command line, and the body for its REST interface.

use std::path::Path;

use serde_json::{Value, json};

use super::version::Version;
use crate::engine::plan::{Disk, NetworkDevice, Plan, ServedDisk, ShareDevice, utf8};
use crate::engine::socket_device::{GUEST, SocketDevice};
use crate::failure::Failure;
use crate::host::command_line::CommandLine;

const TITLE: &str = "Cloud Hypervisor";

/// The name of the pipe for its events, beside the machine's socket device.
pub(super) const EVENTS: &str = "events";

/// The name of the socket of its REST interface, beside the machine's socket device.
const API: &str = "api.sock";

/// One pair of queues, as passt has: the queues of a network card are counted one by one.
const NETWORK_QUEUES: u32 = 2;
const NETWORK_QUEUE_SIZE: u32 = 256;

/// Virtiofsd has one request queue, and the servers of this program too.
const SHARE_QUEUES: u32 = 1;
const SHARE_QUEUE_SIZE: u32 = 1024;

const DISK_QUEUE_SIZE: u32 = 128;

/// Returns the guest's kernel command line. A panic and a reboot end by a triple fault, which is told as a reboot.
fn parameters(plan: &Plan) -> String {
    plan.command_line(&["console=ttyS0", "panic=-1", "reboot=t"])
}

/// Returns its command line for `plan`.
///
/// # Errors
/// Names a path that its option syntax cannot carry.
pub(super) fn command(program: &Path, plan: &Plan, version: Version) -> Result<CommandLine, Failure> {
    let sockets = SocketDevice::of(plan);
    let shares = plan.shares.iter().map(|share| {
        let (tag, socket) = (quoted(&share.tag)?, quoted_path(&share.socket)?);
        Ok(format!("tag={tag},socket={socket},num_queues={SHARE_QUEUES},queue_size={SHARE_QUEUE_SIZE}"))
    });
    let served = plan.served_disks.iter().map(|disk| {
        let socket = quoted_path(&disk.socket)?;
        Ok(format!("vhost_user=on,socket={socket},num_queues={},queue_size={DISK_QUEUE_SIZE}", disk.queues))
    });
    let disks = plan.disks.iter().map(|disk| {
        let access = if disk.read_only { "on" } else { "off" };
        let format = if version.names_formats() { ",image_type=raw" } else { "" };
        let way = if by_system_calls(disk, version) { ",_disable_aio=on" } else { "" };
        let (path, serial) = (quoted_path(&disk.path)?, quoted(&disk.serial)?);
        Ok(format!("path={path},readonly={access},serial={serial}{format}{way}"))
    });
    let network = network(plan).map(|socket| {
        let socket = quoted_path(socket)?;
        let queues = format!("num_queues={NETWORK_QUEUES},queue_size={NETWORK_QUEUE_SIZE}");
        Ok(format!("vhost_user=true,socket={socket},{queues}"))
    });
    let collected = |values: &mut dyn Iterator<Item = Result<String, Failure>>| values.collect::<Result<Vec<_>, _>>();
    let command = CommandLine::new(program)
        .args(["--cpus", &format!("boot={}", plan.cpus)])
        // Vhost-user devices read the guest's memory, so it must be shared.
        .args(["--memory", &format!("size={}M,shared=on", plan.memory_mib)])
        .arg("--kernel")
        .arg(&plan.kernel)
        .arg("--initramfs")
        .arg(&plan.initramfs)
        .args(["--cmdline", &parameters(plan)])
        .args(["--console", "off"])
        .args(["--serial", &format!("file={}", quoted_path(&plan.console)?)])
        .args(["--vsock", &format!("cid={GUEST},socket={}", quoted_path(&sockets.path())?)]);
    let command = version.option(command, "--fs", collected(&mut shares.into_iter())?);
    let command = version.option(command, "--disk", collected(&mut served.chain(disks))?);
    let command = version.option(command, "--net", collected(&mut network.into_iter())?);
    // Its own filter of system calls, which is also its default. These are last, because the parser would take any words
    // after `--fs`, `--disk` or `--net` as further values.
    Ok(command
        .args(["--seccomp", "true"])
        .args(["--event-monitor", &format!("path={}", quoted_path(&sockets.file(EVENTS))?)])
        .arg("--api-socket")
        .arg(sockets.file(API)))
}

/// Returns the body of `PUT /api/v1/vm.create` for `plan`, which has no dialect, and takes any path in UTF-8.
///
/// # Errors
/// Names a path that is not UTF-8.
pub(super) fn body(plan: &Plan, version: Version) -> Result<Value, Failure> {
    let text = |path: &Path| utf8(TITLE, path).map(str::to_owned);
    let share = |share: &ShareDevice| {
        let (tag, socket) = (&share.tag, text(&share.socket)?);
        Ok(json!({ "tag": tag, "socket": socket, "num_queues": SHARE_QUEUES, "queue_size": SHARE_QUEUE_SIZE }))
    };
    let disk = |disk: &Disk| {
        let mut value = json!({ "path": text(&disk.path)?, "readonly": disk.read_only, "serial": disk.serial });
        if version.names_formats() {
            value["image_type"] = "Raw".into();
        }
        if by_system_calls(disk, version) {
            value["disable_aio"] = true.into();
        }
        Ok(value)
    };
    let served = |disk: &ServedDisk| {
        let (socket, queues, size) = (text(&disk.socket)?, disk.queues, DISK_QUEUE_SIZE);
        Ok(json!({ "vhost_user": true, "vhost_socket": socket, "num_queues": queues, "queue_size": size }))
    };
    let disks = plan.served_disks.iter().map(served).chain(plan.disks.iter().map(disk));
    let mut body = json!({
        "cpus": { "boot_vcpus": plan.cpus, "max_vcpus": plan.cpus },
        "memory": { "size": plan.memory_mib << 20, "shared": true },
        "payload": {
            "kernel": text(&plan.kernel)?,
            "initramfs": text(&plan.initramfs)?,
            "cmdline": parameters(plan),
        },
        "fs": plan.shares.iter().map(share).collect::<Result<Vec<Value>, Failure>>()?,
        "disks": disks.collect::<Result<Vec<Value>, Failure>>()?,
        "console": { "mode": "Off" },
        "serial": { "mode": "File", "file": text(&plan.console)? },
        "vsock": { "cid": GUEST, "socket": text(&SocketDevice::of(plan).path())? },
    });
    if let Some(socket) = network(plan) {
        body["net"] = json!([{
            "vhost_user": true,
            "vhost_socket": text(socket)?,
            "num_queues": NETWORK_QUEUES,
            "queue_size": NETWORK_QUEUE_SIZE,
        }]);
    }
    Ok(body)
}

/// Returns the socket of the network card. It has no other card that needs no privileges on the host.
fn network(plan: &Plan) -> Option<&Path> {
    match &plan.network {
        Some(NetworkDevice::VhostUser(socket)) => Some(socket),
        _ => None,
    }
}

/// Returns whether a disk is to be read and written by plain system calls, where io_uring may not be used.
fn by_system_calls(disk: &Disk, version: Version) -> bool {
    !disk.read_only && version.has_incomplete_aio()
}

fn quoted_path(path: &Path) -> Result<String, Failure> {
    quoted(utf8(TITLE, path)?)
}

/// Returns a value as its option parser expects it: in quotes if it has a comma. The parser removes quotes, counts
/// brackets (older ones even within quotes), and trims values, so a value with any of these cannot be passed.
fn quoted(text: &str) -> Result<String, Failure> {
    if text.contains(['"', '[', ']']) || text.trim() != text {
        let cause = "Cloud Hypervisor's options cannot carry a quote, a bracket, or a space at an end";
        return Err(Failure::new(text, cause).with_hint("set XDG_RUNTIME_DIR and XDG_STATE_HOME to plain paths"));
    }
    Ok(if text.contains(',') { format!("\"{text}\"") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::example;

    fn text(shares: usize, version: u32) -> String {
        command(Path::new("cloud-hypervisor"), &example(shares), Version(version)).unwrap().to_shell()
    }

    fn with_disks() -> Plan {
        let mut plan = example(0);
        plan.shares.clear();
        let disk = |serial: &str, path: &str, read_only| Disk { serial: serial.into(), path: path.into(), read_only };
        plan.disks = vec![disk("root", "/store/a, b.erofs", true), disk("kept", "/state/web/kept.img", false)];
        plan
    }

    #[test]
    fn current_releases_get_one_flag_with_all_shares() {
        insta::assert_snapshot!(text(2, 51));
    }

    #[test]
    fn releases_with_the_other_parser_get_repeated_flags() {
        insta::assert_snapshot!(text(2, 33));
    }

    #[test]
    fn every_dialect_carries_any_number_of_shares() {
        for shares in [0, 1, 2, 8, 24] {
            for (version, flags) in [(29, 1), (33, shares + 1), (36, 1), (51, 1), (52, 1), (53, 1)] {
                let text = text(shares, version);
                assert_eq!(text.matches("--fs").count(), flags, "v{version}");
                assert_eq!(text.matches("tag=").count(), shares + 1, "v{version}");
            }
        }
    }

    #[test]
    fn disks_without_shares_in_every_dialect() {
        let lines = [36, 50, 51, 52, 53].map(|version| {
            let line = command(Path::new("ch"), &with_disks(), Version(version)).unwrap().to_shell();
            assert_eq!(line.matches("image_type=raw").count(), if version < 51 { 0 } else { 2 }, "v{version}");
            assert!(!line.contains("--fs") && !line.contains("--net"), "{line}");
            assert_eq!(line.matches("serial=kept,image_type=raw,_disable_aio=on").count(), usize::from(version == 51));
            assert_eq!(line.matches("_disable_aio").count(), usize::from(version == 51), "v{version}");
            line.replace(",image_type=raw", "").replace(",_disable_aio=on", "")
        });
        assert!(lines.iter().all(|line| line == &lines[0]), "{lines:?}");
        insta::assert_snapshot!(lines[0]);
    }

    #[test]
    fn served_disk_is_a_vhost_user_device_before_the_others() {
        let mut plan = with_disks();
        plan.disks.remove(0);
        plan.served_disks = vec![ServedDisk { serial: "root".into(), socket: "/run/m,1/root.sock".into(), queues: 2 }];
        let line = command(Path::new("ch"), &plan, Version(53)).unwrap();
        let place = line.arguments.iter().position(|word| word == "--disk").unwrap();
        assert_eq!(
            line.arguments[place + 1],
            "vhost_user=on,socket=\"/run/m,1/root.sock\",num_queues=2,queue_size=128"
        );
        let disks = &body(&plan, Version(53)).unwrap()["disks"];
        assert_eq!(disks[0]["num_queues"], 2);
        assert_eq!((&disks[0]["vhost_socket"], &disks[1]["serial"]), (&json!("/run/m,1/root.sock"), &json!("kept")));
    }

    #[test]
    fn network_card_is_a_vhost_user_device_or_missing() {
        let mut plan = example(0);
        plan.network = Some(NetworkDevice::VhostUser("/run/m,1/network.sock".into()));
        let line = command(Path::new("ch"), &plan, Version(53)).unwrap();
        let card = "vhost_user=true,socket=\"/run/m,1/network.sock\",num_queues=2,queue_size=256";
        let place = line.arguments.iter().position(|word| word == "--net").unwrap();
        assert_eq!(line.arguments[place + 1], card);
        assert_eq!(body(&plan, Version(53)).unwrap()["net"][0]["vhost_socket"], "/run/m,1/network.sock");
        for other in [NetworkDevice::Slirp, NetworkDevice::Passt("/run/m/network.sock".into())] {
            plan.network = Some(other);
            assert!(!command(Path::new("ch"), &plan, Version(53)).unwrap().to_shell().contains("--net"));
            assert_eq!(body(&plan, Version(53)).unwrap().get("net"), None);
        }
    }

    #[test]
    fn rest_body_has_no_dialect_and_takes_any_path() {
        let mut plan = Plan { shares: example(2).shares, ..with_disks() };
        plan.shares[0].socket = "/run/a, \"b\" [c] = ü.sock".into();
        insta::assert_snapshot!(format!("{:#}", body(&plan, Version(51)).unwrap()));
        assert_eq!(body(&plan, Version(50)).unwrap()["disks"][0].get("image_type"), None);
    }

    #[test]
    fn paths_are_quoted_where_that_helps_and_refused_where_it_does_not() {
        let with = |socket: &str| {
            let mut plan = example(0);
            plan.shares[0].socket = socket.into();
            command(Path::new("c"), &plan, Version(51)).map(|line| line.arguments)
        };
        for (socket, expected) in [
            ("/run/a,b", "tag=root,socket=\"/run/a,b\""),
            ("/run/a b", "tag=root,socket=/run/a b"),
            ("/run/a=b", "tag=root,socket=/run/a=b"),
            ("/run/ü'", "tag=root,socket=/run/ü'"),
        ] {
            let expected = format!("{expected},num_queues=1,queue_size=1024");
            assert!(with(socket).unwrap().iter().any(|word| *word == *expected), "{socket}");
        }
        for socket in ["/run/a\"b", "/run/a[b]", "/run/a "] {
            let failure = with(socket).unwrap_err().to_string();
            assert!(failure.contains("cannot carry a quote") && failure.contains("XDG_RUNTIME_DIR"), "{failure}");
        }
    }
}
