//! Machines that keep what they write: they are started again, their changes are listed, and committed as an image.

use std::collections::BTreeSet;
use std::path::Path;

use end_to_end::store_checks::sound_layers;
use end_to_end::{Engine, Finished, Image, on_engines};

use crate::fixture::{Machines, REFERENCE};

on_engines! {
    every:
        kept_machine_has_what_it_wrote_after_its_end_and_gives_it_to_a_new_image,
        kept_machine_and_its_image_outlive_a_collection_in_the_store_that_lent_the_base;
    with_kernel: full_disk_is_an_error_in_the_guest_and_a_machine_without_one_has_nothing_to_commit;
    [qemu container]: name_servers_that_a_user_chose_are_there_after_a_start_and_removed_ones_are_ours_again;
    every: machine_on_layers_of_a_store_that_is_read_also_stays_and_is_committed_to_its_own;
}

/// What `find` prints of each file; of directories neither size nor links, which differ between file systems.
const LOOK: &str = "-type d -printf '/%P %y %m %U:%G\\n' -o -printf '/%P %y %m %U:%G %s %T@ %l\\n'";

/// Changes of every kind; prints the root afterwards, and does nothing at a second start.
const CHANGES: &str = "
    test -e /srv/added && { cat /srv/added; exit 3; }
    echo first > /srv/added && chmod 4750 /srv/added && chown daemon:games /srv/added
    mkdir -p /srv/tree/deep && ln /srv/added /srv/tree/hard && ln -s ../added /srv/tree/soft && mkfifo /srv/tree/fifo
    mknod /srv/tree/null c 1 3
    touch -d '1999-12-31 23:59:58.123456789' /srv/tree/deep
    rm -rf /usr/share/doc && mkdir /usr/share/doc && echo only > /usr/share/doc/only
    rm /etc/debian_version && chmod 700 /etc/passwd && echo more >> /etc/issue
    mv /usr/share/zoneinfo /srv/moved 2>/dev/null || cp -a /etc/default /srv/moved
    python3 -c 'import os; os.setxattr(\"/srv/added\", \"user.note\", b\"\\x00\\xff\")
