//! Debian's docker-registry on a free port of this host, for as long as the value lives.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::image::{Image, entry, write_layout};
use super::{run, skopeo};

pub struct Registry {
    child: Child,
    pub directory: TempDir,
    pub port: u16,
    secure: bool,
}

impl Registry {
    /// Without TLS or login.
    pub fn plain() -> Self {
        Self::start(false)
    }

    /// With TLS by a certificate that nobody knows, and a login: `alice`, `s3cret`.
    pub fn secure() -> Self {
        Self::start(true)
    }

    fn start(secure: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut extra = String::new();
        if secure {
            let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
            let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout"];
            run("openssl", &[&new[..], &[&at("key.pem"), "-out", &at("cert.pem")], &subject].concat());
            let logins = run("htpasswd", &["-Bbn", "alice", "s3cret"]).stdout;
            std::fs::write(at("htpasswd"), logins).unwrap();
            std::fs::create_dir(at("certs.d")).unwrap();
            std::fs::copy(at("cert.pem"), at("certs.d/ca.crt")).unwrap();
            extra = format!(
                "  tls: {{certificate: {}, key: {}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                at("cert.pem"),
                at("key.pem"),
                at("htpasswd")
            );
        }
        // The port is free when it is looked for; another process may take it before the registry does.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{extra}",
                at("storage")
            );
            std::fs::write(at("config.yml"), config).unwrap();
            let log = File::create(at("log")).unwrap();
            let mut child = Command::new("docker-registry")
                .args(["serve", &at("config.yml")])
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| panic!("this test needs the program docker-registry: {e}"));
            loop {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, directory, port, secure };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        panic!("docker-registry does not start: {}", std::fs::read_to_string(at("log")).unwrap());
    }

    pub fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}", self.port)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// Pushes an image, byte for byte.
    pub fn push(&self, image: &Image, name: &str) {
        let layout = tempfile::tempdir().unwrap();
        write_layout(layout.path(), &[image], &[entry(image, Some("it"))]);
        self.copy(&format!("oci:{}:it", layout.path().display()), name, &["--preserve-digests"]);
    }

    /// Copies anything that skopeo reads to the name `image` here.
    pub fn copy(&self, source: &str, image: &str, options: &[&str]) {
        let target = format!("docker://{}", self.name(image));
        let certificates = self.directory.path().join("certs.d").display().to_string();
        let access: &[&str] = match self.secure {
            true => &["--dest-cert-dir", &certificates, "--dest-creds", "alice:s3cret"],
            false => &["--dest-tls-verify=false"],
        };
        skopeo(&[&["copy"], options, access, &[source, &target]].concat());
    }

    /// The file in which the registry keeps a blob.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.directory.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
