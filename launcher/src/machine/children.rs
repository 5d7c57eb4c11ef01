//! The helper processes of one machine. The kernel kills them when this process ends.

use std::sync::mpsc::Sender;

use super::directory::Directory;
use super::event::Event;
use super::limits;
use super::record::ProcessRecord;
use crate::failure::Failure;
use crate::host::confine::Confined;
use crate::host::process::Process;

/// The helper processes of a machine. Dropping it ends and reaps all that are left, in reverse order.
#[derive(Debug)]
pub(crate) struct Children {
    processes: Vec<Helper>,
    events: Sender<Event>,
}

#[derive(Debug)]
struct Helper {
    role: String,
    record: Option<ProcessRecord>,
    process: Process,
    ended: bool,
}

impl Children {
    pub(crate) fn new(events: Sender<Event>) -> Self {
        Self { processes: Vec::new(), events }
    }

    /// Starts a helper, confined if there is a `confinement`, whose output goes to `<role>.log` in the machine's directory. Returns its number. The calling
    /// thread must live as long as the helper: the kernel kills the helper when the thread ends.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(
        &mut self,
        role: &str,
        (command, confinement): &Confined,
        directory: &Directory,
    ) -> Result<usize, Failure> {
        let number = self.processes.len();
        let events = self.events.clone();
        let process = Process::start(
            command,
            confinement.as_ref(),
            &directory.file(&format!("{role}.log")),
            move |mut process| {
                // Fails when the machine is being dropped.
                let _ = events.send(Event::Ended(number, process.wait()));
            },
        )?;
        let record = ProcessRecord::of(role, process.pid());
        self.processes.push(Helper { role: role.to_owned(), record, process, ended: false });
        Ok(number)
    }

    /// Notes that a helper ended.
    pub(crate) fn note_end(&mut self, number: usize) {
        if let Some(helper) = self.processes.get_mut(number) {
            helper.ended = true;
        }
    }

    /// Returns what the helper is for.
    pub(crate) fn role(&self, number: usize) -> &str {
        self.processes.get(number).map_or("", |helper| &helper.role)
    }

    /// Returns the last lines of a helper's output.
    pub(crate) fn last_words(&self, number: usize) -> String {
        self.processes.get(number).map_or(String::new(), |helper| helper.process.last_words())
    }

    /// Returns a warning for each helper that has nearly reached its limit of open files.
    pub(crate) fn short_of_files(&self) -> Vec<String> {
        let living = self.processes.iter().filter(|helper| !helper.ended);
        let short = living.filter_map(|helper| Some((&helper.role, limits::short_of_files(helper.process.pid())?)));
        let warning = |(role, limit): (&String, u64)| {
            format!(
                "the server of its {role} has nearly as many files open as it may ({limit}); raise the limit: ulimit -n"
            )
        };
        short.map(warning).collect()
    }

    /// Returns the records of the helpers that run.
    pub(crate) fn records(&self) -> Vec<ProcessRecord> {
        let living = self.processes.iter().filter(|helper| !helper.ended);
        living.filter_map(|helper| helper.record.clone()).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
    }
}

impl Children {
    /// Kills and reaps all that are left, in reverse order.
    pub(crate) fn end(&mut self) {
        for helper in self.processes.iter().rev() {
            helper.process.kill();
        }
        for helper in &mut self.processes {
            helper.process.end();
        }
    }
}
