//! Cases 16 to 19 and 22 to 27: directories, parents, and changes of type.

use super::case;
use super::deviations::*;

/// Case 17: the directory replaces the link, and nothing is written through the link.
#[test]
fn entry_below_a_symlink_of_a_lower_layer_makes_a_directory() {
    case(
        "layer
           dir  target
           file target/a \"a\"
           sym  l -> target
         layer
           file l/b \"b\"",
    )
    .shows(
        "dir  target
         file target/a \"a\"
         dir  l 0755 uid=0 gid=0 mtime=0
         file l/b \"b\"",
    )
    .umoci_differs(&["/l", "/l/b", "/target/b"], UMOCI_FOLLOWS_PARENT_LINKS)
    .check();
}

/// Case 17: with an entry for the directory.
#[test]
fn directory_over_a_symlink_replaces_it() {
    case(
        "layer
           dir  target
           file target/a \"a\"
           sym  l -> target
         layer
           dir  l 0700
           file l/b \"b\"",
    )
    .shows(
        "dir  target
         file target/a \"a\"
         dir  l 0700
         file l/b \"b\"",
    )
    .check();
}

/// Case 18.
#[test]
fn every_type_replaces_every_other() {
    let nodes = ["dir", "file", "sym", "fifo", "char", "block"];
    let line = |kind: &str, name: &str| match kind {
        "sym" => format!("sym {name} -> t\n"),
        "char" | "block" => format!("{kind} {name} 8,1\n"),
        kind => format!("{kind} {name}\n"),
    };
    let (mut lower, mut upper, mut shown) = (String::from("layer\n"), String::from("layer\n"), String::new());
    for from in nodes {
        for to in nodes {
            let name = format!("{from}-to-{to}");
            lower += &line(from, &name);
            if from == "dir" {
                lower += &format!("file {name}/inside \"lower\"\n");
            }
            upper += &line(to, &name);
            shown += &line(to, &name);
            if (from, to) == ("dir", "dir") {
                shown += &format!("file {name}/inside \"lower\"\n");
            }
        }
    }
    case(&(lower + &upper)).shows(&shown).check();
}

/// Case 19: the last entry wins.
#[test]
fn entry_below_a_file_of_its_own_layer_makes_a_directory() {
    case(
        "layer
           file a \"a\"
           file a/b \"b\"
           sym  l -> a
           dir  l/d
           fifo p
           file p/q/r \"r\"",
    )
    .shows(
        "dir  a 0755
         file a/b \"b\"
         dir  l 0755
         dir  l/d
         dir  p 0755
         dir  p/q 0755
         file p/q/r \"r\"",
    )
    .umoci_fails(UMOCI_REFUSES_FILE_AS_PARENT)
    .check();
}

/// Case 22.
#[test]
fn directory_in_two_layers_has_the_upper_attributes_and_both_contents() {
    case(
        "layer
           dir  d 0700 uid=1 gid=2 mtime=10 xattr.user.low=\"1\"
           file d/a \"a\"
           file d/both \"lower\"
         layer
           dir  d 01777 uid=3 gid=4 mtime=20.25 xattr.user.high=\"2\"
           file d/b \"b\"
           file d/both \"upper\"",
    )
    .shows(
        "dir  d 01777 uid=3 gid=4 mtime=20.25 xattr.user.high=\"2\"
         file d/a \"a\"
         file d/b \"b\"
         file d/both \"upper\"",
    )
    .check();
}

/// Case 23.
#[test]
fn parent_without_an_entry_takes_the_attributes_of_the_directory_below() {
    case(
        "layer
           dir  d 02750 uid=7 gid=8 mtime=5.5 xattr.user.k=\"v\"
           dir  d/e 0711 uid=9
         layer
           file d/e/f \"f\"
         layer
           file d/e/g \"g\"
           file d/new/h \"h\"",
    )
    .shows(
        "dir  d 02750 uid=7 gid=8 mtime=5.5 xattr.user.k=\"v\"
         dir  d/e 0711 uid=9
         file d/e/f \"f\"
         file d/e/g \"g\"
         dir  d/new 0755 uid=0 gid=0 mtime=0
         file d/new/h \"h\"",
    )
    .umoci_differs(&["/d", "/d/new"], UMOCI_MAKES_PARENTS_IN_PLACE)
    .check();
}

/// Case 23.
#[test]
fn parent_that_no_layer_has_an_entry_for_is_roots() {
    case("layer\n file a/b/c uid=5 \"c\"")
        .shows(
            "dir  a 0755 uid=0 gid=0 mtime=0
             dir  a/b 0755 uid=0 gid=0 mtime=0
             file a/b/c uid=5 \"c\"",
        )
        .check();
}

