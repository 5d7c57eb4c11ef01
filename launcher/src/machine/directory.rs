//! A machine's two directories: one for its state, one for its sockets.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::exit_record::{self, lock};
use super::home::{self, make_private};
use super::kept::remove_state;
use super::reconcile::{reconcile, reconcile_all};
use super::record::{self, MOUNT_POINT, ProcessRecord, Record, State};
use crate::clock::now;
use crate::failure::{About, Failure};
use crate::host::current_boot;
use crate::spec::Spec;

/// The most warnings that are recorded for one machine.
const MOST_WARNINGS: usize = 64;

/// The name of the socket that returns the counters of a machine's root.
const STATS_SOCKET: &str = "stats";

/// The directories of a machine that this process supervises. Dropping it removes the sockets and, for an ephemeral
/// machine, everything.
#[derive(Debug)]
pub(crate) struct Directory {
    state: PathBuf,
    sockets: PathBuf,
    record: Record,
    lock: File,
    /// Another process has taken over the machine.
    handed_over: bool,
    /// This is the machine's first start.
    new: bool,
}

impl Directory {
    /// Creates the directories of a new machine, which `record` describes.
    ///
    /// # Errors
    /// A machine with that name exists, or a directory cannot be created.
    pub(crate) fn create(record: Record) -> Result<Self, Failure> {
        let machines = home::machines()?;
        make_private(&machines, true)?;
        reconcile_all(&machines)?;
        let state = machines.join(&record.name);
        DirBuilder::new().mode(0o700).create(&state).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&record.name, &state),
            _ => Failure::new(state.display(), error),
        })?;
        let lock = lock(&state, &record.name)?;
        Self::of(state, record, lock, true)
    }

    /// Takes over a machine that has ended, to start it again.
    ///
    /// # Errors
    /// There is no such machine, or it runs.
    pub(crate) fn reopen(name: &str) -> Result<Self, Failure> {
        let state = existing(name)?;
        reconcile(&state);
        let lock = lock(&state, name)?;
        let record =
            Record { state: State::Starting, boot_id: current_boot(), warnings: Vec::new(), ..Record::read(&state)? };
        Self::of(state, record, lock, false)
    }

    /// Takes over a machine whose lock another process has handed over; `new` says whether this is its first start.
    ///
    /// # Errors
    /// There is no such machine.
    pub(crate) fn inherit(name: &str, lock: File, new: bool) -> Result<Self, Failure> {
        let state = existing(name)?;
        let record = Record::read(&state)?;
        Self::of(state, record, lock, new)
    }

    fn of(state: PathBuf, record: Record, lock: File, new: bool) -> Result<Self, Failure> {
        let mut directory = Self { sockets: PathBuf::new(), state, record, lock, handed_over: false, new };
        // This runs before a record is written, so it must leave nothing behind if it fails.
        let sockets = home::sockets().inspect_err(|_| directory.forget_if_new())?.join(&directory.record.name);
        directory.record.sockets = Some(sockets.clone());
        directory.note(&[])?;
        let _ = fs::remove_dir_all(&sockets);
        directory.sockets = sockets;
        directory.make_sockets()?;
        Ok(directory)
    }

    /// Makes the directory of its sockets.
    ///
    /// # Errors
    /// It cannot be created, or another user could access it.
    pub(crate) fn make_sockets(&self) -> Result<(), Failure> {
        if let Some(home) = self.sockets.parent() {
            make_private(home, false)?;
        }
        make_private(&self.sockets, false)
    }

    /// The path of a file of this machine.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Returns where a view of its root is mounted, for a backend that needs a mount.
    #[must_use]
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.file(MOUNT_POINT)
    }

    /// The path of a socket of this machine.
    #[must_use]
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(format!("{name}.sock"))
    }

    /// The pipe of its console.
    #[must_use]
    pub(crate) fn console_pipe(&self) -> PathBuf {
        self.sockets.join(super::CONSOLE_PIPE)
    }

    /// The path of a socket of this machine in a directory of its own, for a server that runs as another user.
    #[must_use]
    pub(crate) fn socket_in_own_directory(&self, name: &str) -> PathBuf {
        self.sockets.join(name).join(format!("{name}.sock"))
    }

    /// The socket of its root's counters: see [`stats_socket`].
    #[must_use]
    pub(crate) fn stats_socket(&self) -> PathBuf {
        self.sockets.join(STATS_SOCKET)
    }

    /// The machine's name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.record.name
    }

    /// The directory itself.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.state
    }

    /// Whether this is the machine's first start.
    #[must_use]
    pub(crate) const fn is_new(&self) -> bool {
        self.new
    }

    /// Records that the machine could not be started, and removes it when this is dropped if it is new.
    pub(crate) fn give_up(&mut self, failure: &Failure) {
        let state = State::Failed { reason: failure.cause().to_owned(), status: failure.status(), at: now() };
        if let Err(failure) = self.enter(state) {
            tracing::warn!("{failure}");
        }
        self.forget_if_new();
    }

    /// Makes a new machine ephemeral if its command never ran, because no user knows of it.
    pub(crate) fn forget_if_new(&mut self) {
        self.record.ephemeral |= self.new;
    }

    /// Notes what executes the machine. It is recorded with its processes.
    pub(crate) fn set_engine(&mut self, engine: &str) {
        self.record.engine = Some(engine.to_owned());
    }

    /// Records the machine's processes: this one and its `children`.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) fn note(&mut self, children: &[ProcessRecord]) -> Result<(), Failure> {
        let ourselves = ProcessRecord::of("lamina", rustix::process::getpid());
        self.record.boot_id = current_boot();
        self.record.processes = ourselves.into_iter().chain(children.iter().cloned()).collect();
        self.record.write(&self.state)
    }

    /// Records the state of the machine.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) fn enter(&mut self, state: State) -> Result<(), Failure> {
        if !state.is_active() {
            self.record.processes.clear();
        }
        self.record.state = state;
        let written = self.record.write(&self.state);
        if !self.record.state.is_active() {
            exit_record::write(&self.lock, &self.record.state).about(self.state.display())?;
        }
        written
    }

    /// Prints and records a problem that does not end the machine. Ignores one that is recorded already.
    pub(crate) fn warn(&mut self, warning: &str) {
        // The limit protects against a guest that never stops warning.
        if self.record.warnings.len() >= MOST_WARNINGS || self.record.warnings.iter().any(|known| known == warning) {
            return;
        }
        tracing::warn!("machine {}: {warning}", self.record.name);
        self.record.warnings.push(warning.to_owned());
        // The host's disk may be the problem.
        if let Err(failure) = self.record.write(&self.state) {
            tracing::warn!("{failure}");
        }
    }

    /// Returns the lock, and with it the machine, for a process that calls [`Directory::inherit`].
    ///
    /// # Errors
    /// The descriptor cannot be copied.
    pub(crate) fn hand_over(mut self) -> Result<File, Failure> {
        let lock = self.lock.try_clone().about(self.state.display())?;
        self.handed_over = true;
        Ok(lock)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let doomed = [Some(&self.sockets), self.record.ephemeral.then_some(&self.state)];
        for path in doomed.into_iter().flatten().filter(|path| !path.as_os_str().is_empty()) {
            if let Err(failure) = remove_state(path) {
                tracing::warn!("{failure}");
            }
        }
        let _ = fs::remove_dir(self.mount_point());
    }
}

