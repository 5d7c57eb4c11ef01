//! Many names, many readers, many mounts, little memory.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::{Finished, Layout, Session};

use super::{REFERENCE, servers, session_with, shell, stats};

/// Names in the crowded directory.
const CROWD: usize = 200_000;
/// Bytes of memory that a reader may use, including the kernel's caches of what it reads.
const LITTLE: u64 = 200 << 20;

/// A memory cgroup, version 1 or 2, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Self {
        let name = format!("lamina-test-{}", std::process::id());
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let (directory, limit) = match version_1.is_dir() {
            true => (version_1.join(name), "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup").join(name), "memory.max"),
        };
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("a memory cgroup is needed: {error}"));
        let group = Self(directory);
        fs::write(group.0.join(limit), bytes.to_string())
            .unwrap_or_else(|error| panic!("a memory cgroup with {limit} is needed: {error}"));
        group
    }

    /// Runs a shell script in it, as the session's user in `directory`.
    fn shell(&self, session: &Session, directory: &Path, script: &str) -> Finished {
        let mut command = session.command(&installed("sh"));
        command.args(["-c", &format!("read go; {script}")]).current_dir(directory).stdin(Stdio::piped());
        let mut started = session.start(command);
        fs::write(self.0.join("cgroup.procs"), started.child.id().to_string()).expect("a process in the cgroup");
        started.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        started.finish()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After its last process has ended, the group may be busy for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// One directory of [`CROWD`] empty files, and a file larger than [`LITTLE`] that is one hole with three bytes at its
/// end.
fn crowd() -> Layer {
    let mut script = "mkdir crowd; cd crowd; seq -w 200000 | xargs touch --date=@1; cd ..; ".to_owned();
    write!(script, "truncate -s 400M large; printf end >> large").unwrap();
    Layer::of_script_sparse(&script)
}

/// With memory for all of it, the directory costs at most one message for each 100 names. With too little, the kernel
/// drops names and listings, and asks for listings again. A kernel that kept a listing and dropped its names would ask
/// for each name; Linux asks for none, and for the directory itself once. One in a hundred is allowed.
#[test]
fn directory_of_200_000_names_is_right_with_little_memory_and_asks_for_no_name() {
    let session = session_with(&[crowd()]);
    let point = session.mount(REFERENCE, "mounted");
    let walk = "ls -lU crowd | awk '{ count++; bytes += $5 } END { print count, bytes }'";
    let whole = format!("{} 0\n", CROWD + 1);

    let before = stats(&session, &point);
    assert_eq!(shell(&session, &point, walk).succeeded().stdout, whole);
    let first = stats(&session, &point).since(&before);
    assert_eq!(first.count("LOOKUP"), 1, "the directory itself\n{first}");
    assert!(first.total() <= CROWD as u64 / 100 + 10, "{first}");
    session.umount(&point);

    let point = session.mount(REFERENCE, "mounted");
    let little = Cgroup::new(LITTLE);
    for round in 1..=3 {
        let before = stats(&session, &point);
        assert_eq!(little.shell(&session, &point, walk).succeeded().stdout, whole, "round {round}");
        let counted = stats(&session, &point).since(&before);
        println!("round {round} with {} MB:\n{counted}", LITTLE >> 20);
        assert!(counted.count("LOOKUP") <= CROWD as u64 / 100, "round {round}: it asked for names\n{counted}");
        let dropped = counted.count("FORGET") + counted.count("BATCH_FORGET");
        let others = counted.total() - counted.count("LOOKUP") - dropped;
        assert!(others <= CROWD as u64 / 20 + 10, "round {round}:\n{counted}");
    }
    let read = little.shell(&session, &point, "cat large | tail -c 4 | od -An -c; wc -c < large").succeeded();
    assert_eq!(read.stdout.split_whitespace().collect::<Vec<_>>(), ["\\0", "e", "n", "d", "419430403"]);
    drop(little);
    session.umount(&point);
    session.traces().assert_nothing_left();
}

#[test]
fn thousand_processes_read_at_once_and_each_gets_its_own() {
    const READERS: usize = 1000;
    let shared = noise(3, 1 << 20);
    let own: Vec<(String, String)> =
        (0..READERS).map(|number| (format!("own/{number}"), format!("for reader {number}"))).collect();
    let mut files: Vec<(&str, &[u8])> = own.iter().map(|(path, content)| (path.as_str(), content.as_bytes())).collect();
    files.push(("shared", &shared));
    let session = session_with(&[Layer::of_files(&files)]);
    let expected = session.work("expected").join("shared");
    fs::write(&expected, &shared).unwrap();
    let point = session.mount(REFERENCE, "mounted");

    // All of them wait for the end of one pipe, and start when it is closed here.
    let (gate, opener) = std::io::pipe().unwrap();
    let script = "read go; [ \"$(cat own/$0)\" = \"for reader $0\" ] && exec cmp -s shared \"$1\"";
    let mut readers: Vec<Child> = (0..READERS)
        .map(|number| {
            let mut reader = session.command(&installed("sh"));
            reader.args(["-c", script, &number.to_string()]).arg(&expected).current_dir(&point);
            reader.stdin(gate.try_clone().unwrap()).spawn().unwrap()
        })
        .collect();
    drop((gate, opener));
    let failed = readers.iter_mut().map(|reader| reader.wait().unwrap()).filter(|status| !status.success()).count();
    assert_eq!(failed, 0, "of {READERS} readers");
    let counted = stats(&session, &point);
    // The shared file once for all of them, as long as the kernel reads ahead by 32 KiB at least.
    assert!(counted.count("READ") <= READERS as u64 + 64, "{counted}");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

#[test]
fn twenty_bases_are_mounted_at_once_and_each_is_its_own() {
    let session = Session::user();
    let common = Layer::of_files(&[("common", b"the same"), ("name", b"nobody")]);
    let points: Vec<PathBuf> = (0..20)
        .map(|number| {
            let reference = format!("lamina.test/base:{number}");
            let own = Layer::of_files(&[("name", format!("base {number}").as_bytes())]);
            session.import(Layout::of(&[common.clone(), own]).path(), &reference);
            session.mount(&reference, &format!("mounted-{number}"))
        })
        .collect();
    assert_eq!(servers(&session).len(), points.len());
    for (number, point) in points.iter().enumerate() {
        let read = shell(&session, point, "cat common name; ls").succeeded();
        assert_eq!(read.stdout, format!("the samebase {number}common\nname\n"));
    }
    for point in &points {
        session.umount(point);
    }
    session.traces().assert_nothing_left();
}
