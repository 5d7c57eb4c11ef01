//! Makes records and store agree when the snapshotter starts: one of the two may have been lost or restored from a backup.

use std::collections::{BTreeMap, BTreeSet};

use layer_store::{Store, StoreError};

use crate::error::Error;
use crate::record::{Kind, Moment, Record};
use crate::state::State;

/// Returns the snapshots that can be used.
///
/// A committed snapshot that has lost its directory is made again from its pin. One that has lost its pin is pinned again if
/// the store has its layers, and forgotten if not; containerd then unpacks its layers again when an image needs them. A
/// snapshot that is not committed has no pin.
pub(crate) fn healed(
    state: &State,
    store: &Store,
    loaded: Vec<(String, Record)>,
) -> Result<BTreeMap<String, Record>, Error> {
    let mut snapshots: BTreeMap<String, Record> = loaded.into_iter().collect();
    let pins = store.pins();
    // A snapshot that was being removed must not be made again from its pin.
    let removed = state.finish_removals(|id| Ok(pins.remove(&state.directory(id))?))?;
    let mut pinned = Vec::new();
    for pin in pins.list()? {
        let Some(id) = state.id_of(&pin.holder).filter(|id| !removed.contains(id)) else { continue };
        match snapshots.get(&id) {
            Some(record) if record.kind == Kind::Committed => {}
            // A commit that was interrupted before its record was written.
            Some(_) => {
                if let Err(error) = pins.remove(&pin.holder) {
                    tracing::warn!("{error}; the next start tries again to free the layer of an interrupted commit");
                }
                continue;
            }
            None => {
                let Ok(record) = serde_json::from_str::<Record>(&pin.note) else { continue };
                tracing::warn!("snapshot {:?} had lost its record, which is made again", record.name);
                state.create(&id, &record, |_| Ok(()))?;
                snapshots.insert(id.clone(), record);
            }
        }
        pinned.push(id);
    }
    let missing_pin = |(id, record): &(&String, &Record)| record.kind == Kind::Committed && !pinned.contains(id);
    let unpinned: Vec<String> = snapshots.iter().filter(missing_pin).map(|(id, _)| id.clone()).collect();
    for id in unpinned {
        let Some(record) = snapshots.get(&id) else { continue };
        match pin(state, store, &id, record) {
            Ok(()) => {}
            Err(error @ Error::Store(StoreError::NoSuchLayer(_))) => {
                tracing::warn!("snapshot {:?} is forgotten, because its layers are gone: {error}", record.name);
                snapshots.remove(&id);
                forget(state, store, &id);
            }
            // A full disk, or an additional store that is not mounted yet: the next start tries again.
            Err(error) => tracing::warn!("the layers of snapshot {:?} are not pinned: {error}", record.name),
        }
    }
    drop_twins(state, store, &mut snapshots);
    detach_orphans(state, &mut snapshots)?;
    Ok(snapshots)
}

/// Lets snapshots whose parent is gone be without one. containerd removes only snapshots that it reaches from one without a
/// parent (`pruneBranch` in its `metadata/snapshot.go`).
fn detach_orphans(state: &State, snapshots: &mut BTreeMap<String, Record>) -> Result<(), Error> {
    let names: BTreeSet<String> = snapshots.values().map(|record| record.name.clone()).collect();
    for (id, record) in snapshots.iter_mut() {
        if !record.parent.is_empty() && !names.contains(&record.parent) {
            tracing::warn!("snapshot {:?} has lost its parent {:?}", record.name, record.parent);
            record.parent.clear();
            state.save(id, record)?;
        }
    }
    Ok(())
}

/// Keeps the layers of a committed snapshot for as long as its directory exists.
pub(crate) fn pin(state: &State, store: &Store, id: &str, record: &Record) -> Result<(), Error> {
    let note = serde_json::to_string(record).unwrap_or_default();
    Ok(store.pins().add_layers(&state.directory(id), &record.purpose(), &record.layers, &note)?)
}

/// Removes a snapshot with its pin. What fails is tried again later: it must not keep the others from being used.
fn forget(state: &State, store: &Store, id: &str) {
    let unpinned = state.retire(id).and_then(|()| Ok(store.pins().remove(&state.directory(id))?));
    match unpinned {
        Ok(()) => state.delete(id),
        Err(error) => tracing::warn!("{error}; the next start tries again to remove a snapshot that is of no use"),
    }
}