/// Returns the socket on which the machine called `name` returns the counters of its root, while it runs.
///
/// # Errors
/// There is no such machine.
pub(crate) fn stats_socket(name: &str) -> Result<PathBuf, Failure> {
    Ok(Record::read(&existing(name)?)?.socket_directory()?.join(STATS_SOCKET))
}

/// Returns the state directory of the machine called `name`.
///
/// # Errors
/// There is no such machine.
pub(crate) fn existing(name: &str) -> Result<PathBuf, Failure> {
    find(name)?.ok_or_else(|| no_such_machine(name))
}

/// Returns whether a machine has this name.
///
/// # Errors
/// The directory of machines is not one that can be trusted.
pub(crate) fn is_there(name: &str) -> Result<bool, Failure> {
    find(name).map(|path| path.is_some())
}

fn find(name: &str) -> Result<Option<PathBuf>, Failure> {
    let path = home::machines()?.join(name);
    Ok((super::is_valid_name(name) && path.join(record::FILE).is_file()).then_some(path))
}

fn no_such_machine(name: &str) -> Failure {
    Failure::new(format_args!("machine {name}"), "no machine has this name")
        .with_hint("see `lamina ps --all` for those that exist")
}

fn exists(name: &str, state: &Path) -> Failure {
    let failure = |cause| Failure::new(format_args!("machine {name}"), cause);
    match Record::read(state).map(|record| record.seen_now().state.is_active()) {
        Ok(false) => failure("it exists, and has ended")
            .with_hint(format_args!("choose another --name, or remove it: lamina rm {name}")),
        _ => failure("it is already running").with_hint("choose another --name"),
    }
}

/// Returns all machines, ordered by name, in their present state.
///
/// # Errors
/// The directory of machines cannot be read.
pub(crate) fn all() -> Result<Vec<Record>, Failure> {
    let machines = home::machines()?;
    let entries = match fs::read_dir(&machines) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::new(machines.display(), error)),
    };
    let mut records = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        reconcile(&path);
        match Record::read(&path) {
            Ok(record) => records.push(record.seen_now()),
            Err(failure) if path.join(record::FILE).exists() => tracing::warn!("{failure}"),
            // Only half created, or removed in the meantime.
            Err(_) => {}
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}

/// Returns one machine in its present state.
///
/// # Errors
/// There is no such machine.
pub(crate) fn one(name: &str) -> Result<Record, Failure> {
    let state = existing(name)?;
    reconcile(&state);
    match Record::read(&state) {
        Ok(record) => Ok(record.seen_now()),
        Err(_) if !state.exists() => Err(no_such_machine(name)),
        Err(failure) => Err(failure),
    }
}

/// Gives a machine that does not run another name.
///
/// # Errors
/// It runs, or another machine has that name.
pub(crate) fn rename(name: &str, to: &str) -> Result<(), Failure> {
    let state = existing(name)?;
    reconcile(&state);
    let about = || format!("machine {name}");
    let running = || Failure::new(about(), "it is running").with_hint(format_args!("end it first: lamina stop {name}"));
    let _lock = lock(&state, name).map_err(|_| running())?;
    let new = home::machines()?.join(to);
    if new.exists() {
        return Err(exists(to, &new));
    }
    let record = Record { name: to.to_owned(), sockets: None, ..Record::read(&state)? };
    if let Ok(spec) = Spec::read(&state) {
        Spec { name: to.to_owned(), ..spec }.write(&state)?;
    }
    record.write(&state)?;
    fs::rename(&state, &new).about(about())
}

/// Removes a machine that has ended.
///
/// # Errors
/// It runs, or something cannot be removed.
pub(crate) fn remove(name: &str) -> Result<(), Failure> {
    let state = existing(name)?;
    reconcile(&state);
    let running = || Failure::new(format_args!("machine {name}"), "it is running");
    let _lock = lock(&state, name).map_err(|_| {
        running().with_hint(format_args!("end it first (lamina stop {name}), or do both: lamina rm --force {name}"))
    })?;
    remove_state(&state)
}
