//! What machines offer and use, as this host sees it: published ports, counters, a root on a disk, a network card.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use end_to_end::programs::installed;
use end_to_end::{Engine, Finished, Image, on_engines, until};

use crate::fixture::{Machines, REFERENCE};

on_engines! {
    every: published_port_leads_to_the_guest_and_what_the_machine_uses_is_shown;
    with_kernel: root_on_a_disk_has_the_content_of_the_layers_and_takes_space_for_metadata_only;
    [cloud_hypervisor]: network_card_is_served_by_a_passt_that_can_and_its_lack_is_told;
}

fn published_port_leads_to_the_guest_and_what_the_machine_uses_is_shown(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let options = ["-p", "127.0.0.1::8080", "--network", "none", "--ready", "port:8080"];
    let serve = "echo served > /srv/file; cd /srv; exec python3 -m http.server 8080";
    Finished::of(&mut machines.detach("web", &options, serve)).succeeded();
    let address = session.ok(["port", "web", "8080"]);
    for _ in 0..3 {
        let mut client = TcpStream::connect(address.trim()).unwrap();
        client.write_all(b"GET /file HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 OK") && answer.ends_with("\r\n\r\nserved\n"), "{answer}");
    }
    let used = session.json(["stats", "--no-stream", "--json", "web"]);
    assert_eq!(used[0]["Name"], "web", "{used}");
    for field in ["CPUPerc", "MemUsage", "BlockIO", "PIDs"] {
        let text = used[0][field].as_str().unwrap_or_default();
        assert!(text.chars().any(|c| c.is_ascii_digit()), "{field}: {used}");
    }
    assert!(session.ok(["top", "web"]).contains("http.server"));
    session.ok(["rm", "--force", "web"]);
    TcpStream::connect(address.trim()).unwrap_err();
    session.traces().assert_nothing_left();
}

fn root_on_a_disk_has_the_content_of_the_layers_and_takes_space_for_metadata_only(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let sums = |root: &str| format!("cd {root}usr/sbin && find . -type f | LC_ALL=C sort | xargs sha256sum");
    let space = || {
        let du = Finished::of(session.command(&installed("du")).arg("-sk").arg(session.store())).succeeded().stdout;
        du.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    session.ok(["prepare", REFERENCE]);
    let before = space();
    let options = ["--backend", "block", "--network", "none", "-w", "/", "-u", "0:0"];
    let script = format!("{}; grep -c ' / overlay ' /proc/mounts", sums("/"));
    let seen = machines.run(&options, &["/bin/sh", "-c", &script]).succeeded().stdout;
    assert!(space() - before < 4 << 10, "{} KiB", space() - before);
    let point = session.mount(REFERENCE, "mounted");
    let mut shell = session.command(&installed("sh"));
    let expected = Finished::of(shell.args(["-c", &sums(&format!("{}/", point.display()))])).succeeded().stdout;
    assert!(expected.lines().count() > 50, "{expected}");
    assert_eq!(seen, expected + "1\n");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

/// Debian 12's passt cannot; `LAMINA_PASST` names another one.
fn network_card_is_served_by_a_passt_that_can_and_its_lack_is_told(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let help = session.command(std::path::Path::new("sh")).args(["-c", "passt --help 2>&1"]).output().unwrap();
    if !String::from_utf8_lossy(&help.stdout).contains("--vhost-user") {
        assert_eq!(std::env::var_os("LAMINA_PASST"), None, "it has no --vhost-user");
        let finished = machines.run(&[], &["ls", "/sys/class/net"]).succeeded();
        assert_eq!(finished.stdout, "lo\n");
        assert!(
            finished.stderr.contains("network none: ") && finished.stderr.contains("no --vhost-user"),
            "{finished}"
        );
        return session.traces().assert_nothing_left();
    }
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listening.local_addr().unwrap().port();
    // Only the guest ends its stream: passt 2024_12_11 has once lost the end of ours by vhost-user.
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listening.accept().unwrap();
        stream.write_all(&vec![b'x'; 3_000_000]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let script = format!(
        "import socket; s = socket.create_connection(('10.0.2.2', {port})); n = 0
while n < 3000000: n += len(s.recv(1 << 16)) or exit('ended early')
s.sendall(b'%d by passt' % n)"
    );
    let finished = machines.run(&["--host-loopback", "--network", "passt"], &["python3", "-c", &script]).succeeded();
    assert_eq!(finished.stderr, "", "{finished}");
    assert_eq!(served.join().unwrap(), "3000000 by passt");
    // passt itself ends with the machine.
    until("the end of passt", || session.traces().processes().is_empty());
    session.traces().assert_nothing_left();
}
