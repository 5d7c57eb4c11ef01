//! What executes a guest's instructions: KVM where it really runs a guest, else QEMU's emulation.
//!
//! `/dev/kvm` that opens proves little: under nested or para-virtual KVM (`kvm_pvm`) it opens, makes
//! machines, and then interprets an ordinary kernel a hundred times too slowly or not at all. So the proof
//! is a boot of the very kernel and initramfs that guests get, up to the first line of their init.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::{Plan, qemu};
use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::kernel::Kernel;
use crate::machine::Signals;

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accelerator {
    /// The host's processor, by the kernel's KVM.
    Kvm,
    /// QEMU's own translator: slow, and needs nothing.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What a test guest may spend. It is measured in processor time, so that a busy host is not taken for a
/// slow accelerator.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Processor time until the kernel's first line.
    until_kernel: Duration,
    /// Processor time until the init's line.
    until_init: Duration,
    /// Time of the clock, because waiting in vain for processor time must end too.
    in_all: Duration,
}

impl Accelerator {
    /// Even a slow real KVM needs less for unpacking a kernel than it is given here; one that interprets
    /// the kernel needs 15 s and more. Emulation takes 2 s to the init where the host is quick.
    const fn patience(self) -> Patience {
        let (kernel, init, all) = match self {
            Self::Kvm => (2, 6, 20),
            Self::Tcg => (20, 60, 120),
        };
        Patience {
            until_kernel: Duration::from_secs(kernel),
            until_init: Duration::from_secs(init),
            in_all: Duration::from_secs(all),
        }
    }
}

/// What a boot probe has seen so far.
#[derive(Clone, Debug, Default)]
struct Sight {
    console: String,
    processor_time: Duration,
    elapsed: Duration,
    /// The last line of what a hypervisor that has ended said.
    ended: Option<String>,
}

/// What a probe shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The guest came to its init.
    Works,
    /// It never will, as long as the host's kernel runs.
    Fails(String),
    /// The host gave it no time; another try may tell.
    Unclear(String),
}

/// Judges a probe: `None` as long as it is too early to say.
fn judge(sight: &Sight, patience: Patience) -> Option<Outcome> {
    if sight.console.contains(guest_protocol::UP) {
        return Some(Outcome::Works);
    }
    if let Some(last_words) = &sight.ended {
        return Some(Outcome::Fails(format!("the hypervisor gave up: {last_words}")));
    }
    let kernel_spoke = sight.console.contains("Linux version");
    let (limit, awaited) =
        if kernel_spoke { (patience.until_init, "init") } else { (patience.until_kernel, "first line") };
    let cause = |seconds: u64| format!("a test guest had not come to its kernel's {awaited} after {seconds} s");
    if sight.processor_time > limit {
        return Some(Outcome::Fails(cause(limit.as_secs())));
    }
    (sight.elapsed > patience.in_all).then(|| Outcome::Unclear(cause(patience.in_all.as_secs())))
}

/// Where and with what a probe boots.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    /// QEMU.
    pub(crate) qemu: &'a Path,
    /// The guest's kernel.
    pub(crate) kernel: &'a Kernel,
    /// The guest's initramfs.
    pub(crate) initramfs: &'a Path,
    /// The machine type that guests get.
    pub(crate) machine: qemu::Machine,
    /// The cache directory.
    pub(crate) cache: &'a Path,
    /// What may call the probe off.
    pub(crate) signals: &'a Signals,
}

#[derive(Serialize, Deserialize)]
struct Verdict {
    boot_id: String,
    failure: Option<String>,
}

