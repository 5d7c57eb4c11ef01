//! Cases 36 to 40, 43 and 47: paths, types and records.

use super::case;
use super::deviations::*;

/// Case 36.
#[test]
fn last_entry_of_a_path_wins() {
    case(
        "layer
           file a 0600 \"first\"
           file a 0640 uid=3 \"second\"
           sym  b -> x
           file b \"file\"
           file c \"file\"
           sym  c -> y",
    )
    .shows(
        "file a 0640 uid=3 \"second\"
         file b \"file\"
         sym  c -> y",
    )
    .check();
}

/// Case 36.
#[test]
fn path_that_is_file_then_directory_then_file_is_a_file() {
    case(
        "layer
           file p \"first\"
           dir  p
           file p/inside \"gone\"
           file p \"last\"
           dir  q
           file q/gone \"gone\"
           file q \"between\"
           dir  q 0700
           file q/kept \"kept\"",
    )
    .shows(
        "file p \"last\"
         dir  q 0700
         file q/kept \"kept\"",
    )
    .check();
}

/// Case 36.
#[test]
fn second_entry_of_a_directory_keeps_its_content() {
    case(
        "layer
           dir  d 0700
           file d/a \"a\"
           dir  d 0711",
    )
    .shows(
        "dir  d 0711
         file d/a \"a\"",
    )
    .check();
}

/// Case 37.
#[test]
fn pax_records_override_the_header() {
    case(
        "layer
           file real/name 0640 uid=7 gid=8 mtime=9.25 \"content\" as=pax head.name=\"wrong\" head.uid=\"0000001\" \
                head.gid=\"0000001\" head.mtime=\"00000000001\" head.size=\"00000000000\"
           sym  l -> real/target as=pax head.linkname=\"wrong\"
           link h -> real/name as=pax head.linkname=\"wrong\"
           file after \"after\"",
    )
    .shows(
        "dir  real
         file real/name 0640 uid=7 gid=8 mtime=9.25 \"content\"
         sym  l -> real/target
         link h -> real/name
         file after \"after\"",
    )
    .check();
}

/// Case 37: a header of more than two blocks.
#[test]
fn long_pax_header_is_read_whole() {
    case(&format!(
        "layer
           file real \"a\" pax.comment=\"{}\" pax.path=\"real\" head.name=\"wrong\"
           file c \"c\"",
        "filler ".repeat(500)
    ))
    .shows(
        "file real \"a\"
         file c \"c\"",
    )
    .check();
}

/// Case 37.
#[test]
fn global_pax_header_holds_until_an_entry_says_otherwise() {
    case(
        "layer
           global pax.uid=\"7\" pax.mtime=\"5.5\" pax.comment=\"0123456789abcdef\"
           file a uid=7 mtime=5.5 \"a\" head.uid=\"0000001\" head.mtime=\"00000000001\"
           file b uid=8 mtime=6.5 \"b\" pax.uid=\"8\"
           global pax.uid=\"9\"
           file c uid=9 mtime=5.5 \"c\" head.uid=\"0000001\" head.mtime=\"00000000001\"",
    )
    .shows(
        "file a uid=7 mtime=5.5 \"a\"
         file b uid=8 mtime=6.5 \"b\"
         file c uid=9 mtime=5.5 \"c\"",
    )
    .umoci_fails(UMOCI_REFUSES_GLOBAL_HEADERS)
    .check();
}

/// Case 37: a value is as long as the record says, whatever is in it.
#[test]
fn pax_value_may_hold_a_newline() {
    case(
        "layer
           file \"a\\nb\" \"a\" as=pax xattr.user.k=\"one\\ntwo\\n12 path=x\\n\"
           sym  l -> \"x\\ny\" as=pax",
    )
    .shows(
        "file \"a\\nb\" \"a\" xattr.user.k=\"one\\ntwo\\n12 path=x\\n\"
         sym  l -> \"x\\ny\"",
    )
    .check();
}

/// Case 37: of two records with one keyword the last counts.
#[test]
fn last_of_two_pax_records_counts() {
    case("layer\n file b uid=6 \"b\" pax.path=\"a\" pax.uid=\"5\" pax.path=\"b\" pax.uid=\"6\" head.name=\"c\"")
        .shows("file b uid=6 \"b\"")
        .check();
}

/// Case 38: Go writes GNU magic with the prefix of ustar when it is told to; GNU has other fields there.
#[test]
fn prefix_of_a_header_with_gnu_magic_is_no_path() {
    case("layer\n file name \"x\" as=gnu head.prefix=\"00000000000\"").shows("file name \"x\"").check();
}

/// Case 38.
#[test]
fn prefix_of_a_ustar_header_is_part_of_the_path() {
    case(
        "layer
           file d/e \"x\" head.name=\"e\" head.prefix=\"d\"
           dir  \"long/\"*40",
    )
    .shows(&{
        let mut shown = String::from("dir d\nfile d/e \"x\"\n");
        (1..=40).for_each(|depth| shown += &format!("dir {}\n", "long/".repeat(depth)));
        shown
    })
    .check();
}

