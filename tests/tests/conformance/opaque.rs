//! Cases 2 to 5, 12, 16 and 20: directories that hide what is below.

use super::case;
use super::deviations::*;

/// Case 2.
#[test]
fn opaque_marker_after_additions_spares_them() {
    case(
        "layer
           dir  d
           file d/old \"old\"
         layer
           dir  d
           file d/new \"new\"
           dir  d/sub
           file d/sub/deep \"deep\"
           opq  d",
    )
    .shows(
        "dir  d
         file d/new \"new\"
         dir  d/sub
         file d/sub/deep \"deep\"",
    )
    .check();
}

/// Case 3.
#[test]
fn directory_over_a_file_does_not_bring_back_what_the_file_hid() {
    case(
        "layer
           dir  d
           file d/from-0 \"0\"
         layer
           file d \"a file\"
         layer
           dir  d 0700
           file d/from-2 \"2\"",
    )
    .shows(
        "dir  d 0700
         file d/from-2 \"2\"",
    )
    .check();
}

/// Case 4.
#[test]
fn directory_made_again_after_its_deletion_is_empty() {
    case(
        "layer
           dir  d
           file d/old \"old\"
         layer
           wh   d
         layer
           dir  d
           file d/new \"new\"",
    )
    .shows(
        "dir  d
         file d/new \"new\"",
    )
    .check();
}

/// Case 5.
#[test]
fn whiteout_of_a_directory_and_entries_in_it_make_it_opaque() {
    case(
        "layer
           dir  a 0700 uid=5
           file a/old \"old\"
         layer
           wh   a
           dir  a 0750
           file a/new \"new\"",
    )
    .shows(
        "dir  a 0750 uid=0
         file a/new \"new\"",
    )
    .check();
}

/// Case 5, with the whiteout after the entries and no entry for the directory itself.
#[test]
fn whited_out_directory_does_not_lend_its_attributes() {
    case(
        "layer
           dir  a 0700 uid=5
           file a/old \"old\"
         layer
           file a/new \"new\"
           wh   a",
    )
    .shows(
        "dir  a 0755 uid=0 mtime=0
         file a/new \"new\"",
    )
    .umoci_differs(&["/a"], UMOCI_KEEPS_WHITED_OUT_DIRECTORY)
    .check();
}

/// Case 12.
#[test]
fn misspelt_opaque_marker_is_not_one() {
    case(
        "layer
           dir  d
           file d/kept \"kept\"
         layer
           file d/.wh..wh.opq",
    )
    .shows(
        "dir  d
         file d/kept \"kept\"",
    )
    .check();
}

/// Case 16.
#[test]
fn opaque_directory_over_a_symlink_leaves_the_target_alone() {
    case(
        "layer
           dir  d
           file d/x \"x\"
           sym  l -> d
         layer
           dir  l
           opq  l
           file l/y \"y\"",
    )
    .shows(
        "dir  d
         file d/x \"x\"
         dir  l
         file l/y \"y\"",
    )
    .check();
}

/// Case 16, without an entry for the directory: a marker alone makes none.
#[test]
fn opaque_marker_alone_leaves_a_symlink_and_its_target() {
    case(
        "layer
           dir  d
           file d/x \"x\"
           sym  l -> d
         layer
           opq  l
           opq  nothing",
    )
    .shows(
        "dir  d
         file d/x \"x\"
         sym  l -> d",
    )
    .umoci_differs(&["/d/x"], UMOCI_FOLLOWS_PARENT_LINKS)
    .check();
}

/// Case 20.
#[test]
fn opaque_marker_and_whiteout_in_one_directory_hide_once() {
    case(
        "layer
           dir  d
           file d/a \"a\"
           file d/b \"b\"
         layer
           opq  d
           wh   d/a
           wh   d/c
           file d/b \"new\"",
    )
    .shows(
        "dir  d
         file d/b \"new\"",
    )
    .check();
}

/// Case 20: the directory keeps its own attributes, because only its content is hidden.
#[test]
fn opaque_marker_without_an_entry_keeps_the_attributes_of_the_directory() {
    case(
        "layer
           dir  d 0710 uid=3 gid=4 mtime=77.5 xattr.user.k=\"v\"
           file d/a \"a\"
         layer
           opq  d
           file d/b \"b\"",
    )
    .shows(
        "dir  d 0710 uid=3 gid=4 mtime=77.5 xattr.user.k=\"v\"
         file d/b \"b\"",
    )
    .check();
}

/// A new directory already hides everything below; a whiteout or marker deep in it hides nothing more.
#[test]
fn whiteout_and_marker_deep_in_a_new_directory_do_nothing() {
    case(
        "layer
           dir  d/e
           file d/e/a \"a\"
           file d/e/f/b \"b\"
         layer
           wh   d
           dir  d/e
           wh   d/e/a
           opq  d/e/f",
    )
    .shows(
        "dir  d
         dir  d/e",
    )
    .check();
}

/// Case 2: the root can be opaque.
#[test]
fn opaque_root_hides_all_layers_below() {
    case(
        "layer
           dir  / 0711
           dir  d
           file d/a \"a\"
           file b \"b\"
         layer
           opq  \"\"
           file c \"c\"",
    )
    .shows(
        "dir  / 0711
         file c \"c\"",
    )
    .check();
}
