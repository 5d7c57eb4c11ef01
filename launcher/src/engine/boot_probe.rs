//! Finds out whether an engine runs a guest here with one of its accelerators, by running one.
//!
//! It proves little that `/dev/kvm` can be opened. Under nested or paravirtual KVM (`kvm_pvm`) it opens and creates
//! machines, but then interprets an ordinary kernel a hundred times too slowly, or not at all. So the test boots the
//! same kernel and initramfs that guests get, up to the first line of their init.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use guest_protocol::Part;
use serde::{Deserialize, Serialize};

use super::contract::{Engine, Event, Exit, Host};
use super::plan::{KVM, Plan};
use super::request::RunRequest;
use crate::failure::{About, Failure};
use crate::host::Boot;
use crate::host::child;
use crate::host::confine::{self, Level, Support};
use crate::host::confinement_probe;
use crate::host::probe_cache::ProbeCache;

/// How much a test guest may spend until the first line of its init. Processor time is what counts, so that a busy host
/// is not mistaken for a slow accelerator. A guest that does not get there with KVM in this time is faster with
/// emulation, which takes 2 s to the init on a fast host.
///
/// KVM inside an emulated machine, the slowest that is useful, takes 5 s of processor time to the kernel's first line
/// and 23 s to the init, and up to three times that if its host is busy. KVM that interprets the kernel prints nothing
/// for a minute.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Processor time without a new line on the console.
    stalled: Duration,
    /// Processor time in all.
    in_all: Duration,
    /// Wall-clock time, for a guest that waits and so spends no processor time.
    by_the_clock: Duration,
}

const LIMITS: Limits = Limits {
    stalled: Duration::from_secs(20),
    in_all: Duration::from_secs(75),
    by_the_clock: Duration::from_secs(180),
};

/// How long a boot may take before the user is told what Lamina is waiting for.
const SILENT: Duration = Duration::from_secs(3);

/// How long to remember that a limit was reached. The host's load may have been the cause, so `lamina doctor` tries
/// again.
const KEEP_SLOW: Duration = Duration::from_secs(3600);

/// What has been seen of a test guest so far.
#[derive(Clone, Debug, Default)]
struct Sight {
    console: String,
    processor_time: Duration,
    /// How much processor time had been spent when the console last grew.
    at_last_progress: Duration,
    elapsed: Duration,
    /// How the engine ended, if it has.
    ended: Option<String>,
}

/// What a probe has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Verdict {
    /// The guest reached its init.
    Works,
    /// The engine gave up.
    Fails(String),
    /// A limit was reached.
    TooSlow(String),
}

impl Verdict {
    fn into_result(self) -> Result<(), String> {
        match self {
            Self::Works => Ok(()),
            Self::Fails(cause) => Err(cause),
            Self::TooSlow(cause) => Err(format!("{cause}; lamina doctor tries again")),
        }
    }
}

/// Judges a test guest; `None` while it is too early to say.
fn judge(sight: &Sight, limits: Limits) -> Option<Verdict> {
    if sight.console.contains(guest_protocol::UP) {
        return Some(Verdict::Works);
    }
    if let Some(cause) = &sight.ended {
        return Some(Verdict::Fails(cause.clone()));
    }
    let slow = |cause: String| Some(Verdict::TooSlow(cause));
    let stalled = sight.processor_time.saturating_sub(sight.at_last_progress);
    if stalled > limits.stalled {
        return slow(format!("a test guest made no progress in {} s of processor time", limits.stalled.as_secs()));
    }
    if sight.processor_time > limits.in_all {
        let seconds = limits.in_all.as_secs();
        return slow(format!("a test guest had not reached its init after {seconds} s of processor time"));
    }
    if sight.elapsed > limits.by_the_clock {
        return slow(format!("a test guest had not reached its init after {} s", limits.by_the_clock.as_secs()));
    }
    None
}

/// How and with what a test guest boots.
pub(super) struct Probe<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) program: &'a Path,
    /// The machine type that guests get.
    pub(super) machine: &'static str,
    /// The cache, and what ends a probe.
    pub(super) host: &'a Host<'a>,
    /// How the engine of guests is confined.
    pub(super) confine: confine::Decision,
    pub(super) boot: &'a Boot,
}

