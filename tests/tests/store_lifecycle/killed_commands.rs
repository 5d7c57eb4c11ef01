//! Processes killed at every step, and at random moments: the next command works without repair.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Finished, Registry, Session};
use layer_store::FaultPoint;

use super::killed_runs::{RUNNING, WRITING_ELSEWHERE};
use super::shared_content::{BORROWER, DONOR, Twins};
use super::{Images, small_images, top};
use end_to_end::Random;

const FIRST: &str = "lamina.test/first:1";
const SECOND: &str = "lamina.test/second:1";

/// Prepares the session; returns the command that reaches a fault point.
fn way_to<'a>(point: FaultPoint, session: &Session, import: &'a [&'a str; 4], twins: &'a Twins) -> Vec<&'a str> {
    use FaultPoint as P;
    match point {
        P::StoreSought
        | P::StoreMade
        | P::StoreNamed
        | P::LeaseTaken
        | P::LayerClaimed
        | P::BlobBegun
        | P::BlobWritten
        | P::LayerStaged
        | P::LayerPublished
        | P::LayerKept
        | P::CompressedStaged
        | P::ManifestStaged
        | P::ManifestPublished
        | P::ImageStaged
        | P::ImagePublished
        | P::SourcesStaged => import.to_vec(),
        P::DonorChosen
        | P::SharingMapped
        | P::SharingNamed
        | P::SharingFirstPunched
        | P::SharingPunched
        | P::FeatureStaged
        | P::FeatureNoted => {
            session.import(twins.donor.path(), DONOR);
            vec!["import", twins.borrower.path().to_str().expect("a plain path"), "--tag", BORROWER]
        }
        P::RemnantKept | P::RemnantCopied | P::RemnantTrimmed => {
            session.import(twins.donor.path(), DONOR);
            session.import(twins.borrower.path(), BORROWER);
            session.ok(["rmi", DONOR]);
            vec!["gc"]
        }
        P::LayerBegun | P::LayerTarLast => {
            let again = way_to(P::RemnantKept, session, import, twins);
            session.ok(again);
            vec!["import", twins.donor.path().to_str().expect("a plain path"), "--tag", DONOR]
        }
        P::BaseClaimed | P::BaseStaged | P::RecipePublished | P::BasePublished => {
            session.ok(import);
            vec!["prepare", FIRST]
        }
        P::IndexRemade => {
            session.ok(import);
            for layer in std::fs::read_dir(session.store().join("layers/sha256")).expect("the layers") {
                std::fs::remove_file(layer.expect("a layer").path().join("index")).expect("the layer's index");
            }
            vec!["prepare", FIRST]
        }
        P::ImageRemoved => {
            session.ok(import);
            vec!["rmi", FIRST]
        }
        P::GarbageFound | P::GarbageFirstAside | P::GarbageAside | P::GarbageFirstDeleted => {
            session.ok(import);
            session.ok(["prepare", FIRST]);
            session.ok(["rmi", FIRST]);
            vec!["gc"]
        }
        _ => unreachable!("it has a test of its own"),
    }
}

#[test]
fn kill_at_every_step_leaves_a_store_that_the_next_command_uses() {
    let (images, twins) = (Images::new(), Twins::new());
    let (first, second) = (images.first.path().to_str().unwrap(), images.second.path().to_str().unwrap());
    let import = ["import", first, "--tag", FIRST];
    let undisturbed = Session::user();
    undisturbed.ok(import);
    let (base, layers) = (undisturbed.ok(["prepare", FIRST]), sound_layers(&undisturbed.store()));
    let elsewhere = [&REPAIR[..], &READING, &RUNNING, &WRITING_ELSEWHERE].concat();
    for &point in FaultPoint::ALL.iter().filter(|point| !elsewhere.contains(point)) {
        let session = Session::user();
        let arguments = way_to(point, &session, &import, &twins);
        // If a command other than the import dies, another image that shares a layer must stay whole.
        if arguments != import {
            session.import(images.second.path(), SECOND);
        }
        let killed = Finished::of(&mut session.faulty(point, false, &arguments));
        assert_eq!(killed.status.signal(), Some(9), "{point:?} is on the way of {arguments:?}\n{killed}");
        let _ = sound_layers(&session.store());

        session.ok(import);
        assert_eq!(session.ok(["prepare", FIRST]), base, "after {point:?}");
        session.ok(["import", second, "--tag", SECOND]);
        session.ok(["prepare", SECOND]);
        session.ok(["rmi", SECOND]);
        if let [_, borrower, ..] = arguments[..]
            && borrower.ends_with(twins.borrower.path().to_str().expect("a plain path"))
        {
            session.import(twins.borrower.path(), BORROWER);
        }
        for each in [DONOR, BORROWER] {
            // It may or may not have been imported.
            let removed = session.run(["rmi", each]);
            assert!(removed.status.success() || removed.stderr.contains("no image"), "after {point:?}: {removed}");
            session.ok(["gc"]);
            let _ = sound_layers(&session.store());
        }
        assert_eq!(sound_layers(&session.store()), layers, "after {point:?}");
        assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new(), "after {point:?}");
        session.traces().assert_nothing_left();
    }
}

/// The points that only a repair reaches.
const REPAIR: [FaultPoint; 4] =
    [FaultPoint::BlobRepaired, FaultPoint::IndexRepaired, FaultPoint::RepairSynced, FaultPoint::RepairFirstSuperseded];

/// The points that readers reach: `remnants.rs`, `concurrent_commands.rs` and the tests of mounts stop there.
const READING: [FaultPoint; 3] = [FaultPoint::DonorSought, FaultPoint::BaseRefused, FaultPoint::ContentAsked];

