//! The run of one machine, from its directory to its last process.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use guest_protocol::{Channel, Ending, MACHINE, Message, Process, VERSION};

use super::api::{self, ApiServer};
use super::children::Children;
use super::cleaner::Cleaner;
use super::event::Event;
use super::record::{ProcessRecord, State, now};
use super::run_config::RunConfig;
use super::session::{Control, Session};
use super::signals::{Signals, interrupted};
use super::{console, guest_warning, session, terminal};
use crate::engine::{self, Events, Exit, Running};
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::machine::kept_disk;
use crate::spec::ready::Ready;
use crate::sys;

/// The stream of the machine's first command.
pub(super) const FIRST: u32 = 1;
/// The stream of the tool that waits for the machine to be ready.
const AWAITING: u32 = u32::MAX;
/// How long a share's server may take to make its socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);
/// How long a guest may take to power off when told to; one that still writes its disk may take longer.
pub(super) const POWER_OFF_DEADLINE: Duration = Duration::from_secs(10);
/// The end of a command that was killed, alone or with its machine.
pub(super) const KILLED: Ending = Ending::Signal(9);
/// How often to look for what no event tells.
const TICK: Duration = Duration::from_secs(1);

/// Runs a machine and its command; gives how that ended.
///
/// Must be called by a thread that lives as long as the machine: the kernel ends the helpers with it.
///
/// # Errors
/// The machine could not be started, or ended without the command having ended.
pub(crate) fn run(order: RunConfig, signals: Signals) -> Result<Ending, Failure> {
    let attended = signals.attend();
    let Signals { events, inbox, .. } = signals;
    // Dropped last: it steps in if this process is killed before all is tidied up.
    let mut order = order;
    let _cleaner = match Cleaner::start(order.directory.name()) {
        Ok(cleaner) => cleaner,
        Err(failure) => {
            order.directory.give_up(&failure);
            order.handover.failed(&failure);
            return Err(failure);
        }
    };
    let mut supervisor = Supervisor {
        engine: None,
        children: Children::new(events.clone()),
        desk: ApiServer::new(events.clone()),
        order,
        events,
        control: None,
        session: None,
        raw: None,
        outcome: None,
        fatal: None,
        share_failure: None,
        exit: None,
        flushed: true,
        open_channels: 0,
        deadline: None,
        interrupted: None,
        ran: false,
        stopping: false,
        console_tells: false,
        disk_seen: None,
    };
    let result = supervisor.start(&inbox).and_then(|()| supervisor.serve(&inbox));
    drop(attended);
    supervisor.desk.close();
    // The terminal first: what follows may print.
    supervisor.raw = None;
    if supervisor.console_tells && !supervisor.order.show_console {
        console::print_tail(&supervisor.order.engine.1.console);
    }
    // The processes before what is said of their end.
    supervisor.engine = None;
    supervisor.children.end();
    supervisor.enter(match &result {
        Ok(ending) => State::Exited { status: ending.shell_status(), at: now() },
        Err(failure) => State::Failed { reason: failure.cause().to_owned(), status: failure.status(), at: now() },
    });
    match &result {
        Ok(ending) if supervisor.order.handover.is_awaited() => {
            let status = ending.shell_status();
            let cause = format!("it ended (status {status}) before {}", supervisor.order.ready);
            let remedy = format!("see lamina logs {}", supervisor.order.directory.name());
            supervisor.order.handover.failed(&supervisor.failed(&cause).with_hint(remedy));
        }
        Ok(_) => {}
        Err(failure) => {
            if !supervisor.ran {
                supervisor.order.directory.forget_if_new();
            }
            supervisor.order.handover.failed(failure);
        }
    }
    result
}

/// What ends the machine.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Ended(Ending),
    StartFailed(u8, String),
}

pub(super) struct Supervisor {
    // Dropped in this order: the engine before the servers that it uses, and these before the directory of their sockets.
    pub(super) engine: Option<Box<dyn Running>>,
    pub(super) children: Children,
    pub(super) order: RunConfig,
    events: Sender<Event>,
    /// Where other commands ask.
    pub(super) desk: Arc<ApiServer>,
    pub(super) control: Option<Control>,
    pub(super) session: Option<Session>,
    raw: Option<terminal::Raw>,
    pub(super) outcome: Option<Outcome>,
    pub(super) fatal: Option<String>,
    /// Why a share's server ended, if one did.
    pub(super) share_failure: Option<String>,
    /// Why the engine ended, once it has.
    pub(super) exit: Option<Exit>,
    flushed: bool,
    pub(super) open_channels: u32,
    pub(super) deadline: Option<(Instant, Overdue)>,
    pub(super) interrupted: Option<i32>,
    /// The command has run, or does.
    ran: bool,
    /// The machine has been asked to end.
    pub(super) stopping: bool,
    /// The reason of the failure may stand on the kernel's console.
    pub(super) console_tells: bool,
    /// What the machine's own disk was like when it was last looked at whether the guest still writes it.
    pub(super) disk_seen: Option<DiskState>,
}

