//! `registries.conf`: what names without a registry mean, and where registries are reached (containers-registries.conf(5)).
//!
//! The files are those of podman and skopeo, read in their order: the user's file or else that of the system, then the files
//! `*.conf` of `registries.conf.d`, the system's before the user's, and the short names that podman has learnt. A later file
//! replaces what it has of the same kind. Without any file, a name without a registry is one of Docker Hub, and each registry
//! is reached under its own name.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use file::{File, Remote, ShortNameMode, UseOfMirror};

use crate::{Reference, ReferenceError};

/// The largest file read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Where `registries.conf` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesFiles {
    /// The file. Without it, `$CONTAINERS_REGISTRIES_CONF`, or else `~/.config/containers/registries.conf`, or else
    /// `/etc/containers/registries.conf`.
    pub file: Option<PathBuf>,
    /// The directory of further files. Without it, `/etc/containers/registries.conf.d` and then
    /// `~/.config/containers/registries.conf.d`.
    pub directory: Option<PathBuf>,
}

/// Why `registries.conf` cannot be used, or what it forbids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        cause: std::io::Error,
    },
    /// A file is not what containers-registries.conf(5) describes.
    #[error("{path}: {cause}; correct it as containers-registries.conf(5) says")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The registry is blocked.
    #[error("{image} is not asked for: {prefix} is blocked in {path}")]
    Blocked {
        /// The image.
        image: String,
        /// The prefix of names that is blocked.
        prefix: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// A name without a registry may mean several images, and nobody can be asked for a choice.
    #[error("{name} may mean {}, and registries.conf asks for a choice: write the registry too", .candidates.join(" or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
    /// A name is not one of an image.
    #[error(transparent)]
    Name(#[from] ReferenceError),
}

/// The content of all files.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    search: Vec<String>,
    mode: ShortNameMode,
    aliases: BTreeMap<String, String>,
    /// By prefix.
    registries: BTreeMap<String, Entry>,
    helpers: Vec<String>,
}

/// One `[[registry]]`.
#[derive(Clone, Debug)]
struct Entry {
    prefix: String,
    own: Remote,
    mirrors: Vec<Remote>,
    blocked: bool,
    /// The file that it is in.
    path: PathBuf,
}

/// One place from which an image can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The image's name there.
    pub(crate) reference: Reference,
    /// Whether certificates are not checked, and TLS is not needed.
    pub(crate) is_insecure: bool,
    /// Whether it is a mirror of the place that the name means.
    pub(crate) is_mirror: bool,
}

impl Registries {
    /// Reads the files.
    pub fn read(files: &RegistriesFiles) -> Result<Self, RegistriesError> {
        let home = home();
        let own = |name: &str| home.as_ref().map(|home| home.join(".config/containers").join(name));
        let system = |name: &str| Path::new("/etc/containers").join(name);
        let variable = || std::env::var_os("CONTAINERS_REGISTRIES_CONF").filter(|path| !path.is_empty());
        let named = files.file.clone().or_else(|| variable().map(PathBuf::from));
        let mut registries = Self::default();
        match named {
            Some(path) => registries.add_file(&path)?,
            None => {
                let own = own("registries.conf").filter(|path| path.exists());
                registries.add_if_there(&own.unwrap_or_else(|| system("registries.conf")))?;
            }
        }
        let directories = match &files.directory {
            Some(directory) => vec![directory.clone()],
            None => [Some(system("registries.conf.d")), own("registries.conf.d")].into_iter().flatten().collect(),
        };
        for directory in directories {
            for path in drop_ins(&directory)? {
                registries.add_if_there(&path)?;
            }
        }
        if let Some(path) = learnt() {
            registries.add_if_there(&path)?;
        }
        Ok(registries)
    }

    fn add_if_there(&mut self, path: &Path) -> Result<(), RegistriesError> {
        match self.add_file(path) {
            Err(RegistriesError::Unreadable { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), RegistriesError> {
        let unreadable = |cause| RegistriesError::Unreadable { path: path.to_owned(), cause };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_LIMIT), &mut text).map_err(unreadable)?;
        self.add(&text, path).map_err(|cause| RegistriesError::Malformed { path: path.to_owned(), cause })
    }

    /// Adds the content of one file.
    fn add(&mut self, text: &str, path: &Path) -> Result<(), String> {
        let file = File::parse(text)?;
        if let Some(search) = file.search {
            self.search = search;
        }
        if let Some(mode) = file.mode {
            self.mode = mode;
        }
        if let Some(helpers) = file.helpers {
            self.helpers = helpers;
        }
        for (name, meaning) in file.aliases {
            // An empty value takes an alias of an earlier file away.
            match meaning.is_empty() {
                true => drop(self.aliases.remove(&name)),
                false => drop(self.aliases.insert(name, meaning)),
            }
        }
        for (prefix, own, mirrors, blocked) in file.registries {
            let entry = Entry { prefix: prefix.clone(), own, mirrors, blocked, path: path.to_owned() };
            self.registries.insert(prefix, entry);
        }
        Ok(())
    }

    /// Returns what a name as people write it may mean, in the order in which it is tried.
    ///
    /// A name with a registry means itself. A name without one means its alias, or else an image of one of the
    /// `unqualified-search-registries`, or else one of Docker Hub.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, RegistriesError> {
        let itself: Reference = name.parse()?;
        let first = name.split('/').next().unwrap_or(name);
        if name.contains('/') && crate::reference::names_a_registry(first) {
            return Ok(vec![itself]);
        }
        let end = name.find('@').or_else(|| name.rfind(':')).unwrap_or(name.len());
        let (with_tag, digest) = name.split_once('@').map_or((name, ""), |_| name.split_at(end));
        let repository = with_tag.split_once(':').map_or(with_tag, |(repository, _)| repository);
        let ending = format!("{}{digest}", with_tag.strip_prefix(repository).unwrap_or_default());
        if let Some(meaning) = self.aliases.get(repository) {
            return Ok(vec![format!("{meaning}{ending}").parse()?]);
        }
        let candidates = self.search.iter().map(|registry| format!("{registry}/{repository}{ending}").parse());
        let candidates = candidates.collect::<Result<Vec<Reference>, _>>()?;
        match candidates.len() {
            0 => Ok(vec![itself]),
            1 => Ok(candidates),
            _ if self.mode == ShortNameMode::Enforcing => Err(RegistriesError::Ambiguous {
                name: name.to_owned(),
                candidates: candidates.iter().map(ToString::to_string).collect(),
            }),
            _ => Ok(candidates),
        }
    }

