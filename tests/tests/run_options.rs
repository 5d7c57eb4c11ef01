//! Shares, networks and secrets of a running VM, started by an ordinary user.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use end_to_end::programs::installed;
use end_to_end::{Actor, Image, NameServer, Session, on_other_host};

const REFERENCE: &str = "lamina.test/image:1";

fn session() -> Session {
    let session = Session::user();
    session.import(&Image::Debian.layout(), REFERENCE);
    session
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every regular file below the session's directories that contains `needle`, and every process that names it.
fn places_of(session: &Session, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> =
        ["store", "state", "run", "home", "tmp"].map(|name| session.directory().join(name)).into();
    while let Some(path) = todo.pop() {
        let Ok(kind) = std::fs::symlink_metadata(&path).map(|file| file.file_type()) else { continue };
        if kind.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() && holds(&std::fs::read(&path).unwrap_or_default(), needle) {
            found.push(path);
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path().join("cmdline");
        if std::fs::read(&path).is_ok_and(|line| holds(&line, needle)) {
            found.push(path);
        }
    }
    found
}

fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn shares_of_files_and_within_shares_hold_what_they_promise_and_secrets_stay_in_the_guest() {
    let session = session();
    let outer = session.work("outer");
    let inner = session.work("inner");
    let files = session.work("files");
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).unwrap();
        Actor::User.own(&path);
        path
    };
    let protected = write(files.join("protected"), "as it was");
    let open = write(files.join("open it's, ü"), "before\n");
    write(files.join("sibling"), "not shared");
    write(inner.join("deep"), "deep");
    let (token, password, given) = ("tok-9d1f6b7c3a", "pass-55e0a1b2c3", "given-7788aa99bb");
    let secret = write(files.join("secret"), token);
    let env_file = write(files.join("env"), &format!("# for the test\nPASSWORD={password}\n"));
    let before = protected.metadata().unwrap();

    let script = r#"
        exec 2>>/outer/errors; out=/outer/seen
        cat /etc/only-this >> $out; cat /outer/inner/deep >> $out; cat /not/in/the/image/deep >> $out
        echo >> $out; ls /sys/class/net >> $out
        # What the guest's root may try.
        mount -o remount,rw /etc/only-this; echo changed > /etc/only-this; touch -d @1 /etc/only-this; chmod 777 /etc/only-this
        mkdir -p /tmp/all; for tag in share1 share2 share3 share4 share5; do
            mount -t virtiofs $tag /tmp/all || continue
            ls /tmp/all | grep -qE 'sibling|secret' && echo siblings >> $out
            if ls /tmp/all | grep -qE 'protected|open'; then touch /tmp/all/new && echo made a sibling >> $out; fi
            umount /tmp/all
        done
        echo after >> /srv/open
        mkdir /outer/made; echo mine > /outer/made/file
        cat /run/secrets/key > /tmp/copy; echo changed > /run/secrets/key; cmp /tmp/copy /run/secrets/key && echo same >> $out
        touch /outer/ready
        while ! grep -q hello /outer/from-host; do sleep 0.1; done
        while [ "$(cat /srv/open | tail -1)" != host ]; do sleep 0.1; done
        echo "$(cat /run/secrets/key) $PASSWORD $GIVEN""#;
    let volume = |host: &Path, guest: &str| format!("{}:{guest}", host.display());
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--network", "none", "-w", "/"]);
    // The inner share comes first on the command line.
    for share in [
        volume(&inner, "/outer/inner"),
        volume(&outer, "/outer"),
        volume(&inner, "/not/in/the/image:ro"),
        volume(&protected, "/etc/only-this:ro"),
        volume(&open, "/srv/open"),
    ] {
        lamina.args(["-v", &share]);
    }
    lamina.arg("--secret").arg(format!("key={}", secret.display())).arg("--env-file").arg(&env_file);
    // A name alone takes the value from the caller's environment, which other users cannot read.
    lamina.env("GIVEN", given).args(["-e", "GIVEN", REFERENCE, "--", "/bin/sh", "-c", script]);
    let mounted = session.mount(REFERENCE, "mounted");
    let mut guest = session.start(lamina);
    guest.await_file(&outer.join("ready"));
    // No namespace of a share's server keeps a mount that is unmounted in the meantime.
    session.umount(&mounted);
    session.await_no_process_of("--background-child");
    for hidden in [token, password, given] {
        assert_eq!(places_of(&session, hidden), [] as [PathBuf; 0], "{hidden}");
    }
    std::fs::write(outer.join("from-host"), "hello guest\n").unwrap();
    std::fs::OpenOptions::new().append(true).open(&open).unwrap().write_all(b"host\n").unwrap();
    let finished = guest.finish().succeeded();
    assert_eq!(finished.stdout.trim_end(), format!("{token} {password} {given}"), "{finished}");

    let seen = read(&outer.join("seen"));
    assert_eq!(seen, "as it wasdeepdeep\nlo\nsame\n", "{}", read(&outer.join("errors")));
    let after = protected.metadata().unwrap();
    assert_eq!(read(&protected), "as it was");
    assert_eq!((before.mtime(), before.ctime(), before.atime()), (after.mtime(), after.ctime(), after.atime()));
    assert_eq!(before.permissions().mode(), after.permissions().mode());
    assert_eq!(read(&open), "before\nafter\nhost\n");
    let (uid, gid) = Actor::User.ids();
    for made in ["made", "made/file", "seen"] {
        let metadata = outer.join(made).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{made}");
    }
    session.traces().assert_nothing_left();
}

