//! Many machines from one base.

use std::path::Path;

use end_to_end::{Engine, Image, on_engines};

use crate::fixture::Machines;

on_engines! {
    every: machines_of_one_base_cost_no_store_and_cannot_harm_each_other;
}

/// Enough to share, and few enough for two cores that emulate them.
const NAMES: [&str; 3] = ["m1", "m2", "m3"];

fn machines_of_one_base_cost_no_store_and_cannot_harm_each_other(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    session.ok(["prepare", crate::fixture::REFERENCE]);
    if engine == Engine::Firecracker {
        // Its root is a disk, whose metadata the first machine makes, once for a base.
        machines.run(&["--network", "none"], &["true"]).succeeded();
    }
    let kept = |session: &end_to_end::Session| {
        ["layers", "bases", "manifests", "images", "compressed"].map(|part| bytes(&session.store().join(part)))
    };
    let before = kept(session);
    let starting: Vec<_> =
        NAMES.iter().map(|name| session.start(machines.detach(name, &["-m", "192M"], "sleep 1000"))).collect();
    for started in starting {
        started.finish().succeeded();
    }
    assert_eq!(session.ok(["ps", "--quiet"]), "m1\nm2\nm3\n");
    assert_eq!(kept(session), before, "the store has grown");
    for name in NAMES {
        let size = bytes(&machines.session.machine_directory(name));
        assert!(size < 64 << 10, "{size} bytes in the directory of {name}");
    }

    // Every name, and as much content as an emulated processor hashes in a second.
    let look =
        "find / -xdev | sort | sha256sum; find /etc /usr/sbin -xdev -type f | sort | xargs sha256sum | sha256sum";
    let seen = |name| machines.session.exec(name, look).succeeded().stdout;
    let trees = [seen("m2"), seen("m3")];
    machines.session.exec("m1", "rm -rf --no-preserve-root /");
    assert_eq!(machines.session.exec("m1", "true").status.code(), Some(127), "its shell is to be gone");
    assert_eq!([seen("m2"), seen("m3")], trees);
    session.ok(["verify"]);
    assert_eq!(kept(session), before);

    session.ok(["stop", "m1", "m2", "m3"]);
    session.ok(["rm", "m1", "m2", "m3"]);
    session.run(["rm", "m1"]).refused("machine m1: no machine has this name");
    session.traces().assert_nothing_left();
}

/// Bytes of all files below a directory.
fn bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
