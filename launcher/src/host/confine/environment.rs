//! The environment of a confined program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Which of this process's variables a program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Environment {
    /// All.
    Whole,
    /// Those that hold no secrets, judging by what they hold: paths, numbers, and the language. Hypervisors and their
    /// libraries are configured by paths (`TMPDIR`, `LD_LIBRARY_PATH`) and numbers, and tokens and passwords are neither.
    Harmless,
}

impl Environment {
    /// Returns the variables that the program gets.
    pub(crate) fn variables(self) -> impl Iterator<Item = (OsString, OsString)> {
        std::env::vars_os().filter(move |(name, value)| self == Self::Whole || is_harmless(name, value))
    }
}

fn is_harmless(name: &OsStr, value: &OsStr) -> bool {
    let language = matches!(name.as_bytes(), b"LANG" | b"LANGUAGE" | b"TZ") || name.as_bytes().starts_with(b"LC_");
    let value = value.as_bytes();
    let number = value.len() <= 5 && value.iter().all(u8::is_ascii_digit);
    let paths = value.split(|&byte| byte == b':').all(|path| path.starts_with(b"/"));
    language || number || paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_numbers_and_the_language_are_passed_on_and_secrets_are_not() {
        for (name, value) in
            [("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("OPEN_PORT", "8080"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]
        {
            assert!(is_harmless(name.as_ref(), value.as_ref()), "{name}");
        }
        for (name, value) in [
            ("TOKEN", "ghp_abcdef"),
            ("AWS_SECRET_ACCESS_KEY", "wJalr/XUtnFEMI"),
            ("PROXY", "http://u:p@proxy:1"),
            ("PIN", "123456789"),
            ("A", "/x:secret"),
        ] {
            assert!(!is_harmless(name.as_ref(), value.as_ref()), "{name}");
        }
    }
}
