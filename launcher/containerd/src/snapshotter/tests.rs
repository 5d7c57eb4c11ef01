//! Calls at once, calls that fail, and what they leave.

use std::fs;
use std::sync::mpsc;

use layer_store::ExpectedLayer;

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    all: Snapshotter,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let all = Self::open(directory.path());
        Self { directory, all }
    }

    fn open(root: &Path) -> Snapshotter {
        Snapshotter::open(&root.join("state"), &root.join("run"), StoreOptions::at(&root.join("store"))).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("store")).unwrap()
    }

    /// Makes an active snapshot with a file in it.
    fn active(&self, key: &str, content: &str) {
        let mounts = self.all.prepare(key, "", Labels::new()).unwrap();
        fs::write(Path::new(&mounts[0].source).join("file"), content).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.all.table().records().map(|record| record.name.clone()).collect()
    }

    /// The holders of pins that exist.
    fn pins(&self) -> usize {
        self.store().pins().list().unwrap().len()
    }

    /// The same by a snapshotter that is started now.
    fn opened_again(self) -> Self {
        let Self { directory, all } = self;
        drop(all);
        Self { all: Self::open(directory.path()), directory }
    }

    /// Stops calls that use the store, as a collection of garbage does, until this is dropped.
    fn stopped_store(&self) -> fs::File {
        let lock = fs::File::open(self.directory.path().join("store/lock")).unwrap();
        lock.lock().unwrap();
        lock
    }
}

/// Waits until something holds that another thread is about to do.
fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a call in a thread, and returns when it is about to sync a directory. It goes on when it is sent something.
fn stopped_at_sync<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    call: impl FnOnce() -> T + Send + 'scope,
) -> (mpsc::Sender<()>, std::thread::ScopedJoinHandle<'scope, T>) {
    let (reached, is_reached) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let calling = scope.spawn(move || {
        let stop = move || {
            reached.send(()).unwrap();
            goes_on.recv().unwrap();
        };
        crate::state::AT_SYNC.set(Some(Box::new(stop)));
        call()
    });
    is_reached.recv().unwrap();
    (go_on, calling)
}

#[test]
fn a_commit_that_is_repeated_meanwhile_or_later_succeeds_and_makes_one_layer() {
    let fixture = Fixture::new();
    fixture.active("key", &"text".repeat(1 << 20));
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.all.commit("name", "key", Labels::new()))).collect();
        calls.into_iter().for_each(|call| call.join().unwrap().unwrap());
    });
    assert_eq!(fixture.names(), ["name"]);
    assert_eq!((fixture.pins(), fixture.store().layers().list().unwrap().len()), (1, 1));
    assert!(matches!(fixture.all.commit("other", "key", Labels::new()), Err(Error::NotFound(_))));
    // And by a snapshotter that was started since.
    let again = fixture.opened_again();
    again.all.commit("name", "key", Labels::new()).unwrap();
    assert_eq!((again.names(), again.pins()), (vec!["name".to_owned()], 1));
}

#[test]
fn a_commit_that_fails_keeps_no_layer_and_can_be_repeated() {
    let fixture = Fixture::new();
    fixture.active("first", "1");
    fixture.active("second", "2");
    fixture.all.commit("name", "first", Labels::new()).unwrap();
    fixture.all.cleanup().unwrap();
    let refused = fixture.all.commit("name", "second", Labels::new());
    assert!(matches!(refused, Err(Error::Exists(_))), "{refused:?}");
    // A record that cannot be replaced: the layer is there by then.
    let id = fixture.all.table().get("second").unwrap().id.clone();
    let record = fixture.all.state.directory(&id).join("record.json");
    fs::remove_file(&record).unwrap();
    fs::create_dir_all(record.join("x")).unwrap();
    fixture.all.commit("other", "second", Labels::new()).unwrap_err();
    assert_eq!(fixture.pins(), 1);
    assert_eq!(fixture.store().layers().list().unwrap().len(), 2);
    fixture.all.cleanup().unwrap();
    assert_eq!(fixture.store().layers().list().unwrap().len(), 1, "the layer of the failed commit is freed");
    fs::remove_dir_all(&record).unwrap();
    fixture.all.commit("other", "second", Labels::new()).unwrap();
    assert_eq!((fixture.names().len(), fixture.pins()), (2, 2));
}

