//! Firecracker without a processor to run it on: a stand-in plays it, with its API, its sockets, its console and its
//! guest's init. What only the real one shows is in `machines`, whose tests of it need its program.
//!
//! Only root may open `/dev/kvm` of every host, so root starts these machines.

use end_to_end::Actor;
use end_to_end::stand_in::{NO_HYPERVISORS, StandIn};
use serde_json::Value;

/// Its guest reports the requests, or ends the way that MODE says.
const STAND_IN: &str = r#"#!/usr/bin/python3
import json, os, socket, struct, sys, time
args = sys.argv[1:]
if args == ['--version']:
    print('VERSION\n'); sys.exit(0)
stamp = '2026-11-28T11:00:00.123456789 [anonymous-instance:main] '
if 'MODE' == 'gives-up':
    print(stamp + 'Failed to open the API socket: no such luck', flush=True)
    sys.stderr.write('Error: RunWithApi(FailedToBind)\n'); sys.exit(1)
if 'MODE' == 'is-silent': time.sleep(1000)
listener = socket.socket(socket.AF_UNIX); listener.bind(args[args.index('--api-sock') + 1]); listener.listen()
api, _ = listener.accept()
requests, received = {}, b''
while '/actions' not in requests:
    while b'\r\n\r\n' not in received: received += api.recv(4096)
    head, received = received.split(b'\r\n\r\n', 1)
    lines = head.decode().split('\r\n')
    length = [int(line.split(':')[1]) for line in lines if line.lower().startswith('content-length')][0]
    while len(received) < length: received += api.recv(4096)
    method, path, _ = lines[0].split(' ')
    requests[path], received = json.loads(received[:length]), received[length:]
    if 'MODE' == 'refuses' and path == '/boot-source':
        fault = json.dumps({'fault_message': 'The kernel file cannot be opened:\nno such luck'})
        api.sendall(f'HTTP/1.1 400 \r\nContent-Length: {len(fault)}\r\n\r\n{fault}'.encode())
    else:
        api.sendall(b'HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n')
console = open(os.open(requests['/serial']['serial_out_path'], os.O_RDWR | os.O_NONBLOCK), 'w')
console.write('lamina: init is up\n'); console.flush()
vsock = requests['/vsock']['uds_path']
device = socket.socket(socket.AF_UNIX); device.bind(vsock)
INIT
def says(line):
    console.write('[    1.5] ' + line + '\n'); console.flush()
if 'MODE' == 'reboots':
    says('reboot: Restarting system'); sys.exit(0)
if 'MODE' == 'powers-off':
    says('reboot: Power down'); time.sleep(1000)
if 'MODE' == 'halts':
    says('reboot: System halted'); time.sleep(1000)
if 'MODE' == 'panics':
    says('Kernel panic - not syncing: Attempted to kill init!'); sys.exit(0)
if 'MODE' == 'hangs':
    says('Kernel panic - not syncing: Attempted to kill init!'); time.sleep(1000)
if 'MODE' == 'is-killed': os.kill(os.getpid(), 9)
if 'MODE' == 'fails':
    print(stamp + 'Received KVM_EXIT_INTERNAL_ERROR signal', flush=True)
    print(stamp + 'Firecracker exiting with error. exit_code=1', flush=True); sys.exit(1)
again = socket.socket(socket.AF_UNIX)
try: again.connect(vsock + '_1024'); second = 'a second connection is accepted'
except OSError: second = 'refused'
def id_of(path):
    file = os.stat(path)
    return f'{file.st_dev}{file.st_rdev}{file.st_ino}'[:20]
ids = [id_of(drive['path_on_host']) for drive in requests.values() if 'path_on_host' in drive]
magic = open(requests['/boot-source']['kernel_image_path'], 'rb').read(4).hex()
told = {'args': args, 'requests': requests, 'second': second, 'setup': json.loads(setup), 'ids': ids, 'magic': magic}
send(1, 7, json.dumps(told).encode())
send(1, 12, json.dumps({'status': 0}).encode())
while receive()[1] != 15: pass
send(0, 17)
time.sleep(1000)
"#;