    /// Returns the credential helpers that are asked for logins; `containers-auth.json` stands for the files.
    pub(crate) fn helpers(&self) -> &[String] {
        &self.helpers
    }

    /// Returns the places to fetch an image from: its mirrors, and then the registry itself.
    pub(crate) fn sources(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistriesError> {
        let name = reference.to_string();
        let Some((matched, entry)) = self.entry(&name) else {
            return Ok(vec![Endpoint { reference: reference.clone(), is_insecure: false, is_mirror: false }]);
        };
        entry.refuse_blocked(&name)?;
        let mut sources = Vec::new();
        for mirror in &entry.mirrors {
            let fits = match mirror.serves {
                UseOfMirror::All => true,
                UseOfMirror::DigestOnly => reference.digest().is_some(),
                UseOfMirror::TagOnly => reference.digest().is_none(),
            };
            if fits {
                sources.push(self.endpoint(mirror, &name, matched, true)?);
            }
        }
        sources.push(self.endpoint(&entry.own, &name, matched, false)?);
        Ok(sources)
    }

    /// Returns the place to push an image to: the registry in its name, which no setting replaces.
    pub(crate) fn target(&self, reference: &Reference) -> Result<Endpoint, RegistriesError> {
        let name = reference.to_string();
        let entry = self.entry(&name).map(|(_, entry)| entry);
        entry.map_or(Ok(()), |entry| entry.refuse_blocked(&name))?;
        let is_insecure = entry.is_some_and(|entry| entry.own.insecure);
        Ok(Endpoint { reference: reference.clone(), is_insecure, is_mirror: false })
    }

    fn endpoint(
        &self,
        remote: &Remote,
        name: &str,
        matched: usize,
        is_mirror: bool,
    ) -> Result<Endpoint, RegistriesError> {
        let written = match &remote.location {
            Some(location) => format!("{location}{}", name.get(matched..).unwrap_or_default()),
            // The prefix begins with a wildcard, and the registry has the name that it matched.
            None => name.to_owned(),
        };
        let reference: Reference = written.parse()?;
        // The place may have settings of its own.
        let place = self.entry(&written).map(|(_, entry)| entry);
        place.map_or(Ok(()), |entry| entry.refuse_blocked(&written))?;
        let is_insecure = remote.insecure || place.is_some_and(|entry| entry.own.insecure);
        Ok(Endpoint { reference, is_insecure, is_mirror })
    }

    /// Returns the entry whose prefix matches most of a name, and how many bytes of the name it matches.
    fn entry(&self, name: &str) -> Option<(usize, &Entry)> {
        let matches = self.registries.values().filter_map(|entry| Some((matched(&entry.prefix, name)?, entry)));
        matches.max_by_key(|(length, _)| *length)
    }
}

impl Entry {
    fn refuse_blocked(&self, image: &str) -> Result<(), RegistriesError> {
        match self.blocked {
            false => Ok(()),
            true => Err(RegistriesError::Blocked {
                image: image.to_owned(),
                prefix: self.prefix.clone(),
                path: self.path.clone(),
            }),
        }
    }
}

/// Returns how many bytes of a name a prefix matches: up to the end of a host, of a word of the repository, or of the tag.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        // `*.example.com` matches every host below that domain, at any depth.
        Some(domain) => {
            let start = name.find(domain)?;
            if name.get(..start)?.contains('/') {
                return None;
            }
            start + domain.len()
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    let next = name.get(end..)?.chars().next();
    next.is_none_or(|next| matches!(next, ':' | '/' | '@')).then_some(end)
}

/// Returns the files `*.conf` of a directory in the order of their names.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if matches!(cause.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(cause) => return Err(RegistriesError::Unreadable { path: directory.to_owned(), cause }),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    Ok(paths)
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Returns the file in which podman notes the short names that its user has chosen.
fn learnt() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| home().map(|home| home.join(".cache")))?;
    Some(cache.join("containers/short-name-aliases.conf"))
}
