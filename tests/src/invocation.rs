//! A command of a session: while it runs, and once it has ended.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output};

use test_support::polling::PAUSE;

/// A command that runs.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub child: Child,
    pub(crate) line: String,
}

impl Started {
    /// Waits for its end.
    ///
    /// # Panics
    /// When its output cannot be read.
    #[must_use]
    pub fn finish(self) -> Finished {
        Finished::from_output(self.line, self.child.wait_with_output().expect("the output of a command"))
    }

    /// Reads standard error until a line that contains `text`. Returns that line.
    ///
    /// # Panics
    /// When standard error ends before that.
    #[allow(clippy::unbuffered_bytes, reason = "a buffer would take what follows the line away from `finish`")]
    pub fn await_line(&mut self, text: &str) -> String {
        let stderr = self.child.stderr.as_mut().expect("standard error is a pipe");
        let mut line = Vec::new();
        let mut seen = String::new();
        // One byte at a time: what follows stays in the pipe for `finish`.
        for byte in stderr.bytes() {
            line.push(byte.expect("standard error can be read"));
            if line.ends_with(b"\n") {
                let whole = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                if whole.contains(text) {
                    return whole;
                }
                seen.push_str(&whole);
            }
        }
        panic!("{} ended without saying {text:?}: {seen}", self.line);
    }

    /// Waits until a signal stops the process.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn await_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let waited = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED);
        let (_, status) = waited.expect("a child can be waited for").expect("a wait without WNOHANG returns a status");
        assert!(status.stopped(), "{} was to stop: {status:?}", self.line);
    }

    /// Waits until a file exists that the process or its guest creates. Only the test runner limits the time: an
    /// emulated guest on a busy host is slow.
    ///
    /// # Panics
    /// When the process ends before that.
    pub fn await_file(&mut self, path: &Path) {
        while !path.exists() {
            if let Some(status) = self.child.try_wait().expect("the state of a child") {
                let mut stderr = String::new();
                let _ = self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut stderr));
                panic!("{} ended ({status}) before it made {}: {stderr}", self.line, path.display());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends a signal to the process itself.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("the process still runs");
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let output = command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
        Self::from_output(line, output)
    }

    fn from_output(command: String, output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self { command, status: output.status, stdout, stderr }
    }

    /// Returns `self` if the command succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Checks that it failed the way a good program does: exit status 1, nothing on standard output, and on standard
    /// error one line that names `thing`. Only notices of retries may precede it.
    ///
    /// # Panics
    /// When it behaved otherwise.
    pub fn refused(&self, thing: &str) {
        self.refused_in_one_line(1, thing);
    }

    /// The same for `lamina run` and `exec`, which then exit with 125: any other status is that of the command.
    ///
    /// # Panics
    /// When it behaved otherwise.
    pub fn failed(&self, thing: &str) {
        self.refused_in_one_line(125, thing);
    }

    /// Checks that it refused its command line: exit status 2, nothing on standard output, and a message that names
    /// `thing`.
    ///
    /// # Panics
    /// When it behaved otherwise.
    pub fn refused_usage(&self, thing: &str) {
        self.refused_with(2, thing);
    }

    /// The same for `lamina run` and `exec`, which then exit with 125.
    ///
    /// # Panics
    /// When it behaved otherwise.
    pub fn failed_usage(&self, thing: &str) {
        self.refused_with(125, thing);
    }

    fn refused_in_one_line(&self, status: i32, thing: &str) {
        self.refused_with(status, thing);
        let message: Vec<&str> = self.stderr.lines().filter(|line| !is_retry_notice(line)).collect();
        assert_eq!(message.len(), 1, "lines of the message\n{self}");
    }

    fn refused_with(&self, status: i32, thing: &str) {
        assert_eq!(self.status.code(), Some(status), "exit status\n{self}");
        assert_eq!(self.stdout, "", "standard output of a refusal\n{self}");
        assert!(self.stderr.contains(thing), "the message must name {thing:?}\n{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
    }
}

/// Whether a line says that a request failed and when it is tried again.
fn is_retry_notice(line: &str) -> bool {
    line.contains("(attempt ") && line.contains(" failed, the next in ")
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}\n{status}\n--- standard output\n{stdout}\n--- standard error\n{stderr}")
    }
}
