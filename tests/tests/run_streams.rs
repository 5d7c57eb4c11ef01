//! The streams and signals between `lamina run` and the command in its guest, and what a killed launcher leaves.

use std::io::Write;
use std::process::{Command, Stdio};

use end_to_end::{Image, Session};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

const REFERENCE: &str = "lamina.test/image:1";

fn session() -> Session {
    let session = Session::user();
    session.import(&Image::Debian.layout(), REFERENCE);
    session
}

/// `lamina run` of a shell script, as root of the guest.
fn shell(session: &Session, options: &[&str], script: &str) -> Command {
    let mut lamina = session.lamina(["run", "--accel", "tcg", "-u", "0:0", "-w", "/"]);
    lamina.args(options).args([REFERENCE, "--", "/bin/sh", "-c", script]);
    lamina
}

/// Bytes of every value in an order that is the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn input_and_output_of_many_windows_are_byte_exact_and_standard_error_stays_apart() {
    let session = session();
    let sent = noise(3_000_001);
    let mut lamina = shell(&session, &["-i"], "tee /dev/shm/all; md5sum < /dev/shm/all >&2; exit 3");
    let mut child = lamina.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    // Dropped at the end of the thread: the guest's tee must see the end of its input.
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().expect("the guest takes all of its input");
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout == sent, "{} bytes came back of {}", output.stdout.len(), sent.len());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.ends_with("  -\n") && stderr.lines().count() == 1, "{stderr}");
    session.traces().assert_nothing_left();
}

#[test]
fn output_of_a_command_that_ends_at_once_is_whole() {
    let session = session();
    let mut lamina = shell(&session, &[], "head -c 8000000 /dev/zero; (sleep 600 & ) ; exit 255");
    let output = lamina.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 8_000_000));
    assert_eq!(Sha256::digest(&output.stdout), Sha256::digest(vec![0; 8_000_000]));
    session.traces().assert_nothing_left();
}

#[test]
fn a_command_whose_output_is_not_read_ends_as_on_a_closed_pipe() {
    let session = session();
    let mut child = shell(&session, &[], "exec yes").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 4];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"y\ny\n");
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13), "SIGPIPE ends it");
    session.traces().assert_nothing_left();
}

#[test]
fn endings_of_commands_are_those_of_a_shell() {
    let session = session();
    for (script, status) in [("kill -9 $$", 137), ("exec /etc/passwd", 126)] {
        let finished = session.start(shell(&session, &[], script)).finish();
        assert_eq!(finished.status.code(), Some(status), "{finished}");
    }
    session.traces().assert_nothing_left();
}

#[test]
fn a_signal_reaches_the_command_which_may_end_as_it_likes() {
    let session = session();
    let shared = session.work("shared");
    let share = format!("{}:/media", shared.display());
    let script = "trap 'echo caught; exit 9' TERM; echo up > /media/up; while :; do sleep 1; done";
    let mut guest = session.start(shell(&session, &["-v", &share], script));
    guest.await_file(&shared.join("up"));
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(9), "caught\n"), "{finished}");
    session.traces().assert_nothing_left();
}

#[test]
fn a_terminal_is_a_terminal_in_the_guest_and_is_restored() {
    let session = session();
    // script(1) provides lamina with a terminal, and stty shows its state afterwards.
    let run = format!("{:?}", shell(&session, &[], "test -t 0 && tty && stty size && echo $TERM"));
    let run = run.split_once("\"run\"").map(|(_, rest)| format!("\"$LAMINA\" run{rest}")).expect("the command line");
    let line = format!(
        "stty rows 31 cols 97; {run}; echo status=$?; stty -a | tr ';' '\\n' | grep -o -w -e '-*echo' -e '-*icanon'"
    );
    let mut terminal = session.program("lamina");
    let lamina = terminal.get_program().to_owned();
    terminal = session.command("/usr/bin/script".as_ref());
    terminal.env("LAMINA", lamina).env("TERM", "vt220").args(["-qec", &line, "/dev/null"]);
    let finished = session.start(terminal).finish();
    for expected in ["/dev/pts/0", "31 97", "vt220", "status=0", "\necho", "icanon"] {
        assert!(finished.stdout.replace('\r', "").contains(expected), "no {expected:?}\n{finished}");
    }
    assert!(!finished.stdout.contains("-echo") && !finished.stdout.contains("-icanon"), "{finished}");
    session.traces().assert_nothing_left();
}

#[test]
fn a_killed_launcher_ends_its_processes_and_the_next_one_removes_what_is_left() {
    let session = session();
    for backend in ["direct", "virtiofsd"] {
        let shared = session.work(backend);
        let share = format!("{}:/media", shared.display());
        let script = "echo up > /media/up; sleep 600";
        let mut guest = session.start(shell(&session, &["--backend", backend, "-v", &share], script));
        guest.await_file(&shared.join("up"));
        guest.signal(Signal::KILL);
        assert_eq!(guest.finish().status.code(), None);
        session.start(shell(&session, &[], "true")).finish().succeeded();
        session.traces().assert_nothing_left();
    }
}
