//! A program that a machine needs while it runs: started so that it ends with this process, watched, and killed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::bounded_log::{self, BoundedLog};
use super::child;
use super::command_line::CommandLine;
use super::confine::{self, Confinement, Environment};
use super::drain::drain;
use crate::failure::{About, Failure};

/// How long a program that was killed may take to end.
const REAP: Duration = Duration::from_secs(10);

/// How many lines of a log to quote as the reason why a program ended.
const LAST_WORDS: usize = 3;

/// A program that runs. Dropping this kills it and waits for its end.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    handle: Handle,
    log: PathBuf,
    watcher: Option<JoinHandle<()>>,
}

/// The running program, as the thread that watches it sees it.
#[derive(Debug)]
pub(crate) struct Watched {
    handle: Handle,
    log: PathBuf,
    /// Writes the log.
    logger: Option<JoinHandle<()>>,
}

/// Refers to one process, even after its id has been used again.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<OwnedFd>, Option<Arc<Init>>);

/// The init of the namespace of process ids that a program runs in.
#[derive(Debug)]
struct Init(OwnedFd);

impl Init {
    /// Ends it, and so everything that is left in its namespace.
    fn end(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
        // Fails if it has been waited for.
        while matches!(waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED), Err(rustix::io::Errno::INTR)) {}
    }
}

impl Process {
    /// Starts a program whose output goes to the new log `log`, of which only the end is kept, confined if there is a
    /// `confinement`. Calls `watch` in a separate thread; it must wait for the program's end.
    ///
    /// Call this in a thread that lives as long as the program should live, because the kernel ends the program with
    /// that thread.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(
        command: &CommandLine,
        confinement: Option<&Confinement>,
        log: &Path,
        watch: impl FnOnce(Watched) + Send + 'static,
    ) -> Result<Self, Failure> {
        let target = BoundedLog::create(log, bounded_log::OWN_SIZE).about(log.display())?;
        // A pipe, because a program that writes to the file itself could fill the disk.
        let (source, output) = io::pipe().about("pipe")?;
        let errors = output.try_clone().about("pipe")?;
        tracing::debug!("starting {}", command.to_shell());
        let (pid, handle) = match confinement {
            None => {
                let mut started = child::command(command)?;
                started.env_clear().envs(Environment::Harmless.variables());
                let child = started.stdout(output).stderr(errors).spawn().about(command.program.display())?;
                handle_of(child)?
            }
            Some(confinement) => start_confined(command, confinement, output, errors)?,
        };
        let ended = handle.clone();
        let logger = Some(std::thread::spawn(move || keep_log(&OwnedFd::from(source).into(), target, &ended)));
        let watched = Watched { handle: handle.clone(), log: log.to_owned(), logger };
        let watcher = Some(std::thread::spawn(move || watch(watched)));
        Ok(Self { pid, handle, log: log.to_owned(), watcher })
    }

    /// Waits for a connection to `listener`. Returns `None` if the program ends first.
    pub(crate) fn accept(&self, listener: &UnixListener) -> Option<UnixStream> {
        self.handle.accept(listener)
    }

    /// The process id.
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// The last lines of the program's output, joined into one.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Whether the program ends within `most`.
    pub(crate) fn ends_within(&self, most: Duration) -> bool {
        self.handle.ends_within(most)
    }

    /// Kills the program. Does nothing if it has ended.
    pub(crate) fn kill(&self) {
        self.handle.kill();
    }

    /// Kills the program, and waits until it has ended and `watch` has returned. Waits at most [`REAP`] for a program
    /// that the kernel cannot end, such as one that waits for a disk that is gone.
    pub(crate) fn end(&mut self) {
        self.kill();
        let Some(watcher) = self.watcher.take() else { return };
        if self.handle.ends_within(REAP) {
            let _ = watcher.join();
        } else {
            tracing::warn!("process {} was killed and has not ended", self.pid.as_raw_nonzero());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Watched {
    /// Waits for the program's end, and until its log is written.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = self.handle.wait();
        if let Some(logger) = self.logger.take() {
            let _ = logger.join();
        }
        status
    }

    /// A handle for another thread.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The last lines of the program's output, joined into one.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// The last lines of the program's output.
    pub(crate) fn tail(&self, lines: usize) -> String {
        bounded_log::tail(&self.log, lines)
    }
}

/// Refers to a child that has just been started.
fn handle_of(mut child: Child) -> Result<(Pid, Handle), Failure> {
    let pid = Pid::from_child(&child);
    // Opened before anything can reap the process, so the id still means this one.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok((pid, Handle(Arc::new(handle), None))),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error).about("pidfd_open")
        }
    }
}

