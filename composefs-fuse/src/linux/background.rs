//! Serving on after the command that mounted has returned.
//!
//! The command starts itself anew with a hidden argument, and waits on a pipe, which is that process's standard output,
//! for the line that says that the tree can be read. Until then the new process speaks on the same standard error
//! and a failure is its own to report; after that it has a session, a working directory and output of its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What the new process writes when the tree can be read.
const READY: &str = "ready";

/// Why nothing serves in the background.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackgroundError {
    /// The process could not be started.
    #[error("cannot start the serving process: {0}")]
    Start(io::Error),
    /// It ended without serving, after reporting why on standard error.
    #[error("the serving process ended with {0}")]
    Ended(ExitStatus),
}

/// Runs this program anew with its own arguments and `mark`, the option that makes it call [`detach`] and [`report_ready`].
/// Returns once it serves.
///
/// # Errors
/// [`BackgroundError::Ended`] has been explained to the user by the process itself: end with its status and say no more.
pub fn start(mark: &str) -> Result<(), BackgroundError> {
    let program = std::env::current_exe().map_err(BackgroundError::Start)?;
    let mut command = Command::new(program);
    command.args(marked(std::env::args_os().skip(1).collect(), mark));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(BackgroundError::Start)?;
    drop(command);
    if is_ready(&mut child) {
        return Ok(());
    }
    // It has closed its output without the line; whatever it still does, it will not serve.
    Err(match child.wait() {
        Ok(status) => BackgroundError::Ended(status),
        Err(error) => BackgroundError::Start(error),
    })
}

/// `arguments` with the option `mark` among them: behind all others, and before `--`, which ends options.
fn marked(mut arguments: Vec<OsString>, mark: &str) -> Vec<OsString> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(end, mark.into());
    arguments
}

fn is_ready(child: &mut Child) -> bool {
    let mut line = String::new();
    let Some(output) = child.stdout.take() else { return false };
    BufReader::new(output).read_line(&mut line).is_ok() && line.trim_end() == READY
}

/// Leaves the session of the terminal: its signals no longer reach this process. Call it first in the new process.
///
/// # Errors
/// If this process leads a process group already, which one started by [`start`] does not.
pub fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Tells the waiting command that the tree can be read, then lets go of all that was its: standard error goes to `log`
/// from now on, and nothing keeps the directory it was started in.
///
/// # Errors
/// If nobody waits any more; then the mount is unwanted.
pub fn report_ready(log: Option<&Path>) -> io::Result<()> {
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

/// Where processes in the background write what they have to say, unless told otherwise:
/// `$XDG_STATE_HOME/lamina/mount.log`, else `~/.local/state/lamina/mount.log`. Nothing where there is no home.
#[must_use]
pub fn default_log() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("lamina/mount.log"))
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
