//! Finds the logins that docker, podman and skopeo have stored.
//!
//! The files are read by this module and not by `docker_credential`: that crate refuses a whole file because of one
//! odd entry, which must not stop the pull of a public image.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::credential::Credential;
use super::login_file::LoginFile;
use super::login_helper;

/// What stands for the files among the helpers of `registries.conf`.
const FILES: &str = "containers-auth.json";

/// The result of a search.
pub(super) struct Found {
    pub(super) credential: Credential,
    /// Logins for the registry that cannot be used, one line each.
    pub(super) problems: Vec<String>,
}

/// Returns the files that may have logins, in the order in which they are searched: containers-auth.json(5), then
/// docker's own.
pub(super) fn files(variable: impl Fn(&str) -> Option<PathBuf>, uid: u32) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(only) = variable("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = variable("HOME");
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{uid}/auth.json")),
    };
    let config = variable("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
    let docker = variable("DOCKER_CONFIG").or_else(|| in_home(".docker"));
    let files = [
        Some(runtime),
        config.map(|directory| directory.join("containers/auth.json")),
        docker.map(|directory| directory.join("config.json")),
        in_home(".dockercfg"),
    ];
    files.into_iter().flatten().collect()
}

/// Returns the first login that the `helpers` of `registries.conf` or the files have. `containers-auth.json` among the helpers
/// stands for the files, which are searched if there is no helper.
pub(super) fn search(helpers: &[String], files: &[PathBuf], registry: &str, repository: &str) -> Found {
    if helpers.is_empty() {
        return find(files, registry, repository);
    }
    let mut all = Vec::new();
    for helper in helpers {
        if helper == FILES {
            let Found { credential, problems } = find(files, registry, repository);
            all.extend(problems);
            if credential != Credential::Anonymous {
                return Found { credential, problems: all };
            }
            continue;
        }
        for server in servers(registry) {
            match login_helper::ask(helper, &server) {
                Ok(Some(credential)) => return Found { credential, problems: all },
                Ok(None) => {}
                Err(problem) => all.push(problem),
            }
        }
    }
    Found { credential: Credential::Anonymous, problems: all }
}

