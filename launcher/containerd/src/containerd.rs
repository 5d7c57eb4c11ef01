//! What a pull tells containerd: content, an image's name, and snapshots of layers that are ready.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::FieldMask;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::api::content::{ContentClient, Info, UpdateRequest, WriteAction, WriteContentRequest};
use crate::api::images::{CreateImageRequest, Descriptor, Image, ImagesClient, UpdateImageRequest};
use crate::api::leases::{AddResourceRequest, CreateRequest, DeleteRequest, LeasesClient, Resource};
use crate::api::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest, SnapshotsClient, StatSnapshotRequest};
use crate::record::REF;
use crate::state::State;

/// For how long containerd keeps what a pull that was killed has given it.
const LEASE: Duration = Duration::from_secs(3600);

/// For how long is waited for containerd to remove what it was given by a pull that failed.
const REMOVAL: Duration = Duration::from_secs(10);

/// For how long containerd may take to connect to a snapshotter again (it waits 3 s between attempts), and the pause between
/// two questions.
const RECONNECTING: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// A connection to containerd that works in one namespace.
pub(crate) struct Containerd {
    channel: Channel,
    address: PathBuf,
    namespace: MetadataValue<Ascii>,
    snapshotter: String,
    /// Keeps what is given to containerd until the image's name does.
    lease: Option<MetadataValue<Ascii>>,
}

/// A manifest or a config.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

