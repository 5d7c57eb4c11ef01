//! A program that needs nothing else, for images without a shell.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Finished;
use crate::programs::{self, installed};

/// Its name. It prints how many words it was started with and ends with the status 3, or waits if there are more than two.
pub const NAME: &str = "count-words";

const SOURCE: &str = "#include <stdio.h>\n#include <unistd.h>\nint main(int count, char **words) { \
    printf(\"%d words\\n\", count); fflush(stdout); if (count > 2) pause(); return 3; }";

/// Compiles it.
///
/// # Panics
/// When that fails.
pub fn compile(path: &Path) {
    let mut shell = Command::new(installed("sh"));
    let script = "printf '%s' \"$1\" | cc -static -x c -o \"$2\" -";
    shell.args(["-ec", script, "sh", SOURCE]).arg(path).stdin(Stdio::null());
    Finished::of(&mut shell).succeeded();
}

/// Puts it at `path`. In an outer guest, which has no compiler, it is one of the programs that the host has built.
///
/// # Panics
/// When that fails.
pub fn place(path: &Path) {
    match programs::given(NAME) {
        Some(program) => drop(std::fs::copy(program, path).expect("a copy of a program")),
        None => compile(path),
    }
}
