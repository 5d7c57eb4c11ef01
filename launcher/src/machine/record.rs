//! `machine.json`: what is known about a machine, checked against its processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::home;
use crate::clock::now;
use crate::failure::{Failure, MACHINE_FAILED};
use crate::host::child;
use crate::host::current_boot;
use crate::host::json_file;
use crate::host::network::Publish;

/// The file's name in the machine's directory.
pub(crate) const FILE: &str = "machine.json";
/// The name of a machine's mount point in its directory.
pub(super) const MOUNT_POINT: &str = "root";

/// What `machine.json` says about a machine. The environment of its command is only in its spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The machine's name.
    pub(crate) name: String,
    /// The image reference or directory it runs on.
    pub(crate) root: String,
    /// The command, without its environment.
    pub(crate) command: Vec<String>,
    /// What executes it, once that has been decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) engine: Option<String>,
    /// When it was created, in seconds since 1970.
    pub(crate) created: u64,
    /// Whether it is removed when it ends.
    pub(crate) ephemeral: bool,
    /// The id of the host's boot to which `processes` belong.
    pub(crate) boot_id: String,
    #[serde(flatten)]
    pub(crate) state: State,
    /// The processes, the supervisor first.
    pub(crate) processes: Vec<ProcessRecord>,
    /// Where its sockets are, because `XDG_RUNTIME_DIR` may have another value in other processes.
    #[serde(default)]
    pub(crate) sockets: Option<PathBuf>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) published: Vec<Publish>,
    /// Its memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mib: Option<u64>,
    /// Problems since its last start that did not end it, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// The state of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    /// It has not been started yet.
    Created,
    /// Its guest is not ready yet.
    Starting,
    /// Its command runs.
    Running {
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// Its command has ended.
    Exited {
        /// The exit status, as a shell reports it.
        status: u8,
        /// When, in seconds since 1970.
        at: u64,
    },
    /// It ended before its command did.
    Failed {
        /// Why, in one line.
        reason: String,
        /// The exit status that `lamina run` would have: 125, but 126 and 127 for a command that could not be run.
        status: u8,
        /// When that was noticed, in seconds since 1970.
        at: u64,
    },
}

impl State {
    /// Returns whether its processes should be running.
    #[must_use]
    pub(crate) const fn is_active(&self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. })
    }

    /// Returns the exit status of a machine that has ended.
    #[must_use]
    pub(crate) const fn status(&self) -> Option<u8> {
        match self {
            Self::Created | Self::Starting | Self::Running { .. } => None,
            Self::Exited { status, .. } | Self::Failed { status, .. } => Some(*status),
        }
    }
}

/// One process of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// What it does: `lamina`, `hypervisor`, or the share it serves.
    pub(crate) role: String,
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the host's start.
    pub(crate) started: u64,
}

impl ProcessRecord {
    /// Returns the record of a running process.
    #[must_use]
    pub(crate) fn of(role: &str, pid: Pid) -> Option<Self> {
        Some(Self { role: role.to_owned(), pid: pid.as_raw_nonzero().get(), started: child::start_time(pid)? })
    }

    /// Returns a descriptor of the process, if it still runs and `boot_id` is that of this boot. Another process with
    /// the same id does not count. An operation on the descriptor affects this process or none.
    #[must_use]
    pub(crate) fn open(&self, boot_id: &str) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid).filter(|_| boot_id == current_boot())?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Read after the descriptor was opened, so that the id cannot have been used again unnoticed.
        (child::start_time(pid) == Some(self.started)).then_some(handle)
    }
}

