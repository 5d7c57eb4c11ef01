//! Shares behave as bind mounts do: the host's changes are seen at once, and the command's user may write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use end_to_end::{Actor, Engine, Image, on_engines};

use crate::fixture::Machines;

on_engines! {
    with_shares: what_the_host_replaces_renames_or_removes_is_seen_by_the_next_open;
    [qemu cloud_hypervisor]: the_commands_user_may_write_and_setting_owners_succeeds;
}

/// A file of the ordinary user.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    Actor::User.own(path);
}

fn what_the_host_replaces_renames_or_removes_is_seen_by_the_next_open(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let shared = session.work("shared");
    let single = session.work("single").join("file");
    let put = |name: &str, text: &str| write(&shared.join(name), text);
    std::fs::create_dir(shared.join("directory")).unwrap();
    Actor::User.own(&shared.join("directory"));
    for name in ["replaced", "removed", "renamed", "directory/inside", "longer"] {
        put(name, "before");
    }
    write(&single, "before");
    let volumes = [format!("{}:/s", shared.display()), format!("{}:/etc/single", single.display())];
    machines.sleeper("m", &["--network", "none", "-v", &volumes[0], "-v", &volumes[1]]);
    let look = "cd /s; for path in replaced removed renamed directory/inside longer missing moved /etc/single; do \
        echo $path $(cat $path 2>&1 | tail -c 12); test -e $path && stat -c %s $path; done";
    let first = machines.session.exec("m", look).stdout;
    // Known in the guest now, and asked for once more, so that nothing is missing from its caches.
    assert_eq!(machines.session.exec("m", look).stdout, first);
    put("new", "after");
    std::fs::rename(shared.join("new"), shared.join("replaced")).unwrap();
    std::fs::remove_file(shared.join("removed")).unwrap();
    std::fs::rename(shared.join("renamed"), shared.join("moved")).unwrap();
    std::fs::remove_dir_all(shared.join("directory")).unwrap();
    put("longer", "longer than before");
    put("missing", "here");
    std::fs::write(&single, "after in place").unwrap();
    let seen = machines.session.exec("m", look).stdout;
    let gone = |name: &str| format!("{name} r directory\n");
    let expected = [
        "replaced after\n5\n".to_owned(),
        gone("removed"),
        gone("renamed"),
        gone("directory/inside"),
        "longer than before\n18\n".to_owned(),
        "missing here\n4\nmoved before\n6\n/etc/single ter in place\n14\n".to_owned(),
    ];
    let expected = expected.concat();
    assert_eq!(seen, expected);
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

fn the_commands_user_may_write_and_setting_owners_succeeds(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let shared = session.work("shared");
    let single = session.work("single").join("file");
    write(&single, "first\n");
    let volumes = [format!("{}:/s", shared.display()), format!("{}:/srv/file", single.display())];
    let run = |options: &[&str], script: &str| {
        let fixed = ["--network", "none", "-w", "/", "-v", &volumes[0], "-v", &volumes[1]];
        machines.run(&[&fixed[..], options].concat(), &["/bin/sh", "-ec", script])
    };
    // By number, and by a name that only the image knows.
    for (user, ids) in [("1000:1000", "1000 1000"), ("daemon", "1 1")] {
        let script = "id -u > /s/made; mkdir /s/deep; mv /s/made /s/deep; echo more >> /srv/file
            stat -c '%u %g' /s/deep/made; rm -r /s/deep; touch /s/left";
        assert_eq!(run(&["-u", user], script).succeeded().stdout, format!("{ids}\n"), "{user}");
    }
    // Root of the guest may do the same with every owner, and its tools do not fail because of owners.
    let script = "touch /s/root; chown 1000:1000 /s/root; mkdir /tmp/z; echo z > /tmp/z/f; chown 7:8 /tmp/z/f
        cp -a /tmp/z /s/; tar -C /tmp -cf - z | tar -C /s -xf -; install -o 33 -g 33 /tmp/z/f /s/installed
        chown -R www-data: /s; cat /s/z/f";
    assert_eq!(run(&["-u", "0:0"], script).succeeded().stdout, "z\n");
    // An owner that the option names: for an entrypoint that begins as root and goes on as another user.
    let owned = format!("{}:/data:uid=33,gid=33", shared.display());
    let script = "chown www-data: /data; setpriv --reuid 33 --regid 33 --clear-groups sh -c 'echo own > /data/own'";
    run(&["-v", &owned, "-u", "0:0"], script).succeeded();
    let (uid, gid) = Actor::User.ids();
    for name in ["left", "root", "z/f", "installed", "own"] {
        let made = shared.join(name).metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (uid, gid), "{name}");
    }
    assert_eq!(std::fs::read_to_string(&single).unwrap(), "first\nmore\nmore\n");
    // No user of the guest may do what the host's user may not do.
    let roots = session.work("roots");
    Actor::Root.own(&roots);
    let volume = format!("{}:/roots", roots.display());
    let refused = run(&["-v", &volume, "-u", "0:0"], "touch /roots/made");
    assert!(!refused.status.success() && !roots.join("made").exists(), "{refused}");
    session.traces().assert_nothing_left();
}
