//! What carries a guest: a pure function from what the host can do and what was asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::accelerator::Accelerator;
use crate::failure::Failure;
use crate::hypervisor::qemu::Machine;

/// How the root gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The view, served over vhost-user-fs by this process.
    Direct,
    /// A directory of the host (the view mounted by FUSE), served by virtiofsd.
    Virtiofsd,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Virtiofsd => "virtiofsd",
        })
    }
}

/// A choice that the user may leave to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice<T> {
    /// What suits best.
    #[default]
    Auto,
    /// This, or a failure that says what is missing.
    Forced(T),
}

macro_rules! choice_from_str {
    ($type:ty, $($name:literal => $value:expr),+) => {
        impl FromStr for Choice<$type> {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    "auto" => Ok(Self::Auto),
                    $($name => Ok(Self::Forced($value)),)+
                    _ => Err(concat!("expected auto", $(", ", $name),+).to_owned()),
                }
            }
        }
    };
}

choice_from_str!(Accelerator, "kvm" => Accelerator::Kvm, "tcg" => Accelerator::Tcg);
choice_from_str!(Backend, "direct" => Backend::Direct, "virtiofsd" => Backend::Virtiofsd);
choice_from_str!(Machine, "q35" => Machine::Q35, "microvm" => Machine::Microvm);

/// What this host was found able to do. An `Err` says why not, in one line.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// KVM runs a guest of the given kernel.
    pub kvm: Result<(), String>,
    /// This user can mount FUSE file systems.
    pub fuse: Result<(), String>,
    /// A virtiofsd that can serve a share.
    pub virtiofsd: Result<(), String>,
    /// The rate of the time stamp counter in kHz, where it is known.
    pub tsc_khz: Option<u64>,
}

/// What a run asks for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// What executes the guest.
    pub accelerator: Choice<Accelerator>,
    /// What carries the root.
    pub backend: Choice<Backend>,
    /// The machine type.
    pub machine: Choice<Machine>,
    /// Shares besides the root.
    pub shares: usize,
    /// The root is a directory of the host, not an image.
    pub directory_root: bool,
}

/// What is done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// What carries the root.
    pub backend: Backend,
    /// The machine type.
    pub machine: Machine,
    /// One line for each decision.
    pub reasons: Vec<String>,
}

/// Decides.
///
/// # Errors
/// What was forced cannot work here; says what is missing.
pub fn decide(host: &Capabilities, request: &Request) -> Result<Decision, Failure> {
    let (accelerator, why_accelerator) = accelerator(host, request)?;
    let (backend, why_backend) = backend(host, request)?;
    if request.shares > 0
        && let Err(cause) = &host.virtiofsd
    {
        return Err(Failure::new("-v", "further shares are served by virtiofsd").remedy(cause));
    }
    let (machine, why_machine) = machine(host, request, accelerator)?;
    let reasons = vec![
        format!("accelerator {accelerator}: {why_accelerator}"),
        format!("backend {backend}: {why_backend}"),
        format!("machine {}: {why_machine}", machine.name()),
    ];
    Ok(Decision { accelerator, backend, machine, reasons })
}

fn accelerator(host: &Capabilities, request: &Request) -> Result<(Accelerator, String), Failure> {
    match (request.accelerator, &host.kvm) {
        (Choice::Forced(Accelerator::Tcg), _) => Ok((Accelerator::Tcg, "asked for".into())),
        (Choice::Forced(Accelerator::Kvm), Ok(())) => Ok((Accelerator::Kvm, "asked for, and it runs a guest".into())),
        (Choice::Forced(Accelerator::Kvm), Err(cause)) => {
            Err(Failure::new("--accel kvm", cause).remedy("use --accel tcg, which needs nothing but patience"))
        }
        (Choice::Auto, Ok(())) => Ok((Accelerator::Kvm, "it runs a guest".into())),
        (Choice::Auto, Err(cause)) => Ok((Accelerator::Tcg, format!("KVM does not run a guest here ({cause})"))),
    }
}

fn backend(host: &Capabilities, request: &Request) -> Result<(Backend, String), Failure> {
    match request.backend {
        Choice::Forced(Backend::Direct) if request.directory_root => {
            Err(Failure::new("--backend direct", "it serves images, and the root is a directory")
                .remedy("use --backend virtiofsd"))
        }
        Choice::Auto if !request.directory_root => {
            Ok((Backend::Direct, "no mount and no other program is needed".into()))
        }
        Choice::Forced(Backend::Direct) => Ok((Backend::Direct, "asked for".into())),
        Choice::Auto | Choice::Forced(Backend::Virtiofsd) => {
            let missing = |cause: &String| Failure::new("backend virtiofsd", cause);
            host.virtiofsd.as_ref().map_err(missing)?;
            if request.directory_root {
                return Ok((Backend::Virtiofsd, "the root is a directory".into()));
            }
            host.fuse.as_ref().map_err(missing)?;
            Ok((Backend::Virtiofsd, "asked for".into()))
        }
    }
}

