//! A program with its arguments, for starting or printing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

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

/// Quotes one word for a POSIX shell where it needs quoting.
fn shell_word(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
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
}
