//! Cases 28 to 35: hard links.

use super::case;
use super::deviations::*;

/// Case 28.
#[test]
fn hard_link_before_its_target_resolves() {
    case(
        "layer
           link a/b -> z
           file z 0640 uid=4 \"z\"",
    )
    .shows(
        "dir  a
         file z 0640 uid=4 \"z\"
         link a/b -> z",
    )
    .umoci_fails(UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
}

/// Case 28: the layer's own file goes before one below.
#[test]
fn hard_link_before_its_target_prefers_its_own_layer() {
    case(
        "layer
           file z \"lower\"
         layer
           link b -> z
           file z \"upper\"",
    )
    .shows(
        "file z \"upper\"
         link b -> z",
    )
    .umoci_differs(&["/b", "/z"], UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
}

/// Case 29.
#[test]
fn hard_link_to_a_file_of_an_earlier_layer_shares_its_inode() {
    case(
        "layer
           dir  d
           file d/a 0600 uid=3 mtime=4.5 xattr.user.k=\"v\" \"a\"
         layer
           file x \"x\"
         layer
           link b -> d/a
           link e/c -> b",
    )
    .shows(
        "dir  d
         file d/a 0600 uid=3 mtime=4.5 xattr.user.k=\"v\" \"a\"
         file x \"x\"
         link b -> d/a
         dir  e
         link e/c -> d/a",
    )
    .check();
}

/// Case 29: of two layers.
#[test]
fn hard_link_to_a_link_of_an_earlier_layer_shares_the_inode_of_the_first() {
    case(
        "layer
           file a \"a\"
         layer
           link b -> a
         layer
           wh   a
           link c -> b",
    )
    .shows(
        "file b \"a\"
         link c -> b",
    )
    .check();
}

/// Case 30.
#[test]
fn name_that_survives_its_target_keeps_the_content() {
    case(
        "layer
           file a \"old\"
           link b -> a
           link c -> a
         layer
           file a \"new\"
           wh   c",
    )
    .shows(
        "file a \"new\"
         file b \"old\"",
    )
    .check();
}

/// Case 30: in the layer that deletes or replaces it.
#[test]
fn hard_link_to_a_file_that_its_own_layer_deletes_keeps_the_content() {
    case(
        "layer
           file a \"a\"
         layer
           wh   a
           link b -> a",
    )
    .shows("file b \"a\"")
    .umoci_fails(UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
}

/// Case 30: replaced after the link, in one layer.
#[test]
fn hard_link_is_bound_to_the_file_that_was_there() {
    case(
        "layer
           file a \"first\"
           link b -> a
           file a \"second\"
           link c -> a",
    )
    .shows(
        "file a \"second\"
         file b \"first\"
         link c -> a",
    )
    .check();
}

/// Case 31.
#[test]
fn hard_links_to_other_types_than_files_share_the_inode() {
    case(
        "layer
           sym  l -> nowhere
           fifo p 0600
           char c 1,3 0660
           block b 8,0 0660
           link hl -> l
           link hp -> p
           link hc -> c
           link hb -> b
         layer
           link gl -> l
           link gp -> p
           link gc -> c
           link gb -> b",
    )
    .shows(
        "sym  l -> nowhere
         fifo p 0600
         char c 1,3 0660
         block b 8,0 0660
         link hl -> l
         link hp -> p
         link hc -> c
         link hb -> b
         link gl -> l
         link gp -> p
         link gc -> c
         link gb -> b",
    )
    .check();
}

/// Case 32: the model counts the names that can be seen.
#[test]
fn link_count_is_that_of_the_names_left() {
    case(
        "layer
           file a \"a\"
           link b -> a
           link c -> a
           link d/e -> a
         layer
           wh   a
           wh   d
         layer
           link f -> c",
    )
    .shows(
        "file b \"a\"
         link c -> b
         link f -> b",
    )
    .check();
}

/// Case 33.
#[test]
fn attributes_in_the_header_of_a_hard_link_do_not_count() {
    case(
        "layer
           file a 0640 uid=1 gid=2 mtime=3.5 xattr.user.k=\"v\" \"a\"
           link b -> a 0777 uid=9 gid=9 mtime=99 xattr.user.other=\"w\"",
    )
    .shows(
        "file a 0640 uid=1 gid=2 mtime=3.5 xattr.user.k=\"v\" \"a\"
         link b -> a",
    )
    .check();
}

/// Case 33: cpio writers put the size of the file there; there is no body.
#[test]
fn size_in_the_header_of_a_hard_link_is_no_body() {
    case(
        "layer
           file a \"content\"
           link b -> a head.size=\"00000000007\\0\"
           file c \"c\"",
    )
    .shows(
        "file a \"content\"
         link b -> a
         file c \"c\"",
    )
    .check();
}

/// Case 34.
#[test]
fn target_of_a_hard_link_is_taken_from_the_root() {
    case(
        "layer
           dir  etc
           file etc/passwd \"the image's\"
           link a -> /etc/passwd
           link b -> ../../../etc/passwd
           link c -> ./etc//./passwd
           link d -> etc/../etc/passwd",
    )
    .shows(
        "dir  etc
         file etc/passwd \"the image's\"
         link a -> etc/passwd
         link b -> etc/passwd
         link c -> etc/passwd
         link d -> etc/passwd",
    )
    .check();
}

/// Case 35.
#[test]
fn chain_of_hard_links_is_one_inode() {
    case(
        "layer
           link a -> b
           link b -> c
           link c -> d
           file d \"d\"
           link e -> a",
    )
    .shows(
        "file d \"d\"
         link a -> d
         link b -> d
         link c -> d
         link e -> d",
    )
    .umoci_fails(UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
}

/// Case 35.
#[test]
fn hard_link_to_itself_changes_nothing() {
    case(
        "layer
           file a \"a\"
           link a -> a
           file below \"below\"
         layer
           link below -> ./below",
    )
    .shows(
        "file a \"a\"
         file below \"below\"",
    )
    .umoci_fails(UMOCI_REMOVES_BEFORE_LINKING)
    .check();
}

/// Case 35.
#[test]
fn cycle_of_hard_links_is_refused() {
    case("layer\n link first -> second\n link second -> first").is_refused("first");
}

/// Case 35.
#[test]
fn hard_link_to_itself_of_a_name_that_is_nowhere_is_refused() {
    case("layer\n link lonely -> lonely").is_refused("lonely");
}

/// Case 35.
#[test]
fn hard_link_to_nothing_is_refused() {
    case("layer\n file a \"a\"\nlayer\n link dangling -> missing").is_refused("dangling");
}

/// Case 31.
#[test]
fn hard_link_to_a_directory_is_refused() {
    case("layer\n dir d\n link not-this -> d").is_refused("not-this");
}

/// Case 31.
#[test]
fn hard_link_to_a_directory_of_an_earlier_layer_is_refused() {
    case("layer\n dir d\nlayer\n link not-this -> d").is_refused("not-this");
}

/// Case 31: it is the symlink that gets a second name.
#[test]
fn hard_link_to_a_symlink_is_not_followed() {
    case(
        "layer
           file t \"t\"
           sym  s -> t
           link h -> s",
    )
    .shows(
        "file t \"t\"
         sym  s -> t
         link h -> s",
    )
    .check();
}

/// Case 35: the target of the first link is known only when the layer is merged; it is the same for both.
#[test]
fn hard_link_to_a_link_keeps_the_target_of_that_link() {
    case(
        "layer
           file below \"below\"
         layer
           link a -> below
           link b -> a
           dir  a",
    )
    .shows(
        "file below \"below\"
         dir  a
         link b -> below",
    )
    .check();
}

/// Case 36: the last entry of a path wins, and then the target of an earlier one does not matter.
#[test]
fn hard_link_that_its_own_layer_replaces_needs_no_target() {
    case(
        "layer
           file t \"t\"
         layer
           link b -> t
           file b \"b\"
           link p/q -> t
           file p \"p\"
           dir  t
           link c -> nowhere
           dir  c",
    )
    .shows(
        "file b \"b\"
         dir  t
         dir  c
         file p \"p\"",
    )
    .umoci_fails(UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
}
