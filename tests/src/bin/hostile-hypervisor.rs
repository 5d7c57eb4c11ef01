//! A hypervisor that was taken over. As `qemu-system-x86_64`, first in `PATH`, it plays the guest of a machine whose name
//! begins with `hostile`, tries to reach what it must not, and reports as the output of the machine's command what
//! happened: a JSON object with `DENIED …` or `ALLOWED …` for each attempt. For any other machine it becomes the real
//! program. As `cloud-hypervisor` it does the same for every machine.
//!
//! The variables `TARGET_…` name what to try. One that is missing ends the program, so that the test fails.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_protocol::{Channel, Ending, Hello, MACHINE, Message, SOCKET_PORT, Side, VERSION};
use rustix::process::{Resource, getrlimit};
use rustix::thread::UnshareFlags;
use serde_json::{Map, Value};

/// The stream of the machine's command, which the supervisor chooses.
const COMMAND: u32 = 1;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let is_qemu = !std::env::args().next().is_some_and(|own| own.ends_with("/cloud-hypervisor"));
    let hostile = text.iter().any(|word| word.starts_with("guest=hostile"));
    if is_qemu && !hostile {
        let error = Command::new("/usr/bin/qemu-system-x86_64").args(&arguments).exec();
        panic!("qemu-system-x86_64: {error}");
    }
    if !is_qemu && text == ["--version"] {
        println!("cloud-hypervisor v53.0");
        return;
    }
    let value =
        |prefix: &str| text.iter().find_map(|word| word.strip_prefix(prefix)).expect("it is on the command line");
    let connect = |path: &str| UnixStream::connect(path).expect("the machine's own socket can be reached");
    let (control, _monitor, console) = if is_qemu {
        let socket = |id: &str| connect(value(&format!("socket,id={id},path=")));
        (socket("control"), Some(socket("monitor")), value("file,id=console,path="))
    } else {
        (connect(&format!("{}_{SOCKET_PORT}", value("cid=3,socket="))), None, value("file="))
    };
    let send = |stream, message: Message| message.write(stream, &control).expect("the supervisor listens");
    send(MACHINE, Message::Hello(Hello { version: VERSION, kernel: "6.1".into() }));
    loop {
        match Message::read(&control, Side::Host).expect("the supervisor speaks the protocol") {
            Some((_, Message::Setup(_))) => send(MACHINE, Message::Ready),
            Some((COMMAND, Message::Start(_))) => break,
            Some(_) => {}
            None => return,
        }
    }
    send(COMMAND, Message::Started);
    let report = Value::Object(attempts(Path::new(console))).to_string();
    send(COMMAND, Message::Stdout(report.into_bytes()));
    send(COMMAND, Message::Exited(Ending::Status(0)));
    // Until it is told to power off.
    while let Ok(Some((_, message))) = Message::read(&control, Side::Host) {
        if matches!(message, Message::PowerOff) {
            send(MACHINE, Message::Halting);
            return;
        }
        if let Message::Credit(Channel::Stdin, _) = message {}
    }
}

fn target(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")).into()
}

fn attempts(console: &Path) -> Map<String, Value> {
    let mut report = Map::new();
    let mut attempt = |name: &str, result: Result<String, String>| {
        let line = match result {
            Ok(what) => format!("ALLOWED {what}"),
            Err(why) => format!("DENIED {why}"),
        };
        report.insert(name.to_owned(), line.into());
    };
    attempt("read a file that only root may read", seen(fs::read(target("TARGET_ROOTS_FILE"))));
    attempt("read a file of the user", seen(fs::read(target("TARGET_FILE"))));
    attempt("list the home of the user", list(&target("HOME")));
    attempt("list the way to its own files", list(console.ancestors().nth(2).expect("a directory of machines")));
    attempt("open the way to its own files", {
        let way = console.ancestors().nth(2).expect("a directory of machines");
        seen(fs::set_permissions(way, fs::Permissions::from_mode(0o755)))
    });
    attempt("open a blob of the store for writing", {
        seen(OpenOptions::new().read(true).write(true).open(target("TARGET_BLOB")))
    });
    attempt("write a file of the host", seen(File::create(target("TARGET_DIRECTORY").join("made-by-hypervisor"))));
    attempt("open the memory of the supervisor", {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        seen(File::open(format!("/proc/{parent}/mem")))
    });
    attempt("see the processes of the host", list(Path::new("/proc")));
    attempt("signal a process of the host", {
        let pid: i32 = target("TARGET_PROCESS").to_string_lossy().parse().expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        seen(rustix::process::test_kill_process(pid))
    });
    attempt("reach the socket of another machine", seen(UnixStream::connect(target("TARGET_SOCKET"))));
    attempt("reach an abstract socket of the host", {
        let name = target("TARGET_SOCKET").into_os_string().into_encoded_bytes();
        let address = SocketAddr::from_abstract_name(&name[..name.len().min(100)]).expect("a short name");
        seen(UnixStream::connect_addr(&address))
    });
    attempt("reach the loopback of the host", {
        let port = target("TARGET_PORT").to_string_lossy().parse().expect("a port");
        seen(TcpStream::connect(("127.0.0.1", port)))
    });
    attempt("make a user namespace", {
        #[allow(deprecated, reason = "its replacement is unsafe, for flags that are not used here")]
        seen(rustix::thread::unshare(UnshareFlags::NEWUSER))
    });
    attempt("start a program", seen(Command::new("/usr/bin/id").output().map(|output| output.status)));
    attempt(
        "keep a core dump",
        match getrlimit(Resource::Core).maximum {
            Some(0) => Err("the limit is 0".to_owned()),
            other => Ok(format!("{other:?} bytes")),
        },
    );
    attempt(
        "gain privileges by a program",
        match rustix::thread::no_new_privs() {
            Ok(true) => Err("no_new_privs is set".to_owned()),
            other => Ok(format!("{other:?}")),
        },
    );
    attempt("be root", if rustix::process::geteuid().is_root() { Ok("uid 0".into()) } else { Err("not uid 0".into()) });
    report
}

fn list(directory: &Path) -> Result<String, String> {
    seen(fs::read_dir(directory).map(Iterator::count))
}

/// What a result says, without what was read.
fn seen<T, E: Display>(result: Result<T, E>) -> Result<String, String> {
    result.map(|_| String::new()).map_err(|error| error.to_string())
}
