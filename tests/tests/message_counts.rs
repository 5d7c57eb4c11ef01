//! How many messages a user's tasks cost the server: on a mount, and on the root of a VM.
//!
//! One shell script does it all, on the mounted tree with the host's programs and in a guest with those of the image.
//! It prints a mark before and after each row and waits for a line of input, so the counters
//! are read while nothing happens. What is not counted (loading a program) is done before.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use composefs_fuse::linux::fetch_stats;
use composefs_fuse::stats::Snapshot;
use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Image, Layout, Session, Transport};

const REFERENCE: &str = "lamina.test/messages:1";

/// Bytes of the large file.
const LARGE: u64 = 64 << 20;
/// Bytes that a kernel reads ahead unless root tells it otherwise (`VM_READAHEAD_PAGES`).
const READAHEAD: u64 = 128 << 10;
/// Small files in one directory: enough to fill many listings.
const CROWD: usize = 3000;

/// How many messages are allowed.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// At most this number.
    Messages(u64),
    /// As many `LISTXATTR` and nothing else.
    Listxattr(u64),
    /// One `STATFS` and nothing else: GNU `find` and `du` ask statfs(2) once each, and Linux does not cache the answer
    /// (`fuse_statfs` in `fs/fuse/inode.c`).
    Statfs,
    /// Two for each directory and one for each page of entries, none of them a `LOOKUP`.
    FirstWalk,
    /// At most this number for each directory, and three for the walk.
    EachDirectory(u64),
    /// One for each entry, and at most this number for each directory.
    EachEntry(u64),
}

/// One row of the table.
struct Row {
    what: &'static str,
    /// Shell commands that are not counted.
    before: &'static str,
    /// Shell commands that are.
    act: &'static str,
    limit: Limit,
    /// The limit of the portable transport, which has a message for every open and no attributes in listings.
    portable: Limit,
}

/// `$all` are the directories of the image, without those that a guest has from its kernel.
const ROWS: [Row; 13] = [
    Row {
        what: "first find",
        before: "find /proc/self/fd",
        act: "find . -xdev",
        limit: Limit::FirstWalk,
        portable: Limit::EachEntry(4),
    },
    Row {
        what: "second find",
        before: "",
        act: "find . -xdev",
        limit: Limit::Statfs,
        portable: Limit::EachDirectory(2),
    },
    Row {
        what: "second ls -lR",
        before: "ls -lR $all",
        act: "ls -lR $all",
        limit: Limit::Messages(0),
        portable: Limit::EachDirectory(2),
    },
    Row {
        what: "second du",
        before: "du -x .",
        act: "du -x .",
        limit: Limit::Statfs,
        portable: Limit::EachDirectory(2),
    },
    Row {
        what: "missing name, 1,000 times",
        before: "",
        act: "i=0; while [ $i -lt 1000 ]; do [ ! -e srv/crowd/missing ] || exit 1; i=$((i + 1)); done",
        limit: Limit::Messages(1),
        portable: Limit::Messages(1000),
    },
    Row {
        what: "first read of a small file",
        before: "cat srv/crowd/0001",
        act: "cat srv/crowd/0002",
        limit: Limit::Messages(1),
        portable: Limit::Messages(3),
    },
    Row {
        what: "file opened and read again, 100 times",
        before: "",
        act: "i=0; while [ $i -lt 100 ]; do read -r line < srv/crowd/0002; i=$((i + 1)); done; cat srv/crowd/0002",
        limit: Limit::Messages(0),
        portable: Limit::Messages(101),
    },
    Row {
        what: "readlink again",
        before: "readlink srv/link",
        act: "readlink srv/link",
        limit: Limit::Messages(0),
        portable: Limit::Messages(0),
    },
    Row {
        what: "execve again",
        before: "./usr/bin/true",
        act: "./usr/bin/true",
        limit: Limit::Messages(0),
        portable: Limit::Messages(3),
    },
    Row {
        what: "getxattr of 1,000 files",
        // Number 191 is getxattr on x86-64.
        before: "perl -e '($file, $name, $value) = qw(/proc user.none x); syscall(191, $file, $name, $value, 0)'",
        act: "perl -e '($name, $value) = qw(user.none x); \
              for (1001 .. 2000) { $file = \"srv/crowd/$_\"; syscall(191, $file, $name, $value, 0) }'",
        limit: Limit::Messages(1),
        portable: Limit::Messages(1),
    },
    Row {
        what: "listxattr of 1,000 files, an empty list each",
        // Number 194 is listxattr on x86-64. The kernel does not cache the answer.
        before: "perl -e '($file, $list) = (\"srv/crowd/1000\", \"x\" x 9); syscall(194, $file, $list, 9)'",
        act: "perl -e '$list = \"x\" x 9; \
              for (1001 .. 2000) { $file = \"srv/crowd/$_\"; syscall(194, $file, $list, 9) == 0 || exit 1 }'",
        limit: Limit::Listxattr(1000),
        portable: Limit::Listxattr(1000),
    },
    Row {
        what: "64 MiB in order, the first time",
        before: "cat srv/crowd/0001",
        act: "cat srv/large",
        limit: Limit::Messages(LARGE / READAHEAD + 8),
        portable: Limit::Messages(LARGE / READAHEAD + 10),
    },
    Row {
        what: "64 MiB in order, again",
        before: "",
        act: "cat srv/large",
        limit: Limit::Messages(0),
        portable: Limit::Messages(1),
    },
];

