//! What machines use of this host: the table of `lamina stats` without a mount.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::rows;
use crate::failure::Failure;
use crate::machine::{self, Machine, Record};

/// What the processes of a machine have used up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Clock ticks of all its processes.
    ticks: u64,
    /// Resident bytes of its hypervisor, which has the guest's memory.
    memory: u64,
    read: u64,
    written: u64,
    processes: u64,
}

/// The clock ticks in a second: `USER_HZ` of Linux.
const TICKS: u64 = 100;
/// How long the use of processors is observed.
const OBSERVED: Duration = Duration::from_secs(1);

impl Usage {
    fn of(record: &Record) -> Self {
        let mut usage = Self::default();
        let container = record.processes.iter().find(|process| process.role == "container");
        let inside = container.map(|process| descendants(process.pid)).unwrap_or_default();
        let own = record.processes.iter().map(|process| (process.pid, process.role == "hypervisor"));
        for (pid, has_memory) in own.chain(inside.into_iter().map(|pid| (pid, true))) {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let ticks = ticks(&read("stat"));
            usage.processes += u64::from(ticks.is_some());
            usage.ticks += ticks.unwrap_or_default();
            let io = read("io");
            usage.read += number(&io, "read_bytes:");
            usage.written += number(&io, "write_bytes:");
            if has_memory {
                usage.memory += number(&read("status"), "VmRSS:") << 10;
            }
        }
        usage
    }
}

/// Returns the processes that a process has started, and those that these have started.
fn descendants(of: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = all
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Returns the sum of user and system time in `/proc/PID/stat`. The name in parentheses may contain any byte.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Observes machines for a second: those with these names, or all that run. Returns docker's row of each.
pub(super) fn rows(names: &[String], all: bool) -> Result<Vec<Value>, Failure> {
    let records: Vec<Record> = if names.is_empty() {
        machine::all()?.into_iter().filter(|record| all || record.state.is_active()).collect()
    } else {
        names.iter().map(|name| Machine::find(name).map(|machine| machine.record)).collect::<Result<_, _>>()?
    };
    let before: Vec<Usage> = records.iter().map(Usage::of).collect();
    thread::sleep(OBSERVED);
    Ok(records.iter().zip(before).map(|(record, before)| row(record, before, Usage::of(record))).collect())
}

fn row(record: &Record, before: Usage, now: Usage) -> Value {
    let percent = now.ticks.saturating_sub(before.ticks) as f64 * 100.0 / (TICKS as f64 * OBSERVED.as_secs_f64());
    let limit = record.memory_mib.map_or(0, |mib| mib << 20);
    let of_limit = if limit > 0 { now.memory as f64 * 100.0 / limit as f64 } else { 0.0 };
    let size = crate::cli::size;
    rows::beside(
        json!({
            "ID": record.name, "Container": record.name, "Name": record.name, "CPUPerc": format!("{percent:.2}%"),
            "MemUsage": format!("{} / {}", size(now.memory), size(limit)), "MemPerc": format!("{of_limit:.2}%"),
            "NetIO": "-- / --", "BlockIO": format!("{} / {}", size(now.read), size(now.written)),
            "PIDs": now.processes.to_string(),
        }),
        &json!({
            "name": record.name, "cpu_percent": percent, "memory": now.memory, "memory_limit": limit, "read": now.read,
            "written": now.written, "processes": now.processes,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_of_proc_are_read() {
        assert_eq!(ticks("71 (a (b) c) S 1 71 71 0 -1 4194304 95 0 0 0 150 50 0 0"), Some(200));
        assert_eq!(ticks("71 (a"), None);
        assert_eq!(number("rchar: 1\nread_bytes: 4096\n", "read_bytes:"), 4096);
        assert_eq!(number("", "read_bytes:"), 0);
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        assert!(descendants(std::process::id().cast_signed()).contains(&child.id().cast_signed()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
