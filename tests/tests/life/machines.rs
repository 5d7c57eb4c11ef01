//! Machines beside a collector that never rests.

use std::path::Path;
use std::time::Duration;

use end_to_end::session::Started;
use end_to_end::soundness::{leftovers, sound_layers};
use end_to_end::{Image, Session};

use super::beside_a_collector;

const REFERENCE: &str = "lamina.test/image:1";

const MACHINES: usize = 5;

/// Starts a guest that says that it runs, waits for a word, and then reads what it has not read before.
fn start(session: &Session, shared: &Path, name: &str, options: &[&str]) -> Started {
    let share = format!("{}:/media", shared.display());
    let script = format!(
        "echo here > /media/{name}; while [ ! -e /media/go ]; do sleep 0.2; done; \
         cat /usr/bin/[a-d]* /usr/lib/os-release | wc -c > /media/{name}; grep -c . /etc/passwd"
    );
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--memory", "256M", "-v", &share]);
    lamina.args(options).args([REFERENCE, "--", "/bin/sh", "-c", &script]);
    session.start(lamina)
}

#[test]
fn five_machines_lose_nothing_to_a_collector_in_a_loop() {
    let session = Session::user();
    session.import(&Image::Debian.layout(), REFERENCE);
    let layers = sound_layers(&session.store()).len();
    let shared = session.work("shared");
    // The last of them has a store of its own, in which nothing is but a base, and reads this one also.
    let (own, store) = (session.work("own-store"), session.store());
    let borrowed = ["--store", own.to_str().unwrap(), "--also-read", store.to_str().unwrap()];
    let pause = Duration::from_millis(20);
    let ((), collections) = beside_a_collector(&session, pause, || {
        let machines = (0..MACHINES).map(|number| {
            let options: &[&str] = if number + 1 == MACHINES { &borrowed } else { &[] };
            start(&session, &shared, &format!("machine-{number}"), options)
        });
        let mut machines: Vec<Started> = machines.collect();
        for (number, machine) in machines.iter_mut().enumerate() {
            while !shared.join(format!("machine-{number}")).exists() {
                let ended = machine.child.try_wait().expect("the machine's state");
                assert!(ended.is_none(), "machine {number} ended early: {ended:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // From here on nothing but the machines needs the image.
        session.ok(["rmi", REFERENCE]);
        session.ok(["gc"]);
        assert_eq!(sound_layers(&session.store()).len(), layers);
        std::fs::write(shared.join("go"), "").expect("the word to go on");
        let finished: Vec<_> = machines.into_iter().map(|machine| machine.finish().succeeded()).collect();
        let read = |number| std::fs::read_to_string(shared.join(format!("machine-{number}"))).expect("what was read");
        for (number, each) in finished.iter().enumerate() {
            assert_eq!((&each.stdout, read(number)), (&finished[0].stdout, read(0)), "{each}");
        }
    });
    assert!(collections > MACHINES, "{collections} collections");
    assert_eq!(sound_layers(&own), Vec::<String>::new(), "no layer was copied");
    session.ok(["gc"]);
    assert_eq!(sound_layers(&session.store()), Vec::<String>::new());
    assert_eq!(leftovers(&session.store()), Vec::<std::path::PathBuf>::new());
    session.traces().assert_nothing_left();
}