/// Case 23: an entry that comes late still counts.
#[test]
fn entry_of_a_directory_after_its_content_counts() {
    case(
        "layer
           file d/a \"a\"
           dir  d 0711 uid=3 mtime=9",
    )
    .shows(
        "dir  d 0711 uid=3 mtime=9
         file d/a \"a\"",
    )
    .check();
}

/// Case 24.
#[test]
fn links_and_nodes_without_a_parent_entry_get_one() {
    case(
        "layer
           file f \"f\"
           link a/hard -> f
           sym  b/soft -> x
           fifo c/pipe
           char d/null 1,3",
    )
    .shows(
        "file f \"f\"
         dir  a 0755
         link a/hard -> f
         dir  b 0755
         sym  b/soft -> x
         dir  c 0755
         fifo c/pipe
         dir  d 0755
         char d/null 1,3",
    )
    .check();
}

/// Case 25.
#[test]
fn root_entry_sets_the_attributes_of_the_root_in_every_spelling() {
    for root in ["./", "/", ".", "//", "./."] {
        case(&format!(
            "layer
               dir  {root} 0711 uid=5 gid=6 mtime=7.5 xattr.user.k=\"v\"
               file a \"a\""
        ))
        .shows(
            "dir  / 0711 uid=5 gid=6 mtime=7.5 xattr.user.k=\"v\"
             file a \"a\"",
        )
        .check();
    }
}

/// Case 25.
#[test]
fn root_without_an_entry_keeps_the_attributes_of_the_layer_below() {
    case(
        "layer
           dir  / 0711 uid=5
           file a \"a\"
         layer
           file b \"b\"",
    )
    .shows(
        "dir  / 0711 uid=5
         file a \"a\"
         file b \"b\"",
    )
    .check();
}

/// Case 25.
#[test]
fn root_that_no_layer_has_an_entry_for_is_roots() {
    case("layer\n file a \"a\"").shows("dir / 0755 uid=0 gid=0 mtime=0\n file a \"a\"").check();
}

/// Case 25: CVE-2021-29136.
#[test]
fn root_as_a_symlink_is_refused() {
    case("layer\n sym /. -> /etc").is_refused("/.");
}

/// Case 25.
#[test]
fn root_as_a_file_is_refused() {
    case("layer\n file ./ \"x\"").is_refused("./");
}

/// Case 26.
#[test]
fn directory_without_write_permission_is_filled_and_emptied() {
    case(
        "layer
           dir  d 0500
           dir  d/e 0000
           file d/e/a 0000 \"a\"
           file d/e/b 0400 \"b\"
         layer
           file d/e/c \"c\"
           wh   d/e/a",
    )
    .shows(
        "dir  d 0500
         dir  d/e 0000
         file d/e/b 0400 \"b\"
         file d/e/c \"c\"",
    )
    .check();
}

/// Case 27.
#[test]
fn whiteout_and_opaque_marker_in_a_directory_of_the_same_layer_only_do_nothing() {
    case(
        "layer
           file x \"x\"
         layer
           dir  d
           wh   d/a
           opq  d
           dir  d/e
           opq  d/e
           wh   d/e/f
           file d/g \"g\"",
    )
    .shows(
        "file x \"x\"
         dir  d
         dir  d/e
         file d/g \"g\"",
    )
    .check();
}

/// Case 57.
#[test]
fn stack_without_layers_is_an_empty_root() {
    case("").shows("dir / 0755 uid=0 gid=0 mtime=0").check();
}

/// Case 57.
#[test]
fn same_layer_twice_is_applied_twice() {
    let layer = "layer
           dir  d 0711
           file d/a \"a\"
           link d/b -> d/a
           wh   d/c
         ";
    let between = "layer
           file d/c \"c\"
           wh   d/a
         ";
    case(&[layer, between, layer, layer].concat())
        .shows(
            "dir  d 0711
             file d/a \"a\"
             link d/b -> d/a",
        )
        .check();
}

/// Case 57.
#[test]
fn stack_of_130_layers_is_merged() {
    let mut stack = String::from("layer\n file every \"0\"\n");
    let mut shown = String::from("file every \"129\"\n dir d\n");
    for number in 1..130 {
        stack += &format!("layer\n file every \"{number}\"\n dir d\n file d/n{number} \"{number}\"\n");
        if number > 1 {
            stack += &format!("wh d/n{}\n", number - 1);
        }
    }
    shown += "file d/n129 \"129\"";
    case(&stack).shows(&shown).check();
}

/// Case 55.
#[test]
fn names_that_differ_in_case_or_normal_form_only_are_different() {
    case(
        "layer
           file README \"upper case\"
           file readme \"lower case\"
           file \"\\xc3\\xa9\" \"composed\"
           file \"e\\xcc\\x81\" \"decomposed\"
         layer
           wh   readme
           wh   \"\\xc3\\xa9\"",
    )
    .shows(
        "file README \"upper case\"
         file \"e\\xcc\\x81\" \"decomposed\"",
    )
    .check();
}
