//! The calls of the snapshots service, on records, views and the store.
//!
//! A snapshot on layers is an overlay whose only lower directory is the view of the whole stack. A layer that the store has
//! is ready without being unpacked; one that containerd unpacks itself becomes a layer of the store when it is committed,
//! named by what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use layer_store::{DiffId, Digest, Footprint, Store};

use crate::busy::Busy;
use crate::error::Error;
use crate::filter::Filters;
use crate::garbage::Garbage;
use crate::heal;
use crate::record::{Kind, Moment, REF, Record};
use crate::state::{CommitError, State};
use crate::store::StoreOptions;
use crate::table::{self, Reservation, Snapshot, Table};
use crate::upper::{self, RootAttributes};
use crate::views::{IDLE, Views};
use crate::{chain, mounts};

/// Labels of a snapshot.
pub(crate) type Labels = BTreeMap<String, String>;

/// The snapshotter.
#[derive(Debug)]
pub(crate) struct Snapshotter {
    state: State,
    views: Views,
    store: StoreOptions,
    table: Mutex<Table>,
    /// Names of snapshots that a call changes, commits or removes.
    changing: Busy,
    /// Layers of the store that become snapshots: two pulls of one image make one.
    readying: Busy,
    garbage: Garbage,
}

impl Snapshotter {
    /// Opens the state in `root`, and takes over the views below `run`.
    pub(crate) fn open(root: &Path, run: &Path, store: StoreOptions) -> Result<Self, Error> {
        let state = State::open(root)?;
        let snapshots = heal::healed(&state, &store.open()?, state.load()?)?;
        let views = Views::open(&run.join("views"), store.clone())?;
        Ok(Self {
            state,
            views,
            store,
            table: Mutex::new(Table::new(snapshots)),
            changing: Busy::default(),
            readying: Busy::default(),
            garbage: Garbage::expected(),
        })
    }

    /// Makes an active snapshot. If the labels say which layers are to be unpacked into it and the store has them, they are
    /// committed instead, and the error is [`Error::Exists`].
    pub(crate) fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<mounts::Mount>, Error> {
        if let Some(target) = labels.get(REF)
            && self.commit_ready(key, parent, target, &labels)?
        {
            return Err(Error::Exists(target.clone()));
        }
        self.make(key, parent, Kind::Active, labels)
    }

    /// Makes a snapshot that can only be read.
    pub(crate) fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<mounts::Mount>, Error> {
        self.make(key, parent, Kind::View, labels)
    }

    /// Returns the mounts of an active snapshot or a view.
    pub(crate) fn mounts(&self, key: &str) -> Result<Vec<mounts::Mount>, Error> {
        let snapshot = self.table().get(key)?.clone();
        if snapshot.record.kind == Kind::Committed {
            return Err(Error::Precondition { name: key.to_owned(), cause: "is committed, so it has no mounts" });
        }
        let lower = self.lower(&snapshot)?;
        Ok(self.describe(&snapshot, lower))
    }

    /// Makes a layer of what was written to an active snapshot, which becomes the committed snapshot `name`. To repeat a
    /// commit that was carried out changes nothing.
    pub(crate) fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<(), Error> {
        // A repeated call waits for the first one.
        let _turn = self.changing.wait_for(key);
        let snapshot = {
            let table = self.table();
            match table.get(key) {
                Ok(snapshot) => snapshot.clone(),
                Err(_) if table.get(name).is_ok_and(|made| made.record.made_of == key) => return Ok(()),
                Err(error) => return Err(error),
            }
        };
        if snapshot.record.kind != Kind::Active {
            return Err(Error::Precondition {
                name: key.to_owned(),
                cause: "is not active, so it cannot be committed",
            });
        }
        let (reservation, _) = Reservation::new(&self.table, "", |_| name.to_owned())?;
        let store = self.store.open()?.with_purpose("containerd, which adds a layer");
        let pinned = self.add_layer(&store, &reservation.name, &snapshot, labels).and_then(|record| {
            heal::pin(&self.state, &store, &snapshot.id, &record)?;
            Ok(record)
        });
        let committed = pinned.map_err(CommitError::Undone).and_then(|record| {
            self.state.save_commit(&snapshot.id, &record, &snapshot.record)?;
            Ok(record)
        });
        match committed {
            Ok(record) => reservation.fill(Snapshot { id: snapshot.id.clone(), record }, Some(key)),
            Err(CommitError::Undone(error)) => {
                // Nothing else needs the layer, if there is one.
                self.garbage.expect();
                if let Err(error) = self.unpin(&store, &snapshot.id) {
                    tracing::warn!("{error}");
                }
                return Err(error);
            }
            // The pin stays: if the record says "committed" after a restart, what was written is only in the layer.
            Err(CommitError::Unknown(error)) => return Err(error),
        }
        self.state.drop_upper(&snapshot.id);
        Ok(())
    }

