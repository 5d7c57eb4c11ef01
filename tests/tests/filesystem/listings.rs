//! Listings: complete, in a stable order, and consistent with `stat`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Barrier;

use end_to_end::layout::Layer;
use end_to_end::{Actor, Image, Layout, Session};
use rustix::fs::lstat;

use crate::fixture::{REFERENCE, merged_tree, session_with};
use crate::getdents::{Directory, Record, each_directory, records};

end_to_end::on_every_transport! {
    listings_of_200_000_entries_survive_seeks_rewinds_and_concurrent_readers,
    records_of_merged_and_single_directories_are_what_stat_says,
    records_of_a_debian_are_what_stat_says,
}

/// Entries of the large directories.
const ENTRIES: usize = 200_000;

/// Names of one to nine characters, so that a listing's blocks hold different numbers of them.
fn name(number: usize) -> String {
    format!("{number:0width$x}", width = 1 + number % 9)
}

fn expected_names() -> BTreeSet<Vec<u8>> {
    let names: BTreeSet<_> = (0..ENTRIES).map(|number| name(number).into_bytes()).collect();
    assert_eq!(names.len(), ENTRIES, "names that the directories are to have");
    names
}

/// `single` is a directory of the lower layer alone; `merged` is one to which the upper layer adds half of the names,
/// and from which it removes some.
fn large_directories() -> Session {
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    for number in 0..ENTRIES {
        let name = name(number);
        lower.push(format!("single/{name}"));
        let half = if number % 2 == 0 { &mut lower } else { &mut upper };
        half.push(format!("merged/{name}"));
    }
    for number in 0..100 {
        lower.push(format!("merged/gone-{number}"));
        upper.push(format!("merged/.wh.gone-{number}"));
    }
    let layer = |paths: &[String]| {
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), b"".as_slice())).collect();
        Layer::of_files(&files)
    };
    session_with(Actor::User, Layout::of(&[layer(&lower), layer(&upper)]).path())
}

/// Checks that a listing has the dots and every expected name once.
fn assert_complete(listing: &[Record]) {
    assert_eq!(listing.iter().filter(|record| record.is_dots()).count(), 2);
    assert_eq!(listing.len(), ENTRIES + 2, "records, of which no two may be the same");
    let names: BTreeSet<_> = listing.iter().filter(|record| !record.is_dots()).map(|record| &record.name).collect();
    let expected = expected_names();
    assert!(names.into_iter().eq(&expected), "the names are not those of the layers");
}

fn positions_last(directory: &Path) {
    // Before the whole listing has been read, back and forth in the part that has been.
    let mut reader = Directory::open(directory, 4096);
    let begin: Vec<_> = std::iter::from_fn(|| reader.next()).take(ENTRIES / 3).collect();
    for at in [ENTRIES / 4, 1, ENTRIES / 5] {
        reader.seek(begin[at].cookie);
        assert_eq!(reader.next().as_ref(), Some(&begin[at + 1]), "after record {at} of a listing not yet read");
    }
    reader.rewind();
    let listing = reader.rest();
    assert_eq!(listing[..begin.len()], begin, "after rewinding");
    assert_complete(&listing);

    // Then in all of it, in another order.
    for step in 0..500 {
        let at = step * 7919 * 31 % listing.len();
        reader.seek(listing[at].cookie);
        assert_eq!(reader.next().as_ref(), listing.get(at + 1), "after record {at}");
    }
    reader.seek(listing[listing.len() - 1].cookie);
    assert_eq!(reader.next(), None);
    reader.rewind();
    assert_eq!(reader.rest(), listing);
}

fn readers_see_the_same(directory: &Path) {
    let sizes = [Directory::ONE_RECORD, 1000, 4096, 1 << 16];
    let start = Barrier::new(sizes.len());
    let read = |bytes: usize| {
        let mut reader = Directory::open(directory, bytes);
        start.wait();
        // Each turns back at another place.
        for _ in 0..bytes {
            reader.next();
        }
        reader.rewind();
        reader.rest()
    };
    let listings: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = sizes.map(|bytes| scope.spawn(move || read(bytes))).into_iter().collect();
        readers.into_iter().map(|reader| reader.join().expect("a reader")).collect()
    });
    assert_complete(&listings[0]);
    for (listing, bytes) in listings.iter().zip(sizes) {
        assert!(*listing == listings[0], "the reader with {bytes} bytes saw another listing");
    }
}

fn readers_of_one_file_share_its_entries(directory: &Path) {
    let first = Directory::open(directory, 4096);
    let readers: Vec<_> = (0..4).map(|_| first.share()).collect();
    let mut listing: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = readers.into_iter().map(|mut reader| scope.spawn(move || reader.rest())).collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
    });
    listing.sort();
    assert_complete(&listing);
}

fn listings_of_200_000_entries_survive_seeks_rewinds_and_concurrent_readers() {
    let session = large_directories();
    for check in [positions_last, readers_see_the_same, readers_of_one_file_share_its_entries] {
        // A separate mount, whose listings no process has read.
        let point = session.mount(REFERENCE, "mounted");
        Actor::User.act(|| ["single", "merged"].iter().for_each(|name| check(&point.join(name))));
        session.umount(&point);
    }
}

/// Compares every record with what `lstat` returns for its name: `.` of the directory, `..` of its parent.
fn listings_are_true(root: &Path) {
    let number = |path: &Path| lstat(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut wrong = Vec::new();
    each_directory(root, &mut |directory, parent| {
        let listing = records(directory);
        let dots: Vec<_> = listing.iter().filter(|record| record.is_dots()).map(|record| &record.name[..]).collect();
        assert_eq!(dots, [&b"."[..], &b".."[..]], "{}", directory.display());
        for record in &listing {
            // The root of a mount lists itself as its parent, on ext4 as here.
            let path = match record.name.as_slice() {
                b"." => directory.to_owned(),
                b".." => parent.to_owned(),
                _ => record.path_in(directory),
            };
            let stat = number(&path);
            if (stat.st_ino, stat.st_mode & 0o170_000) != (record.ino, record.kind) {
                wrong.push(format!("{} in {}: {record:?}, {stat:?}", path.display(), directory.display()));
            }
        }
        if directory != root {
            let (dots, parent) = (number(&directory.join("..")), number(parent));
            assert_eq!((dots.st_dev, dots.st_ino), (parent.st_dev, parent.st_ino), "{}/..", directory.display());
        }
    });
    assert!(wrong.is_empty(), "{} records are not true:\n{}", wrong.len(), wrong.join("\n"));
}

fn listings_of_an_image_are_true(layout: &Path) {
    let session = session_with(Actor::User, layout);
    let point = session.mount(REFERENCE, "mounted");
    Actor::User.act(|| listings_are_true(&point));
    // The listing is the same, whichever names are looked up first.
    session.umount(&point);
    let point = session.mount(REFERENCE, "mounted");
    Actor::User.act(|| {
        let mut paths = vec![];
        each_directory(&point, &mut |directory, _| paths.push(directory.to_owned()));
        paths.iter().rev().for_each(|path| assert!(lstat(path.join("..")).is_ok(), "{}/..", path.display()));
        listings_are_true(&point);
    });
    session.umount(&point);
}

fn records_of_merged_and_single_directories_are_what_stat_says() {
    listings_of_an_image_are_true(merged_tree().path());
}

fn records_of_a_debian_are_what_stat_says() {
    listings_of_an_image_are_true(&Image::Corners.layout());
}
