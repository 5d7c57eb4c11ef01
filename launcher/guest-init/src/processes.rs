//! The list of processes that `lamina top` prints, from `/proc` as proc(5) describes it.

use std::fs;
use std::io::{self, Write};

/// The clock ticks in a second: `USER_HZ` of Linux.
const TICKS: u64 = 100;

/// Prints one line for each process of the guest, with the columns of `ps -ef`. Threads of the kernel are left out.
pub(crate) fn list(mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{:>8} {:>6} {:>6} {:1} {:>8} {:>9} COMMAND", "UID", "PID", "PPID", "S", "TIME", "RSS")?;
    let mut ids: Vec<u32> =
        fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    for id in ids {
        // A process may end in the meantime.
        let Some(line) = line(id) else { continue };
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn line(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let Stat { name, state, parent, ticks } = Stat::parse(&stat)?;
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    let uid = field("Uid:")?;
    // Only threads of the kernel have no memory of their own; neither have processes that nobody has waited for.
    let memory = field("VmRSS:").map(|kib| format!("{kib}K"));
    if memory.is_none() && state != "Z" {
        return None;
    }
    let words = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    let seconds = ticks / TICKS;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("{uid:>8} {id:>6} {parent:>6} {state:1} {time:>8} {:>9} {command}", memory.unwrap_or_default()))
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'text> {
    name: &'text str,
    state: &'text str,
    parent: u32,
    ticks: u64,
}

impl<'text> Stat<'text> {
    /// The name is in parentheses and may contain some itself.
    fn parse(text: &'text str) -> Option<Self> {
        let (_, rest) = text.split_once('(')?;
        let (name, rest) = rest.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self { name, state: fields.first()?, parent, ticks: number(11)? + number(12)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read() {
        let text = "71 (a (b) c) S 1 71 71 0 -1 4194304 95 0 0 0 150 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(Stat::parse(text), Some(Stat { name: "a (b) c", state: "S", parent: 1, ticks: 200 }));
        assert_eq!(Stat::parse("71 (a"), None);
    }

    #[test]
    fn this_process_is_in_the_list() {
        let mut out = Vec::new();
        list(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let id = std::process::id().to_string();
        assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(&id)), "{text}");
    }
}
