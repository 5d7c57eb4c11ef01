//! Where the programs under test are, and the tools that tests need.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program of this workspace, built with the same profile as the running test (`target/<profile>/NAME`), or in
/// the directory that `$LAMINA_PROGRAMS` names.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let directory = std::env::var_os("LAMINA_PROGRAMS").map_or_else(profile_directory, PathBuf::from);
    let path = directory.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` before the end-to-end tests", path.display());
    path
}

/// The program `name` in the directory that `$LAMINA_PROGRAMS` names, if that directory has it.
#[must_use]
pub fn given(name: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("LAMINA_PROGRAMS")?).join(name);
    path.is_file().then_some(path)
}

/// `target/<profile>`: tests run from `target/<profile>/deps`.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors().nth(2).expect("a test runs two levels below its profile's directory").to_owned()
}

/// The path of a program that `scripts/setup` installs.
///
/// # Panics
/// When it is not on the path.
#[must_use]
pub fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run scripts/setup"))
}

/// Runs a program that `scripts/setup` installs. Returns its output.
///
/// # Panics
/// When it is not installed or fails; the message contains what it wrote to standard error.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output =
        Command::new(installed(program)).args(arguments).output().expect("an installed program can be started");
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    output
}

/// A path by which every user can run the program: its own, or a link (else a copy) in `directory` if a directory
/// above it is closed to others, as below /root.
///
/// # Panics
/// When the copy cannot be made.
#[must_use]
pub fn reachable(program: &Path, directory: &Path) -> PathBuf {
    let open = |path: &Path| path.metadata().is_ok_and(|stat| stat.permissions().mode() & 0o001 != 0);
    if program.ancestors().all(|path| path.as_os_str().is_empty() || open(path)) {
        return program.to_owned();
    }
    let copy = directory.join(program.file_name().expect("a program has a name"));
    if !copy.exists() && std::fs::hard_link(program, &copy).is_err() {
        std::fs::copy(program, &copy).unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
    }
    copy
}
