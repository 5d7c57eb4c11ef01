//! The run of one machine, from its directory to its last process.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use guest_init::protocol::{Channel, Ending, MACHINE, Message, Process, Setup, VERSION};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};

use super::children::Children;
use super::directory::Directory;
use super::ending::{Circumstances, explain};
use super::event::Event;
use super::root::RootServer;
use super::session::{Control, Session};
use super::signals::{Signals, interrupted};
use super::{console, monitor, session, terminal};
use crate::child;
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::hypervisor::CommandLine;

/// The stream of the machine's first command.
const FIRST: u32 = 1;
/// How long a share's server may take to make its socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);
/// How long a guest may take to power off when told to.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(10);
/// How long a command that was told to end may go on.
const GRACE: Duration = Duration::from_secs(10);
/// How often to look for what no event tells.
const TICK: Duration = Duration::from_secs(1);
/// How long the rest of a dead hypervisor's words may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A machine to run.
#[derive(Debug)]
pub struct Order {
    /// The server of its root, and that root's socket.
    pub root: (Box<dyn RootServer>, PathBuf),
    /// The machine's directories, which go last.
    pub directory: Directory,
    /// Its name.
    pub name: String,
    /// What it runs on, for its record.
    pub root_name: String,
    /// The servers of its further shares and of its network, each with its socket, which is named after what it serves.
    pub shares: Vec<(CommandLine, PathBuf)>,
    /// The hypervisor.
    pub hypervisor: CommandLine,
    /// The sockets to listen on: control channel and monitor.
    pub sockets: (PathBuf, PathBuf),
    /// The console's file.
    pub console: PathBuf,
    /// Whether to show the console as it grows.
    pub show_console: bool,
    /// What the guest mounts. The clock is filled in when it is sent.
    pub setup: Setup,
    /// The command.
    pub process: Process,
    /// How long the guest may take until the command can be started.
    pub ready_timeout: Duration,
}

/// Runs a machine and its command; gives the exit status of `lamina run`.
///
/// Must be called by a thread that lives as long as the machine: the kernel ends the helpers with it.
///
/// # Errors
/// The machine could not be started, or ended without the command having ended.
pub fn run(order: Order, signals: Signals) -> Result<u8, Failure> {
    let Signals { events, inbox, .. } = signals;
    let mut supervisor = Supervisor {
        children: Children::new(events.clone()),
        order,
        events,
        hypervisor: None,
        control: None,
        session: None,
        raw: None,
        outcome: None,
        fatal: None,
        share_failure: None,
        reason: None,
        hypervisor_end: None,
        flushed: true,
        open_channels: 0,
        deadline: None,
        interrupted: None,
        console_tells: false,
    };
    let result = supervisor.start(&inbox).and_then(|()| supervisor.serve(&inbox));
    // The terminal first: what follows may print.
    supervisor.raw = None;
    if supervisor.console_tells && !supervisor.order.show_console {
        console::print_tail(&supervisor.order.console);
    }
    result
}

/// What ends the machine.
#[derive(Clone, Debug)]
enum Outcome {
    Ended(Ending),
    StartFailed(u8, String),
}

struct Supervisor {
    // Dropped in this order: processes before the directory with their sockets.
    children: Children,
    order: Order,
    events: Sender<Event>,
    hypervisor: Option<usize>,
    control: Option<Control>,
    session: Option<Session>,
    raw: Option<terminal::Raw>,
    outcome: Option<Outcome>,
    fatal: Option<String>,
    /// Why a share's server ended, if one did.
    share_failure: Option<String>,
    reason: Option<String>,
    hypervisor_end: Option<std::process::ExitStatus>,
    flushed: bool,
    open_channels: u32,
    deadline: Option<(Instant, Overdue)>,
    interrupted: Option<i32>,
    /// The reason of the failure may stand on the kernel's console.
    console_tells: bool,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    Ready,
    Command,
    PowerOff,
    LastWords,
    Hypervisor,
}

