//! An image in `/etc/fstab`: `lamina` as the mount helper of mount(8) and of `mount.fuse3`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Layout, Session};

const REFERENCE: &str = "lamina.test/image:1";

fn session_of(actor: Actor) -> Session {
    let session = Session::new(actor);
    session.import(Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=small\n")])]).path(), REFERENCE);
    session
}

/// The line of `/proc/self/mounts` about a mount point.
fn mount_line(point: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mount table");
    mounts.lines().find(|line| line.split(' ').nth(1) == point.to_str()).map(str::to_owned)
}

/// Runs a script as root in its own mount namespace, where `lamina` is in `/usr/local/bin`: mount(8) gives its helpers
/// a fixed `PATH` and no other variable. `$0` is a directory with an empty `point` and the session's `fstab`.
fn with_lamina_installed(session: &Session, script: &str) -> Finished {
    let work = session.work("host");
    for directory in ["point", "link"] {
        std::fs::create_dir_all(work.join(directory)).unwrap();
    }
    let fstab = format!(
        "{REFERENCE} {}/point fuse.lamina ro,nofail,noauto,_netdev,x-systemd.automount,noexec,store={} 0 0\n",
        work.display(),
        session.store().display()
    );
    std::fs::write(work.join("fstab"), fstab).unwrap();
    let lamina = session.program("lamina").get_program().to_owned();
    let bin = Path::new(&lamina).parent().expect("a directory of programs");
    let script = format!("set -e; mount --bind {} /usr/local/bin; cd /; {script}", bin.display());
    Finished::of(Command::new(installed("unshare")).args(["--mount", "sh", "-c", &script]).arg(&work))
}

#[test]
fn image_in_fstab_is_mounted_and_unmounted_by_mount_and_umount() {
    // Without the link that mount(8) looks for first, and with it.
    let link = "ln -s /usr/local/bin/lamina \"$0/link/mount.fuse.lamina\"
        mount -t overlay -o \"lowerdir=$0/link:/usr/sbin\" overlay /usr/sbin";
    for prepare in [":", link] {
        let session = session_of(Actor::Root);
        let finished = with_lamina_installed(
            &session,
            &format!(
                "{prepare}
                mount --fstab \"$0/fstab\" \"$0/point\"
                grep \" $0/point \" /proc/self/mounts
                cat \"$0/point/etc/os-release\"
                umount \"$0/point\"
                lamina rmi --store {store} {REFERENCE} > /dev/null
                lamina gc --store {store} | tail -n 1",
                store = session.store().display()
            ),
        );
        let lines: Vec<&str> = finished.stdout.lines().collect();
        assert!(finished.status.success() && lines.len() == 3, "{finished}");
        assert!(lines[0].contains(" fuse.lamina ro,nosuid,nodev,noexec,"), "{finished}");
        assert_eq!(lines[1], "ID=small");
        // The server has released everything before the collection.
        let left = std::fs::read_dir(session.store().join("layers/sha256")).unwrap().count();
        assert_eq!(left, 0, "layers left: {finished}");
        session.traces().assert_nothing_left();
    }
}

/// As an ordinary user whom a line of `/etc/fstab` allows to mount, with the store in their home directory:
/// `mount.fuse3` passes root's home directory to its helper.
#[test]
fn user_whom_fstab_lets_mount_does_so_from_their_own_store() {
    let session = session_of(Actor::User);
    let home = session.directory().join("home/.local/share");
    Finished::of(session.command(&installed("mkdir")).arg("-p").arg(&home)).succeeded();
    let ((user, _), point) = (Actor::User.ids(), session.work("host/point"));
    let line = format!("{REFERENCE} {} fuse.lamina ro,noauto,user 0 0\n", point.display());
    let [fstab, passwd] = ["fstab-of-users", "passwd"].map(|name| session.directory().join("work").join(name));
    std::fs::write(&fstab, line).unwrap();
    let account = format!("someone:x:{user}:{user}::{}:/bin/sh\n", session.directory().join("home").display());
    std::fs::write(&passwd, format!("root:x:0:0::/root:/bin/sh\n{account}")).unwrap();
    let script = format!(
        "mount --bind {fstab} /etc/fstab; mount --bind {passwd} /etc/passwd
        mv {store} {home}/lamina
        user() {{ setpriv --reuid={user} --regid={user} --clear-groups env -i PATH=$PATH \"$@\"; }}
        user mount {point}
        grep ' {point} ' /proc/self/mounts
        user cat {point}/etc/os-release
        user umount {point}",
        fstab = fstab.display(),
        passwd = passwd.display(),
        store = session.store().display(),
        home = home.display(),
        point = point.display()
    );
    let finished = with_lamina_installed(&session, &script).succeeded();
    assert!(finished.stdout.contains(" fuse.lamina ro,nosuid,nodev,noexec,"), "{finished}");
    assert!(finished.stdout.ends_with("ID=small\n"), "{finished}");
    session.traces().assert_nothing_left();
}

#[test]
fn mount_that_cannot_be_made_is_refused_with_the_reason() {
    let session = session_of(Actor::Root);
    for (arguments, reason) in [
        ("-o ro,nofail,store=$STORE lamina.test/nothing:1", "lamina.test/nothing:1"),
        ("-o rw,store=$STORE lamina.test/image:1", "rw: an image cannot be changed; use ro"),
        // What mount(8) says for a line that names neither.
        ("-o store=$STORE lamina.test/image:1", "rw: an image cannot be changed; use ro"),
        ("-o ro,uid=1000,store=$STORE lamina.test/image:1", "uid=1000: owners and modes are those of the image"),
        ("-o ro,windows,store=$STORE lamina.test/image:1", "windows: not an option"),
    ] {
        let script = format!("STORE={}; mount -t fuse.lamina {arguments} \"$0/point\"", session.store().display());
        let finished = with_lamina_installed(&session, &script);
        let status = if reason.starts_with("lamina.test") { 32 } else { 1 };
        assert_eq!(finished.status.code(), Some(status), "{arguments}: {finished}");
        assert!(finished.stderr.contains(reason), "{arguments}: {finished}");
    }
    session.traces().assert_nothing_left();
}

#[test]
fn every_user_can_mount_an_image_with_mount_fuse3_and_the_usual_options() {
    for actor in [Actor::Root, Actor::User] {
        let session = session_of(actor);
        let point = session.work("point");
        let lamina = session.program("lamina").get_program().to_owned();
        let source = format!("{}#{REFERENCE}", Path::new(&lamina).display());
        let mount = |options: &[&str]| {
            let mut command = session.command(&installed("mount.fuse3"));
            Finished::of(command.arg(&source).arg(&point).args(options))
        };
        for options in [
            &[][..],
            &["-o", "ro"],
            &["-o", "defaults"],
            &["-o", "ro,relatime"],
            &["-o", "ro,nofail,_netdev,x-systemd.automount,noauto,user,users"],
            &["-o", "ro,noatime,nosuid,nodev,noexec,default_permissions"],
        ] {
            mount(options).succeeded();
            let line = mount_line(&point).expect("a mount");
            assert!(line.contains(" fuse.lamina ro,nosuid,nodev"), "{options:?}: {line}");
            assert!(session.tree(&point).get("etc/os-release").is_some());
            session.umount(&point);
        }
        let refused = mount(&["-o", "rw"]);
        assert!(!refused.status.success() && refused.stderr.contains("use ro"), "{refused}");
        assert_eq!(mount_line(&point), None);
        session.traces().assert_nothing_left();
    }
}

#[test]
fn lamina_mount_takes_the_same_options_and_root_alone_can_ask_for_setuid_files_and_devices() {
    for (actor, shown) in [(Actor::Root, "ro,noexec,"), (Actor::User, "ro,nosuid,nodev,noexec,")] {
        let session = session_of(actor);
        let point = session.work("point");
        let options = "suid,dev,noexec,fsname=image,subtype=lamina";
        session.ok([OsStr::new("mount"), "-o".as_ref(), options.as_ref(), REFERENCE.as_ref(), point.as_os_str()]);
        let line = mount_line(&point).expect("a mount");
        assert!(line.starts_with("image ") && line.contains(&format!(" fuse.lamina {shown}")), "{line}");
        session.umount(&point);
        session.run(["mount", "-o", "rw", REFERENCE, point.to_str().unwrap()]).refused_usage("use ro");
        let help = Finished::of(
            Command::new(installed("sh"))
                .arg("-c")
                .arg(format!("{} mount --help", Path::new(session.program("lamina").get_program()).display())),
        );
        assert!(help.stdout.contains("/etc/fstab") && help.stdout.contains("nofail"), "{help}");
        session.traces().assert_nothing_left();
    }
}
