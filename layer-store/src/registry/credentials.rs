//! The logins that docker, podman and skopeo have stored.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};

use super::PullError;

/// What a user has to show to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// An OAuth 2 refresh token, to be exchanged for an access token.
    IdentityToken(String),
}

impl Credential {
    /// What an error may say of it.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Anonymous => "nobody",
            Self::Password { user, .. } => user,
            Self::IdentityToken(_) => "an identity token",
        }
    }
}

const DOCKER_FILE: &str = "config.json";

/// The files that may hold logins, the first to be asked first.
///
/// containers-auth.json(5), then docker's own file.
pub(super) fn files(variable: impl Fn(&str) -> Option<PathBuf>, uid: u32) -> Vec<PathBuf> {
    if let Some(only) = variable("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = variable("HOME");
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{uid}/auth.json")),
    };
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.clone()?.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home?.join(".docker")));
    [Some(runtime), config.map(|c| c.join("containers/auth.json")), docker.map(|d| d.join(DOCKER_FILE))]
        .into_iter()
        .flatten()
        .collect()
}

/// The first login for `registry` and `repository` in `files`; anonymous where there is none.
///
/// Blocks: a credential helper is a program that may ask the user.
pub(super) fn find(files: &[PathBuf], registry: &str, repository: &str) -> Result<Credential, PullError> {
    for path in files {
        let broken = |cause: String| PullError::Credentials { path: path.clone(), cause };
        // Docker knows no logins for parts of a registry, and its helpers would be asked for each in vain.
        let part = if path.ends_with(DOCKER_FILE) { None } else { Some(repository) };
        for key in keys(registry, part) {
            let file = match File::open(path) {
                Ok(file) => BufReader::new(file),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => break,
                Err(e) => return Err(broken(e.to_string())),
            };
            match get_credential_from_reader(file, &key) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(Credential::Password { user, password });
                }
                Ok(DockerCredential::IdentityToken(token)) if !token.is_empty() => {
                    return Ok(Credential::IdentityToken(token));
                }
                Ok(DockerCredential::IdentityToken(_)) | Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                // Helpers fail for a name they do not know. One that is not installed, left behind in a
                // configuration, must not keep anybody from public images.
                Err(
                    CredentialRetrievalError::HelperFailure { .. }
                    | CredentialRetrievalError::HelperCommunicationError
                    | CredentialRetrievalError::MalformedHelperResponse,
                ) => tracing::warn!("{}: its credential helper gives no login for {key}", path.display()),
                Err(CredentialRetrievalError::ConfigReadError) => {
                    return Err(broken("it is not JSON as docker and podman write it".to_owned()));
                }
                Err(error) => return Err(broken(format!("the entry for {key}: {error}"))),
            }
        }
    }
    Ok(Credential::Anonymous)
}

/// Under what a login may be stored: podman knows logins for a part of a registry, the closest first,
/// and docker stores the one for its own registry under the address it had in 2013.
fn keys(registry: &str, repository: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    let mut part = repository;
    while let Some(path) = part {
        keys.push(format!("{registry}/{path}"));
        part = path.rsplit_once('/').map(|(shorter, _)| shorter);
    }
    if registry == "docker.io" {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys.push(registry.to_owned());
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `user:password`, in base64.
    const ENTRY: &str = r#"{"auth": "dXNlcjpwYXNzd29yZA=="}"#;

    fn found(config: &str, registry: &str, repository: &str) -> Result<Credential, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(if config.contains("credsStore") { DOCKER_FILE } else { "auth.json" });
        std::fs::write(&path, config).unwrap();
        find(&[directory.path().join("absent"), path], registry, repository).map_err(|e| e.to_string())
    }

    #[test]
    fn a_login_is_found_under_every_name_that_tools_store_it() {
        let login = Ok(Credential::Password { user: "user".to_owned(), password: "password".to_owned() });
        for (stored, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("https://ghcr.io", "ghcr.io"),
            ("ghcr.io/a/b", "ghcr.io"),
            ("ghcr.io/a", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
        ] {
            let config = format!(r#"{{"auths": {{"{stored}": {ENTRY}}}}}"#);
            assert!(found(&config, registry, "a/b") == login, "{stored}");
            assert!(found(&config, "quay.io", "a/b") == Ok(Credential::Anonymous), "{stored}");
        }
    }

    #[test]
    fn the_login_for_the_closest_part_of_a_registry_wins() {
        let config = format!(r#"{{"auths": {{"ghcr.io": {{"auth": "eDp5"}}, "ghcr.io/a": {ENTRY}}}}}"#);
        assert!(found(&config, "ghcr.io", "a/b").is_ok_and(|c| c.user() == "user"));
        assert!(found(&config, "ghcr.io", "c").is_ok_and(|c| c.user() == "x"));
    }

    #[test]
    fn an_identity_token_is_told_from_a_password() {
        let config = r#"{"auths": {"a.io": {"auth": "dTo=", "identitytoken": "secret"}}}"#;
        assert!(found(config, "a.io", "x") == Ok(Credential::IdentityToken("secret".to_owned())));
    }

    #[test]
    fn a_helper_that_is_not_installed_does_not_stop_a_public_pull() {
        let config = r#"{"credsStore": "that-nobody-has"}"#;
        assert!(found(config, "a.io", "x") == Ok(Credential::Anonymous));
    }

    #[test]
    fn a_broken_file_is_named() {
        let error = found("{", "a.io", "x").err().unwrap();
        assert!(error.contains("auth.json: it is not JSON"), "{error}");
        let error = found(r#"{"auths": {"a.io": {"auth": "!"}}}"#, "a.io", "x").err().unwrap();
        assert!(error.contains("the entry for a.io"), "{error}");
    }

    #[test]
    fn files_are_asked_in_the_order_of_the_container_tools() {
        let with = |set: &'static [(&str, &str)]| {
            files(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)), 7)
        };
        assert_eq!(with(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]), [PathBuf::from("/a")]);
        let default = with(&[("HOME", "/h")]);
        let expected = ["/run/containers/7/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"];
        assert_eq!(default, expected.map(PathBuf::from));
        let set =
            with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(set, ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"].map(PathBuf::from));
    }
}
