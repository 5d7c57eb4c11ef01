//! One file, in the format of version 2 or of version 1.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What to do with a name without a registry that may mean several images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ShortNameMode {
    /// Ask the user.
    Enforcing,
    /// Ask the user if there is a terminal, and try each otherwise.
    #[default]
    Permissive,
    /// Try each.
    Disabled,
}

/// Which images a mirror is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UseOfMirror {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// A registry itself, or a mirror of it.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// What replaces the prefix; the same as the prefix unless that has a wildcard.
    pub(super) location: Option<String>,
    pub(super) insecure: bool,
    pub(super) serves: UseOfMirror,
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) search: Option<Vec<String>>,
    pub(super) mode: Option<ShortNameMode>,
    pub(super) helpers: Option<Vec<String>>,
    pub(super) aliases: BTreeMap<String, String>,
    /// Prefix, registry, mirrors, and whether it is blocked.
    pub(super) registries: Vec<(String, Remote, Vec<Remote>, bool)>,
}

/// Keys of both versions. Other keys are ignored, as podman and skopeo do.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Written {
    unqualified_search_registries: Vec<String>,
    short_name_mode: Option<String>,
    credential_helpers: Vec<String>,
    aliases: BTreeMap<String, String>,
    registry: Vec<WrittenRegistry>,
    /// Version 1.
    registries: Option<Version1>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct WrittenRegistry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<WrittenMirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct WrittenMirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<UseOfMirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Version1 {
    search: List,
    insecure: List,
    block: List,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    registries: Vec<String>,
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let is_version_2 = !written.registry.is_empty() || !written.unqualified_search_registries.is_empty();
        if let Some(version_1) = written.registries {
            if is_version_2 {
                return Err("it mixes the formats of version 1 and 2".to_owned());
            }
            return version_1.file();
        }
        let some = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
        let mode = match written.short_name_mode.as_deref() {
            None | Some("") => None,
            Some("enforcing") => Some(ShortNameMode::Enforcing),
            Some("permissive") => Some(ShortNameMode::Permissive),
            Some("disabled") => Some(ShortNameMode::Disabled),
            Some(other) => return Err(format!("{other:?} is no short-name-mode")),
        };
        let search = written.unqualified_search_registries.iter().map(|name| host(name)).collect::<Result<_, _>>()?;
        let registries = written.registry.into_iter().map(WrittenRegistry::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            search: some(search),
            mode,
            helpers: some(written.credential_helpers),
            aliases: written.aliases,
            registries,
        })
    }
}

impl WrittenRegistry {
    fn read(self) -> Result<(String, Remote, Vec<Remote>, bool), String> {
        let (prefix, location) = (location(&self.prefix)?, location(&self.location)?);
        let is_wildcard = prefix.starts_with("*.");
        let (prefix, location) = match (prefix.is_empty(), location.is_empty()) {
            (true, true) => return Err("a registry has neither a prefix nor a location".to_owned()),
            (true, false) => (location.clone(), Some(location)),
            (false, true) if is_wildcard => (prefix, None),
            (false, true) => (prefix.clone(), Some(prefix)),
            (false, false) => (prefix, Some(location)),
        };
        if prefix.contains('*') && (!is_wildcard || prefix.matches('*').count() > 1) {
            return Err(format!("{prefix:?}: a wildcard is only at the start, as in *.example.com"));
        }
        let mut mirrors = Vec::new();
        for mirror in self.mirror {
            let location = self::location(&mirror.location)?;
            if location.is_empty() {
                return Err(format!("a mirror of {prefix} has no location"));
            }
            let serves = match (self.mirror_by_digest_only, mirror.pull_from_mirror) {
                (true, Some(_)) => {
                    return Err(format!("{prefix} has mirror-by-digest-only, and a mirror of it pull-from-mirror"));
                }
                (true, None) => UseOfMirror::DigestOnly,
                (false, serves) => serves.unwrap_or_default(),
            };
            mirrors.push(Remote { location: Some(location), insecure: mirror.insecure, serves });
        }
        let own = Remote { location, insecure: self.insecure, serves: UseOfMirror::All };
        Ok((prefix, own, mirrors, self.blocked))
    }
}

impl Version1 {
    fn file(self) -> Result<File, String> {
        let mut registries: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        for name in &self.insecure.registries {
            registries.entry(location(name)?).or_default().0 = true;
        }
        for name in &self.block.registries {
            registries.entry(location(name)?).or_default().1 = true;
        }
        let registries = registries.into_iter().map(|(name, (insecure, blocked))| {
            let own = Remote { location: Some(name.clone()), insecure, serves: UseOfMirror::All };
            (name, own, Vec::new(), blocked)
        });
        let search = self.search.registries.iter().map(|name| host(name)).collect::<Result<Vec<_>, _>>()?;
        let search = if search.is_empty() { None } else { Some(search) };
        Ok(File { search, registries: registries.collect(), ..File::default() })
    }
}

/// Returns a registry, or a part of one, without slashes at its end.
fn location(written: &str) -> Result<String, String> {
    let trimmed = written.trim_end_matches('/');
    if let Some((scheme, rest)) = trimmed.split_once("://") {
        return Err(format!("{written:?} has a scheme: leave out {scheme}://, write {rest}"));
    }
    Ok(trimmed.to_owned())
}

/// Returns the name of a registry without a repository.
fn host(written: &str) -> Result<String, String> {
    match location(written)? {
        host if host.contains('/') => Err(format!("{written:?} is not the name of a registry alone")),
        host => Ok(host),
    }
}
