//! Debian's docker-registry on a loopback port, with its storage in its own directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::image::{Image, entry, write_layout};
use crate::programs::{installed, run};
use crate::until_some;

/// What a registry asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Open,
    Login,
    Certificate,
}

/// A running registry. Stopped when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    directory: tempfile::TempDir,
    /// Its port on the loopback interface.
    pub port: u16,
    is_secure: bool,
}

impl Registry {
    /// Starts one without TLS or a login; returns when it answers.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn plain() -> Self {
        Self::start(Access::Open)
    }

    /// Starts one with TLS, using a certificate that no program trusts, and a login: `alice`, `s3cret`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn secure() -> Self {
        Self::start(Access::Login)
    }

    /// Starts one with TLS that asks its clients for a certificate: `client.cert` and `client.key` in its `certs.d`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn mutual() -> Self {
        Self::start(Access::Certificate)
    }

    fn start(access: Access) -> Self {
        let is_secure = access != Access::Open;
        let directory =
            tempfile::Builder::new().prefix("lamina-registry-").tempdir_in("/tmp").expect("a directory in /tmp");
        let access = if is_secure { access_control(directory.path(), access) } else { String::new() };
        // Port 0: the kernel chooses a free one, and the registry says which.
        let configuration = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: \"127.0.0.1:0\"\n{access}",
            directory.path().join("storage").display()
        );
        let file = directory.path().join("registry.yml");
        std::fs::write(&file, configuration).expect("the registry's configuration");
        let log = |name: &str| File::create(directory.path().join(name)).expect("the registry's log");
        let mut process = Command::new(installed("docker-registry"))
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log("access.log"))
            .stderr(log("error.log"))
            .spawn()
            .expect("docker-registry can be started");
        let port = until_some("docker-registry to listen", || {
            let text = std::fs::read_to_string(directory.path().join("error.log")).unwrap_or_default();
            let ended = process.try_wait().expect("the registry's state");
            assert!(ended.is_none(), "docker-registry does not start: {text}");
            listening_port(&text)
        });
        Self { process, directory, port, is_secure }
    }

    /// The directory that holds all its files: `auth.json` and `certs.d` are for the test's own use.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of an image here, with the host name `localhost`.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}", self.port)
    }

    /// The certificate of a secure registry.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory().join("cert.pem")
    }

    /// Pushes an image, byte for byte.
    ///
    /// # Panics
    /// When the push fails.
    pub fn push(&self, image: &Image, name: &str) {
        let layout = tempfile::tempdir().expect("a directory");
        write_layout(layout.path(), &[image], &[entry(image, Some("it"))]);
        self.copy(&format!("oci:{}:it", layout.path().display()), name, &["--preserve-digests"]);
    }

    /// Pushes the image `latest` of a layout. Returns the reference to pull it with.
    ///
    /// # Panics
    /// When the push fails.
    pub fn push_layout(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let name = format!("{repository}:{tag}");
        self.copy(&format!("oci:{}:latest", layout.display()), &name, &["--quiet"]);
        format!("{}/{name}", self.address())
    }

    /// Copies anything that skopeo reads to the name `image` here.
    ///
    /// # Panics
    /// When skopeo fails.
    pub fn copy(&self, source: &str, image: &str, options: &[&str]) {
        let target = format!("docker://{}", self.name(image));
        let certificates = self.directory().join("certs.d").display().to_string();
        let access: &[&str] = match self.is_secure {
            true => &["--dest-cert-dir", &certificates, "--dest-creds", "alice:s3cret"],
            false => &["--dest-tls-verify=false"],
        };
        run("skopeo", &[&["--insecure-policy", "copy"], options, access, &[source, &target]].concat());
    }

    /// The digests of the blobs that were requested by GET so far, in order.
    ///
    /// # Panics
    /// When the registry's log cannot be read.
    #[must_use]
    pub fn fetched_blobs(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory().join("access.log")).expect("the registry's access log");
        let requests =
            log.lines().filter_map(|line| line.split('"').nth(1)).filter(|request| request.starts_with("GET "));
        requests
            .filter_map(|request| request.split_once("/blobs/"))
            .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }

    /// The file that holds a blob, so that a test can damage it.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// The port that a registry's log says it listens on.
fn listening_port(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
    let end = rest.find(|sign: char| !sign.is_ascii_digit())?;
    rest[..end].parse().ok()
}

/// Makes a key, a certificate and a login in `directory`. Returns the lines of the configuration that name them.
fn access_control(directory: &Path, access: Access) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout"];
    run("openssl", &[&new[..], &[&at("key.pem"), "-out", &at("cert.pem")], &subject].concat());
    let certificate = format!("certificate: {}, key: {}", at("cert.pem"), at("key.pem"));
    if access == Access::Certificate {
        std::fs::create_dir(at("certs.d")).expect("a directory for clients");
        std::fs::copy(at("cert.pem"), at("certs.d/ca.crt")).expect("a copy of the certificate");
        let (key, client) = (at("certs.d/client.key"), at("certs.d/client.cert"));
        run("openssl", &[&new[..], &[&key, "-out", &client, "-subj", "/CN=client"]].concat());
        return format!("  tls: {{{certificate}, clientcas: [{client}]}}\n");
    }
    let logins = run("htpasswd", &["-Bbn", "alice", "s3cret"]).stdout;
    std::fs::write(at("htpasswd"), logins).expect("the registry's logins");
    std::fs::create_dir(at("certs.d")).expect("a directory for skopeo");
    std::fs::copy(at("cert.pem"), at("certs.d/ca.crt")).expect("a copy of the certificate");
    format!("  tls: {{{certificate}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd"))
}
