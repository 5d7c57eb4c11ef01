//! The helper processes of one machine: started tied to us, watched, and ended in the end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::directory::Directory;
use super::event::Event;
use super::record::ProcessRecord;
use crate::engine::CommandLine;
use crate::failure::{About, Failure};
use crate::host::child;

/// The helper processes of a machine. Dropping it ends and reaps all that are left, the last first.
#[derive(Debug)]
pub(crate) struct Children {
    processes: Vec<Helper>,
    events: Sender<Event>,
}

#[derive(Debug)]
struct Helper {
    role: String,
    record: Option<ProcessRecord>,
    handle: Option<OwnedFd>,
    log: PathBuf,
    waiter: Option<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Children {
    pub(crate) fn new(events: Sender<Event>) -> Self {
        Self { processes: Vec::new(), events }
    }

    /// Starts a helper in the calling thread, which must live as long as the helper is to; what it says
    /// goes to `<role>.log` in the machine's directory. Gives its number.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(&mut self, role: &str, command: &CommandLine, directory: &Directory) -> Result<usize, Failure> {
        let log = directory.file(&format!("{role}.log"));
        let output = File::create(&log).about(log.display())?;
        let errors = output.try_clone().about(log.display())?;
        tracing::debug!("starting {role}: {}", command.to_shell());
        let mut child =
            child::command(command)?.stdout(output).stderr(errors).spawn().about(command.program.display())?;
        let pid = Pid::from_child(&child);
        let number = self.processes.len();
        // Taken before the waiter can reap: from here on nothing is ended by a number that may be reused.
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok();
        let record = ProcessRecord::of(role, pid);
        let events = self.events.clone();
        let waiter = std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // Nobody listens any more once the machine is being dropped.
                let _ = events.send(Event::Ended(number, status));
            }
        });
        let waiter = Some(waiter);
        self.processes.push(Helper { role: role.to_owned(), record, handle, log, waiter, ended: None });
        Ok(number)
    }

    /// Notes that a helper ended.
    pub(crate) fn note_end(&mut self, number: usize, status: ExitStatus) {
        if let Some(helper) = self.processes.get_mut(number) {
            helper.ended = Some(status);
        }
    }

    /// What the helper does.
    pub(crate) fn role(&self, number: usize) -> &str {
        self.processes.get(number).map_or("", |helper| &helper.role)
    }

    /// The last lines that a helper has said.
    pub(crate) fn last_words(&self, number: usize) -> String {
        self.processes.get(number).map_or(String::new(), |helper| child::tail(&helper.log, 3).replace('\n', "; "))
    }

    /// The living helpers.
    pub(crate) fn records(&self) -> Vec<ProcessRecord> {
        let living = self.processes.iter().filter(|helper| helper.ended.is_none());
        living.filter_map(|helper| helper.record.clone()).collect()
    }

    /// Stdio one helper at once.
    pub(crate) fn kill(&self, number: usize) {
        if let Some(handle) = self.processes.get(number).and_then(|helper| helper.handle.as_ref()) {
            // Fails for one that has ended.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
    }
}

impl Children {
    /// Stdio and reaps all that are left, the last first.
    pub(crate) fn end(&mut self) {
        for number in (0..self.processes.len()).rev() {
            self.kill(number);
        }
        for helper in &mut self.processes {
            if let Some(waiter) = helper.waiter.take() {
                let _ = waiter.join();
            }
        }
    }
}
