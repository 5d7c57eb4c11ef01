//! Cases 44 to 46: content, holes, and the frame around the entries.

use end_to_end::conformance::stack::Stack;
use end_to_end::conformance::subject::Subject;

use super::case;
use super::deviations::*;

/// Case 44. All extents except the last are whole blocks, as GNU tar makes them: it also reads each from a new block.
#[test]
fn sparse_files_of_every_format_are_read() {
    for format in ["gnu", "0.0", "0.1", "1.0"] {
        let many: String = (0..60).map(|number| format!(" data={}+512", number * 8192)).collect();
        let files = format!(
            "file hole size=100000
             file front size=100000 data=0+512
             file back size=100000 data=99000+1000
             file middle size=1000000 data=4096+512 data=8192+1024 data=500000+3
             file dense size=5000 data=0+5000
             file empty size=0
             file many size=600000{many}\n"
        );
        let entries: String = files.lines().map(|line| format!("{line} sparse={format}\n")).collect();
        let case =
            case(&format!("layer\n{entries}\nfile after \"after\"")).shows(&format!("{files}file after \"after\""));
        if format == "gnu" { case.umoci_fails(UMOCI_REFUSES_OLD_SPARSE).check() } else { case.check() }
    }
}

/// Cases 44 and 46: without umoci, which writes every hole.
#[test]
fn sparse_file_of_nine_gigabytes_is_read() {
    for format in ["gnu", "0.0", "0.1", "1.0"] {
        let text =
            format!("layer\n file huge size=9000000000 data=0+10 data=8999999990+10 sparse={format}\n file b \"b\"");
        let stack: Stack = text.parse().expect("a stack");
        let shown = Subject::new().and_then(|subject| subject.shown(&stack)).expect("the stack is taken");
        assert_eq!(stack.expected().expect("the model takes it").difference(&shown), "", "{format}");
    }
}

/// Case 44: GNU tar ends every map with an extent, but the format does not require one.
#[test]
fn sparse_map_without_an_extent_is_one_hole() {
    let text = "layer\n file a pax.GNU.sparse.size=\"1000\" pax.GNU.sparse.numblocks=\"0\"\n file b \"b\"";
    let shown = Subject::new().and_then(|subject| subject.shown(&text.parse()?)).expect("the stack is taken");
    let expected: Stack = "layer\n file a size=1000\n file b \"b\"".parse().expect("a stack");
    assert_eq!(expected.expected().expect("the model takes it").difference(&shown), "");
}

/// Case 45.
#[test]
fn layer_without_entries_changes_nothing() {
    case("layer\n file a \"a\"\nlayer\nlayer gzip").shows("file a \"a\"").check();
}

/// Case 45.
#[test]
fn layer_of_no_bytes_is_an_empty_layer() {
    case("layer\n file a \"a\"\nlayer end-blocks=0").shows("file a \"a\"").check();
}

/// Case 45.
#[test]
fn end_blocks_may_be_missing() {
    for blocks in [0, 1, 3, 20] {
        case(&format!("layer end-blocks={blocks}\n file a \"a\"\n file b fill=1000"))
            .shows("file a \"a\"\n file b fill=1000")
            .check();
    }
}

/// Case 45.
#[test]
fn junk_after_the_end_blocks_is_ignored() {
    case("layer trailing=\"junk that is no header\"\n file a \"a\"").shows("file a \"a\"").check();
    case("layer gzip trailing=\"junk that is no header\"\n file a \"a\"").shows("file a \"a\"").check();
}

/// Case 45: what follows the end is not part of the tree, even if it looks like an entry.
#[test]
fn entry_after_the_end_blocks_is_not_read() {
    let junk: Stack = "layer\n file hidden \"x\"".parse().expect("a stack");
    let escaped: String = junk.layers[0].tar().iter().map(|byte| format!("\\x{byte:02x}")).collect();
    case(&format!("layer trailing=\"{escaped}\"\n file a \"a\"")).shows("file a \"a\"").check();
}

/// Case 45.
#[test]
fn gzip_members_and_zstd_frames_are_one_stream() {
    let tree = "file a \"a\"\n file b fill=100000\n dir d";
    for members in [1, 2, 7] {
        case(&format!("layer gzip members={members}\n{tree}")).shows(tree).check();
        case(&format!("layer zstd members={members}\n{tree}")).shows(tree).umoci_fails(UMOCI_HAS_NO_ZSTD).check();
    }
}

/// Case 45.
#[test]
fn layer_cut_off_in_a_body_is_refused() {
    case("layer end-blocks=0 cut=700\n file a \"a\"\n file cut-off fill=2000").fails_to_import("cut-off");
}

/// Case 45.
#[test]
fn layer_cut_off_in_a_header_is_refused() {
    case("layer end-blocks=0 cut=100\n file a \"a\"\n dir d").fails_to_import("");
}

/// Case 46.
#[test]
fn content_of_every_size_around_a_block_is_whole() {
    let sizes = [0, 1, 59, 60, 61, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537, 1_000_001];
    let lines: String = sizes.iter().map(|size| format!("file f{size} fill={size}\n")).collect();
    case(&format!("layer\n{lines}")).shows(&lines).check();
}
