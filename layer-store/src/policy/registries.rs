//! `registries.d`: which registries keep signatures next to their images (containers-registries.d(5)).

use std::collections::BTreeMap;
use std::path::Path;

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::yaml::Hash;
use yaml_rust2::{Yaml, YamlLoader};

use super::PolicyError;
use super::identity::Place;

/// How deeply a file may be nested. The format needs three levels.
const DEPTH: usize = 16;

/// The content of all files, as far as it concerns sigstore signatures.
#[derive(Debug, Default)]
pub(super) struct Registries {
    default: Option<Settings>,
    scopes: BTreeMap<String, Settings>,
}

/// What a scope says. Fields for signatures of other kinds are ignored.
#[derive(Debug, Default)]
struct Settings {
    use_sigstore_attachments: Option<bool>,
}

impl Settings {
    fn of(yaml: &Yaml, scope: &str) -> Result<Self, String> {
        let Some(fields) = mapping(yaml, scope)? else { return Ok(Self::default()) };
        let use_sigstore_attachments = match field(fields, "use-sigstore-attachments") {
            None | Some(Yaml::Null) => None,
            Some(Yaml::Boolean(keeps)) => Some(*keeps),
            Some(_) => return Err(format!("use-sigstore-attachments of {scope} is neither true nor false")),
        };
        Ok(Self { use_sigstore_attachments })
    }
}

fn field<'yaml>(fields: &'yaml Hash, name: &str) -> Option<&'yaml Yaml> {
    fields.get(&Yaml::String(name.to_owned()))
}

/// Returns the fields of a mapping. A name without a value has none.
fn mapping<'yaml>(yaml: &'yaml Yaml, name: &str) -> Result<Option<&'yaml Hash>, String> {
    match yaml {
        Yaml::Hash(fields) => Ok(Some(fields)),
        Yaml::Null => Ok(None),
        _ => Err(format!("{name} is no mapping")),
    }
}

/// Refuses a file that would take much memory: one that is nested deeply, which the parser follows by recursion, or that has
/// aliases, which it copies.
fn check_shape(text: &str) -> Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    let mut depth = 0_usize;
    loop {
        match parser.next_token().map_err(|error| error.to_string())?.0 {
            Event::StreamEnd => return Ok(()),
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            Event::Alias(_) => return Err("aliases are not supported; write the value out".to_owned()),
            _ => {}
        }
        if depth > DEPTH {
            return Err(format!("it is nested more than {DEPTH} times"));
        }
    }
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
        check_shape(text)?;
        let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
        // A file of comments only has no content.
        let Some(file) = documents.first() else { return Ok(()) };
        let Some(fields) = mapping(file, "the file")? else { return Ok(()) };
        if let Some(default) = field(fields, "default-docker")
            && self.default.replace(Settings::of(default, "default-docker")?).is_some()
        {
            return Err("default-docker is in another file too".to_owned());
        }
        let scopes = field(fields, "docker").map(|scopes| mapping(scopes, "docker")).transpose()?.flatten();
        for (scope, settings) in scopes.into_iter().flatten() {
            let Yaml::String(scope) = scope else { return Err("a scope of docker is no name".to_owned()) };
            if self.scopes.insert(scope.clone(), Settings::of(settings, scope)?).is_some() {
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
