//! Landlock (`landlock(7)`): the kernel's rules about paths, TCP ports and other processes that need no namespaces. They
//! come on top of a root of its own, and replace it where the host permits none.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Confinement, Namespace};

/// The newest rules that are asked for. An older kernel enforces those of them that it knows.
const NEWEST: ABI = ABI::V6;

/// Restricts this process, and the program that it becomes, to the paths of `confinement`. Returns whether the kernel
/// enforces any of it.
pub(super) fn restrict(confinement: &Confinement) -> Result<bool, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if confinement.has(Namespace::Network) {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut rules = rules.create()?;
    let file = AccessFs::from_file(NEWEST);
    let proc: &[PathBuf] = if confinement.proc { &["/proc".into()] } else { &[] };
    let data = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    let allowed = [
        (confinement.readable.as_slice(), AccessFs::from_read(NEWEST)),
        (proc, data),
        (&confinement.writable, data),
        (confinement.directory.as_slice(), data),
        (&confinement.devices, file & !AccessFs::Execute),
    ];
    for (paths, access) in allowed {
        for path in paths {
            // A path that does not exist needs no rule.
            let Ok(opened) = PathFd::new(path) else { continue };
            // The kernel refuses rights of directories for a file.
            let access = if PathBuf::from(path).is_dir() { access } else { access & file };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// Whether this kernel has Landlock.
#[must_use]
pub(crate) fn is_available() -> bool {
    let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Execute);
    asked.and_then(Ruleset::create).is_ok()
}
