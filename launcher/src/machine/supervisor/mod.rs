//! Runs one machine, from its directory to its last process. Carries out the actions of [`Lifecycle`], and reports to it
//! what happens.

mod guest;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use composefs_fuse::linux::StatsSocket;
use guest_protocol::{Ending, MACHINE, Message, Process, Secret, Setup};
use signal_hook::consts::SIGWINCH;

use super::api::ApiServer;
use super::children::Children;
use super::cleaner::Cleaner;
use super::console::Console;
use super::directory::Directory;
use super::end::End;
use super::event::Event;
use super::lifecycle::{Action, Input, Lifecycle, Phase, Purpose, Rules};
use super::ports::{Listeners, Ports};
use super::ready_pipe::ReadyPipe;
use super::record::{ProcessRecord, State};
use super::request::{self, ApiRequest};
use super::session::{Control, Session};
use super::signals::Signals;
use super::stdio::Stdio;
use super::{LAUNCHER_LOG, console, kept, limits, terminal};
use crate::clock::now;
use crate::engine::{self, Engine, Events, Plan, Running};
use crate::failure::{About, Failure, MACHINE_FAILED};
use crate::host::confine::Confined;
use crate::host::{bounded_log, packet_filter};
use crate::raw_terminal::RawTerminal;
use crate::root::RootServer;
use crate::spec::ready::Ready;
use crate::sys;

/// The stream of the machine's first command.
const FIRST: u32 = 1;
/// The stream of the tool that waits for the machine to be ready.
const AWAITING: u32 = 2;
/// How often to check for what no event reports.
const TICK: Duration = Duration::from_secs(1);
/// How often to look for the sockets of servers that are starting.
const SOCKET_TICK: Duration = Duration::from_millis(2);

