//! All snapshots, by name.

use std::collections::BTreeMap;

use layer_store::BaseId;

use crate::error::Error;
use crate::record::{Kind, REF, Record};

/// A snapshot and its id in the directory of the state.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) record: Record,
}

/// The snapshots of one snapshotter.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<String, Snapshot>);

impl Table {
    /// Takes snapshots by id.
    pub(crate) fn new(snapshots: BTreeMap<String, Record>) -> Self {
        let named = |(id, record): (String, Record)| (record.name.clone(), Snapshot { id, record });
        Self(snapshots.into_iter().map(named).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Snapshot, Error> {
        self.0.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    /// Returns a snapshot on which others can be made.
    pub(crate) fn committed(&self, name: &str) -> Result<&Record, Error> {
        let found = &self.get(name)?.record;
        match found.kind {
            Kind::Committed => Ok(found),
            _ => {
                Err(Error::Precondition { name: name.to_owned(), cause: "is not committed, so it cannot be a parent" })
            }
        }
    }

    /// Whether the layers with the chain id `target` on this parent are committed.
    pub(crate) fn has_committed(&self, target: &str, parent: &str) -> bool {
        self.records().any(|record| {
            let has_target = record.labels.get(REF).is_some_and(|own| own == target);
            has_target && record.kind == Kind::Committed && record.parent == parent
        })
    }

    pub(crate) fn has_children(&self, name: &str) -> bool {
        self.records().any(|record| record.parent == name)
    }

    /// Whether a snapshot is mounted from the view of this base.
    pub(crate) fn uses(&self, base: &BaseId) -> bool {
        let mounted = self.records().filter(|record| record.kind != Kind::Committed && !record.layers.is_empty());
        mounted.into_iter().any(|record| BaseId::of(&record.layers, &[]) == *base)
    }

    pub(crate) fn must_be_free(&self, name: &str) -> Result<(), Error> {
        if self.0.contains_key(name) { Err(Error::Exists(name.to_owned())) } else { Ok(()) }
    }

    /// Returns the name under which the layers `target` are committed: as containerd names what it commits itself
    /// (`<namespace>/<number>/<target>`), where `key` is the key of the call. containerd asks for the name that was chosen.
    pub(crate) fn free_name(&self, key: &str, target: &str) -> String {
        let prefix: Vec<&str> = key.splitn(3, '/').collect();
        let name = match prefix[..] {
            [namespace, number, _] => format!("{namespace}/{number}/{target}"),
            _ => target.to_owned(),
        };
        // A name is taken if containerd has lost its own state and counts from 1 again.
        let others = (2..).map(|number| format!("{name}#{number}"));
        let mut names = std::iter::once(name.clone()).chain(others);
        names.find(|name| !self.0.contains_key(name)).unwrap_or(name)
    }

    pub(crate) fn insert(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        self.must_be_free(&snapshot.record.name)?;
        self.0.insert(snapshot.record.name.clone(), snapshot);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.values().map(|snapshot| &snapshot.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_layers_are_named_as_containerd_names_what_it_commits() {
        let mut table = Table::default();
        assert_eq!(table.free_name("default/7/extract-1 sha256:x", "sha256:x"), "default/7/sha256:x");
        assert_eq!(table.free_name("key", "sha256:x"), "sha256:x");
        let record = Record::new("default/7/sha256:x", "", Kind::Committed, BTreeMap::new());
        table.insert(Snapshot { id: "1".into(), record }).unwrap();
        assert_eq!(table.free_name("default/7/a/b", "sha256:x"), "default/7/sha256:x#2");
    }

    #[test]
    fn only_committed_snapshots_are_parents_and_those_with_children_are_known() {
        let mut table = Table::default();
        for (name, parent, kind) in [("a", "", Kind::Committed), ("b", "a", Kind::Active)] {
            let record = Record::new(name, parent, kind, BTreeMap::new());
            table.insert(Snapshot { id: name.into(), record }).unwrap();
        }
        assert!(table.committed("a").is_ok() && table.has_children("a") && !table.has_children("b"));
        assert!(matches!(table.committed("b"), Err(Error::Precondition { .. })));
        assert!(matches!(table.committed("c"), Err(Error::NotFound(_))));
        let again = Snapshot { id: "3".into(), record: Record::new("a", "", Kind::View, BTreeMap::new()) };
        assert!(matches!(table.insert(again), Err(Error::Exists(_))));
    }
}
