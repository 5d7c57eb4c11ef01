//! One process of the guest: started as the host says, connected to its three channels, and reported when it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::account::{self, Account};
use guest_protocol::{Channel, Ending, Message, Process, StartError, TerminalSize, Window};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::Mode;
use rustix::pipe::PipeFlags;
use rustix::process::pidfd_send_signal;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::{Gid, Uid};

use crate::namespace::{self, Namespace};
use crate::{Guest, container, limits, privileges, pump, rights, sys, tool};

/// The `PATH` of a process whose environment has none: what Docker and Podman set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process as the host sees it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The window of its standard output or terminal.
    pub(crate) stdout: Window,
    /// The window of its standard error.
    pub(crate) stderr: Window,
    input: Sender<Vec<u8>>,
    process: Process,
    handle: Mutex<Handle>,
    /// The last message about it has been sent. Locked while another one is being sent.
    over: Mutex<bool>,
}

/// Where signals and terminal sizes go. Both may arrive before the process exists.
#[derive(Debug, Default)]
struct Handle {
    /// The process itself, as a descriptor, because its number may belong to another process once it has ended.
    process: Option<OwnedFd>,
    early_signals: Vec<u32>,
    terminal: Option<OwnedFd>,
    /// Whether it is process 1 of a namespace.
    is_first: bool,
}

/// Init's ends of the process's descriptors 0 to 2.
struct Wiring {
    stdin: File,
    stdout: File,
    stderr: Option<File>,
}

impl Session {
    /// Registers the stream and starts the process in a thread of its own, so that messages which the host sends right
    /// after the start find the session.
    pub(crate) fn start(guest: &Arc<Guest>, stream: u32, process: Process) {
        let (input, chunks) = channel();
        let (stdout, stderr, handle) = (Window::default(), Window::default(), Mutex::default());
        let session = Arc::new(Self { stdout, stderr, input, process, handle, over: Mutex::default() });
        let registered = Arc::clone(&session);
        guest.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, registered);
        let guest = Arc::clone(guest);
        std::thread::spawn(move || {
            let last = match session.run(&guest, stream, chunks) {
                Ok(ending) => Message::Exited(ending),
                Err(error) => Message::StartFailed(error),
            };
            guest.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream);
            if last != Message::Exited(Ending::Status(0)) {
                limits::look(&guest);
            }
            let mut over = session.over.lock().unwrap_or_else(PoisonError::into_inner);
            *over = true;
            guest.send(stream, last);
        });
    }

    /// Does something unless the last message about the process has been sent.
    pub(crate) fn unless_over(&self, act: impl FnOnce()) {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if !*over {
            act();
        }
    }

    /// Passes a chunk of input to the process, in order. An empty chunk ends its input.
    pub(crate) fn feed(&self, chunk: Vec<u8>) {
        // Fails when the process no longer reads: the bytes are lost, as in a closed pipe.
        let _ = self.input.send(chunk);
    }

    /// Sends a signal to the process, now or as soon as it exists.
    pub(crate) fn signal(&self, number: u32) {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        match &handle.process {
            Some(process) => deliver(process, number),
            None => handle.early_signals.push(number),
        }
    }

    /// Asks the process to end, with this signal or, for 0, with its own stop signal.
    pub(crate) fn stop(&self, number: u32) {
        self.signal(if number == 0 { namespace::stop_signal(&self.process) } else { number });
    }

    /// Sets the size of the process's terminal, if it has one.
    pub(crate) fn resize(&self, size: TerminalSize) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(terminal) = &handle.terminal {
            set_size(terminal, size);
        }
    }

    /// Runs the process, from its start to the last byte of its output.
    fn run(self: &Arc<Self>, guest: &Arc<Guest>, stream: u32, chunks: Receiver<Vec<u8>>) -> Result<Ending, StartError> {
        let (wiring, ending) = self.start_in_namespace(guest)?;
        guest.send(stream, Message::Started);
        let (feeder, session, terminal) = (Arc::clone(guest), Arc::clone(self), self.process.terminal.is_some());
        // Not joined, because it may wait for the host forever.
        std::thread::spawn(move || {
            pump::receive_input(&chunks, wiring.stdin, terminal, |bytes| {
                session.unless_over(|| feeder.send(stream, Message::Credit(Channel::Stdin, bytes)));
            });
        });
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
        let ending = status.map_err(|error| failed("reaper", &error))?;
        let is_first = self.handle.lock().unwrap_or_else(PoisonError::into_inner).is_first;
        Ok(if is_first { namespace::ending(ending) } else { ending })
    }

    /// Starts the process in the namespace that it belongs to: a new one if it is an init, otherwise the namespace of
    /// the init that runs, if there is one.
    fn start_in_namespace(&self, guest: &Guest) -> Result<(Wiring, Receiver<Ending>), StartError> {
        // Most containers have no right to make a namespace.
        let is_init = self.process.is_init_system() && rights::makes_namespaces();
        let namespace = guest.namespace();
        let enter = || {
            match &namespace {
                // This tool reaches the writes and the tree below them by paths of init's own namespace.
                Some(_) if tool::looks_at_writes(&self.process) => Ok(()),
                Some(namespace) => namespace.join(),
                None if is_init => namespace::begin(),
                None => return self.start_here(guest, false),
            }
            .map_err(|error| failed("namespace", &error))
            .and_then(|()| self.start_here(guest, is_init && namespace.is_none()))
        };
        // In a separate thread, because a thread cannot leave a namespace again.
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|_| Err(failed("namespace", &"cannot be entered")))
    }

    fn start_here(&self, guest: &Guest, namespace: bool) -> Result<(Wiring, Receiver<Ending>), StartError> {
        let mut account = find_account(self.process.user.as_deref().unwrap_or_default())?;
        let added = privileges::added_groups(&self.process.privileges)?;
        if guest.in_container {
            container::has_ids(&account, &added).map_err(|cause| StartError { status: 125, cause })?;
        }
        account.groups.extend(added);
        let mut command = command_of(guest, &self.process, &account)?;
        // The command holds the process's ends of the channels, so they have no end of file while it exists.
        let (wiring, terminal) = wire(&mut command, self.process.terminal, &account)?;
        become_leader(&mut command, terminal.is_some());
        if namespace {
            let name = terminal.as_ref().and_then(|terminal| rustix::pty::ptsname(terminal, Vec::new()).ok());
            namespace::prepare(&mut command, name, guest.in_container);
            if let Some(groups) = &guest.groups {
                namespace::enter_group(&mut command, groups).map_err(|error| failed("control groups", &error))?;
            } else if guest.in_container {
                namespace::refuse_systemd(&self.process)?;
            }
        }
        // What looks at the writes reaches them by way of init, which only a process with the same rights may do.
        if guest.in_container && !tool::looks_at_writes(&self.process) {
            rights::keep_from(&mut command, self.process.privileges.added_capabilities);
        }
        privileges::restrict(&mut command, &self.process.privileges, guest.in_container)?;
        become_account(&mut command, &account);
        let started = guest.reaper.spawn(&mut command).map_err(|error| explain(&self.process, &error))?;
        if namespace {
            let made = Namespace::of(started.id).map_err(|error| failed("namespace", &error))?;
            guest.set_namespace(made);
        }
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.early_signals.drain(..).for_each(|number| deliver(&started.process, number));
        handle.process = Some(started.process);
        handle.terminal = terminal;
        handle.is_first = namespace;
        Ok((wiring, started.ending))
    }
}

