//! `lamina build-image`: a base as one EROFS image, checked by the kernel and by fsck.erofs.

use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Image, Layout, Session, TreeDump, deviations, oracle};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

const REFERENCE: &str = "lamina.test/image:1";

/// An image mounted by the kernel; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(session: &Session, image: &Path) -> Self {
        let point = session.work("erofs");
        let mount = installed("mount");
        Finished::of(Command::new(mount).args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(&point)).succeeded();
        Self(point)
    }

    fn tree(&self) -> TreeDump {
        TreeDump::of(&self.0).expect("the tree of the mounted image")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).expect("the image is mounted");
    }
}

fn build(session: &Session, name: &str) -> PathBuf {
    let file = session.work("images").join(name);
    session.ok(["build-image", REFERENCE, file.to_str().unwrap()]);
    Finished::of(Command::new(installed("fsck.erofs")).arg(&file)).succeeded();
    file
}

fn image_mounted_by_the_kernel_equals_the_oracle(image: Image) {
    let session = Session::user();
    session.import(&image.layout(), REFERENCE);
    let file = build(&session, "one.erofs");
    let mounted = Mounted::at(&session, &file);
    oracle::tree_of(image).assert_same(&mounted.tree(), deviations::MOUNTED, image.name());
    drop(mounted);
    session.traces().assert_nothing_left();
}

#[test]
fn debian_as_a_block_image_equals_what_umoci_unpacks() {
    image_mounted_by_the_kernel_equals_the_oracle(Image::Debian);
}

#[test]
fn npm_and_pypi_trees_as_a_block_image_equal_what_umoci_unpacks() {
    image_mounted_by_the_kernel_equals_the_oracle(Image::Trees);
}

#[test]
fn corner_cases_as_a_block_image_equal_what_umoci_unpacks() {
    image_mounted_by_the_kernel_equals_the_oracle(Image::Corners);
}

/// An image with everything that is difficult in this format.
fn hard_layout() -> Layout {
    let sizes = "for size in 0 1 4031 4032 4033 4095 4096 4097 8191 8192 8193 70000; do
            head -c $size /dev/urandom > size-$size; done";
    let names = "mkdir many; cd many; seq -f \"$(printf '%0200d' 0)-%g\" 3000 | xargs touch -d @-5.123456789; cd ..";
    // Names that sort before, between and after '.' and '..'.
    let order = "mkdir order; cd order; touch -- '!' ',' '-x' '...' '..a' '.a'; cd ..";
    let links = "for size in 1 59 60 4000 4090; do
            ln -s $(head -c $size /dev/zero | tr '\\0' x) link-$size; done";
    let attributes = "touch attributes; setfattr -n user.large -v 0x$(printf '%0800d' 7) attributes
        setfattr -n trusted.t -v one attributes; setfattr -n security.s -v two attributes
        for number in $(seq 20); do setfattr -n user.number-$number -v $(printf '%0100d' $number) attributes; done
        echo behind >> attributes; ln -s x link; setfattr -h -n trusted.link -v yes link";
    let nodes =
        "mknod null c 1 3; mknod large b 259 1048575; mkfifo pipe; chown 4000000000:3000000000 pipe; chmod 6751 null
        touch -d '2300-01-01 00:00:00.999999999Z' pipe; ln size-4097 second-name; mkdir -m 1777 sticky";
    // Most inodes have this time, so they are compact where their numbers are small.
    let same = "mkdir -p same/directory; cd same; seq -f 'file-%g' 4000 | xargs touch; echo content > content
        ln -s target link; ln -s $(head -c 4060 /dev/zero | tr '\\0' x) inline; ln -s $(head -c 4070 /dev/zero | tr '\\0' x) outside
        mkfifo pipe; mknod null c 1 3; touch owner group; chown 65536:0 owner; chown 0:65536 group; chmod 2755 content
        setfattr -n user.label -v of-many-files file-*; setfattr -n user.own -v of-one file-7
        touch most; chown 65535:65535 most; setfattr -n user.a -v b most; ln content second; truncate -s 5G sparse
        cd ..; find same -exec touch -hd '2001-09-09 01:46:40.5 UTC' {} +";
    Layout::of(&[
        Layer::of_script(&[sizes, names, order, links, attributes, nodes].join("\n")),
        Layer::of_script_sparse(same),
        Layer::of_script_sparse(
            "truncate -s 3G sparse; printf end >> sparse; printf middle | dd of=sparse bs=1 seek=5000 conv=notrunc status=none",
        ),
    ])
}