#[test]
fn a_commit_whose_record_is_not_safe_on_disk_is_undone_or_survives_a_restart() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    let id = fixture.all.table().get("key").unwrap().id.clone();
    for (syncs_to_fail, pins) in [(1, 0), (2, 1)] {
        crate::state::SYNCS_TO_FAIL.set(syncs_to_fail);
        fixture.all.commit("name", "key", Labels::new()).unwrap_err();
        assert_eq!((fixture.names(), fixture.pins()), (vec!["key".to_owned()], pins));
        let state = &fixture.all.state;
        assert_eq!(state.load().unwrap()[0].1.kind, Kind::Active);
    }
    let again = fixture.opened_again();
    assert!(again.all.state.upper(&id).join("file").exists(), "what was written is there");
    assert_eq!((again.names(), again.pins()), (vec!["key".to_owned()], 0));
    again.all.commit("name", "key", Labels::new()).unwrap();
    assert_eq!((again.names(), again.pins()), (vec!["name".to_owned()], 1));
}

#[test]
fn a_snapshot_whose_removal_fails_is_still_there_whole() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    // Nothing can be moved there.
    let removed = fixture.directory.path().join("state/removed");
    fs::remove_dir(&removed).unwrap();
    fixture.all.remove("key").unwrap_err();
    assert!(Path::new(&fixture.all.mounts("key").unwrap()[0].source).join("file").exists());
    fixture.all.commit("name", "key", Labels::new()).unwrap();
    fixture.all.remove("name").unwrap_err();
    assert_eq!((fixture.names(), fixture.pins()), (vec!["name".to_owned()], 1));
    fs::create_dir(&removed).unwrap();
    fixture.all.cleanup().unwrap();
    assert_eq!(fixture.store().layers().list().unwrap().len(), 1);
    fixture.all.remove("name").unwrap();
    assert_eq!((fixture.names().len(), fixture.pins()), (0, 0));
}

#[test]
fn a_snapshot_whose_removal_cannot_be_synced_is_gone_with_what_it_kept() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    fixture.all.commit("name", "key", Labels::new()).unwrap();
    fixture.active("other", "text");
    for name in ["name", "other"] {
        crate::state::SYNCS_TO_FAIL.set(1);
        fixture.all.remove(name).unwrap();
        assert!(matches!(fixture.all.remove(name), Err(Error::NotFound(_))));
    }
    assert_eq!((fixture.names().len(), fixture.pins()), (0, 0));
    fixture.all.cleanup().unwrap();
    assert!(fixture.store().layers().list().unwrap().is_empty());
    for name in ["snapshots", "removed"] {
        assert_eq!(fs::read_dir(fixture.directory.path().join("state").join(name)).unwrap().count(), 0, "{name}");
    }
    assert!(fixture.opened_again().names().is_empty());
}

#[test]
fn a_removed_snapshot_whose_pin_stayed_is_not_made_again_and_its_pin_is_removed_later() {
    for (is_restarted, is_committed) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut fixture = Fixture::new();
        fixture.active("key", "text");
        if is_committed {
            fixture.all.commit("name", "key", Labels::new()).unwrap();
        } else {
            fixture.active("name", "text");
            fixture.all.remove("key").unwrap();
        }
        // What is expected from the start must not be what finishes the removal.
        fixture.all.cleanup().unwrap();
        let pins = fixture.pins();
        // The store cannot be opened at this moment.
        let (store, aside) = (fixture.directory.path().join("store"), fixture.directory.path().join("aside"));
        fs::rename(&store, &aside).unwrap();
        fs::write(&store, "").unwrap();
        fixture.all.remove("name").unwrap();
        fs::remove_file(&store).unwrap();
        fs::rename(&aside, &store).unwrap();
        assert_eq!((fixture.names().len(), fixture.pins()), (0, pins));
        let removed = fixture.directory.path().join("state/removed");
        assert_eq!(fs::read_dir(&removed).unwrap().count(), 1, "its directory stays with its pin");
        match is_restarted {
            true => fixture = fixture.opened_again(),
            false => assert!(fixture.all.tidy().unwrap()),
        }
        assert_eq!((fixture.names().len(), fixture.pins()), (0, 0));
        assert_eq!(fs::read_dir(fixture.directory.path().join("state/removed")).unwrap().count(), 0);
    }
}

#[test]
fn layers_that_a_process_still_uses_when_their_snapshot_is_removed_are_freed_when_it_ends() {
    for is_restarted in [false, true] {
        let mut fixture = Fixture::new();
        fixture.active("key", "text");
        fixture.all.commit("name", "key", Labels::new()).unwrap();
        let store = fixture.store();
        let layers = store.layers().list().unwrap();
        let base = store.bases().prepare_layers(&layers, &[], &layer_store::Silent).unwrap();
        let view = store.bases().open(&base).unwrap();
        drop(store);
        fixture.all.remove("name").unwrap();
        fixture.all.cleanup().unwrap();
        if is_restarted {
            fixture = fixture.opened_again();
        }
        fixture.all.tidy().unwrap();
        assert_eq!(fixture.store().layers().list().unwrap(), layers);
        drop(view);
        fixture.all.tidy().unwrap();
        assert!(fixture.store().layers().list().unwrap().is_empty());
    }
}

