//! The conformance suite: the cases of layer application, each against the model and the oracles.
//!
//! A case is named by what must hold. The comment above it cites its number in `tests/CASES.md`.

mod case_list;
mod content;
mod deviations;
mod directories;
mod hard_links;
mod hostile;
mod links_through_symlinks;
mod metadata;
mod numbers;
mod opaque;
mod properties;
mod random;
mod self_tests;
mod tar_syntax;
mod view;
mod whiteouts;

use std::path::Path;

use end_to_end::conformance::case::Case;

fn case(stack: &str) -> Case<'static> {
    Case::new(Path::new(env!("CARGO_BIN_EXE_overlay-oracle")), stack)
}
