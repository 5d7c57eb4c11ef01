//! A repository that an image is pushed to, for callers that wait for each step.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::client::{Repository, Scope};
pub(crate) use super::upload::UploadBlob;
use super::upload_note::UploadNote;
use super::{PullError, PullOptions, wait};
use crate::observer::Halt;
use crate::registries::Registries;
use crate::{BlobDigest, Digest, LayerProgress, LayerState, Observer, Reference};

/// How often progress is reported.
const REPORT: Duration = Duration::from_millis(100);

/// A repository to push to. Its methods may be called from several threads.
#[derive(Debug)]
pub(crate) struct Target {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    repository: Arc<Repository>,
    /// The directory of the notes about uploads.
    notes: PathBuf,
    halt: Halt,
}

impl Target {
    /// Opens the repository of `reference`. Blobs may be mounted from the repositories `mounted_from` of the same registry.
    /// Uploads that end early are noted in the directory `notes`, and continued by the next push.
    pub(crate) fn open(
        reference: &Reference,
        mounted_from: Vec<String>,
        options: &PullOptions,
        notes: PathBuf,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self, PullError> {
        let endpoint = Registries::read(&options.registries)?.target(reference)?;
        let options = options.at(&endpoint, reference.registry());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(|error| PullError::Client(Box::new(error)))?;
        let halt = Halt::new(observer);
        let opened = Repository::open(reference, &options, Scope::push(mounted_from), observer);
        let repository = Arc::new(wait(&runtime, &halt, opened)?);
        Ok(Self { runtime: Some(runtime), repository, notes, halt })
    }

    /// Ends what is in progress.
    pub(crate) fn cancel(&self) {
        self.halt.cancel();
    }

    pub(crate) fn has_blob(&self, digest: &BlobDigest) -> Result<bool, PullError> {
        self.wait(self.repository.has_blob(digest))
    }

    pub(crate) fn has_manifest(&self, digest: &Digest) -> Result<bool, PullError> {
        self.wait(self.repository.has_manifest(digest))
    }

    pub(crate) fn mount(&self, digest: &BlobDigest, from: &str) -> Result<bool, PullError> {
        self.wait(self.repository.mount(digest, from))
    }

    /// Sends a blob, and reports its progress under `name`.
    pub(crate) fn upload(&self, blob: &UploadBlob, name: &str) -> Result<(), PullError> {
        let sent = Arc::new(AtomicU64::new(0));
        let report = || {
            let bytes = sent.load(Ordering::Relaxed);
            self.halt.layer(&LayerProgress { name, state: LayerState::Sending, bytes, total: Some(blob.size) });
        };
        let note = UploadNote::open(&self.notes, &self.repository.name(), &blob.digest);
        self.wait(async {
            let upload = self.repository.upload(blob, &sent, note.as_ref());
            tokio::pin!(upload);
            loop {
                tokio::select! {
                    done = &mut upload => return done,
                    () = tokio::time::sleep(REPORT) => report(),
                }
            }
        })
    }

    pub(crate) fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<(), PullError> {
        self.wait(self.repository.put_manifest(name, media_type, bytes))
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
        match &self.runtime {
            Some(runtime) => wait(runtime, &self.halt, work),
            None => Err(PullError::Cancelled),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // A credential helper that waits for its user must not delay the end of a cancelled push.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
