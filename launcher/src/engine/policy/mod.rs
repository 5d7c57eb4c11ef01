//! What carries a guest: a pure function from what the host can do and what was asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::qemu::Machine;
use crate::engine::qemu::probe::Accelerator;
use crate::failure::Failure;
use crate::host::network::NetworkBackend;

/// How the root gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// The view, served over vhost-user-fs by this process.
    Direct,
    /// A directory of the host (the view mounted by FUSE), served by virtiofsd.
    Virtiofsd,
    /// A read-only image of the view (EROFS) on a virtio disk.
    Block,
    /// A real directory that the view was unpacked to, served by virtiofsd.
    Materialize,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Virtiofsd => "virtiofsd",
            Self::Block => "block",
            Self::Materialize => "materialize",
        })
    }
}

/// A choice that the user may leave to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice<T> {
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
choice_from_str!(
    Backend,
    "direct" => Backend::Direct,
    "virtiofsd" => Backend::Virtiofsd,
    "block" => Backend::Block,
    "materialize" => Backend::Materialize
);
choice_from_str!(NetworkBackend, "none" => NetworkBackend::None, "passt" => NetworkBackend::Passt, "slirp" => NetworkBackend::Slirp);
choice_from_str!(Machine, "q35" => Machine::Q35, "microvm" => Machine::Microvm);

/// What this host was found able to do. An `Err` says why not, in one line.
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// KVM runs a guest of the given kernel.
    pub(crate) kvm: Result<(), String>,
    /// This user can mount FUSE file systems.
    pub(crate) fuse: Result<(), String>,
    /// A virtiofsd that can serve a share.
    pub(crate) virtiofsd: Result<(), String>,
    /// Guests can mount an EROFS image on a virtio disk.
    pub(crate) image_in_guest: Result<(), String>,
    /// Guests can mount an ext4 file system on a virtio disk.
    pub(crate) disk_in_guest: Result<(), String>,
    /// A passt that starts, and whether it carries published ports.
    pub(crate) passt: Result<bool, String>,
    /// Guests have a driver for network cards.
    pub(crate) network_in_guest: Result<(), String>,
    /// The rate of the time stamp counter in kHz, where it is known.
    pub(crate) tsc_khz: Option<u64>,
}

/// What a run asks for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Request {
    /// What executes the guest.
    pub(crate) accelerator: Choice<Accelerator>,
    /// What carries the root.
    pub(crate) backend: Choice<Backend>,
    /// The machine type.
    pub(crate) machine: Choice<Machine>,
    /// What carries the guest's packets.
    pub(crate) network: Choice<NetworkBackend>,
    /// Ports of the host that lead to the guest.
    pub(crate) published: usize,
    /// Shares besides the root.
    pub(crate) shares: usize,
    /// The root is a directory of the host, not an image.
    pub(crate) directory_root: bool,
    /// What the guest writes is kept on a disk.
    pub(crate) kept: bool,
    /// Try also what the decision does not depend on, to explain it.
    pub(crate) explain: bool,
}

/// What is done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What executes the guest.
    pub(crate) accelerator: Accelerator,
    /// What carries the root.
    pub(crate) backend: Backend,
    /// The machine type.
    pub(crate) machine: Machine,
    /// What carries the guest's packets.
    pub(crate) network: NetworkBackend,
    /// One line for each decision.
    pub(crate) reasons: Vec<String>,
}

/// Decides.
///
/// # Errors
/// What was forced cannot work here; says what is missing.
pub(crate) fn decide(host: &Capabilities, request: &Request) -> Result<Decision, Failure> {
    let (accelerator, why_accelerator) = accelerator(host, request)?;
    let (backend, why_backend) = backend(host, request)?;
    if request.kept
        && let Err(cause) = &host.disk_in_guest
    {
        return Err(Failure::new("--keep", cause).with_hint("name another kernel with --kernel"));
    }
    let (network, why_network) = network(host, request)?;
    let (machine, why_machine) = machine(host, request, accelerator, network)?;
    let mut reasons =
        vec![format!("accelerator {accelerator}: {why_accelerator}"), format!("backend {backend}: {why_backend}")];
    reasons.extend(others(host, request, backend));
    reasons.push(format!("machine {}: {why_machine}", machine.name()));
    reasons.push(format!("network {network}: {why_network}"));
    Ok(Decision { accelerator, backend, machine, network, reasons })
}

fn accelerator(host: &Capabilities, request: &Request) -> Result<(Accelerator, String), Failure> {
    match (request.accelerator, &host.kvm) {
        (Choice::Forced(Accelerator::Tcg), _) => Ok((Accelerator::Tcg, "asked for".into())),
        (Choice::Forced(Accelerator::Kvm), Ok(())) => Ok((Accelerator::Kvm, "asked for".into())),
        (Choice::Forced(Accelerator::Kvm), Err(cause)) => {
            Err(Failure::new("--accel kvm", cause).with_hint("use --accel tcg, which needs nothing but patience"))
        }
        (Choice::Auto, Ok(())) => Ok((Accelerator::Kvm, "it runs a guest".into())),
        (Choice::Auto, Err(cause)) => Ok((Accelerator::Tcg, format!("KVM does not run a guest here ({cause})"))),
    }
}

/// The ways to a root, the best first: a shared one is the normal way, a copy the last resort.
const BACKENDS: [Backend; 4] = [Backend::Direct, Backend::Virtiofsd, Backend::Block, Backend::Materialize];