/// A command that runs `command` where `/etc/resolv.conf` names the loopback.
fn with_own_resolv_conf(session: &Session, command: &Command) -> Command {
    let resolv_conf = session.work("network").join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    on_other_host(&format!("mount --bind {} /etc/resolv.conf", resolv_conf.display()), command)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on the host's loopback that answers once.
fn serve_once() -> (u16, std::thread::JoinHandle<()>) {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = outside.accept().unwrap();
        stream.write_all(b"from the host").unwrap();
    });
    (port, served)
}

/// What a guest does to test that it has a network. If the host's loopback is closed, either nothing answers or another
/// host does.
fn outward(name: &str, port: u16) -> String {
    format!(
        r#"
import socket
print(socket.gethostbyname("guest.lamina.test"), flush=True)
try:
    connection = socket.create_connection(("{name}", {port}), 5)
    connection.settimeout(5)
    answer = connection.recv(100).decode()
except OSError:
    answer = ""
print(answer if answer == "from the host" else "closed", flush=True)
"#
    )
}

/// Services of a guest on all its addresses, and one on its loopback only.
const SERVICES: &str = r#"
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", 5353))
server = socket.create_server(("0.0.0.0", 80))
inner = socket.create_server(("127.0.0.1", 81))
open("/media/ready", "w").close()
connection, _ = server.accept()
said = b""
while chunk := connection.recv(1 << 16): said += chunk
connection.sendall(b"%d by tcp" % len(said))
connection.close()
large = server.accept()[0]
large.sendall(b"x" * 3000000)
large.close()
words, asker = datagrams.recvfrom(100)
datagrams.sendto(words.upper(), asker)
datagrams.recvfrom(100)
"#;

