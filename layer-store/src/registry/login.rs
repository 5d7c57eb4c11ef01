//! Stores and removes logins: in the files that podman, docker and skopeo read, or with their credential helpers.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::client::{Repository, Scope};
use super::credential::Login;
use super::login_file::{self, LoginFile};
use super::{PullError, PullOptions, credentials, login_helper, wait};
use crate::observer::Halt;
use crate::registries::Registries;
use crate::{Observer, Reference, ReferenceError};

/// The largest file with logins that is changed, in bytes.
const FILE_LIMIT: u64 = 16 << 20;

/// Why a login was not stored or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The text is not the name of a registry, or of a part of one.
    #[error("{0:?} is not the name of a registry; write it as in image names: docker.io, localhost:5000, quay.io/team")]
    Name(String, #[source] Option<ReferenceError>),
    /// The registry does not accept the login, or cannot be asked.
    #[error(transparent)]
    Registry(#[from] PullError),
    /// The file cannot be read or written.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
    },
    /// The file is not one of logins. It has not been changed.
    #[error("{path}: {cause}; correct it or remove it")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A credential helper failed.
    #[error("{path}: {cause}")]
    Helper {
        /// The file that names it.
        path: PathBuf,
        /// What it said.
        cause: String,
    },
}

/// What removing a login has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logout {
    /// The registries, as the file names them.
    pub removed: Vec<String>,
    /// Other files that still have a login for the registry.
    pub elsewhere: Vec<PathBuf>,
}

/// One file with logins, to be changed.
#[derive(Clone, Debug)]
pub struct Logins {
    path: PathBuf,
}

impl Logins {
    /// The file `path`, or else the one that podman writes: `$REGISTRY_AUTH_FILE`, or else `containers/auth.json` in
    /// `$XDG_RUNTIME_DIR`, or else `~/.config/containers/auth.json`.
    #[must_use]
    pub fn at(path: Option<PathBuf>) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let runtime = || Some(variable("XDG_RUNTIME_DIR")?.join("containers/auth.json"));
        let config = || {
            let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
            Some(config.join("containers/auth.json"))
        };
        let path = path.or_else(|| variable("REGISTRY_AUTH_FILE")).or_else(runtime).or_else(config);
        Self { path: path.unwrap_or_else(|| PathBuf::from("auth.json")) }
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks a registry whether it accepts a login, and stores it if so.
    pub fn add(
        &self,
        registry: &str,
        login: &Login,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), LoginError> {
        let place = place(registry)?;
        check(&place, login, options, observer)?;
        let mut fields = self.read()?;
        let helper = self.helper(&fields, &place)?;
        if let Some(helper) = helper {
            let server = credentials::servers(&place).into_iter().next().unwrap_or_else(|| place.clone());
            let entry = json!({ "ServerURL": server, "Username": login.user(), "Secret": login.password() });
            let stored = login_helper::change(&helper, "store", &entry.to_string());
            return stored.map_err(|cause| LoginError::Helper { path: self.path.clone(), cause });
        }
        let auth = STANDARD.encode(format!("{}:{}", login.user(), login.password()));
        let auths = self.auths(&mut fields)?;
        // An entry under another name of the registry would hide this one from other tools.
        auths.retain(|key, _| !names(&place).iter().any(|name| login_file::is_for(key, name)));
        auths.insert(self.key(&place), json!({ "auth": auth }));
        self.write(&fields)
    }

    /// Removes the logins for a registry.
    pub fn remove(&self, registry: &str) -> Result<Logout, LoginError> {
        let place = place(registry)?;
        let mut fields = self.read()?;
        let mut logout = Logout::default();
        if let Some(helper) = self.helper(&fields, &place)? {
            for server in credentials::servers(&place) {
                if login_helper::ask(&helper, &server).is_ok_and(|login| login.is_some()) {
                    let erased = login_helper::change(&helper, "erase", &server);
                    erased.map_err(|cause| LoginError::Helper { path: self.path.clone(), cause })?;
                    logout.removed.push(server);
                }
            }
        }
        let names = names(&place);
        let auths = self.auths(&mut fields)?;
        let is_meant = |key: &String| names.iter().any(|name| login_file::is_for(key, name));
        let keys: Vec<String> = auths.keys().filter(|key| is_meant(key)).cloned().collect();
        auths.retain(|key, _| !keys.contains(key));
        if !keys.is_empty() {
            self.write(&fields)?;
        }
        logout.removed.extend(keys);
        let others = credentials::own_files().into_iter().filter(|path| *path != self.path);
        let has_login = |path: &PathBuf| {
            let read = fs::read(path).ok().and_then(|bytes| LoginFile::read(&bytes, path.ends_with(".dockercfg")).ok());
            read.is_some_and(|file| names.iter().any(|name| file.entry(name).is_ok_and(|login| login.is_some())))
        };
        logout.elsewhere = others.filter(has_login).collect();
        Ok(logout)
    }

