//! `lamina doctor`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Global;
use crate::accelerator;
use crate::failure::{About, Failure};
use crate::host::{self, Tools};
use crate::hypervisor::check_socket;
use crate::machine::{self, Directory, Signals};
use crate::policy::Request;
use crate::share;
use crate::virtiofsd::Virtiofsd;

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
                let remedy = failure.cure().map(str::to_owned);
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
        let probe =
            tools.as_ref().map(|tools| tools.probe(&Request::default(), &cache, &signals)).map_err(Clone::clone);
        let kvm = probe.as_ref().map_err(Clone::clone).and_then(|probe| booted("KVM", probe.kvm()));
        let tcg = probe.as_ref().map_err(Clone::clone).and_then(|probe| booted("TCG", probe.tcg()));
        let emulated = "guests are emulated (TCG), which is slow and needs nothing";
        signals.check()?;
        Ok(vec![
            Finding::new("store", true, store(global)),
            Finding::new("FUSE", false, host::fuse().map(|()| "this user can mount".to_owned())),
            Finding::new("KVM", false, kvm.map_err(|failure| failure.remedy(emulated))),
            Finding::new("TCG", true, tcg),
            Finding::new("QEMU", true, accelerator::find_qemu().and_then(|qemu| described(&qemu))),
            Finding::new(
                "Cloud Hypervisor",
                false,
                host::cloud_hypervisor().and_then(|(program, _)| described(&program)),
            ),
            Finding::new("virtiofsd", false, Virtiofsd::find().and_then(|found| described(&found.program))),
            Finding::new("guest kernel", true, kernel.map_err(Clone::clone)),
            Finding::new("machines", true, machines()),
        ])
    }
}

fn described(program: &Path) -> Result<String, Failure> {
    Ok(format!("{} ({})", host::version(program)?, program.display()))
}

/// Whether the store can be opened and written, by writing.
fn store(global: &Global) -> Result<String, Failure> {
    let store = super::store::open(global)?;
    let root = store.root();
    tempfile::tempfile_in(root).map_err(|error| {
        Failure::new(root.display(), error).remedy("choose another store with --store or LAMINA_STORE")
    })?;
    Ok(format!("{} can be written", root.display()))
}

/// Whether a machine's directories can be made, by making some.
fn machines() -> Result<String, Failure> {
    let directory = Directory::create(machine::new_record(&machine::random_name(), "", &[], true))?;
    check_socket(&directory.socket(&share::tag(99)))?;
    Ok("state and socket directories can be written".to_owned())
}
