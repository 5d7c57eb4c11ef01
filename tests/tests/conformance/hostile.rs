//! Layers made to do harm: refused with the entry's name, or taken for what they say, but never more than that.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use end_to_end::conformance::stack::{Entry, Layer, Node, Stack};
use end_to_end::conformance::subject::{Subject, dump};
use end_to_end::conformance::tar_writer::write_entry;
use layer_store::{ExpectedLayer, IngestError, Ino, Limits};
use proptest::prelude::*;
use proptest::sample::Index;

use super::case;
use super::deviations::*;
use super::random::stacks;

fn subject() -> Subject {
    Subject::new().expect("a store in memory")
}

#[test]
fn hard_link_to_a_file_of_the_host_is_refused() {
    assert!(Path::new("/etc/passwd").exists(), "the host has the file that the image has not");
    case("layer\n file a\n link stolen -> /etc/passwd").is_refused("stolen");
    case("layer\n file a\n link stolen -> ../../../../../../etc/passwd").is_refused("stolen");
}

#[test]
fn hard_link_through_a_symlink_stays_in_the_image() {
    case("layer\n sym out -> /etc\n link stolen -> out/passwd").is_refused("stolen");
    case("layer\n sym out -> ../../../etc\nlayer\n link stolen -> out/passwd").is_refused("stolen");
}

/// The text of a link is kept as it is: it means something only where the image runs.
#[test]
fn symlink_out_of_the_image_is_only_text() {
    case(
        "layer
           sym  absolute -> /etc/passwd
           sym  relative -> ../../../../etc/passwd
           sym  loop -> loop
         layer
           file loop/a \"a\"",
    )
    .shows(
        "sym  absolute -> /etc/passwd
         sym  relative -> ../../../../etc/passwd
         dir  loop
         file loop/a \"a\"",
    )
    .umoci_fails(UMOCI_FOLLOWS_PARENT_LINKS)
    .check();
}

#[test]
fn size_that_no_file_can_have_is_refused() {
    let base256 = |bytes: &str| format!("layer\n file greedy \"x\" head.size=\"{bytes}\"");
    case(&base256("\\x80\\0\\0\\0\\x80\\0\\0\\0\\0\\0\\0\\0")).fails_to_import("greedy");
    case(&base256("\\x80\\0\\0\\0\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff")).fails_to_import("greedy");
    case(&base256("\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff")).fails_to_import("greedy");
    for size in ["18446744073709551615", "18446744073709551616", "9223372036854775807", "-1", "1e3"] {
        case(&format!("layer\n file greedy \"x\" pax.size=\"{size}\"")).fails_to_import("greedy");
    }
}

