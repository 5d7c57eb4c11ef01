//! What a guest reports about limits that it has reached.

use serde::{Deserialize, Serialize};

/// A limit that a guest has reached, or something that it should have and lacks. The host words the message for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// Its memory ran out, and its kernel killed a process.
    MemoryRanOut {
        /// The name of that process, as the kernel has it: at most 15 bytes.
        process: String,
    },
    /// The memory or disk for writes to its root has no room for more bytes.
    WritesFull {
        /// How many it has room for.
        bytes: u64,
    },
    /// The memory or disk for writes to its root has no room for more files.
    FilesFull {
        /// How many it has room for.
        files: u64,
    },
    /// `/dev/shm` is full.
    SharedMemoryFull {
        /// How many bytes it has room for.
        bytes: u64,
    },
    /// No more processes and threads can be started.
    ThreadsFull {
        /// How many there can be.
        threads: u64,
    },
    /// No more files can be opened.
    OpenFilesFull,
    /// Its kernel could not read or write a disk.
    DiskFailed {
        /// The kernel's line.
        cause: String,
    },
    /// Something that init should have set up is missing, and the guest goes on without it.
    Missing {
        /// What and why, in one line.
        cause: String,
    },
}