fn machine(host: &Capabilities, request: &Request, accelerator: Accelerator) -> Result<(Machine, String), Failure> {
    let shares = request.shares + 1;
    let fits = |machine: Machine| shares <= machine.most_shares();
    let room = |machine: Machine| {
        format!("it has room for {} shares, the root among them, not for {shares}", machine.most_shares())
    };
    let clock = accelerator == Accelerator::Kvm || host.tsc_khz.is_some();
    match request.machine {
        Choice::Forced(forced) if fits(forced) => Ok((forced, "asked for".into())),
        Choice::Forced(forced) => Err(Failure::new(format_args!("--machine {}", forced.name()), room(forced))
            .remedy("share a directory that holds the others, or use --machine q35")),
        Choice::Auto if fits(Machine::Microvm) && clock => Ok((Machine::Microvm, "it boots faster than q35".into())),
        Choice::Auto if !fits(Machine::Q35) => {
            Err(Failure::new("-v", room(Machine::Q35)).remedy("share a directory that holds the others"))
        }
        Choice::Auto if !clock => Ok((
            Machine::Q35,
            "an emulated microvm needs the rate of the time stamp counter, which is not known here".into(),
        )),
        Choice::Auto => Ok((Machine::Q35, room(Machine::Microvm).replacen("it", "microvm", 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Capabilities {
        Capabilities { kvm: Ok(()), fuse: Ok(()), virtiofsd: Ok(()), tsc_khz: Some(1) }
    }

    fn no<T>(cause: &str) -> Result<T, String> {
        Err(cause.to_owned())
    }

    #[test]
    fn each_row_of_the_policy() {
        use Accelerator::{Kvm, Tcg};
        use Backend::{Direct, Virtiofsd};
        use Choice::Forced;
        use Machine::{Microvm, Q35};
        let plain = Request::default();
        let without_kvm = Capabilities { kvm: no("kvm_pvm"), ..able() };
        let rows = [
            ("the best of a good host", able(), plain, (Kvm, Direct, Microvm)),
            ("no KVM", without_kvm.clone(), plain, (Tcg, Direct, Microvm)),
            ("no KVM, unknown clock", Capabilities { tsc_khz: None, ..without_kvm }, plain, (Tcg, Direct, Q35)),
            (
                "unknown clock matters to TCG only",
                Capabilities { tsc_khz: None, ..able() },
                plain,
                (Kvm, Direct, Microvm),
            ),
            ("forced emulation", able(), Request { accelerator: Forced(Tcg), ..plain }, (Tcg, Direct, Microvm)),
            ("forced virtiofsd", able(), Request { backend: Forced(Virtiofsd), ..plain }, (Kvm, Virtiofsd, Microvm)),
            ("a directory", able(), Request { directory_root: true, ..plain }, (Kvm, Virtiofsd, Microvm)),
            ("as many shares as microvm has room for", able(), Request { shares: 6, ..plain }, (Kvm, Direct, Microvm)),
            ("one more", able(), Request { shares: 7, ..plain }, (Kvm, Direct, Q35)),
            ("forced q35", able(), Request { machine: Forced(Q35), ..plain }, (Kvm, Direct, Q35)),
            (
                "no virtiofsd and no need",
                Capabilities { virtiofsd: no("x"), fuse: no("y"), ..able() },
                plain,
                (Kvm, Direct, Microvm),
            ),
        ];
        for (row, host, request, expected) in rows {
            let decision = decide(&host, &request).unwrap();
            assert_eq!((decision.accelerator, decision.backend, decision.machine), expected, "{row}");
            assert_eq!(decision.reasons.len(), 3, "{row}");
        }
    }

    #[test]
    fn what_is_forced_and_cannot_work_names_what_is_missing() {
        use Choice::Forced;
        let poor = Capabilities {
            kvm: no("MSR 0x10a"),
            fuse: no("no /dev/fuse"),
            virtiofsd: no("no virtiofsd"),
            tsc_khz: None,
        };
        let fuseless = Capabilities { fuse: no("no /dev/fuse"), ..able() };
        let plain = Request::default();
        for (host, request, expected) in [
            (
                &poor,
                Request { accelerator: Forced(Accelerator::Kvm), ..plain },
                "--accel kvm: MSR 0x10a; use --accel tcg",
            ),
            (&poor, Request { backend: Forced(Backend::Virtiofsd), ..plain }, "backend virtiofsd: no virtiofsd"),
            (&fuseless, Request { backend: Forced(Backend::Virtiofsd), ..plain }, "no /dev/fuse"),
            (&poor, Request { shares: 1, ..plain }, "no virtiofsd"),
            (&poor, Request { directory_root: true, ..plain }, "no virtiofsd"),
            (&able(), Request { backend: Forced(Backend::Direct), directory_root: true, ..plain }, "--backend direct"),
            (&able(), Request { shares: 25, ..plain }, "room for 25 shares"),
            (
                &able(),
                Request { shares: 7, machine: Forced(Machine::Microvm), ..plain },
                "--machine microvm: it has room for 7",
            ),
        ] {
            let failure = decide(host, &request).unwrap_err().to_string();
            assert!(failure.contains(expected), "{failure}");
        }
    }

    #[test]
    fn the_reason_for_emulation_is_told() {
        let host = Capabilities { kvm: no("failed to set MSR 0x10a"), ..able() };
        let decision = decide(&host, &Request::default()).unwrap();
        assert_eq!(decision.reasons[0], "accelerator tcg: KVM does not run a guest here (failed to set MSR 0x10a)");
    }

    #[test]
    fn choices_are_read_and_wrong_ones_list_the_right_ones() {
        assert_eq!("auto".parse(), Ok(Choice::<Accelerator>::Auto));
        assert_eq!("kvm".parse(), Ok(Choice::Forced(Accelerator::Kvm)));
        let wrong: Result<Choice<Backend>, _> = "nfs".parse();
        assert_eq!(wrong, Err("expected auto, direct, virtiofsd".to_owned()));
    }
}