/// Connects a command's channels. Returns our ends, and the command's terminal if it has one.
fn wire(
    command: &mut Command,
    terminal: Option<TerminalSize>,
    account: &Account,
) -> Result<(Wiring, Option<OwnedFd>), StartError> {
    if let Some(size) = terminal {
        let (master, slave) = open_terminal(size, account).map_err(|error| failed("/dev/ptmx", &error))?;
        let of_process = || slave.try_clone().map(Stdio::from).map_err(|error| failed("terminal", &error));
        command.stdin(of_process()?).stdout(of_process()?).stderr(of_process()?);
        let ours = || master.try_clone().map(File::from).map_err(|error| failed("terminal", &error));
        return Ok((Wiring { stdin: ours()?, stdout: ours()?, stderr: None }, Some(master)));
    }
    let pipe = || open_pipe(account).map_err(|error| failed("pipe", &error));
    let ((stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    Ok((Wiring { stdin: our_stdin.into(), stdout: our_stdout.into(), stderr: Some(our_stderr.into()) }, None))
}

/// Creates a pipe; its reading end comes first. A process of this account can open it again by a name such as
/// `/dev/stdout`. So can a process that has changed to another account since; no other process can reach the name.
fn open_pipe(account: &Account) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fchown(&reader, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    rustix::fs::fchmod(&reader, Mode::from_raw_mode(0o666))?;
    Ok((reader, writer))
}

fn deliver(process: &OwnedFd, number: u32) {
    if let Some(signal) = sys::signal_of(number) {
        // It may have ended in the meantime.
        let _ = pidfd_send_signal(process, signal);
    }
}

pub(crate) fn find_account(wanted: &str) -> Result<Account, StartError> {
    let text = |path| fs::read(path).map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    account::resolve(wanted, &text("/etc/passwd"), &text("/etc/group"))
        .map_err(|cause| StartError { status: 125, cause })
}

/// Builds the command with its arguments, environment and working directory.
fn command_of(guest: &Guest, process: &Process, account: &Account) -> Result<Command, StartError> {
    let Some((program, arguments)) = process.argv.split_first() else {
        return Err(StartError { status: 125, cause: "no command: the image has neither Entrypoint nor Cmd".into() });
    };
    let mut command = if process.by_init {
        // This program itself, which is not visible in the root.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(program).args(tool::further_arguments(process));
        command
    } else {
        Command::new(program)
    };
    let hostname = guest.hostname.lock().unwrap_or_else(PoisonError::into_inner).clone();
    command.args(arguments).env_clear().env("PATH", DEFAULT_PATH).env("HOSTNAME", hostname).env("HOME", &account.home);
    if process.terminal.is_some() {
        command.env("TERM", "xterm");
    }
    if process.is_init_system() {
        // Tells an init that it is in a container, so that it does not set up the machine again.
        command.env("container", "lamina");
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

/// Makes the new process a session leader and gives it its terminal.
fn become_leader(command: &mut Command, terminal: bool) {
    sys::before_exec(command, move || {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    });
}

/// Makes the new process run as this account instead of root.
fn become_account(command: &mut Command, account: &Account) {
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let only_root = account.uid == 0 && account.gid == 0;
    sys::before_exec(command, move || {
        match rustix::thread::set_thread_groups(&groups) {
            // A user namespace with one id has no other groups, and may not change them.
            Err(rustix::io::Errno::PERM) if only_root => {}
            other => other?,
        }
        rustix::thread::set_thread_gid(gid)?;
        Ok(rustix::thread::set_thread_uid(uid)?)
    });
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

/// Turns an error of exec into the status and message that a shell would report.
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