/// A name belongs to one snapshot. After a loss, containerd may have made one again before the old one was healed: the
/// newest is kept.
fn drop_twins(state: &State, store: &Store, snapshots: &mut BTreeMap<String, Record>) {
    let mut newest: BTreeMap<String, (String, Moment)> = BTreeMap::new();
    let mut twins = Vec::new();
    for (id, record) in snapshots.iter() {
        let this = (id.clone(), record.created);
        match newest.get(&record.name) {
            Some(other) if other.1 >= this.1 => twins.push(this.0),
            _ => twins.extend(newest.insert(record.name.clone(), this).map(|(id, _)| id)),
        }
    }
    for id in twins {
        snapshots.remove(&id);
        forget(state, store, &id);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use layer_store::{DiffId, ExpectedLayer};

    use super::*;

    fn committed(store: &Store) -> Record {
        let layer = store.layers().ingest(&mut &[0; 1024][..], &ExpectedLayer::default()).unwrap().diff_id;
        let record = Record::new("default/2/sha256:x", "", Kind::Committed, BTreeMap::new());
        Record { layers: vec![layer], ..record }
    }

    fn healed_again(root: &std::path::Path) -> Vec<Record> {
        let state = State::open(&root.join("state")).unwrap();
        let store = Store::open(&root.join("store")).unwrap();
        healed(&state, &store, state.load().unwrap()).unwrap().into_values().collect()
    }

    #[test]
    fn committed_snapshots_survive_the_loss_of_the_state_and_of_the_pins() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let record = {
            let (state, store) = (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
            let record = committed(&store);
            state.create("ab", &record, |_| Ok(())).unwrap();
            pin(&state, &store, "ab", &record).unwrap();
            record
        };
        assert_eq!(healed_again(root), std::slice::from_ref(&record));
        fs::remove_dir_all(root.join("state")).unwrap();
        assert_eq!(healed_again(root), std::slice::from_ref(&record));
        fs::remove_dir_all(root.join("store/pins")).unwrap();
        assert_eq!(healed_again(root), [record]);
        let layers = || Store::open(&root.join("store")).unwrap().layers().list().unwrap();
        Store::open(&root.join("store")).unwrap().collect(false).unwrap();
        assert_eq!(layers(), [DiffId(layer_store::Digest::of(&[0; 1024]))]);
    }

    #[test]
    fn a_commit_that_was_interrupted_before_its_record_was_written_leaves_no_pin() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let active = Record::new("default/3/key", "", Kind::Active, BTreeMap::new());
        {
            let (state, store) = (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
            state.create("ab", &active, |_| Ok(())).unwrap();
            pin(&state, &store, "ab", &committed(&store)).unwrap();
        }
        assert_eq!(healed_again(root), [active]);
        assert!(Store::open(&root.join("store")).unwrap().pins().list().unwrap().is_empty());
    }

    #[test]
    fn a_snapshot_whose_parent_is_forgotten_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        {
            let (state, store) = (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
            let parent = committed(&store);
            let child = Record::new("default/3/box", &parent.name, Kind::Active, BTreeMap::new());
            state.create("ab", &parent, |_| Ok(())).unwrap();
            state.create("cd", &child, |_| Ok(())).unwrap();
        }
        fs::remove_dir_all(root.join("store")).unwrap();
        for _ in 0..2 {
            let left = healed_again(root);
            assert_eq!(left.iter().map(|record| record.parent.as_str()).collect::<Vec<_>>(), [""]);
        }
    }

    #[test]
    fn a_snapshot_whose_layers_are_gone_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        {
            let (state, store) = (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
            state.create("ab", &committed(&store), |_| Ok(())).unwrap();
        }
        fs::remove_dir_all(root.join("store")).unwrap();
        assert!(healed_again(root).is_empty() && healed_again(root).is_empty());
    }

    #[test]
    fn a_snapshot_that_was_being_removed_is_not_made_again_from_its_pin() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        {
            let (state, store) = (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
            let record = committed(&store);
            state.create("ab", &record, |_| Ok(())).unwrap();
            pin(&state, &store, "ab", &record).unwrap();
            // As after a kill at this moment.
            state.retire("ab").unwrap();
        }
        assert!(healed_again(root).is_empty() && healed_again(root).is_empty());
        assert!(Store::open(&root.join("store")).unwrap().pins().list().unwrap().is_empty());
        assert_eq!(fs::read_dir(root.join("state/removed")).unwrap().count(), 0);
    }

    #[test]
    fn a_pin_that_cannot_be_removed_keeps_no_other_snapshot_from_being_used() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let open = || (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
        let (pin_of_removed, kept) = {
            let (state, store) = open();
            let kept = committed(&store);
            for (id, name) in [("ab", "removed"), ("cd", &kept.name)] {
                let record = Record { name: name.to_owned(), ..kept.clone() };
                state.create(id, &record, |_| Ok(())).unwrap();
                pin(&state, &store, id, &record).unwrap();
            }
            state.retire("ab").unwrap();
            let holder = state.directory("ab");
            (root.join("store/pins").join(layer_store::Digest::of(holder.as_os_str().as_encoded_bytes()).hex()), kept)
        };
        // A directory cannot be removed as a file.
        fs::rename(&pin_of_removed, root.join("aside")).unwrap();
        fs::create_dir(&pin_of_removed).unwrap();
        assert_eq!(healed_again(root), std::slice::from_ref(&kept));
        assert!(root.join("state/removed/ab").exists());
        fs::remove_dir(&pin_of_removed).unwrap();
        fs::rename(root.join("aside"), &pin_of_removed).unwrap();
        assert_eq!(healed_again(root), [kept]);
        assert!(!root.join("state/removed/ab").exists());
        assert_eq!(open().1.pins().list().unwrap().len(), 1);
    }

    #[test]
    fn of_two_snapshots_with_one_name_the_newest_is_kept_and_the_other_is_forgotten_with_its_pin() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        // The order of the ids must not decide.
        for [older, newer] in [["ab", "cd"], ["cd", "ab"]] {
            {
                let (state, store) =
                    (State::open(&root.join("state")).unwrap(), Store::open(&root.join("store")).unwrap());
                let record = committed(&store);
                for (id, nanoseconds) in [(older, 5), (newer, 6)] {
                    let record = Record { created: Moment { seconds: 7, nanoseconds }, ..record.clone() };
                    state.create(id, &record, |_| Ok(())).unwrap();
                    pin(&state, &store, id, &record).unwrap();
                }
            }
            for _ in 0..2 {
                let left = healed_again(root);
                assert_eq!(left.iter().map(|record| record.created.nanoseconds).collect::<Vec<_>>(), [6]);
            }
            let store = Store::open(&root.join("store")).unwrap();
            assert_eq!(store.pins().list().unwrap().len(), 1);
            let state = State::open(&root.join("state")).unwrap();
            forget(&state, &store, newer);
        }
    }
}
