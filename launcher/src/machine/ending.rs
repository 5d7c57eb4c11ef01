//! Telling apart the ways in which a machine ends without its command having ended.

use std::process::ExitStatus;

use super::console::PANIC;
use crate::failure::{Failure, MACHINE_FAILED};

/// What is known when the hypervisor is gone and the command has not reported.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances<'a> {
    /// The machine's name.
    pub(crate) name: &'a str,
    /// What the guest's init called fatal.
    pub(crate) fatal: Option<&'a str>,
    /// Why the hypervisor stopped, in QMP's words.
    pub(crate) reason: Option<&'a str>,
    /// How the hypervisor ended.
    pub(crate) status: Option<ExitStatus>,
    /// What it said last.
    pub(crate) last_words: &'a str,
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
        match (seen.reason, seen.status) {
            (Some("guest-shutdown"), _) => format!("the guest powered off {when}"),
            (Some("guest-reset"), _) => format!("the guest rebooted {when}"),
            (Some("guest-panic"), _) => "the guest's kernel panicked".to_owned(),
            (_, Some(status)) => {
                let words = if seen.last_words.is_empty() { String::new() } else { format!(": {}", seen.last_words) };
                format!("the hypervisor ended {when} ({status}){words}")
            }
            (_, None) => format!("the hypervisor ended {when}"),
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
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn every_way_to_end_has_its_own_message() {
        let plain = Circumstances {
            name: "m",
            fatal: None,
            reason: None,
            status: Some(ExitStatus::from_raw(0)),
            last_words: "",
            console: "",
            running: true,
        };
        let killed = Some(ExitStatus::from_raw(9));
        let panic = "[    1.5] Kernel panic - not syncing: Attempted to kill init!\n[    1.5] CPU: 0";
        for (seen, expected) in [
            (Circumstances { reason: Some("guest-shutdown"), ..plain.clone() }, "powered off before its command ended"),
            (
                Circumstances { reason: Some("guest-shutdown"), running: false, ..plain.clone() },
                "powered off before its command was started",
            ),
            (Circumstances { reason: Some("guest-reset"), ..plain.clone() }, "rebooted"),
            (
                Circumstances { reason: Some("guest-reset"), console: panic, ..plain.clone() },
                "kernel panicked: Attempted to kill init!",
            ),
            (Circumstances { fatal: Some("/x: no such tag"), ..plain.clone() }, "machine m: /x: no such tag"),
            (Circumstances { status: killed, ..plain.clone() }, "ended before its command ended (signal: 9 (SIGKILL))"),
            (Circumstances { last_words: "qemu: bad", ..plain.clone() }, "(exit status: 0): qemu: bad"),
        ] {
            let failure = explain(&seen);
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.status(), MACHINE_FAILED);
        }
    }
}