    /// Removes all logins that are in the file.
    pub fn remove_all(&self) -> Result<Logout, LoginError> {
        let mut fields = self.read()?;
        let auths = self.auths(&mut fields)?;
        let removed: Vec<String> = auths.keys().cloned().collect();
        auths.clear();
        if !removed.is_empty() {
            self.write(&fields)?;
        }
        Ok(Logout { removed, elsewhere: Vec::new() })
    }

    /// Returns the user of the login that the file, or its helper, has for a registry.
    pub fn user(&self, registry: &str) -> Result<Option<String>, LoginError> {
        let place = place(registry)?;
        let (registry, repository) = place.split_once('/').unwrap_or((&place, ""));
        let found = credentials::find(std::slice::from_ref(&self.path), registry, repository);
        Ok(found.credential.is_login().then(|| found.credential.user()))
    }

    fn read(&self) -> Result<Map<String, Value>, LoginError> {
        let failed = |cause| LoginError::File { path: self.path.clone(), cause };
        let bytes = match fs::File::open(&self.path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut io::Read::take(file, FILE_LIMIT), &mut bytes).map_err(failed)?;
                bytes
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Map::new()),
            Err(cause) => return Err(failed(cause)),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(fields),
            _ => Err(self.malformed("it is not JSON as docker and podman write it")),
        }
    }

    fn auths<'f>(&self, fields: &'f mut Map<String, Value>) -> Result<&'f mut Map<String, Value>, LoginError> {
        let auths = fields.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        auths.as_object_mut().ok_or_else(|| self.malformed("its \"auths\" is not an object"))
    }

    fn malformed(&self, cause: &str) -> LoginError {
        LoginError::Malformed { path: self.path.clone(), cause: cause.to_owned() }
    }

    /// Returns the credential helper that the file names for a place.
    fn helper(&self, fields: &Map<String, Value>, place: &str) -> Result<Option<String>, LoginError> {
        let bytes = serde_json::to_vec(fields).unwrap_or_default();
        let file = LoginFile::read(&bytes, false).map_err(|cause| self.malformed(&cause))?;
        let helper = names(place).iter().find_map(|name| file.helper(name).map(str::to_owned));
        Ok(helper.or_else(|| file.store().filter(|_| !place.contains('/')).map(str::to_owned)))
    }

    /// The name of a place in this file. docker knows its own registry by the address that it had in 2013 only.
    fn key(&self, place: &str) -> String {
        match (place, self.path.file_name().is_some_and(|name| name == "config.json")) {
            ("docker.io", true) => "https://index.docker.io/v1/".to_owned(),
            _ => place.to_owned(),
        }
    }

    /// Replaces the file by one that only its owner can read. A symbolic link stays, and what it leads to is replaced.
    fn write(&self, fields: &Map<String, Value>) -> Result<(), LoginError> {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |cause| LoginError::File { path: self.path.clone(), cause };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700).create(directory).map_err(failed)?;
        // Its mode is 0600.
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        let text = serde_json::to_vec_pretty(fields).unwrap_or_default();
        new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(failed)?;
        new.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Asks a registry whether it accepts a login.
fn check(place: &str, login: &Login, options: &PullOptions, observer: &Arc<dyn Observer>) -> Result<(), PullError> {
    let reference: Reference =
        format!("{place}/login").parse().map_err(|error: ReferenceError| PullError::Client(Box::new(error)))?;
    let endpoint = Registries::read(&options.registries)?.target(&reference)?;
    let options = PullOptions { login: Some(login.clone()), ..options.at(&endpoint, reference.registry()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| PullError::Client(Box::new(error)))?;
    let halt = Halt::new(observer);
    let asked = wait(&runtime, &halt, async {
        let repository = Repository::open(&reference, &options, Scope::login(), observer).await?;
        let url = format!("{}/", repository.root);
        repository.ask(reference.registry(), || repository.client.get(&url)).await
    });
    runtime.shutdown_background();
    asked.map(drop)
}

/// Returns the name under which a login is stored: a registry, with or without a part of its repositories.
fn place(written: &str) -> Result<String, LoginError> {
    let wrong = |error| LoginError::Name(written.to_owned(), error);
    let bare = written.strip_prefix("https://").or_else(|| written.strip_prefix("http://")).unwrap_or(written);
    let bare = bare.trim_end_matches('/');
    let first = bare.split('/').next().unwrap_or(bare);
    if matches!(bare, "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" | "docker.io") {
        return Ok("docker.io".to_owned());
    }
    if !crate::reference::names_a_registry(first) || bare.contains('@') {
        return Err(wrong(None));
    }
    let reference: Reference = format!("{bare}/login").parse().map_err(|error| wrong(Some(error)))?;
    let whole = format!("{}/{}", reference.registry(), reference.repository());
    Ok(whole.strip_suffix("/login").unwrap_or(&whole).to_owned())
}

fn names(place: &str) -> Vec<String> {
    let mut names = credentials::names(place);
    names.push(place.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_as_people_write_it() {
        for (written, expected) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://localhost:5000/", "localhost:5000"),
            ("quay.io/team", "quay.io/team"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(place(written).unwrap(), expected, "{written}");
        }
        for odd in ["", "debian", "a b.test", "quay.io/Team", "x@y.test"] {
            assert!(place(odd).is_err(), "{odd}");
        }
    }
}
