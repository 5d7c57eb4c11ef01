//! Makes an image of one layer from the tar of a file system, such as `docker export` writes.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::change::ConfigChange;
use super::error::ImportError;
use super::sniff::{self, Form};
use super::watch::{Counted, Pipe, Watched};
use super::{ImportSource, docker};
use crate::observer::Halt;
use crate::oci::platform::Platform;
use crate::oci::sink::{LayerSink, Named};
use crate::oci::{Acquired, AcquiredLayer, LayerSource, Origin};
use crate::policy::{ImagePolicy, Place};
use crate::{ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

/// The metadata of an image that is made from a root file system.
#[derive(Clone, Debug, Default)]
pub struct RootfsOptions {
    /// The platform that it is for; `None` is [`Platform::host`].
    pub platform: Option<Platform>,
    /// Changes to its config, which is empty otherwise.
    pub changes: Vec<ConfigChange>,
    /// When it was made, in the format of RFC 3339. Without it the same tar gives the same image.
    pub created: Option<String>,
    /// The comment in its history.
    pub comment: Option<String>,
    /// Whether it may enter the store.
    pub policy: ImagePolicy,
}

/// Imports the tar of a file system, compressed or not, as an image of one layer.
pub(crate) fn import_into(
    sink: &dyn LayerSink,
    source: &ImportSource,
    reference: &Reference,
    options: &RootfsOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Acquired, ImportError> {
    let halt = &Halt::new(observer);
    let source_name = source.to_string();
    options.policy.demand(&format!("{} from {source_name}", reference.familiar()), Place::Tarball)?;
    let failed = |cause| match halt.cancelled() {
        true => ImportError::Cancelled,
        false => ImportError::Read { source_name: source_name.clone(), cause },
    };
    let not_a_tar =
        |reason: &str| ImportError::NotARootfs { source_name: source_name.clone(), reason: reason.to_owned() };
    let file;
    let (mut reader, total): (Box<dyn Read + Send + '_>, _) = match source {
        ImportSource::Daemon { .. } => return Err(not_a_tar("a daemon sends images")),
        ImportSource::StandardInput => {
            let source = Pipe { source: rustix::stdio::stdin() };
            (Box::new(Watched { source, cancellation: halt }), None)
        }
        ImportSource::Path(path) => {
            file = File::open(path).map_err(failed)?;
            let status = file.metadata().map_err(failed)?;
            if status.is_dir() {
                return Err(not_a_tar("it is a directory; pack it with tar"));
            }
            match status.is_file() {
                true => (Box::new(&file), Some(status.len())),
                false => (Box::new(Watched { source: Pipe { source: file.as_fd() }, cancellation: halt }), None),
            }
        }
    };
    let mut head = Vec::new();
    (&mut reader).take(sniff::HEAD).read_to_end(&mut head).map_err(failed)?;
    match sniff::form(&head) {
        Form::Other if head.is_empty() => return Err(not_a_tar("it is empty")),
        Form::Other => return Err(not_a_tar("it does not begin like a tar archive")),
        Form::Tar | Form::Compressed => {}
    }
    let report = |state, bytes| halt.layer(&LayerProgress { name: "root", state, bytes, total });
    let mut whole = Cursor::new(head).chain(reader);
    let mut counted = Counted::new(&mut whole, halt, |bytes| report(LayerState::Fetching, bytes));
    let ingested = sink.ingest(&mut counted, &ExpectedLayer::default()).map_err(|cause| match halt.cancelled() {
        true => ImportError::Cancelled,
        false => ImportError::Layer { source_name: source_name.clone(), layer: "root".to_owned(), cause },
    })?;
    report(LayerState::Done, total.unwrap_or(ingested.blob_bytes));
    sink.adopt(&ingested.diff_id).map_err(ImportError::Store)?;

    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let config = config(options, &platform, &ingested.diff_id.to_string());
    let manifest = docker::manifest(&config, &[(ingested.diff_id, ingested.blob_bytes)]);
    sink.put_manifest(&config).map_err(ImportError::Store)?;
    let manifest_digest = sink.put_manifest(&manifest).map_err(ImportError::Store)?;
    if reference.digest().is_some_and(|digest| digest != manifest_digest) {
        return Err(ImportError::WrongName { source_name, name: reference.familiar(), actual: manifest_digest });
    }
    let before = sink.named(&reference.to_string()).filter(|before| *before != manifest_digest);
    if let Some(before) = before {
        halt.notice(&format!("{} was {before} until now", reference.familiar()));
    }
    sink.name(&reference.to_string(), &Named::of(manifest_digest)).map_err(ImportError::Store)?;
    let source = LayerSource {
        // It is not an image archive, in which a repair could look for the layer.
        origin: Origin::Archive("-".to_owned()),
        compressed: ingested.compressed_digest.into(),
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        bytes: total.unwrap_or(ingested.blob_bytes),
        urls: Vec::new(),
    };
    let layer = AcquiredLayer { diff_id: ingested.diff_id, source, was_present: ingested.was_present };
    Ok(Acquired {
        references: vec![reference.clone()],
        manifest_digest,
        platform,
        layers: vec![layer],
        others: Vec::new(),
    })
}

fn config(options: &RootfsOptions, platform: &Platform, diff_id: &str) -> Vec<u8> {
    let mut run = Map::new();
    ConfigChange::apply_all(&options.changes, &mut run);
    let mut history = json!({"created_by": "lamina import"});
    let mut config = json!({"config": run, "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let parts = platform.to_string();
    let mut parts = parts.split('/');
    for field in ["os", "architecture", "variant"] {
        set(&mut config, field, parts.next());
    }
    for document in [&mut config, &mut history] {
        set(document, "created", options.created.as_deref());
    }
    set(&mut history, "comment", options.comment.as_deref());
    if let Value::Object(fields) = &mut config {
        fields.insert("history".to_owned(), json!([history]));
    }
    config.to_string().into_bytes()
}

fn set(document: &mut Value, field: &str, value: Option<&str>) {
    if let (Value::Object(fields), Some(value)) = (document, value) {
        fields.insert(field.to_owned(), json!(value));
    }
}
