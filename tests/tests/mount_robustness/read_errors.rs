//! A host's disk that cannot be read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Layout, Session};
use rustix::mount::{UnmountFlags, unmount};

use super::{REFERENCE, shell, stats};

fn output(program: &str, arguments: &[&str], path: &Path) -> String {
    Finished::of(Command::new(installed(program)).args(arguments).arg(path)).succeeded().stdout
}

/// Where byte `offset` of a file is on its disk, from the file system's list of its extents, in whole blocks.
fn place_of(path: &Path, offset: u64) -> u64 {
    let listed = output("filefrag", &["-v", "-e"], path);
    let block = offset.div_ceil(4096);
    // `   0:        0..    2047:       6144..      8191:   2048: ...`
    let extents = listed.lines().filter_map(|line| {
        let numbers: Vec<u64> =
            line.split([':', '.', ' ']).filter(|word| !word.is_empty()).map_while(|word| word.parse().ok()).collect();
        let [_, first, last, place, ..] = numbers[..] else { return None };
        Some((first, last, place))
    });
    let found = extents.into_iter().find(|(first, last, _)| (*first..=*last).contains(&block));
    let (first, _, place) = found.unwrap_or_else(|| panic!("no extent has block {block}:\n{listed}"));
    (place + block - first) * 4096
}

/// A session's store on its own ext4 file system, on a loop device.
struct Disk<'session> {
    session: &'session Session,
    image: PathBuf,
}

impl<'session> Disk<'session> {
    fn new(session: &'session Session) -> Self {
        let image = session.directory().join("ext4");
        File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
        output("mkfs.ext4", &["-q", "-m", "0", "-b", "4096"], &image);
        let disk = Self { session, image };
        disk.mount();
        Actor::User.own(&session.store());
        disk
    }

    fn mount(&self) {
        Finished::of(Command::new(installed("mount")).args(["-o", "loop"]).arg(&self.image).arg(self.session.store()))
            .succeeded();
    }

    /// Drops what the kernel has cached of its files.
    fn forget(&self) {
        unmount(self.session.store(), UnmountFlags::empty()).unwrap();
        self.mount();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.session.store(), UnmountFlags::DETACH);
    }
}

/// A loop device whose file ends too early returns the same error as a failing disk.
#[test]
fn read_error_of_the_hosts_disk_fails_that_read_only() {
    let session = Session::user();
    let disk = Disk::new(&session);
    let (first, last) = (noise(1, 4 << 20), noise(2, 4 << 20));
    session.import(Layout::of(&[Layer::of_files(&[("first", &first), ("last", &last)])]).path(), REFERENCE);
    let blob =
        Finished::of(Command::new(installed("find")).arg(session.store().join("layers")).args(["-name", "blob"]));
    let blob = PathBuf::from(blob.succeeded().stdout.trim_end());
    Finished::of(&mut Command::new(installed("sync"))).succeeded();
    // Two headers of 512 bytes precede the content of `last`; half of the content stays readable.
    let place = place_of(&blob, first.len() as u64 + 1024 + last.len() as u64 / 2);
    disk.forget();

    let image = File::options().read(true).write(true).open(&disk.image).unwrap();
    let whole = image.metadata().unwrap().len();
    let mut lost = vec![0; usize::try_from(whole - place).unwrap()];
    image.read_exact_at(&mut lost, place).unwrap();
    let point = session.mount(REFERENCE, "mounted");
    image.set_len(place).unwrap();
    let read = shell(&session, &point, "cat last > /dev/null; cat first | wc -c; head -c 1000000 last | wc -c; ls");
    assert!(read.stderr.contains("Input/output error"), "{read}");
    assert_eq!(read.stdout, "4194304\n1000000\nfirst\nlast\n", "{read}");
    let counted = stats(&session, &point);
    assert!(counted.damaged > 0 && counted.panics == 0, "{counted}");

    image.set_len(whole).unwrap();
    image.write_all_at(&lost, place).unwrap();
    assert_eq!(shell(&session, &point, "cat last | wc -c").succeeded().stdout, "4194304\n");
    session.umount(&point);
    drop(disk);
    session.traces().assert_nothing_left();
}