#[test]
fn sparse_map_that_contradicts_itself_is_refused() {
    let extents = [
        ("overlap", "0,5,3,5", "10"),
        ("backwards", "100,5,0,5", "10"),
        ("after the end", "99999,5,200000,5", "10"),
        ("odd", "0,5,10", "5"),
        ("no number", "0,x", "5"),
        ("overflow", "18446744073709551615,5", "5"),
        ("more than there is", "0,50000", "5"),
    ];
    for (why, map, size) in extents {
        let layer = format!(
            "layer\n file contradicts fill={size} pax.GNU.sparse.size=\"100000\" pax.GNU.sparse.numblocks=\"1\" \
             pax.GNU.sparse.map=\"{map}\" pax.GNU.sparse.name=\"contradicts\""
        );
        assert!(Subject::new().and_then(|subject| subject.shown(&layer.parse()?)).is_err(), "{why} is taken");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for field in ["mode", "uid", "gid", "size", "mtime", "chksum"] {
        case(&format!("layer\n file garbled \"x\" head.{field}=\"9z?\"")).fails_to_import("");
    }
}

#[test]
fn pax_records_that_are_none_are_refused() {
    // The record says that it is longer than the header, or too short, or its length is not a length.
    for length in ["999", "0", "-5", "x", "99999999999999999999"] {
        let record = format!("{length} path=a\n");
        let layer = format!("layer\n junk x \"{}\" head.typeflag=\"x\"\n file garbled \"x\"", record.escape_default());
        case(&layer).fails_to_import("");
    }
}

/// Linux: `XATTR_NAME_MAX` and `XATTR_SIZE_MAX`.
#[test]
fn xattrs_at_the_limits_of_linux_are_taken() {
    let name = format!("user.{}", "n".repeat(250));
    let stack: Stack = format!("layer\n file a xattr.{name}=\"v\" xattr.user.large=\"{}\"", "v".repeat(65536))
        .parse()
        .expect("a stack");
    let shown = subject().shown(&stack).expect("the stack is taken");
    assert_eq!(stack.expected().expect("the model takes it").difference(&shown), "");
}

#[test]
fn xattrs_over_the_limits_of_linux_are_refused() {
    case(&format!("layer\n file over-limit xattr.user.{}=\"v\"", "n".repeat(251))).fails_to_import("over-limit");
    case(&format!("layer\n file over-limit xattr.user.k=\"{}\"", "v".repeat(65537))).fails_to_import("over-limit");
    case("layer\n file over-limit xattr.\"\"=\"v\"").fails_to_import("SCHILY.xattr.");
}

/// `listxattr` could not return them: `XATTR_LIST_MAX`.
#[test]
fn names_of_xattrs_beyond_what_linux_can_list_are_refused() {
    let many: String = (0..300).map(|number| format!(" xattr.user.{number:0>240}=\"v\"")).collect();
    case(&format!("layer\n file over-limit{many}")).fails_to_import("over-limit");
}

/// A tree of 100,000 levels is refused, or can be walked to its end.
#[test]
fn path_of_100_000_components_does_no_harm() {
    let stack = Stack {
        layers: vec![Layer { entries: vec![Entry::new("d/".repeat(100_000) + "end", Node::Fifo)], ..Layer::default() }],
    };
    let subject = subject();
    match subject.view(&stack) {
        Err(error) => assert!(format!("{error:#}").contains("d/d/"), "{error:#}"),
        Ok(view) => {
            let mut at = Ino::ROOT;
            for _ in 0..100_000 {
                at = view.lookup(at, b"d").expect("a directory").expect("the next level");
            }
            assert!(view.lookup(at, b"end").expect("a directory").is_some());
        }
    }
}

#[test]
fn chain_of_100_000_hard_links_is_one_inode() {
    let mut layer = Layer::default();
    for number in 0..100_000 {
        layer.entries.push(Entry::new(format!("n{number}"), Node::HardLink(format!("n{}", number + 1).into_bytes())));
    }
    layer.entries.push(Entry::new("n100000", Node::Fifo));
    let view = subject().view(&Stack { layers: vec![layer] }).expect("the stack is taken");
    let first = view.lookup(Ino::ROOT, b"n0").expect("a directory").expect("the first name");
    assert_eq!(view.lookup(Ino::ROOT, b"n100000").expect("a directory"), Some(first));
    assert_eq!(view.attr(first).expect("an inode").nlink, 100_001);
}

/// Gzip of this many zero bytes, as a layer with one file of them.
fn bomb(bytes: u64) -> Vec<u8> {
    let mut layer = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut layer, flate2::Compression::best());
    let text = format!("layer\n file bomb head.size=\"{bytes:011o}\\0\"");
    let stack: Stack = text.parse().expect("a stack");
    write_entry(&stack.layers[0].entries[0], &mut encoder).expect("room in memory");
    io::copy(&mut io::repeat(0).take(bytes.next_multiple_of(512) + 1024), &mut encoder).expect("room in memory");
    encoder.finish().expect("room in memory");
    layer
}

#[test]
fn layer_larger_than_the_limit_is_refused_and_leaves_nothing() {
    let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
    refused_by_limit(limits, "larger than");
}