#[test]
fn every_size_name_attribute_and_node_is_in_the_image() {
    let session = Session::new(Actor::Root);
    session.import(hard_layout().path(), REFERENCE);
    let file = build(&session, "one.erofs");
    let by_fuse = session.mount(REFERENCE, "fuse");
    let expected = session.tree(&by_fuse);
    session.umount(&by_fuse);
    let mounted = Mounted::at(&session, &file);
    assert!(expected.len() > 3030, "{} entries", expected.len());
    expected.assert_same(&mounted.tree(), &[], "the hard image");
}

#[test]
fn same_base_gives_the_same_bytes_in_any_store() {
    let images = [Session::user(), Session::user()].map(|session| {
        session.import(&Image::Corners.layout(), REFERENCE);
        let file = build(&session, "one.erofs");
        (std::fs::read(file).expect("the image can be read"), session)
    });
    assert!(images[0].0 == images[1].0, "two images of one base differ");
}

#[test]
fn image_takes_no_blocks_for_holes() {
    use std::os::unix::fs::MetadataExt;
    let session = Session::new(Actor::Root);
    session.import(hard_layout().path(), REFERENCE);
    let metadata = build(&session, "one.erofs").metadata().unwrap();
    assert!(
        metadata.len() > 3 << 30 && metadata.blocks() * 512 < 64 << 20,
        "{} of {}",
        metadata.blocks() * 512,
        metadata.len()
    );
}

#[test]
fn image_that_cannot_be_made_leaves_nothing() {
    let session = Session::user();
    session.import(&Image::Corners.layout(), REFERENCE);
    let images = session.work("images");
    let taken = images.join("taken");
    std::fs::write(&taken, "mine").unwrap();
    session.run(["build-image", REFERENCE, taken.to_str().unwrap()]).refused("taken");
    session.run(["build-image", REFERENCE, "/nowhere/at/all"]).refused("/nowhere/at/all");
    session.run(["build-image", "lamina.test/nothing:1", images.join("x").to_str().unwrap()]).refused("nothing:1");
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "mine");
    let interrupted = session.start(session.lamina(["build-image", REFERENCE, images.join("y").to_str().unwrap()]));
    // It creates the file first.
    while std::fs::read_dir(&images).unwrap().count() < 2 {
        std::thread::yield_now();
    }
    interrupted.signal(Signal::INT);
    let finished = interrupted.finish();
    if !finished.status.success() {
        assert!(finished.stderr.contains("cancelled"), "{finished}");
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1, "{finished}");
    }
    session.ok(["build-image", "--force", REFERENCE, taken.to_str().unwrap()]);
    assert!(taken.metadata().unwrap().len() > 1 << 20);
}

#[test]
fn damaged_blob_gives_no_image_and_is_named() {
    use std::os::unix::fs::FileExt;
    let session = Session::user();
    let layer = Layer::of_files(&[("etc/large", &[7; 100_000]), ("etc/small", b"small")]);
    session.import(Layout::of(std::slice::from_ref(&layer)).path(), REFERENCE);
    let blob = session.store().join(layer.diff_id().replace("sha256:", "layers/sha256/")).join("blob");
    let content = layer.tar().windows(9).position(|window| window == [7; 9]).expect("the file's content");
    std::fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&blob).unwrap();
    file.write_all_at(&[8], content as u64 + 50_000).unwrap();
    let image = session.work("images").join("one");
    let finished = session.run(["build-image", REFERENCE, image.to_str().unwrap()]);
    finished.refused("etc/large");
    assert!(!image.exists(), "{finished}");
}
