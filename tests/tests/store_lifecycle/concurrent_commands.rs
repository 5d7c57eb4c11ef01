//! Many processes that need the same thing: one makes it, the others wait for that one only.

use std::collections::BTreeSet;

use end_to_end::Started;
use end_to_end::{Finished, Inventory, Registry, Session};
use layer_store::FaultPoint;
use rustix::process::Signal;

use super::shared_content::{BORROWER, DONOR, Twins};
use super::{Images, top};

const PROCESSES: usize = 32;

/// Starts a command that stops where it holds a lock.
fn holder(session: &Session, point: FaultPoint, arguments: &[&str]) -> Started {
    let holder = session.start(session.faulty(point, true, arguments));
    holder.await_stop();
    holder
}

/// Starts the other processes; returns when each has said what it waits for.
fn waiters(session: &Session, arguments: &[&str], count: usize, awaited: &str) -> Vec<Started> {
    let mut waiters: Vec<Started> = (0..count).map(|_| session.start(session.lamina(arguments))).collect();
    for waiter in &mut waiters {
        let line = waiter.await_line("waiting for another");
        assert!(line.contains(awaited), "a waiter says what it waits for: {line}");
    }
    waiters
}

fn finish(started: Vec<Started>) -> Vec<Finished> {
    started.into_iter().map(|each| each.finish().succeeded()).collect()
}

fn assert_each_fetched_once<'a>(registry: &Registry, layers: impl IntoIterator<Item = &'a String>) {
    let fetched = registry.fetched_blobs();
    for layer in layers.into_iter().collect::<BTreeSet<_>>() {
        assert_eq!(fetched.iter().filter(|digest| *digest == layer).count(), 1, "fetches of {layer}: {fetched:?}");
    }
}

#[test]
fn thirty_two_cold_pulls_of_one_tag_fetch_each_layer_once() {
    let (registry, session, images) = (Registry::plain(), Session::user(), Images::new());
    let reference = registry.push_layout(images.first.path(), "test/first", "1");
    let pull = ["pull", "--quiet", &reference];
    let first = holder(&session, FaultPoint::LayerClaimed, &pull);
    // The layer that was claimed is one of two; its name is in the message of each process that waits.
    let others = waiters(&session, &pull, PROCESSES - 1, "brings in layer");
    first.signal(Signal::CONT);
    let finished = finish([vec![first], others].into_iter().flatten().collect());
    assert!(finished.iter().all(|each| each.stdout == format!("{reference}\n")), "{}", finished[0]);
    assert_each_fetched_once(&registry, images.first.layer_digests());
    session.traces().assert_nothing_left();
}

#[test]
fn thirty_two_cold_prepares_make_one_base_and_print_it() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), "lamina.test/first:1");
    let prepare = ["--verbose", "prepare", "lamina.test/first:1"];
    let first = holder(&session, FaultPoint::BaseClaimed, &prepare);
    let others = waiters(&session, &prepare, PROCESSES - 1, "prepares lamina.test/first:1");
    first.signal(Signal::CONT);
    let finished = finish([vec![first], others].into_iter().flatten().collect());
    let printed: BTreeSet<&str> = finished.iter().map(|each| each.stdout.as_str()).collect();
    assert_eq!(printed.len(), 1, "{printed:?}");
    let made: usize = finished.iter().map(|each| each.stderr.matches("prepared base").count()).sum();
    assert_eq!(made, 1, "preparations");
    session.traces().assert_nothing_left();
}

#[test]
fn images_pulled_together_fetch_the_layer_that_they_share_once() {
    let (registry, session, images) = (Registry::plain(), Session::user(), Images::new());
    let first = registry.push_layout(images.first.path(), "test/first", "1");
    let second = registry.push_layout(images.second.path(), "test/second", "1");
    // One at a time, the largest first, so the shared one is claimed.
    let one = holder(&session, FaultPoint::LayerClaimed, &["pull", "--parallel=1", &first]);
    let shared = &images.first.layer_digests()[0]["sha256:".len()..][..12];
    let other = waiters(&session, &["pull", "--parallel=1", &second], 1, shared);
    one.signal(Signal::CONT);
    finish([vec![one], other].into_iter().flatten().collect());
    assert_each_fetched_once(&registry, images.first.layer_digests().iter().chain(images.second.layer_digests()));
}

