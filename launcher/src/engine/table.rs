//! The table of all engines.

use super::cloud_hypervisor::CloudHypervisor;
use super::container::Container;
use super::contract::{Capabilities, Engine, Host};
use super::firecracker::Firecracker;
use super::policy::Candidate;
use super::qemu::Qemu;
use super::request::{Choice, RunRequest};
use crate::failure::Failure;

/// All engines. `auto` takes the first one that can be used and whose guests have a kernel of their own.
pub(crate) static ENGINES: [&dyn Engine; 4] = [&Qemu, &CloudHypervisor, &Firecracker, &Container];

/// Finds the engine with this name.
///
/// # Errors
/// No engine has this name.
pub(crate) fn find(name: &str) -> Result<&'static dyn Engine, Failure> {
    let found = ENGINES.into_iter().find(|engine| engine.name() == name);
    found.ok_or_else(|| Failure::new(format_args!("engine {name}"), "this version of lamina does not have it"))
}

/// Returns whether `request` asks for an engine whose guests run on the host's kernel.
#[must_use]
pub(crate) fn forces_container(request: &RunRequest) -> bool {
    match &request.engine {
        Choice::Forced(name) => find(name).is_ok_and(Engine::shares_kernel),
        Choice::Auto => false,
    }
}

/// Probes the engines that `request` allows: only the forced one, or one after the other up to the first that can be
/// used. Probes all of them to explain the choice. Where the first one cannot do its best, probes also those that share
/// the host's kernel, which are then worth a hint.
///
/// # Errors
/// The probes were cancelled.
pub(crate) fn candidates(host: &Host<'_>, request: &RunRequest) -> Result<Vec<Candidate>, Failure> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for engine in ENGINES {
        let others = matches!(&request.engine, Choice::Forced(forced) if forced != engine.name());
        let enough = candidates.iter().any(|candidate| candidate.can.as_ref().is_ok_and(Capabilities::is_at_its_best));
        let known = candidates.iter().any(|candidate| candidate.can.is_ok());
        if !request.explain && (others || enough || known && !engine.shares_kernel()) {
            continue;
        }
        let can = engine.probe(host, request);
        (host.check)()?;
        candidates.push(Candidate { engine: engine.name(), can });
    }
    Ok(candidates)
}

/// Reads the choice of an engine.
///
/// # Errors
/// Lists what was expected.
pub(crate) fn parse_engine(text: &str) -> Result<Choice<String>, String> {
    // An empty variable asks for nothing.
    among(if text.is_empty() { "auto" } else { text }, ENGINES.into_iter().map(Engine::name))
}

/// Reads the choice of an accelerator.
///
/// # Errors
/// Lists what was expected.
pub(crate) fn parse_accelerator(text: &str) -> Result<Choice<String>, String> {
    among(text, ENGINES.into_iter().flat_map(Engine::accelerators).copied())
}

/// Reads the choice of a machine type.
///
/// # Errors
/// Lists what was expected.
pub(crate) fn parse_machine(text: &str) -> Result<Choice<String>, String> {
    among(text, ENGINES.into_iter().flat_map(Engine::machines).copied())
}

fn among(text: &str, names: impl Iterator<Item = &'static str>) -> Result<Choice<String>, String> {
    let mut once: Vec<&str> = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    Choice::read(text, once.into_iter().map(|name| (name, name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_engines_can_be_chosen_and_no_others() {
        for engine in ENGINES {
            assert_eq!(parse_engine(engine.name()), Ok(Choice::Forced(engine.name().to_owned())));
            assert_eq!(find(engine.name()).unwrap().name(), engine.name());
        }
        assert_eq!(parse_accelerator("auto"), Ok(Choice::Auto));
        assert_eq!(parse_accelerator("abacus"), Err("expected auto, kvm, tcg, host, single-id".to_owned()));
        assert_eq!(
            parse_machine("pdp11"),
            Err("expected auto, microvm, q35, overlay, fuse-overlayfs, read-only".to_owned())
        );
        assert!(find("bochs").unwrap_err().to_string().contains("engine bochs"));
    }
}
