//! Users and rights in a container: those of the image, and no others.

use crate::fixture::Containers;

#[test]
fn owners_are_those_of_the_image_and_can_be_changed() {
    let containers = Containers::new();
    let script = "
        stat -c '%u:%g' / /etc/shadow
        su -s /bin/sh www-data -c 'id -u; id -g'
        touch /srv/f && chown 33:33 /srv/f && stat -c '%u:%g' /srv/f
        cp /usr/bin/id /srv/id && chmod 4755 /srv/id && su -s /bin/sh www-data -c '/srv/id -u'
        su -s /bin/sh www-data -c 'cat /etc/shadow' 2>/dev/null || echo refused
        su -s /bin/sh www-data -c 'ping -c 1 127.0.0.1' >/dev/null && echo pong
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    ";
    let seen = containers.ok(&[], script);
    assert_eq!(seen, "0:0\n0:42\n33\n33\n33:33\n0\nrefused\npong\n0\n");
    assert_eq!(containers.run(&["-u", "33:33"], &["id", "-u"]).succeeded().stdout, "33\n");
    containers.session.traces().assert_nothing_left();
}

/// apt copies its lock files up, changes to `_apt`, and dpkg sets owners.
#[test]
fn package_is_installed_by_apt_and_verified() {
    let containers = Containers::new();
    let script = "
        mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/lamina-test && echo content > /tmp/p/usr/share/lamina-test/file
        printf 'Package: lamina-test\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y.test>\\nDescription: x\\n' \
            > /tmp/p/DEBIAN/control
        printf '#!/bin/sh\\nchown www-data /usr/share/lamina-test/file\\n' > /tmp/p/DEBIAN/postinst
        chmod 755 /tmp/p/DEBIAN/postinst
        dpkg-deb --build /tmp/p /tmp/lamina-test.deb >/dev/null
        apt-get install --yes /tmp/lamina-test.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
        dpkg --verify lamina-test
        stat -c %U /usr/share/lamina-test/file
        su -s /bin/sh _apt -c 'touch /var/lib/apt/lists/partial/x' && echo partial
    ";
    assert_eq!(containers.ok(&[], script), "www-data\npartial\n");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn container_has_no_way_to_the_host() {
    let containers = Containers::new();
    let script = "
        ! mount -t tmpfs x /mnt 2>/dev/null
        ! unshare --user true 2>/dev/null
        ! mknod /tmp/null c 1 3 2>/dev/null
        ! sh -c 'echo x >> /proc/1/exe' 2>/dev/null
        ! sh -c 'echo 1 > /proc/sys/kernel/panic' 2>/dev/null
        for fd in /proc/1/fd/*; do
            if test -d $fd && test -e $fd/../store; then echo \"$fd leads to the host\"; fi
        done
        ls -d /proc/[0-9]* | wc -l
        grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status
    ";
    let seen = containers.ok(&[], script);
    assert!(!seen.contains("leads to the host"), "{seen}");
    let processes: usize = seen.lines().next().unwrap().parse().unwrap();
    assert!(processes < 8, "{seen}");
    // podman's default capabilities with CAP_NET_RAW, and a filter of system calls.
    assert!(seen.contains("NoNewPrivs:\t0\nSeccomp:\t2\n"), "{seen}");
    assert!(seen.contains("CapBnd:\t00000000800425fb"), "{seen}");
    containers.session.traces().assert_nothing_left();
}

/// What users of other programs have reported about overlays over FUSE in user namespaces.
#[test]
fn every_file_has_an_owner_and_directories_can_be_made_with_any_mode() {
    let containers = Containers::new();
    let script = "
        find / -xdev -not -path /proc -not -path /sys '(' -nouser -o -nogroup -o -user nobody -o -group nogroup ')'
        mkdir -m 0555 /srv/d && stat -c '%a %U' /srv/d && touch /srv/d/by-root
        su -s /bin/sh www-data -c 'mkdir -m 0555 /tmp/d && stat -c \"%a %U\" /tmp/d && ! touch /tmp/d/x 2>/dev/null && rmdir /tmp/d'
        exec 3<>/var/lib/dpkg/lock 4>>/etc/passwd && flock --nonblock 3 && echo locked
        mv /etc/default /etc/moved && ls -d /etc/moved && mv /etc/moved /etc/default
        rm -r /usr/share/bash-completion && mkdir /usr/share/bash-completion && ls -A /usr/share/bash-completion
        ln /etc/issue /etc/also && stat -c %h /etc/also
        python3 -c 'import os; os.setxattr(\"/etc/issue\", \"user.a\", b\"b\"); print(os.getxattr(\"/etc/issue\", \"user.a\"))'
    ";
    for format in ["overlay", "fuse-overlayfs"] {
        let seen = containers.ok(&["--machine", format], script);
        assert_eq!(seen, "555 root\n555 www-data\nlocked\n/etc/moved\n2\nb'b'\n", "{format}");
    }
    containers.session.traces().assert_nothing_left();
}

#[test]
fn single_id_says_what_it_costs() {
    let containers = Containers::new();
    let script = "
        stat -c '%u:%g' / /etc/shadow
        echo x >> /etc/shadow && touch /srv/f && stat -c %u /srv/f
        chown 33 /srv/f 2>/dev/null || echo refused
    ";
    let options = ["--accel", "single-id"];
    assert_eq!(containers.ok(&options, script), "0:0\n0:0\n0\nrefused\n");
    let other = containers.run(&["--accel", "single-id", "-u", "33:33"], &["id"]);
    assert_eq!(other.status.code(), Some(125), "{other}");
    assert!(other.stderr.contains("the container has no uid 33"), "{other}");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn database_in_wal_mode_and_sockets_work() {
    let containers = Containers::new();
    let script = "python3 -c '
import sqlite3, os, socket
db = sqlite3.connect(\"/srv/db\")
assert db.execute(\"pragma journal_mode=wal\").fetchone()[0] == \"wal\"
db.execute(\"create table t (x)\"); db.execute(\"insert into t values (7)\"); db.commit()
print(db.execute(\"select x from t\").fetchone()[0], os.path.exists(\"/dev/shm\"))
s = socket.socket(socket.AF_UNIX); s.bind(\"/srv/sock\")
'";
    assert_eq!(containers.ok(&[], script), "7 True\n");
    containers.session.traces().assert_nothing_left();
}
