//! Case 61: hard links whose target is reached through symbolic links.

use super::case;
use super::deviations::*;

/// Case 61: as umoci and containerd resolve the directory of a target.
#[test]
fn hard_link_through_a_symlinked_directory_shares_the_inode() {
    case(
        "layer
           dir  usr
           dir  usr/bin
           file usr/bin/foo \"1\"
           sym  bin -> usr/bin
           dir  sbin
           link sbin/foo -> bin/foo",
    )
    .shows(
        "dir  usr
         dir  usr/bin
         file usr/bin/foo \"1\"
         sym  bin -> usr/bin
         dir  sbin
         link sbin/foo -> usr/bin/foo",
    )
    .check();
}

/// Case 61: the symbolic link is in a lower layer, absolute, and leads through another one with `..`.
#[test]
fn hard_link_through_symlinked_directories_of_an_earlier_layer_shares_the_inode() {
    case(
        "layer
           dir  opt
           dir  opt/real
           file opt/real/foo \"1\"
           dir  usr
           sym  usr/bin -> ../opt/real
           sym  bin -> /usr/bin
         layer
           link a -> bin/foo
           link b -> /bin/foo
           link c -> ../usr/bin/foo",
    )
    .shows(
        "dir  opt
         dir  opt/real
         file opt/real/foo \"1\"
         dir  usr
         sym  usr/bin -> ../opt/real
         sym  bin -> /usr/bin
         link a -> opt/real/foo
         link b -> opt/real/foo
         link c -> opt/real/foo",
    )
    .check();
}

/// Case 61: the symbolic link is in the layer of the hard link, the file below it, and the other way round.
#[test]
fn hard_link_through_a_symlinked_directory_finds_the_file_in_either_layer() {
    case(
        "layer
           dir  usr
           dir  usr/bin
           file usr/bin/old \"old\"
           file usr/bin/foo \"below\"
           sym  sbin -> usr/bin
         layer
           dir  usr
           dir  usr/bin
           sym  bin -> usr/bin
           link a -> bin/old
           file usr/bin/foo \"above\"
           file usr/bin/new \"new\"
           link b -> sbin/new
           link c -> sbin/foo",
    )
    .shows(
        "dir  usr
         dir  usr/bin
         file usr/bin/old \"old\"
         sym  sbin -> usr/bin
         sym  bin -> usr/bin
         link a -> usr/bin/old
         file usr/bin/foo \"above\"
         file usr/bin/new \"new\"
         link b -> usr/bin/new
         link c -> usr/bin/foo",
    )
    .check();
}

/// Case 61: the symbolic link comes after the hard link; one that leads nowhere in the layer does not count.
#[test]
fn hard_link_before_the_symlink_that_it_leads_through_resolves() {
    case(
        "layer
           dir  usr
           link foo -> bin/foo
           file usr/foo \"1\"
           sym  bin -> usr",
    )
    .shows(
        "dir  usr
         file usr/foo \"1\"
         sym  bin -> usr
         link foo -> usr/foo",
    )
    .umoci_fails(UMOCI_LINKS_IN_TAPE_ORDER)
    .check();
    case(
        "layer
           dir  a
           file a/f \"f\"
         layer
           link kept -> a/f
           sym  a -> a/b",
    )
    .shows(
        "sym  a -> a/b
         file kept \"f\"",
    )
    .check();
}

/// Case 61: what the directory leads to is not there, is not a directory, or is a cycle.
#[test]
fn hard_link_through_a_symlink_to_nothing_is_refused() {
    for target in ["nowhere", "file", "dangling", "/../nowhere"] {
        case(&format!("layer\n file file \"f\"\n sym dangling -> {target}\n link lost -> dangling/foo"))
            .is_refused("lost");
        case(&format!("layer\n file file \"f\"\n sym dangling -> {target}\nlayer\n link lost -> dangling/foo"))
            .is_refused("lost");
    }
}

/// Case 61.
#[test]
fn hard_link_through_a_symlink_to_a_directory_is_refused() {
    case("layer\n dir d\n dir d/e\n sym s -> d\n link not-this -> s/e").is_refused("not-this");
    case("layer\n dir d\n dir d/e\n sym s -> d\nlayer\n link not-this -> s/e").is_refused("not-this");
}
