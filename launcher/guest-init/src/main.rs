//! The first process of a guest (`/init` of the initramfs).
//!
//! It first prints [`guest_protocol::UP`] on the console. It then loads the modules that it was packed with, opens the
//! control channel, and does what the host says there. It never reads the kernel command line and never exits: when it
//! is done, or cannot go on, it powers the machine off.

mod boot;
mod changes;
mod container;
mod defaults;
mod device;
mod etc;
mod limits;
mod missing;
mod namespace;
mod netlink;
mod options;
mod ports;
mod privileges;
mod process;
mod processes;
mod pump;
mod reaper;
mod rights;
mod root;
mod sys;
mod tool;
mod writes;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::{Channel, Hello, MACHINE, Message, Secret, Side, VERSION};

use container::Container;
use namespace::Namespace;
use ports::Ports;
use process::Session;
use reaper::Reaper;

/// What the threads of init share.
#[derive(Debug)]
struct Guest {
    port: Mutex<File>,
    reaper: Reaper,
    sessions: Mutex<HashMap<u32, Arc<Session>>>,
    hostname: Mutex<String>,
    /// The connections of the host's published ports.
    ports: Ports,
    /// The files for `/run/secrets`, until they are there.
    secrets: Mutex<Vec<Secret>>,
    /// The namespace of the command, if the command is an init.
    namespace: Mutex<Option<Arc<Namespace>>>,
    /// The guest is a container, and its kernel the host's.
    in_container: bool,
    /// What moves a process into the container's own control group, if it has one.
    groups: Option<File>,
}

impl Guest {
    /// Sends one message. This fails only when the channel has ended, and then the main thread powers off.
    fn send(&self, stream: u32, message: Message) {
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = message.write(stream, &*port) {
            eprintln!("lamina: control channel: {error}");
        }
    }

    fn namespace(&self) -> Option<Arc<Namespace>> {
        self.namespace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_namespace(&self, namespace: Namespace) {
        *self.namespace.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(namespace));
    }

    fn session(&self, stream: u32) -> Option<Arc<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&stream).cloned()
    }
}

fn main() {
    if !rustix::process::getpid().is_init() {
        let arguments: Vec<String> = std::env::args().collect();
        std::process::exit(tool::run(&arguments).into());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let container = Container::of(&arguments);
    println!("{}", guest_protocol::UP);
    match container {
        Ok(None) => {
            if let Err(cause) = boot::open_control_channel().and_then(|port| serve(port, None)) {
                eprintln!("lamina: guest: {cause}");
            }
            boot::power_off();
        }
        Ok(Some(mut container)) => {
            let served = container.control.try_clone().map_err(|error| format!("control channel: {error}"));
            if let Err(cause) = served.and_then(|control| serve(control, Some(&mut container))) {
                eprintln!("lamina: container: {cause}");
            }
            // The kernel ends all other processes with the first one.
            rustix::fs::sync();
        }
        Err(cause) => eprintln!("lamina: container: {cause}"),
    }
}

/// Runs from the open control channel until the host says to power off.
fn serve(port: File, mut container: Option<&mut Container>) -> Result<(), String> {
    let mut from = port.try_clone().map_err(|error| format!("control channel: {error}"))?;
    let guest = Arc::new(Guest {
        port: Mutex::new(port),
        reaper: Reaper::default(),
        sessions: Mutex::default(),
        hostname: Mutex::default(),
        ports: Ports::new().map_err(|error| format!("eventfd: {error}"))?,
        secrets: Mutex::default(),
        namespace: Mutex::default(),
        in_container: container.is_some(),
        groups: container.as_mut().and_then(|container| container.groups.take()),
    });
    Reaper::run(&guest);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    guest.send(MACHINE, Message::Hello(Hello { version: VERSION, kernel }));
    loop {
        match Message::read(&mut from, Side::Host) {
            Ok(Some((MACHINE, Message::PowerOff))) => {
                limits::look(&guest);
                rustix::fs::sync();
                guest.send(MACHINE, Message::Halting);
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Ok(Some((stream, message))) => {
                if let Err(cause) = obey(&guest, stream, message, container.as_deref_mut()) {
                    guest.send(MACHINE, Message::Fatal(cause.clone()));
                    return Err(cause);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("control channel: {error}")),
        }
    }
}

/// Does what one message says. An error is fatal to the machine.
fn obey(guest: &Arc<Guest>, stream: u32, message: Message, container: Option<&mut Container>) -> Result<(), String> {
    match message {
        Message::Secret(secret) => guest.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(secret),
        Message::Setup(setup) => {
            *guest.hostname.lock().unwrap_or_else(PoisonError::into_inner) = setup.hostname.clone();
            let secrets = std::mem::take(&mut *guest.secrets.lock().unwrap_or_else(PoisonError::into_inner));
            match container {
                Some(container) => root::set_up(&setup, &secrets, container)?,
                None => root::enter(&setup, &secrets)?,
            }
            missing::report(guest);
            guest.ports.set_address(setup.network.as_ref().map_or(ports::WITHOUT_CARD, |network| network.address));
            let watcher = Arc::clone(guest);
            std::thread::spawn(move || limits::watch(&watcher));
            guest.send(MACHINE, Message::Ready);
        }
        Message::Start(process) => Session::start(guest, stream, process),
        message @ (Message::Connect(_) | Message::Reset) => guest.ports.deliver(guest, stream, message),
        message @ (Message::Stdin(_) | Message::Credit(..)) if guest.session(stream).is_none() => {
            guest.ports.deliver(guest, stream, message);
        }
        Message::Stdin(bytes) => {
            if let Some(session) = guest.session(stream) {
                session.feed(bytes);
            }
        }
        Message::Credit(channel, bytes) => match (guest.session(stream), channel) {
            (Some(session), Channel::Stdout) => session.stdout.credit(bytes),
            (Some(session), Channel::Stderr) => session.stderr.credit(bytes),
            _ => {}
        },
        Message::Close(channel) => match (guest.session(stream), channel) {
            (Some(session), Channel::Stdout) => session.stdout.close(),
            (Some(session), Channel::Stderr) => session.stderr.close(),
            _ => {}
        },
        Message::Signal(number) => {
            if let Some(session) = guest.session(stream) {
                session.signal(number);
            }
        }
        Message::Stop(number) => {
            if let Some(session) = guest.session(stream) {
                session.stop(number);
            }
        }
        Message::Resize(size) => {
            if let Some(session) = guest.session(stream) {
                session.resize(size);
            }
        }
        unexpected => eprintln!("lamina: ignored {unexpected:?}"),
    }
    Ok(())
}
