//! Serving after the command that mounted has returned.
//!
//! The command starts its own program again with an additional argument. It waits on a pipe, which is that process's
//! standard output, for the line that says that the tree can be read. Until then the new process has the same standard
//! error and reports its failure itself. After that it has its own session, working directory and output.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The line that the new process writes when the tree can be read.
const READY: &str = "ready";

/// Why nothing serves in the background.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackgroundError {
    /// The process could not be started.
    #[error("cannot start the serving process: {0}")]
    Start(#[source] io::Error),
    /// It ended without serving, after reporting why on standard error.
    #[error("the serving process ended with {0}")]
    Ended(ExitStatus),
}

/// Runs this program again with `arguments`, which make it call [`detach`] and [`report_ready`]. Returns once it serves.
///
/// # Errors
/// After [`BackgroundError::Ended`] the process has reported why itself: end with its status and print nothing.
pub(crate) fn start(arguments: &[OsString]) -> Result<(), BackgroundError> {
    let program = std::env::current_exe().map_err(BackgroundError::Start)?;
    let mut command = Command::new(program);
    command.args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(BackgroundError::Start)?;
    drop(command);
    if is_ready(&mut child) {
        return Ok(());
    }
    // It has closed its output without the line, so it will not serve.
    Err(match child.wait() {
        Ok(status) => BackgroundError::Ended(status),
        Err(error) => BackgroundError::Start(error),
    })
}

fn is_ready(child: &mut Child) -> bool {
    let mut line = String::new();
    let Some(output) = child.stdout.take() else { return false };
    BufReader::new(output).read_line(&mut line).is_ok() && line.trim_end() == READY
}

/// Leaves the session of the terminal, whose signals then no longer reach this process. The new process calls this first.
///
/// # Errors
/// This process leads a process group already, which a process started by [`start`] does not.
pub(crate) fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Tells the waiting command that the tree can be read, then releases everything that belonged to the command. Standard
/// error goes to `log` from now on, and the working directory is the root.
///
/// # Errors
/// No process waits any longer, so the mount is not wanted.
pub(crate) fn report_ready(log: Option<&Path>) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let errors = log.and_then(|path| open_log(path).ok());
    rustix::process::chdir("/")?;
    let mut output = io::stdout().lock();
    writeln!(output, "{READY}")?;
    output.flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(errors.as_ref().unwrap_or(&null))?;
    Ok(())
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
