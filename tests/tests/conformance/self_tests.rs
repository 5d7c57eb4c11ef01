//! Tests of the suite's own tools: the text form, the encoder, and what comparisons leave out.

use std::path::Path;
use std::process::Command;

use end_to_end::conformance::host_tree::HostTree;
use end_to_end::conformance::overlayfs::{Privilege, shown_with_own_link_counts};
use end_to_end::conformance::stack::Stack;
use end_to_end::conformance::{scratch, umoci};
use proptest::prelude::*;

use super::random::stacks;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_of_a_stack_reads_as_the_same_stack(stack in stacks()) {
        let again: Stack = stack.to_string().parse().map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        prop_assert_eq!(again, stack);
    }
}

#[test]
fn text_of_every_word_reads_as_the_same_stack() {
    let text = "\
layer gzip members=2 end-blocks=1 cut=3 trailing=\"x\\0\"
  dir a 0755 uid=4294967296 gid=1 mtime=-0.5
  file \"a b\\n\" \"con\\\"tent\" xattr.user.k=\"v\" xattr.\"user.a=b\"=\"w\" xattrs=libarchive
  file big fill=70000 as=pax
  file s size=1000 data=5+6 data=500+7 sparse=0.1
  link h -> \"0755\" as=gnu
  sym l -> ../x head.name=\"y\" pax.path=\"z\" as=v7
  char c 5,1
  block b 8,0
  fifo p
  wh a/b
  opq a
  opq \"\"
  global pax.uid=\"3\"
  junk j \"body\" head.typeflag=\"Q\"
layer zstd
";
    let stack: Stack = text.parse().expect("a stack");
    assert_eq!(stack.to_string(), text);
}

/// A layer with every way of writing that GNU tar reads.
const EVERY_DIALECT: &str = "layer
  dir  d 0750 uid=5 gid=6 mtime=7
  file d/plain 04711 uid=1000 \"content\"
  file d/v7 \"old\" as=v7
  file d/fraction mtime=-1.25 \"x\" as=pax
  file d/base-256 uid=4294967290 mtime=-77 as=gnu
  file \"n\"*200 \"long\" as=gnu
  file \"m\"*200 \"long\"
  file \"p/\"*60\"q\" \"split\"
  sym  l -> \"t\"*150 as=gnu
  sym  k -> \"t\"*150
  link h -> d/plain
  link g -> \"m\"*200
  fifo f 0600
  char c 511,65536 0660
  block b 8,1
  file x \"x\" xattr.user.one=\"1\\n2\\0\" xattr.security.capability=\"\\x01\\0\\0\\x02\\0\\x04\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\"
  file s1 size=100000 data=4096+512 data=50000+3
  file s2 size=100000 data=4096+512 data=50000+3 sparse=0.0
  file s3 size=100000 data=4096+512 data=50000+3 sparse=0.1
  file s4 size=100000 data=4096+512 data=50000+3 sparse=1.0
  file s5 size=900000 data=0+512 data=8192+512 data=16384+1024 data=24576+512 data=32768+512 data=40960+512 data=81920+7
  file s6 size=100000
  file last fill=3000
";

#[test]
fn gnu_tar_reads_what_the_encoder_writes() {
    let stack: Stack = EVERY_DIALECT.parse().expect("a stack");
    let scratch = scratch().expect("a directory in memory");
    let (archive, tree) = (scratch.path().join("layer.tar"), scratch.path().join("tree"));
    std::fs::write(&archive, stack.layers[0].tar()).expect("room in memory");
    std::fs::create_dir(&tree).expect("a directory can be made");
    let output = Command::new("tar")
        .args(["--extract", "--same-owner", "--preserve-permissions", "--numeric-owner", "--xattrs"])
        .args(["--xattrs-include=*", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&tree)
        .output()
        .expect("GNU tar is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = HostTree::open(&tree).and_then(|tree| tree.dump()).expect("the tree can be read");
    let expected = stack.expected().expect("the model takes it");
    let difference = umoci::comparable(&stack, expected).difference(&umoci::comparable(&stack, shown));
    assert!(difference.is_empty(), "(- expected, + unpacked by GNU tar)\n{difference}");
}

/// Link counts are taken out of every comparison with overlayfs; this is why.
#[test]
fn overlayfs_shows_the_link_count_of_the_lower_directory() {
    let stack: Stack = "layer\n file a\n link b -> a\n link c -> a\nlayer\n wh c".parse().expect("a stack");
    let expected = stack.expected().expect("the model takes it");
    assert_eq!(expected.lines[&b"/a"[..]].nlink, 2);
    let oracle = Path::new(env!("CARGO_BIN_EXE_overlay-oracle"));
    let shown = shown_with_own_link_counts(oracle, Privilege::User, &stack).expect("the oracle runs");
    assert!(shown["/a"].contains("nlink=3"), "overlayfs counts visible names now: {}", shown["/a"]);
}
