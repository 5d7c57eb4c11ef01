//! One process of the guest: started as the host says, joined to its three channels, reported when it ends.
#![allow(unsafe_code)] // `Command::pre_exec`, in `become_account`, and the number of a signal, in `signal_of`, only.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::Window;
use guest_protocol::account::{self, Account};
use guest_protocol::{Ending, Message, Process, StartError, TerminalSize};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::{Gid, Uid};

use crate::{Guest, pump, tool, writes};

/// The search path of a process whose environment has none: what Docker and Podman set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process as the host sees it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The window of its standard output or terminal.
    pub(crate) stdout: Window,
    /// The window of its standard error.
    pub(crate) stderr: Window,
    input: Sender<Vec<u8>>,
    target: Mutex<Target>,
}

/// What signals and sizes go to. Both may come before the process is there.
#[derive(Debug, Default)]
struct Target {
    group: Option<Pid>,
    early_signals: Vec<u32>,
    terminal: Option<OwnedFd>,
}

/// The guest's ends of what a process has as its descriptors 0 to 2.
struct Wiring {
    stdin: File,
    stdout: File,
    stderr: Option<File>,
}

impl Session {
    /// Registers the stream and starts the process in a thread of its own, so that what the host sends
    /// behind the start finds the session.
    pub(crate) fn start(guest: &Arc<Guest>, stream: u32, process: Process) {
        let (input, chunks) = channel();
        let session =
            Arc::new(Self { stdout: Window::default(), stderr: Window::default(), input, target: Mutex::default() });
        let registered = Arc::clone(&session);
        guest.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, registered);
        let guest = Arc::clone(guest);
        std::thread::spawn(move || {
            let last = match session.run(&guest, stream, &process, chunks) {
                Ok(ending) => Message::Exited(ending),
                Err(error) => Message::StartFailed(error),
            };
            guest.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream);
            if last != Message::Exited(Ending::Status(0)) {
                writes::tell_if_full();
            }
            guest.send(stream, last);
        });
    }

    /// Hands a chunk of input to the process, in order; an empty one ends its input.
    pub(crate) fn feed(&self, chunk: Vec<u8>) {
        // Fails once nobody reads: the bytes are lost as they are in a closed pipe.
        let _ = self.input.send(chunk);
    }

    /// Sends a signal to the process's group, now or as soon as it is there.
    pub(crate) fn signal(&self, number: u32) {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        match target.group {
            Some(group) => deliver(group, number),
            None => target.early_signals.push(number),
        }
    }

    /// Sets the size of the process's terminal, if it has one.
    pub(crate) fn resize(&self, size: TerminalSize) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(terminal) = &target.terminal {
            set_size(terminal, size);
        }
    }

    /// From the start to the last byte of output.
    fn run(
        &self,
        guest: &Arc<Guest>,
        stream: u32,
        process: &Process,
        chunks: Receiver<Vec<u8>>,
    ) -> Result<Ending, StartError> {
        let account = find_account(process.user.as_deref().unwrap_or_default())?;
        let mut command = command_of(guest, process, &account)?;
        let (wiring, ending) = self.spawn(guest, process, &account, &mut command)?;
        // The command holds the process's ends of the pipes; while it lives they have no end of file.
        drop(command);
        guest.send(stream, Message::Started);
        let (feeder, terminal) = (Arc::clone(guest), process.terminal.is_some());
        // Not joined: it may wait for the host for ever.
        std::thread::spawn(move || pump::receive_input(&feeder, stream, &chunks, wiring.stdin, terminal));
        let ended = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("eventfd", &error))?;
        let status = std::thread::scope(|scope| {
            scope.spawn(|| {
                pump::send_output(guest, stream, Message::Stdout, wiring.stdout, &self.stdout, ended.as_fd());
            });
            if let Some(stderr) = wiring.stderr {
                let (window, ended) = (&self.stderr, ended.as_fd());
                scope.spawn(move || pump::send_output(guest, stream, Message::Stderr, stderr, window, ended));
            }
            let status = ending.recv();
            let _ = rustix::io::write(&ended, &1_u64.to_le_bytes());
            status
        });
        status.map_err(|error| failed("reaper", &error))
    }

    fn spawn(
        &self,
        guest: &Guest,
        process: &Process,
        account: &Account,
        command: &mut Command,
    ) -> Result<(Wiring, Receiver<Ending>), StartError> {
        let mut terminal = None;
        if let Some(size) = process.terminal {
            let (master, slave) = open_terminal(size, account).map_err(|error| failed("/dev/ptmx", &error))?;
            let copy = || slave.try_clone().map(Stdio::from).map_err(|error| failed("terminal", &error));
            command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
            terminal = Some(master);
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        become_account(command, account, terminal.is_some());
        let (mut child, ending) = guest.reaper.spawn(command).map_err(|error| explain(process, &error))?;
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let group = Pid::from_child(&child);
        target.group = Some(group);
        target.early_signals.drain(..).for_each(|number| deliver(group, number));
        let missing = || failed("pipe", &"not there");
        let wiring = match terminal {
            Some(master) => {
                let copy = || master.try_clone().map(File::from).map_err(|error| failed("terminal", &error));
                let wiring = Wiring { stdin: copy()?, stdout: copy()?, stderr: None };
                target.terminal = Some(master);
                wiring
            }
            None => Wiring {
                stdin: File::from(OwnedFd::from(child.stdin.take().ok_or_else(missing)?)),
                stdout: File::from(OwnedFd::from(child.stdout.take().ok_or_else(missing)?)),
                stderr: Some(File::from(OwnedFd::from(child.stderr.take().ok_or_else(missing)?))),
            },
        };
        Ok((wiring, ending))
    }
}