fn stand_in(actor: Actor) -> StandIn {
    StandIn::of(actor, "firecracker", STAND_IN)
}

const VERSION: &str = "Firecracker v1.16.1";

#[test]
fn machine_is_configured_by_requests_and_is_ended_by_the_word_of_its_init() {
    let stand = stand_in(Actor::Root);
    stand.puts(VERSION, "reports");
    let finished = stand.run(&["--name", "stand", "--keep=64M", "--cpus", "2"]).succeeded();
    let notices: Vec<&str> = finished.stderr.lines().collect();
    assert!(matches!(notices[..], [line] if line.contains("network none: ") && line.contains("tap")), "{finished}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["second"], "refused", "only init reaches the launcher");
    assert_eq!(report["magic"], "7f454c46", "the kernel is an ELF file");
    let request = |path: &str| &report["requests"][path];
    assert_eq!(request("/machine-config")["vcpu_count"], 2);
    assert_eq!(request("/machine-config")["mem_size_mib"], 512);
    assert!(request("/boot-source")["boot_args"].as_str().unwrap().contains("console=ttyS0 panic=-1 reboot=k"));
    // A server's disk: Firecracker refuses a socket together with a path or an access.
    let root = request("/drives/disk0").as_object().unwrap();
    assert!(root["socket"].as_str().is_some_and(|socket| socket.ends_with("root.sock")), "{root:?}");
    assert_eq!(root.keys().collect::<Vec<_>>(), ["drive_id", "is_root_device", "socket"]);
    assert_eq!(request("/drives/disk1")["is_read_only"], false);
    assert_eq!(request("/drives/disk1")["cache_type"], "Writeback");
    assert_eq!(request("/actions")["action_type"], "InstanceStart");
    // Its own disks have no serials, so init is told the id that follows from the file. The server of the other answers.
    let setup = report["setup"].to_string();
    let [id] = &report["ids"].as_array().unwrap()[..] else { panic!("{report}") };
    assert!(setup.contains(&id.to_string()) && setup.contains("\"root\""), "{id}: {setup}");
    let shown = stand.session.ok(["inspect", "--text", "stand"]);
    assert!(shown.contains("firecracker"), "{shown}");
    stand.session.ok(["rm", "stand"]);
    stand.session.traces().assert_nothing_left();
}

#[test]
fn reboot_power_off_panic_kill_and_failure_are_told_apart() {
    let stand = stand_in(Actor::Root);
    stand.runs_that_fail(VERSION, &[
        ("reboots", "the guest rebooted before its command ended"),
        ("powers-off", "the guest powered off before its command ended"),
        ("halts", "the guest powered off before its command ended"),
        ("panics", "the guest's kernel panicked: Attempted to kill init!"),
        ("hangs", "the guest's kernel panicked: Attempted to kill init!"),
        ("is-killed", "the hypervisor ended before its command ended (signal: 9 (SIGKILL))"),
        (
            "fails",
            "the hypervisor ended before its command ended (exit status: 1): Received KVM_EXIT_INTERNAL_ERROR signal\n",
        ),
        (
            "gives-up",
            "the hypervisor ended before its command was started (exit status: 1): Failed to open the API socket: no such \
             luck\n",
        ),
        (
            "refuses",
            "the hypervisor ended before its command was started (signal: 9 (SIGKILL)): Firecracker (PUT /boot-source): \
             The kernel file cannot be opened: no such luck\n",
        ),
    ]);
}

#[test]
fn machine_whose_program_does_not_answer_is_ended_like_any_that_is_not_ready() {
    let stand = stand_in(Actor::Root);
    stand.puts(VERSION, "is-silent");
    stand.run(&["--network", "none", "--ready-timeout", "1"]).failed("the guest was not ready after 1 s");
    stand.session.traces().assert_nothing_left();
}

#[test]
fn what_it_lacks_is_refused_in_one_line_with_the_way_out() {
    let stand = stand_in(Actor::Root);
    stand.puts(VERSION, "reports");
    for (options, cause, remedy) in [
        (&["-v", "/usr:/srv:ro"][..], "-v: Firecracker has no virtiofs", "lamina cp"),
        (&["--backend", "direct"], "--backend direct: Firecracker has no virtiofs", "use --backend block"),
        (&["--network", "passt"], "--network passt: a network card of firecracker needs a tap", "use --network none"),
        (&["--network", "slirp"], "--network slirp: a network card of firecracker needs a tap", "use --network none"),
        (&["--host-loopback"], "--host-loopback: a network card of firecracker needs a tap", ""),
        (&["--accel", "tcg"], "--accel tcg: firecracker does not have it", ""),
        (&["--machine", "q35"], "--machine q35: firecracker does not have it", ""),
        (&["--cpus", "33"], "--cpus 33: Firecracker has at most 32 processors", "another engine"),
    ] {
        let refused = stand.run(options);
        let errors: Vec<&str> = refused.stderr.lines().filter(|line| !line.contains("network none: ")).collect();
        assert_eq!(refused.status.code(), Some(125), "{refused}");
        assert!(matches!(errors[..], [line] if line.contains(cause) && line.contains(remedy)), "{refused}");
    }
    stand.session.traces().assert_nothing_left();
}

#[test]
fn program_that_is_missing_too_old_or_another_one_is_refused_with_where_to_get_one() {
    let stand = stand_in(Actor::User);
    let refused = stand.run(&[]);
    refused.failed("--engine firecracker: firecracker: not found in PATH; install it from https://");
    for (version, cause) in [
        ("Firecracker v1.13.1", "version 1.13 is too old: lamina needs 1.14 or later"),
        ("Firecracker v0.25.2", "version 0.25 is too old"),
        ("QEMU emulator version 7.2.22", "it does not say that it is Firecracker"),
    ] {
        stand.puts(version, "reports");
        let refused = stand.run(&[]);
        refused.failed(cause);
        assert!(refused.stderr.contains("install a newer one from https://"), "{refused}");
    }
    for (program, cause) in NO_HYPERVISORS {
        stand.puts_program(program);
        let refused = stand.run(&[]);
        refused.failed(cause);
        assert!(refused.stderr.contains("install one from https://"), "{refused}");
    }
    stand.session.traces().assert_nothing_left();
}

#[test]
fn no_start_but_the_first_starts_the_program_for_its_version() {
    stand_in(Actor::Root).is_asked_for_its_version_once(VERSION);
}

#[test]
fn host_without_kvm_is_refused_with_another_engine_and_nothing_is_started() {
    let stand = stand_in(Actor::Root);
    stand.puts(VERSION, "reports");
    let refused = stand.run_without_kvm(&["--network", "none"]);
    refused.failed("--engine firecracker: Firecracker: it needs KVM: /dev/kvm: ");
    assert!(refused.stderr.contains("use --engine qemu"), "{refused}");
    stand.session.traces().assert_nothing_left();
}

#[test]
fn auto_takes_it_where_there_is_no_other_engine_and_says_why() {
    let stand = stand_in(Actor::Root);
    stand.puts(VERSION, "reports");
    let finished = stand.run_by_choice(&["--network", "none"]).succeeded();
    for expected in [
        "engine firecracker: the first that can be used here",
        "not qemu: qemu-system-x86_64: not found in PATH",
        "accelerator kvm: it runs a guest",
        "backend block: the guest mounts the image as a disk",
        "not direct: Firecracker has no virtiofs",
    ] {
        assert!(finished.stderr.contains(expected), "{expected}: {finished}");
    }
    stand.session.traces().assert_nothing_left();
}