    /// Adds a layer of what was written to `snapshot` to the store. Returns the record of the committed snapshot.
    fn add_layer(&self, store: &Store, name: &str, snapshot: &Snapshot, mut labels: Labels) -> Result<Record, Error> {
        let Snapshot { id, record } = snapshot;
        let below = match record.layers.is_empty() {
            true => RootAttributes::NEW,
            false => RootAttributes::of(&self.views.ensure(&record.layers)?)?,
        };
        let layer = upper::add_layer(store, &self.state.upper(id), below)?;
        if let Some(target) = chain::in_name(name) {
            // The next image with these layers, also in another namespace, finds them by it.
            labels.entry(REF.to_owned()).or_insert_with(|| target.to_string());
        }
        Ok(Record {
            name: name.to_owned(),
            kind: Kind::Committed,
            updated: Moment::now(),
            labels,
            layers: record.layers.iter().copied().chain([layer]).collect(),
            made_of: record.name.clone(),
            ..record.clone()
        })
    }

    /// Removes a snapshot. What only it needed of the store is freed by [`Snapshotter::cleanup`].
    pub(crate) fn remove(&self, key: &str) -> Result<(), Error> {
        // A commit of it ends first.
        let _turn = self.changing.wait_for(key);
        let (reservation, snapshot) = Reservation::taking(&self.table, key)?;
        if let Err(error) = self.state.retire(&snapshot.id) {
            reservation.fill(snapshot, None);
            return Err(error);
        }
        drop(reservation);
        let Snapshot { id, record } = snapshot;
        // Also one whose parent was lost.
        let may_free = record.kind == Kind::Committed || self.table().committed(&record.parent).is_err();
        self.delete(&id);
        if may_free {
            self.garbage.expect();
        }
        Ok(())
    }

    /// Deletes a snapshot that was taken away, with its pin. If the pin stays, so does the directory: the next start would
    /// make the snapshot again from a pin alone.
    fn delete(&self, id: &str) {
        match self.store.open().map_err(Error::from).and_then(|store| self.unpin(&store, id)) {
            Ok(()) => self.state.delete(id),
            Err(error) => {
                self.garbage.expect();
                tracing::warn!("{error}; the next collection tries again to free what a removed snapshot needed");
            }
        }
    }

    fn unpin(&self, store: &Store, id: &str) -> Result<(), Error> {
        Ok(store.pins().remove(&self.state.directory(id))?)
    }

    /// Returns what is known about a snapshot.
    pub(crate) fn stat(&self, key: &str) -> Result<Record, Error> {
        Ok(self.table().get(key)?.record.clone())
    }

    /// Changes the labels of a snapshot.
    pub(crate) fn update(&self, key: &str, change: impl FnOnce(&mut Labels)) -> Result<Record, Error> {
        let _turn = self.changing.wait_for(key);
        let Snapshot { id, mut record } = self.table().get(key)?.clone();
        change(&mut record.labels);
        record.updated = Moment::now();
        if record.kind == Kind::Committed {
            heal::pin(&self.state, &self.store.open()?, &id, &record)?;
        }
        self.state.save(&id, &record)?;
        self.table().put(Snapshot { id, record: record.clone() });
        Ok(record)
    }

    /// Returns the snapshots that the filters match.
    pub(crate) fn list(&self, filters: &Filters) -> Vec<Record> {
        self.table().records().filter(|record| filters.matches(*record)).cloned().collect()
    }

    /// Returns what a snapshot itself takes: the layer of a committed one, or what was written to another one.
    pub(crate) fn usage(&self, key: &str) -> Result<Footprint, Error> {
        let snapshot = self.table().get(key)?.clone();
        match (snapshot.record.kind, snapshot.record.layers.last()) {
            (Kind::Committed, Some(layer)) => Ok(self.store.open()?.layers().footprint(layer)?),
            (Kind::Committed, None) => Ok(Footprint::default()),
            (Kind::Active | Kind::View, _) => {
                let (on_disk, inodes) = upper::usage(&self.state.upper(&snapshot.id))?;
                Ok(Footprint { on_disk, inodes })
            }
        }
    }

    /// Frees what removed snapshots needed of the store, if nothing else needs it. containerd calls this at the end of its
    /// own garbage collection. Idle views are unmounted first: they would hold their layers.
    pub(crate) fn cleanup(&self) -> Result<(), Error> {
        self.collect(|| self.close_unused(Duration::ZERO)).map(drop)
    }

