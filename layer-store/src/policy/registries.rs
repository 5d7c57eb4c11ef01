//! `registries.d`: which registries keep signatures next to their images (containers-registries.d(5)).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::PolicyError;
use super::identity::Place;

/// The content of all files, as far as it concerns sigstore signatures.
#[derive(Debug, Default)]
pub(super) struct Registries {
    default: Option<Settings>,
    scopes: BTreeMap<String, Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    default_docker: Option<Settings>,
    docker: Option<BTreeMap<String, Option<Settings>>>,
}

/// Fields for signatures of other kinds are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Settings {
    use_sigstore_attachments: Option<bool>,
}

impl Registries {
    /// Reads the files `*.yaml` of a directory.
    pub(super) fn read(directory: &Path) -> Result<Self, PolicyError> {
        let unreadable = |cause| PolicyError::Unreadable { path: directory.to_owned(), cause };
        let mut merged = Self::default();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let malformed = |cause| PolicyError::Malformed { path: path.clone(), cause };
                merged.add(&super::read(&path)?).map_err(malformed)?;
            }
        }
        Ok(merged)
    }

    /// Adds the content of a file. No part may be in two files, because nothing says which of them counts.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        // A file of comments only has no content.
        let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let Some(file) = file else { return Ok(()) };
        if let Some(default) = file.default_docker
            && self.default.replace(default).is_some()
        {
            return Err("default-docker is in another file too".to_owned());
        }
        for (scope, settings) in file.docker.into_iter().flatten() {
            if self.scopes.insert(scope.clone(), settings.unwrap_or_default()).is_some() {
                return Err(format!("the scope {scope} is in another file too"));
            }
        }
        Ok(())
    }

    /// Returns whether the registry of an image keeps sigstore signatures: as stated by the closest scope that says
    /// anything about it.
    pub(super) fn keep_attachments(&self, place: &Place) -> bool {
        let scopes = place.scopes();
        let scoped = scopes.iter().find_map(|scope| self.scopes.get(scope)?.use_sigstore_attachments);
        let default = || self.default.as_ref()?.use_sigstore_attachments;
        scoped.or_else(default).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn of(files: &[&str]) -> Result<Self, String> {
        let mut merged = Self::default();
        files.iter().try_for_each(|file| merged.add(file.as_bytes()))?;
        Ok(merged)
    }
}
