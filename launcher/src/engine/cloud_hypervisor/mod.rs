//! Cloud Hypervisor: its command line, in the dialect of its version, and the body for its REST interface.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::contract::{
    Capabilities, Description, Document, Engine, Events, Host, Running, find_printed, not_started_yet,
};
use super::plan::{Disk, Plan, ShareDevice, utf8};
use super::request::RunRequest;
use crate::failure::Failure;
use crate::host::command_line::CommandLine;
use crate::host::version;

/// How a version of Cloud Hypervisor takes several values of one option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// One flag followed by all values: every release but the next.
    OneFlag,
    /// The flag repeated before each value: v30 to v35, whose parser (argh) refuses anything else.
    RepeatedFlag,
}

impl Dialect {
    /// The dialect of a major version.
    #[must_use]
    const fn of(version: u32) -> Self {
        match version {
            30..=35 => Self::RepeatedFlag,
            _ => Self::OneFlag,
        }
    }

    /// Adds an option with several values, or nothing if there are no values.
    fn option(self, command: CommandLine, flag: &str, values: Vec<String>) -> CommandLine {
        match self {
            _ if values.is_empty() => command,
            Self::OneFlag => command.arg(flag).args(values),
            Self::RepeatedFlag => {
                values.into_iter().fold(command, |command, value| command.args([flag.to_owned(), value]))
            }
        }
    }
}

/// Reads the major version from what `--version` prints: `cloud-hypervisor v51.2` or `... v39.0-dirty`.
#[must_use]
fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(1)?;
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// How many devices it has room for: 32 slots on its one PCI segment (`NUM_DEVICE_IDS`), less one each for the bridge,
/// the console, the random source and the socket device.
const MOST_DEVICES: usize = 28;

const PROGRAM: &str = "cloud-hypervisor";

/// Cloud Hypervisor. Its command line is printed, but not started yet.
#[derive(Debug)]
pub(super) struct CloudHypervisor;

impl Engine for CloudHypervisor {
    fn name(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn title(&self) -> &'static str {
        "Cloud Hypervisor"
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
        plan.check_room(self.title(), MOST_DEVICES)
    }

    /// Uses the dialect of the version on this host, or of the newest version. The document is the body of `PUT
    /// /api/v1/vm.create`, which is the same for all releases from v26 on.
    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        // Its network needs privileges on the host that this program does not have.
        let plan = &Plan { network: None, ..plan.clone() };
        let found = self.program().ok().and_then(|program| Some((parse_version(&version(&program).ok()?)?, program)));
        let (version, program) = found.unwrap_or((u32::MAX, PROGRAM.into()));
        let about = "the same for Cloud Hypervisor's REST interface: PUT /api/v1/vm.create".to_owned();
        let document = Document { about, path: "vm.json".into(), body: body(plan)? };
        Ok(Description { command: command(&program, plan, version)?, document: Some(document) })
    }

    fn start(&self, _plan: &Plan, _events: Events) -> Result<Box<dyn Running>, Failure> {
        Err(not_started_yet(self))
    }
}

fn parameters(plan: &Plan) -> String {
    plan.command_line(&["console=ttyS0", "panic=-1", "reboot=t"])
}

/// The arguments of Cloud Hypervisor for `plan`.
///
/// # Errors
/// Names a path that its option syntax cannot carry.
fn command(program: &Path, plan: &Plan, version: u32) -> Result<CommandLine, Failure> {
    let shares = plan
        .shares
        .iter()
        .map(|share| Ok(format!("tag={},socket={}", quoted(&share.tag)?, quoted_path(&share.socket)?)));
    let disks = plan.disks.iter().map(|disk| {
        let access = if disk.read_only { "on" } else { "off" };
        Ok(format!("path={},readonly={access},serial={}", quoted_path(&disk.path)?, quoted(&disk.serial)?))
    });
    let (shares, disks) = (shares.collect::<Result<Vec<_>, Failure>>()?, disks.collect::<Result<Vec<_>, Failure>>()?);
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
        .args(["--vsock", &format!("cid=3,socket={}", quoted_path(&plan.control)?)]);
    let dialect = Dialect::of(version);
    let command = dialect.option(dialect.option(command, "--fs", shares), "--disk", disks);
    // Last, because the parser would take any words after `--fs` or `--disk` as further values.
    Ok(command.arg("--api-socket").arg(&plan.monitor))
}