/// Returns the first login for `registry` and `repository` in `files`, or the anonymous one if none can be used.
///
/// Blocks: a credential helper is a program that may ask the user.
pub(super) fn find(files: &[PathBuf], registry: &str, repository: &str) -> Found {
    let mut problems = Vec::new();
    for path in files {
        let mut note = |problem: String| problems.push(format!("{}: {problem}", path.display()));
        let file = match std::fs::read(path) {
            Ok(bytes) => LoginFile::read(&bytes, path.ends_with(".dockercfg")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => Err(error.to_string()),
        };
        match file {
            Ok(file) => {
                if let Some(credential) = in_file(&file, registry, repository, &mut note) {
                    return Found { credential, problems };
                }
            }
            Err(problem) => note(problem),
        }
    }
    Found { credential: Credential::Anonymous, problems }
}

fn in_file(file: &LoginFile, registry: &str, repository: &str, note: &mut impl FnMut(String)) -> Option<Credential> {
    let names = names(registry);
    for place in parts(registry, repository) {
        let is_registry = place == registry;
        let places = if is_registry { names.as_slice() } else { std::slice::from_ref(&place) };
        let helper = places.iter().find_map(|place| file.helper(place));
        let helper = helper.or_else(|| is_registry.then(|| file.store()).flatten());
        if let Some(helper) = helper {
            for server in if is_registry { servers(registry) } else { vec![place.clone()] } {
                match login_helper::ask(helper, &server) {
                    Ok(Some(credential)) => return Some(credential),
                    Ok(None) => {}
                    Err(problem) => note(problem),
                }
            }
        }
        match places.iter().find_map(|place| file.entry(place).transpose()) {
            Some(Ok(credential)) => return Some(credential),
            Some(Err(problem)) => note(format!("the entry for {place}: {problem}")),
            None => {}
        }
    }
    None
}

/// Returns the places that a login may be stored for, the most specific first: podman knows logins for a part of a
/// registry.
fn parts(registry: &str, repository: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = Some(repository);
    while let Some(path) = part {
        parts.push(format!("{registry}/{path}"));
        part = path.rsplit_once('/').map(|(shorter, _)| shorter);
    }
    parts.push(registry.to_owned());
    parts
}

/// Returns the names of a registry. Docker Hub has several.
pub(super) fn names(registry: &str) -> Vec<String> {
    let all: &[&str] = match registry {
        "docker.io" => &["docker.io", "index.docker.io", "registry-1.docker.io"],
        other => &[other],
    };
    all.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the name that helpers are asked for: docker stores the login for its own registry under the address that it
/// had in 2013.
pub(super) fn servers(registry: &str) -> Vec<String> {
    match registry {
        "docker.io" => vec!["https://index.docker.io/v1/".to_owned(), registry.to_owned()],
        other => vec![other.to_owned()],
    }
}

/// The login files of the user of this process.
pub(super) fn own_files() -> Vec<PathBuf> {
    files(|name| std::env::var_os(name).map(|value| Path::new(&value).to_owned()), rustix::process::getuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `user:password`, in base64.
    const ENTRY: &str = r#"{"auth": "dXNlcjpwYXNzd29yZA=="}"#;

    fn found(config: &[u8], registry: &str, repository: &str) -> Found {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        std::fs::write(&path, config).unwrap();
        find(&[directory.path().join("absent"), path], registry, repository)
    }

    fn password(user: &str, password: &[u8]) -> Credential {
        Credential::Password { user: user.into(), password: password.into() }
    }

    #[test]
    fn a_login_is_found_under_every_name_that_tools_store_it() {
        for (stored, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("https://ghcr.io", "ghcr.io"),
            ("https://ghcr.io/v2/", "ghcr.io"),
            ("ghcr.io/", "ghcr.io"),
            ("ghcr.io/a/b", "ghcr.io"),
            ("ghcr.io/a", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://localhost:5000", "localhost:5000"),
        ] {
            let config = format!(r#"{{"auths": {{"{stored}": {ENTRY}}}}}"#);
            let login = found(config.as_bytes(), registry, "a/b");
            assert!(login.credential == password("user", b"password") && login.problems.is_empty(), "{stored}");
            assert!(found(config.as_bytes(), "quay.io", "a/b").credential == Credential::Anonymous, "{stored}");
        }
        for stored in ["ghcr.io/c", "ghcr.io/a/b/c", "https://index.docker.io/v1/refresh-token"] {
            let config = format!(r#"{{"auths": {{"{stored}": {ENTRY}}}}}"#);
            for registry in ["ghcr.io", "docker.io"] {
                assert!(found(config.as_bytes(), registry, "a/b").credential == Credential::Anonymous, "{stored}");
            }
        }
    }

    #[test]
    fn the_login_for_the_closest_part_of_a_registry_wins() {
        let config = format!(r#"{{"auths": {{"ghcr.io": {{"auth": "eDp5"}}, "ghcr.io/a": {ENTRY}}}}}"#);
        assert_eq!(found(config.as_bytes(), "ghcr.io", "a/b").credential.user(), "user");
        assert_eq!(found(config.as_bytes(), "ghcr.io", "c").credential.user(), "x");
    }

    #[test]
    fn entries_are_read_as_people_and_tools_write_them() {
        let table: &[(&[u8], Credential)] = &[
            (br#"{"auth": "", "email": ""}"#, Credential::Anonymous),
            (br#"{}"#, Credential::Anonymous),
            (br#"null"#, Credential::Anonymous),
            (br#"{"auth": "Og=="}"#, Credential::Anonymous),
            (br#"{"username": "user", "password": "pa:ss", "auth": ""}"#, password("user", b"pa:ss")),
            (b"{\"auth\": \"dXNl\\ncjpw\\r\\nYTpzcw==\\n\"}", password("user", b"pa:ss")),
            (br#"{"auth": "dXNlcjpwYTpzcw"}"#, password("user", b"pa:ss")),
            (br#"{"auth": "dXNlcjpwYTpzcwA="}"#, password("user", b"pa:ss")),
            (br#"{"auth": "dXNlcjpwYTpzcwo="}"#, password("user", b"pa:ss")),
            (br#"{"auth": "dXNlcjpw5HNz"}"#, password("user", b"p\xe4ss")),
            (br#"{"Username": "user", "Password": "x"}"#, password("user", b"x")),
            (br#"{"auth": "dTo=", "identitytoken": "secret"}"#, Credential::IdentityToken("secret".to_owned())),
            (br#"{"registrytoken": "secret"}"#, Credential::RegistryToken("secret".to_owned())),
            (br#"{"username": "<token>", "password": "secret"}"#, Credential::IdentityToken("secret".to_owned())),
        ];
        for (entry, expected) in table {
            let config = [br#"{"auths": {"other.io": {"auth": "!"}, "a.io": "#, *entry, b"}}"].concat();
            let login = found(&config, "a.io", "x");
            assert!(login.credential == *expected, "{}", String::from_utf8_lossy(entry));
            assert!(login.problems.is_empty(), "{:?}", login.problems);
        }
    }

    #[test]
    fn what_cannot_be_used_is_no_login_and_is_named() {
        for (config, problem) in [
            (&b"{"[..], "auth.json: it is not JSON"),
            (b"[]", "auth.json: it is not JSON"),
            (br#"{"auths": {"a.io": {"auth": "!"}}}"#, "the entry for a.io: its \"auth\" is not base64"),
            (br#"{"auths": {"a.io": {"auth": "dXNlcg=="}}}"#, "the entry for a.io: its \"auth\" has no colon"),
            (br#"{"credsStore": "that-nobody-has"}"#, "docker-credential-that-nobody-has"),
            (br#"{"credHelpers": {"a.io": "../evil"}}"#, "is not the name of a credential helper"),
        ] {
            let login = found(config, "a.io", "x");
            assert!(login.credential == Credential::Anonymous);
            let [only] = login.problems.as_slice() else { panic!("{:?}", login.problems) };
            assert!(only.contains(problem), "{only}");
        }
        for empty in [&b""[..], b" \n", b"{}", br#"{"auths": null, "credsStore": "", "credHelpers": null}"#] {
            assert!(found(empty, "a.io", "x").problems.is_empty());
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_does_not_hide_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (broken, good) = (directory.path().join("auth.json"), directory.path().join("config.json"));
        std::fs::write(&broken, "{").unwrap();
        std::fs::write(&good, format!(r#"{{"auths": {{"a.io": {ENTRY}}}}}"#)).unwrap();
        let login = find(&[directory.path().to_owned(), broken, good], "a.io", "x");
        assert!(login.credential == password("user", b"password"));
        assert_eq!(login.problems.len(), 2, "{:?}", login.problems);
        let legacy = directory.path().join(".dockercfg");
        std::fs::write(&legacy, format!(r#"{{"https://a.io/v1/": {ENTRY}}}"#)).unwrap();
        assert!(find(&[legacy], "a.io", "x").credential == password("user", b"password"));
    }

    #[test]
    fn files_are_searched_in_the_order_of_the_container_tools() {
        let with = |set: &'static [(&str, &str)]| {
            files(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)), 7)
        };
        assert_eq!(with(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]), [PathBuf::from("/a")]);
        let default = with(&[("HOME", "/h"), ("DOCKER_CONFIG", ""), ("REGISTRY_AUTH_FILE", "")]);
        let expected = [
            "/run/containers/7/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
            "/h/.dockercfg",
        ];
        assert_eq!(default, expected.map(PathBuf::from));
        let set =
            with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]);
        let expected = ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json", "/h/.dockercfg"];
        assert_eq!(set, expected.map(PathBuf::from));
    }
}
