//! Decides what runs a guest, and how: a pure function of what the engines and the host can do, and of what was asked
//! for.

use super::capabilities::HostCapabilities;
use super::contract::{Capabilities, MachineType};
use super::request::{Backend, Choice, RunRequest};
use crate::failure::Failure;
use crate::host::network::NetworkBackend;

/// An engine that can be chosen, with what its probe has shown.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Its name.
    pub(crate) engine: &'static str,
    /// What it can do here, or why it cannot be used.
    pub(crate) can: Result<Capabilities, Failure>,
}

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The engine, by its name.
    pub(crate) engine: &'static str,
    /// What executes the guest, by its name.
    pub(crate) accelerator: &'static str,
    /// How the guest reads its root.
    pub(crate) backend: Backend,
    /// The machine type, by its name.
    pub(crate) machine: &'static str,
    /// What carries the guest's packets.
    pub(crate) network: NetworkBackend,
    /// Whether the network card is a vhost-user device.
    pub(crate) vhost_user_network: bool,
    /// What the user should know without asking: that something better did not work.
    pub(crate) notices: Vec<String>,
    /// One line for each decision, and for each alternative.
    pub(crate) reasons: Vec<String>,
}

/// What was chosen, and why.
type Chosen<T> = (T, String);

/// Decides.
///
/// # Errors
/// What was asked for cannot work here; says what is missing.
pub(crate) fn decide(
    host: &HostCapabilities,
    candidates: &[Candidate],
    request: &RunRequest,
) -> Result<Decision, Failure> {
    let ((name, engine), why_engine) = choose_engine(candidates, request)?;
    let mut choice = Options { host, name, engine, request, root_by_disk: None };
    let (accelerator, why_accelerator) = choice.accelerator()?;
    let known = engine.accelerators.iter().find(|known| known.name == accelerator);
    choice.root_by_disk = known.and_then(|known| known.root_by_disk);
    let (backend, why_backend) = choice.backend()?;
    choice.check_shares_and_disk()?;
    let (network, why_network) = choice.network()?;
    let (machine, why_machine) = choice.machine(accelerator, network)?;

    let caution = known.and_then(|known| known.caution).map_or(String::new(), |caution| format!("; {caution}"));
    let accelerator_line = format!("accelerator {accelerator}: {why_accelerator}{caution}");
    let mut reasons = vec![format!("engine {name}: {why_engine}")];
    reasons.extend(other_engines(candidates, request, name));
    reasons.push(accelerator_line.clone());
    reasons.push(format!("backend {backend}: {why_backend}"));
    reasons.extend(choice.other_backends(backend));
    reasons.push(format!("machine {machine}: {why_machine}"));
    reasons.push(format!("network {network}: {why_network}"));
    let mut notices = engine.notices.clone();
    let second_best =
        request.accelerator == Choice::Auto && engine.accelerators.first().is_some_and(|best| best.name != accelerator);
    if second_best {
        let instead = if request.engine == Choice::Auto { container(candidates) } else { None };
        let instead = instead.map_or(String::new(), |name| format!("; --engine {name} {AT_ONCE}"));
        notices.push(format!("{accelerator_line}{instead}"));
    }
    if network == NetworkBackend::Slirp && !request.host_loopback {
        let open = "network slirp: the VM can reach services on this host's loopback, which slirp cannot close";
        notices.push(if request.network == Choice::Auto { format!("{open}; install passt") } else { open.to_owned() });
        reasons.extend(notices.last().cloned());
    }
    if network == NetworkBackend::None && request.network == Choice::Auto {
        notices.push(format!("network none: {why_network}"));
    }
    let vhost_user_network = engine.vhost_user_network;
    Ok(Decision { engine: name, accelerator, backend, machine, network, vhost_user_network, notices, reasons })
}

/// What an engine offers that shares the host's kernel.
const AT_ONCE: &str = "would start at once, and shares the host's kernel";

/// Returns the name of an engine that works and shares the host's kernel, if there is one.
fn container(candidates: &[Candidate]) -> Option<&'static str> {
    let shares = |candidate: &&Candidate| candidate.can.as_ref().is_ok_and(|can| can.shares_kernel);
    candidates.iter().find(shares).map(|candidate| candidate.engine)
}

