//! `lamina doctor`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Global;
use crate::failure::{About, Failure};
use crate::host::{self, Tools};
use crate::machine;
use crate::policy::Request;
use crate::virtiofsd::Virtiofsd;

/// Find out what this host can do, by trying
///
/// Exit status 1 when no VM could be started here.
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
    /// Whether nothing runs without it.
    required: bool,
    /// What was found, or what is wrong and how to mend it.
    detail: String,
}

impl Doctor {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        let findings = examine(global, self.kernel.as_deref());
        if global.json {
            println!("{}", serde_json::to_string_pretty(&findings).about("JSON")?);
        } else {
            for finding in &findings {
                let mark = if finding.works {
                    "ok"
                } else if finding.required {
                    "FAILS"
                } else {
                    "no"
                };
                println!("{mark:5}  {:17}  {}", finding.subject, finding.detail);
            }
        }
        Ok(u8::from(findings.iter().any(|finding| finding.required && !finding.works)))
    }
}

fn examine(global: &Global, kernel: Option<&Path>) -> Vec<Finding> {
    let finding = |subject, required, outcome: Result<String, Failure>| {
        let works = outcome.is_ok();
        Finding { subject, works, required, detail: outcome.unwrap_or_else(|failure| failure.to_string()) }
    };
    let cache = machine::cache_home();
    let tools = cache.clone().and_then(|cache| Tools::find(kernel, &cache));
    let kernel = tools.as_ref().map(|tools| format!("{} ({})", tools.kernel.release, tools.kernel.image.display()));
    let kvm = match (&tools, &cache) {
        (Ok(tools), Ok(cache)) => tools.capabilities(&Request::default(), cache).and_then(|found| match found.kvm {
            Ok(()) => Ok("it runs a guest".to_owned()),
            Err(cause) => Err(Failure::new("kvm", cause).remedy("guests are emulated (tcg), which is slow but works")),
        }),
        (Err(failure), _) | (_, Err(failure)) => Err(failure.clone()),
    };
    vec![
        finding("store", true, store(global)),
        finding("fuse", false, host::fuse().map(|()| "/dev/fuse opens".to_owned())),
        finding("kvm", false, kvm),
        finding("qemu", true, crate::accelerator::find_qemu().and_then(|qemu| described(&qemu))),
        finding("cloud-hypervisor", false, host::cloud_hypervisor().and_then(|(program, _)| described(&program))),
        finding("virtiofsd", false, Virtiofsd::find().and_then(|found| described(&found.program))),
        finding("guest kernel", true, kernel.map_err(Clone::clone)),
        finding("machines", true, machines()),
    ]
}

fn described(program: &Path) -> Result<String, Failure> {
    Ok(format!("{} ({})", host::version(program)?, program.display()))
}

/// Whether the store can be written, by writing.
fn store(global: &Global) -> Result<String, Failure> {
    let root = match &global.store {
        Some(root) => root.clone(),
        None => machine::data_home()?,
    };
    let about = || format!("store {}", root.display());
    let remedy = "choose another with --store or LAMINA_STORE";
    let failed = |error: std::io::Error| Failure::new(about(), error).remedy(remedy);
    fs::create_dir_all(&root).map_err(failed)?;
    tempfile::tempfile_in(&root).map_err(failed)?;
    Ok(format!("{} can be written", root.display()))
}

/// Whether a machine's directories can be made, by making some.
fn machines() -> Result<String, Failure> {
    let directory = machine::Directory::create(&machine::random_name())?;
    let longest = crate::share::tag(99);
    crate::hypervisor::check_socket(&directory.socket(&longest))?;
    Ok("state and socket directories can be written".to_owned())
}
