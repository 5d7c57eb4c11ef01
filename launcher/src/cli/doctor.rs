//! `lamina doctor`.

use std::fmt;
use std::path::{Path, PathBuf};

use guest_protocol::Part;
use serde::Serialize;

use super::Global;
use crate::engine::check_socket;
use crate::engine::policy::Request;
use crate::engine::qemu::probe;
use crate::failure::{About, Failure};
use crate::host::passt::Passt;
use crate::host::virtiofsd::{Owner, Virtiofsd};
use crate::host::{self, Tools};
use crate::machine::{self, Directory, Signals};
use crate::spec::share;

/// Find out what this host can do, by trying
///
/// Mounts an empty file system, boots a test guest by each accelerator, and so on, which takes some
/// seconds. The exit status is 1 when no VM can be started here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina doctor
  lamina doctor --json | jq -r '.[] | select(.works | not) | .remedy'")]
pub(super) struct Doctor {
    /// The kernel of the VMs [default: the newest under /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

/// What was tried, and what came of it.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was tried.
    subject: &'static str,
    /// Whether it works.
    works: bool,
    /// Whether no VM can be started without it.
    required: bool,
    /// What was found, or what is wrong.
    detail: String,
    /// What can be done about it.
    remedy: Option<String>,
}

impl Finding {
    fn new(subject: &'static str, required: bool, outcome: Result<String, Failure>) -> Self {
        match outcome {
            Ok(detail) => Self { subject, works: true, required, detail, remedy: None },
            Err(failure) => {
                let remedy = failure.hint().map(str::to_owned);
                Self { subject, works: false, required, detail: failure.complaint(), remedy }
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (self.works, self.required) {
            (true, _) => "ok",
            (false, true) => "FAILS",
            (false, false) => "no",
        };
        writeln!(f, "{mark:5}  {:16}  {}", self.subject, self.detail)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "{:25}-> {remedy}", ""),
            None => Ok(()),
        }
    }
}

impl Doctor {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let findings = self.examine(global)?;
        if global.json {
            super::print(&(serde_json::to_string_pretty(&findings).about("JSON")? + "\n"))?;
        } else {
            super::print(&findings.iter().map(ToString::to_string).collect::<String>())?;
        }
        Ok(u8::from(findings.iter().any(|finding| finding.required && !finding.works)))
    }

    fn examine(&self, global: &Global) -> Result<Vec<Finding>, Failure> {
        let signals = Signals::catch()?;
        let cache = machine::cache_home()?;
        let tools = Tools::find(self.kernel.as_deref(), &cache, &Request::default());
        let kernel = tools.as_ref().map(|tools| format!("{} ({})", tools.kernel.release, tools.kernel.image.display()));
        let booted = |name, outcome: Result<Result<(), String>, Failure>| match outcome? {
            Ok(()) => Ok("it boots a test guest".to_owned()),
            Err(cause) => Err(Failure::new(name, cause)),
        };
        let check = || signals.check();
        let probe =
            tools.as_ref().map(|tools| tools.probe(&Request::default(), &cache, &check, true)).map_err(Clone::clone);
        let kvm = probe.as_ref().map_err(Clone::clone).and_then(|probe| booted("KVM", probe.kvm()));
        let tcg = probe.as_ref().map_err(Clone::clone).and_then(|probe| booted("TCG", probe.tcg()));
        let emulated = "guests are emulated (TCG), which is slow and needs nothing";
        signals.check()?;
        Ok(vec![
            Finding::new("store", true, store(global)),
            Finding::new("FUSE", false, host::fuse(false).map(|()| "this user can mount".to_owned())),
            Finding::new(
                "allow_other",
                false,
                host::fuse(true).map(|()| "a mount can be for other users too".to_owned()),
            ),
            Finding::new("namespaces", false, host::namespaces().map(|()| "single files can be shared".to_owned())),
            Finding::new(
                "shared memory",
                true,
                host::shared_memory().map(|()| "a guest's memory can be shared".to_owned()),
            ),
            Finding::new("KVM", false, kvm.map_err(|failure| failure.with_hint(emulated))),
            Finding::new("TCG", true, tcg),
            Finding::new("QEMU", true, probe::find_qemu().and_then(|qemu| described(&qemu))),
            Finding::new(
                "Cloud Hypervisor",
                false,
                host::cloud_hypervisor().and_then(|(program, _)| described(&program)),
            ),
            Finding::new("virtiofsd", false, Virtiofsd::find().and_then(|found| described(&found.program))),
            Finding::new("passt", false, passt()),
            Finding::new("block images", false, images_in_guests(tools.as_ref())),
            Finding::new("open files", false, open_files()),
            Finding::new("locked memory", false, Ok(locked_memory())),
            Finding::new("guest kernel", true, kernel.map_err(Clone::clone)),
            Finding::new("machines", true, machines()),
        ])
    }
}

fn described(program: &Path) -> Result<String, Failure> {
    Ok(format!("{} ({})", host::version(program)?, program.display()))
}

/// Whether passt can carry guests' packets, by starting it.
fn passt() -> Result<String, Failure> {
    let passt = Passt::find()?;
    let ports = if passt.can_publish() { "" } else { "; too old to carry published ports" };
    Ok(format!("it starts ({}){ports}", passt.program.display()))
}

/// Whether guests can have block images as their roots.
fn images_in_guests(tools: Result<&Tools, &Failure>) -> Result<String, Failure> {
    let tools = tools.map_err(Clone::clone)?;
    for part in [Part::Disk, Part::Erofs] {
        let missing = |cause| Failure::new("block images", cause).with_hint("name another kernel with --kernel");
        tools.modules.supports(part).map_err(missing)?;
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
        Some(bytes) => format!("a process may lock {}; no guest here needs it", super::size(bytes)),
        None => "a process may lock all of its memory; no guest here needs it".to_owned(),
    }
}

/// Whether the store can be opened and written, by writing.
fn store(global: &Global) -> Result<String, Failure> {
    let store = super::store::open(global)?;
    let root = store.root();
    tempfile::tempfile_in(root).map_err(|error| {
        Failure::new(root.display(), error).with_hint("choose another store with --store or LAMINA_STORE")
    })?;
    Ok(format!("{} can be written", root.display()))
}

/// Whether a machine's directories can be made, by making some.
fn machines() -> Result<String, Failure> {
    let directory = Directory::create(machine::new_record(&machine::random_name(), "", &[], true))?;
    check_socket(&directory.socket(&share::tag(99)))?;
    Ok("state and socket directories can be written".to_owned())
}
