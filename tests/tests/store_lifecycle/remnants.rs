//! Remnants of layers that others borrow from, when the layer is stored again and lends more content.

use std::path::PathBuf;
use std::time::Duration;

use end_to_end::layout::{Layer, noise};
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Layout, Session};
use layer_store::FaultPoint;
use rustix::process::Signal;

const LENDER: &str = "lamina.test/lender:1";
const FIRST: &str = "lamina.test/first:1";
const LATER: &str = "lamina.test/later:1";

/// A lender with a part that `first` borrows and a larger one that `later` borrows.
struct Lending {
    lender: Layer,
    first: Layer,
    later: Layer,
}

impl Lending {
    /// A thin lender repeats a file.
    fn new(is_thin: bool) -> Self {
        Self::of(is_thin, 2_000_000)
    }

    fn of(is_thin: bool, large: usize) -> Self {
        let (common, large) = (noise(70, 400_000), noise(71, large));
        let mut files = vec![("common", &common[..]), ("large", &large[..])];
        if is_thin {
            files.push(("twice", &common));
        }
        let first = Layer::of_files(&[("first", &noise(72, 5_000)), ("moved/common", &common)]);
        let later = Layer::of_files(&[("later", &noise(73, 5_000)), ("moved/large", &large)]);
        Self { lender: Layer::of_files(&files), first, later }
    }
}

fn import(session: &Session, layer: &Layer, reference: &str) {
    session.import(Layout::of(std::slice::from_ref(layer)).path(), reference);
}

#[test]
fn layer_that_borrows_while_a_rest_is_made_smaller_keeps_its_bytes() {
    // The lender is stored again whole, or thin: then its borrowers look in its remnant.
    for (is_thin, goes_again) in [(true, false), (false, true)] {
        let (session, lending) = (Session::user(), Lending::new(is_thin));
        import(&session, &lending.lender, LENDER);
        import(&session, &lending.first, FIRST);
        session.ok(["rmi", LENDER]);
        let collector = session.start(session.faulty(FaultPoint::RemnantCopied, true, &["gc"]));
        collector.await_stop();
        import(&session, &lending.lender, LENDER);
        assert_eq!(session.layer_file(&lending.lender, "thin").exists(), is_thin);
        import(&session, &lending.later, LATER);
        assert!(session.layer_file(&lending.later, "thin").exists(), "it borrows");
        if goes_again {
            session.ok(["rmi", LENDER]);
            session.ok(["gc"]);
        }
        collector.signal(Signal::CONT);
        collector.finish().succeeded();
        // Its layers are read here, and their digests checked.
        let whole = sound_layers(&session.store());
        assert!([&lending.first, &lending.later].iter().all(|layer| whole.contains(&layer.diff_id())), "{whole:?}");
        session.ok(["verify"]);
        session.ok(["gc"]);
        session.ok(["verify"]);
        for name in [FIRST, LATER] {
            session.ok(["rmi", name]);
        }
        let _ = session.run(["rmi", LENDER]);
        session.ok(["gc"]);
        assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
        assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
    }
}

#[test]
fn layer_that_nothing_leads_to_any_more_and_is_not_collected_keeps_what_it_borrowed() {
    let (session, lending) = (Session::user(), Lending::new(true));
    import(&session, &lending.lender, LENDER);
    import(&session, &lending.first, FIRST);
    session.ok(["rmi", LENDER]);
    let collector = session.start(session.faulty(FaultPoint::RemnantCopied, true, &["gc"]));
    collector.await_stop();
    import(&session, &lending.lender, LENDER);
    import(&session, &lending.later, LATER);
    session.ok(["rmi", LENDER]);
    // Collects what was stored again, and leaves the remnant as it is.
    session.ok(["gc"]);
    session.ok(["rmi", LATER]);
    collector.signal(Signal::CONT);
    collector.finish().succeeded();
    import(&session, &lending.later, LATER);
    session.ok(["verify"]);
    let whole = sound_layers(&session.store());
    assert!([&lending.first, &lending.later].iter().all(|layer| whole.contains(&layer.diff_id())), "{whole:?}");
}

#[test]
fn lender_that_goes_while_its_borrower_is_opened_is_found() {
    let (session, lending) = (Session::user(), Lending::new(true));
    import(&session, &lending.lender, LENDER);
    import(&session, &lending.first, FIRST);
    let tree = session.work("trees").join("tree");
    let arguments = ["materialize", "--without-owners", FIRST, tree.to_str().expect("a plain path")];
    let reader = session.start(session.faulty(FaultPoint::DonorSought, true, &arguments));
    reader.await_stop();
    session.ok(["rmi", LENDER]);
    session.ok(["gc"]);
    assert!(session.layer_file(&lending.lender, "rest").exists());
    reader.signal(Signal::CONT);
    reader.finish().succeeded();
    assert!(std::fs::read(tree.join("moved/common")).expect("content") == noise(70, 400_000));
}