os.setxattr(\"/srv/added\", \"security.capability\", bytes.fromhex(\"0100000200200000000000000000000000000000\"))'
    for top in etc usr/share srv var; do echo \"== $top\"; find /$top -xdev LOOK; done
";

/// What init, not the user, puts into a guest.
const OF_INIT: [&str; 4] = ["hosts", "hostname", "mtab", "resolv.conf"];

/// The lines of `find` below one top directory.
fn below(text: &str, top: &str) -> BTreeSet<String> {
    let lines = text.lines().skip_while(|line| *line != format!("== {top}")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("== "));
    let of_init = |line: &&str| top == "etc" && OF_INIT.iter().any(|name| line.starts_with(&format!("/{name} ")));
    lines.filter(|line| !of_init(line)).map(str::to_owned).collect()
}

fn kept_machine_has_what_it_wrote_after_its_end_and_gives_it_to_a_new_image(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let script = CHANGES.replace("LOOK", LOOK);
    let in_guest = machines.ok(&["--keep=300M", "--name", "m", "-e", "SECRET=hush"], &script);
    assert_eq!(machines.session.seen("m")["status"], 0);
    // What init does at a later start is not a change either.
    session.ok(["start", "m"]);
    assert_eq!(session.ok(["wait", "m"]), "3\n");
    assert_eq!(session.ok(["logs", "m"]), "first\n");

    // Files are copied out of it, and into it, while it does not run.
    let copied = session.work("copied");
    let added = copied.join("added");
    session.ok(["cp", "m:/srv/added", added.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&added).unwrap(), "first\n");
    session.ok(["cp", "m:/srv/tree", copied.join("tree").to_str().unwrap()]);
    assert_eq!(std::fs::read_link(copied.join("tree/soft")).unwrap(), Path::new("../added"));
    let refused = session.run(["cp", "m:/nowhere", copied.join("x").to_str().unwrap()]);
    assert!(refused.stderr.contains("/nowhere: No such file"), "{refused}");
    session.ok(["cp", added.to_str().unwrap(), "m:/srv/given"]);
    assert_eq!(session.ok(["cp", "m:/srv/given", "-"]).matches("first").count(), 1);
    assert_eq!(
        (&machines.session.seen("m")["state"], &machines.session.seen("m")["status"]),
        (&"exited".into(), &3.into())
    );

    let listed = session.ok(["diff", "m"]);
    let lines: BTreeSet<&str> = listed.lines().collect();
    let expected = [
        "A /srv/added",
        "A /srv/given",
        "A /srv/tree/hard",
        "C /usr/share/doc",
        "A /usr/share/doc/only",
        "C /etc/passwd",
    ];
    for line in expected.into_iter().chain(["D /etc/debian_version", "D /usr/share/doc/python3", "C /etc/issue"]) {
        assert!(lines.contains(line), "{line} is not in {listed}");
    }
    let untouched = |line: &&str| line.contains("/etc/hosts") || line.contains("resolv.conf") || line.contains("/proc");
    assert_eq!(listed.lines().find(untouched), None);
    assert_eq!(machines.session.seen("m")["status"], 3, "a look does not change how it ended");

    session.ok(["commit", "--message", "as tested", "m", "lamina.test/committed:1"]);
    let inspected: serde_json::Value =
        serde_json::from_str(&session.ok(["inspect", "--json", "lamina.test/committed:1"])).unwrap();
    let layers = inspected["layers"].as_array().unwrap().len();
    assert_eq!(inspected["config"]["rootfs"]["diff_ids"].as_array().unwrap().len(), layers);
    assert_eq!(inspected["config"]["history"].as_array().unwrap().last().unwrap()["comment"], "as tested");
    assert!(!inspected.to_string().contains("hush"), "the environment of the run is no part of an image");
    the_image_has_what_the_guest_saw(&machines, &in_guest);

    let inspected = session.ok(["inspect", "--text", "m"]);
    assert!(!engine.has_kernel() || inspected.contains("disk "), "{inspected}");
    session.ok(["rm", "m"]);
    assert!(!machines.session.machine_directory("m").exists());
    session.traces().assert_nothing_left();
}

fn the_image_has_what_the_guest_saw(machines: &Machines, in_guest: &str) {
    let session = &machines.session;
    let point = session.mount("lamina.test/committed:1", "committed");
    let look =
        format!("cd \"$1\" && for top in etc usr/share srv var; do echo \"== $top\"; find $top -xdev {LOOK}; done");
    let mut shell = session.command(Path::new("sh"));
    let mounted = Finished::of(shell.args(["-c", &look, "sh"]).arg(&point)).succeeded().stdout;
    for top in ["etc", "usr/share", "srv", "var"] {
        let (mut seen, expected) = (below(&mounted, top), below(in_guest, top));
        // `cp` put it there after the guest had looked.
        seen.retain(|line| !(top == "srv" && line.starts_with("/given ")));
        assert!(expected.len() > 3, "{in_guest}");
        let differ: Vec<_> = seen.symmetric_difference(&expected).take(10).collect();
        assert!(differ.is_empty(), "/{top} differs: {differ:#?}");
    }
    let stat = |name: &str| {
        let mut stat = session.command(Path::new("stat"));
        Finished::of(stat.args(["-c", "%i %h"]).arg(point.join(name))).succeeded().stdout
    };
    assert_eq!(stat("srv/added"), stat("srv/tree/hard"), "hard links stay hard links");
    let mut getfattr = session.command(Path::new("getfattr"));
    let getfattr = getfattr.args(["-d", "-m", "-", "-e", "hex", "--absolute-names"]).arg(point.join("srv/added"));
    let attributes = Finished::of(getfattr).succeeded().stdout;
    assert!(attributes.contains("user.note=0x00ff"), "{attributes}");
    assert!(attributes.contains("security.capability=0x01000002002"), "{attributes}");
    session.umount(&point);
}

/// What a machine wrote is useless without the image below it, which was in a store whose owner collects garbage.
fn kept_machine_and_its_image_outlive_a_collection_in_the_store_that_lent_the_base(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let (lender, own) = (session.store(), session.work("own"));
    let options = ["--store", own.to_str().unwrap(), "--also-read", lender.to_str().unwrap()];
    let beside = |arguments: &[&str]| session.ok(options.iter().chain(arguments));
    let script = "test -e /srv/kept && exit 3; echo kept > /srv/kept";
    let keep = ["--keep=64M", "--name", "m", "-u", "0:0", REFERENCE, "--", "/bin/sh", "-c", script];
    beside(&[&["run"], engine.options(), &keep].concat());
    beside(&["commit", "m", "lamina.test/committed:1"]);
    session.ok(["rmi", REFERENCE]);
    session.ok(["gc"]);
    assert_eq!(sound_layers(&lender), Vec::<String>::new());

    let listed = beside(&["diff", "m"]);
    assert!(listed.contains("A /srv/kept"), "{listed}");
    beside(&["start", "m"]);
    assert_eq!(beside(&["wait", "m"]), "3\n");
    beside(&["verify", "lamina.test/committed:1"]);
    beside(&["prepare", "lamina.test/committed:1"]);
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

fn full_disk_is_an_error_in_the_guest_and_a_machine_without_one_has_nothing_to_commit(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let fill =
        "head -c 200000000 /dev/urandom > /fill; echo status $?; rm /fill; sync; echo small > /fits && cat /fits";
    let options = ["--keep=64M", "--name", "m", "-u", "0:0", "-w", "/"];
    let finished = machines.run(&options, &["/bin/sh", "-c", fill]);
    assert!(finished.stderr.contains("No space left on device"), "{finished}");
    assert_eq!(finished.stdout, "status 1\nsmall\n", "{finished}");
    assert_eq!(session.ok(["diff", "m"]), "A /fits\n");
    session.ok(["rm", "m"]);

    machines.sleeper("passing", &[]);
    machines.session.exec("passing", "echo x > /srv/x").succeeded();
    assert_eq!(session.ok(["diff", "passing"]), "C /srv\nA /srv/x\n");
    session.ok(["commit", "passing", "lamina.test/of-a-running-one:1"]);
    session.ok(["kill", "passing"]);
    session.run(["diff", "passing"]).refused("run it with --keep");
    session.run(["commit", "passing", "lamina.test/late:1"]).refused("run it with --keep");
    session.run(["images"]).succeeded();
    assert!(!session.ok(["images"]).contains("late"));
    session.ok(["rm", "passing"]);
    session.traces().assert_nothing_left();
}

/// As with docker, later starts leave alone what users have written to `/etc/resolv.conf`.
fn name_servers_that_a_user_chose_are_there_after_a_start_and_removed_ones_are_ours_again(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let script = "cat /etc/resolv.conf; case $(cat /srv/starts 2>/dev/null) in
        '') rm /etc/resolv.conf; echo nameserver 192.0.2.1 > /etc/resolv.conf; echo 1 > /srv/starts ;;
        1) ln -sf /run/mine /etc/resolv.conf; echo 2 > /srv/starts ;;
        2) readlink /etc/resolv.conf; rm /etc/resolv.conf; echo 3 > /srv/starts ;; esac";
    let ours = machines.ok(&["--keep=64M", "--name", "m"], script);
    assert!(ours.starts_with("nameserver 10.0.2."), "{ours}");
    let again = || session.run(["start", "--attach", "m"]).stdout;
    assert_eq!(again(), "nameserver 192.0.2.1\n");
    assert_eq!(again(), "/run/mine\n");
    assert_eq!(again(), ours);
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

fn machine_on_layers_of_a_store_that_is_read_also_stays_and_is_committed_to_its_own(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let own = session.work("own").display().to_string();
    let lent = session.store().display().to_string();
    let stores = ["--store", own.as_str(), "--also-read", lent.as_str()];
    let detach = ["--detach", "--name", "m", "-u", "0:0", "-w", "/", REFERENCE, "--", "sleep", "1000"];
    session.ok([&stores[..], &["run"], engine.options(), &detach].concat());
    machines.session.exec("m", "echo x > /srv/x").succeeded();
    // The machine itself knows where its layers are.
    session.ok(["--store", own.as_str(), "commit", "m", "lamina.test/own:1"]);
    session.ok(["rm", "--force", "m"]);
    let images = session.ok(["--store", own.as_str(), "images"]);
    assert!(images.contains("lamina.test/own:1") && !images.contains(REFERENCE), "{images}");
    assert!(!session.ok(["images"]).contains("lamina.test/own:1"));
}
