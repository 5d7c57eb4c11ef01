//! Which parts of a confinement a host permits.

use serde::{Deserialize, Serialize};

use super::Namespace;

/// What this host permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Support {
    /// The namespaces that work.
    pub(crate) namespaces: Vec<Namespace>,
    /// Whether the kernel has Landlock.
    pub(crate) landlock: bool,
    /// Whether the program filters its own system calls as well.
    pub(crate) own_filter: bool,
    /// What does not work. Landlock is not counted, because a root of its own does what it does.
    pub(crate) lacks: Vec<Lack>,
}

/// A part of the confinement that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lack {
    /// The part, such as "no network namespace".
    pub(crate) part: String,
    /// Why it is missing.
    pub(crate) cause: String,
    /// What would mend it.
    pub(crate) remedy: String,
}

impl Support {
    /// Returns what confines a program, for people.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let names: Vec<&str> = self.namespaces.iter().map(|namespace| namespace.name()).collect();
        let mut parts = Vec::new();
        match names.as_slice() {
            [] => {}
            [one] => parts.push(format!("a {one} namespace")),
            [first @ .., last] => parts.push(format!("{} and {last} namespaces", first.join(", "))),
        }
        if self.namespaces.contains(&Namespace::Mount) {
            parts.push("a root with only its own files".to_owned());
        }
        if self.landlock {
            parts.push("Landlock".to_owned());
        }
        let filters = if self.own_filter { "two filters" } else { "a filter" };
        parts.push(format!("no privileges, limits, {filters} of system calls"));
        parts.join(", ")
    }
}