#[test]
fn nothing_is_borrowed_from_a_rest_because_another_store_has_the_layer() {
    // Copying would save too little: for now the remnant has everything that the layer had.
    let (session, other, lending) = (Session::user(), Session::user(), Lending::of(false, 600_000));
    import(&other, &lending.lender, LENDER);
    import(&session, &lending.lender, LENDER);
    import(&session, &lending.first, FIRST);
    let later = Layout::of(std::slice::from_ref(&lending.later));
    let arguments = ["import", later.path().to_str().expect("a plain path"), "--tag", LATER];
    let mut command = session.faulty(FaultPoint::DonorChosen, true, &arguments);
    command.env("LAMINA_ALSO_READ", other.store());
    let importer = session.start(command);
    importer.await_stop();
    session.ok(["rmi", LENDER]);
    session.ok(["gc"]);
    importer.signal(Signal::CONT);
    importer.finish().succeeded();
    assert!(session.layer_file(&lending.lender, "rest").exists());
    assert!(session.layer_file(&lending.later, "blob").exists(), "it came in whole");
    session.ok(["gc"]);
    assert_eq!(session.ok(["verify"]), "2 layers are intact\n");
}

const WORKERS: usize = 4;
const ROUNDS: usize = 14;

/// Layers of which each has content of two others, and so much of its own that removing it from its remnant is
/// worthwhile.
struct Relatives {
    parts: [Vec<u8>; 4],
    layouts: Vec<Layout>,
}

impl Relatives {
    /// Which parts each layer has; one repeats a part.
    const PARTS: [&[usize]; 5] = [&[0, 1], &[2, 0], &[1, 3], &[3, 2, 3], &[0, 3]];

    fn new() -> Self {
        let parts = [(80, 200_000), (81, 1_300_000), (82, 1_400_000), (83, 150_000)];
        let parts = parts.map(|(seed, length)| noise(seed, length));
        let layout = |of: &&[usize]| {
            let names: Vec<String> = (0..of.len()).map(|place| format!("part-{place}")).collect();
            let files: Vec<(&str, &[u8])> =
                names.iter().zip(*of).map(|(name, part)| (name.as_str(), &parts[*part][..])).collect();
            Layout::of(&[Layer::of_files(&files)])
        };
        let layouts = Self::PARTS.iter().map(layout).collect();
        Self { parts, layouts }
    }

    fn assert_shown(&self, session: &Session, number: usize, root: &std::path::Path) {
        for (place, part) in Self::PARTS[number].iter().enumerate() {
            let path = root.join(format!("part-{place}"));
            assert!(session.read(&path) == self.parts[*part], "{} of layer {number}", path.display());
        }
    }

    /// Imports images under names that no other worker uses, shows them and removes the names.
    fn work(&self, session: &Session, worker: usize) {
        for round in 0..ROUNDS {
            let number = (worker + round * 2) % self.layouts.len();
            let reference = format!("lamina.test/worker-{worker}:{round}");
            session.import(self.layouts[number].path(), &reference);
            let point = session.mount(&reference, &format!("mounted-{worker}-{round}"));
            // Every second image is read when only its mount is left.
            let goes_first = round % 2 == 0;
            if goes_first {
                session.ok(["rmi", &reference]);
            }
            self.assert_shown(session, number, &point);
            session.umount(&point);
            if !goes_first {
                session.ok(["verify", &reference]);
                session.ok(["rmi", &reference]);
            }
        }
    }
}

#[test]
fn layers_that_share_content_come_and_go_beside_a_collector_and_keep_their_bytes() {
    let (session, relatives) = (Session::user(), Relatives::new());
    let (outcomes, collections) = session.beside_a_collector(Duration::from_millis(5), || {
        std::thread::scope(|scope| {
            let (session, relatives) = (&session, &relatives);
            let work = |worker| scope.spawn(move || relatives.work(session, worker));
            let workers: Vec<_> = (0..WORKERS).map(work).collect();
            workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        })
    });
    assert!(outcomes.iter().all(Result::is_ok), "a worker found something wrong");
    assert!(collections > ROUNDS, "{collections} collections");
    // The server of a mount holds its layers until it has ended.
    session.traces().assert_nothing_left();
    session.ok(["gc"]);
    assert_eq!(std::fs::read_dir(session.store().join("layers/sha256")).expect("layers").count(), 0);
    assert_eq!(leftovers(&session.store()), Vec::<PathBuf>::new());
}
