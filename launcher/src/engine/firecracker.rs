//! Firecracker: disks only, described by one JSON document (`--config-file`).
//!
//! It has no virtiofs, so the root must be a block image and there are no shares. Its kernel is an uncompressed
//! `vmlinux`, not a bzImage.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cloud_hypervisor::CONTROL_PORT;
use super::{Document, Engine, Events, Plan, Running, not_started_yet, utf8};
use crate::failure::Failure;
use crate::host::command_line::CommandLine;

/// Devices that it has room for: one interrupt line of the IOAPIC each, from 5 to 23, of which the socket device has one.
const MOST_DEVICES: usize = 18;

/// Firecracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firecracker {
    /// The program.
    pub(crate) program: PathBuf,
    /// Where its document will be.
    pub(crate) config: PathBuf,
}

impl Engine for Firecracker {
    fn name(&self) -> &'static str {
        "Firecracker"
    }

    fn most_devices(&self) -> usize {
        MOST_DEVICES
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        if !plan.shares.is_empty() {
            let cause = format!("it has no virtiofs, and {} shares are asked for", plan.shares.len());
            return Err(
                Failure::new(self.name(), cause).with_hint("use --backend block and no -v, or another hypervisor")
            );
        }
        Ok(())
    }

    fn start(&self, _plan: &Plan, _events: Events) -> Result<Box<dyn Running>, Failure> {
        Err(not_started_yet(self.name()))
    }

    fn command(&self, plan: &Plan) -> Result<CommandLine, Failure> {
        let command = CommandLine::new(&self.program).arg("--api-sock").arg(&plan.monitor);
        Ok(command.arg("--config-file").arg(&self.config))
    }

    fn document(&self, plan: &Plan) -> Result<Option<Document>, Failure> {
        let text = |path: &Path| utf8(self.name(), path).map(str::to_owned);
        let drive = |(position, disk): (usize, &super::Disk)| {
            Ok(json!({
                // Letters, digits and "_" only; the guest sees the disks in this order.
                "drive_id": format!("disk{position}"),
                "path_on_host": text(&disk.path)?,
                "is_root_device": false,
                "is_read_only": disk.read_only,
            }))
        };
        let drives = plan.disks.iter().enumerate().map(drive).collect::<Result<Vec<Value>, Failure>>()?;
        let body = json!({
            "boot-source": {
                "kernel_image_path": text(&plan.kernel)?,
                "initrd_path": text(&plan.initramfs)?,
                "boot_args": plan.command_line(&["console=ttyS0", "panic=-1", "reboot=t"]),
            },
            "drives": drives,
            "machine-config": { "vcpu_count": plan.cpus, "mem_size_mib": plan.memory_mib },
            // A connection to port N of the host comes out at this path with "_N" behind it.
            "vsock": { "guest_cid": 3, "uds_path": text(&plan.control)? },
        });
        let about = format!("Firecracker's configuration; the guest's init connects to port {CONTROL_PORT}");
        Ok(Some(Document { about, path: self.config.clone(), body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Disk, example};

    fn firecracker() -> Firecracker {
        Firecracker { program: "firecracker".into(), config: "/state/web/firecracker.json".into() }
    }

    fn with_image(path: &str) -> Plan {
        let mut plan = example(0);
        plan.shares.clear();
        plan.disks = vec![Disk { serial: "root".into(), path: path.into(), read_only: true }];
        plan
    }

    #[test]
    fn block_root_as_command_and_document() {
        let plan = with_image("/store/it's a, \"b\" = ü.erofs");
        firecracker().check(&plan).unwrap();
        let document = firecracker().document(&plan).unwrap().unwrap();
        let command = firecracker().command(&plan).unwrap().to_shell();
        insta::assert_snapshot!(format!("{command}\n{:#}", document.body));
    }

    #[test]
    fn shares_are_refused_with_the_way_out() {
        for shares in [0, 1, 2, 8, 40] {
            let failure = firecracker().check(&example(shares)).unwrap_err().to_string();
            assert!(
                failure.contains(&format!("{} shares", shares + 1)) && failure.contains("--backend block"),
                "{failure}"
            );
        }
    }
}
