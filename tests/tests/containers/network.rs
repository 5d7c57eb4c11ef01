//! A container's network.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use end_to_end::{Finished, NameServer, on_other_host};
use rustix::process::{Signal, kill_process};

use crate::fixture::Containers;

#[test]
fn without_a_network_there_is_the_loopback_and_nothing_else() {
    let containers = Containers::new();
    let script = "ls /sys/class/net; cat /proc/net/route | wc -l; python3 -c '
import socket
s = socket.create_server((\"127.0.0.1\", 0)); socket.create_connection(s.getsockname()); print(\"connected\")'";
    assert_eq!(containers.ok(&["--network", "none"], script), "lo\n1\nconnected\n");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn pasta_leads_to_other_hosts_and_not_to_the_loopback_of_this_one() {
    let containers = Containers::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "ls /sys/class/net | sort; grep -c 10.0.2.3 /etc/resolv.conf; grep m /etc/hosts | tail -1; python3 -c '
import socket
for address in (\"10.0.2.2\", \"127.0.0.1\"):
    try:
        socket.create_connection((address, {port}), 2); print(\"reached\")
    except OSError: print(\"refused\")'"
    );
    let seen = containers.ok(&["--network", "passt", "--name", "m"], &script);
    assert!(seen.starts_with("eth0\nlo\n1\n") && seen.ends_with("refused\nrefused\n"), "{seen}");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn names_resolve_where_the_resolver_of_the_host_is_on_its_loopback() {
    let containers = Containers::new();
    // Other tests have one at the usual address.
    let _names = NameServer::start("127.0.0.2");
    let resolv_conf = containers.session.work("network").join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.2\n").unwrap();
    let command = containers.command(&["--network", "passt"], &["getent", "ahostsv4", "container.lamina.test"]);
    let setup = format!("mount --bind {} /etc/resolv.conf", resolv_conf.display());
    let finished = Finished::of(&mut on_other_host(&setup, &command)).succeeded();
    assert!(finished.stdout.starts_with("192.0.2.77 "), "{finished}");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn in_the_hosts_network_a_container_reaches_and_opens_ports_of_this_host() {
    let containers = Containers::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "hostname; head -1 /etc/hostname; python3 -c '
import socket
socket.create_connection((\"host.containers.internal\", {port}), 2); print(\"reached\")'"
    );
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let seen = containers.ok(&["--network", "host"], &script);
    assert_eq!(seen, format!("{name}\n{name}\nreached\n"));
    assert_eq!(containers.ok(&["--network", "host", "--hostname", "h"], "hostname"), "h\n");

    let own = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (script, published) = (format!("exec python3 -m http.server {own}"), format!("{own}:{own}"));
    let options =
        ["--network", "host", "-p", &published, "--detach", "--name", "web", "--ready", &format!("port:{own}")];
    let started = containers.run(&options, &["/bin/sh", "-c", &script]).succeeded();
    assert!(started.stderr.contains("-p has no effect with --network host"), "{started}");
    TcpStream::connect(("127.0.0.1", own)).unwrap();
    let session = &containers.session;
    assert_eq!(session.ok(["ps", "-q", "--filter", "network=host"]), "web\n");
    assert_eq!(session.ok(["inspect", "-f", "{{.HostConfig.NetworkMode}}", "web"]), "host\n");
    session.ok(["rm", "--force", "web"]);
    containers
        .run(&["--network", "host", "--sysctl", "net.core.somaxconn=9"], &["true"])
        .failed("it would be set for this host");
    containers
        .run(&["--network", "auto", "--dns", "2001:db8::1"], &["true"])
        .failed("--engine container --network host");
    session.traces().assert_nothing_left();
}

#[test]
fn end_of_the_program_that_carries_the_network_ends_the_container_and_is_named() {
    let containers = Containers::new();
    containers.detach("web", &["--network", "passt"], "sleep 1000");
    let processes = containers.session.traces().processes();
    let pasta = processes.iter().find(|process| process.command.contains("pasta --foreground")).expect("pasta");
    kill_process(pasta.pid, Signal::KILL).unwrap();
    let reason = containers.failed("web");
    assert!(reason.contains("the server of its network ended"), "{reason}");
    containers.session.ok(["rm", "web"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn published_port_leads_into_a_container_without_a_network_card() {
    let containers = Containers::new();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let published = format!("{port}:8000");
    containers.detach("web", &["-p", &published, "--ready", "port:8000"], "exec python3 -m http.server 8000");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /etc/hostname HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\nweb\n"), "{answer}");
    containers.session.ok(["rm", "--force", "web"]);
    containers.session.traces().assert_nothing_left();
}
