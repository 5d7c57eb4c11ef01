//! Layer indexes and bases: whatever happens to them, the next use shows the right tree and restores them.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Barrier;

use end_to_end::conformance::subject;
use end_to_end::layout::Layer;
use rustix::fs::inotify;

use crate::fixture::{Kept, flip, replace, sampled, small_layers};

/// Where the version is in an index and in a base: after the magic.
const VERSION: std::ops::Range<usize> = 8..12;

/// Damages a cache in many ways: each time the tree must be right, and the file must be restored.
fn survives(kept: &Kept, path: &Path, damages: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let whole = fs::read(path).expect("a cache");
    for (damage, bytes) in damages {
        assert_ne!(bytes, whole, "{damage} changes nothing");
        replace(path, &bytes);
        let damage = format!("{}, {damage}", path.display());
        kept.assert_shows_its_tree(&damage);
        assert!(fs::read(path).expect("a cache") == whole, "{damage}: not rebuilt as it was");
    }
}

fn flipped(path: &Path, positions: impl IntoIterator<Item = usize>) -> Vec<(String, Vec<u8>)> {
    let whole = fs::read(path).expect("a cache");
    let flip = |position: usize| {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        (format!("bit {} of byte {position} flipped", position % 8), bytes)
    };
    positions.into_iter().map(flip).collect()
}

fn cut(path: &Path, lengths: impl IntoIterator<Item = usize>) -> Vec<(String, Vec<u8>)> {
    let whole = fs::read(path).expect("a cache");
    lengths.into_iter().map(|length| (format!("cut to {length} bytes"), whole[..length].to_vec())).collect()
}

fn length(path: &Path) -> usize {
    fs::read(path).expect("a cache").len()
}

#[test]
fn any_flipped_byte_of_a_layer_index_is_noticed_and_mended() {
    let kept = Kept::of(&small_layers());
    for path in [kept.of_layer(0, "index"), kept.of_layer(1, "index")] {
        survives(&kept, &path, flipped(&path, 0..length(&path)));
    }
}

#[test]
fn any_flipped_byte_of_a_base_is_noticed_and_mended() {
    let kept = Kept::of(&small_layers());
    for path in [kept.of_base("index"), kept.of_base("recipe")] {
        survives(&kept, &path, flipped(&path, 0..length(&path)));
    }
}

#[test]
fn caches_cut_at_any_length_are_noticed_and_mended() {
    let kept = Kept::of(&small_layers());
    for path in [kept.of_layer(0, "index"), kept.of_layer(1, "index"), kept.of_base("index"), kept.of_base("recipe")] {
        survives(&kept, &path, cut(&path, 0..length(&path)));
    }
}

#[test]
fn damage_anywhere_in_large_caches_is_noticed_and_mended() {
    let files = |layer: usize| {
        let files: Vec<_> = (0..4000).map(|number| format!("d{}/{layer}-{number}", number % 50)).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|path| (path.as_str(), path.as_bytes())).collect();
        Layer::of_files(&files)
    };
    let kept = Kept::of(&[files(0), files(1)]);
    for path in [kept.of_layer(0, "index"), kept.of_base("index")] {
        let length = length(&path);
        assert!(length > 100_000, "{} has {length} bytes", path.display());
        survives(&kept, &path, flipped(&path, sampled(length, 40)));
        survives(&kept, &path, cut(&path, sampled(length, 20)));
    }
}

/// The same bytes with another version number.
fn of_version(path: &Path, change: i32) -> (String, Vec<u8>) {
    let mut bytes = fs::read(path).expect("a cache");
    let version = u32::from_le_bytes(bytes[VERSION].try_into().expect("four bytes"));
    let other = version.checked_add_signed(change).expect("a version");
    bytes[VERSION].copy_from_slice(&other.to_le_bytes());
    (format!("of version {other}"), bytes)
}

#[test]
fn cache_of_another_version_is_rebuilt() {
    let kept = Kept::of(&small_layers());
    for path in [kept.of_layer(0, "index"), kept.of_base("index")] {
        survives(&kept, &path, [of_version(&path, 1), of_version(&path, -1)]);
    }
}

