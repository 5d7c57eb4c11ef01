//! Machines in the background, which one process starts and another one supervises.
//!
//! `lamina run --detach` creates the machine's directory and starts `lamina __supervise NAME new|again` in a new
//! session. That process gets the machine's lock as its standard input and the writing end of a pipe as its standard
//! output, to which it writes once how the start went: one line of JSON, [`Started`].

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGWINCH;

use super::directory::Directory;
use super::event::Event;
use super::signals::{Signals, interrupted};
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::host::bounded_log;

/// The first argument with which `lamina` runs as [`crate::machine::launch::supervise`]. It is not a command for users.
pub(crate) const SUPERVISE: &str = "__supervise";

/// The name of the log of a supervisor in the background, in the machine's directory.
pub(crate) const FILE: &str = "lamina.log";

/// How the start went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Started {
    /// The machine is ready. Notices for the user about how it is run, one line each.
    Ready(Vec<String>),
    Failed(Failure),
}

/// The supervisor's side of the pipe: says once how the start went.
#[derive(Debug)]
pub(crate) struct ReadyPipe {
    pipe: Option<File>,
    notice: Vec<String>,
}

impl ReadyPipe {
    /// Takes the lock from standard input and the pipe from standard output, and leaves the terminal's session.
    ///
    /// # Errors
    /// This process was not started by [`start`].
    pub(crate) fn take() -> Result<(Self, File), Failure> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).about(SUPERVISE);
        let lock = copy(rustix::stdio::stdin())?;
        let pipe = copy(rustix::stdio::stdout())?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").about("/dev/null")?;
        rustix::stdio::dup2_stdin(&null).about(SUPERVISE)?;
        rustix::stdio::dup2_stdout(&null).about(SUPERVISE)?;
        rustix::process::setsid().about(SUPERVISE)?;
        std::env::set_current_dir("/").about("/")?;
        Ok((Self { pipe: Some(pipe), notice: Vec::new() }, lock))
    }

    /// Returns a pipe for a start that no process waits for.
    #[must_use]
    pub(crate) const fn none() -> Self {
        Self { pipe: None, notice: Vec::new() }
    }

    /// Sets the notices for the user, which are sent once the machine is ready. Prints them at once if no process
    /// waits.
    pub(crate) fn tell(&mut self, notice: Vec<String>) {
        if self.is_awaited() {
            self.notice = notice;
        } else {
            notice.iter().for_each(|line| tell!("lamina: {line}"));
        }
    }

    /// The machine is ready.
    pub(crate) fn ready(&mut self) {
        let notice = std::mem::take(&mut self.notice);
        self.say(&Started::Ready(notice));
    }

    /// The machine could not be started.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.say(&Started::Failed(failure.clone()));
    }

    /// Returns whether a process waits.
    pub(super) const fn is_awaited(&self) -> bool {
        self.pipe.is_some()
    }

    fn say(&mut self, started: &Started) {
        if let Some(mut pipe) = self.pipe.take() {
            let line = serde_json::to_string(started).unwrap_or_default();
            // The process that started the machine may have ended by now.
            let _ = pipe.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Starts the supervisor of a machine whose spec is in its directory, and waits until it is ready. A signal to this
/// process ends the machine again, and a second one kills its supervisor.
///
/// # Errors
/// The machine could not be started. A new machine has been removed, and an existing one is as it was before.
pub(crate) fn start(directory: Directory, signals: &Signals) -> Result<(), Failure> {
    let (name, start) = (directory.name().to_owned(), if directory.is_new() { "new" } else { "again" });
    let log = directory.file(FILE);
    let (reader, writer) = std::io::pipe().about("pipe")?;
    let lock = directory.hand_over()?;
    let mut child = spawn([SUPERVISE, &name, start], lock, writer, &log)?;
    let reading = reader_thread(reader, signals.events.clone());
    let mut told = None;
    let _attended = signals.attend();
    let said = loop {
        match (signals.inbox.recv(), told) {
            (Ok(Event::Signal(SIGWINCH)), _) => {}
            (Ok(Event::Signal(signal)), None) => {
                let _ = kill_process(Pid::from_child(&child), Signal::TERM);
                told = Some(signal);
            }
            // The supervisor waits for something, such as a lock of the store. Its cleaner cleans up.
            (Ok(Event::Signal(_)), Some(signal)) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(interrupted(signal));
            }
            (Ok(Event::Flushed) | Err(_), None) => break reading.join().unwrap_or_default(),
            (Ok(Event::Flushed) | Err(_), Some(signal)) => {
                let _ = child.wait();
                return Err(interrupted(signal));
            }
            (Ok(_), _) => {}
        }
    };
    match serde_json::from_str(&said) {
        Ok(Started::Ready(notice)) => {
            notice.iter().for_each(|line| tell!("lamina: {line}"));
            Ok(())
        }
        Ok(Started::Failed(failure)) => {
            let _ = child.wait();
            Err(failure)
        }
        Err(_) => Err(silent(&name, &mut child, &log)),
    }
}

fn spawn(arguments: [&str; 3], lock: File, writer: PipeWriter, log: &Path) -> Result<Child, Failure> {
    let errors = OpenOptions::new().create(true).append(true).mode(0o600).open(log).about(log.display())?;
    let ourselves = std::env::current_exe().about("/proc/self/exe")?;
    let mut command = Command::new(ourselves);
    command.args(arguments).stdin(Stdio::from(lock)).stdout(Stdio::from(OwnedFd::from(writer))).stderr(errors);
    command.spawn().about(SUPERVISE)
}

/// Reads what the supervisor writes, and then sends [`Event::Flushed`].
fn reader_thread(reader: PipeReader, events: Sender<Event>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(reader).read_line(&mut line);
        let _ = events.send(Event::Flushed);
        line
    })
}

fn silent(name: &str, child: &mut Child, log: &Path) -> Failure {
    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let words = bounded_log::tail(log, 3).replace('\n', "; ");
    let words = if words.is_empty() { words } else { format!(": {words}") };
    Failure::new(format_args!("machine {name}"), format_args!("its supervisor ended ({status}){words}"))
        .with_status(MACHINE_FAILED)
}
