//! `-v HOST:GUEST[:OPTIONS]`: directories and files of the host that a guest sees.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::{About, Failure};

/// A host directory or file that appears in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    /// The path on the host.
    pub(crate) host: PathBuf,
    /// The absolute path in the guest.
    pub(crate) guest: String,
    /// Whether the guest may only read it.
    pub(crate) read_only: bool,
    /// The id of the guest's user that it belongs to, if not the command's.
    #[serde(default)]
    pub(crate) uid: Option<u32>,
    /// The id of the guest's group that it belongs to, if not the command's.
    #[serde(default)]
    pub(crate) gid: Option<u32>,
    /// Whether it gets what the root has there, if it is empty: for volumes.
    #[serde(default)]
    pub(crate) fills: bool,
}

/// What follows the guest's path.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    read_only: bool,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Options {
    /// Reads options separated by commas. Returns `None` if the text is not a list of options; then it is the guest's
    /// path.
    fn parse(text: &str) -> Option<Self> {
        let mut options = Self::default();
        for option in text.split(',') {
            match option.split_once('=') {
                None if option == "ro" => options.read_only = true,
                None if is_harmless(option) => {}
                Some(("uid", id)) => options.uid = Some(id.parse().ok()?),
                Some(("gid", id)) => options.gid = Some(id.parse().ok()?),
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Returns whether an option of Docker or Podman means nothing here. `z` and `Z` relabel files for SELinux, which guests do
/// not see; `U` changes owners, and a share belongs to the command's user already; the others are about caches and mounts
/// that containers have on a host.
fn is_harmless(option: &str) -> bool {
    const HARMLESS: [&str; 19] = [
        "nosuid",
        "nodev",
        "rw",
        "z",
        "Z",
        "U",
        "cached",
        "delegated",
        "consistent",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "bind",
        "rbind",
        "nocopy",
        "exec",
    ];
    HARMLESS.contains(&option)
}

impl FromStr for Share {
    type Err = String;

    /// Reads `HOST:GUEST`, optionally followed by `:` and options: `ro`, `rw`, `uid=N`, `gid=N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.rsplit_once(':').and_then(|(before, last)| Some((before, Options::parse(last)?)));
        let (text, options) = split.unwrap_or((text, Options::default()));
        let Some((host, guest)) = text.rsplit_once(':') else {
            return Err("expected HOST:GUEST or HOST:GUEST:OPTIONS (ro, uid=N, gid=N)".to_owned());
        };
        if host.is_empty() {
            return Err("the host path is empty".to_owned());
        }
        // What follows a path of the guest is an option.
        if !guest.starts_with('/') && host.rsplit_once(':').is_some_and(|(_, before)| before.starts_with('/')) {
            return Err(format!("{guest:?} is no option of a share; there are ro, uid=N and gid=N"));
        }
        check_guest_path(guest)?;
        let Options { read_only, uid, gid } = options;
        Ok(Self { host: host.into(), guest: guest.to_owned(), read_only, uid, gid, fills: false })
    }
}

/// Checks a path of the guest at which something is mounted.
///
/// # Errors
/// It is not absolute, has `..`, or is the root.
pub(crate) fn check_guest_path(guest: &str) -> Result<(), String> {
    let path = Path::new(guest);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!(
            "the guest path {guest:?} must be absolute and without \"..\" (options: ro, uid=N, gid=N)"
        ));
    }
    if path.components().count() == 1 {
        return Err("the guest path must not be the root".to_owned());
    }
    Ok(())
}

/// A share whose host path has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The host path without symbolic links: a directory, or the single file.
    pub(crate) directory: PathBuf,
    /// The name of the file, for a share of a single file.
    pub(crate) file: Option<String>,
    /// The share itself.
    pub(crate) share: Share,
}

impl Share {
    /// Checks the host path, before anything is started.
    ///
    /// # Errors
    /// The path is missing, or is neither a directory nor a regular file.
    pub(crate) fn resolve(&self) -> Result<Resolved, Failure> {
        let about = || format!("share {}", self.host.display());
        let path = fs::canonicalize(&self.host)
            .map_err(|error| Failure::new(about(), &error).with_hint("create it, or correct -v HOST:GUEST"))?;
        let kind = fs::metadata(&path).about(about())?;
        if kind.is_dir() {
            return Ok(Resolved { directory: path, file: None, share: self.clone() });
        }
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match (kind.is_file(), name) {
            (false, _) => Err(Failure::new(about(), "it is neither a directory nor a regular file")),
            (true, None) => Err(Failure::new(about(), "the name of a single file must be UTF-8")),
            (true, file) => Ok(Resolved { directory: path, file, share: self.clone() }),
        }
    }
}

