//! A guest that does what it likes costs its host a bounded amount of memory and disk, and can be ended in time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use end_to_end::{Finished, Image, until};
use rustix::process::Pid;

use crate::fixture::Machines;

/// Plays a hypervisor whose guest has taken over the control channel. The machine's name says what it does.
const STAND_IN: &str = r#"#!/usr/bin/python3
import json, os, socket, struct, sys, time
args = sys.argv[1:]
mode = [a for a in args if a.startswith('guest=hostile-')]
if not mode: os.execv('/usr/bin/qemu-system-x86_64', ['qemu-system-x86_64'] + args)
mode = mode[0][len('guest=hostile-'):]
path = lambda i: [a.split('path=', 1)[1] for a in args if f'id={i},path=' in a][0]
control = socket.socket(socket.AF_UNIX); control.connect(path('control'))
monitor = socket.socket(socket.AF_UNIX); monitor.connect(path('monitor'))
def frame(stream, kind, payload=b'', length=None):
    return struct.pack('<IIB3x', len(payload) if length is None else length, stream, kind) + payload
def send(*frame_of): control.sendall(frame(*frame_of))
def take(count):
    data = b''
    while len(data) < count:
        more = control.recv(count - len(data))
        if not more: sys.exit(0)
        data += more
    return data
def receive():
    length, stream, kind = struct.unpack('<IIB3x', take(12))
    return stream, kind, take(length)
HELLO = json.dumps({'version': VERSION, 'kernel': '6.1'}).encode()
send(0, 1, HELLO)
while receive()[1] != 2: pass
send(0, 3)
while receive()[:2] != (1, 4): pass
send(1, 5)
def flood(data):
    while True: control.sendall(data)
warning = lambda n: frame(0, 18, json.dumps({'memory_ran_out': {'process': str(n) + 'x' * 3000}}).encode())
if mode == 'hellos': flood(frame(0, 1, HELLO) * 1000)
if mode == 'hosts': send(0, 15)
if mode == 'stray': send(7, 14, b'x' * 1000)
if mode == 'unknown': send(9, 7, b'x')
if mode == 'huge': control.sendall(frame(1, 7, b'', 8 << 20)); flood(b'x' * (1 << 20))
if mode == 'window': flood(frame(1, 7, b'x' * (64 << 10)))
if mode == 'crumbs': flood(frame(1, 7, b'x') * 10000)
if mode == 'returns': send(1, 9, struct.pack('<BI', 0, 1 << 20))
if mode == 'warns':
    for n in range(20000): control.sendall(warning(n))
if mode == 'prints':
    # Only what the window allows, so this never ends.
    window = 256 << 10
    while True:
        size = min(16 << 10, window - 12)
        if size > 0:
            send(1, 7, (b'line of the guest\n' * 1000)[:size]); window -= size + 12
        else:
            stream, kind, payload = receive()
            if kind == 9: window += struct.unpack('<BI', payload)[1]
if mode == 'console':
    console = open(path('console'), 'ab', buffering=0)
    while True: console.write(b'Kernel panic? not yet ' * 50 + b'\n')
if mode == 'disks':
    event = json.dumps({'event': 'BLOCK_IO_ERROR', 'data': {'reason': 'x' * 30000}}).encode() + b'\n'
    n = 0
    while n < 3000: monitor.sendall(event.replace(b'xx', b'%d' % n, 1)); n += 1
if mode == 'errors':
    while True: os.write(2, b'qemu: something is wrong\n' * 1000)
time.sleep(1000)
"#;

/// The most memory that a supervisor may use.
const MOST_KIB: u64 = 64 << 10;

struct Hostile {
    machines: Machines,
    path: String,
}

impl Hostile {
    fn new() -> Self {
        let machines = Machines::of(Image::Debian);
        let bin = machines.session.work("bin");
        let program = bin.join("qemu-system-x86_64");
        fs::write(&program, STAND_IN.replace("VERSION", &guest_protocol::VERSION.to_string())).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        Self { machines, path }
    }