fn deliver(group: Pid, number: u32) {
    if let Some(signal) = signal_of(number) {
        // The group may have ended meanwhile.
        let _ = kill_process_group(group, signal);
    }
}

/// The signal with this number, which may be one of those without a name (`signal(7)`, "Real-time signals").
fn signal_of(number: u32) -> Option<Signal> {
    let number = i32::try_from(number).ok().filter(|number| (1..=64).contains(number))?;
    // SAFETY: it is a signal of Linux. Those that a libc reserves may not be sent to, or handled by, a process that
    // runs it unawares; it goes only to groups of the image's processes, which have asked for what they get.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

fn find_account(wanted: &str) -> Result<Account, StartError> {
    let text = |path| fs::read(path).map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    account::resolve(wanted, &text("/etc/passwd"), &text("/etc/group"))
        .map_err(|cause| StartError { status: 125, cause })
}

/// The command with its arguments, environment and working directory.
fn command_of(guest: &Guest, process: &Process, account: &Account) -> Result<Command, StartError> {
    let Some((program, arguments)) = process.argv.split_first() else {
        return Err(StartError { status: 125, cause: "no command: the image has neither Entrypoint nor Cmd".into() });
    };
    let mut command = if process.by_init {
        // This very program, which the root does not show.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(program).args(tool::further_arguments(program));
        command
    } else {
        Command::new(program)
    };
    let hostname = guest.hostname.lock().unwrap_or_else(PoisonError::into_inner).clone();
    command.args(arguments).env_clear().env("PATH", DEFAULT_PATH).env("HOSTNAME", hostname).env("HOME", &account.home);
    if process.terminal.is_some() {
        command.env("TERM", "xterm");
    }
    command.envs(process.env.iter().map(|(name, value)| (name, value)));
    let directory = process.cwd.as_deref().filter(|cwd| !cwd.is_empty()).unwrap_or("/");
    fs::create_dir_all(directory).map_err(|error| StartError {
        status: 125,
        cause: format!("working directory {directory:?} cannot be made: {error}"),
    })?;
    command.current_dir(directory);
    Ok(command)
}

/// Makes the new process a session leader, gives it its terminal and takes root from it.
fn become_account(command: &mut Command, account: &Account, terminal: bool) {
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let prepare = move || {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_gid(gid)?;
        rustix::thread::set_thread_uid(uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only direct system calls (rustix's linux_raw
    // backend); it neither allocates nor takes a lock that another thread of init may have held.
    unsafe { command.pre_exec(prepare) };
}

fn open_terminal(size: TerminalSize, account: &Account) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(account.uid)), None)?;
    set_size(&master, size);
    Ok((master, slave))
}

fn set_size(terminal: &OwnedFd, size: TerminalSize) {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal that is already gone needs no size.
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

/// Turns what exec said into what a shell would say.
fn explain(process: &Process, error: &io::Error) -> StartError {
    let program = process.argv.first().map_or("", String::as_str);
    let (status, cause) = match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') && fs::metadata(program).is_ok() => {
            (127, "its interpreter is not in the image".to_owned())
        }
        io::ErrorKind::NotFound => (127, "command not found".to_owned()),
        io::ErrorKind::PermissionDenied if fs::metadata(program).is_ok_and(|file| file.is_dir()) => {
            (126, "is a directory".to_owned())
        }
        io::ErrorKind::PermissionDenied => (126, "not executable".to_owned()),
        _ => (126, error.to_string()),
    };
    StartError { status, cause: format!("{program}: {cause}") }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> StartError {
    StartError { status: 125, cause: format!("{what}: {error}") }
}