/// The script: for each row `begin`, a line of input, `end`, a line of input; then facts about the tree and its kernel.
fn script() -> String {
    let mut text = "cd \"$0\" || exit 1\nall=$(ls | grep -vxE 'dev|proc|run|sys|tmp')\nfacts=$(uname -r)\n".to_owned();
    for Row { before, act, .. } in &ROWS {
        for (command, mark) in [(before, "begin"), (act, "end")] {
            if !command.is_empty() {
                writeln!(text, "{{ {command}; }} > /dev/null || exit 1").unwrap();
            }
            writeln!(text, "echo {mark}; read -r go").unwrap();
        }
    }
    text + "echo $(find . -xdev -type d | wc -l) $(find . -xdev | wc -l) $facts\n"
}

/// An image without extended attributes: Debian's smallest root, and a layer of files to read.
fn layout() -> Layout {
    Layout::of(&[Layer::of_image(Image::Debian, 0), Layer::of_tar(reading_matter())])
}

fn reading_matter() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header
    };
    for number in 0..CROWD {
        let content = format!("file {number}\n");
        let path = format!("srv/crowd/{number:04}");
        archive.append_data(&mut header(content.len() as u64), path, content.as_bytes()).unwrap();
    }
    let large: Vec<u8> = (0..LARGE).map(|byte| (byte / 4096 % 251) as u8).collect();
    archive.append_data(&mut header(LARGE), "srv/large", large.as_slice()).unwrap();
    let mut link = header(0);
    link.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut link, "srv/link", "large").unwrap();
    archive.into_inner().unwrap()
}

/// The running script.
struct Conversation {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// A line that has been read and not yet used.
    line: Option<String>,
}

impl Conversation {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the script's shell");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, line: None }
    }

    /// Whether the script has started; if not, its process has ended.
    fn has_begun(&mut self) -> bool {
        let line = self.hear();
        let has_begun = line == "begin";
        if !has_begun {
            println!("{line:?}, {:?}", self.child.wait());
        }
        self.line = Some(line);
        has_begun
    }

    fn hear(&mut self) -> String {
        if let Some(line) = self.line.take() {
            return line;
        }
        let mut heard = String::new();
        self.output.read_line(&mut heard).unwrap();
        heard.trim_end().to_owned()
    }

    fn expect(&mut self, mark: &str, what: &str) {
        let heard = self.hear();
        assert_eq!(heard, mark, "the script has failed at: {what}");
    }

    fn go_on(&mut self) {
        self.input.write_all(b"go\n").unwrap();
    }

    /// Returns what each row cost, and facts about the tree and its kernel.
    fn count(mut self, socket: &Path) -> (Vec<Snapshot>, Facts) {
        let counted = ROWS.iter().map(|row| {
            self.expect("begin", row.what);
            let before = fetch_stats(socket).unwrap();
            self.go_on();
            self.expect("end", row.what);
            let after = fetch_stats(socket).unwrap();
            self.go_on();
            after.since(&before)
        });
        let counted = counted.collect();
        let facts = Facts::parse(&self.hear());
        assert!(self.child.wait().unwrap().success(), "the script has failed at its end");
        (counted, facts)
    }
}