/// Puts shares into the order in which they are mounted: a share that is inside another one comes after it.
///
/// # Errors
/// Two shares have the same target, or one is inside a read-only share that has no mount point for it.
pub(crate) fn arrange(mut shares: Vec<Resolved>) -> Result<Vec<Resolved>, Failure> {
    let target = |resolved: &Resolved| Path::new(&resolved.share.guest).components().collect::<PathBuf>();
    shares.sort_by_key(|resolved| target(resolved).components().count());
    for (position, inner) in shares.iter().enumerate() {
        let before = shares.get(..position).unwrap_or_default();
        let about = || format!("-v {}:{}", inner.share.host.display(), inner.share.guest);
        if before.iter().any(|other| target(other) == target(inner)) {
            return Err(
                Failure::new(about(), "another share has the same target").with_hint("give each a target of its own")
            );
        }
        // The innermost share that contains it.
        let Some(outer) = before.iter().rev().find(|outer| target(inner).starts_with(target(outer))) else { continue };
        let within = target(inner).strip_prefix(target(outer)).map(Path::to_owned).unwrap_or_default();
        let place = outer.directory.join(within);
        if outer.file.is_some() {
            return Err(Failure::new(about(), format_args!("{} is a file", outer.share.guest)));
        }
        if outer.share.read_only && !place.exists() {
            return Err(Failure::new(about(), format_args!("it is in a read-only share without {}", place.display()))
                .with_hint("create it on the host, empty, or share the outer directory for writing"));
        }
    }
    Ok(shares)
}

/// Returns the virtiofs tag of the share at `position`. It is numbered, so that it is short and unique for every path.
#[must_use]
pub(crate) fn tag(position: usize) -> String {
    format!("share{position}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(host: &str, guest: &str, read_only: bool) -> Result<Share, String> {
        Ok(Share { host: host.into(), guest: guest.into(), read_only, uid: None, gid: None, fills: false })
    }

    #[test]
    fn every_form_of_a_share_is_read() {
        for (text, expected) in [
            ("/a:/b", share("/a", "/b", false)),
            ("/a:/b:ro", share("/a", "/b", true)),
            ("/a:/b:rw", share("/a", "/b", false)),
            ("./a b:/c/d", share("./a b", "/c/d", false)),
            ("/with:colon:/b", share("/with:colon", "/b", false)),
            (".:/ro:ro", share(".", "/ro", true)),
            ("/a:/b:ro,z", share("/a", "/b", true)),
            (
                "/a:/b:uid=999,gid=1",
                share("/a", "/b", false).map(|share| Share { uid: Some(999), gid: Some(1), ..share }),
            ),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn wrong_shares_say_what_was_expected() {
        for text in ["/a", "", ":/b", "/a:b", "/a:/", "/a:/../etc", "ro", "/a:ro", "/a:/b:uid=x", "/a:/b:what"] {
            let result: Result<Share, String> = text.parse();
            assert!(result.is_err(), "{text:?} was taken as {result:?}");
        }
    }

    #[test]
    fn a_missing_host_path_is_named() {
        let failure = Share {
            host: "/nonexistent/x".into(),
            guest: "/x".into(),
            read_only: true,
            uid: None,
            gid: None,
            fills: false,
        }
        .resolve();
        let failure = failure.unwrap_err().to_string();
        assert!(failure.starts_with("share /nonexistent/x: No such file"), "{failure}");
    }

    #[test]
    fn directories_are_resolved_and_other_things_refused() {
        let directory = tempfile::tempdir().unwrap();
        let share = |host: &Path| Share {
            host: host.to_owned(),
            guest: "/x".into(),
            read_only: false,
            uid: None,
            gid: None,
            fills: false,
        };
        assert_eq!(share(directory.path()).resolve().unwrap().directory, directory.path().canonicalize().unwrap());
        assert!(share(Path::new("/dev/null")).resolve().unwrap_err().to_string().contains("neither"));
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(share(&file).resolve().unwrap().file.as_deref(), Some("file"));
    }

    #[test]
    fn shares_within_others_come_after_them_and_need_a_place() {
        let host = tempfile::tempdir().unwrap();
        let all = |shares: &[(&str, bool)]| {
            let resolved = shares.iter().map(|&(guest, read_only)| {
                Share {
                    host: host.path().to_owned(),
                    guest: guest.into(),
                    read_only,
                    uid: None,
                    gid: None,
                    fills: false,
                }
                .resolve()
                .unwrap()
            });
            let arranged = arrange(resolved.collect())?;
            Ok::<_, Failure>(arranged.into_iter().map(|resolved| resolved.share.guest).collect::<Vec<_>>())
        };
        assert_eq!(all(&[("/a/b/c", false), ("/x", false), ("/a", false)]).unwrap(), ["/x", "/a", "/a/b/c"]);
        assert!(all(&[("/a", false), ("/a/", false)]).unwrap_err().to_string().contains("same target"));
        let refused = all(&[("/a/b", false), ("/a", true)]).unwrap_err().to_string();
        assert!(refused.contains("/b") && refused.contains("create it on the host"), "{refused}");
        fs::create_dir(host.path().join("b")).unwrap();
        all(&[("/a/b", false), ("/a", true)]).unwrap();
    }
}
