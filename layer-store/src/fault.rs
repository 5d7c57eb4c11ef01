//! Points at which the tests kill or stop a process, to check what it leaves behind.
//!
//! `LAMINA_FAULT=NAME` makes the process kill itself (SIGKILL: nothing is cleaned up) when it first reaches the point
//! with that name. `LAMINA_FAULT=NAME:stop` makes it stop itself there (SIGSTOP), holding all of its locks, until it is
//! continued or killed. `LAMINA_FAULT=NAME:panic` makes the thread panic there, once. The points are compiled into
//! every build, so what is tested is what is shipped; without the variable each costs one comparison.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};

macro_rules! fault_points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal,)+) => {
        /// A point at which a process may die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FaultPoint {
            $($(#[doc = $doc])+ $point,)+
        }

        impl FaultPoint {
            /// All points, in the order in which they are reached in the life of a layer.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Returns the name to use in `LAMINA_FAULT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

fault_points! {
    /// No `store.json` exists, and nothing is made yet.
    StoreSought = "store-sought",
    /// A new store has its directories but no `store.json`.
    StoreMade = "store-made",
    /// A new store has its `store.json`, but its directory is not synced.
    StoreNamed = "store-named",
    /// A lease file exists, locked and empty.
    LeaseTaken = "lease-taken",
    /// The lock for adding a layer is taken.
    LayerClaimed = "layer-claimed",
    /// The first piece of a layer is in its blob.
    BlobBegun = "blob-begun",
    /// A layer's blob is complete but not synced.
    BlobWritten = "blob-written",
    /// A layer with content of a new one was found, and no lease holds it yet.
    DonorChosen = "donor-chosen",
    /// A layer to borrow from has neither a whole tar nor a remnant, and its thin tar is not opened yet.
    DonorSought = "donor-sought",
    /// A layer's sharing map is written, and its tar has no holes yet.
    SharingMapped = "sharing-mapped",
    /// A layer's tar is renamed to `thin`, and has no holes yet.
    SharingNamed = "sharing-named",
    /// The first hole is made in a layer's tar.
    SharingFirstPunched = "sharing-first-punched",
    /// All holes are made in a layer's tar.
    SharingPunched = "sharing-punched",
    /// A layer's blob is synced and its index is complete, but they are not in their place.
    LayerStaged = "layer-staged",
    /// The feature for thin layers is written to a new `store.json`, which is not in its place.
    FeatureStaged = "feature-staged",
    /// The feature for thin layers is recorded in `store.json`, and there is no such layer yet.
    FeatureNoted = "feature-noted",
    /// The first file of a layer is in its place next to the layer's remnant, but not its tar.
    LayerBegun = "layer-begun",
    /// All files of a layer except its tar are in their place next to the layer's remnant.
    LayerTarLast = "layer-tar-last",
    /// A layer is in its place, which is not synced.
    LayerPublished = "layer-published",
    /// A layer is in the store, but the digest under which it came is not recorded.
    LayerKept = "layer-kept",
    /// The record of the digest under which a layer came is written, but not in its place.
    CompressedStaged = "compressed-staged",
    /// A manifest or config is complete, but not in its place.
    ManifestStaged = "manifest-staged",
    /// A manifest or config is in the store.
    ManifestPublished = "manifest-published",
    /// The file for an image's name is complete, but not in its place.
    ImageStaged = "image-staged",
    /// The file for an image's name is in its place, which is not synced.
    ImagePublished = "image-published",
    /// The record of where a layer came from is written, but not in its place.
    SourcesStaged = "sources-staged",
    /// A pin is written, but not in its place.
    PinStaged = "pin-staged",
    /// A pin is in its place.
    PinPublished = "pin-published",
    /// A pin is removed.
    PinRemoved = "pin-removed",
    /// A base was found to be damaged, and the lock to rebuild it is not taken yet.
    BaseRefused = "base-refused",
    /// The lock for making a base is taken.
    BaseClaimed = "base-claimed",
    /// A base is complete, but not in its place.
    BaseStaged = "base-staged",
    /// A base's recipe is in its place, but not its index.
    RecipePublished = "recipe-published",
    /// A base is in its place.
    BasePublished = "base-published",
    /// A layer's index was rebuilt, but not renamed to its place.
    IndexRemade = "index-remade",
    /// A layer's blob has replaced a damaged one, but not its index.
    BlobRepaired = "blob-repaired",
    /// A layer's blob and index have replaced damaged ones, which is not synced.
    IndexRepaired = "index-repaired",
    /// A layer has replaced a damaged one, and the superseded files are still there.
    RepairSynced = "repair-synced",
    /// The first superseded file of a damaged layer is deleted.
    RepairFirstSuperseded = "repair-first-outlived",
    /// An image's name is removed.
    ImageRemoved = "image-removed",
    /// Garbage was found, and all of it is still in its place.
    GarbageFound = "garbage-found",
    /// The first piece of garbage is set aside.
    GarbageFirstAside = "garbage-first-aside",
    /// A layer is turned into a remnant.
    RemnantKept = "rest-kept",
    /// All garbage is set aside, and nothing is deleted yet.
    GarbageAside = "garbage-aside",
    /// The first piece of garbage is deleted.
    GarbageFirstDeleted = "garbage-first-deleted",
    /// The needed parts of a remnant are copied, but the copy is not in its place.
    RemnantCopied = "rest-copied",
    /// The copy of a remnant is in its place, which is not synced.
    RemnantTrimmed = "rest-trimmed",
    /// The block image of a base, or the map of its block device, is complete, but not in its place.
    BlockImageStaged = "block-image-staged",
    /// The tree of a base is complete, but not in its place.
    TreeStaged = "tree-staged",
    /// A directory that will be read-only is next to its place, and still writable.
    TreeBeside = "tree-beside",
    /// The same for a tree that is stored with a base.
    TreeBesideBase = "tree-beside-base",
    /// The layout of an exported image is complete, but not in its place.
    ExportStaged = "export-staged",
    /// The content of a file in a view is about to be read.
    ContentAsked = "content-asked",
}

/// What a process does at the requested point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Signal(Signal),
    Panic,
}

/// Kills or stops the process or panics, if `LAMINA_FAULT` requests it for this point.
#[expect(clippy::panic, reason = "the tests ask for it, to see that it costs no more than one request")]
pub(crate) fn point(point: FaultPoint) {
    static REACHED: AtomicBool = AtomicBool::new(false);
    static ASKED: OnceLock<Option<(String, Fate)>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| std::env::var_os("LAMINA_FAULT").as_deref().and_then(parse));
    if let Some((name, fate)) = asked
        && name == point.name()
        && !REACHED.swap(true, Ordering::Relaxed)
    {
        match fate {
            // A process may always signal itself; the signal arrives before this call returns.
            Fate::Signal(signal) => drop(kill_process(getpid(), *signal)),
            Fate::Panic => panic!("LAMINA_FAULT asks for it"),
        }
    }
}

fn parse(value: &OsStr) -> Option<(String, Fate)> {
    let value = value.to_str()?;
    let (name, fate) = match value.split_once(':') {
        Some((name, "stop")) => (name, Fate::Signal(Signal::STOP)),
        Some((name, "panic")) => (name, Fate::Panic),
        _ => (value, Fate::Signal(Signal::KILL)),
    };
    Some((name.to_owned(), fate))
}