fn choose_engine<'a>(
    candidates: &'a [Candidate],
    request: &RunRequest,
) -> Result<Chosen<(&'static str, &'a Capabilities)>, Failure> {
    if let Choice::Forced(forced) = &request.engine {
        let about = format!("--engine {forced}");
        let Some(candidate) = candidates.iter().find(|candidate| candidate.engine == forced) else {
            return Err(Failure::new(about, "this version of lamina does not have it"));
        };
        return match &candidate.can {
            Ok(can) => Ok(((candidate.engine, can), "asked for".to_owned())),
            Err(failure) => {
                let refused = Failure::new(about, failure.complaint());
                Err(failure.hint().map_or(refused.clone(), |hint| refused.with_hint(hint)))
            }
        };
    }
    // A shared kernel is weaker isolation, so it is asked for and never fallen back to.
    let usable = candidates.iter().filter_map(|candidate| Some((candidate.engine, candidate.can.as_ref().ok()?)));
    let mut usable = usable.filter(|(_, can)| !can.shares_kernel);
    if let Some(first) = usable.next() {
        return Ok((first, "the first that can be used here".to_owned()));
    }
    if let Some(name) = container(candidates) {
        let cause = candidates.iter().find_map(|candidate| Some(candidate.can.as_ref().err()?.complaint()));
        let cause = cause.unwrap_or_else(|| "no engine runs a VM here".to_owned());
        return Err(Failure::new("engine", cause).with_hint(format_args!("--engine {name} {AT_ONCE}")));
    }
    let first_failure = candidates.iter().find_map(|candidate| candidate.can.clone().err());
    Err(first_failure.unwrap_or_else(|| Failure::new("engine", "there is no engine to choose from")))
}

/// Returns one line for each engine that was examined but not chosen.
fn other_engines(candidates: &[Candidate], request: &RunRequest, taken: &str) -> Vec<String> {
    let others = candidates.iter().filter(|candidate| candidate.engine != taken);
    others
        .map(|other| match &other.can {
            Err(failure) => format!("not {}: {}", other.engine, failure.complaint()),
            Ok(can) if can.shares_kernel && request.engine == Choice::Auto => {
                format!("not {}: it shares the host's kernel, so it is only used if it is asked for", other.engine)
            }
            Ok(_) if request.engine == Choice::Auto => format!("not {}: {taken} is preferred", other.engine),
            Ok(_) => format!("not {}: {taken} was asked for", other.engine),
        })
        .collect()
}

/// The engine that runs VMs on every host.
const EMULATING: &str = "qemu";

/// The backends, the best first. A shared root stores nothing before the first start, and a copy is the last resort.
const BACKENDS: [Backend; 4] = [Backend::Direct, Backend::Virtiofsd, Backend::Block, Backend::Materialize];

/// The same, where a root on a disk is measured to be so much faster that it is worth its metadata.
const DISK_FIRST: [Backend; 4] = [Backend::Block, Backend::Direct, Backend::Virtiofsd, Backend::Materialize];

/// What can be chosen once the engine has been chosen.
struct Options<'a> {
    host: &'a HostCapabilities,
    name: &'static str,
    engine: &'a Capabilities,
    request: &'a RunRequest,
    /// As for the accelerator, once that has been chosen.
    root_by_disk: Option<&'static str>,
}