impl Probe<'_> {
    /// Says whether KVM runs this guest, by a boot or by what an earlier one since the host's start showed.
    ///
    /// # Errors
    /// The inner one says why KVM cannot be used; the outer one that no probe could be made, or that a signal
    /// called it off.
    pub(crate) fn kvm(&self) -> Result<Result<(), String>, Failure> {
        if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => "; add yourself to its group: sudo usermod -aG kvm $USER",
                _ => "",
            };
            return Ok(Err(format!("/dev/kvm: {error}{remedy}")));
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").about("boot_id")?.trim().to_owned();
        let path = self.cache.join(format!("kvm-{:016x}.json", self.fingerprint()));
        let known = fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Verdict>(&json).ok());
        if let Some(verdict) = known.filter(|verdict| verdict.boot_id == boot_id) {
            return Ok(verdict.failure.map_or(Ok(()), Err));
        }
        let failure = match self.boot(Accelerator::Kvm)? {
            Outcome::Works => None,
            Outcome::Fails(cause) => Some(cause),
            Outcome::Unclear(cause) => return Ok(Err(cause)),
        };
        let verdict = Verdict { boot_id, failure };
        fs::create_dir_all(self.cache).about(self.cache.display())?;
        let mut file = tempfile::NamedTempFile::new_in(self.cache).about(self.cache.display())?;
        serde_json::to_writer(&mut file, &verdict).about(path.display())?;
        file.persist(&path).about(path.display())?;
        Ok(verdict.failure.map_or(Ok(()), Err))
    }

    /// Says whether emulation runs this guest, by a boot. It needs nothing that could be missing, so only
    /// who wants to see it asks.
    ///
    /// # Errors
    /// As for [`Probe::kvm`].
    pub(crate) fn tcg(&self) -> Result<Result<(), String>, Failure> {
        Ok(match self.boot(Accelerator::Tcg)? {
            Outcome::Works => Ok(()),
            Outcome::Fails(cause) | Outcome::Unclear(cause) => Err(cause),
        })
    }

    /// What a verdict depends on besides the running host kernel.
    fn fingerprint(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        (self.qemu, &self.kernel.image, self.initramfs, self.machine.name()).hash(&mut hasher);
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        (changed(self.qemu), changed(&self.kernel.image)).hash(&mut hasher);
        hasher.finish()
    }

    fn boot(&self, accelerator: Accelerator) -> Result<Outcome, Failure> {
        let scratch = tempfile::Builder::new().prefix("lamina-probe-").tempdir().about("temporary directory")?;
        let plan = self.plan(scratch.path());
        plan.check()?;
        let _control = UnixListener::bind(&plan.control).about(plan.control.display())?;
        let _monitor = UnixListener::bind(&plan.monitor).about(plan.monitor.display())?;
        let command = qemu::command(self.qemu, &plan, self.machine, accelerator, tsc_khz());
        let mut qemu = child::command(&command)?;
        let mut qemu = Running(qemu.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().about(self.qemu.display())?);
        let start = Instant::now();
        loop {
            let sight = Sight {
                ended: qemu.last_words(),
                console: String::from_utf8_lossy(&fs::read(&plan.console).unwrap_or_default()).into_owned(),
                processor_time: child::processor_time(qemu.0.id()).unwrap_or_default(),
                elapsed: start.elapsed(),
            };
            if let Some(outcome) = judge(&sight, accelerator.patience()) {
                return Ok(outcome);
            }
            self.signals.check()?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn plan(&self, scratch: &Path) -> Plan {
        Plan {
            name: "lamina-probe".into(),
            cpus: 1,
            memory_mib: 256,
            kernel: self.kernel.image.clone(),
            initramfs: self.initramfs.to_owned(),
            kernel_parameters: vec!["earlyprintk=ttyS0".into()],
            shares: Vec::new(),
            disks: Vec::new(),
            network: None,
            control: scratch.join("control.sock"),
            monitor: scratch.join("monitor.sock"),
            console: scratch.join("console.log"),
        }
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Running {
    /// What it said last, if it has ended.
    fn last_words(&mut self) -> Option<String> {
        let status = self.0.try_wait().ok().flatten()?;
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        let last = text.lines().map(str::trim).find(|line| !line.is_empty());
        Some(last.map_or_else(|| status.to_string(), str::to_owned))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a process that is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The frequency of the host's time stamp counter in kHz, where it is known exactly: emulated guests count
/// by it, and one without other clocks would run as wrong as this number is.
#[must_use]
pub(crate) fn tsc_khz() -> Option<u64> {
    parse_tsc_khz(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// "cpu MHz" is the counter's rate where the kernel was told that rate (`tsc_known_freq`) and does not
/// measure the processor's current speed instead (`aperfmperf`): on virtual hosts.
fn parse_tsc_khz(cpuinfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags")?.split(' ').collect();
    if !flags.contains(&"tsc_known_freq") || flags.contains(&"aperfmperf") {
        return None;
    }
    let (mega, fraction) = field("cpu MHz")?.split_once('.')?;
    let kilo: u64 = fraction.get(..3)?.parse().ok()?;
    Some(mega.parse::<u64>().ok()? * 1000 + kilo)
}

/// Where QEMU is, in `PATH`.
///
/// # Errors
/// Names the package that brings it.
pub(crate) fn find_qemu() -> Result<PathBuf, Failure> {
    child::find("qemu-system-x86_64", &[]).ok_or_else(|| {
        Failure::new("qemu-system-x86_64", "not found in PATH")
            .with_hint("install it (Debian: apt-get install qemu-system-x86)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(console: &str, processor_ms: u64, elapsed_ms: u64, ended: Option<&str>) -> Sight {
        Sight {
            console: console.into(),
            processor_time: Duration::from_millis(processor_ms),
            elapsed: Duration::from_millis(elapsed_ms),
            ended: ended.map(str::to_owned),
        }
    }

    fn judge_kvm(sight: &Sight) -> Option<Outcome> {
        judge(sight, Accelerator::Kvm.patience())
    }

    #[test]
    fn a_probe_is_judged_by_what_the_guest_reached_and_what_it_spent() {
        let kernel = "[    0.000000] Linux version 6.1.0\n";
        let up = format!("{kernel}{}\n", guest_protocol::UP);
        assert_eq!(judge_kvm(&sight(&up, 400, 500, None)), Some(Outcome::Works));
        assert_eq!(judge_kvm(&sight("", 1900, 1900, None)), None, "still unpacking the kernel");
        assert_eq!(judge_kvm(&sight("", 100, 15_000, None)), None, "a busy host has hardly run it yet");
        assert_eq!(judge_kvm(&sight(kernel, 3000, 3000, None)), None, "on its way to init");
        for (hopeless, reason) in [
            (sight("", 2001, 2001, None), "first line after 2 s"),
            (sight(kernel, 6001, 6001, None), "init after 6 s"),
            (sight("", 10, 10, Some("failed to set MSR 0x10a")), "gave up: failed to set MSR 0x10a"),
        ] {
            let outcome = judge_kvm(&hopeless);
            assert!(matches!(&outcome, Some(Outcome::Fails(cause)) if cause.contains(reason)), "{outcome:?}");
        }
        let starved = judge_kvm(&sight("", 100, 20_001, None));
        assert!(matches!(starved, Some(Outcome::Unclear(_))), "not to be remembered: {starved:?}");
    }

    #[test]
    fn the_counter_rate_is_taken_only_where_the_kernel_was_told_it() {
        let cpuinfo = |flags: &str| format!("processor\t: 0\ncpu MHz\t\t: 2596.148\nflags\t\t: fpu tsc {flags}\n");
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq hypervisor")), Some(2_596_148));
        assert_eq!(parse_tsc_khz(&cpuinfo("hypervisor")), None);
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq aperfmperf")), None);
    }
}