/// Case 39.
#[test]
fn gnu_long_names_and_links_are_read_whole() {
    let (name, target) = ("n".repeat(250), "t/".repeat(150) + "end");
    case(&format!(
        "layer
           file d/{name} \"x\" as=gnu
           sym  l -> {target} as=gnu
           link h{name} -> d/{name} as=gnu
           file after \"after\" as=gnu"
    ))
    .shows(&format!(
        "dir  d
         file d/{name} \"x\"
         sym  l -> {target}
         link h{name} -> d/{name}
         file after \"after\""
    ))
    .check();
}

/// Case 39.
#[test]
fn name_of_255_bytes_is_taken() {
    for dialect in ["ustar", "gnu", "pax"] {
        case(&format!("layer\n file \"n\"*255 \"x\" as={dialect}")).shows("file \"n\"*255 \"x\"").check();
    }
}

/// Case 39.
#[test]
fn name_of_256_bytes_is_refused() {
    for dialect in ["ustar", "gnu", "pax"] {
        case(&format!("layer\n file d/{} \"x\" as={dialect}", "n".repeat(256))).is_refused("nnnnnnnn");
    }
}

/// Case 39: longer than any path that a system call takes.
#[test]
fn path_of_more_than_4096_bytes_is_taken() {
    let level = format!("{}/", "directory-".repeat(20));
    let mut shown = String::new();
    (1..=25).for_each(|depth| shown += &format!("dir {}\n", level.repeat(depth)));
    let end = format!("{}end", level.repeat(25));
    assert!(end.len() > 4096);
    case(&format!("layer\n file {end} \"x\""))
        .shows(&format!("{shown}file {end} \"x\""))
        .umoci_fails(UMOCI_USES_WHOLE_PATHS)
        .check();
}

/// Case 40.
#[test]
fn bytes_that_are_not_utf8_are_kept() {
    for dialect in ["ustar", "gnu", "pax"] {
        case(&format!(
            "layer
               dir  \"\\xe9\\xff\" as={dialect}
               file \"\\xe9\\xff/\\xc3(\" \"x\" xattr.user.k=\"\\x00\\xff\\x80\" as={dialect}
               sym  l -> \"\\xfe\\xfd\" as={dialect}
               link h -> \"\\xe9\\xff/\\xc3(\" as={dialect}"
        ))
        .shows(
            "dir  \"\\xe9\\xff\"
             file \"\\xe9\\xff/\\xc3(\" \"x\" xattr.user.k=\"\\x00\\xff\\x80\"
             sym  l -> \"\\xfe\\xfd\"
             link h -> \"\\xe9\\xff/\\xc3(\"",
        )
        .check();
    }
}

/// Case 43.
#[test]
fn old_type_flags_are_files() {
    case(
        "layer
           file a \"a\" head.typeflag=\"\\0\"
           file b \"b\" head.typeflag=\"7\"
           file c \"c\" as=v7
           dir  d/ 0711 as=v7
           link e -> c as=v7
           sym  f -> c as=v7",
    )
    .shows(
        "file a \"a\"
         file b \"b\"
         file c \"c\"
         dir  d 0711
         link e -> c
         sym  f -> c",
    )
    .umoci_fails(UMOCI_REFUSES_OLD_TYPES)
    .check();
}

/// Case 43: a name with a slash at its end is a directory in the oldest type only, as Go's reader has it, which nearly
/// all images were made and unpacked with; GNU tar takes type 0 the same way.
#[test]
fn old_file_whose_name_ends_in_a_slash_is_a_directory() {
    case("layer\n dir d/ 0711 head.typeflag=\"\\0\"\n file e/ 0711").shows("dir d 0711\n file e 0711").check();
}

/// Case 43.
#[test]
fn vendor_types_are_skipped_with_their_body() {
    case(
        "layer
           file a \"a\"
           junk skipped \"body\" head.typeflag=\"Q\"
           junk skipped fill=3000 head.typeflag=\"A\"
           file b \"b\"",
    )
    .shows("file a \"a\"\n file b \"b\"")
    .umoci_fails(UMOCI_REFUSES_VENDOR_TYPES)
    .check();
}

/// Case 47.
#[test]
fn paths_are_brought_to_their_normal_form() {
    case(
        "layer
           dir  ./a
           file ./a//b \"b\"
           file a/./c \"c\"
           file a/x/../d \"d\"
           file /e \"e\"
           dir  f//
           file ././g \"g\"
           file //h/i \"i\"",
    )
    .shows(
        "dir  a
         file a/b \"b\"
         file a/c \"c\"
         file a/d \"d\"
         file e \"e\"
         dir  f
         file g \"g\"
         dir  h
         file h/i \"i\"",
    )
    .check();
}

/// Case 47: the same file, whatever the spelling.
#[test]
fn spellings_of_one_path_are_one_entry() {
    case(
        "layer
           file a/b \"1\"
           file ./a/b \"2\"
           file /a//b \"3\"
         layer
           file a/./b \"4\"
         layer
           wh   ./a//b",
    )
    .shows("dir a")
    .check();
}

/// Case 47.
#[test]
fn path_that_leaves_the_root_is_refused() {
    for path in ["../escape", "a/../../escape", "/../escape", "./../escape", "a/b/../../../escape"] {
        case(&format!("layer\n file {path} \"x\"")).is_refused("escape");
    }
}
