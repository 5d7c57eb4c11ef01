//! QEMU: its command line, its monitor, and the boot that proves that KVM runs a guest.

pub(crate) mod command;
mod monitor;
pub(crate) mod probe;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::engine::qemu::probe::Accelerator;
use crate::engine::{Engine, Event, Events, Exit, Plan, Running};
use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::process::Process;

pub(crate) use command::{Machine, command};

/// QEMU with what it emulates and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Qemu {
    /// The program.
    pub(crate) program: PathBuf,
    /// The machine type.
    pub(crate) machine: Machine,
    /// What executes the guest.
    pub(crate) accelerator: Accelerator,
    /// As [`command`] takes it.
    pub(crate) tsc_khz: Option<u64>,
}

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        match self.machine {
            Machine::Q35 => "QEMU q35",
            Machine::Microvm => "QEMU microvm",
        }
    }

    fn most_devices(&self) -> usize {
        self.machine.most_devices()
    }

    fn command(&self, plan: &Plan) -> Result<CommandLine, Failure> {
        Ok(command(&self.program, plan, self.machine, self.accelerator, self.tsc_khz))
    }

    /// QEMU connects to both sockets before the guest runs.
    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure> {
        let control = UnixListener::bind(&plan.control).about(plan.control.display())?;
        let monitor = UnixListener::bind(&plan.monitor).about(plan.monitor.display())?;
        let process = Process::start(&self.command(plan)?, &plan.log, move |mut process| {
            let (handle, told) = (process.handle(), Events::clone(&events));
            let connecting = std::thread::spawn(move || {
                if let Some(stream) = handle.accept(&control) {
                    told(Event::Connected(stream));
                }
            });
            let said = process.handle().accept(&monitor).and_then(|stream| monitor::listen(&stream, &events));
            let status = process.wait();
            // It ends with the process, at the latest.
            let _ = connecting.join();
            let words = process.last_words();
            events(Event::Exited(said.unwrap_or(Exit::Ended { status, words })));
        })?;
        Ok(Box::new(process))
    }
}