#[derive(Debug)]
struct Facts {
    directories: u64,
    entries: u64,
    /// The kernel's version: major and minor.
    kernel: (u64, u64),
}

impl Facts {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [directories, entries, release] = words[..] else { panic!("facts: {line:?}") };
        let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap());
        let kernel = (numbers.next().unwrap(), numbers.next().unwrap());
        Self { directories: directories.parse().unwrap(), entries: entries.parse().unwrap(), kernel }
    }

    /// Entries that one message of a listing carries at least. Older kernels ask for one page at a time
    /// (`fuse_readdir_uncached` in `fs/fuse/readdir.c`), newer ones for as much as the program has room for.
    fn entries_a_message(&self) -> u64 {
        if self.kernel >= (6, 16) { 100 } else { 20 }
    }

    fn allows(&self, limit: Limit, counted: &Snapshot) -> bool {
        match limit {
            Limit::Messages(most) => counted.total() <= most,
            Limit::Listxattr(most) => counted.total() <= most && counted.total() == counted.count("LISTXATTR"),
            Limit::Statfs => counted.total() <= 1 && counted.total() == counted.count("STATFS"),
            Limit::EachDirectory(most) => counted.total() <= most * self.directories + 3,
            Limit::EachEntry(most) => counted.total() <= self.entries + most * self.directories + 3,
            Limit::FirstWalk => {
                let most = 2 * self.directories + self.entries / self.entries_a_message();
                counted.total() <= most && counted.count("LOOKUP") == 0
            }
        }
    }

    /// A line for each row that costs more than `limit` allows.
    fn violations(&self, counted: &[Snapshot], limit: impl Fn(&Row) -> Limit) -> String {
        let exceeded = ROWS.iter().zip(counted).filter(|(row, counted)| !self.allows(limit(row), counted));
        exceeded.map(|(row, counted)| format!("{}: allowed {:?}\n{counted}\n", row.what, limit(row))).collect()
    }
}

/// The table of counts, for the test's output.
fn table(counted: &[Snapshot]) -> String {
    ROWS.iter().zip(counted).map(|(row, counted)| format!("{:>6}  {}\n", counted.total(), row.what)).collect()
}

fn session() -> Session {
    let session = Session::user();
    session.import(layout().path(), REFERENCE);
    session
}

/// How often to count the messages of a mount again while the kernel reclaims memory for other processes. It then drops
/// names and content, and has to ask for them again, which no server can prevent. A count that no reclaim can explain
/// is final.
const ATTEMPTS: usize = 5;

/// A number that grows when the kernel reclaims memory, or root drops its caches.
fn reclaimed() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").expect("the kernel's counters");
    let counters = text.lines().filter_map(|line| line.split_once(' '));
    let counts = |name: &str| name == "slabs_scanned" || name.starts_with("pgsteal_") || name.starts_with("drop_");
    counters.filter(|(name, _)| counts(name)).map(|(_, count)| count.parse::<u64>().expect("a number")).sum()
}

/// How often to start a guest that does not boot: an emulated kernel (TCG) can stall, and `lamina run` then gives up.
const BOOTS: usize = 3;

#[test]
fn a_mount_is_asked_no_more_than_it_must_be() {
    Transport::Device.during(|| mount_keeps_limits(|row| row.limit));
}

#[test]
fn a_mount_over_io_uring_is_asked_as_much() {
    Transport::Rings.during(|| mount_keeps_limits(|row| row.limit));
}

#[test]
fn a_mount_by_the_portable_transport_is_asked_no_more_than_its_table_says() {
    Transport::Fuser.during(|| mount_keeps_limits(|row| row.portable));
}

