//! Ways to read a file.

use std::path::Path;

use end_to_end::layout::Layer;
use end_to_end::programs::{built, installed};
use end_to_end::{Actor, Finished, Image, Layout, TreeDump};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread};

use crate::fixture::{REFERENCE, session_with};

end_to_end::on_every_transport! {
    direct_and_cached_reads_give_the_same_bytes_at_any_offset,
    program_runs_from_a_mount_and_reads_it,
    programs_of_an_image_run_with_its_own_libraries,
    mapping_is_private_or_read_only,
    locks_and_leases_of_a_read_only_file_work,
}

/// Bytes in which no two pages are equal.
fn content() -> Vec<u8> {
    (0..300_001_u32).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

fn direct_and_cached_reads_give_the_same_bytes_at_any_offset() {
    let content = content();
    let session = session_with(Actor::User, Layout::of(&[Layer::of_files(&[("file", &content)])]).path());
    let point = session.mount(REFERENCE, "mounted");
    Actor::User.act(|| {
        for flags in [OFlags::DIRECT, OFlags::empty()] {
            let file = open(point.join("file"), OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty()).expect("open");
            for (offset, length) in
                [(0, 4096), (4096, 1 << 20), (1 << 20, 1 << 20), (1, 1), (4095, 4098), (1_200_000, 9000)]
            {
                let mut buffer = vec![0; length];
                let read = pread(&file, &mut buffer[..], offset as u64).expect("a read");
                let expected = &content[offset..content.len().min(offset + length)];
                assert!(&buffer[..read] == expected, "{length} bytes at {offset} with {flags:?}");
            }
            for offset in [content.len(), content.len() + 1, 1 << 40] {
                assert_eq!(pread(&file, &mut [0; 10][..], offset as u64), Ok(0), "at {offset} with {flags:?}");
            }
        }
    });
    session.umount(&point);
}

fn program_runs_from_a_mount_and_reads_it() {
    let program = std::fs::read(built("tree-dump")).expect("tree-dump");
    let layer = Layer::of_files(&[("etc/motd", b"hello"), ("bin/tree-dump", &program)]);
    let session =
        session_with(Actor::User, Layout::of(&[layer, Layer::of_script("mkdir bin; touch bin/other")]).path());
    let point = session.mount(REFERENCE, "mounted");
    let run = |program: &Path| Finished::of(session.command(program).arg(&point));
    // Its mode is 0644, so no user may execute it.
    let refused = Actor::User.act(|| std::process::Command::new(point.join("bin/tree-dump")).arg(&point).output());
    assert_eq!(refused.map_err(|error| error.kind()).err(), Some(std::io::ErrorKind::PermissionDenied));
    session.umount(&point);

    let runnable = Layer::of_script(&format!("mkdir bin; cp '{}' bin/runnable", built("tree-dump").display()));
    let layout = Layout::of(&[Layer::of_files(&[("etc/motd", b"hello")]), runnable]);
    session.import(layout.path(), "lamina.test/image:2");
    let point = session.mount("lamina.test/image:2", "mounted");
    let finished = Finished::of(session.command(&point.join("bin/runnable")).arg(&point)).succeeded();
    let tree = TreeDump::parse(&finished.stdout).expect("tree-dump prints its own format");
    assert_eq!(tree, session.tree(&point));
    assert!(run(&built("tree-dump")).stdout.contains("etc/motd"));
    session.umount(&point);
}

fn programs_of_an_image_run_with_its_own_libraries() {
    let session = session_with(Actor::Root, &Image::Corners.layout());
    let point = session.mount(REFERENCE, "mounted");
    let mut chroot = session.command(&installed("chroot"));
    let finished =
        Finished::of(chroot.arg(&point).args(["/bin/sh", "-c", "cat /etc/os-release; ls -d /usr"])).succeeded();
    assert!(finished.stdout.contains("VERSION_ID=\"12\"") && finished.stdout.ends_with("/usr\n"), "{finished}");
    session.umount(&point);
}

fn mapping_is_private_or_read_only() {
    let content = content();
    let session = session_with(Actor::Root, Layout::of(&[Layer::of_files(&[("file", &content)])]).path());
    let point = session.mount(REFERENCE, "mounted");
    // Python has mmap(2) and truncate(2); a private page that is written leaves the file, and other mappings, alone.
    let script = "
import errno, mmap, os, sys
file = os.open('file', os.O_RDONLY)
shared = mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
private = mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
private[5000:5003] = b'new'
assert shared[5000:5003] != b'new' and os.pread(file, 3, 5000) == shared[5000:5003], 'the file has changed'
assert private[:5000] == shared[:5000] and private[5003:] == shared[5003:], 'more than was written has changed'
def error(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
print(error(mmap.mmap, file, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
print(error(os.truncate, 'file', 0), error(os.truncate, 'file', 1 << 30), error(os.truncate, '.', 0), flush=True)
sys.stdout.buffer.write(shared[:])
";
    let mut python = session.command(&installed("python3"));
    let output = python.args(["-I", "-c", script]).current_dir(&point).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let errors = b"EACCES\nEROFS EROFS EISDIR\n";
    let (said, mapped) = output.stdout.split_at(output.stdout.len().min(errors.len()));
    assert_eq!(String::from_utf8_lossy(said), String::from_utf8_lossy(errors));
    assert!(mapped == content, "{} bytes of the mapping are not the file's {}", mapped.len(), content.len());
    session.umount(&point);
}

fn locks_and_leases_of_a_read_only_file_work() {
    let session = session_with(Actor::User, Layout::of(&[Layer::of_files(&[("file", b"content")])]).path());
    let point = session.mount(REFERENCE, "mounted");
    Actor::User.act(|| {
        let open = || open(point.join("file"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let (first, second) = (open(), open());
        use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared, Unlock};
        rustix::fs::flock(&first, NonBlockingLockExclusive).expect("a lock");
        assert_eq!(rustix::fs::flock(&second, NonBlockingLockShared), Err(Errno::AGAIN));
        rustix::fs::flock(&first, Unlock).expect("no lock");
        rustix::fs::flock(&second, NonBlockingLockShared).expect("a lock");
        rustix::fs::fsync(&first).expect("nothing to write is written");
    });
    session.umount(&point);
}
