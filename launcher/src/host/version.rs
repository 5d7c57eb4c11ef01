//! Asks a program for its version. It may be any program that happens to have the name.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;

/// How long it may take. A large program on a busy host takes seconds.
const MOST: Duration = Duration::from_secs(60);

/// The longest line that is read, in bytes.
const LONGEST: usize = 4096;

/// Returns the first line that a program prints when it is asked for its version.
///
/// # Errors
/// It cannot be started, or prints nothing in time.
pub(crate) fn version(program: &Path) -> Result<String, Failure> {
    ask(program, MOST)
}

fn ask(program: &Path, most: Duration) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |error| Failure::new(program.display(), format_args!("it cannot be started: {error}"));
    let mut child = command.spawn().map_err(failed)?;
    let line = child.stdout.take().map_or(Err("it prints no version".to_owned()), |output| first_line(output, most));
    // Both fail for a program that has ended.
    let _ = child.kill();
    let _ = child.wait();
    line.map_err(|cause| Failure::new(program.display(), cause))
}

/// Reads a line. Another process may keep the pipe open after the program's end, so only its own time limits this.
fn first_line(mut output: ChildStdout, most: Duration) -> Result<String, String> {
    let end = Instant::now() + most;
    let mut line = Vec::new();
    let mut buffer = [0; LONGEST];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("it did not print its version within {} s", most.as_secs()));
        }
        let mut ready = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
        // If it was interrupted, the time is checked again.
        if !matches!(poll(&mut ready, Timespec::try_from(left).ok().as_ref()), Ok(1..)) {
            continue;
        }
        let count = output.read(&mut buffer).map_err(|error| error.to_string())?;
        line.extend(buffer[..count].split(|byte| *byte == b'\n').next().unwrap_or_default());
        if count == 0 || line.len() >= LONGEST || buffer[..count].contains(&b'\n') {
            let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).trim().to_owned();
            return if text.is_empty() { Err("it prints no version".to_owned()) } else { Ok(text) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn asked(content: &str) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, content).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        ask(&program, Duration::from_secs(2)).map_err(|failure| failure.complaint())
    }

    #[test]
    fn version_is_the_first_line_of_a_program_that_prints_one_and_ends_or_does_not() {
        for script in ["echo ' x 1.2 '; echo more; exit 3", "printf 'x 1.2'", "echo x 1.2; exec sleep 1000"] {
            assert_eq!(asked(&format!("#!/bin/sh\n{script}\n")).as_deref(), Ok("x 1.2"), "{script}");
        }
        let endless = asked("#!/bin/sh\nwhile :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n").unwrap();
        assert_eq!(endless.len(), LONGEST);
    }

    #[test]
    fn program_that_says_nothing_or_is_none_is_refused_and_reads_no_input() {
        for (content, cause) in [
            ("#!/bin/sh\nexit 1\n", "it prints no version"),
            ("#!/bin/sh\ncat\n", "it prints no version"),
            ("#!/bin/sh\nexec sleep 1000\n", "it did not print its version within 2 s"),
            ("no program at all", "it cannot be started: Exec format error"),
            ("", "it cannot be started: Exec format error"),
        ] {
            let refused = asked(content).unwrap_err();
            assert!(refused.contains(cause), "{content}: {refused}");
        }
    }
}