#[test]
fn layer_that_unpacks_to_too_many_times_its_size_is_refused_and_leaves_nothing() {
    let limits = Limits { ratio: 50, ratio_free_bytes: 1 << 20, ..Limits::default() };
    refused_by_limit(limits, "times as large");
}

fn refused_by_limit(limits: Limits, complaint: &str) {
    let subject = subject().with_limits(limits);
    subject.ingest(&Layer::default()).expect("an empty layer is taken, and the store has its lock file");
    let before = subject.files().expect("the store can be read");
    let layer = bomb(64 << 20);
    let refused = subject.store().layers().ingest(&mut &layer[..], &ExpectedLayer::default());
    assert!(
        matches!(&refused, Err(error @ IngestError::Limit(_)) if error.to_string().contains(complaint)),
        "{refused:?}"
    );
    assert_eq!(subject.files().expect("the store can be read"), before, "something is left of the refused layer");
    // A user who trusts the layer can raise the limit.
    let generous = subject.with_limits(Limits { ratio: 2000, ..Limits::default() });
    generous.store().layers().ingest(&mut &layer[..], &ExpectedLayer::default()).expect("taken with other limits");
}

#[test]
fn more_inodes_than_the_limit_are_refused() {
    let subject = subject().with_limits(Limits { inodes: 1000, ..Limits::default() });
    let lines: String = (0..1001).map(|number| format!("fifo n{number}\n")).collect();
    let stack: Stack = format!("layer\n{lines}").parse().expect("a stack");
    let error = subject.view(&stack).expect_err("too many").to_string();
    assert!(error.contains("more than 1000 inodes"), "{error}");
}

/// Peak memory of taking in a layer of 1,000,000 entries, in kilobytes: under 400 MB.
#[test]
fn layer_of_a_million_entries_is_taken_in_bounded_memory() {
    const LIMIT_KILOBYTES: u64 = 400_000;
    // On a disk: half a gigabyte of headers would count as memory anywhere else.
    let scratch = tempfile::tempdir().expect("a directory for temporary files");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ingest-meter"))
        .arg(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built with the tests");
    let mut input = io::BufWriter::new(child.stdin.take().expect("a pipe"));
    for number in 0..1_000_000 {
        let path = format!("usr/share/package-{}/section-{}/file-{number}.conf", number / 1000, number / 50 % 20);
        write_entry(&Entry::new(path, Node::Fifo), &mut input).expect("the program reads to the end");
    }
    input.write_all(&[0; 1024]).expect("the program reads to the end");
    drop(input);
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("it ends").success(), "{text}");
    let peak: u64 = text.trim().parse().expect("a number of kilobytes");
    assert!(peak < LIMIT_KILOBYTES, "{peak} kB at the peak");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes changed anywhere, and the checksum corrected: an error, or a view that can be walked.
    #[test]
    fn damaged_layer_is_refused_or_can_be_walked(
        stack in stacks(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        sealed in any::<bool>(),
    ) {
        let mut tar = stack.layers[0].tar();
        for (place, byte) in damage {
            let at = place.index(tar.len());
            tar[at] = byte;
            if sealed {
                seal_block(&mut tar[at / 512 * 512..][..512]);
            }
        }
        let subject = subject();
        let taken = subject.store().layers().ingest(&mut &tar[..], &ExpectedLayer::default());
        if let Ok(layer) = taken
            && let Ok(view) = subject.view_of(&[layer.diff_id])
        {
            prop_assert!(dump(&view).is_ok());
        }
    }

    /// Cut anywhere: an error, or a view that can be walked.
    #[test]
    fn layer_cut_off_anywhere_is_refused_or_can_be_walked(stack in stacks(), place in any::<Index>()) {
        let tar = stack.layers[0].tar();
        let subject = subject();
        let taken = subject.store().layers().ingest(&mut &tar[..place.index(tar.len())], &ExpectedLayer::default());
        if let Ok(layer) = taken
            && let Ok(view) = subject.view_of(&[layer.diff_id])
        {
            prop_assert!(dump(&view).is_ok());
        }
    }
}

fn seal_block(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
