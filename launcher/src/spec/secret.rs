//! Secrets: files that reach one guest and nothing else.
//!
//! They are read when the machine starts, sent over its control channel, and kept in the guest's memory. They are never
//! in the store, a base or a log, or on a command line.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use guest_protocol::MAX_SECRET;
use serde::{Deserialize, Serialize};

use crate::failure::{About, Failure};
use crate::text_file;

/// A file for `/run/secrets` of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret {
    /// Its name there.
    pub(crate) name: String,
    /// The file of the host that holds its content.
    pub(crate) file: PathBuf,
}

impl FromStr for Secret {
    type Err = String;

    /// Reads `[NAME=]FILE`, or `id=NAME,src=FILE` as docker writes it; the name is the file's own by default.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = match text.split_once('=') {
            Some(("id" | "src" | "source" | "type", _)) if text.contains("src=") || text.contains("source=") => {
                of_docker(text)?
            }
            Some((name, file)) => (Some(name.to_owned()), PathBuf::from(file)),
            None => (None, PathBuf::from(text)),
        };
        let own = file.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match name.or(own) {
            Some(name) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => {
                Ok(Self { name, file })
            }
            _ => Err("expected FILE or NAME=FILE, the name without \"/\"".to_owned()),
        }
    }
}

/// Reads `id=NAME,src=FILE`, in any order.
fn of_docker(text: &str) -> Result<(Option<String>, PathBuf), String> {
    let (mut name, mut file) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => name = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(PathBuf::from(value)),
            Some(("type", "file")) => {}
            Some(("type", "env")) => return Err("a secret is a file here; pass a variable on with -e NAME".to_owned()),
            _ => return Err(format!("{part:?} is neither id=NAME nor src=FILE")),
        }
    }
    Ok((name, file.ok_or("expected id=NAME,src=FILE")?))
}

impl Secret {
    /// Reads its content.
    ///
    /// # Errors
    /// The file cannot be read, or is too large.
    pub(crate) fn read(&self) -> Result<guest_protocol::Secret, Failure> {
        let about = || format!("--secret {}", self.file.display());
        // With room for all of it, because a buffer that grows leaves copies behind. Dropping it overwrites it.
        let mut secret =
            guest_protocol::Secret { name: self.name.clone(), content: Vec::with_capacity(MAX_SECRET + 64) };
        let file = File::open(&self.file).about(about())?;
        file.take(MAX_SECRET as u64 + 1).read_to_end(&mut secret.content).about(about())?;
        if secret.content.len() > MAX_SECRET {
            let cause = format!("a secret has at most {} KiB", MAX_SECRET >> 10);
            return Err(Failure::new(about(), cause).with_hint("share the file with -v FILE:GUEST:ro"));
        }
        Ok(secret)
    }
}

/// Returns the environment that `--env-file` and `--env` ask for. What is `given` comes last, and counts.
///
/// # Errors
/// As for [`read_env_file`].
pub(crate) fn environment(files: &[PathBuf], given: &[String]) -> Result<Vec<String>, Failure> {
    let mut env = Vec::new();
    for file in files {
        env.extend(read_env_file(file)?);
    }
    env.extend_from_slice(given);
    Ok(env)
}

/// Reads a file of environment variables as docker does: `NAME=VALUE` or `NAME` on each line. A line that starts with `#`
/// is a comment. Everything after the first `=` is the value: quotes and spaces are part of it, and nothing is expanded.
///
/// # Errors
/// The file cannot be read, or a line has neither form.
fn read_env_file(path: &std::path::Path) -> Result<Vec<String>, Failure> {
    let about = || format!("--env-file {}", path.display());
    let text = text_file::read(path).about(about())?;
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text_file::lines(&text)) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            // The line itself may be a secret.
            let cause = format!("line {number} is neither NAME=VALUE nor NAME");
            return Err(Failure::new(about(), cause));
        }
        entries.push(line.to_owned());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_after_its_file_unless_told_otherwise() {
        let secret = |name: &str, file: &str| Ok(Secret { name: name.into(), file: file.into() });
        assert_eq!("/a/key.pem".parse(), secret("key.pem", "/a/key.pem"));
        assert_eq!("token=/a/b=c".parse(), secret("token", "/a/b=c"));
        assert_eq!("id=token,src=/a/b".parse(), secret("token", "/a/b"));
        assert_eq!("type=file,source=/a/b".parse(), secret("b", "/a/b"));
        assert_eq!("id=/a/b".parse(), secret("id", "/a/b"));
        for wrong in ["", "/", "..", "=x", "a/b=c", "..=x", "id=x,src=/a,mode=1", "type=env,source=/a"] {
            assert!(wrong.parse::<Secret>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn large_secrets_are_refused_with_another_way() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("large");
        std::fs::write(&file, vec![0; MAX_SECRET + 1]).unwrap();
        let failure = Secret { name: "x".into(), file: file.clone() }.read().unwrap_err().to_string();
        assert!(failure.contains("256 KiB") && failure.contains("-v"), "{failure}");
        std::fs::write(&file, vec![7; MAX_SECRET]).unwrap();
        assert_eq!(Secret { name: "x".into(), file }.read().unwrap().content.len(), MAX_SECRET);
    }

    #[test]
    fn env_files_are_read_line_by_line_and_errors_do_not_tell_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}# comment\r\n\r\nA=1 = 2\r\n  B=\r\nC=\"#1\" '\r\nD=$HOME \nHOME\r")
            .unwrap();
        assert_eq!(read_env_file(file.path()).unwrap(), ["A=1 = 2", "B=", "C=\"#1\" '", "D=$HOME ", "HOME"]);
        std::fs::write(file.path(), "A=1\nhush hush=3\n").unwrap();
        let failure = read_env_file(file.path()).unwrap_err().to_string();
        assert!(failure.contains("line 2") && !failure.contains("hush"), "{failure}");
    }
}
