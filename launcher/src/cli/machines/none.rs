//! A system that runs no machines.

use std::collections::HashSet;

use serde_json::Value;

use crate::cli::needs_linux;
use crate::failure::Failure;

/// There is no machine.
pub(in crate::cli) enum Machine {}

/// Fails, because machines need Linux.
pub(in crate::cli) fn find(name: &str) -> Result<Machine, Failure> {
    Err(Failure::new(format_args!("machine {name}"), "machines need Linux").with_hint(needs_linux::REMEDY))
}

/// Returns nothing.
pub(in crate::cli) fn named(_word: &str) -> Option<Machine> {
    None
}

/// Returns nothing.
pub(in crate::cli) fn images_in_use() -> Result<HashSet<String>, Failure> {
    Ok(HashSet::new())
}

pub(in crate::cli) fn inspected(machine: &Machine) -> Result<Value, Failure> {
    match *machine {}
}

pub(in crate::cli) fn print_json(machine: &Machine) -> Result<(), Failure> {
    match *machine {}
}

pub(in crate::cli) fn print_text(machine: &Machine) -> Result<(), Failure> {
    match *machine {}
}