fn mount_keeps_limits(limit: impl Fn(&Row) -> Limit) {
    let session = session();
    let mut violations = String::new();
    for attempt in 0..ATTEMPTS {
        let socket = session.directory().join(format!("run/{attempt}.stats"));
        let before = reclaimed();
        let point = session.mount_with(REFERENCE, "mounted", &["--stats", socket.to_str().unwrap()]);
        let mut shell = session.command(&installed("sh"));
        shell.arg("-c").arg(script()).arg(&point);
        let (counted, facts) = Conversation::start(shell).count(&socket);
        session.umount(&point);
        println!("{facts:?}\n{}", table(&counted));
        violations = facts.violations(&counted, &limit);
        if violations.is_empty() || reclaimed() == before {
            break;
        }
    }
    assert!(violations.is_empty(), "{violations}");
    session.traces().assert_nothing_left();
}

#[test]
fn the_root_of_a_vm_is_asked_no_more_than_it_must_be() {
    let session = session();
    let socket: PathBuf = session.directory().join("run/vm.stats");
    // Enough memory to cache the whole tree: the counts are those of a guest without memory pressure.
    // A network would have the init write /etc/resolv.conf.
    let fixed = ["run", "-i", "--accel", "tcg", "--backend", "direct", "--network", "none", "--memory", "1G"];
    let run = [&fixed[..], &["--stats", socket.to_str().unwrap()]].concat();
    let boot = || {
        let mut lamina = session.lamina(&run);
        lamina.arg(REFERENCE).args(["--", "/bin/sh", "-c", &script(), "/"]);
        let mut conversation = Conversation::start(lamina);
        conversation.has_begun().then_some(conversation)
    };
    let conversation = (0..BOOTS).find_map(|_| boot()).expect("a guest that boots");
    let (counted, facts) = conversation.count(&socket);
    println!("{facts:?}\n{}", table(&counted));
    let violations = facts.violations(&counted, |row| row.limit);
    assert!(violations.is_empty(), "{violations}");
    session.traces().assert_nothing_left();
}

/// Linux reads as much around a page of a mapping as it reads ahead, which on mounts of root is more than by default.
#[test]
fn a_page_of_a_mapping_at_random_reads_little_around_it() {
    const PAGES: u64 = 20;
    let session = Session::new(Actor::Root);
    session.import(Layout::of(&[Layer::of_tar(reading_matter())]).path(), REFERENCE);
    let point = session.mount(REFERENCE, "mounted");
    let before = stats(&session, &point);
    // Python has mmap(2).
    let script = "
import mmap, sys
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for number in range(int(sys.argv[2])):
    mapped[(number * 13 % 20 * 3 + 1) << 20]
";
    let mut python = session.command(&installed("python3"));
    python.args(["-I", "-c", script]).arg(point.join("srv/large")).arg(PAGES.to_string());
    Finished::of(&mut python).succeeded();
    let counted = stats(&session, &point).since(&before);
    // More than Linux reads by default. A page that is reclaimed before its fault is tried again is read twice.
    assert!((PAGES * READAHEAD + 1..=PAGES * 3 * READAHEAD).contains(&counted.content_bytes), "{counted}");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn stats(session: &Session, point: &Path) -> Snapshot {
    serde_json::from_str(&session.ok(["stats", "--json", point.to_str().unwrap()])).unwrap()
}

/// Linux does not cache the extended attributes of a FUSE mount, and one file capability in an image is enough to make
/// it ask for them.
#[test]
fn a_listing_of_an_image_with_a_file_capability_does_not_ask_for_every_file() {
    let session = Session::user();
    session.import(&Image::Debian.layout(), REFERENCE);
    let point = session.mount(REFERENCE, "mounted");
    let list = || Finished::of(session.command(&installed("ls")).arg("-lR").arg(&point)).succeeded();
    let lines = list().stdout.lines().count() as u64;
    let before = stats(&session, &point);
    list();
    let counted = stats(&session, &point).since(&before);
    // For the first file or directory that `ls` meets: its label and its two access control lists.
    assert!(counted.count("GETXATTR") <= 3, "{lines} lines:\n{counted}");
    session.umount(&point);
    session.traces().assert_nothing_left();
}
