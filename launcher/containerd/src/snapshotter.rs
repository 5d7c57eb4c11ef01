//! The calls of the snapshots service, on records, views and the store.
//!
//! A snapshot on layers is an overlay whose only lower directory is the view of the whole stack. A layer that the store has
//! is ready without being unpacked; one that containerd unpacks itself becomes a layer of the store when it is committed,
//! named by what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use layer_store::{DiffId, Digest, Footprint};

use crate::error::Error;
use crate::filter::Filters;
use crate::heal;
use crate::record::{Kind, Moment, REF, Record};
use crate::state::State;
use crate::store::StoreOptions;
use crate::table::{Snapshot, Table};
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
    /// Held while a layer that the store has becomes a snapshot: two pulls of one image make one.
    readying: Mutex<()>,
    /// Whether layers may have become garbage.
    has_garbage: AtomicBool,
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
            readying: Mutex::default(),
            // What a killed process has removed may not have been collected.
            has_garbage: AtomicBool::new(true),
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

    /// Makes a layer of what was written to an active snapshot, which becomes the committed snapshot `name`.
    pub(crate) fn commit(&self, name: &str, key: &str, mut labels: Labels) -> Result<(), Error> {
        let snapshot = self.table().get(key)?.clone();
        if snapshot.record.kind != Kind::Active {
            return Err(Error::Precondition {
                name: key.to_owned(),
                cause: "is not active, so it cannot be committed",
            });
        }
        self.table().must_be_free(name)?;
        let store = self.store.open()?.with_purpose("containerd, which adds a layer");
        let below = match snapshot.record.layers.is_empty() {
            true => RootAttributes::NEW,
            false => RootAttributes::of(&self.views.ensure(&snapshot.record.layers)?)?,
        };
        let layer = upper::add_layer(&store, &self.state.upper(&snapshot.id), below)?;
        if let Some(target) = chain::in_name(name) {
            // The next image with these layers, also in another namespace, finds them by it.
            labels.entry(REF.to_owned()).or_insert_with(|| target.to_string());
        }
        let layers = snapshot.record.layers.iter().copied().chain([layer]).collect();
        let now = Moment::now();
        let record =
            Record { name: name.to_owned(), kind: Kind::Committed, updated: now, labels, layers, ..snapshot.record };
        heal::pin(&self.state, &store, &snapshot.id, &record)?;
        {
            let mut table = self.table();
            // Another call may have committed or removed it meanwhile.
            if table.get(key)?.id != snapshot.id {
                return Err(Error::NotFound(key.to_owned()));
            }
            table.must_be_free(name)?;
            self.state.save(&snapshot.id, &record)?;
            table.remove(key);
            table.insert(Snapshot { id: snapshot.id.clone(), record })?;
        }
        self.state.drop_upper(&snapshot.id);
        Ok(())
    }

    /// Removes a snapshot. What only it needed of the store is freed by [`Snapshotter::cleanup`].
    pub(crate) fn remove(&self, key: &str) -> Result<(), Error> {
        let snapshot = {
            let mut table = self.table();
            let snapshot = table.get(key)?.clone();
            if table.has_children(key) {
                return Err(Error::Precondition { name: key.to_owned(), cause: "has snapshots on top of it" });
            }
            self.state.retire(&snapshot.id)?;
            table.remove(key);
            snapshot
        };
        let store = self.store.open()?;
        // A commit that was interrupted leaves a pin of an active snapshot.
        store.pins().remove(&self.state.directory(&snapshot.id))?;
        self.state.delete(&snapshot.id);
        self.has_garbage.fetch_or(snapshot.record.kind == Kind::Committed, Ordering::Relaxed);
        Ok(())
    }

    /// Returns what is known about a snapshot.
    pub(crate) fn stat(&self, key: &str) -> Result<Record, Error> {
        Ok(self.table().get(key)?.record.clone())
    }

    /// Changes the labels of a snapshot.
    pub(crate) fn update(&self, key: &str, change: impl FnOnce(&mut Labels)) -> Result<Record, Error> {
        let mut table = self.table();
        let snapshot = table.get(key)?.clone();
        let mut record = snapshot.record;
        change(&mut record.labels);
        record.updated = Moment::now();
        if record.kind == Kind::Committed {
            heal::pin(&self.state, &self.store.open()?, &snapshot.id, &record)?;
        }
        self.state.save(&snapshot.id, &record)?;
        table.remove(key);
        table.insert(Snapshot { id: snapshot.id, record: record.clone() })?;
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
    /// own garbage collection.
    pub(crate) fn cleanup(&self) -> Result<(), Error> {
        if !self.has_garbage.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // An idle view would hold its layers.
        self.close_unused(Duration::ZERO);
        let collected = self.store.open()?.collect(false);
        if collected.is_err() {
            self.has_garbage.store(true, Ordering::Relaxed);
        }
        let collected = collected?;
        tracing::info!("freed {} bytes of the store", collected.bytes);
        Ok(())
    }

    /// Unmounts views that were not used for a while.
    pub(crate) fn close_idle(&self) {
        self.close_unused(IDLE);
    }

    fn close_unused(&self, idle: Duration) {
        self.views.close_unused(idle, |base| self.table().uses(base));
    }

    /// Commits the layers with the chain id `target` if the store has them. Returns whether they are committed now.
    fn commit_ready(&self, key: &str, parent: &str, target: &str, labels: &Labels) -> Result<bool, Error> {
        let Ok(chain) = target.parse::<Digest>() else { return Ok(false) };
        let _one_at_a_time = self.readying.lock().unwrap_or_else(PoisonError::into_inner);
        let below = {
            let table = self.table();
            if table.has_committed(target, parent) {
                return Ok(true);
            }
            match parent {
                "" => None,
                parent => Some(table.committed(parent)?.clone()),
            }
        };
        let (mut layers, chain_below) =
            below.map_or_else(Default::default, |below| (below.layers.clone(), below.chain()));
        if !layers.is_empty() && chain_below.is_none() {
            return Ok(false);
        }
        let store = self.store.open()?.with_purpose("containerd, which uses layers of an image");
        let Some(layer) = chain::find(&store, chain_below.as_ref(), &chain)? else { return Ok(false) };
        layers.push(layer);
        let name = self.table().free_name(key, target);
        let record = Record { layers, ..Record::new(&name, parent, Kind::Committed, labels.clone()) };
        let id = State::new_id();
        self.state.create(&id, &record, |_| Ok(()))?;
        if let Err(error) = heal::pin(&self.state, &store, &id, &record) {
            self.discard(&id);
            return Err(error);
        }
        self.table().insert(Snapshot { id, record })?;
        Ok(true)
    }

    fn make(&self, key: &str, parent: &str, kind: Kind, labels: Labels) -> Result<Vec<mounts::Mount>, Error> {
        let layers: Vec<DiffId> = {
            let table = self.table();
            table.must_be_free(key)?;
            if parent.is_empty() { Vec::new() } else { table.committed(parent)?.layers.clone() }
        };
        let snapshot =
            Snapshot { id: State::new_id(), record: Record { layers, ..Record::new(key, parent, kind, labels) } };
        self.state.create(&snapshot.id, &snapshot.record, |_| Ok(()))?;
        let inserted = {
            let mut table = self.table();
            // The parent may have been removed in the meantime.
            let parent_is_there = if parent.is_empty() { Ok(()) } else { table.committed(parent).map(drop) };
            parent_is_there.and_then(|()| table.insert(snapshot.clone()))
        };
        if let Err(error) = inserted {
            self.discard(&snapshot.id);
            return Err(error);
        }
        let mounts = self.lower(&snapshot).and_then(|lower| {
            if let (Kind::Active, Some(lower)) = (kind, &lower) {
                // The root of the upper directory hides the one below it.
                RootAttributes::of(lower)?.give_to(&self.state.upper(&snapshot.id))?;
            }
            Ok(self.describe(&snapshot, lower))
        });
        if mounts.is_err() {
            self.table().remove(key);
            self.discard(&snapshot.id);
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
            Ok(()) => self.state.delete(id),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
