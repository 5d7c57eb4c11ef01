//! `lamina doctor`.

use std::path::{Path, PathBuf};

use guest_protocol::Part;

use crate::cli::Global;
use crate::cli::finding::{self, Finding};
use crate::engine::{Accelerator, Choice, Engine, Host, RunRequest, check_socket, table};
use crate::failure::Failure;
use crate::host::confine::{self, Account, Level, Support};
use crate::host::passt::Passt;
use crate::host::virtiofsd::{Owner, Virtiofsd};
use crate::host::{self, Boot};
use crate::machine::{self, Directory, Signals};
use crate::spec::share;

/// Find out what this host can do, by trying
///
/// Mounts an empty file system, boots a test guest with each accelerator, and so on, which takes some
/// seconds. The exit status is 1 if no VM can be started here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina doctor
  lamina doctor --json | jq -r '.[] | select(.works | not) | .remedy'")]
pub(in crate::cli) struct Doctor {
    /// The kernel of the VMs [default: the newest under /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

impl Doctor {
    pub(in crate::cli) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        finding::report(&self.examine(global)?, global)
    }

    fn examine(&self, global: &Global) -> Result<Vec<Finding>, Failure> {
        let signals = Signals::catch()?;
        let cache = machine::cache_home()?;
        let boot = Boot::find(self.kernel.as_deref(), &cache);
        let kernel = |boot: &Boot| format!("{} ({})", boot.kernel.release, boot.kernel.image.display());
        let works = |words: &'static str| move |()| words.to_owned();
        let mut findings = vec![
            Finding::new("store", true, finding::store(global)),
            Finding::new("FUSE", false, host::fuse(false).map(works("this user can mount"))),
            Finding::new("allow_other", false, host::fuse(true).map(works("other users can be let into a mount"))),
            Finding::new("namespaces", false, host::namespaces().map(works("single files can be shared"))),
            Finding::new("shared memory", true, host::shared_memory().map(works("a guest's memory can be shared"))),
            Finding::new("guest kernel", true, boot.as_ref().map(kernel).map_err(Clone::clone)),
        ];
        let account = confine::unprivileged(None);
        let confine = (Level::Auto, account.clone().unwrap_or_default());
        // No guest is tried as root.
        let tried = account.as_ref().map_or_else(Err, |_| boot.as_ref());
        findings.extend(engines(tried, &cache, &confine, &|| signals.check())?);
        if confine::is_root_of_the_host() {
            let named = account.map(|account| format!("machines run as {}", account.unwrap_or_default().name));
            findings.push(Finding::new("user", true, named));
        }
        findings.extend([
            Finding::new("virtiofsd", false, Virtiofsd::find().and_then(|found| described(&found.program))),
            Finding::new("passt", false, passt()),
            Finding::new("block images", false, images_in_guests(boot.as_ref())),
            Finding::new("open files", false, open_files()),
            Finding::new("locked memory", false, Ok(locked_memory())),
            Finding::new("machines", true, machines()),
        ]);
        Ok(findings)
    }
}

/// Tries each engine with each of its accelerators. One that works is enough to run VMs.
fn engines(
    boot: Result<&Boot, &Failure>,
    cache: &Path,
    confine: &(Level, Option<Account>),
    check: &dyn Fn() -> Result<(), Failure>,
) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut usable = None;
    for engine in table::ENGINES {
        let found = engine.program().and_then(|program| described(&program));
        if found.is_err() || boot.is_err() && !engine.shares_kernel() {
            findings.push(Finding::new(engine.title(), false, found));
            continue;
        }
        let host = Host { boot, cache, check, confine: confine.clone(), thorough: true };
        if engine.shares_kernel() {
            findings.push(Finding::new(engine.title(), false, found));
            findings.extend(containers(engine, &host)?);
            continue;
        }
        let probed = engine.probe(&host, &RunRequest::default());
        check()?;
        match probed {
            Ok(can) => {
                findings.push(Finding::new(engine.title(), false, found));
                let first = can.accelerators.iter().find(|accelerator| accelerator.works.is_ok());
                usable = usable.or_else(|| first.map(|first| (engine.title(), first.name)));
                findings.extend(can.accelerators.iter().map(|tried| accelerator(engine.title(), tried, first)));
                findings.extend(confined(engine.title(), &can.confinement));
            }
            Err(failure) => findings.push(Finding::new(engine.title(), false, Err(failure))),
        }
    }
    let runs = match (usable, boot) {
        (Some((title, accelerator)), _) => Ok(format!("VMs are run by {title} with {accelerator}")),
        (None, Err(failure)) => Err(failure.clone()),
        (None, Ok(_)) => {
            Err(Failure::new("engine", "no engine runs a guest here").with_hint("see the lines of each engine"))
        }
    };
    findings.push(Finding::new("engine", true, runs));
    Ok(findings)
}

