//! The command line of `lamina __confine`, and how it is read.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::{Account, Confinement, Namespace};
use crate::failure::Failure;
use crate::host::command_line::CommandLine;

/// The first argument with which `lamina` runs as [`enter`](super::enter::enter). It is not a command for users.
pub(crate) const CONFINE: &str = "__confine";

/// Stands among the names of namespaces for [`Confinement::filters`].
const FILTERS: &str = "filters";
/// The same for [`Confinement::proc`].
const PROC: &str = "proc";
/// The same for [`Confinement::reads_all`].
const READS_ALL: &str = "reads-all";

/// What `lamina __confine` is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The process that starts it, and without which it must not live.
    pub(super) parent: u32,
    pub(super) confinement: Confinement,
    pub(super) command: CommandLine,
}

/// Returns the command line that starts `command` confined.
///
/// # Errors
/// This program's own path cannot be found.
pub(crate) fn command(command: &CommandLine, confinement: &Confinement) -> Result<CommandLine, Failure> {
    let names = confinement.namespaces.iter().map(|namespace| namespace.name());
    let further = [(confinement.filters, FILTERS), (confinement.proc, PROC), (confinement.reads_all, READS_ALL)];
    let further = further.into_iter().filter_map(|(wanted, name)| wanted.then_some(name));
    let names: Vec<&str> = names.chain(further).collect();
    let mut line = CommandLine::of_ourselves(CONFINE)?
        .arg(std::process::id().to_string())
        .arg(names.join(","))
        .arg(format!("{}:{}", confinement.open_files, confinement.processes))
        .arg(confinement.account.as_ref().map_or(String::new(), numbers))
        .arg(confinement.directory.clone().unwrap_or_default());
    for paths in [&confinement.readable, &confinement.writable, &confinement.devices] {
        line = line.arg(paths.len().to_string()).args(paths);
    }
    Ok(line.arg(&command.program).args(&command.arguments))
}

fn numbers(account: &Account) -> String {
    let ids = [account.uid, account.gid].into_iter().chain(account.groups.iter().copied());
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(":")
}

/// Reads the arguments that follow [`CONFINE`].
pub(super) fn decode(arguments: &[OsString]) -> Option<Order> {
    let mut words = arguments.iter();
    let mut text = || words.next()?.to_str();
    let parent = text()?.parse().ok()?;
    let names = text()?;
    let (open_files, processes) = text()?.split_once(':')?;
    let (open_files, processes) = (open_files.parse().ok()?, processes.parse().ok()?);
    let account = match text()? {
        "" => None,
        ids => Some(account(ids)?),
    };
    let directory = Some(PathBuf::from(words.next()?)).filter(|path| !path.as_os_str().is_empty());
    let mut paths = || -> Option<Vec<PathBuf>> {
        let count: usize = words.next()?.to_str()?.parse().ok()?;
        let taken: Vec<PathBuf> = words.by_ref().take(count).map(PathBuf::from).collect();
        (taken.len() == count).then_some(taken)
    };
    let (readable, writable, devices) = (paths()?, paths()?, paths()?);
    let mut names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    let mut has = |name: &str| names.iter().position(|other| *other == name).map(|at| names.remove(at)).is_some();
    let (filters, proc, reads_all) = (has(FILTERS), has(PROC), has(READS_ALL));
    let namespaces = names.into_iter().map(Namespace::of).collect::<Option<_>>()?;
    let program: &OsStr = words.next()?;
    let command = CommandLine::new(program).args(words);
    let confinement = Confinement {
        namespaces,
        readable,
        writable,
        devices,
        open_files,
        processes,
        filters,
        account,
        directory,
        proc,
        reads_all,
    };
    Some(Order { parent, confinement, command })
}

fn account(ids: &str) -> Option<Account> {
    let ids: Vec<u32> = ids.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [uid, gid, groups @ ..] = ids.as_slice() else { return None };
    Some(Account { name: uid.to_string(), uid: *uid, gid: *gid, groups: groups.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn what_was_encoded_is_read_back() {
        let program = CommandLine::new("/opt/q").args(["--", "-a", "", "b c"]);
        let odd = PathBuf::from(OsString::from_vec(b"/a\xffb ,\n".to_vec()));
        let nothing = Confinement::default();
        let much = Confinement {
            namespaces: vec![Namespace::User, Namespace::Pid],
            readable: vec!["/usr".into(), odd],
            writable: vec!["3".into()],
            devices: vec!["/dev/kvm".into()],
            open_files: 1,
            processes: 2,
            filters: true,
            account: Some(Account { name: "7".into(), uid: 7, gid: 8, groups: vec![9, 10] }),
            directory: Some("/run/m/s".into()),
            proc: true,
            reads_all: true,
        };
        for confinement in [nothing, much] {
            let line = command(&program, &confinement).unwrap();
            assert_eq!(line.arguments[0], CONFINE);
            let read = decode(&line.arguments[1..]).unwrap();
            let parent = std::process::id();
            assert_eq!(read, Order { parent, confinement, command: program.clone() });
        }
    }

    #[test]
    fn arguments_that_say_something_else_are_refused() {
        for wrong in
            ["", "1", "1 user 1:1 -  0 0 0 x", "1 abc 1:1   0 0 0 x", "1 user 1:1   9 0 0 x", "1 user 1:1   0 0 0"]
        {
            let words: Vec<OsString> = wrong.split(' ').map(OsString::from).collect();
            assert_eq!(decode(&words), None, "{wrong}");
        }
    }
}
