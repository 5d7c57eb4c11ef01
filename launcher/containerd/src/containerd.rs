//! What a pull tells containerd: content, an image's name, and snapshots of layers that are ready.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use containerd_client::Client;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest};
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, Image, Info, UpdateImageRequest, UpdateRequest, WriteAction,
    WriteContentRequest,
};
use containerd_client::types::Descriptor;
use prost_types::FieldMask;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request};

use crate::record::REF;

/// For how long containerd keeps what a pull that was killed has given it.
const LEASE: Duration = Duration::from_secs(3600);

/// A connection to containerd that works in one namespace.
pub(crate) struct Containerd {
    client: Client,
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
        let client = Client::from_path(address).await;
        let client = client.map_err(|error| anyhow::anyhow!("{}: {}", address.display(), cause(&error)))?;
        let namespace = namespace.parse().with_context(|| format!("namespace {namespace:?}"))?;
        Ok(Self { client, address: address.to_owned(), namespace, snapshotter: snapshotter.to_owned(), lease: None })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    /// Makes containerd keep what it is given from now on, until [`Containerd::release`].
    pub(crate) async fn hold(&mut self) -> anyhow::Result<()> {
        let expires = DateTime::<Utc>::from(SystemTime::now() + LEASE).to_rfc3339_opts(SecondsFormat::Secs, true);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires)]);
        let id = format!("lamina-{}", crate::state::State::new_id());
        let made = self.client.leases().create(self.request(CreateRequest { id: id.clone(), labels })).await;
        made.map_err(|status| self.failed("a lease", &status))?;
        self.lease = Some(id.parse()?);
        Ok(())
    }

    pub(crate) async fn release(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let id = lease.to_str().unwrap_or_default().to_owned();
        // It expires by itself.
        let _ = self.client.leases().delete(self.request(DeleteRequest { id, sync: false })).await;
    }

    /// Makes a snapshot of layers that the snapshotter must have, and returns whether it was new. `chain` is their chain id,
    /// and `parent` that of the layers below.
    pub(crate) async fn ready(&self, chain: &str, parent: &str) -> anyhow::Result<bool> {
        let (snapshotter, mut snapshots) = (self.snapshotter.clone(), self.client.snapshots());
        let stat = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: chain.to_owned() };
        match snapshots.stat(self.request(stat)).await {
            Ok(_) => return Ok(false),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(self.failed(&format!("the snapshotter {snapshotter:?}"), &status)),
        }
        let key = format!("extract-{} {chain}", crate::state::State::new_id());
        let labels = HashMap::from([(REF.to_owned(), chain.to_owned())]);
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels,
        };
        match snapshots.prepare(self.request(prepare)).await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(true),
            Err(status) => Err(self.failed(&format!("layers {chain}"), &status)),
            Ok(_) => {
                let _ = snapshots.remove(self.request(RemoveSnapshotRequest { snapshotter, key })).await;
                bail!(
                    "the snapshotter {:?} does not have the layers {chain} that were just fetched: it is not `lamina \
                     containerd serve`, or serves another store; name its store with --store",
                    self.snapshotter
                )
            }
        }
    }

    /// Gives containerd a document. `labels` say what it leads to, which containerd then keeps with it.
    pub(crate) async fn put(&self, document: &Document, labels: HashMap<String, String>) -> anyhow::Result<()> {
        let total = i64::try_from(document.bytes.len())?;
        let write = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("lamina-{}", document.digest),
            total,
            expected: document.digest.clone(),
            offset: 0,
            data: document.bytes.clone(),
            labels: labels.clone(),
        };
        let mut content = self.client.content();
        let about = || format!("content {}", document.digest);
        let answers = content.write(self.request(tokio_stream::iter([write]))).await;
        let written = match answers {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        match written {
            Err(status) if status.code() != Code::AlreadyExists => return Err(self.failed(&about(), &status)),
            _ => {}
        }
        // What was there already has the labels of whoever put it there.
        let paths = labels.keys().map(|label| format!("labels.{label}")).collect();
        let info = Info { digest: document.digest.clone(), labels, ..Info::default() };
        let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let updated = content.update(self.request(update)).await;
        updated.map(drop).map_err(|status| self.failed(&about(), &status))
    }

    /// Names an image.
    pub(crate) async fn name(&self, reference: &str, manifest: &Document) -> anyhow::Result<()> {
        let target = Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: i64::try_from(manifest.bytes.len())?,
            ..Descriptor::default()
        };
        let image = Image { name: reference.to_owned(), target: Some(target), ..Image::default() };
        let mut images = self.client.images();
        let create = CreateImageRequest { image: Some(image.clone()), ..CreateImageRequest::default() };
        let named = match images.create(self.request(create)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let update_mask = Some(FieldMask { paths: vec!["target".into()] });
                let update = UpdateImageRequest { image: Some(image), update_mask, ..UpdateImageRequest::default() };
                images.update(self.request(update)).await.map(drop)
            }
            created => created.map(drop),
        };
        named.map_err(|status| self.failed(&format!("image {reference}"), &status))
    }

    fn failed(&self, what: &str, status: &tonic::Status) -> anyhow::Error {
        anyhow::anyhow!("containerd at {}: {what}: {}", self.address.display(), status.message())
    }
}

/// Returns the innermost cause of an error: the others only say that there was one.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}
