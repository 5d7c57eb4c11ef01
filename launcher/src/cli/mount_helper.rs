//! `lamina` as a mount helper: what mount(8) and `mount.fuse3` call, for an image in `/etc/fstab`.
//!
//! mount(8) runs `/sbin/mount.fuse.lamina IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, a link to this program.
//! Without such a link it runs `mount.fuse3`, which runs `lamina IMAGE DIR -o OPTIONS`. Both become `lamina mount`.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::failure::{About, Failure};

/// The exit status of mount(8) for wrong usage.
pub(super) const USAGE: u8 = 1;
/// The exit status of mount(8) for a mount that failed.
pub(super) const FAILED: u8 = 32;

/// Tells `lamina mount` that mount(8) called it.
pub(super) const FLAG: &str = "--mount-helper";

/// Returns the arguments of `lamina mount` if `arguments` are those of a mount helper, or nothing if there is nothing to do
/// (`mount --fake`). `is_command` says whether a word is a command of this program.
pub(super) fn translated(
    arguments: &[OsString],
    is_command: impl Fn(&OsStr) -> bool,
) -> Option<Result<Vec<OsString>, Failure>> {
    let [program, rest @ ..] = arguments else { return None };
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.starts_with("mount.") {
        return Some(of_mount(rest));
    }
    match rest {
        [image, directory, option, list, ..]
            if option == "-o" && !is_command(image) && ![image, directory].into_iter().any(|word| is_option(word)) =>
        {
            Some(Ok(mount(image, directory, list, &[])))
        }
        _ => None,
    }
}

/// Starts this program again with `arguments` and without `HOME`, if that is the home of another user: `mount.fuse3`
/// sets it to root's for every user whom `/etc/fstab` allows to mount.
pub(super) fn leave_home_of_others(arguments: &[OsString]) -> Result<(), Failure> {
    let own = geteuid();
    let Some(home) = std::env::var_os("HOME").filter(|_| !own.is_root()) else { return Ok(()) };
    if std::fs::metadata(&home).is_ok_and(|found| found.uid() == own.as_raw()) {
        return Ok(());
    }
    restart_without_home(arguments).map(|never| match never {})
}

fn restart_without_home(arguments: &[OsString]) -> Result<Infallible, Failure> {
    let program = std::env::current_exe().about("mount helper")?;
    let mut command = Command::new(program);
    Err(command.args(arguments.iter().skip(1)).env_remove("HOME").exec()).about("mount helper")
}

/// Reads the arguments that mount(8) gives to a helper.
fn of_mount(arguments: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let wrong = |cause: &str| Failure::new("mount helper", cause).with_status(USAGE);
    let (mut named, mut lists, mut flags) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => lists.push(words.next().ok_or_else(|| wrong("-o needs a list of options"))?.clone()),
            Some("-t") => drop(words.next()),
            Some("-N") => return Err(wrong("it cannot mount in another namespace (-N)")),
            Some(letters) if is_option(word) => {
                for letter in letters.chars().skip(1) {
                    match letter {
                        // Mounts nothing, and is otherwise the same: mount(8) has checked its own part.
                        'f' => flags.push("--fake"),
                        'v' => flags.push("--verbose"),
                        // Sloppy, no mtab, read-only: nothing to do.
                        's' | 'n' | 'r' => {}
                        _ => return Err(wrong(&format!("it has no option {letters}"))),
                    }
                }
            }
            _ => named.push(word),
        }
    }
    let [image, directory] = named[..] else { return Err(wrong("it takes an image and a directory")) };
    Ok(mount(image, directory, &lists.join(OsStr::new(",")), &flags))
}

fn mount(image: &OsStr, directory: &OsStr, options: &OsStr, flags: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["lamina", "mount", FLAG].map(OsString::from).into();
    arguments.extend(flags.iter().map(OsString::from));
    arguments.push("-o".into());
    arguments.push(options.to_owned());
    arguments.extend(["--".into(), image.to_owned(), directory.to_owned()]);
    arguments
}

fn is_option(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Option<Vec<String>> {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        let translated = translated(&arguments, |word| word == "run" || word == "cp")?;
        Some(translated.expect("good usage").iter().map(|word| word.to_str().unwrap().to_owned()).collect())
    }

    fn expected(options: &str, flags: &[&str]) -> Option<Vec<String>> {
        let words = [&["lamina", "mount", FLAG][..], flags, &["-o", options, "--", "debian:12", "/mnt"]].concat();
        Some(words.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn every_way_to_call_a_mount_helper_becomes_lamina_mount() {
        assert_eq!(called(&["lamina", "debian:12", "/mnt", "-o", "ro,dev,suid"]), expected("ro,dev,suid", &[]));
        let helper = "/sbin/mount.fuse.lamina";
        assert_eq!(called(&[helper, "debian:12", "/mnt", "-o", "ro"]), expected("ro", &[]));
        assert_eq!(called(&[helper, "debian:12", "/mnt"]), expected("", &[]));
        let words = [helper, "debian:12", "/mnt", "-sfv", "-n", "-o", "ro", "-t", "fuse.lamina", "-o", "noexec"];
        assert_eq!(called(&words), expected("ro,noexec", &["--fake", "--verbose"]));
    }

    #[test]
    fn commands_stay_commands() {
        for words in [
            &["lamina"][..],
            &["lamina", "run", "/mnt", "-o", "x"],
            &["lamina", "mount", "debian:12", "/mnt"],
            &["lamina", "debian:12", "/mnt"],
            &["lamina", "--json", "/mnt", "-o", "x"],
        ] {
            assert_eq!(called(words), None, "{words:?}");
        }
    }

    #[test]
    fn a_call_that_cannot_be_followed_is_wrong_usage() {
        for words in
            [&["mount.lamina", "a"][..], &["mount.lamina", "a", "b", "-z"], &["mount.lamina", "a", "b", "-N", "1"]]
        {
            let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
            let refused = translated(&arguments, |_| false).unwrap().unwrap_err();
            assert_eq!(refused.status(), USAGE, "{words:?}");
        }
    }
}
