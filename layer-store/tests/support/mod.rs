//! What the tests of pulls and imports share.
#![allow(dead_code, unreachable_pub, missing_docs, unused_imports)]

use std::path::Path;

pub use test_support::programs::run;

pub mod fake {
    pub use test_support::fake_registry::{FakeRegistry as Fake, HttpRequest, Reply};
}

pub mod image {
    pub use test_support::image::*;
    pub use test_support::noise;
}

pub mod registry {
    pub use test_support::registry::Registry;
    pub use test_support::slow_proxy::SlowProxy;
}

pub fn skopeo(arguments: &[&str]) {
    run("skopeo", &[&["--insecure-policy"], arguments].concat());
}

/// The names in a directory, sorted; empty if there is no such directory.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
