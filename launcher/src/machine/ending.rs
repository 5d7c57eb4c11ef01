//! Telling apart the ways in which a machine ends without its command having ended.

use super::console::PANIC;
use crate::engine::Exit;
use crate::failure::{Failure, MACHINE_FAILED};

/// What is known when the hypervisor is gone and the command has not reported.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances<'a> {
    /// The machine's name.
    pub(crate) name: &'a str,
    /// What the guest's init called fatal.
    pub(crate) fatal: Option<&'a str>,
    /// Why the engine ended.
    pub(crate) exit: Option<&'a Exit>,
    /// The end of the kernel's console.
    pub(crate) console: &'a str,
    /// Whether the command was running.
    pub(crate) running: bool,
}

/// Puts the circumstances into one line.
pub(crate) fn explain(seen: &Circumstances<'_>) -> Failure {
    let when = if seen.running { "before its command ended" } else { "before its command was started" };
    let panic = seen.console.lines().find_map(|line| line.split_once(PANIC));
    let mut remedy = None;
    let cause = if let Some(cause) = seen.fatal {
        cause.to_owned()
    } else if let Some((_, cause)) = panic {
        if cause.contains("Out of memory") || cause.contains("System is deadlocked on memory") {
            remedy = Some("give it more with --memory");
        }
        format!("the guest's kernel panicked: {}", cause.trim())
    } else {
        match seen.exit {
            Some(Exit::PoweredOff) => format!("the guest powered off {when}"),
            Some(Exit::Rebooted) => format!("the guest rebooted {when}"),
            Some(Exit::Panicked) => "the guest's kernel panicked".to_owned(),
            Some(Exit::Ended { status, words }) => {
                let words = if words.is_empty() { String::new() } else { format!(": {words}") };
                format!("the hypervisor ended {when} ({status}){words}")
            }
            None => format!("the hypervisor ended {when}"),
        }
    };
    let failure = Failure::new(format_args!("machine {}", seen.name), cause).with_status(MACHINE_FAILED);
    match remedy {
        Some(remedy) => failure.with_hint(remedy),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn every_way_to_end_has_its_own_message() {
        let ended = |status, words: &str| Exit::Ended { status: ExitStatus::from_raw(status), words: words.to_owned() };
        let (silent, bad, killed) = (ended(0, ""), ended(0, "qemu: bad"), ended(9, ""));
        let plain = Circumstances { name: "m", fatal: None, exit: Some(&silent), console: "", running: true };
        let by = |exit| Circumstances { exit: Some(exit), ..plain.clone() };
        let panic = "[    1.5] Kernel panic - not syncing: Attempted to kill init!\n[    1.5] CPU: 0";
        for (seen, expected) in [
            (by(&Exit::PoweredOff), "powered off before its command ended"),
            (Circumstances { running: false, ..by(&Exit::PoweredOff) }, "powered off before its command was started"),
            (by(&Exit::Rebooted), "rebooted"),
            (by(&Exit::Panicked), "kernel panicked"),
            (Circumstances { console: panic, ..by(&Exit::Rebooted) }, "kernel panicked: Attempted to kill init!"),
            (Circumstances { fatal: Some("/x: no such tag"), ..plain.clone() }, "machine m: /x: no such tag"),
            (by(&killed), "ended before its command ended (signal: 9 (SIGKILL))"),
            (by(&bad), "(exit status: 0): qemu: bad"),
        ] {
            let failure = explain(&seen);
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.status(), MACHINE_FAILED);
        }
    }
}
