//! Firecracker: disks only, described by one JSON document (`--config-file`).
//!
//! It has no virtiofs, so the root must be a block image and there are no shares. Its kernel is an uncompressed
//! `vmlinux`, not a bzImage.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::contract::{
    Capabilities, Description, Document, Engine, Events, Host, Running, find_printed, not_started_yet,
};
use super::plan::{Disk, Plan, utf8};
use super::request::RunRequest;
use crate::failure::Failure;
use crate::host::command_line::CommandLine;

/// How many devices it has room for: one for each interrupt line of the IOAPIC from 5 to 23, less one for the socket
/// device.
const MOST_DEVICES: usize = 18;

const PROGRAM: &str = "firecracker";

/// The port of its guest's socket device at which init reaches the launcher, because it has no named serial ports.
const CONTROL_PORT: u32 = 1024;

/// Firecracker. Its command line is printed, but not started yet.
#[derive(Debug)]
pub(super) struct Firecracker;

impl Engine for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn title(&self) -> &'static str {
        "Firecracker"
    }

    fn accelerators(&self) -> &'static [&'static str] {
        &["kvm"]
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        find_printed(PROGRAM)
    }

    fn probe(&self, _host: &Host<'_>, _request: &RunRequest) -> Result<Capabilities, Failure> {
        Err(not_started_yet(self))
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        if !plan.shares.is_empty() {
            let shares = match plan.shares.len() {
                1 => "1 share".to_owned(),
                count => format!("{count} shares"),
            };
            let cause = format!("it has no virtiofs, which the machine needs for {shares} (-v, or its root)");
            return Err(Failure::new(self.title(), cause).with_hint("use --backend block and no -v, or another engine"));
        }
        plan.check_room(self.title(), MOST_DEVICES)
    }

    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        let document = document(plan)?;
        let command = CommandLine::new(self.program().unwrap_or_else(|_| PROGRAM.into()))
            .arg("--api-sock")
            .arg(&plan.monitor)
            .arg("--config-file")
            .arg(&document.path);
        Ok(Description { command, document: Some(document) })
    }

    fn start(&self, _plan: &Plan, _events: Events) -> Result<Box<dyn Running>, Failure> {
        Err(not_started_yet(self))
    }
}

/// Returns the document that it reads. A network card would need privileges on the host that this program does not
/// have.
fn document(plan: &Plan) -> Result<Document, Failure> {
    let text = |path: &Path| utf8("Firecracker", path).map(str::to_owned);
    let drive = |(position, disk): (usize, &Disk)| {
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
        // A connection to port N of the host arrives at this path followed by "_N".
        "vsock": { "guest_cid": 3, "uds_path": text(&plan.control)? },
    });
    let about = format!("Firecracker's configuration; the guest's init connects to port {CONTROL_PORT}");
    Ok(Document { about, path: plan.log.with_file_name("firecracker.json"), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::example;

    fn with_image(path: &str) -> Plan {
        let mut plan = example(0);
        plan.shares.clear();
        plan.disks = vec![Disk { serial: "root".into(), path: path.into(), read_only: true }];
        plan
    }

    #[test]
    fn block_root_as_command_and_document() {
        let plan = with_image("/store/it's a, \"b\" = ü.erofs");
        Firecracker.check(&plan).unwrap();
        let Description { command, document } = Firecracker.describe(&plan).unwrap();
        insta::assert_snapshot!(format!("{}\n{:#}", command.to_shell(), document.unwrap().body));
    }

    #[test]
    fn shares_are_refused_with_the_way_out() {
        for shares in [0, 1, 2, 8, 40] {
            let failure = Firecracker.check(&example(shares)).unwrap_err().to_string();
            let counted = if shares == 0 { "for 1 share (".into() } else { format!("for {} shares (", shares + 1) };
            assert!(failure.contains(&counted) && failure.contains("--backend block"), "{failure}");
        }
    }
}
