//! Cloud Hypervisor, which needs KVM.
//!
//! Its guests have a virtio socket device for the control channel, and their events are read from a pipe. Everything that
//! it makes itself is in one directory: see [`SocketDevice`].

mod command;
mod events;
mod version;

use std::fs::File;
use std::path::{Path, PathBuf};

use self::events::{Reader, Stop};
use self::version::{REMEDY, Version};
use super::boot_probe;
use super::contract::{
    Accelerator, Capabilities, Description, Document, Engine, Event, Events, Exit, Host, MachineType, Running,
};
use super::plan::{KVM, NetworkDevice, Plan};
use super::request::RunRequest;
use super::socket_device::{SocketDevice, open_pipe};
use crate::failure::Failure;
use crate::host::child;
use crate::host::network::NetworkBackend;
use crate::host::process::{Handle, Process, Watched};

const NAME: &str = "cloud-hypervisor";

/// How many devices it has room for: 32 slots on its one PCI segment (`NUM_DEVICE_IDS`), less one each for the bridge,
/// the console, the random source and the socket device.
const MOST_DEVICES: usize = 28;

/// How many lines of its log its last error is looked for in.
const LAST_LINES: usize = 60;

/// Cloud Hypervisor.
#[derive(Debug)]
pub(super) struct CloudHypervisor;

impl Engine for CloudHypervisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "Cloud Hypervisor"
    }

    fn accelerators(&self) -> &'static [&'static str] {
        &[KVM]
    }

    fn served_disk_queues(&self, cpus: u32) -> Option<u16> {
        Some(super::contract::queue_for_each(cpus))
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        child::find(NAME, &[]).ok_or_else(|| Failure::new(NAME, "not found in PATH").with_hint(REMEDY))
    }

    /// Tests KVM with a boot, unless this engine is asked for: then the machine itself is the test. Without KVM it cannot be
    /// used at all.
    fn probe(&self, host: &Host<'_>, request: &RunRequest) -> Result<Capabilities, Failure> {
        let program = self.program()?;
        Version::cached(&program, host.cache)?.check(&program)?;
        // Its own filter of system calls is part of every release.
        let confinement = boot_probe::runs_by_kvm(self, &program, host, request, true)?;
        let advantage = "it is its only one";
        Ok(Capabilities {
            accelerators: vec![Accelerator { name: KVM, works: Ok(()), caution: None, root_by_disk: None }],
            machines: vec![MachineType { name: NAME, most_devices: MOST_DEVICES, advantage, unfit: Vec::new() }],
            shares: Ok(()),
            networks: vec![NetworkBackend::Passt],
            vhost_user_network: true,
            confinement,
            shares_kernel: false,
            notices: Vec::new(),
        })
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        plan.check_room(self.title(), MOST_DEVICES)?;
        SocketDevice::of(plan).check()?;
        command::command(Path::new(NAME), plan, Version::NEWEST).map(drop)
    }

    /// Uses the dialect of the version on this host, or of the newest version. The document is the body of `PUT
    /// /api/v1/vm.create`.
    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        // The network card of another engine is not one that it has.
        let network = plan.network.clone().filter(|network| matches!(network, NetworkDevice::VhostUser(_)));
        let plan = &Plan { network, ..plan.clone() };
        let found = self.program().ok().and_then(|program| Some((Version::of(&program).ok()?, program)));
        let (version, program) = found.unwrap_or((Version::NEWEST, NAME.into()));
        let about = "the same for Cloud Hypervisor's REST interface: PUT /api/v1/vm.create".to_owned();
        let document = Document { about, path: "vm.json".into(), body: command::body(plan, version)? };
        Ok(Description { command: command::command(&program, plan, version)?, document: Some(document) })
    }

    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure> {
        let program = self.program()?;
        let command = command::command(&program, plan, Version::of(&program)?)?;
        let sockets = SocketDevice::of(plan);
        let listener = sockets.listen()?;
        let monitor = open_pipe(&sockets.make_pipe(command::EVENTS)?)?;
        plan.make_console()?;
        let confinement = sockets.confinement(plan, &program);
        let process = Process::start(&command, confinement.as_ref(), &plan.log, move |mut process| {
            let (handle, told) = (process.handle(), Events::clone(&events));
            let connecting = std::thread::spawn(move || listener.connect(&handle, &told));
            let stop = listen(&process.handle(), &monitor);
            let exit = exit(&mut process, stop);
            // It ends no later than the process.
            let _ = connecting.join();
            events(Event::Exited(exit));
        })?;
        Ok(Box::new(process))
    }
}