impl Supervisor {
    /// Starts the servers, then the hypervisor, which wants their sockets to be there.
    fn start(&mut self, inbox: &Receiver<Event>) -> Result<(), Failure> {
        let (root, root_socket) = &mut self.order.root;
        root.start(root_socket, &mut self.children, &self.order.directory)?;
        for (command, socket) in &self.order.shares {
            let role = socket.file_stem().unwrap_or_default().to_string_lossy();
            self.children.spawn(&role, command, &self.order.directory)?;
        }
        let (root, root_socket) = &self.order.root;
        let sockets: Vec<PathBuf> = std::iter::once(root_socket)
            .filter(|_| root.is_device())
            .chain(self.order.shares.iter().map(|(_, socket)| socket))
            .cloned()
            .collect();
        for socket in sockets {
            self.await_socket(&socket, inbox)?;
        }
        let (control, monitor) = &self.order.sockets;
        let listener = UnixListener::bind(control).about(control.display())?;
        let events = self.events.clone();
        std::thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = events.send(Event::Connected(stream));
            }
        });
        monitor::watch(UnixListener::bind(monitor).about(monitor.display())?, self.events.clone());
        self.hypervisor = Some(self.children.spawn("hypervisor", &self.order.hypervisor, &self.order.directory)?);
        self.order.directory.record(&self.order.name, &self.order.root_name, &self.children.records())?;
        if self.order.show_console {
            console::follow(self.order.console.clone());
        }
        self.deadline = Some((Instant::now() + self.order.ready_timeout, Overdue::Ready));
        Ok(())
    }

    /// Waits for a server's socket. Signals and the server's end come first.
    fn await_socket(&mut self, socket: &std::path::Path, inbox: &Receiver<Event>) -> Result<(), Failure> {
        let start = Instant::now();
        while !socket.exists() {
            if start.elapsed() > SOCKET_DEADLINE {
                return Err(Failure::new(socket.display(), "the share's server did not make its socket")
                    .with_status(MACHINE_FAILED));
            }
            match inbox.recv_timeout(Duration::from_millis(2)) {
                Ok(event) => {
                    self.handle(event)?;
                    if let Some(signal) = self.interrupted {
                        return Err(interrupted(signal));
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(())
    }

    /// Handles events until the machine is gone and its output is written.
    fn serve(&mut self, inbox: &Receiver<Event>) -> Result<u8, Failure> {
        loop {
            let left = self.deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
                Ok(event) => self.handle(event)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.look_around()?,
            }
            let over = self.hypervisor_end.is_some() && self.flushed;
            match (&self.outcome, self.interrupted) {
                (_, Some(signal)) if self.control.is_none() => return Err(interrupted(signal)),
                (Some(outcome), _) if over => return self.conclude(outcome),
                (None, Some(signal)) if over => return Err(interrupted(signal)),
                (None, None) if over && self.open_channels == 0 => return Err(self.explain_end()),
                _ => {}
            }
        }
    }

    fn conclude(&self, outcome: &Outcome) -> Result<u8, Failure> {
        match outcome {
            Outcome::Ended(ending) => Ok(ending.shell_status()),
            Outcome::StartFailed(status, cause) => {
                Err(Failure::new(format_args!("machine {}", self.order.name), cause).with_status(*status))
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Connected(stream) => self.connect(stream)?,
            Event::Control(stream, message) => self.hear(stream, message)?,
            Event::ControlClosed(error) => {
                self.open_channels = self.open_channels.saturating_sub(1);
                if let Some(error) = error {
                    tracing::debug!("control channel: {error}");
                }
            }
            Event::Monitor(true) => self.open_channels += 1,
            Event::Monitor(false) => self.open_channels = self.open_channels.saturating_sub(1),
            Event::Shutdown(reason) => self.reason = Some(reason),
            Event::Flushed => self.flushed = true,
            Event::Ended(number, status) => self.note_end(number, status)?,
            Event::Signal(signal) => self.signal(signal),
        }
        Ok(())
    }

    fn connect(&mut self, stream: UnixStream) -> Result<(), Failure> {
        session::listen(stream.try_clone().about("control channel")?, self.events.clone());
        self.control = Some(Control::new(stream));
        self.open_channels += 1;
        Ok(())
    }

    /// What the guest says.
    fn hear(&mut self, stream: u32, message: Message) -> Result<(), Failure> {
        match (stream, message) {
            (MACHINE, Message::Hello(hello)) => {
                if hello.version != VERSION {
                    return Err(self.failed(&format!("its init speaks version {} of the protocol", hello.version)));
                }
                tracing::debug!("guest kernel {}", hello.kernel);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.order.setup.seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                self.order.setup.nanoseconds = now.subsec_nanos();
                self.say(MACHINE, Message::Setup(self.order.setup.clone()));
            }
            (MACHINE, Message::Ready) => self.start_command(),
            (MACHINE, Message::Fatal(cause)) => self.fatal = Some(cause),
            (FIRST, Message::Stdout(bytes)) => self.pass_on(Channel::Stdout, bytes),
            (FIRST, Message::Stderr(bytes)) => self.pass_on(Channel::Stderr, bytes),
            (FIRST, Message::Credit(Channel::Stdin, bytes)) => {
                if let Some(session) = &self.session {
                    session.credit(bytes);
                }
            }
            (FIRST, Message::Started) => tracing::debug!("command started"),
            (FIRST, Message::Exited(ending)) => self.finish(Outcome::Ended(ending)),
            (FIRST, Message::StartFailed(error)) => self.finish(Outcome::StartFailed(error.status, error.cause)),
            (stream, unexpected) => tracing::debug!("ignored on stream {stream}: {unexpected:?}"),
        }
        Ok(())
    }

    fn start_command(&mut self) {
        self.deadline = None;
        if self.order.process.terminal.is_some() {
            self.order.process.terminal = Some(terminal::size());
            self.raw = terminal::Raw::enter().inspect_err(|error| tracing::warn!("terminal: {error}")).ok();
        }
        self.say(FIRST, Message::Start(self.order.process.clone()));
        if let Some(control) = &self.control {
            self.flushed = false;
            self.session = Some(Session::attach(FIRST, control, self.events.clone()));
        }
    }

    /// The command is over: the machine has nothing left to do.
    fn finish(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        if let Some(session) = &mut self.session {
            session.finish();
        }
        self.say(MACHINE, Message::PowerOff);
        self.deadline = Some((Instant::now() + POWER_OFF_DEADLINE, Overdue::PowerOff));
    }

    fn note_end(&mut self, number: usize, status: std::process::ExitStatus) -> Result<(), Failure> {
        self.children.note_end(number, status);
        if Some(number) == self.hypervisor {
            self.hypervisor_end = Some(status);
            self.deadline = Some((Instant::now() + LAST_WORDS, Overdue::LastWords));
            if self.outcome.is_none()
                && let Some(session) = &mut self.session
            {
                session.finish();
            }
        } else {
            let mut cause = format!("the server of its {} ended ({status})", self.children.role(number));
            let words = self.children.last_words(number);
            if !words.is_empty() {
                cause.push_str(&format!(": {words}"));
            }
            if self.hypervisor.is_none() {
                return Err(self.failed(&cause));
            }
            self.share_ended(cause);
        }
        Ok(())
    }

    /// The first signal is the command's; a second one, or one before there is a command, ends the machine.
    fn signal(&mut self, signal: i32) {
        if signal == SIGWINCH {
            if self.order.process.terminal.is_some() && self.session.is_some() {
                self.say(FIRST, Message::Resize(terminal::size()));
            }
            return;
        }
        if self.session.is_some() && self.interrupted.is_none() && self.outcome.is_none() {
            self.say(FIRST, Message::Signal(u32::try_from(signal).unwrap_or_default()));
            if signal == SIGTERM || signal == SIGHUP {
                self.deadline = Some((Instant::now() + GRACE, Overdue::Command));
            }
            self.interrupted = Some(signal);
            return;
        }
        self.interrupted = Some(signal);
        self.control = None;
        self.kill_hypervisor();
    }

    /// What no event tells: time that has passed, and the end of a server in this process.
    fn look_around(&mut self) -> Result<(), Failure> {
        if self.order.root.0.has_ended() {
            self.share_ended("the server of its root ended".to_owned());
        }
        match self.deadline {
            Some((at, _)) if at <= Instant::now() => self.overdue(),
            _ => Ok(()),
        }
    }

    /// A share's server ends by itself when the hypervisor does, whose end is then about to be told. Otherwise
    /// it is the reason: a guest whose share is gone hangs, and nothing can be saved by waiting.
    fn share_ended(&mut self, cause: String) {
        if self.hypervisor_end.is_none() && self.outcome.is_none() && self.share_failure.is_none() {
            self.share_failure = Some(cause);
            self.deadline = Some((Instant::now() + LAST_WORDS, Overdue::Hypervisor));
        }
    }

    fn overdue(&mut self) -> Result<(), Failure> {
        match self.deadline.take() {
            Some((_, Overdue::Ready)) => {
                let seconds = self.order.ready_timeout.as_secs();
                self.console_tells = true;
                Err(self.failed(&format!("the guest was not ready after {seconds} s")))
            }
            Some((_, Overdue::Command | Overdue::PowerOff)) => {
                tracing::warn!("machine {}: it did not end in time and is killed", self.order.name);
                self.kill_hypervisor();
                Ok(())
            }
            Some((_, Overdue::Hypervisor)) => {
                let cause = self.share_failure.take().unwrap_or_default();
                Err(self.failed(&cause))
            }
            Some((_, Overdue::LastWords)) => {
                self.open_channels = 0;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn pass_on(&self, channel: Channel, bytes: Vec<u8>) {
        if let Some(session) = &self.session {
            session.output(channel, bytes);
        }
    }

    fn say(&self, stream: u32, message: Message) {
        if let Some(control) = &self.control {
            control.send(stream, message);
        }
    }

    fn kill_hypervisor(&self) {
        if let Some(number) = self.hypervisor {
            self.children.kill(number);
        }
    }

    fn failed(&self, cause: &str) -> Failure {
        Failure::new(format_args!("machine {}", self.order.name), cause).with_status(MACHINE_FAILED)
    }

    fn explain_end(&mut self) -> Failure {
        // Killed from outside, the console has nothing to say of it.
        self.console_tells = self.hypervisor_end.is_some_and(|status| status.success());
        let last_words = self.hypervisor.map_or(String::new(), |number| self.children.last_words(number));
        explain(&Circumstances {
            name: &self.order.name,
            fatal: self.fatal.as_deref(),
            reason: self.reason.as_deref(),
            status: self.hypervisor_end,
            last_words: &last_words,
            console: &child::tail(&self.order.console, 60),
            running: self.session.is_some(),
        })
    }
}