/// Whether a backend can carry the root: what it has for it, or what it lacks.
fn can(host: &Capabilities, request: &Request, backend: Backend) -> Result<&'static str, String> {
    let lacks = |what: &Result<(), String>| what.clone();
    match backend {
        Backend::Virtiofsd if request.directory_root => {
            lacks(&host.virtiofsd)?;
            Ok("the root is a directory")
        }
        _ if request.directory_root => Err("it takes images, and the root is a directory".to_owned()),
        Backend::Direct => Ok("no mount and no other program is needed"),
        Backend::Virtiofsd => {
            lacks(&host.virtiofsd)?;
            lacks(&host.fuse)?;
            Ok("the view is mounted by FUSE and shared by virtiofsd")
        }
        Backend::Block => {
            lacks(&host.image_in_guest)?;
            Ok("a block image is made once for a base")
        }
        Backend::Materialize => {
            lacks(&host.virtiofsd)?;
            Ok("the image is unpacked once for a base, and shared by virtiofsd")
        }
    }
}

fn backend(host: &Capabilities, request: &Request) -> Result<(Backend, String), Failure> {
    if let Choice::Forced(forced) = request.backend {
        return match can(host, request, forced) {
            Ok(why) => Ok((forced, format!("asked for; {why}"))),
            Err(cause) => {
                let usable = BACKENDS.into_iter().find(|other| can(host, request, *other).is_ok());
                let failure = Failure::new(format_args!("--backend {forced}"), cause);
                Err(usable.map_or(failure.clone(), |other| failure.with_hint(format_args!("use --backend {other}"))))
            }
        };
    }
    let mut first_failure = None;
    for backend in BACKENDS {
        match can(host, request, backend) {
            Ok(why) => return Ok((backend, why.to_owned())),
            // Of a directory only virtiofsd's says something.
            Err(cause) if !request.directory_root || backend == Backend::Virtiofsd => {
                first_failure.get_or_insert(Failure::new(format_args!("backend {backend}"), cause));
            }
            Err(_) => {}
        }
    }
    Err(first_failure.unwrap_or_else(|| Failure::new("backend", "none can carry the root")))
}

/// One line for each backend that is not taken.
fn others(host: &Capabilities, request: &Request, taken: Backend) -> Vec<String> {
    let rank = |backend| BACKENDS.iter().position(|known| *known == backend);
    let rest = BACKENDS.into_iter().filter(|backend| *backend != taken);
    rest.map(|backend| match can(host, request, backend) {
        Err(cause) => format!("not {backend}: {cause}"),
        Ok(_) if rank(backend) < rank(taken) => format!("not {backend}: {taken} was asked for"),
        Ok(_) => format!("not {backend}: {taken} comes first"),
    })
    .collect()
}

fn network(host: &Capabilities, request: &Request) -> Result<(NetworkBackend, String), Failure> {
    let driver = |carrier| match &host.network_in_guest {
        Ok(()) => Ok(carrier),
        Err(cause) => {
            Err(Failure::new("network", cause).with_hint("use --network none, or name another kernel with --kernel"))
        }
    };
    match (request.network, &host.passt) {
        (Choice::Forced(NetworkBackend::None), _) if request.published > 0 => {
            Err(Failure::new("-p", "a guest without a network has no ports").with_hint("leave --network none away"))
        }
        (Choice::Forced(NetworkBackend::None), _) => Ok((NetworkBackend::None, "asked for".into())),
        (Choice::Forced(NetworkBackend::Passt), Err(cause)) => {
            Err(Failure::new("--network passt", cause).with_hint("use --network slirp, which is a part of QEMU"))
        }
        (Choice::Forced(forced), _) => Ok((driver(forced)?, "asked for".into())),
        (Choice::Auto, Ok(false)) if request.published > 0 => {
            Ok((driver(NetworkBackend::Slirp)?, "ports are published, and this passt is too old to carry them".into()))
        }
        (Choice::Auto, Ok(_)) => {
            Ok((driver(NetworkBackend::Passt)?, "it is faster than what QEMU has built in".into()))
        }
        (Choice::Auto, Err(cause)) => Ok((driver(NetworkBackend::Slirp)?, format!("passt cannot be used ({cause})"))),
    }
}

fn machine(
    host: &Capabilities,
    request: &Request,
    accelerator: Accelerator,
    network: NetworkBackend,
) -> Result<(Machine, String), Failure> {
    let devices = request.shares + 1 + usize::from(request.kept) + usize::from(network != NetworkBackend::None);
    let fits = |machine: Machine| devices <= machine.most_devices();
    let room = |machine: Machine| {
        let most = machine.most_devices();
        format!("it has room for {most} shares, the root, a disk and the network card among them, not for {devices}")
    };
    let clock = accelerator == Accelerator::Kvm || host.tsc_khz.is_some();
    match request.machine {
        Choice::Forced(forced) if fits(forced) => Ok((forced, "asked for".into())),
        Choice::Forced(forced) => Err(Failure::new(format_args!("--machine {}", forced.name()), room(forced))
            .with_hint("share a directory that holds the others, or use --machine q35")),
        Choice::Auto if fits(Machine::Microvm) && clock => Ok((Machine::Microvm, "it boots faster than q35".into())),
        Choice::Auto if !fits(Machine::Q35) => {
            Err(Failure::new("-v", room(Machine::Q35)).with_hint("share a directory that holds the others"))
        }
        Choice::Auto if !clock => Ok((
            Machine::Q35,
            "an emulated microvm needs the rate of the time stamp counter, which is not known here".into(),
        )),
        Choice::Auto => Ok((Machine::Q35, room(Machine::Microvm).replacen("it", "microvm", 1))),
    }
}

#[cfg(test)]
mod tests;