impl Probe<'_> {
    /// Finds out whether KVM runs this guest, by a boot or from the result of an earlier boot since the host's start.
    ///
    /// # Errors
    /// The inner one says why KVM cannot be used; the outer one says why there was no probe, or that it was cancelled.
    pub(super) fn kvm(&self) -> Result<Result<(), String>, Failure> {
        if let Err(cause) = opens() {
            return Ok(Err(cause));
        }
        let mut probes = ProbeCache::of(self.host.cache);
        let boot = self.boot;
        let what = format!("kvm {} {}", self.machine, boot.kernel.release);
        let with: [&Path; 3] = [self.program, &boot.kernel.image, &boot.initramfs];
        if let Some(known) = probes.get::<Verdict>(&what, &with).filter(|_| !self.host.thorough) {
            return Ok(known.into_result());
        }
        let verdict = self.run(KVM)?;
        probes.put(&what, &with, &verdict, matches!(verdict, Verdict::TooSlow(_)).then_some(KEEP_SLOW));
        Ok(verdict.into_result())
    }

    /// Finds out, by a boot, whether an accelerator runs this guest. Nothing is remembered, so only `lamina doctor` tests
    /// one that needs nothing that could be missing.
    ///
    /// # Errors
    /// As for [`Probe::kvm`].
    pub(super) fn boots(&self, accelerator: &'static str) -> Result<Result<(), String>, Failure> {
        Ok(match self.run(accelerator)? {
            Verdict::Works => Ok(()),
            Verdict::Fails(cause) | Verdict::TooSlow(cause) => Err(cause),
        })
    }

    fn run(&self, accelerator: &'static str) -> Result<Verdict, Failure> {
        let scratch = tempfile::Builder::new().prefix("lamina-probe-").tempdir().about("temporary directory")?;
        let plan = self.plan(accelerator, scratch.path())?;
        plan.check()?;
        let (events, inbox) = channel();
        let running = self.engine.start(&plan, Arc::new(move |event| drop(events.send(event))))?;
        let pid = running.process().pid().as_raw_nonzero().get().unsigned_abs();
        let (start, mut told) = (Instant::now(), false);
        let mut sight = Sight::default();
        loop {
            for event in inbox.try_iter() {
                if let Event::Exited(exit) = event {
                    sight.ended = Some(format!("{} gave up: {}", self.engine.title(), reason(exit)));
                }
            }
            let console = String::from_utf8_lossy(&fs::read(&plan.console).unwrap_or_default()).into_owned();
            sight.processor_time = child::processor_time(pid).unwrap_or(sight.processor_time);
            if console.len() > sight.console.len() {
                sight.at_last_progress = sight.processor_time;
            }
            (sight.console, sight.elapsed) = (console, start.elapsed());
            if let Some(verdict) = judge(&sight, LIMITS) {
                return Ok(verdict);
            }
            if sight.elapsed > SILENT && !told {
                tell!("lamina: trying whether {accelerator} runs a guest on this host");
                told = true;
            }
            (self.host.check)()?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the plan of a guest with a console and nothing else. `earlyprintk` would show its first line sooner, but
    /// takes half of its time where each byte of a serial line is slow.
    fn plan(&self, accelerator: &'static str, scratch: &Path) -> Result<Plan, Failure> {
        Ok(Plan {
            name: "lamina-probe".into(),
            accelerator,
            machine: self.machine,
            cpus: 1,
            memory_mib: 256,
            kernel: self.engine.kernel(&self.boot.kernel, self.host.cache)?,
            initramfs: self.boot.initramfs.clone(),
            kernel_parameters: Vec::new(),
            shares: Vec::new(),
            served_disks: Vec::new(),
            disks: Vec::new(),
            network: None,
            control: scratch.join("control.sock"),
            monitor: scratch.join("monitor.sock"),
            console: scratch.join("console.log"),
            log: scratch.join("hypervisor.log"),
            confine: self.confine.clone(),
            container: None,
        })
    }
}

/// Returns why an engine ended before the guest's init was up.
fn reason(exit: Exit) -> String {
    match exit {
        Exit::PoweredOff => "the guest powered off".to_owned(),
        Exit::Rebooted => "the guest rebooted".to_owned(),
        Exit::Panicked => "the guest's kernel panicked".to_owned(),
        Exit::Ended { status, words } if words.is_empty() => status.to_string(),
        Exit::Ended { words, .. } => words,
    }
}

/// Returns how the engine of guests is confined, if `support` can confine it here.
pub(super) fn decision(host: &Host<'_>, support: &Support) -> confine::Decision {
    let (level, account) = &host.confine;
    confine::Decision { support: (*level != Level::Off).then(|| support.clone()), account: account.clone() }
}

/// Finds out whether an engine runs a guest here that needs KVM, and whose control channel is a socket device. Boots a test
/// guest, unless this engine is asked for: then the machine itself is the test. Returns what can confine the engine, of
/// which nothing is tried if it is not to be confined; `own_filter` says whether it filters its own system calls.
///
/// # Errors
/// Says what is missing.
pub(super) fn runs_by_kvm(
    engine: &dyn Engine,
    program: &Path,
    host: &Host<'_>,
    request: &RunRequest,
    own_filter: bool,
) -> Result<Support, Failure> {
    let boot = host.boot.map_err(Clone::clone)?;
    boot.modules
        .supports(Part::Socket)
        .map_err(|cause| Failure::new(engine.title(), cause).with_hint("name another kernel with --kernel"))?;
    let needs_kvm = |cause: String| {
        Failure::new(engine.title(), format_args!("it needs KVM: {cause}"))
            .with_hint("use --engine qemu, which emulates the processor without KVM")
    };
    opens().map_err(needs_kvm)?;
    let (level, account) = &host.confine;
    let support = if *level == Level::Off {
        Support::default()
    } else {
        let mut probes = ProbeCache::of(host.cache);
        let found = confinement_probe::support(program, account.as_ref(), &mut probes, host.thorough)?;
        Support { own_filter, ..found }
    };
    if !request.asks_for(engine.name()) || host.thorough {
        let confine = decision(host, &support);
        let probe = Probe { engine, program, machine: engine.name(), host, boot, confine };
        probe.kvm()?.map_err(needs_kvm)?;
    }
    Ok(support)
}

/// Whether this user can open `/dev/kvm`.
///
/// # Errors
/// Says why not, and how to fix it.
pub(super) fn opens() -> Result<(), String> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "this user may not open /dev/kvm; add yourself to its group: sudo usermod -aG kvm $USER".to_owned()
        }
        _ => format!("/dev/kvm: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn sight(console: &str, processor: u64, at_last_progress: u64, elapsed: u64) -> Sight {
        Sight {
            console: console.into(),
            processor_time: Duration::from_secs(processor),
            at_last_progress: Duration::from_secs(at_last_progress),
            elapsed: Duration::from_secs(elapsed),
            ended: None,
        }
    }

    #[test]
    fn a_test_guest_is_judged_by_what_it_reached_and_what_it_spent() {
        let kernel = "[    0.000000] Linux version 6.1.0\n";
        let up = format!("{kernel}{}\n", guest_protocol::UP);
        assert_eq!(judge(&sight(&up, 1, 1, 1), LIMITS), Some(Verdict::Works));
        for (early, why) in [
            (sight("", 15, 0, 60), "KVM in an emulated machine on a busy host, unpacking its kernel"),
            (sight("", 1, 0, 170), "a busy host that has hardly run it yet"),
            (sight(kernel, 70, 60, 170), "slow, and on its way"),
        ] {
            assert_eq!(judge(&early, LIMITS), None, "{why}");
        }
        for (hopeless, reason) in [
            (sight("", 21, 0, 21), "no progress in 20 s of processor time"),
            (sight(kernel, 41, 20, 41), "no progress in 20 s of processor time"),
            (sight(kernel, 76, 70, 80), "its init after 75 s of processor time"),
            (sight(kernel, 5, 5, 181), "its init after 180 s"),
        ] {
            let verdict = judge(&hopeless, LIMITS);
            assert!(matches!(&verdict, Some(Verdict::TooSlow(cause)) if cause.contains(reason)), "{verdict:?}");
        }
    }

    #[test]
    fn a_limit_is_no_final_verdict_and_names_the_way_to_another_try() {
        let gave_up = Sight { ended: Some("QEMU gave up: failed to set MSR 0x10a".into()), ..Sight::default() };
        let verdict = judge(&gave_up, LIMITS).unwrap();
        assert_eq!(verdict, Verdict::Fails("QEMU gave up: failed to set MSR 0x10a".into()));
        let slow = judge(&sight("", 21, 0, 21), LIMITS).unwrap();
        assert!(slow.into_result().unwrap_err().ends_with("lamina doctor tries again"));
    }

    #[test]
    fn reason_of_an_engine_that_gave_up_is_what_it_said_last() {
        let exit = |words: &str| Exit::Ended { status: ExitStatus::from_raw(0x100), words: words.into() };
        assert_eq!(reason(exit("warning: x; error: y")), "warning: x; error: y");
        assert_eq!(reason(exit("")), "exit status: 1");
        assert_eq!(reason(Exit::Rebooted), "the guest rebooted");
    }
}