    /// Unmounts views that were not used for a while, and frees what has become garbage without a call of containerd. Returns
    /// whether no removed snapshot is left that could not be deleted.
    pub(crate) fn tidy(&self) -> Result<bool, Error> {
        self.close_unused(IDLE);
        self.collect(|| ())
    }

    fn collect(&self, prepare: impl FnOnce()) -> Result<bool, Error> {
        let mut all_deleted = true;
        let prepare = |store: &Store| {
            prepare();
            // A pin that could not be removed with its snapshot.
            all_deleted = self.state.finish_removals(|id| self.unpin(store, id))?.is_empty();
            Ok(())
        };
        self.garbage.collect(&self.store, prepare, |base| self.table().uses(base))?;
        if !all_deleted {
            self.garbage.expect();
        }
        Ok(all_deleted)
    }

    fn close_unused(&self, idle: Duration) {
        self.views.close_unused(idle, |base| self.table().uses(base));
    }

    /// Commits the layers with the chain id `target` if the store has them. Returns whether they are committed now.
    fn commit_ready(&self, key: &str, parent: &str, target: &str, labels: &Labels) -> Result<bool, Error> {
        let Ok(chain) = target.parse::<Digest>() else { return Ok(false) };
        let _turn = self.readying.wait_for(&format!("{target} on {parent}"));
        if self.table().has_committed(target, parent) {
            return Ok(true);
        }
        let (reservation, below) = Reservation::new(&self.table, parent, |table| table.free_name(key, target))?;
        let (mut layers, chain_below) =
            below.map_or_else(Default::default, |below| (below.layers.clone(), below.chain()));
        if !layers.is_empty() && chain_below.is_none() {
            return Ok(false);
        }
        let store = self.store.open()?.with_purpose("containerd, which uses layers of an image");
        let Some(layer) = chain::find(&store, chain_below.as_ref(), &chain)? else { return Ok(false) };
        layers.push(layer);
        let record = Record { layers, ..Record::new(&reservation.name, parent, Kind::Committed, labels.clone()) };
        let id = State::new_id();
        self.state.create(&id, &record, |_| Ok(()))?;
        if let Err(error) = heal::pin(&self.state, &store, &id, &record) {
            self.discard(&id);
            return Err(error);
        }
        reservation.fill(Snapshot { id, record }, None);
        Ok(true)
    }

    fn make(&self, key: &str, parent: &str, kind: Kind, labels: Labels) -> Result<Vec<mounts::Mount>, Error> {
        let (reservation, below) = Reservation::new(&self.table, parent, |_| key.to_owned())?;
        let layers: Vec<DiffId> = below.map_or_else(Vec::new, |below| below.layers);
        let snapshot =
            Snapshot { id: State::new_id(), record: Record { layers, ..Record::new(key, parent, kind, labels) } };
        self.state.create(&snapshot.id, &snapshot.record, |_| Ok(()))?;
        // From now on its view is in use.
        reservation.fill(snapshot.clone(), None);
        let mounts = self.lower(&snapshot).and_then(|lower| {
            if let (Kind::Active, Some(lower)) = (kind, &lower) {
                // The root of the upper directory hides the one below it.
                RootAttributes::of(lower)?.give_to(&self.state.upper(&snapshot.id))?;
            }
            Ok(self.describe(&snapshot, lower))
        });
        if mounts.is_err() {
            let _turn = self.changing.wait_for(key);
            let is_there = self.table().get(key).is_ok_and(|found| found.id == snapshot.id);
            if is_there {
                self.table().remove(key);
                self.discard(&snapshot.id);
            }
        }
        mounts
    }

    /// Returns the view below a snapshot, mounted, if it has layers.
    fn lower(&self, snapshot: &Snapshot) -> Result<Option<PathBuf>, Error> {
        match snapshot.record.layers.as_slice() {
            [] => Ok(None),
            layers => self.views.ensure(layers).map(Some),
        }
    }

    fn describe(&self, snapshot: &Snapshot, lower: Option<PathBuf>) -> Vec<mounts::Mount> {
        let upper = self.state.upper(&snapshot.id);
        vec![match (snapshot.record.kind, lower) {
            (Kind::Active, Some(lower)) => mounts::overlay(&lower, &upper, &self.state.work(&snapshot.id)),
            (Kind::Active, None) => mounts::bind(&upper, true),
            (Kind::View | Kind::Committed, lower) => mounts::bind(&lower.unwrap_or(upper), false),
        }]
    }

    /// Removes a snapshot that is not in the table.
    fn discard(&self, id: &str) {
        match self.state.retire(id) {
            Ok(()) => self.delete(id),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        table::lock(&self.table)
    }
}

#[cfg(test)]
mod tests;