    /// Starts `hostile-MODE` in the background.
    fn start(&self, mode: &str, options: &[&str]) -> String {
        let name = format!("hostile-{mode}");
        let options = [&["--network", "none"][..], options].concat();
        let mut lamina = self.machines.detach(&name, &options, "true");
        Finished::of(lamina.env("PATH", &self.path)).succeeded();
        name
    }
}

fn status_kib(pid: Pid, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// The bytes of a machine's files whose names begin with `name`.
fn log_bytes(directory: &Path, name: &str) -> u64 {
    let files = fs::read_dir(directory).unwrap().flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(name));
    // A log that was full a moment ago has gone.
    ours.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn guest_that_breaks_the_protocol_is_ended_with_the_reason_and_a_bounded_supervisor() {
    let hostile = Hostile::new();
    for (mode, reason) in [
        ("hellos", "Hello for the second time"),
        ("hosts", "which the guest must not send"),
        ("stray", "stream that does not exist"),
        ("unknown", "stream that does not exist"),
        ("huge", "longer than"),
        ("window", "the window has no room"),
        ("crumbs", "the window has no room"),
        ("returns", "Credit for what was not sent"),
    ] {
        let name = hostile.start(mode, &[]);
        let session = &hostile.machines.session;
        let mut peak = 0;
        until("the end of the machine", || {
            let seen = hostile.machines.session.seen(&name);
            let pid = seen["processes"][0]["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            peak = peak.max(pid.and_then(|pid| status_kib(pid, "VmHWM:")).unwrap_or_default());
            seen["state"] == "failed"
        });
        let seen = hostile.machines.session.seen(&name);
        let told = seen["reason"].as_str().unwrap();
        assert!(told.contains("does not keep to the protocol") && told.contains(reason), "{mode}: {told}");
        assert!(peak < MOST_KIB, "{mode}: {peak} KiB");
        session.ok(["rm", &name]);
        session.traces().assert_nothing_left();
    }
}

#[test]
fn guest_that_floods_what_it_may_send_costs_bounded_memory_and_disk_and_is_ended_in_time() {
    let hostile = Hostile::new();
    let session = &hostile.machines.session;
    for (mode, log) in [
        ("warns", "lamina.log"),
        ("prints", "output.log"),
        ("console", "console.log"),
        ("errors", "hypervisor.log"),
        ("disks", "lamina.log"),
    ] {
        let size = 256 << 10;
        let name = hostile.start(mode, &["--log-max-size", "256K"]);
        let supervisor = hostile.machines.session.process(&name, "lamina");
        let directory = hostile.machines.session.machine_directory(&name);
        if matches!(mode, "prints" | "console" | "errors") {
            until("the log to be full", || directory.join(format!("{log}.1")).exists());
        }
        if mode == "warns" {
            // `ps` leaves out what is empty.
            until("a warning", || hostile.machines.session.seen(&name)["warnings"].is_array());
        }
        let most = if log == "hypervisor.log" { 1 << 20 } else { size };
        for _ in 0..20 {
            let (bytes, record) = (log_bytes(&directory, log), log_bytes(&directory, "machine.json"));
            assert!(bytes <= most && record < 64 << 10, "{mode}: {bytes} bytes, and {record} of the record");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(status_kib(supervisor, "VmHWM:").unwrap() < MOST_KIB, "{mode}");
        // The command waits for `--timeout` and for as long as cleaning up may take. Then it kills, and says so.
        let stopped = session.run(["stop", "--timeout", "1", &name]).succeeded();
        assert!(stopped.stdout.contains(&name), "{stopped}");
        assert_ne!(hostile.machines.session.seen(&name)["state"], "running");
        session.ok(["rm", "--force", &name]);
        session.traces().assert_nothing_left();
    }
}

#[test]
fn guest_that_reads_nothing_is_removed_by_force() {
    let hostile = Hostile::new();
    let session = &hostile.machines.session;
    let name = hostile.start("deaf", &[]);
    // More than the channel and its socket hold. Each waits for an answer that never comes.
    let word = "x".repeat(100 << 10);
    let asking: Vec<_> =
        (0..20).map(|_| session.start(session.lamina(["exec", &name, "--", "/bin/echo", &word]))).collect();
    let supervisor = hostile.machines.session.process(&name, "lamina");
    assert!(status_kib(supervisor, "VmHWM:").unwrap() < MOST_KIB);
    session.ok(["rm", "--force", &name]);
    for asked in asking {
        assert!(!asked.finish().status.success());
    }
    session.traces().assert_nothing_left();
}

/// Takes the control channel from init, stops init, and floods the host.
const FLOOD: &str = r#"use strict;
my $fd; for my $n (0..200) { if ((readlink("/proc/1/fd/$n") // "") =~ /vport/) { $fd = $n; last } }
my $init = syscall(434, 1, 0); my $port = syscall(438, $init, $fd, 0); die "pidfd_getfd: $!" if $port < 0;
open(my $channel, "+<&=", $port) or die $!; binmode $channel;
for my $task (glob("/proc/1/task/*")) { $task =~ m#(\d+)$#; syscall(101, 16, $1 + 0, 0, 0) }
select(undef, undef, undef, 0.5);
sub frame { my ($stream, $kind, $body) = @_; my $all = pack("VVCCCC", length $body, $stream, $kind, 0, 0, 0) . $body;
  while (length $all) { my $n = syswrite($channel, $all); die "write: $!" unless defined $n; substr($all, 0, $n) = "" } }
frame(0, 18, '{"memory_ran_out":{"process":"x"}}') for 1..20000;
frame(0, 1, '{"version":1,"kernel":"x"}') for 1..6000;
frame(7, 14, "x" x (4 << 20)) for 1..50;
sleep 300;
"#;

#[test]
fn root_of_a_guest_that_takes_the_channel_from_init_ends_only_its_own_machine() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let work = session.work("flood");
    fs::write(work.join("flood.pl"), FLOOD).unwrap();
    let share = format!("{}:/media:ro", work.display());
    let script = "perl /media/flood.pl; sleep 1000";
    Finished::of(&mut machines.detach("m", &["--network", "none", "-v", &share], script)).succeeded();
    let supervisor = machines.session.process("m", "lamina");
    let mut peak = 0;
    until("the end of the machine", || {
        peak = peak.max(status_kib(supervisor, "VmHWM:").unwrap_or_default());
        machines.session.seen("m")["state"] == "failed"
    });
    assert!(peak < MOST_KIB, "{peak} KiB");
    let seen = machines.session.seen("m");
    assert!(seen["reason"].as_str().unwrap().contains("does not keep to the protocol"), "{seen}");
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

#[test]
fn logs_that_were_rotated_are_shown_in_order_and_followed() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let script = "seq 1 20000; sleep 1; seq 20001 40000";
    Finished::of(&mut machines.detach("m", &["--network", "none", "--log-max-size", "1M"], script)).succeeded();
    let followed = session.run(["logs", "--follow", "m"]).succeeded().stdout;
    assert_eq!(session.ok(["wait", "m"]), "0\n");
    let kept = session.ok(["logs", "m"]);
    let numbers: Vec<u32> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 5000 && numbers.len() < 30_000, "{}", numbers.len());
    assert!((numbers[0]..=40_000).eq(numbers.iter().copied()), "a line is missing");
    let followed: Vec<u32> = followed.lines().map(|line| line.parse().unwrap()).collect();
    assert!(followed.windows(2).all(|pair| pair[0] < pair[1]) && followed.last() == Some(&40_000));
    assert!(log_bytes(&machines.session.machine_directory("m"), "output.log") <= 1 << 20);
    session.ok(["rm", "m"]);
}