impl Containerd {
    /// Connects to the containerd at `address`.
    pub(crate) async fn connect(address: &Path, namespace: &str, snapshotter: &str) -> anyhow::Result<Self> {
        let failed = |error: &tonic::transport::Error| anyhow::anyhow!("{}: {}", address.display(), cause(error));
        let socket = std::path::absolute(address).with_context(|| address.display().to_string())?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|error| failed(&error))?;
        let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
        let namespace = namespace.parse().with_context(|| format!("namespace {namespace:?}"))?;
        Ok(Self { channel, address: address.to_owned(), namespace, snapshotter: snapshotter.to_owned(), lease: None })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    /// Makes containerd keep what it is given from now on, until [`Containerd::release`].
    pub(crate) async fn hold(&mut self) -> anyhow::Result<()> {
        let expires = DateTime::<Utc>::from(SystemTime::now() + LEASE).to_rfc3339_opts(SecondsFormat::Secs, true);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires)]);
        let id = format!("lamina-{}", State::new_id());
        let made = self.leases().create(self.request(CreateRequest { id: id.clone(), labels })).await;
        made.map_err(|status| self.failed("a lease", &status))?;
        self.lease = Some(id.parse()?);
        Ok(())
    }

    /// Ends what [`Containerd::hold`] began. Unless the image `is_named`, containerd then removes what it was given.
    pub(crate) async fn release(&mut self, is_named: bool) {
        let Some(lease) = self.lease.take() else { return };
        let id = lease.to_str().unwrap_or_default().to_owned();
        let mut leases = self.leases();
        let deleted = leases.delete(self.request(DeleteRequest { id, sync: !is_named }));
        // It expires by itself, and containerd goes on with a removal that is not waited for.
        let _ = tokio::time::timeout(REMOVAL, deleted).await;
    }

    /// Leaves what [`Containerd::hold`] began to expire: containerd may still name the image, which then needs all of it.
    pub(crate) fn abandon(&mut self) {
        self.lease = None;
    }

    /// Makes snapshots of a stack of layers that the snapshotter must have. `chains` are their chain ids, bottom first.
    pub(crate) async fn make_ready(&self, chains: &[String]) -> anyhow::Result<()> {
        // The highest one that is there keeps those below it.
        let mut present = chains.len();
        while present > 0 && !self.keeps(&chains[present - 1]).await? {
            present -= 1;
        }
        // If the snapshotter has lost its state, containerd still has these names, and would make no snapshots for them.
        for chain in chains[present..].iter().rev() {
            self.forget(chain).await;
        }
        for (at, chain) in chains.iter().enumerate().skip(present) {
            let parent = at.checked_sub(1).map_or("", |below| chains[below].as_str());
            self.make_one_ready(chain, parent).await?;
        }
        Ok(())
    }

    /// Adds a snapshot to the lease if it is there. Returns whether it is.
    async fn keeps(&self, key: &str) -> anyhow::Result<bool> {
        if !self.has(key).await? {
            return Ok(false);
        }
        self.keep(key, &format!("snapshots/{}", self.snapshotter)).await?;
        // It may have been collected before it was in the lease.
        self.has(key).await
    }

    /// Adds something that is there already to the lease: what is made by calls with the lease is in it.
    async fn keep(&self, id: &str, kind: &str) -> anyhow::Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let resource = Resource { id: id.to_owned(), r#type: kind.to_owned() };
        let id = lease.to_str().unwrap_or_default().to_owned();
        let add = AddResourceRequest { id, resource: Some(resource) };
        let added = self.leases().addresource(self.request(add)).await;
        added.map(drop).map_err(|status| self.failed("a lease", &status))
    }

    /// Whether both containerd and the snapshotter have a snapshot.
    async fn has(&self, key: &str) -> anyhow::Result<bool> {
        let stat = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        match patiently(async || self.snapshots().stat(self.request(stat.clone())).await).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.failed(&format!("the snapshotter {:?}", self.snapshotter), &status)),
        }
    }

    async fn forget(&self, key: &str) {
        let remove = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        // Mostly there is nothing to forget, and a snapshot that others are made on stays.
        let _ = self.snapshots().remove(self.request(remove)).await;
    }

    async fn make_one_ready(&self, chain: &str, parent: &str) -> anyhow::Result<()> {
        let key = format!("extract-{} {chain}", State::new_id());
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::from([(REF.to_owned(), chain.to_owned())]),
        };
        match patiently(async || self.snapshots().prepare(self.request(prepare.clone())).await).await {
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(self.failed(&format!("layers {chain}"), &status)),
            Ok(_) => {
                self.forget(&key).await;
                bail!(
                    "the snapshotter {:?} does not have the layers {chain} that were just fetched: it is not `lamina \
                     containerd serve`, or serves another store; name its store with --store",
                    self.snapshotter
                )
            }
        }
        if !self.has(chain).await? {
            bail!(
                "containerd at {}: the snapshotter {:?} has lost snapshots that containers still use; remove these \
                 containers and the image, and pull it again",
                self.address.display(),
                self.snapshotter
            )
        }
        Ok(())
    }

    /// Gives containerd a document. `labels` say what it leads to, which containerd then keeps with it.
    pub(crate) async fn put(&self, document: &Document, labels: HashMap<String, String>) -> anyhow::Result<()> {
        let failed = |status: &Status| self.failed(&format!("content {}", document.digest), status);
        loop {
            match self.write(document, &labels).await {
                Ok(()) => return Ok(()),
                Err(status) if status.code() == Code::AlreadyExists => {}
                Err(status) => return Err(failed(&status)),
            }
            self.keep(&document.digest, "content").await?;
            // What is there has the labels that it was given then.
            match self.label(&document.digest, &labels).await {
                Ok(()) => return Ok(()),
                // It was collected before it was in the lease.
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(failed(&status)),
            }
        }
    }

    async fn write(&self, document: &Document, labels: &HashMap<String, String>) -> Result<(), Status> {
        let write = WriteContentRequest {
            action: WriteAction::Commit.into(),
            // Of this pull alone: another one of the same content need not be waited for.
            r#ref: format!("lamina-{}-{}", State::new_id(), document.digest),
            total: i64::try_from(document.bytes.len()).map_err(|error| Status::internal(error.to_string()))?,
            expected: document.digest.clone(),
            data: document.bytes.clone(),
            labels: labels.clone(),
        };
        let mut content = ContentClient::new(self.channel.clone());
        let answers = content.write(self.request(tokio_stream::iter([write]))).await?;
        answers.into_inner().message().await.map(drop)
    }

    async fn label(&self, digest: &str, labels: &HashMap<String, String>) -> Result<(), Status> {
        let paths = labels.keys().map(|label| format!("labels.{label}")).collect();
        let info = Info { digest: digest.to_owned(), labels: labels.clone() };
        let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        ContentClient::new(self.channel.clone()).update(self.request(update)).await.map(drop)
    }

    /// Names an image.
    pub(crate) async fn name(&self, reference: &str, manifest: &Document) -> anyhow::Result<()> {
        let target = Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: i64::try_from(manifest.bytes.len())?,
        };
        let image = Image { name: reference.to_owned(), target: Some(target) };
        let mut images = ImagesClient::new(self.channel.clone());
        let create = CreateImageRequest { image: Some(image.clone()) };
        let named = match images.create(self.request(create)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let update_mask = Some(FieldMask { paths: vec!["target".into()] });
                let update = UpdateImageRequest { image: Some(image), update_mask };
                images.update(self.request(update)).await.map(drop)
            }
            created => created.map(drop),
        };
        named.map_err(|status| self.failed(&format!("image {reference}"), &status))
    }

    fn failed(&self, what: &str, status: &Status) -> anyhow::Error {
        anyhow::anyhow!("containerd at {}: {what}: {}", self.address.display(), status.message())
    }
}

/// Repeats a call of a snapshotter that has just been started again until containerd has noticed.
async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let begin = Instant::now();
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && begin.elapsed() < RECONNECTING => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Returns the innermost cause of an error: the others only say that there was one.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}