/// When a disk's file was last written, and how many blocks of 512 bytes it takes.
pub(super) type DiskState = (SystemTime, u64);

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Ready,
    Command,
    PowerOff,
    Panic,
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
        let desk = self.order.directory.socket(api::SOCKET);
        self.desk.open(UnixListener::bind(&desk).about(desk.display())?);
        let (engine, plan) = &self.order.engine;
        console::watch(&plan.console, self.order.show_console, self.events.clone())?;
        let sender = self.events.clone();
        let events: Events = Arc::new(move |event| {
            // Nobody listens any more once the machine is being dropped.
            let _ = sender.send(Event::Engine(event));
        });
        let running = self.engine.insert(engine.start(plan, events)?);
        let mut records = self.children.records();
        records.extend(ProcessRecord::of("hypervisor", running.process().pid()));
        self.order.directory.note(&records)?;
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
    fn serve(&mut self, inbox: &Receiver<Event>) -> Result<Ending, Failure> {
        loop {
            let left = self.deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
                Ok(event) => self.handle(event)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.look_around()?;
            let over = self.exit.is_some() && self.flushed;
            if over && self.stopping && self.outcome.is_none() {
                return Ok(KILLED);
            }
            match (&self.outcome, self.interrupted) {
                (_, Some(signal)) if self.control.is_none() => return Err(interrupted(signal)),
                (Some(outcome), _) if over => return self.conclude(outcome),
                (None, Some(signal)) if over => return Err(interrupted(signal)),
                (None, None) if over && self.open_channels == 0 => return Err(self.explain_end()),
                _ => {}
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Engine(engine::Event::Connected(stream)) => self.connect(stream)?,
            Event::Engine(engine::Event::Exited(exit)) => self.engine_ended(exit),
            Event::Control(stream, message) => self.hear(stream, message)?,
            Event::ControlClosed(error) => {
                self.open_channels = self.open_channels.saturating_sub(1);
                match error {
                    Some(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        self.fatal = Some(format!("its guest does not keep to the protocol: {error}"));
                        self.kill_hypervisor();
                    }
                    Some(error) => tracing::debug!("control channel: {error}"),
                    None => {}
                }
            }
            Event::Panicked => self.panicked(),
            Event::Engine(engine::Event::DiskFailed(cause)) => {
                let disk = self.order.directory.file(kept_disk::FILE);
                self.order.directory.warn(&format!(
                    "its disk {} fails on this host, and so do the guest's writes: {cause}",
                    disk.display()
                ));
            }
            Event::Asked(request) => self.asked(&request),
            Event::Flushed => self.flushed = true,
            Event::Ended(number, status) => self.note_end(number, status)?,
            Event::Signal(signal) => self.signal(signal),
        }
        Ok(())
    }

    fn connect(&mut self, stream: UnixStream) -> Result<(), Failure> {
        let control = Control::new(stream.try_clone().about("control channel")?);
        session::listen(stream, self.events.clone(), control.ledger());
        self.control = Some(control);
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
            (MACHINE, Message::Ready) => {
                if self.order.ready == Ready::Root && self.order.handover.is_awaited() {
                    self.order.handover.ready();
                    // From here on somebody knows of the machine.
                    self.ran = true;
                }
                self.start_command();
            }
            (MACHINE, Message::Warning(warning)) => {
                let told = guest_warning::text(&warning, self.order.directory.file(kept_disk::FILE).exists());
                self.order.directory.warn(&told);
            }
            (MACHINE, Message::Fatal(cause)) => self.fatal = Some(cause),
            (FIRST, Message::Stdout(bytes)) => self.pass_on(Channel::Stdout, bytes),
            (FIRST, Message::Stderr(bytes)) => self.pass_on(Channel::Stderr, bytes),
            (FIRST, Message::Credit(Channel::Stdin, bytes)) => {
                if let Some(session) = &self.session {
                    session.credit(bytes);
                }
            }
            (FIRST, Message::Started) => {
                self.enter(State::Running { since: now() });
                self.ran = true;
                self.await_ready();
                sys::let_go_of_programs();
            }
            (AWAITING, Message::Exited(Ending::Status(0))) => {
                self.deadline.take_if(|(_, what)| *what == Overdue::Ready);
                self.order.handover.ready();
            }
            (AWAITING, _) => {}
            (FIRST, Message::Exited(ending)) => self.finish(Outcome::Ended(ending)),
            (FIRST, Message::StartFailed(error)) => self.finish(Outcome::StartFailed(error.status, error.cause)),
            // All is on its disks: what a guest does from here on only takes time.
            (MACHINE, Message::Halting) => self.kill_hypervisor(),
            (stream, message) if stream > FIRST => self.desk.deliver(stream, message),
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
        if let (Some(control), Some(ends)) = (&self.control, self.order.ends.take()) {
            self.flushed = false;
            self.session = Some(Session::attach(FIRST, control, self.events.clone(), ends));
            self.desk.ready(control.clone(), self.order.process.clone());
        }
    }

    /// The command runs. What else is to be ready is waited for in the guest, by a tool of its init's.
    fn await_ready(&mut self) {
        let Ready::Port(port) = self.order.ready else { return self.order.handover.ready() };
        if self.order.handover.is_awaited() {
            self.say(AWAITING, Message::Start(Process::tool(&["await-port", &port.to_string()])));
            self.deadline.get_or_insert((Instant::now() + self.order.ready_timeout, Overdue::Ready));
        }
    }

    /// Writes down how the machine is. A disk that is full is no reason to end it.
    fn enter(&mut self, state: State) {
        if let Err(failure) = self.order.directory.enter(state) {
            tracing::warn!("{failure}");
        }
    }

    /// The command is over: the machine has nothing left to do.
    fn finish(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        if let Some(session) = &mut self.session {
            session.finish();
        }
        self.say(MACHINE, Message::PowerOff);
        self.disk_seen = self.disk();
        self.deadline = Some((Instant::now() + POWER_OFF_DEADLINE, Overdue::PowerOff));
    }

    fn pass_on(&self, channel: Channel, bytes: Vec<u8>) {
        if let Some(session) = &self.session {
            session.output(channel, bytes);
        }
    }

    pub(super) fn say(&self, stream: u32, message: Message) {
        if let Some(control) = &self.control {
            control.send(stream, message);
        }
    }
}
