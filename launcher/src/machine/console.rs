//! The kernel's console: a file that the hypervisor writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::child;

/// How often to look whether the console has grown.
const PAUSE: Duration = Duration::from_millis(20);

/// Copies the console to standard error as it grows, for as long as this process lives.
pub(crate) fn follow(path: PathBuf) {
    thread::spawn(move || {
        let mut file = loop {
            match File::open(&path) {
                Ok(file) => break file,
                Err(_) => thread::sleep(PAUSE),
            }
        };
        let mut buffer = vec![0; 8192];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => thread::sleep(PAUSE),
                Ok(count) => {
                    let _ = io::stderr().write_all(&buffer[..count]);
                }
                Err(_) => return,
            }
        }
    });
}

/// Shows the end of the console, which goes away with the machine's directory.
pub(crate) fn print_tail(path: &Path) {
    let tail = child::tail(path, 15);
    if !tail.is_empty() {
        eprintln!("--- last lines of the guest's console ---\n{tail}\n---");
    }
}