impl Options<'_> {
    /// Returns the backends, the best first.
    const fn backends(&self) -> [Backend; 4] {
        if self.root_by_disk.is_some() { DISK_FIRST } else { BACKENDS }
    }

    fn accelerator(&self) -> Result<Chosen<&'static str>, Failure> {
        let works = |name: &str| self.engine.accelerators.iter().find(|known| known.name == name);
        if let Choice::Forced(forced) = &self.request.accelerator {
            let about = format!("--accel {forced}");
            let Some(known) = works(forced) else {
                return Err(Failure::new(about, format_args!("{} does not have it", self.name)));
            };
            let Err(cause) = &known.works else { return Ok((known.name, "asked for".to_owned())) };
            let failure = Failure::new(about, cause);
            let other = self.engine.accelerators.iter().find(|other| other.name != known.name && other.works.is_ok());
            return Err(
                other.map_or(failure.clone(), |other| failure.with_hint(format_args!("use --accel {}", other.name)))
            );
        }
        let mut why_not = Vec::new();
        for accelerator in &self.engine.accelerators {
            match &accelerator.works {
                Ok(()) if why_not.is_empty() => return Ok((accelerator.name, "it runs a guest".to_owned())),
                Ok(()) => return Ok((accelerator.name, why_not.join("; "))),
                Err(cause) => why_not.push(format!("{} does not run a guest here ({cause})", accelerator.name)),
            }
        }
        Err(Failure::new(self.name, why_not.join("; ")))
    }

    /// Returns whether a backend can serve the root: its advantage, or what it lacks.
    fn can(&self, backend: Backend) -> Result<&'static str, String> {
        let (host, request) = (self.host, self.request);
        if self.engine.shares_kernel {
            return match backend {
                Backend::Direct if request.directory_root => Ok("the root is a directory"),
                Backend::Direct => Ok("the view is mounted in the container"),
                _ => Err("it serves a device, and a container has its root mounted".to_owned()),
            };
        }
        if request.directory_root && backend != Backend::Virtiofsd {
            return Err("it takes images, and the root is a directory".to_owned());
        }
        if backend != Backend::Block {
            self.engine.shares.clone()?;
        }
        match backend {
            Backend::Direct => Ok("no mount and no other program is needed"),
            Backend::Virtiofsd if request.directory_root => {
                host.virtiofsd.clone()?;
                Ok("the root is a directory")
            }
            Backend::Virtiofsd => {
                host.virtiofsd.clone()?;
                host.fuse.clone()?;
                Ok("the view is mounted by FUSE and shared by virtiofsd")
            }
            Backend::Block => {
                host.image_in_guest.clone()?;
                Ok(self.root_by_disk.unwrap_or("the guest mounts the image as a disk"))
            }
            Backend::Materialize => {
                host.virtiofsd.clone()?;
                Ok("the image is unpacked once for a base, and shared by virtiofsd")
            }
        }
    }

    fn backend(&self) -> Result<Chosen<Backend>, Failure> {
        if let Choice::Forced(forced) = self.request.backend {
            return match self.can(forced) {
                Ok(why) => Ok((forced, format!("asked for; {why}"))),
                Err(cause) => {
                    let usable = self.backends().into_iter().find(|other| self.can(*other).is_ok());
                    let failure = Failure::new(format_args!("--backend {forced}"), cause);
                    Err(usable
                        .map_or(failure.clone(), |other| failure.with_hint(format_args!("use --backend {other}"))))
                }
            };
        }
        let mut first_failure = None;
        for backend in self.backends() {
            match self.can(backend) {
                Ok(why) => return Ok((backend, why.to_owned())),
                // For a directory, only the failure of virtiofsd is of interest.
                Err(cause) if !self.request.directory_root || backend == Backend::Virtiofsd => {
                    first_failure.get_or_insert(Failure::new(format_args!("backend {backend}"), cause));
                }
                Err(_) => {}
            }
        }
        let failure = first_failure.unwrap_or_else(|| Failure::new("backend", "no backend can serve the root"));
        let by_another = self.request.directory_root && self.engine.shares.is_err();
        Err(if by_another { failure.with_hint(format_args!("use --engine {EMULATING}")) } else { failure })
    }

    /// Returns one line for each backend that was not chosen.
    fn other_backends(&self, taken: Backend) -> Vec<String> {
        let all = self.backends();
        let rank = |backend| all.iter().position(|known| *known == backend);
        let rest = all.into_iter().filter(|backend| *backend != taken);
        rest.map(|backend| match self.can(backend) {
            Err(cause) => format!("not {backend}: {cause}"),
            Ok(_) if rank(backend) < rank(taken) => format!("not {backend}: {taken} was asked for"),
            Ok(_) => format!("not {backend}: {taken} is preferred"),
        })
        .collect()
    }

    fn check_shares_and_disk(&self) -> Result<(), Failure> {
        if self.request.shares > 0
            && let Err(cause) = &self.engine.shares
        {
            return Err(Failure::new("-v", cause)
                .with_hint(format_args!("use --engine {EMULATING}, or copy files with lamina cp")));
        }
        match &self.host.disk_in_guest {
            Err(cause) if self.request.kept && !self.engine.shares_kernel => {
                Err(Failure::new("--keep", cause).with_hint("name another kernel with --kernel"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that guests have a driver for the network.
    fn with_driver(&self, network: NetworkBackend, why: String) -> Result<Chosen<NetworkBackend>, Failure> {
        match &self.host.network_in_guest {
            Ok(()) => Ok((network, why)),
            Err(_) if self.engine.shares_kernel => Ok((network, why)),
            Err(cause) => {
                Err(Failure::new("network", cause)
                    .with_hint("use --network none, or name another kernel with --kernel"))
            }
        }
    }

    /// Returns why an engine has no network at all.
    fn needs_tap(&self) -> String {
        format!(
            "a network card of {} needs a tap device, which only root can make (published ports need no network card)",
            self.name
        )
    }

    fn network(&self) -> Result<Chosen<NetworkBackend>, Failure> {
        use NetworkBackend::{Host, None, Passt, Slirp};
        let offers = |network| self.engine.networks.contains(&network);
        let passt = if self.engine.vhost_user_network { &self.host.passt_by_vhost_user } else { &self.host.passt };
        match self.request.network {
            Choice::Forced(None) if self.request.host_loopback => {
                Err(Failure::new("--host-loopback", "a guest without a network cannot reach this host")
                    .with_hint("leave out --network none"))
            }
            Choice::Forced(None) => Ok((None, "asked for".to_owned())),
            Choice::Forced(Host) if !offers(Host) => {
                Err(Failure::new("--network host", "a VM has a network of its own").with_hint(
                    "-p publishes its ports, and with --host-loopback it reaches this host at 10.0.2.2; or use --engine container",
                ))
            }
            Choice::Forced(Host) => Ok((Host, "asked for".to_owned())),
            Choice::Forced(forced) if !offers(forced) => {
                let about = format!("--network {forced}");
                Err(match self.engine.networks.is_empty() {
                    true => Failure::new(about, self.needs_tap()).with_hint("use --network none"),
                    false => Failure::new(about, format_args!("{} does not have it", self.name)),
                })
            }
            Choice::Forced(Passt) => match passt {
                Err(cause) if offers(Slirp) => {
                    Err(Failure::new("--network passt", cause).with_hint("use --network slirp, which needs no program"))
                }
                Err(cause) => Err(Failure::new("--network passt", cause)
                    .with_hint("use --network none; published ports need no network")),
                Ok(()) => self.with_driver(Passt, "asked for".to_owned()),
            },
            Choice::Forced(Slirp) => self.with_driver(Slirp, "asked for".to_owned()),
            Choice::Auto => {
                let why_not = match passt {
                    _ if self.engine.networks.is_empty() => self.needs_tap(),
                    _ if !offers(Passt) => format!("{} has no passt", self.name),
                    Ok(()) => return self.with_driver(Passt, "it closes the host's loopback to the VM".to_owned()),
                    Err(cause) => format!("passt cannot be used ({cause})"),
                };
                if offers(Slirp) {
                    self.with_driver(Slirp, why_not)
                } else if self.request.host_loopback {
                    Err(Failure::new("--host-loopback", why_not))
                } else {
                    Ok((None, why_not))
                }
            }
        }
    }

    fn machine(&self, accelerator: &str, network: NetworkBackend) -> Result<Chosen<&'static str>, Failure> {
        let request = self.request;
        let devices = request.shares + 1 + usize::from(request.kept) + usize::from(network != NetworkBackend::None);
        let fits = |machine: &MachineType| devices <= machine.most_devices;
        let room = |machine: &MachineType| {
            let most = machine.most_devices;
            format!(
                "it has room for {most} shares, the root, a disk and the network card among them, not for {devices}"
            )
        };
        let machines = &self.engine.machines;
        let way_out = "share a directory that holds the others";
        if let Choice::Forced(forced) = &request.machine {
            let about = format!("--machine {forced}");
            let Some(known) = machines.iter().find(|known| known.name == forced) else {
                return Err(Failure::new(about, format_args!("{} does not have it", self.name)));
            };
            if fits(known) {
                return Ok((known.name, "asked for".to_owned()));
            }
            let other = machines.iter().find(|other| fits(other));
            let or = other.map_or(String::new(), |other| format!(", or use --machine {}", other.name));
            return Err(Failure::new(about, room(known)).with_hint(format_args!("{way_out}{or}")));
        }
        let mut why_not = Vec::new();
        for machine in machines {
            let unfit = machine.unfit.iter().find(|(with, _)| *with == accelerator);
            match unfit {
                _ if !fits(machine) => why_not.push(room(machine).replacen("it", machine.name, 1)),
                Some((_, cause)) => why_not.push((*cause).to_owned()),
                None if why_not.is_empty() => return Ok((machine.name, machine.advantage.to_owned())),
                None => return Ok((machine.name, why_not.join("; "))),
            }
        }
        let roomiest = machines.iter().max_by_key(|machine| machine.most_devices);
        let cause = roomiest.map_or_else(|| "it has no machine type".to_owned(), room);
        Err(Failure::new("-v", cause).with_hint(way_out))
    }
}

#[cfg(test)]
mod tests;
