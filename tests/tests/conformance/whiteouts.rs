//! Cases 1, 6 to 15 and 21: whiteouts.

use super::case;
use super::deviations::*;

/// Case 1.
#[test]
fn whiteout_spares_what_its_own_layer_adds() {
    case(
        "layer
           file a \"lower\"
         layer
           file a \"upper\"
           wh   a",
    )
    .shows("file a \"upper\"")
    .check();
}

/// Case 1, the other order.
#[test]
fn whiteout_before_an_addition_of_the_same_name_spares_it() {
    case(
        "layer
           file a \"lower\"
         layer
           wh   a
           file a \"upper\"",
    )
    .shows("file a \"upper\"")
    .check();
}

/// Case 6.
#[test]
fn whiteout_of_nothing_does_nothing() {
    case(
        "layer
           dir  d
         layer
           wh   nothing
           wh   d/nothing
           wh   missing/nothing
           wh   missing/deep/nothing",
    )
    .shows("dir d")
    .check();
}

/// Case 6: the file stays a file.
#[test]
fn whiteout_below_a_file_does_nothing() {
    case(
        "layer
           file f \"file\"
           sym  l -> d
           dir  d
           file d/kept \"kept\"
         layer
           wh   f/x
           wh   l/kept",
    )
    .shows(
        "file f \"file\"
         sym  l -> d
         dir  d
         file d/kept \"kept\"",
    )
    .umoci_differs(&["/d/kept"], UMOCI_FOLLOWS_PARENT_LINKS)
    .check();
}

/// Case 6: in any order, because it acts only on the layers below.
#[test]
fn whiteout_below_a_file_of_its_own_layer_leaves_the_file() {
    for (first, second) in [("file f \"file\"", "wh f/x"), ("wh f/x", "file f \"file\""), ("file f \"file\"", "opq f")]
    {
        case(&format!("layer\n dir f\n file f/x\nlayer\n {first}\n {second}")).shows("file f \"file\"").check();
    }
}

/// Case 6: a marker makes no directory, so a link finds what is below.
#[test]
fn whiteout_below_the_target_of_a_hard_link_does_not_hide_the_target() {
    case(
        "layer
           file a \"a\"
         layer
           link b -> a
           wh   a/x
           opq  a",
    )
    .shows(
        "file a \"a\"
         link b -> a",
    )
    .check();
}

/// Case 7.
#[test]
fn whiteout_of_no_name_is_refused() {
    case("layer\n file a/.wh. \"\"").is_refused(".wh.");
}

/// Case 7.
#[test]
fn whiteout_of_dot_is_refused() {
    case("layer\n dir a\n file a/.wh..").is_refused(".wh..");
}

/// Case 7.
#[test]
fn whiteout_of_dot_dot_is_refused() {
    case("layer\n dir a\n file a/.wh...").is_refused(".wh...");
}

/// Case 8.
#[test]
fn files_of_aufs_are_not_shown() {
    case(
        "layer
           file .wh..wh.aufs \"\"
           dir  .wh..wh.orph 0700
           dir  .wh..wh.plnk 0700
           file .wh..wh.plnk/12.34 \"content\"
           file a \"a\"",
    )
    .shows("file a \"a\"")
    .umoci_differs(&["/.wh..wh.plnk", "/.wh..wh.plnk/12.34"], UMOCI_UNPACKS_AUFS)
    .check();
}

/// Case 8.
#[test]
fn hard_links_into_the_link_directory_of_aufs_resolve() {
    case(
        "layer
           dir  .wh..wh.plnk 0700
           file .wh..wh.plnk/12.34 0640 \"content\"
           link a -> .wh..wh.plnk/12.34
           link b -> .wh..wh.plnk/12.34",
    )
    .shows(
        "file a 0640 \"content\"
         link b -> a",
    )
    .umoci_differs(&["/.wh..wh.plnk", "/.wh..wh.plnk/12.34", "/a", "/b"], UMOCI_UNPACKS_AUFS)
    .check();
}

/// Case 9.
#[test]
fn whiteout_stored_as_a_hard_link_to_another_whiteout_hides() {
    case(
        "layer
           file a \"a\"
           file b \"b\"
           file c \"c\"
         layer
           wh   a
           link .wh.b -> .wh.a",
    )
    .shows("file c \"c\"")
    .check();
}

/// Case 10.
#[test]
fn whiteout_of_any_type_hides_and_its_body_is_skipped() {
    case(
        "layer
           file a \"a\"
           file b \"b\"
           file c \"c\"
           file d \"d\"
         layer
           sym  .wh.a -> nowhere
           dir  .wh.b
           file .wh.c fill=1500
           file e \"e\"",
    )
    .shows(
        "file d \"d\"
         file e \"e\"",
    )
    .check();
}

/// Case 11.
#[test]
fn whiteout_of_a_name_that_is_not_utf8_hides_it() {
    case(
        "layer
           file \"\\xff\\xfe\" \"a\"
           file \"\\xff\" \"b\"
         layer
           wh   \"\\xff\\xfe\"",
    )
    .shows("file \"\\xff\" \"b\"")
    .check();
}

/// Case 13.
#[test]
fn whiteout_does_not_reach_the_layers_above_its_own() {
    case(
        "layer
           file a \"0\"
         layer
           wh   a
         layer
           file a \"2\"
         layer
           wh   b
         layer
           file b \"4\"",
    )
    .shows(
        "file a \"2\"
         file b \"4\"",
    )
    .check();
}

/// Cases 14 and 21.
#[test]
fn no_name_of_a_whiteout_is_shown_or_counted() {
    case(
        "layer
           dir  d
           dir  d/a
           dir  d/b
           file d/c \"c\"
         layer
           wh   d/a
           wh   d/c
           opq  d/b
           file d/e \"e\"",
    )
    .shows(
        "dir  d
         dir  d/b
         file d/e \"e\"",
    )
    .check();
}

/// Case 14: the lowest layer has nothing to hide.
#[test]
fn whiteouts_of_the_lowest_layer_are_not_shown() {
    case(
        "layer
           dir  d
           wh   d/x
           wh   y
           opq  d
           file d/z \"z\"",
    )
    .shows(
        "dir  d
         file d/z \"z\"",
    )
    .check();
}

/// Case 15.
#[test]
fn whiteout_of_a_symlink_leaves_its_target() {
    case(
        "layer
           dir  d
           file d/x \"x\"
           sym  l -> d
           sym  m -> d/x
         layer
           wh   l
           wh   m",
    )
    .shows(
        "dir  d
         file d/x \"x\"",
    )
    .check();
}