/// Starts a program by way of `lamina __confine`, which tells the ids of two other processes if it does not become the
/// program itself: see [`enter`](confine::enter::enter).
fn start_confined(
    command: &CommandLine,
    confinement: &Confinement,
    output: impl Into<Stdio>,
    errors: impl Into<Stdio>,
) -> Result<(Pid, Handle), Failure> {
    confinement.hand_over()?;
    let (mut told, report) = io::pipe().about("pipe")?;
    let mut confined = child::plain(&confine::command(command, confinement)?);
    confined.env_clear().envs(Environment::Harmless.variables());
    let child = confined.stdin(report).stdout(output).stderr(errors).spawn().about(command.program.display())?;
    // Closes its copy of the pipe.
    drop(confined);
    let (pid, handle) = handle_of(child)?;
    // Ends when the program has been started, or could not be.
    let mut bytes = Vec::new();
    told.read_to_end(&mut bytes).about(command.program.display())?;
    let ids: Vec<Pid> = bytes
        .chunks_exact(size_of::<i32>())
        .filter_map(|id| Pid::from_raw(i32::from_le_bytes(id.try_into().ok()?)))
        .collect();
    let [init, program] = ids[..] else { return Ok((pid, handle)) };
    handle.wait();
    // Both are children of this process, which alone can reap them.
    let opened = |id| pidfd_open(id, PidfdFlags::empty()).about("pidfd_open");
    let init = Init(opened(init)?);
    Ok((program, Handle(Arc::new(opened(program)?), Some(Arc::new(init)))))
}

impl Handle {
    /// Waits for the end of the process, which must be a child that nothing else waits for.
    fn wait(&self) -> ExitStatus {
        let status = loop {
            match waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    let code = status.exit_status().map(|code| code << 8);
                    break ExitStatus::from_raw(code.or(status.terminating_signal()).unwrap_or_default());
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // Fails only for a process that is not a child.
                Err(_) => break ExitStatus::default(),
            }
        };
        if let Some(init) = &self.1 {
            init.end();
        }
        status
    }

    /// Kills the process. Does nothing if it has ended.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }

    /// Whether the process ends within `most`.
    pub(crate) fn ends_within(&self, most: Duration) -> bool {
        ends_within(&self.0, most)
    }

    /// Passes what is written to `source`, which must not block, to `take`, until the process has ended and nothing is
    /// left.
    pub(crate) fn drain(&self, source: &File, take: impl FnMut(&[u8])) {
        drain(source, self.0.as_fd(), take);
    }

    /// Waits for a connection to `listener`. Returns `None` if the process ends first.
    pub(crate) fn accept(&self, listener: &UnixListener) -> Option<UnixStream> {
        let mut fds = [listener.as_fd(), self.0.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        // A connection that was made before the process ended may still hold what the process sent.
        listener.set_nonblocking(true).ok()?;
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

/// Whether the process that `handle` refers to ends within `most`.
pub(crate) fn ends_within(handle: &OwnedFd, most: Duration) -> bool {
    let end = Instant::now() + most;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            // Interrupted by a signal.
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}

/// Writes what a program writes to its log, until the program has ended and the pipe is empty.
fn keep_log(source: &File, mut log: BoundedLog, process: &Handle) {
    if rustix::io::ioctl_fionbio(source, true).is_ok() {
        // If the disk is full, the log ends there.
        process.drain(source, |bytes| drop(log.write_all(bytes)));
    }
}

fn last_words(log: &Path) -> String {
    bounded_log::tail(log, LAST_WORDS).replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc::channel;

    use super::*;

    fn shell(script: &str) -> CommandLine {
        CommandLine::new("/bin/sh").args(["-c", script])
    }

    /// Starts `script` directly, because the wrapper that ends a program with its parent is part of `lamina`.
    fn start(script: &str, log: &Path, watch: impl FnOnce(Watched) + Send + 'static) -> Process {
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(File::create(log).unwrap())
            .spawn()
            .unwrap();
        let (pid, handle) = handle_of(child).unwrap();
        let watched = Watched { handle: handle.clone(), log: log.to_owned(), logger: None };
        let watcher = Some(std::thread::spawn(move || watch(watched)));
        Process { pid, handle, log: log.to_owned(), watcher }
    }

    #[test]
    fn last_words_are_the_last_lines_and_not_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, told) = channel();
        let process = start("printf 'a\\nb\\nc\\nd\\n'; exit 3", &directory.path().join("log"), move |mut process| {
            let status = process.wait();
            sender.send((status, process.last_words())).unwrap();
        });
        let (status, words) = told.recv().unwrap();
        assert_eq!((status.code(), words.as_str()), (Some(3), "b; c; d"));
        assert_eq!(process.last_words(), "b; c; d");
    }

    #[test]
    fn dropped_process_is_killed_and_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, told) = channel();
        drop(start("exec sleep 1000", &directory.path().join("log"), move |mut process| {
            sender.send(process.wait()).unwrap();
        }));
        assert_eq!(told.try_recv().unwrap().signal(), Some(9));
    }

    #[test]
    fn connection_that_never_comes_is_given_up_with_the_process_and_one_that_came_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, told) = channel();
        let process = start("exec sleep 1000", &directory.path().join("log"), move |mut process| {
            let first = process.handle().accept(&listener).map(|mut stream| {
                let mut text = String::new();
                stream.read_to_string(&mut text).map(|_| text)
            });
            let second = process.handle().accept(&listener);
            process.wait();
            sender.send((first.unwrap().unwrap(), second.is_none())).unwrap();
        });
        let mut stream = UnixStream::connect(&socket).unwrap();
        Write::write_all(&mut stream, b"word").unwrap();
        drop(stream);
        drop(process);
        assert_eq!(told.recv().unwrap(), ("word".to_owned(), true));
    }

    #[test]
    fn program_that_does_not_start_is_an_error() {
        let log = Path::new("/nonexistent/log");
        assert!(Process::start(&shell("true"), None, log, |_| {}).is_err());
    }
}
