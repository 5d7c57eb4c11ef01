//! Debian's docker-registry on a loopback port, with its storage in a directory of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs;

/// A running registry without TLS and accounts. Ends when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
    directory: tempfile::TempDir,
}

impl Registry {
    /// Starts one; returns when it answers.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        let directory =
            tempfile::Builder::new().prefix("lamina-registry-").tempdir_in("/tmp").expect("a directory in /tmp");
        let configuration = directory.path().join("registry.yml");
        // Port 0: the kernel chooses a free one, and the registry says which.
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
            directory.path().join("storage").display()
        );
        std::fs::write(&configuration, text).expect("the registry's configuration");
        let log = |name: &str| File::create(directory.path().join(name)).expect("the registry's log");
        let process = Command::new(programs::installed("docker-registry"))
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log("access.log"))
            .stderr(log("error.log"))
            .spawn()
            .expect("docker-registry can be started");
        let mut registry = Self { process, address: String::new(), directory };
        registry.address = registry.wait_for_address();
        registry
    }

    fn wait_for_address(&mut self) -> String {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
            if let Some((_, rest)) = text.split_once("listening on ") {
                return rest.chars().take_while(|sign| sign.is_ascii_digit() || matches!(sign, '.' | ':')).collect();
            }
            let ended = self.process.try_wait().expect("the registry's state");
            assert!(
                ended.is_none() && begin.elapsed() < Duration::from_secs(30),
                "docker-registry does not start: {text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes a layout's image `latest`; the reference to pull it by.
    ///
    /// # Panics
    /// When the push fails.
    pub fn push(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let reference = format!("{}/{repository}:{tag}", self.address);
        let output = Command::new(programs::installed("skopeo"))
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .expect("skopeo can be started");
        assert!(output.status.success(), "skopeo copy to {reference}: {}", String::from_utf8_lossy(&output.stderr));
        reference
    }

    /// The digests of the blobs that were asked for by GET so far, in order.
    ///
    /// # Panics
    /// When the registry's log cannot be read.
    #[must_use]
    pub fn fetched_blobs(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.path().join("access.log")).expect("the registry's access log");
        let requests =
            log.lines().filter_map(|line| line.split('"').nth(1)).filter(|request| request.starts_with("GET "));
        requests
            .filter_map(|request| request.split_once("/blobs/"))
            .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }

    /// The file that holds a blob, so that a test can damage it.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}