/// Runs a container in each way to lay its writes over its image. None of them is needed to run VMs.
fn containers(engine: &dyn Engine, host: &Host<'_>) -> Result<Vec<Finding>, Failure> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut notices: Vec<String> = Vec::new();
    for way in engine.machines() {
        let request = RunRequest { machine: Choice::Forced((*way).to_owned()), ..RunRequest::default() };
        let probed = engine.probe(host, &request);
        (host.check)()?;
        let is_first = findings.iter().all(|finding| !finding.works);
        let outcome = probed.map(|can| {
            notices = can.notices;
            let when = if is_first { "it is used".to_owned() } else { format!("it is used with --machine {way}") };
            format!("a test container ran; {when}")
        });
        findings.push(Finding::new(&format!("{} {way}", engine.title()), false, outcome));
    }
    for notice in notices {
        let (subject, cause) = notice.split_once(": ").unwrap_or(("", &notice));
        findings.push(Finding::new(subject, false, Err(Failure::new(subject, cause))));
    }
    Ok(findings)
}

/// What confines an engine: one line if everything does, otherwise one for each part that is missing.
fn confined(engine: &str, found: &Support) -> Vec<Finding> {
    let subject = format!("{engine} confined");
    if found.lacks.is_empty() {
        return vec![Finding::new(&subject, false, Ok(found.describe()))];
    }
    let lacks = found.lacks.iter();
    lacks
        .map(|lack| Finding::new(&subject, false, Err(Failure::new(&lack.part, &lack.cause).with_hint(&lack.remedy))))
        .collect()
}

fn accelerator(engine: &str, tried: &Accelerator, used: Option<&Accelerator>) -> Finding {
    let outcome = match &tried.works {
        Ok(()) => {
            let caution = tried.caution.map_or(String::new(), |caution| format!("; {caution}"));
            Ok(format!("it boots a test guest{caution}"))
        }
        Err(cause) => {
            let failure = Failure::new(tried.name, cause);
            Err(used.map_or(failure.clone(), |used| failure.with_hint(format_args!("{} is used instead", used.name))))
        }
    };
    Finding::new(&format!("{engine} {}", tried.name), false, outcome)
}

fn described(program: &Path) -> Result<String, Failure> {
    Ok(format!("{} ({})", host::version(program)?, program.display()))
}

/// Whether passt can carry guests' packets, by starting it.
fn passt() -> Result<String, Failure> {
    let passt = Passt::find()?;
    Ok(format!("it starts ({})", passt.program.display()))
}

/// Whether guests can have block images as their roots.
fn images_in_guests(boot: Result<&Boot, &Failure>) -> Result<String, Failure> {
    let boot = boot.map_err(Clone::clone)?;
    for part in [Part::Disk, Part::Erofs] {
        let missing = |cause| Failure::new("block images", cause).with_hint("name another kernel with --kernel");
        boot.modules.supports(part).map_err(missing)?;
    }
    Ok("the guest kernel can mount them".to_owned())
}

/// Each server of a share holds a descriptor for every inode that its guest knows.
fn open_files() -> Result<String, Failure> {
    const WANTED: u64 = 65_536;
    let most = Owner::ourselves().open_files;
    if most >= WANTED {
        return Ok(format!("a process may have {most}"));
    }
    Err(Failure::new(
        "open files",
        format_args!("a process may have {most}, so a guest that looks at more files of one share fails"),
    )
    .with_hint(format_args!("raise the hard limit: \"* hard nofile {WANTED}\" in /etc/security/limits.conf")))
}

/// How much of its memory a process of this user may keep from being swapped out (`RLIMIT_MEMLOCK`). No backend locks any.
fn locked_memory() -> String {
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) => format!("a process may lock {}; no guest here needs it", crate::cli::size(bytes)),
        None => "a process may lock all of its memory; no guest here needs it".to_owned(),
    }
}

/// Whether a machine's directories can be made, by making some.
fn machines() -> Result<String, Failure> {
    let directory = Directory::create(machine::new_record(&machine::random_name(), "", &[], true))?;
    check_socket(&directory.socket(&share::tag(99)))?;
    Ok("state and socket directories can be written".to_owned())
}
