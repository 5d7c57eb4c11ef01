//! QEMU, as a q35 or a microvm machine, under KVM or by emulation.

mod command;
mod machine;
mod monitor;
mod qmp;
mod sandbox;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use self::machine::{Accelerator, Board, tsc_khz};
use super::boot_probe::{self, Probe};
use super::contract::{self, Capabilities, Description, Engine, Event, Events, Exit, Host, MachineType, Running};
use super::plan::Plan;
use super::request::{Choice, RunRequest};
use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::command_line::CommandLine;
use crate::host::network::NetworkBackend;
use crate::host::process::Process;

/// `scripts/bench serve-vm --kvm`: each message of virtio-fs leaves the guest, and a disk has none for names and attributes.
const QUICKER_BY_DISK: &str = "with kvm, a guest reads what is new to it several times as fast from a disk";

/// QEMU's documentation ("Security", "Non-virtualization Use Case") promises no isolation of guests by emulation.
const NO_BOUNDARY: &str = "emulation is no security boundary, so run only images that you trust";

const PROGRAM: &str = "qemu-system-x86_64";

#[derive(Debug)]
pub(super) struct Qemu;

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn title(&self) -> &'static str {
        "QEMU"
    }

    fn accelerators(&self) -> &'static [&'static str] {
        const { &[Accelerator::ALL[0].name(), Accelerator::ALL[1].name()] }
    }

    fn machines(&self) -> &'static [&'static str] {
        const { &[Board::ALL[0].name(), Board::ALL[1].name()] }
    }

    fn served_disk_queues(&self, cpus: u32) -> Option<u16> {
        Some(contract::queue_for_each(cpus))
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        child::find(PROGRAM, &[]).ok_or_else(|| {
            Failure::new(PROGRAM, "not found in PATH").with_hint("install it (Debian: apt-get install qemu-system-x86)")
        })
    }

    /// Tests KVM with a boot, unless KVM is asked for: then the machine itself is the test. Emulation is assumed to
    /// work.
    fn probe(&self, host: &Host<'_>, request: &RunRequest) -> Result<Capabilities, Failure> {
        let program = self.program()?;
        let machine = match &request.machine {
            Choice::Forced(name) => Board::of(name).unwrap_or(Board::Microvm),
            Choice::Auto => Board::Microvm,
        };
        let confinement = sandbox::support(host, &program)?;
        let confine = boot_probe::decision(host, &confinement);
        let boot = host.boot.map_err(Clone::clone)?;
        let probe = Probe { engine: self, program: &program, machine: machine.name(), host, boot, confine };
        let kvm = match &request.accelerator {
            Choice::Forced(name) if name == Accelerator::Kvm.name() && !host.thorough => boot_probe::opens(),
            Choice::Forced(_) if !host.thorough => Err("not tried".to_owned()),
            _ => probe.kvm()?,
        };
        let tcg = if host.thorough { probe.boots(Accelerator::Tcg.name())? } else { Ok(()) };
        let accelerator = |accelerator: Accelerator, works| contract::Accelerator {
            name: accelerator.name(),
            works,
            caution: (accelerator == Accelerator::Tcg).then_some(NO_BOUNDARY),
            root_by_disk: (accelerator == Accelerator::Kvm).then_some(QUICKER_BY_DISK),
        };
        Ok(Capabilities {
            accelerators: vec![accelerator(Accelerator::Kvm, kvm), accelerator(Accelerator::Tcg, tcg)],
            machines: Board::ALL.map(machine_type).into(),
            shares: Ok(()),
            networks: vec![NetworkBackend::Passt, NetworkBackend::Slirp],
            confinement,
            vhost_user_network: false,
            shares_kernel: false,
            notices: Vec::new(),
        })
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        let (machine, _) = chosen(plan)?;
        plan.check_room(&format!("QEMU {}", machine.name()), machine.most_devices())
    }

    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        Ok(Description { command: command_line(plan)?, document: None })
    }

    /// QEMU connects to both sockets before the guest runs.
    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure> {
        let control = UnixListener::bind(&plan.control).about(plan.control.display())?;
        let monitor = UnixListener::bind(&plan.monitor).about(plan.monitor.display())?;
        let command = command_line(plan)?;
        let confinement = plan.confinement(&command.program, &[&plan.control, &plan.monitor], None);
        plan.make_console()?;
        let process = Process::start(&command, confinement.as_ref(), &plan.log, move |mut process| {
            let (handle, told) = (process.handle(), Events::clone(&events));
            let connecting = std::thread::spawn(move || {
                if let Some(stream) = handle.accept(&control) {
                    told(Event::Connected(stream));
                }
            });
            let said = process.handle().accept(&monitor).and_then(|stream| monitor::listen(&stream, &events));
            let status = process.wait();
            // It ends no later than the process.
            let _ = connecting.join();
            let words = process.last_words();
            events(Event::Exited(said.unwrap_or(Exit::Ended { status, words })));
        })?;
        Ok(Box::new(process))
    }
}

fn machine_type(machine: Board) -> MachineType {
    let (advantage, unfit) = match machine {
        Board::Microvm if tsc_khz().is_none() => {
            let cause = "an emulated microvm needs the rate of the time stamp counter, which is not known here";
            ("it boots faster than q35", vec![(Accelerator::Tcg.name(), cause)])
        }
        Board::Microvm => ("it boots faster than q35", Vec::new()),
        Board::Q35 => ("it has room for more devices than microvm", Vec::new()),
    };
    MachineType { name: machine.name(), most_devices: machine.most_devices(), advantage, unfit }
}

/// Returns the machine type and the accelerator of a plan.
fn chosen(plan: &Plan) -> Result<(Board, Accelerator), Failure> {
    let unknown = |what: &str, name: &str| Failure::new("QEMU", format_args!("it has no {what} {name}"));
    let machine = Board::of(plan.machine).ok_or_else(|| unknown("machine type", plan.machine))?;
    let accelerator = Accelerator::of(plan.accelerator).ok_or_else(|| unknown("accelerator", plan.accelerator))?;
    Ok((machine, accelerator))
}

fn command_line(plan: &Plan) -> Result<CommandLine, Failure> {
    let (machine, accelerator) = chosen(plan)?;
    Ok(command::command(&Qemu.program()?, plan, machine, accelerator, tsc_khz()))
}