/// Reads events until the engine ends. Returns why the machine stopped, if it has said so. It has no option against
/// reboots, so it is killed when it begins one.
fn listen(engine: &Handle, monitor: &File) -> Option<Stop> {
    let (mut reader, mut stop) = (Reader::default(), None);
    engine.drain(monitor, |piece| {
        stop = reader.take(piece);
        if matches!(stop, Some(Stop::Rebooted | Stop::Panicked)) {
            engine.kill();
        }
    });
    stop
}

/// Waits for the engine's end, and returns why it ended.
fn exit(process: &mut Watched, stop: Option<Stop>) -> Exit {
    let status = process.wait();
    let log = process.tail(LAST_LINES);
    match stop {
        Some(Stop::Rebooted) => Exit::Rebooted,
        Some(Stop::Panicked) => Exit::Panicked,
        // It ends in order, too, when KVM cannot go on with a processor, and then logs an error. Its last events may be
        // missing, because they are written by a thread that does not delay its end.
        Some(Stop::PoweredOff) | None if status.success() && !log.contains(" ERROR:") => Exit::PoweredOff,
        _ => Exit::Ended { status, words: last_error(&log) },
    }
}

/// Returns the last error of a log in one line: the message of an error and those of its causes, each on a line of its
/// own, which is what it prints when it gives up; otherwise its last lines that are no warnings.
fn last_error(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" WARN:")).collect();
    let Some(start) = lines.iter().rposition(|line| line.starts_with("Error: ") || line.starts_with("error: ")) else {
        return lines[lines.len().saturating_sub(3)..].join("; ");
    };
    let causes = lines[start + 1..].iter().map_while(|line| {
        let cause = line.strip_prefix("  ")?;
        let digits = cause.trim_start_matches(|c: char| c.is_ascii_digit());
        Some(digits.strip_prefix(": ").unwrap_or(cause).trim())
    });
    let causes: Vec<&str> = causes.collect();
    if causes.is_empty() { lines[start].to_owned() } else { causes.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract::check;
    use crate::engine::plan::{Disk, example};

    #[test]
    fn more_devices_than_slots_are_refused_with_the_way_out() {
        let plan = |shares| Plan { machine: NAME, ..example(shares) };
        check(&CloudHypervisor, &plan(27)).unwrap();
        let failure = check(&CloudHypervisor, &plan(28)).unwrap_err().to_string();
        assert!(failure.contains("room for 28 shares") && failure.contains("share a directory"), "{failure}");
    }

    #[test]
    fn what_its_options_cannot_carry_is_refused_before_anything_starts() {
        let mut plan = example(0);
        plan.disks = vec![Disk { serial: "kept".into(), path: "/state/a[1]/kept".into(), read_only: false }];
        let failure = check(&CloudHypervisor, &plan).unwrap_err().to_string();
        assert!(failure.starts_with("/state/a[1]/kept: ") && failure.contains("cannot carry"), "{failure}");
    }

    #[test]
    fn last_error_is_the_message_with_its_causes_on_one_line() {
        let chain = "cloud-hypervisor: 0.1s: <vmm> WARN: x\nError: Cloud Hypervisor exited with the following chain of \
                     errors:\n  0: Error booting VM\n  1: The VM could not boot\n  2: Cannot open disk path\n";
        assert_eq!(last_error(chain), "Error booting VM: The VM could not boot: Cannot open disk path");
        let one = "Error: Cloud Hypervisor exited with the following error:\n  Event monitor: no such file\n";
        assert_eq!(last_error(one), "Event monitor: no such file");
        let usage = "error: unexpected argument '--odd' found\n\nUsage: cloud-hypervisor\n";
        assert_eq!(last_error(usage), "error: unexpected argument '--odd' found");
        assert_eq!(last_error("a\nb\nc\nd\n"), "b; c; d");
        assert_eq!(last_error("cloud-hypervisor:   0.95s: <vcpu0> WARN:vmm/src/cpu.rs:268 -- Kernel lacks x\n"), "");
        assert_eq!(last_error(""), "");
    }
}
