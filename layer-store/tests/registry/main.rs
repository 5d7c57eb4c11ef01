//! Pulls from a real docker-registry, and from one that misbehaves.

mod images;
mod logins;
mod odd_images;
mod policy;
mod proxies;
mod push;
mod refusals;
mod resume;
mod retries;
mod servers;
mod slow;
#[path = "../support/mod.rs"]
mod support;
mod tags;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layer_store::{
    Acquired, Digest, LayerProgress, Observer, Patience, PullError, PullOptions, Reference, Silent, Store,
};
use support::image::Image;
use support::{names, run};
use tempfile::TempDir;

/// Short waits, and no logins of the user that runs the test.
fn options() -> PullOptions {
    PullOptions {
        patience: Patience {
            stall: Duration::from_millis(400),
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_secs(5),
            ..Patience::default()
        },
        credential_files: Some(Vec::new()),
        ..PullOptions::default()
    }
}

/// A user's default options, for tests that must not fail on a slow host.
fn patient() -> PullOptions {
    PullOptions { credential_files: Some(Vec::new()), ..PullOptions::default() }
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn pull(&self, name: &str, options: &PullOptions) -> Result<Acquired, PullError> {
        self.watched(name, options, &(Arc::new(Silent) as Arc<dyn Observer>))
    }

    fn watched(&self, name: &str, options: &PullOptions, progress: &Arc<dyn Observer>) -> Result<Acquired, PullError> {
        let reference: Reference = name.parse().unwrap();
        Store::open(self.root()).unwrap().images().pull(&reference, options, progress)
    }

    fn refusal(&self, name: &str, options: &PullOptions) -> String {
        let error = self.pull(name, options).expect_err(name).to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    /// What a failed pull must not have changed.
    fn assert_empty(&self) {
        for directory in ["images", "layers/sha256", "manifests/sha256", "tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }

    fn assert_holds(&self, name: &str, image: &Image) {
        let store = Store::open(self.root()).unwrap();
        let reference: Reference = name.parse().unwrap();
        let kept = store.images().get(&reference.to_string()).unwrap();
        assert_eq!(kept.layers.iter().map(ToString::to_string).collect::<Vec<_>>(), image.diff_ids());
        for layer in &image.layers {
            let hex = Digest::of(&layer.tar).hex();
            let blob = std::fs::read(self.root().join("layers/sha256").join(hex).join("blob")).unwrap();
            assert!(blob == layer.tar, "the blob is the tar, byte for byte");
        }
        drop(store);
        for directory in ["tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }
}

fn fetched(acquired: &Acquired) -> Vec<bool> {
    acquired.layers.iter().map(|layer| !layer.was_present).collect()
}

/// Keeps what a pull reports.
#[derive(Debug, Default)]
struct Notices {
    lines: std::sync::Mutex<Vec<String>>,
    layers: std::sync::Mutex<Vec<(String, String, u64)>>,
}

impl Notices {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn last(&self, name: &str) -> (String, u64) {
        let layers = self.layers.lock().unwrap();
        let (_, state, bytes) = layers.iter().rev().find(|(known, ..)| known == name).unwrap();
        (state.clone(), *bytes)
    }
}

impl Observer for Notices {
    fn layer(&self, progress: &LayerProgress<'_>) {
        let mut layers = self.layers.lock().unwrap();
        layers.push((progress.name.to_owned(), format!("{:?}", progress.state), progress.bytes));
    }

    fn notice(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
}

/// Names a missing program in a separate test.
#[test]
fn the_programs_that_these_tests_need_are_installed() {
    for program in ["skopeo", "openssl"] {
        run(program, &[if program == "openssl" { "version" } else { "--version" }]);
    }
}