#[test]
fn repair_killed_at_any_step_leaves_the_layer_and_the_next_repair_mends_it() {
    use FaultPoint as P;
    let (registry, images) = (Registry::plain(), Images::new());
    let reference = registry.push_layout(images.first.path(), "test/first", "1");
    let session = Session::user();
    session.ok(["pull", "--quiet", &reference]);
    let (layers, base) = (sound_layers(&session.store()), session.ok(["prepare", &reference]));
    let blob = |layer: &str| session.store().join("layers").join(layer.replace(':', "/")).join("blob");
    let before = [P::LayerClaimed, P::BlobBegun, P::BlobWritten, P::LayerStaged];
    for is_there in [true, false] {
        for point in before.into_iter().chain(REPAIR) {
            let damaged = &layers[0];
            match is_there {
                // The blob itself is gone.
                false => std::fs::remove_file(blob(damaged)).expect("a blob to remove"),
                true => {
                    let file = std::fs::File::options().write(true).open(blob(damaged)).expect("a blob to damage");
                    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 600).expect("a blob to damage");
                }
            }
            let repair = ["verify", "--repair", &reference];
            let killed = Finished::of(&mut session.faulty(point, false, &repair));
            assert_eq!(killed.status.signal(), Some(9), "{point:?} is on the way\n{killed}");
            assert!(
                blob(damaged).is_file() || !is_there,
                "after {point:?}: the damaged blob stays until the new one is whole"
            );
            session.ok(["gc"]);
            session.ok(repair);
            assert_eq!(sound_layers(&session.store()), layers, "after {point:?}");
            assert_eq!(session.ok(["prepare", &reference]), base, "after {point:?}");
            session.ok(["gc"]);
            assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new(), "after {point:?}");
        }
    }
}

const ROUNDS: u32 = 300;

/// Rounds between two checks of the store.
const LOOK: u32 = 15;

#[test]
fn random_kills_never_leave_a_name_without_its_content() {
    let mut random = Random::from_environment();
    let (session, images) = (Session::user(), Images::new());
    let (first, second) = (images.first.path().to_str().unwrap(), images.second.path().to_str().unwrap());
    let twins = Twins::new();
    let [donor, borrower] = [&twins.donor, &twins.borrower].map(|layout| layout.path().to_str().unwrap());
    let registry = Registry::plain();
    let pulled = registry.push_layout(small_images()[0].path(), "test/pulled", "1");
    let top = top(&session, "a variant");
    let (top, exported) = (top.to_str().unwrap(), session.work("exports").join("layout"));
    let exported = exported.to_str().unwrap();
    let commands: [&[&str]; 18] = [
        &["import", donor, "--tag", DONOR],
        &["import", borrower, "--tag", BORROWER],
        &["import", borrower, "--tag", DONOR],
        &["rmi", DONOR],
        &["import", first, "--tag", FIRST],
        &["import", second, "--tag", SECOND],
        &["import", second, "--tag", FIRST],
        &["prepare", FIRST],
        &["prepare", SECOND],
        &["gc"],
        &["gc"],
        &["rmi", FIRST],
        &["pull", "--quiet", &pulled],
        &["verify", "--repair", &pulled],
        &["verify", "--repair", &pulled],
        &["rmi", &pulled],
        &["prepare", SECOND, "--layer", top],
        &["export", SECOND, exported],
    ];
    let mut killed = 0;
    for round in 1..=ROUNDS {
        if random.below(4) == 0 {
            damage_one_of(&session, &pulled);
        }
        let mut together: Vec<_> =
            (0..3).map(|_| session.start(session.lamina(commands[random.below(commands.len())]))).collect();
        // A command that asks a registry first takes longer to reach the store.
        let longest = [6_000, 12_000, 40_000][random.below(3)];
        for each in &mut together {
            std::thread::sleep(Duration::from_micros(random.below(longest) as u64));
            each.child.kill().expect("a child can be killed");
        }
        for each in together {
            let finished = each.finish();
            let was_killed = finished.status.signal() == Some(9);
            killed += u32::from(was_killed);
            // A layer whose pull was killed before its source was recorded.
            let refusals = ["no image", "it is not known where layer", "is not empty"];
            let is_refused = refusals.iter().any(|words| finished.stderr.contains(words));
            assert!(was_killed || finished.status.success() || is_refused, "round {round}: {finished}");
        }
        if round % LOOK == 0 {
            session.ok(["pull", "--quiet", &pulled]);
            session.ok(["verify", "--repair", &pulled]);
            let _ = std::fs::remove_dir_all(exported);
            look(&session, round);
        }
    }
    // How many depends on how fast the machine is; some must have been.
    assert!(killed > 0, "nothing was killed before its end");
}

/// Damages a layer that was pulled from a registry, if it is there.
fn damage_one_of(session: &Session, reference: &str) {
    let inspected = session.run(["inspect", reference, "--json"]);
    let image: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap_or_default();
    let Some(layer) = image["layers"][0]["diff_id"].as_str() else { return };
    let blob = session.store().join("layers").join(layer.replace(':', "/")).join("blob");
    if let Ok(file) = std::fs::File::options().write(true).open(blob) {
        std::os::unix::fs::FileExt::write_all_at(&file, b"!", 600).expect("a blob to damage");
    }
}

/// Checks that every name has its content, every layer is whole, and nothing is left of killed processes.
fn look(session: &Session, round: u32) {
    let list: serde_json::Value = serde_json::from_str(&session.ok(["images", "--json"])).expect("images --json");
    for image in list.as_array().expect("a list of images") {
        let prepared = session.run(["prepare", image["reference"].as_str().expect("a reference")]);
        assert!(prepared.status.success(), "round {round}: {prepared}");
    }
    session.ok(["gc"]);
    let _ = sound_layers(&session.store());
    assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new(), "round {round}");
}