fn body(plan: &Plan) -> Result<Value, Failure> {
    let text = |path: &Path| utf8("Cloud Hypervisor", path).map(str::to_owned);
    let share = |share: &ShareDevice| {
        // virtiofsd has one request queue.
        Ok(json!({ "tag": share.tag, "socket": text(&share.socket)?, "num_queues": 1, "queue_size": 1024 }))
    };
    let disk =
        |disk: &Disk| Ok(json!({ "path": text(&disk.path)?, "readonly": disk.read_only, "serial": disk.serial }));
    Ok(json!({
        "cpus": { "boot_vcpus": plan.cpus, "max_vcpus": plan.cpus },
        "memory": { "size": plan.memory_mib << 20, "shared": true },
        "payload": {
            "kernel": text(&plan.kernel)?,
            "initramfs": text(&plan.initramfs)?,
            "cmdline": parameters(plan),
        },
        "fs": plan.shares.iter().map(share).collect::<Result<Vec<Value>, Failure>>()?,
        "disks": plan.disks.iter().map(disk).collect::<Result<Vec<Value>, Failure>>()?,
        "console": { "mode": "Off" },
        "serial": { "mode": "File", "file": text(&plan.console)? },
        "vsock": { "cid": 3, "socket": text(&plan.control)? },
    }))
}

fn quoted_path(path: &Path) -> Result<String, Failure> {
    quoted(utf8("Cloud Hypervisor", path)?)
}

/// Returns a value as its option parser expects it: in quotes if it has a comma. The parser removes quotes, counts
/// brackets even within quotes, and trims values, so a value with any of these cannot be passed.
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
        command(Path::new("cloud-hypervisor"), &example(shares), version).unwrap().to_shell()
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
    fn the_dialect_follows_the_version() {
        for (version, dialect) in [
            (29, Dialect::OneFlag),
            (30, Dialect::RepeatedFlag),
            (35, Dialect::RepeatedFlag),
            (36, Dialect::OneFlag),
            (51, Dialect::OneFlag),
            (52, Dialect::OneFlag),
        ] {
            assert_eq!(Dialect::of(version), dialect, "v{version}");
        }
    }

    #[test]
    fn every_dialect_carries_any_number_of_shares() {
        for shares in [0, 1, 2, 8, 40] {
            for (version, flags) in [(29, 1), (33, shares + 1), (51, 1), (53, 1)] {
                let text = text(shares, version);
                assert_eq!(text.matches("--fs").count(), flags, "v{version}");
                assert_eq!(text.matches("tag=").count(), shares + 1, "v{version}");
            }
        }
    }

    #[test]
    fn no_share_and_a_disk_in_every_dialect() {
        let mut plan = example(0);
        plan.shares.clear();
        plan.disks = vec![Disk { serial: "root".into(), path: "/store/a, b.erofs".into(), read_only: true }];
        let lines = [29, 33, 51, 53].map(|version| command(Path::new("ch"), &plan, version).unwrap().to_shell());
        assert!(lines.iter().all(|line| line == &lines[0]), "{lines:?}");
        insta::assert_snapshot!(lines[0]);
    }

    #[test]
    fn rest_body_has_no_dialect_and_takes_any_path() {
        let mut plan = example(2);
        plan.shares[0].socket = "/run/a, \"b\" [c] = ü.sock".into();
        insta::assert_snapshot!(format!("{:#}", body(&plan).unwrap()));
    }

    #[test]
    fn versions_are_read_as_the_program_prints_them() {
        assert_eq!(parse_version("cloud-hypervisor v51.2\n"), Some(51));
        assert_eq!(parse_version("cloud-hypervisor v53.0-dirty"), Some(53));
        assert_eq!(parse_version("cloud-hypervisor 0.9"), Some(0));
        assert_eq!(parse_version("Cloud Hypervisor dummy"), None);
    }

    #[test]
    fn paths_are_quoted_where_that_helps_and_refused_where_it_does_not() {
        let with = |socket: &str| {
            let mut plan = example(0);
            plan.shares[0].socket = socket.into();
            command(Path::new("c"), &plan, 51).map(|line| line.arguments)
        };
        for (socket, expected) in [
            ("/run/a,b", "tag=root,socket=\"/run/a,b\""),
            ("/run/a b", "tag=root,socket=/run/a b"),
            ("/run/a=b", "tag=root,socket=/run/a=b"),
            ("/run/ü'", "tag=root,socket=/run/ü'"),
        ] {
            assert!(with(socket).unwrap().iter().any(|word| word == expected), "{socket}");
        }
        for socket in ["/run/a\"b", "/run/a[b]", "/run/a "] {
            let failure = with(socket).unwrap_err().to_string();
            assert!(failure.contains("cannot carry a quote") && failure.contains("XDG_RUNTIME_DIR"), "{failure}");
        }
    }
}