/// Runs a guest with published ports and this network. Returns what it has printed.
fn reached_from_outside(network: &str, script: &str) -> String {
    let session = session();
    let work = session.work("network");
    let _names = NameServer::start("127.0.0.1");
    let (tcp, inner, unused, udp) = (free_port(), free_port(), free_port(), free_port());
    let script = format!("{script}{SERVICES}");
    let share = format!("{}:/media", work.display());
    let ports =
        [format!("{tcp}:80"), format!("{inner}:81"), format!("{unused}:82"), format!("127.0.0.1:{udp}:5353/udp")];
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--network", network, "-v", &share]);
    for port in &ports {
        lamina.args(["-p", port]);
    }
    lamina.args([REFERENCE, "--", "python3", "-c", &script]);
    let mut guest = session.start(with_own_resolv_conf(&session, &lamina));
    guest.await_file(&work.join("ready"));
    // The client closes its direction, and the service answers after that.
    let mut client = TcpStream::connect(("127.0.0.1", tcp)).unwrap();
    client.write_all(&vec![7; 1_000_000]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "1000000 by tcp");
    let mut large = Vec::new();
    TcpStream::connect(("127.0.0.1", tcp)).unwrap().read_to_end(&mut large).unwrap();
    assert_eq!(large.len(), 3_000_000);
    for closed in [inner, unused] {
        let refused = TcpStream::connect(("127.0.0.1", closed)).and_then(|mut client| client.read(&mut [0]));
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut words = [0; 100];
    // A datagram may be lost.
    let length = (0..20).find_map(|_| {
        asker.send_to(b"by udp", ("127.0.0.1", udp)).unwrap();
        asker.recv(&mut words).ok()
    });
    assert_eq!(&words[..length.expect("an answer by UDP")], b"BY UDP");
    asker.send_to(b"end", ("127.0.0.1", udp)).unwrap();
    let finished = guest.finish().succeeded();
    // The ports are free again.
    for port in [tcp, inner, unused] {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
    UdpSocket::bind(("127.0.0.1", udp)).unwrap();
    session.traces().assert_nothing_left();
    finished.stdout
}

#[test]
fn network_by_slirp_reaches_out_and_in() {
    let (port, served) = serve_once();
    assert_eq!(reached_from_outside("slirp", &outward("10.0.2.2", port)), "192.0.2.77\nfrom the host\n");
    served.join().unwrap();
}

#[test]
fn network_by_passt_reaches_out_and_in_and_not_the_hosts_loopback() {
    let (port, _served) = serve_once();
    assert_eq!(reached_from_outside("passt", &outward("10.0.2.2", port)), "192.0.2.77\nclosed\n");
}

#[test]
fn published_ports_need_no_network() {
    assert_eq!(reached_from_outside("none", ""), "");
}

#[test]
fn loopback_of_the_host_is_reached_by_its_names_when_it_is_opened() {
    let session = session();
    let _names = NameServer::start("127.0.0.1");
    let (port, served) = serve_once();
    let script = outward("host.docker.internal", port) + "print(socket.gethostbyname('host.containers.internal'))";
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--host-loopback"]);
    lamina.args([REFERENCE, "--", "python3", "-c", &script]);
    let finished = end_to_end::Finished::of(&mut with_own_resolv_conf(&session, &lamina)).succeeded();
    assert_eq!(finished.stdout, "192.0.2.77\nfrom the host\n10.0.2.2\n", "{finished}");
    served.join().unwrap();
    session.traces().assert_nothing_left();
}

/// Sends packets that no ordinary route of a guest leads to: to the loopback of the program that carries them.
const CRAFTED: &str = r#"
import socket, struct, sys
try: socket.create_connection(("10.0.2.3", 53), 1)
except OSError: pass
gateway = bytes.fromhex(open("/proc/net/arp").read().splitlines()[1].split()[3].replace(":", ""))
own = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
source = socket.inet_aton("10.0.2.15")
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
packets.bind(("eth0", 0)); packets.settimeout(2)
def connects(address, port):
    target = socket.inet_aton(address)
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 65000, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, source, target)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    packets.send(gateway + own + b"\x08\0" + ip + tcp)
    try:
        while True:
            answer = packets.recv(2000)
            if answer[26:30] == target and answer[34:36] == struct.pack("!H", port): return True
    except TimeoutError:
        return False
for address in sys.argv[2:]: print(address, connects(address, int(sys.argv[1])), flush=True)
"#;

#[test]
fn no_packet_that_a_guest_can_craft_reaches_the_hosts_loopback() {
    let session = session();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listening.local_addr().unwrap().port().to_string();
    let addresses = ["127.0.0.1", "127.9.9.9", "0.0.0.0"];
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--network", "passt", "-u", "0:0", "-w", "/"]);
    lamina.args([REFERENCE, "--", "python3", "-c", CRAFTED, &port]).args(addresses);
    let finished = end_to_end::Finished::of(&mut lamina).succeeded();
    assert_eq!(finished.stdout, addresses.map(|address| format!("{address} False\n")).concat(), "{finished}");
    session.traces().assert_nothing_left();
}

#[test]
fn share_over_a_file_that_init_writes_keeps_the_hosts_file_as_it_is() {
    let session = session();
    let own = session.work("own");
    let content = "# mine\nnameserver 192.0.2.1\n";
    std::fs::write(own.join("resolv.conf"), content).unwrap();
    std::fs::write(own.join("hosts"), "").unwrap();
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--network", "slirp", "-w", "/"]);
    for name in ["resolv.conf", "hosts"] {
        Actor::User.own(&own.join(name));
        lamina.arg("-v").arg(format!("{}:/etc/{name}", own.join(name).display()));
    }
    lamina.args([REFERENCE, "--", "/bin/sh", "-c", "cat /etc/resolv.conf && wc -c < /etc/hosts"]);
    let finished = end_to_end::Finished::of(&mut lamina).succeeded();
    assert_eq!(finished.stdout, format!("{content}0\n"), "{finished}");
    assert_eq!((read(&own.join("resolv.conf")).as_str(), read(&own.join("hosts")).as_str()), (content, ""));
    session.traces().assert_nothing_left();
}

#[test]
fn read_only_root_has_shares_secrets_and_a_name_server_and_takes_no_change() {
    let session = session();
    let files = session.work("files");
    std::fs::write(files.join("file"), "shared\n").unwrap();
    std::fs::write(files.join("key"), "secret\n").unwrap();
    let volume = |guest: &str, name: &str| format!("{}:{guest}", files.join(name).display());
    let mut lamina =
        session.lamina(["run", "--accel", "tcg", "--network", "slirp", "--read-only", "-u", "0:0", "-w", "/"]);
    for share in [volume("/etc/motd:ro", "file"), volume("/not/in/the/image/file", "file"), volume("/nor/this", "")] {
        lamina.arg("-v").arg(share);
    }
    lamina.arg("--secret").arg(format!("key={}", files.join("key").display()));
    let script = "cat /etc/motd /not/in/the/image/file /nor/this/file /run/secrets/key /etc/resolv.conf
        for path in /x /etc/x /run/x /etc/hosts; do echo x > $path && echo $path takes a change; done
        touch /x; touch /nor/this/made; exit 0";
    lamina.args([REFERENCE, "--", "/bin/sh", "-c", script]);
    let finished = end_to_end::Finished::of(&mut lamina).succeeded();
    assert_eq!(finished.stdout, "shared\nshared\nshared\nsecret\nnameserver 10.0.2.3\n", "{finished}");
    assert!(finished.stderr.contains("touch: cannot touch '/x': Read-only file system"), "{finished}");
    assert!(files.join("made").exists());
    session.traces().assert_nothing_left();
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let session = session();
    let directory = session.work("directory");
    let volume = |guest: &str| format!("{}:{guest}", directory.display());
    let run = |options: &[&str]| {
        let mut lamina = session.lamina(["run", "--accel", "tcg"]);
        end_to_end::Finished::of(lamina.args(options).args([REFERENCE, "--", "/bin/true"]))
    };
    run(&["-v", &volume("/a"), "-v", &volume("/a/")]).failed("same target");
    run(&["-v", &volume("/a:ro"), "-v", &volume("/a/b")]).failed("create it on the host");
    run(&["--network", "none", "--host-loopback"]).failed("--host-loopback");
    run(&["-p", "many"]).failed_usage("many");
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listening.local_addr().unwrap().port();
    run(&["-p", &format!("{taken}:80")]).failed("Address already in use");
    run(&["--memory", "900T"]).failed("give the VM less");
    run(&["--secret", "/nowhere/key"]).failed("/nowhere/key");
    run(&["--env-file", "/nowhere/env"]).failed("/nowhere/env");
    run(&["--variant", "unheard-of"]).failed("variants.toml");
    let many: Vec<String> = (0..40).flat_map(|number| ["-v".to_owned(), volume(&format!("/a{number}"))]).collect();
    run(&many.iter().map(String::as_str).collect::<Vec<_>>()).failed("share a directory that holds the others");
    session.traces().assert_nothing_left();
}

#[test]
fn prepare_and_run_agree_on_the_base_of_a_variant() {
    let session = session();
    session.import(&Image::Corners.layout(), "lamina.test/tools:1");
    let work = session.work("variant");
    std::fs::create_dir_all(work.join("agent/opt")).unwrap();
    std::fs::write(work.join("agent/opt/agent"), "I am the agent").unwrap();
    std::fs::write(work.join("certificate"), "trust me").unwrap();
    let tar = Command::new(installed("tar")).args(["-czf", "ca.tar.gz", "certificate"]).current_dir(&work).status();
    assert!(tar.unwrap().success());
    let variants =
        "[agent]\nlayers = [{ directory = 'agent' }, { archive = 'ca.tar.gz' }, { image = 'lamina.test/tools:1' }]\n";
    let own = work.join("own.toml");
    std::fs::write(&own, variants).unwrap();
    std::fs::write(
        session.store().join("variants.toml"),
        variants
            .replace("'agent'", &format!("'{}'", work.join("agent").display()))
            .replace("'ca.tar.gz'", &format!("'{}'", work.join("ca.tar.gz").display())),
    )
    .unwrap();
    let plain = session.ok(["prepare", REFERENCE]);
    let base = session.ok(["prepare", "--variant", "agent", REFERENCE]);
    assert_ne!(plain, base);
    assert_eq!(session.ok(["prepare", "--variant", own.to_str().unwrap(), REFERENCE]), base);
    assert_eq!(session.ok(["prepare", "--variant", &format!("{}:agent", own.display()), REFERENCE]), base);
    let bases = || std::fs::read_dir(session.store().join("bases")).unwrap().count();
    assert_eq!(bases(), 2);
    session.ok(["run", "--accel", "tcg", "--dry-run", "--variant", "agent", REFERENCE, "--", "/bin/true"]);
    assert_eq!(bases(), 2, "run made a base of its own");
    let point = session.work("mounted");
    session.ok(["mount", "--variant", "agent", REFERENCE, point.to_str().unwrap()]);
    let tree = session.tree(&point);
    for path in ["opt/agent", "certificate", "corners"] {
        assert!(tree.get(path).is_some(), "{path}");
    }
    session.umount(&point);
}

#[test]
fn dry_run_tells_the_same_machine_in_every_dialect() {
    let session = session();
    let run = |options: &[&str]| {
        let mut lamina = session.lamina(["run", "--accel", "tcg", "--dry-run", "--explain"]);
        end_to_end::Finished::of(lamina.args(options).args([REFERENCE, "--", "/bin/true"])).succeeded()
    };
    let direct = run(&[]);
    for expected in ["qemu-system-x86_64", "--fs tag=root", "\"boot_vcpus\": 1", "not by Firecracker"] {
        assert!(direct.stdout.contains(expected), "{expected}\n{direct}");
    }
    for expected in ["backend direct:", "not block:", "not materialize:", "network "] {
        assert_eq!(direct.stdout.matches(expected).count(), 1, "{expected}\n{direct}");
    }
    assert_eq!(direct.stderr, "");
    let block = run(&["--backend", "block", "--network", "slirp"]);
    for expected in ["vhost-user-blk", "chardev=blk0", "root.sock", "the same by Firecracker"] {
        assert!(block.stdout.contains(expected), "{expected}\n{block}");
    }
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let session = Session::user();
    let help = session.ok(["--help"]);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // The description of a command may continue in the next line, indented more.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    let pages = session.work("man");
    session.ok(["man", pages.to_str().unwrap()]);
    for shell in ["bash", "zsh", "fish"] {
        let completions = session.ok(["completions", shell]);
        for command in &commands {
            assert!(completions.contains(command), "{shell}: {command}");
        }
    }
    for command in commands {
        assert!(pages.join(format!("lamina-{command}.1")).is_file(), "{command}");
    }
}