/// Everything that one run of a machine uses.
#[derive(Debug)]
pub(crate) struct RunConfig {
    /// The server of its root, and that root's socket.
    pub(crate) root: (Box<dyn RootServer>, PathBuf),
    /// The socket that returns the root's counters, for as long as this exists.
    pub(crate) _stats: Option<StatsSocket>,
    /// The locks that keep its named volumes.
    pub(crate) _volumes: Vec<File>,
    /// The servers of its further shares and of its network, each with its socket, whose name says what it serves.
    pub(crate) shares: Vec<(Confined, PathBuf)>,
    /// What executes the guest, and how.
    pub(crate) engine: (&'static dyn Engine, Plan),
    /// The most bytes of the console's log.
    pub(crate) log_size: u64,
    /// Whether to show the console as it grows.
    pub(crate) show_console: bool,
    /// What the guest mounts. The clock is filled in when it is sent.
    pub(crate) setup: Setup,
    /// The sockets of the filter of the guest's packets, if there is one: its own, and that of the network's server.
    pub(crate) filter: Option<(PathBuf, PathBuf)>,
    /// The published ports, until the command runs.
    pub(crate) listeners: Listeners,
    /// Files for `/run/secrets`, until they have been sent.
    pub(crate) secrets: Vec<Secret>,
    /// The command.
    pub(crate) process: Process,
    /// When the machine counts as ready.
    pub(crate) ready: Ready,
    /// How long the guest may take until it is.
    pub(crate) ready_timeout: Duration,
}

/// Runs a machine and its command. Returns how the command ended.
///
/// Must be called by a thread that lives as long as the machine, because the kernel ends the helpers with that thread.
///
/// # Errors
/// The machine could not be started, or ended before the command did.
pub(crate) fn run(
    config: RunConfig,
    mut directory: Directory,
    stdio: Stdio,
    mut ready_pipe: ReadyPipe,
    signals: Signals,
) -> Result<Ending, Failure> {
    let attended = signals.attend();
    let Signals { events, inbox, .. } = signals;
    // Dropped last, because it cleans up if this process is killed before it has done so itself.
    let _cleaner = match Cleaner::start(directory.name()) {
        Ok(cleaner) => cleaner,
        Err(failure) => {
            directory.give_up(&failure);
            ready_pipe.failed(&failure);
            return Err(failure);
        }
    };
    let rules = Rules {
        ready: config.ready,
        awaited: ready_pipe.is_awaited(),
        ready_timeout: config.ready_timeout,
        has_stop_signal: config.process.stop_signal.is_some() || config.process.is_init_system(),
    };
    let mut supervisor = Supervisor {
        engine: None,
        children: Children::new(events.clone()),
        api: ApiServer::new(events.clone()),
        lifecycle: Lifecycle::new(rules, Instant::now()),
        config,
        directory,
        stdio: Some(stdio),
        ready_pipe,
        events,
        ports: None,
        console: None,
        control: None,
        session: None,
        raw: None,
        disk_seen: None,
    };
    let end = supervisor.serve(&inbox);
    drop(attended);
    supervisor.conclude(end)
}

struct Supervisor {
    // Dropped in this order: the engine before the servers that it uses, and these before the directory of their sockets.
    engine: Option<Box<dyn Running>>,
    children: Children,
    config: RunConfig,
    directory: Directory,
    /// What the command's channels will be connected to, until it is started.
    stdio: Option<Stdio>,
    /// The process that waits until the machine is ready, if one does.
    ready_pipe: ReadyPipe,
    /// The state of the run.
    lifecycle: Lifecycle,
    events: Sender<Event>,
    /// The server for requests of other commands.
    api: Arc<ApiServer>,
    /// Forwards the published ports while the command runs.
    ports: Option<Ports>,
    /// The console, once the engine has been started.
    console: Option<Console>,
    control: Option<Control>,
    session: Option<Session>,
    raw: Option<RawTerminal>,
    /// The state of the machine's own disk when the guest was told to power off, or at the last check since then.
    disk_seen: Option<DiskState>,
}

/// When a disk's file was last written, and how many blocks of 512 bytes it takes.
type DiskState = (SystemTime, u64);

impl Supervisor {
    /// Starts everything, and handles events until the machine has ended and its output is written.
    ///
    /// # Errors
    /// Something cannot be started.
    fn serve(&mut self, inbox: &Receiver<Event>) -> Result<End, Failure> {
        self.start_servers()?;
        let mut looked = Instant::now();
        loop {
            if let Phase::Ended(end) = self.lifecycle.phase() {
                return Ok(end.clone());
            }
            let starting = *self.lifecycle.phase() == Phase::StartingServers;
            if starting && self.servers_are_ready() {
                self.start_engine()?;
                continue;
            }
            let time = Instant::now();
            if let Some(purpose) = self.lifecycle.expired(time) {
                self.expired(purpose);
                continue;
            }
            if looked.elapsed() >= TICK {
                looked = time;
                self.look_around();
            }
            let tick = if starting { SOCKET_TICK } else { TICK };
            let left = self.lifecycle.next_deadline().map_or(tick, |at| at.saturating_duration_since(time).min(tick));
            match inbox.recv_timeout(left) {
                Ok(event) => self.handle(event)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn start_servers(&mut self) -> Result<(), Failure> {
        let Self { config, children, directory, .. } = self;
        let (root, socket) = &mut config.root;
        let events = self.events.clone();
        // Fails when the machine is being dropped.
        root.tell_end(Box::new(move || drop(events.send(Event::RootEnded))));
        if let Some(command) = root.start(socket, &directory.mount_point())? {
            children.spawn("root", &command, directory)?;
        }
        for (command, socket) in &config.shares {
            let role = socket.file_stem().unwrap_or_default().to_string_lossy();
            children.spawn(&role, command, directory)?;
        }
        Ok(())
    }

    /// Returns whether every server has created its socket.
    fn servers_are_ready(&self) -> bool {
        let (root, socket) = &self.config.root;
        (!root.is_device() || socket.exists()) && self.config.shares.iter().all(|(_, socket)| socket.exists())
    }

    fn start_engine(&mut self) -> Result<(), Failure> {
        let socket = self.directory.socket(request::SOCKET);
        self.api.open(UnixListener::bind(&socket).about(socket.display())?);
        if let Some((guest, passt)) = self.config.filter.take() {
            packet_filter::open(&guest, passt)?;
        }
        let (engine, plan) = &self.config.engine;
        let log = self.directory.file(console::FILE);
        let (size, show) = (self.config.log_size, self.config.show_console);
        self.console = Some(Console::open(&plan.console, log, size, show, self.events.clone())?);
        let sender = self.events.clone();
        let events: Events = Arc::new(move |event| {
            // Fails when the machine is being dropped.
            let _ = sender.send(Event::Engine(event));
        });
        let running = self.engine.insert(engine.start(plan, events)?);
        let mut records = self.children.records();
        records.extend(ProcessRecord::of(running.role(), running.process().pid()));
        self.directory.note(&records)?;
        self.step(Input::EngineStarted);
        Ok(())
    }

    fn step(&mut self, input: Input) {
        tracing::debug!("{:?}: {input:?}", self.lifecycle.phase());
        for action in self.lifecycle.step(Instant::now(), input) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::StartCommand => self.start_command(),
            Action::RecordRunning => {
                self.enter(State::Running { since: now() });
                self.open_ports();
                sys::let_go_of_programs();
            }
            Action::AwaitPort(port) => {
                self.send(AWAITING, Message::Start(Process::tool(&["await-port", &port.to_string()])));
            }
            Action::TellReady => self.ready_pipe.ready(),
            Action::StopCommand => self.send(FIRST, Message::Stop(0)),
            Action::SignalCommand(signal) => self.send(FIRST, Message::Signal(signal.unsigned_abs())),
            Action::EndOutput => match &mut self.session {
                Some(session) => session.finish(),
                None => self.step(Input::OutputWritten),
            },
            Action::PowerOff => {
                self.disk_seen = self.disk();
                self.send(MACHINE, Message::PowerOff);
            }
            Action::WarnLate => {
                let lost = if self.disk().is_some() { ": what it wrote last may be missing on its disk" } else { "" };
                self.directory.warn(&format!("it did not end in time and was killed{lost}"));
            }
            Action::KillEngine => {
                if let Some(engine) = &self.engine {
                    engine.kill();
                }
            }
        }
    }

    fn expired(&mut self, purpose: Purpose) {
        // A guest that still writes is writing back what the command left in its memory, however long that takes.
        let writes = matches!(purpose, Purpose::PowerOff | Purpose::Kill) && self.still_writes();
        self.step(if writes { Input::StillWriting } else { Input::Expired(purpose) });
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Engine(engine::Event::Connected(stream)) => self.connect(stream)?,
            Event::Engine(engine::Event::Exited(exit)) => self.step(Input::EngineExited(exit)),
            Event::Engine(engine::Event::HelperEnded(cause)) => self.server_ended(cause, false),
            Event::Engine(engine::Event::DiskFailed(cause)) => {
                let warning = limits::disk_failed(&self.directory.file(kept::DISK), &cause);
                self.directory.warn(&warning);
            }
            Event::Control(stream, message, permit) => {
                self.hear(stream, message);
                drop(permit);
            }
            Event::ControlClosed(error) => {
                match error {
                    Some(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        self.step(Input::GuestBroke(format!("its guest does not keep to the protocol: {error}")));
                    }
                    Some(error) => tracing::debug!("control channel: {error}"),
                    None => {}
                }
                self.step(Input::ControlClosed);
            }
            Event::Panicked => self.step(Input::KernelPanicked),
            Event::RootEnded => self.root_ended(),
            Event::Asked(ApiRequest::Signal(number)) => self.send(FIRST, Message::Signal(number)),
            Event::Asked(ApiRequest::Stop { timeout }) => self.step(Input::Stop(Duration::from_millis(timeout))),
            Event::Asked(ApiRequest::Kill) => self.step(Input::Kill),
            // The server of requests handles this itself.
            Event::Asked(ApiRequest::Exec(_) | ApiRequest::Spawn(_) | ApiRequest::Input) => {}
            Event::Flushed => self.step(Input::OutputWritten),
            Event::Ended(number, status) => {
                self.children.note_end(number);
                let mut cause = format!("the server of its {} ended ({status})", self.children.role(number));
                let words = self.children.last_words(number);
                if !words.is_empty() {
                    cause.push_str(&format!(": {words}"));
                }
                self.server_ended(cause, !status.success());
            }
            Event::Signal(SIGWINCH) => {
                if self.config.process.terminal.is_some() && self.session.is_some() {
                    self.send(FIRST, Message::Resize(terminal::size()));
                }
            }
            Event::Signal(signal) => self.step(Input::Signal(signal)),
        }
        Ok(())
    }

    /// Checks for what no event reports.
    fn look_around(&mut self) {
        self.restore_api();
        // It is this process's standard error, if it runs in the background.
        let _ = bounded_log::bound(&self.directory.file(LAUNCHER_LOG), bounded_log::OWN_SIZE);
        if self.config.root.0.has_ended() {
            self.root_ended();
        }
        for warning in self.children.short_of_files() {
            self.directory.warn(&warning);
        }
    }

    fn server_ended(&mut self, cause: String, failed: bool) {
        self.step(Input::ServerEnded { cause, failed });
    }

    /// The threads that serve the root also end when the engine does.
    fn root_ended(&mut self) {
        self.server_ended("the server of its root ended".to_owned(), false);
    }

    /// Creates the socket again if the directory of sockets was emptied, as happens to the runtime directory when its
    /// user logs out.
    fn restore_api(&self) {
        let path = self.directory.socket(request::SOCKET);
        if self.engine.is_none() || path.exists() {
            return;
        }
        let bound = self.directory.make_sockets().and_then(|()| UnixListener::bind(&path).about(path.display()));
        match bound {
            Ok(listener) => self.api.open(listener),
            // This fails until the user logs in again.
            Err(failure) => tracing::debug!("{failure}"),
        }
    }

    /// Returns the state of the machine's own disk, if it has one.
    fn disk(&self) -> Option<DiskState> {
        let file = self.directory.file(kept::DISK).metadata().ok()?;
        Some((file.modified().ok()?, file.blocks()))
    }

    /// Returns whether the guest has written to its disk since the last call.
    fn still_writes(&mut self) -> bool {
        let now = self.disk();
        let before = std::mem::replace(&mut self.disk_seen, now);
        now.is_some() && now != before
    }

    /// Records the state of the machine. A full disk must not end it.
    fn enter(&mut self, state: State) {
        if let Err(failure) = self.directory.enter(state) {
            tracing::warn!("{failure}");
        }
    }

    /// Ends what is left, and records and reports how the run ended.
    fn conclude(mut self, end: Result<End, Failure>) -> Result<Ending, Failure> {
        self.api.close();
        self.ports = None;
        // The terminal is restored first, because what follows may print.
        self.raw = None;
        let engine = if self.config.engine.0.shares_kernel() { "container" } else { "hypervisor" };
        // The processes end before their end is recorded.
        self.engine = None;
        let mut console = String::new();
        if let Some(opened) = &self.console {
            opened.finish();
            console = opened.tail(60);
            if end.as_ref().is_ok_and(End::is_on_console) && !self.config.show_console {
                opened.print_tail();
            }
        }
        let (name, ready) = (self.directory.name().to_owned(), self.config.ready);
        let result = end.and_then(|end| end.outcome(&name, &console, ready, engine));
        self.children.end();
        self.enter(match &result {
            Ok(ending) => State::Exited { status: ending.shell_status(), at: now() },
            Err(failure) => State::Failed { reason: failure.cause().to_owned(), status: failure.status(), at: now() },
        });
        match &result {
            Ok(ending) if self.ready_pipe.is_awaited() => {
                let cause = format!("it ended (status {}) before {ready}", ending.shell_status());
                let failure = Failure::new(format_args!("machine {name}"), cause)
                    .with_status(MACHINE_FAILED)
                    .with_hint(format_args!("see lamina logs {name}"));
                self.ready_pipe.failed(&failure);
            }
            Ok(_) => {}
            Err(failure) => {
                if !self.lifecycle.is_known() {
                    self.directory.forget_if_new();
                }
                self.ready_pipe.failed(failure);
            }
        }
        result
    }
}
