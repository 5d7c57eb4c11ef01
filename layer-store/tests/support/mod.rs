//! What the tests of pulls and imports share: images made on the spot, a real registry, and one that misbehaves.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod fake;
pub mod image;
pub mod registry;

use std::path::Path;
use std::process::{Command, Output};

/// Runs a program that the test needs; a failure shows what it said.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("this test needs the program {program}: {e}"));
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    output
}

pub fn skopeo(arguments: &[&str]) {
    run("skopeo", &[&["--insecure-policy"], arguments].concat());
}

/// The names in a directory, sorted; none where it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
