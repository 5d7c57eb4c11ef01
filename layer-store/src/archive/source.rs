//! The source of an import, as users write it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Form;

/// The source of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportSource {
    /// Descriptor 0.
    StandardInput,
    /// A layout directory, an archive, or a FIFO from which one is read.
    Path(PathBuf),
    /// A docker daemon, or podman's service.
    Daemon {
        /// The name of the image in the daemon.
        image: String,
        /// Its address in the format of `DOCKER_HOST`: `unix:///run/docker.sock` or `tcp://localhost:2375`. `None`
        /// means the value of `DOCKER_HOST`, or else the first of the usual sockets of docker and podman on which a
        /// daemon listens.
        host: Option<String>,
    },
}

/// A source that also says what the archive is, such as `oci:layout:1.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where to read.
    pub source: ImportSource,
    /// The form of the archive.
    pub form: Option<Form>,
    /// The image to take, as in [`ImportOptions::image`](super::ImportOptions::image).
    pub image: Option<String>,
}

impl ImportSource {
    /// Parses a source in the syntax of skopeo and podman: `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`,
    /// `docker-archive:FILE[:NAME]` or `docker-daemon:NAME`. `None` if it is none of these.
    ///
    /// `NAME` may be `@N`, the position in the archive's list. A colon is part of `DIR` or `FILE`, and not the
    /// separator, if a directory or file with that name exists.
    #[must_use]
    pub fn located(text: &OsStr) -> Option<Located> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let (transport, rest) = bytes.split_at_checked(colon)?;
        let rest = rest.get(1..).filter(|rest| !rest.is_empty())?;
        let form = match transport {
            b"oci" | b"oci-archive" => Form::Layout,
            b"docker-archive" => Form::Docker,
            b"docker-daemon" => {
                let source = Self::Daemon { image: String::from_utf8_lossy(rest).into_owned(), host: None };
                return Some(Located { source, form: Some(Form::Docker), image: None });
            }
            _ => return None,
        };
        let (path, image) = split(rest);
        let image = image.map(|image| String::from_utf8_lossy(image).into_owned());
        Some(Located { source: Self::Path(OsStr::from_bytes(path).into()), form: Some(form), image })
    }

    /// Returns the path, if the source is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::StandardInput | Self::Daemon { .. } => None,
        }
    }
}

/// Splits a path from the name after it: at the first colon whose left side exists as a path, or else at the first
/// colon.
fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let at =
        |colon: usize| (text.get(..colon).unwrap_or_default(), text.get(colon + 1..).filter(|name| !name.is_empty()));
    let colons = || text.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(position, _)| position);
    let is_there = |path: &[u8]| Path::new(OsStr::from_bytes(path)).exists();
    match colons().find(|colon| is_there(at(*colon).0)) {
        Some(colon) => at(colon),
        None if is_there(text) => (text, None),
        None => colons().next().map_or((text, None), at),
    }
}

impl From<&OsStr> for ImportSource {
    /// `-` is standard input, and anything else is a path.
    fn from(argument: &OsStr) -> Self {
        if argument == "-" { Self::StandardInput } else { Self::Path(argument.into()) }
    }
}

impl fmt::Display for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::Path(path) => path.display().fmt(f),
            Self::Daemon { image, .. } => write!(f, "docker-daemon:{}", image.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_skopeo_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("a:b");
        std::fs::create_dir(&there).unwrap();
        let there = there.to_str().unwrap().to_owned();
        let table = [
            ("oci:dir", "dir", None, Form::Layout),
            ("oci:dir:", "dir", None, Form::Layout),
            ("oci:dir:1.0", "dir", Some("1.0"), Form::Layout),
            ("oci:dir:docker.io/a/b:1.0", "dir", Some("docker.io/a/b:1.0"), Form::Layout),
            ("oci:/x/dir:@1", "/x/dir", Some("@1"), Form::Layout),
            ("oci-archive:x.tar:1", "x.tar", Some("1"), Form::Layout),
            ("docker-archive:x.tar", "x.tar", None, Form::Docker),
            ("docker-archive:x.tar:a/b:1", "x.tar", Some("a/b:1"), Form::Docker),
            (&format!("oci:{there}"), &*there, None, Form::Layout),
            (&format!("oci:{there}:1"), &*there, Some("1"), Form::Layout),
        ];
        for (text, path, image, form) in table {
            let expected =
                Located { source: ImportSource::Path(path.into()), form: Some(form), image: image.map(str::to_owned) };
            assert_eq!(ImportSource::located(text.as_ref()), Some(expected), "{text}");
        }
        let daemon = ImportSource::located("docker-daemon:a/b:1".as_ref()).unwrap();
        assert_eq!(daemon.source, ImportSource::Daemon { image: "a/b:1".to_owned(), host: None });
        for none in ["oci", "oci:", "dir/x:1", "debian:12", "./oci:x", "-", ""] {
            assert_eq!(ImportSource::located(none.as_ref()), None, "{none}");
        }
    }
}