impl Record {
    /// Reads the record in a machine's directory as it was written.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        json_file::read(&directory.join(FILE))
    }

    /// Writes it, and renames it into place.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        json_file::write(&directory.join(FILE), self)
    }

    /// Returns the directory of its sockets.
    pub(crate) fn socket_directory(&self) -> Result<PathBuf, Failure> {
        self.sockets.clone().map_or_else(|| Ok(home::sockets()?.join(&self.name)), Ok)
    }

    /// Returns a descriptor of the supervisor, if it still runs.
    pub(crate) fn supervisor(&self) -> Option<OwnedFd> {
        self.processes.first()?.open(&self.boot_id)
    }

    /// Returns the record with the state that the processes show.
    #[must_use]
    pub(crate) fn seen_now(mut self) -> Self {
        if self.state.is_active() && self.supervisor().is_none() {
            self.state = State::Failed { reason: self.loss(), status: MACHINE_FAILED, at: now() };
            self.processes.clear();
        }
        self
    }

    /// Returns why a machine that did not record its end has ended.
    fn loss(&self) -> String {
        if self.boot_id != current_boot() {
            return "the host was restarted".to_owned();
        }
        match self.processes.first() {
            Some(supervisor) => format!("its launcher (process {}) was killed", supervisor.pid),
            None => "its launcher was killed".to_owned(),
        }
    }
}

/// Creates the record of a machine that is about to start.
#[must_use]
pub(crate) fn new_record(name: &str, root: &str, command: &[String], ephemeral: bool) -> Record {
    Record {
        name: name.to_owned(),
        root: root.to_owned(),
        command: command.to_vec(),
        engine: None,
        created: now(),
        ephemeral,
        boot_id: current_boot(),
        state: State::Starting,
        processes: Vec::new(),
        sockets: None,
        labels: BTreeMap::new(),
        published: Vec::new(),
        memory_mib: None,
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn running() -> Record {
        Record {
            name: "m".into(),
            root: "image".into(),
            command: vec!["true".into()],
            engine: Some("qemu".into()),
            created: 1,
            ephemeral: false,
            boot_id: current_boot(),
            state: State::Running { since: 1 },
            processes: ProcessRecord::of("lamina", rustix::process::getpid()).into_iter().collect(),
            sockets: None,
            labels: BTreeMap::new(),
            published: Vec::new(),
            memory_mib: None,
            warnings: Vec::new(),
        }
    }

    /// Real records, changed at random in the same way each time.
    #[test]
    fn a_record_of_any_content_is_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        running().write(directory.path()).unwrap();
        let sample = fs::read(&path).unwrap();
        let mut seed = 14_u64;
        let mut below = |end: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % end
        };
        let words: [&[u8]; 6] = [b"null", b"-1", b"\"", b"[", b"{\"\":", b"\xff"];
        for _ in 0..400 {
            let mut bytes = sample.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes[at] ^= 1 << below(8),
                    1 => bytes.truncate(at.max(1)),
                    2 => drop(bytes.splice(at..at, words[below(words.len())].repeat(1 + below(200)))),
                    _ => drop(bytes.drain(at..(at + 9).min(bytes.len()).max(at))),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            fs::write(&path, &bytes).unwrap();
            match Record::read(directory.path()) {
                Ok(record) => assert!(record.state.is_active() == record.state.status().is_none()),
                Err(failure) => assert!(failure.to_string().contains(FILE), "{failure}"),
            }
        }
    }

    #[test]
    fn a_process_is_known_by_its_start_and_not_by_its_id_alone() {
        assert!(running().supervisor().is_some());
        let mut reused = running();
        reused.processes[0].started += 1;
        assert!(reused.supervisor().is_none());
        assert!(
            matches!(reused.seen_now().state, State::Failed { reason, .. } if reason.contains("launcher (process "))
        );
    }

    #[test]
    fn nothing_of_another_boot_is_taken_for_alive() {
        let mut record = running();
        record.boot_id = "00000000-0000-0000-0000-000000000000".into();
        assert!(record.supervisor().is_none());
        assert!(
            matches!(record.seen_now().state, State::Failed { reason, .. } if reason.contains("host was restarted"))
        );
    }

    #[test]
    fn a_record_survives_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        for state in [
            State::Starting,
            State::Running { since: 7 },
            State::Exited { status: 3, at: 8 },
            State::Failed { reason: "why".into(), status: 125, at: 9 },
        ] {
            let record = Record { state, ..running() };
            record.write(directory.path()).unwrap();
            assert_eq!(Record::read(directory.path()).unwrap(), record);
        }
    }
}