#[test]
fn a_removal_waits_for_a_commit_of_the_same_snapshot() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    std::thread::scope(|scope| {
        let stopped = fixture.stopped_store();
        let commit = scope.spawn(|| fixture.all.commit("name", "key", Labels::new()));
        until(|| fixture.all.table().must_be_free("name").is_err());
        let remove = scope.spawn(|| fixture.all.remove("key"));
        until(|| fixture.all.changing.calls("key") == 2);
        assert!(!commit.is_finished() && !remove.is_finished());
        drop(stopped);
        commit.join().unwrap().unwrap();
        assert!(matches!(remove.join().unwrap(), Err(Error::NotFound(_))));
    });
    assert_eq!((fixture.names(), fixture.pins()), (vec!["name".to_owned()], 1));
}

#[test]
fn a_commit_waits_for_a_removal_of_the_same_snapshot() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    std::thread::scope(|scope| {
        let (go_on, remove) = stopped_at_sync(scope, || fixture.all.remove("key"));
        let commit = scope.spawn(|| fixture.all.commit("name", "key", Labels::new()));
        until(|| fixture.all.changing.calls("key") == 2);
        assert!(!commit.is_finished() && !remove.is_finished());
        go_on.send(()).unwrap();
        remove.join().unwrap().unwrap();
        assert!(matches!(commit.join().unwrap(), Err(Error::NotFound(_))));
    });
    assert_eq!((fixture.names().len(), fixture.pins()), (0, 0));
}

/// Makes one of two layers of the store a snapshot. Returns its name, and the labels with which the layer above it is prepared.
fn ready_below_another(fixture: &Fixture) -> (String, Labels) {
    let store = fixture.store();
    let ingest = |tar: &[u8]| store.layers().ingest(&mut &*tar, &ExpectedLayer::default()).unwrap().diff_id;
    let [below, above] = [ingest(&[0; 1024]), ingest(&[0; 10240])];
    let labels = |chain: &str| Labels::from([(REF.to_owned(), chain.to_owned())]);
    let chain = chain::extended(None, &below).to_string();
    let ready = fixture.all.prepare("n/1/extract-1 x", "", labels(&chain));
    assert!(matches!(ready, Err(Error::Exists(_))), "{ready:?}");
    (format!("n/1/{chain}"), labels(&chain::extended(Some(&below.0), &above).to_string()))
}

#[test]
fn a_layer_that_becomes_ready_keeps_its_parent_from_being_removed() {
    let fixture = Fixture::new();
    let (parent, labels_above) = ready_below_another(&fixture);
    std::thread::scope(|scope| {
        let stopped = fixture.stopped_store();
        let prepare = scope.spawn(|| fixture.all.prepare("n/2/extract-2 x", &parent, labels_above));
        until(|| fixture.all.table().has_children(&parent));
        let removed = fixture.all.remove(&parent);
        assert!(matches!(removed, Err(Error::Precondition { .. })), "{removed:?}");
        assert!(!prepare.is_finished());
        drop(stopped);
        assert!(matches!(prepare.join().unwrap(), Err(Error::Exists(_))));
    });
    let table = fixture.all.table();
    let above = table.records().find(|record| !record.parent.is_empty()).unwrap();
    assert_eq!((&above.parent, above.layers.len()), (&parent, 2));
    assert!(table.committed(&parent).is_ok());
}

#[test]
fn a_layer_is_never_made_ready_on_a_parent_that_is_being_removed() {
    let fixture = Fixture::new();
    let (parent, labels_above) = ready_below_another(&fixture);
    std::thread::scope(|scope| {
        let (go_on, remove) = stopped_at_sync(scope, || fixture.all.remove(&parent));
        let prepared = fixture.all.prepare("n/2/extract-2 x", &parent, labels_above);
        assert!(matches!(prepared, Err(Error::NotFound(_))), "{prepared:?}");
        assert!(!remove.is_finished());
        go_on.send(()).unwrap();
        remove.join().unwrap().unwrap();
    });
    assert_eq!((fixture.names().len(), fixture.pins()), (0, 0));
}

#[test]
fn labels_change_while_other_calls_go_on() {
    let fixture = Fixture::new();
    fixture.active("key", "text");
    fixture.all.commit("name", "key", Labels::new()).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                let label = number.to_string();
                fixture.all.update("name", |own| drop(own.insert(label, String::new()))).unwrap();
            });
        }
    });
    assert_eq!(fixture.all.stat("name").unwrap().labels.len(), 4, "no change is lost");
}
