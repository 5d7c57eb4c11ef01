//! Which parts of a confinement this host permits, found out by starting a program in it.

use std::path::Path;
use std::sync::mpsc::channel;

use super::command_line::CommandLine;
use super::confine::{Account, Confinement, Lack, Namespace, Support, has_landlock};
use super::probe_cache::ProbeCache;
use super::process::Process;
use crate::failure::{About, Failure};

/// Returns which parts of a confinement work here for `program`, from the probe cache or by starting it with
/// `--version`. A host that permits less than all of it is tried again the next time, because that may have been mended.
/// With `again`, what is remembered is not used.
///
/// # Errors
/// There is no directory for temporary files, or the program does not start even without namespaces.
pub(crate) fn support(
    program: &Path,
    account: Option<&Account>,
    probes: &mut ProbeCache,
    again: bool,
) -> Result<Support, Failure> {
    let ourselves = std::env::current_exe().about("/proc/self/exe")?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let what = account.map_or(String::new(), |account| format!(" as {}", account.uid));
    let what = format!("confinement of {name}{what}");
    let with = [program, &ourselves];
    if let Some(known) = probes.get(&what, &with).filter(|_| !again) {
        return Ok(known);
    }
    let found = examine(program, account)?;
    if found.lacks.is_empty() {
        probes.put(&what, &with, &found, None);
    }
    Ok(found)
}

fn examine(program: &Path, account: Option<&Account>) -> Result<Support, Failure> {
    let landlock = has_landlock();
    let attempt = |namespaces: &[Namespace]| {
        let confinement = Confinement { account: account.cloned(), ..Confinement::of_program(program) };
        attempt(program, &Confinement { namespaces: namespaces.to_vec(), ..confinement })
    };
    if attempt(&Namespace::ALL).is_ok() {
        return Ok(Support { namespaces: Namespace::ALL.into(), landlock, ..Support::default() });
    }
    let (mut namespaces, mut lacks) = (Vec::new(), Vec::new());
    for namespace in Namespace::ALL {
        let tried: Vec<Namespace> = namespaces.iter().copied().chain([namespace]).collect();
        match attempt(&tried) {
            Ok(()) => namespaces = tried,
            Err(failure) => lacks.push(lack(namespace, &failure)),
        }
    }
    if namespaces.is_empty() {
        // Nothing works without user namespaces, for one reason.
        attempt(&[])?;
        lacks.truncate(1);
        if let Some(first) = lacks.first_mut() {
            first.part = "no namespaces".to_owned();
            if !landlock {
                first.part.push_str(" and no Landlock, so it reaches all files of its user");
            }
        }
    }
    Ok(Support { namespaces, landlock, own_filter: false, lacks })
}

/// Starts the program, and waits for its end.
fn attempt(program: &Path, confinement: &Confinement) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("lamina-confine-").tempdir().about("temporary directory")?;
    let (sender, ended) = channel();
    let command = CommandLine::new(program).arg("--version");
    let process = Process::start(&command, Some(confinement), &scratch.path().join("log"), move |mut process| {
        // The receiver waits for it.
        let _ = sender.send((process.wait(), process.last_words()));
    })?;
    let (status, words) = ended.recv().about(program.display())?;
    drop(process);
    match words.as_str() {
        _ if status.success() => Ok(()),
        "" => Err(Failure::new(program.display(), status)),
        words => Err(Failure::new(program.display(), words.strip_prefix("lamina: ").unwrap_or(words))),
    }
}

fn lack(namespace: Namespace, failure: &Failure) -> Lack {
    let remedy = match namespace {
        Namespace::User if restricted_by_apparmor() => {
            "load the AppArmor profile that comes with Lamina: `lamina help security` says how".to_owned()
        }
        Namespace::User => {
            "allow user namespaces: sysctl user.max_user_namespaces=15000, and kernel.unprivileged_userns_clone=1 where \
            that exists"
                .to_owned()
        }
        Namespace::Mount => "run lamina where it may mount file systems, such as outside of a container".to_owned(),
        other => format!("raise the limit: sysctl user.max_{}_namespaces=15000", short(other)),
    };
    Lack { part: format!("no {} namespace", namespace.name()), cause: failure.cause().to_owned(), remedy }
}

/// The kernel's word for it in `/proc/sys/user`.
const fn short(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Mount => "mnt",
        Namespace::Network => "net",
        other => other.name(),
    }
}

/// Ubuntu 24.04 permits user namespaces only to programs with a profile that says so.
fn restricted_by_apparmor() -> bool {
    let restricts = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    restricts.is_ok_and(|text| text.trim() == "1")
}
