//! Points at which the tests kill or stop a process, to look at what it leaves.
//!
//! `LAMINA_FAULT=NAME` makes the process kill itself (SIGKILL: nothing is cleaned up) when it first comes to the
//! point of that name; `LAMINA_FAULT=NAME:stop` makes it stop itself (SIGSTOP) there, with every lock that it holds, until somebody
//! continues or kills it; `LAMINA_FAULT=NAME:panic` makes the thread panic there, once. The points are compiled into every build, so what is tested is what is shipped; without the
//! variable each is one comparison.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};

macro_rules! fault_points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal,)+) => {
        /// A step after which a process may die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FaultPoint {
            $($(#[doc = $doc])+ $point,)+
        }

        impl FaultPoint {
            /// All points, in the order in which a layer's life comes to them.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// The name that `LAMINA_FAULT` takes.
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
    /// No `store.json` is there, and nothing is made yet.
    StoreSought = "store-sought",
    /// A new store has its directories and no `store.json`.
    StoreMade = "store-made",
    /// A new store has its `store.json`, and its directory is not on the disk.
    StoreNamed = "store-named",
    /// A lease file is there, locked and empty.
    LeaseTaken = "lease-taken",
    /// The right to bring in a layer is taken.
    LayerClaimed = "layer-claimed",
    /// A layer's first piece is in its blob.
    BlobBegun = "blob-begun",
    /// A layer's blob is complete and not synced.
    BlobWritten = "blob-written",
    /// A layer is found that has content of a new one, and nothing holds it yet.
    DonorChosen = "donor-chosen",
    /// A layer to borrow from has neither a whole tar nor a rest, and its thin one is not opened.
    DonorSought = "donor-sought",
    /// What a layer shares is written down, and nothing is left out of its tar yet.
    SharingMapped = "sharing-mapped",
    /// A layer's tar is called one with holes, and has none yet.
    SharingNamed = "sharing-named",
    /// The first of what others have is left out of a layer's tar.
    SharingFirstPunched = "sharing-first-punched",
    /// What others have is left out of a layer's tar.
    SharingPunched = "sharing-punched",
    /// A layer's blob is synced and its index complete, without their place.
    LayerStaged = "layer-staged",
    /// That the store has layers with holes is written, without its place.
    FeatureStaged = "feature-staged",
    /// That the store has layers with holes is noted, and it has none yet.
    FeatureNoted = "feature-noted",
    /// The first file of a layer has its place beside what others borrow of it, its tar has not.
    LayerBegun = "layer-begun",
    /// All files of a layer have their places beside what others borrow of it, but its tar.
    LayerTarLast = "layer-tar-last",
    /// A layer has its place, which is not synced.
    LayerPublished = "layer-published",
    /// A layer is in the store, and under which digest it came is not noted.
    LayerKept = "layer-kept",
    /// Under which digest a layer came is written, without its place.
    CompressedStaged = "compressed-staged",
    /// A manifest or config is complete, without its place.
    ManifestStaged = "manifest-staged",
    /// A manifest or config is in the store.
    ManifestPublished = "manifest-published",
    /// An image's name is complete, without its place.
    ImageStaged = "image-staged",
    /// An image's name has its place, which is not synced.
    ImagePublished = "image-published",
    /// Where a layer came from is written, without its place.
    SourcesStaged = "sources-staged",
    /// What a machine keeps is written, without its place.
    PinStaged = "pin-staged",
    /// What a machine keeps has its place.
    PinPublished = "pin-published",
    /// What a machine kept is kept no more.
    PinRemoved = "pin-removed",
    /// A base is found to be damaged, and the lock to rebuild it is not taken yet.
    BaseRefused = "base-refused",
    /// The right to make a base is taken.
    BaseClaimed = "base-claimed",
    /// A base is complete, without its place.
    BaseStaged = "base-staged",
    /// A base's recipe has its place, its index has not.
    RecipePublished = "recipe-published",
    /// A base has its place.
    BasePublished = "base-published",
    /// A layer's index was rebuilt, but not renamed to its place.
    IndexRemade = "index-remade",
    /// A layer's blob was put over a damaged one, its index was not.
    BlobRepaired = "blob-repaired",
    /// A layer's blob and index were put over damaged ones, which is not synced.
    IndexRepaired = "index-repaired",
    /// A layer was put over a damaged one, and what that had beside it is still there.
    RepairSynced = "repair-synced",
    /// The first of what a damaged layer had beside it is gone.
    RepairFirstOutlived = "repair-first-outlived",
    /// An image's name is taken away.
    ImageRemoved = "image-removed",
    /// Garbage is found, and all of it is in its place.
    GarbageFound = "garbage-found",
    /// The first piece of garbage is set aside.
    GarbageFirstAside = "garbage-first-aside",
    /// A layer is gone but for what others borrow of it.
    RestKept = "rest-kept",
    /// All garbage is set aside, and nothing is deleted.
    GarbageAside = "garbage-aside",
    /// The first piece of garbage is deleted.
    GarbageFirstDeleted = "garbage-first-deleted",
    /// What others borrow of a layer that is gone is copied, without its place.
    RestCopied = "rest-copied",
    /// What others borrow of a layer that is gone has its place, which is not synced.
    RestTrimmed = "rest-trimmed",
    /// A base is complete as a block image, without its place.
    BlockImageStaged = "block-image-staged",
    /// A base is complete as a directory, without its place.
    TreeStaged = "tree-staged",
    /// A directory that will be read-only is next to its place, and still writable.
    TreeBeside = "tree-beside",
    /// The same, of a directory that is kept with a base.
    TreeBesideBase = "tree-beside-base",
    /// An image is complete as a layout, without its place.
    ExportStaged = "export-staged",
    /// Content of a view's file is about to be read.
    ContentAsked = "content-asked",
}

/// What a process does at the point that it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Signal(Signal),
    Panic,
}

/// Dies, stops or panics here, if that is asked for.
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