#[test]
fn sound_cache_of_something_else_is_rebuilt() {
    let kept = Kept::of(&small_layers());
    let other = Kept::of(&[Layer::of_files(&[("both/one", b"other")]), Layer::of_files(&[("both/two", b"other")])]);
    let read = |path: std::path::PathBuf| fs::read(path).expect("a cache");
    let (lower, upper, base) = (kept.of_layer(0, "index"), kept.of_layer(1, "index"), kept.of_base("index"));
    let indexes = |own: &Path| {
        let others =
            [&lower, &upper, &base].map(|path| (format!("replaced by {}", path.display()), read(path.clone())));
        let mut others: Vec<_> = others.into_iter().filter(|(_, bytes)| *bytes != read(own.to_owned())).collect();
        others.push(("replaced by the index of a layer of another stack".to_owned(), read(other.of_layer(0, "index"))));
        others.push(("replaced by the base of another stack".to_owned(), read(other.of_base("index"))));
        others.push(("followed by a byte".to_owned(), [read(own.to_owned()), vec![0]].concat()));
        others.push(("replaced by noise".to_owned(), (0..=255).cycle().take(100_000).collect()));
        others
    };
    for path in [&lower, &upper, &base] {
        survives(&kept, path, indexes(path));
    }
    let recipe = kept.of_base("recipe");
    survives(&kept, &recipe, [("replaced by the recipe of another stack".to_owned(), read(other.of_base("recipe")))]);
}

#[test]
fn missing_caches_are_rebuilt() {
    let kept = Kept::of(&small_layers());
    let caches = [kept.of_layer(0, "index"), kept.of_layer(1, "index"), kept.of_base("index"), kept.of_base("recipe")];
    let whole: Vec<_> = caches.iter().map(|path| fs::read(path).expect("a cache")).collect();
    for path in &caches {
        fs::remove_file(path).expect("a cache");
        kept.assert_shows_its_tree(&format!("{} removed", path.display()));
    }
    caches.iter().for_each(|path| fs::remove_file(path).expect("a cache"));
    kept.assert_shows_its_tree("all caches removed");
    fs::remove_dir_all(kept.of_base("")).expect("the base");
    kept.assert_shows_its_tree("the base removed");
    for (path, whole) in caches.iter().zip(whole) {
        assert!(fs::read(path).expect("a cache") == whole, "{}", path.display());
    }
}

#[test]
fn open_views_outlive_the_damage_and_the_mending() {
    let kept = Kept::of(&small_layers());
    let view = kept.view().expect("a view");
    for path in [kept.of_layer(0, "index"), kept.of_base("index")] {
        replace(&path, b"damaged");
        assert!(subject::dump(&view).expect("a tree") == kept.tree);
        kept.assert_shows_its_tree("damaged");
        assert!(subject::dump(&view).expect("a tree") == kept.tree);
    }
}

/// Counts how often a rename replaces a file.
struct Renames {
    notices: rustix::fd::OwnedFd,
    name: &'static str,
}

impl Renames {
    fn to(path: &Path, name: &'static str) -> Self {
        let notices = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify");
        inotify::add_watch(&notices, path.with_file_name(""), inotify::WatchFlags::MOVED_TO).expect("a watch");
        Self { notices, name }
    }

    fn count(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.notices, &mut buffer);
        let mut count = 0;
        while let Ok(event) = reader.next() {
            count += usize::from(event.file_name().is_some_and(|name| name.to_bytes() == self.name.as_bytes()));
        }
        count
    }
}

#[test]
fn damaged_cache_is_rebuilt_once_however_many_use_it() {
    const USERS: usize = 8;
    let kept = Kept::of(&small_layers());
    for path in [kept.of_layer(0, "index"), kept.of_layer(1, "index"), kept.of_base("index")] {
        flip(&path, length(&path) / 2);
        let renames = Renames::to(&path, "index");
        let begin = Barrier::new(USERS);
        std::thread::scope(|scope| {
            for _ in 0..USERS {
                scope.spawn(|| {
                    begin.wait();
                    kept.assert_shows_its_tree("damaged for many");
                });
            }
        });
        assert_eq!(renames.count(), 1, "times that {} was made", path.display());
    }
}

#[test]
fn index_is_not_made_from_a_damaged_blob() {
    let kept = Kept::of(&small_layers());
    let (index, blob) = (kept.of_layer(0, "index"), kept.of_layer(0, "blob"));
    for position in sampled(length(&blob), 50) {
        flip(&blob, position);
        replace(&index, b"damaged");
        let error = kept.view().expect_err("a view of a damaged layer").to_string();
        assert!(error.contains(&kept.layers[0].to_string()) && error.contains("is damaged"), "{error}");
        assert_eq!(fs::read(&index).expect("the index"), b"damaged");
        flip(&blob, position);
        kept.assert_shows_its_tree("the blob is whole again");
    }
}
