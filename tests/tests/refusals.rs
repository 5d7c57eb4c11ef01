//! What commands on images and stores leave alone, and what they say then.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;

use end_to_end::layout::{Layer, noise};
use end_to_end::{Layout, Session};
use rustix::process::Signal;

const REFERENCE: &str = "lamina.test/image:1";

fn session() -> (Session, Layout) {
    let session = Session::user();
    let layout = Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=refusals\n")])]);
    session.import(layout.path(), REFERENCE);
    (session, layout)
}

#[test]
fn build_image_replaces_regular_files_alone_even_by_force() {
    let (session, _layout) = session();
    let work = session.work("images");
    let (kept, link, fifo) = (work.join("kept"), work.join("link"), work.join("fifo"));
    fs::write(&kept, "kept").unwrap();
    symlink(&kept, &link).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let build = |path: &std::path::Path| {
        session.run([OsStr::new("build-image"), OsStr::new("--force"), OsStr::new(REFERENCE), path.as_os_str()])
    };
    for path in [&link, &fifo] {
        build(path).refused("it is not a regular file");
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    build(&kept).succeeded();
    assert!(fs::metadata(&kept).unwrap().len() > 4);
    session.traces().assert_nothing_left();
}

#[test]
fn interrupted_export_says_so_and_leaves_nothing() {
    let session = Session::user();
    let layers: Vec<Layer> = (0..2).map(|seed| Layer::of_files(&[("noise", &noise(seed, 40 << 20))])).collect();
    session.import(Layout::of(&layers).path(), REFERENCE);
    let work = session.work("exports");
    let to = work.join("layout");
    let export = session.lamina([OsStr::new("export"), OsStr::new(REFERENCE), to.as_os_str()]);
    let started = session.start(export);
    // From then on there is something to be left.
    while fs::read_dir(&work).unwrap().next().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    started.signal(Signal::INT);
    let finished = started.finish();
    finished.refused("cancelled");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "{finished}");
}
