//! A command's system calls on files, as strace records them.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::Finished;
use crate::programs::installed;

/// The calls that change a file system, or say which file a descriptor refers to.
const CALLS: &str = "openat,open,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,ftruncate,truncate,\
fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,copy_file_range,sendfile,splice,mkdir,mkdirat,rename,renameat,\
renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,clone,clone3,fork,vfork";

/// One call, or its first half if another thread's call interrupted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// The call's name.
    pub name: String,
    /// Its arguments as written; strings are decoded by [`text`].
    pub arguments: Vec<String>,
    /// What it returned; `None` when it begins. Each call appears twice: when it begins and when it ends.
    pub result: Option<i64>,
}

/// What a command did.
#[derive(Debug)]
pub struct Recorded {
    /// How it ended.
    pub finished: Finished,
    /// Its calls, in order.
    pub calls: Vec<Call>,
}

impl Recorded {
    /// Runs a command to its end, as the user of the tests, and writes its calls to `log`.
    ///
    /// # Panics
    /// When strace fails, or writes something that this parser does not understand.
    #[must_use]
    pub fn of(command: &Command, log: &Path) -> Self {
        let mut traced = Command::new(installed("strace"));
        traced.args(["--follow-forks", "--quiet=all", "--strings-in-hex=all", "--string-limit=100000000"]);
        traced.arg(format!("--trace={CALLS}")).arg("--output").arg(log);
        traced.arg("--").arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                traced.env(name, value);
            }
        }
        let finished = Finished::of(traced.stdin(std::process::Stdio::null()));
        let text = std::fs::read_to_string(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        Self { finished, calls: calls(&text) }
    }
}

fn calls(log: &str) -> Vec<Call> {
    let mut begun: HashMap<u32, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_else(|| panic!("strace: {line}"));
        let thread = thread.parse().unwrap_or_else(|_| panic!("strace: {line}"));
        let rest = rest.trim_start();
        // An exit, a signal, or a thread that ended before strace saw it make a call.
        if rest.starts_with("+++") || rest.starts_with("---") || rest.starts_with("???(") {
            continue;
        }
        // A thread that ended in a call, with the process.
        if rest.starts_with("<... ???") {
            begun.remove(&thread);
            continue;
        }
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            let begins = parse(thread, start.trim_end(), false);
            calls.extend(begins);
            begun.insert(thread, start.to_owned());
        } else if let Some(end) = rest.strip_prefix("<... ") {
            let (_, end) = end.split_once("resumed>").unwrap_or_else(|| panic!("strace: {line}"));
            let start = begun.remove(&thread).unwrap_or_else(|| panic!("strace: {line}"));
            calls.extend(parse(thread, &format!("{start}{end}"), true));
        } else if let Some(whole) = parse(thread, rest, true) {
            calls.push(Call { result: None, ..whole.clone() });
            calls.push(whole);
        }
    }
    calls
}

/// `name(argument, ...) = result`; a call that failed is skipped.
fn parse(thread: u32, line: &str, ended: bool) -> Option<Call> {
    let (name, rest) = line.split_once('(').unwrap_or_else(|| panic!("strace: {line}"));
    let (arguments, result) = match ended {
        true => {
            let (arguments, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("strace: {line}"));
            let result = result.split(' ').next().unwrap_or_default();
            (arguments.trim_end().trim_end_matches(')'), Some(result.parse().ok().filter(|number| *number >= 0)?))
        }
        false => (rest, None),
    };
    Some(Call { thread, name: name.to_owned(), arguments: split(arguments), result })
}

/// Splits at commas outside brackets. Strings are in hexadecimal, so no bracket or comma is in one.
fn split(arguments: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for sign in arguments.chars() {
        match sign {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(sign);
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// The bytes of a string argument: `"\x41\x42"`.
///
/// # Panics
/// If it is not a string, or if strace cut it off.
#[must_use]
pub fn text(argument: &str) -> Vec<u8> {
    let inner = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("no whole string: {:.80}", argument));
    let digits = inner.split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("two hexadecimal digits")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_two_threads_are_told_apart() {
        let log = "7 fsync(3 <unfinished ...>\n8 write(4, \"\\x61\\x2c\", 2) = 2\n7 <... fsync resumed>) = 0\n\
                   7 openat(AT_FDCWD, \"\\x2f\", O_RDONLY) = -1 ENOENT (No such file or directory)\n7 +++ exited with 0 +++\n";
        let calls = calls(log);
        let shape: Vec<_> = calls.iter().map(|call| (call.thread, call.name.as_str(), call.result)).collect();
        let expected = [(7, "fsync", None), (8, "write", None), (8, "write", Some(2)), (7, "fsync", Some(0))];
        assert_eq!(shape, expected);
        assert_eq!(text(&calls[1].arguments[1]), b"a,");
    }
}
