//! A program with its arguments, for starting or printing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use layer_store::printable;

use crate::failure::{About, Failure};

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// The program: a path, or a name to be found in `PATH`.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

impl CommandLine {
    /// Starts a command line with no arguments.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new() }
    }

    /// Starts a command line of this program, with the first argument `what` that tells what it then does.
    ///
    /// # Errors
    /// This program's own path cannot be found.
    pub(crate) fn of_ourselves(what: &str) -> Result<Self, Failure> {
        Ok(Self::new(std::env::current_exe().about("/proc/self/exe")?).arg(what))
    }

    /// Adds one argument.
    #[must_use]
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub(crate) fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Returns the words as a POSIX shell reads them, one argument (with its value) on each line.
    #[must_use]
    pub(crate) fn to_shell(&self) -> String {
        let mut text = shell_word(self.program.as_os_str().as_bytes());
        for argument in &self.arguments {
            let word = shell_word(argument.as_bytes());
            text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
            text.push_str(&word);
        }
        text
    }
}

/// Quotes one word for a POSIX shell if it needs quoting.
fn shell_word(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./,=:+@%".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Ok(text) if printable::line(text) == text => format!("'{}'", text.replace('\'', r"'\''")),
        // Dollar-quotes, which POSIX has had since 2024, name what is not safe to print. Octal digits end after three.
        _ => {
            let byte = |byte: &u8| match byte {
                b'\\' | b'\'' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                byte => format!("\\{byte:03o}"),
            };
            format!("$'{}'", bytes.iter().map(byte).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_so_that_a_shell_reads_them_back() {
        let command = CommandLine::new("/usr/bin/x").arg("-a").arg("it's a b").arg("").arg("k=v,w:1");
        assert_eq!(command.to_shell(), "/usr/bin/x \\\n  -a 'it'\\''s a b' '' k=v,w:1");
        let output = std::process::Command::new("sh")
            .args(["-c", &command.to_shell().replace("/usr/bin/x", "printf '%s|'")])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"-a|it's a b||k=v,w:1|");
    }

    #[test]
    fn words_that_are_not_safe_to_print_are_quoted_by_number() {
        use std::os::unix::ffi::OsStringExt;
        let word = b"\x1b[2J'\\\n1\xff\xe2\x80\xae\tx".to_vec();
        let text = CommandLine::new("printf").arg("%s").arg(OsString::from_vec(word.clone())).to_shell();
        assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        let output = std::process::Command::new("bash").args(["-c", &text]).output().unwrap();
        assert_eq!(output.stdout, word);
    }
}