#[test]
fn killed_holder_is_followed_by_the_one_that_waited() {
    let (registry, session, images) = (Registry::plain(), Session::user(), Images::new());
    let reference = registry.push_layout(images.first.path(), "test/first", "1");
    // One layer at a time: no other thread has begun to fetch another when the process stops.
    let steps: [(FaultPoint, &[&str]); 2] = [
        (FaultPoint::LayerClaimed, &["pull", "--parallel=1", &reference]),
        (FaultPoint::BaseClaimed, &["prepare", &reference]),
    ];
    for (point, arguments) in steps {
        let killed = holder(&session, point, arguments);
        let next = waiters(&session, arguments, 1, "");
        killed.signal(Signal::KILL);
        assert!(!killed.finish().status.success());
        finish(next);
    }
    assert_each_fetched_once(&registry, images.first.layer_digests());
}

#[test]
fn store_that_two_make_has_what_the_first_has_noted_in_it() {
    let (session, twins) = (Session::user(), Twins::new());
    // It has seen that there is no store, and creates one after another process has done so.
    let import = ["import", twins.donor.path().to_str().unwrap(), "--tag", DONOR];
    let late = holder(&session, FaultPoint::StoreSought, &import);
    session.import(twins.donor.path(), DONOR);
    session.import(twins.borrower.path(), BORROWER);
    let noted = || std::fs::read_to_string(session.store().join("store.json")).expect("store.json");
    let before = noted();
    assert!(before.contains("thin-layers"), "{before}");
    late.signal(Signal::CONT);
    finish(vec![late]);
    assert_eq!(noted(), before);
}

#[test]
fn waiter_for_an_index_says_so() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), "lamina.test/first:1");
    for layer in Inventory::of(&session.store()).layers() {
        std::fs::remove_file(session.store().join(layer).join("index")).expect("an index");
    }
    let stopped = holder(&session, FaultPoint::IndexRemade, &["prepare", "lamina.test/first:1"]);
    // Another base of the same layers.
    let directory = top(&session, "a variant");
    let variant = ["prepare", "lamina.test/first:1", "--layer", directory.to_str().unwrap()];
    let waiters = waiters(&session, &variant, 1, "makes the index of layer");
    stopped.signal(Signal::CONT);
    finish([vec![stopped], waiters].into_iter().flatten().collect());
}

#[test]
fn variants_and_images_do_not_wait_for_each_other() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), "lamina.test/first:1");
    session.import(images.second.path(), "lamina.test/second:1");
    let stopped = holder(&session, FaultPoint::BaseClaimed, &["prepare", "lamina.test/first:1"]);
    let directory = top(&session, "a variant");
    let variant = session.ok(["prepare", "lamina.test/first:1", "--layer", directory.to_str().unwrap()]);
    let other_image = session.ok(["prepare", "lamina.test/second:1"]);
    stopped.signal(Signal::CONT);
    let plain = stopped.finish().succeeded().stdout;
    assert_eq!([&plain, &variant, &other_image].into_iter().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn damaged_base_that_several_open_is_made_anew_by_one_and_opened_by_all() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), "lamina.test/first:1");
    session.import(images.second.path(), "lamina.test/second:1");
    let index = |base: String| {
        let base = base.trim().trim_start_matches("sha256:").to_owned();
        session.store().join("bases").join(base).join("index")
    };
    let [first, second] =
        ["first", "second"].map(|name| index(session.ok(["prepare", &format!("lamina.test/{name}:1")])));
    // A sound base, but of other layers: only opening it with its layers shows that.
    std::fs::copy(&second, &first).expect("the base of another image");
    let directories = [session.work("one"), session.work("other")].map(|directory| directory.join("tree"));
    let [one, other] = [0, 1].map(|number| {
        let directory = directories[number].to_str().expect("a plain path");
        ["materialize", "--without-owners", "--verbose", "lamina.test/first:1", directory].map(str::to_owned)
    });
    let start = |arguments: &[String; 5], point| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        holder(&session, point, &arguments)
    };
    let late = start(&one, FaultPoint::BaseRefused);
    let maker = start(&other, FaultPoint::BasePublished);
    let mut late = late;
    late.signal(Signal::CONT);
    let line = late.await_line("waiting for another");
    assert!(line.contains("makes base"), "{line}");
    maker.signal(Signal::CONT);
    let finished = finish(vec![maker, late]);
    let made: usize = finished.iter().map(|each| each.stderr.matches("prepared base").count()).sum();
    assert_eq!(made, 1, "preparations");
    let [one, other] = directories.map(|directory| session.tree(&directory).to_string());
    assert!(one == other);
}
