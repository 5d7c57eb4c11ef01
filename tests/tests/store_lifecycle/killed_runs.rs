//! Processes killed while they run an image or write it outside of the store.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use end_to_end::layout::Layer;
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Finished, Layout, Session};
use layer_store::FaultPoint;

use super::Images;

const IMAGE: &str = "lamina.test/image:1";

/// The points that only a run of an image reaches.
pub(super) const RUNNING: [FaultPoint; 6] = [
    FaultPoint::PinStaged,
    FaultPoint::PinPublished,
    FaultPoint::PinRemoved,
    FaultPoint::BlockImageStaged,
    FaultPoint::TreeStaged,
    FaultPoint::TreeBesideBase,
];

/// The points that only a command that writes an image outside of the store reaches.
pub(super) const WRITING_ELSEWHERE: [FaultPoint; 2] = [FaultPoint::TreeBeside, FaultPoint::ExportStaged];

fn kill(session: &Session, point: FaultPoint, arguments: &[&str]) {
    let killed = Finished::of(&mut session.faulty(point, false, arguments));
    assert_eq!(killed.status.signal(), Some(9), "{point:?} is on the way of {arguments:?}\n{killed}");
}

fn assert_empty(session: &Session) {
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
    for name in ["bases", "pins", "manifests/sha256"] {
        let left = std::fs::read_dir(session.store().join(name)).into_iter().flatten().count();
        assert_eq!(left, 0, "{name}");
    }
    session.traces().assert_nothing_left();
}

/// A machine that keeps its base.
const PINNED: [&str; 11] =
    ["run", "--accel", "tcg", "--network", "none", "--keep=64M", "--name", "m", IMAGE, "--", "true"];

#[test]
fn machine_killed_at_its_pin_keeps_its_base_for_as_long_as_it_is_there() {
    let images = Images::new();
    for point in [FaultPoint::PinStaged, FaultPoint::PinPublished, FaultPoint::PinRemoved] {
        let session = Session::user();
        session.import(images.first.path(), IMAGE);
        let is_pinned = point != FaultPoint::PinStaged;
        kill(&session, if is_pinned { FaultPoint::PinPublished } else { point }, &PINNED);
        session.ok(["rmi", IMAGE]);
        session.ok(["gc"]);
        let held = sound_layers(&session.store());
        assert_eq!(held.len(), if is_pinned { 2 } else { 0 }, "{point:?}");
        for layer in &held {
            let holders = session.ok(["gc", "--explain", layer]);
            assert!(holders.contains("machine m"), "{point:?}: {holders}");
        }
        if point == FaultPoint::PinRemoved {
            kill(&session, point, &["rm", "m"]);
        } else {
            session.ok(["rm", "m"]);
        }
        assert_empty(&session);
    }
}

#[test]
fn pins_that_cannot_be_listed_or_read_are_not_taken_for_none() {
    use std::os::unix::fs::PermissionsExt;
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    kill(&session, FaultPoint::PinPublished, &PINNED);
    session.ok(["rmi", IMAGE]);
    let pins = session.store().join("pins");
    let close = |mode| std::fs::set_permissions(&pins, PermissionsExt::from_mode(mode)).expect("the pins' mode");
    close(0o000);
    session.run(["gc"]).refused(pins.to_str().expect("a plain path"));
    close(0o755);
    let pin = std::fs::read_dir(&pins).expect("the pins").next().expect("a pin").expect("a pin").path();
    let whole = std::fs::read(&pin).expect("a pin");
    std::fs::write(&pin, "{").expect("a damaged pin");
    let refused = session.run(["gc"]);
    refused.refused(pin.to_str().expect("a plain path"));
    assert!(refused.stderr.contains("lamina ps --all"), "{refused}");
    std::fs::write(&pin, whole).expect("a pin");
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()).len(), 2);
}

#[test]
fn export_killed_at_its_end_leaves_no_layout_and_the_next_one_writes_it() {
    let (session, images) = (Session::user(), Images::new());
    session.import(images.first.path(), IMAGE);
    let layout = session.work("exports").join("layout");
    let export = ["export", IMAGE, layout.to_str().expect("a plain path")];
    kill(&session, FaultPoint::ExportStaged, &export);
    assert!(!layout.exists());
    session.ok(export);
    let again = Session::user();
    again.import(&layout, IMAGE);
    assert_eq!(sound_layers(&again.store()), sound_layers(&session.store()));
    session.ok(["rmi", IMAGE]);
    assert_empty(&session);
}

/// An image whose root is not writable, as in some distributions.
fn closed_root() -> Layout {
    Layout::of(&[Layer::of_script("mkdir etc; echo closed > etc/motd; chmod 755 etc; chmod 555 .")])
}

#[test]
fn directory_that_may_not_be_written_has_its_mode_before_it_has_its_name() {
    use std::os::unix::fs::PermissionsExt;
    let (session, image) = (Session::user(), closed_root());
    session.import(image.path(), IMAGE);
    let tree = session.work("trees").join("tree");
    let materialize = ["materialize", "--without-owners", IMAGE, tree.to_str().expect("a plain path")];
    kill(&session, FaultPoint::TreeBeside, &materialize);
    assert!(!tree.exists());
    session.ok(materialize);
    assert_eq!(tree.metadata().expect("the tree").permissions().mode() & 0o7777, 0o555);
}

#[test]
fn run_killed_while_its_root_is_made_leaves_it_to_the_next() {
    use FaultPoint as P;
    let image = closed_root();
    let cases = [("block", P::BlockImageStaged), ("materialize", P::TreeStaged), ("materialize", P::TreeBesideBase)];
    for (backend, point) in cases {
        let session = Session::user();
        session.import(image.path(), IMAGE);
        let run = ["run", "--accel", "tcg", "--network", "none", "--backend", backend, IMAGE, "--", "true"];
        // The second gets as far as the first: neither a lock nor anything else stops it.
        kill(&session, point, &run);
        kill(&session, point, &run);
        let base = session.store().join("bases").join(session.ok(["prepare", IMAGE]).trim());
        let names = std::fs::read_dir(&base).expect("the base").map(|entry| entry.expect("an entry").file_name());
        let made: Vec<_> = names.filter(|name| *name == "erofs-4.map" || *name == "tree-1-own").collect();
        assert!(made.is_empty(), "{point:?}: {made:?}");
        let beside = || std::fs::read_dir(&base).expect("the base").count() - 2;
        assert_eq!(
            beside(),
            usize::from(point == P::TreeBesideBase),
            "{point:?}: the second took away what the first left"
        );
        session.ok(["rmi", IMAGE]);
        // Removes ephemeral machines that have ended.
        session.ok(["ps"]);
        assert_empty(&session);
    }
}
