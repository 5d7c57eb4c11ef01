//! All snapshots, by name.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
pub(crate) struct Table {
    snapshots: BTreeMap<String, Snapshot>,
    /// Names of snapshots that are being made or removed, each with the name of its parent.
    reserved: BTreeMap<String, String>,
}

/// A name that nothing else can get, for a snapshot that is being made or removed. Its parent cannot be removed meanwhile.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    table: &'a Mutex<Table>,
    pub(crate) name: String,
    is_filled: bool,
}

impl<'a> Reservation<'a> {
    /// Reserves the name that `choose` returns for what is in the table now. Returns the record of the parent too, if there is
    /// a parent.
    pub(crate) fn new(
        table: &'a Mutex<Table>,
        parent: &str,
        choose: impl FnOnce(&Table) -> String,
    ) -> Result<(Self, Option<Record>), Error> {
        let mut locked = lock(table);
        let below = if parent.is_empty() { None } else { Some(locked.committed(parent)?.clone()) };
        let name = choose(&locked);
        locked.must_be_free(&name)?;
        locked.reserved.insert(name.clone(), parent.to_owned());
        Ok((Self { table, name, is_filled: false }, below))
    }

    /// Takes a snapshot that is to be removed out of the table. Its name stays reserved, so its parent cannot be removed
    /// before it is.
    pub(crate) fn taking(table: &'a Mutex<Table>, name: &str) -> Result<(Self, Snapshot), Error> {
        let mut locked = lock(table);
        let snapshot = locked.get(name)?.clone();
        if locked.has_children(name) {
            return Err(Error::Precondition { name: name.to_owned(), cause: "has snapshots on top of it" });
        }
        locked.remove(name);
        locked.reserved.insert(name.to_owned(), snapshot.record.parent.clone());
        Ok((Self { table, name: name.to_owned(), is_filled: false }, snapshot))
    }

    /// Adds the snapshot with this name. One named `replaced` disappears at the same moment.
    pub(crate) fn fill(mut self, snapshot: Snapshot, replaced: Option<&str>) {
        let mut table = lock(self.table);
        table.reserved.remove(&self.name);
        if let Some(replaced) = replaced {
            table.remove(replaced);
        }
        table.put(snapshot);
        self.is_filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            lock(self.table).reserved.remove(&self.name);
        }
    }
}

pub(crate) fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Takes snapshots by id.
    pub(crate) fn new(snapshots: BTreeMap<String, Record>) -> Self {
        let named = |(id, record): (String, Record)| (record.name.clone(), Snapshot { id, record });
        Self { snapshots: snapshots.into_iter().map(named).collect(), reserved: BTreeMap::new() }
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Snapshot, Error> {
        self.snapshots.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
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

    /// Whether a snapshot is made on this one, or is being made.
    pub(crate) fn has_children(&self, name: &str) -> bool {
        self.records().any(|record| record.parent == name) || self.reserved.values().any(|parent| parent == name)
    }

    /// Whether a snapshot is mounted from the view of this base.
    pub(crate) fn uses(&self, base: &BaseId) -> bool {
        let mounted = self.records().filter(|record| record.kind != Kind::Committed && !record.layers.is_empty());
        mounted.into_iter().any(|record| BaseId::of(&record.layers, &[]) == *base)
    }

    pub(crate) fn must_be_free(&self, name: &str) -> Result<(), Error> {
        if self.is_taken(name) { Err(Error::Exists(name.to_owned())) } else { Ok(()) }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.snapshots.contains_key(name) || self.reserved.contains_key(name)
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
        names.find(|name| !self.is_taken(name)).unwrap_or(name)
    }

    /// Adds a snapshot, or replaces the one with its name.
    pub(crate) fn put(&mut self, snapshot: Snapshot) {
        self.snapshots.insert(snapshot.record.name.clone(), snapshot);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.snapshots.remove(name);
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.snapshots.values().map(|snapshot| &snapshot.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(snapshots: &[(&str, &str, Kind)]) -> Table {
        let mut table = Table::default();
        for &(name, parent, kind) in snapshots {
            table.put(Snapshot { id: name.into(), record: Record::new(name, parent, kind, BTreeMap::new()) });
        }
        table
    }

    #[test]
    fn ready_layers_are_named_as_containerd_names_what_it_commits() {
        let mut table = Table::default();
        assert_eq!(table.free_name("default/7/extract-1 sha256:x", "sha256:x"), "default/7/sha256:x");
        assert_eq!(table.free_name("key", "sha256:x"), "sha256:x");
        let record = Record::new("default/7/sha256:x", "", Kind::Committed, BTreeMap::new());
        table.put(Snapshot { id: "1".into(), record });
        assert_eq!(table.free_name("default/7/a/b", "sha256:x"), "default/7/sha256:x#2");
    }

    #[test]
    fn only_committed_snapshots_are_parents_and_those_with_children_are_known() {
        let table = table(&[("a", "", Kind::Committed), ("b", "a", Kind::Active)]);
        assert!(table.committed("a").is_ok() && table.has_children("a") && !table.has_children("b"));
        assert!(matches!(table.committed("b"), Err(Error::Precondition { .. })));
        assert!(matches!(table.committed("c"), Err(Error::NotFound(_))));
        assert!(matches!(table.must_be_free("a"), Err(Error::Exists(_))));
    }

    #[test]
    fn a_reserved_name_is_taken_and_its_parent_has_a_child_until_the_reservation_ends() {
        let table = Mutex::new(table(&[("a", "", Kind::Committed), ("key", "a", Kind::Active)]));
        let reserve = |name: &str| Reservation::new(&table, "a", |_| name.to_owned());
        let (first, below) = reserve("b").unwrap();
        assert_eq!(below.unwrap().name, "a");
        assert!(matches!(reserve("b"), Err(Error::Exists(_))));
        assert!(lock(&table).free_name("x", "b") == "b#2" && lock(&table).get("b").is_err());
        lock(&table).remove("key");
        assert!(lock(&table).has_children("a"), "the reserved one");
        drop(first);
        assert!(!lock(&table).has_children("a"));
        let (second, _) = reserve("b").unwrap();
        let record = Record::new("b", "a", Kind::Committed, BTreeMap::new());
        lock(&table).put(Snapshot { id: "1".into(), record: Record::new("key", "a", Kind::Active, BTreeMap::new()) });
        second.fill(Snapshot { id: "1".into(), record }, Some("key"));
        assert!(lock(&table).get("b").is_ok() && lock(&table).get("key").is_err());
        assert!(matches!(Reservation::new(&table, "none", |_| "c".into()), Err(Error::NotFound(_))));
    }
}
