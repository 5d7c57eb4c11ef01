//! An image for several platforms: each image, everything else that is kept of the index, and the index.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::PushedLayer;
use super::destination::Document;
use super::error::PushError;
use super::layer::Sender;
use crate::oci::manifest;
use crate::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use crate::store::Image;
use crate::{BlobDigest, Digest};

impl Sender<'_> {
    /// Sends everything that is kept of an image's index. Returns the index, which is not sent yet.
    pub(super) fn all(&self, image: &Image) -> Result<(Document, Vec<PushedLayer>), PushError> {
        let Some(index) = image.index else {
            let name = &image.reference;
            self.observer.notice(&format!("{name} is an image for one platform: it came without an index"));
            return self.image(image);
        };
        let index = self.store.images().manifest_bytes(&index)?;
        let (mut sent, mut layers) = (HashMap::new(), Vec::new());
        for image in std::iter::once(image.clone()).chain(self.store.images().others(image)?) {
            let (document, pushed) = self.image(&image)?;
            layers.extend(pushed);
            self.destination.put_document(&document)?;
            sent.insert(image.manifest_digest, document);
        }
        for other in image.others.iter().filter(|other| !sent.contains_key(*other)).copied().collect::<Vec<_>>() {
            let bytes = self.store.images().manifest_bytes(&other)?;
            if let Ok(manifest::Document::Index(_)) = manifest::parse(&bytes, None) {
                continue;
            }
            for blob in manifest::blobs(&bytes).unwrap_or_default() {
                if let Some(digest) = blob.digest.sha256() {
                    self.send_document(&blob.digest, &self.store.images().manifest_bytes(&digest)?)?;
                }
            }
            let document = Document::new(bytes.clone(), &type_of(&bytes, OCI_MANIFEST));
            self.destination.put_document(&document)?;
            sent.insert(other, document);
        }
        Ok((self.index(index, &mut sent)?, layers))
    }

    /// Returns an index that lists what was sent: the same one, if it lists nothing else that the destination lacks.
    fn index(&self, bytes: Vec<u8>, sent: &mut HashMap<Digest, Document>) -> Result<Document, PushError> {
        let bad = |error: String| PushError::Document("index", error);
        let media_type = type_of(&bytes, OCI_INDEX);
        let mut fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let Some(entries) = fields.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(bad("it has no list of manifests".to_owned()));
        };
        let (mut kept, mut is_same) = (Vec::new(), true);
        for mut entry in std::mem::take(entries) {
            let digest = entry.get("digest").and_then(Value::as_str).and_then(|text| text.parse::<BlobDigest>().ok());
            let Some(digest) = digest.and_then(|digest| digest.sha256()) else {
                is_same = false;
                continue;
            };
            if !sent.contains_key(&digest)
                && let Ok(inner) = self.store.images().manifest_bytes(&digest)
                && matches!(manifest::parse(&inner, None), Ok(manifest::Document::Index(_)))
            {
                let inner = self.index(inner, sent)?;
                self.destination.put_document(&inner)?;
                sent.insert(digest, inner);
            }
            match sent.get(&digest) {
                Some(document) if document.digest == digest => kept.push(entry),
                Some(document) => {
                    is_same = false;
                    if let Value::Object(entry) = &mut entry {
                        entry.insert("digest".to_owned(), json!(document.digest.to_string()));
                        entry.insert("size".to_owned(), json!(document.bytes.len()));
                        entry.insert("mediaType".to_owned(), json!(document.media_type));
                    }
                    kept.push(entry);
                }
                None if self.destination.has_document(&digest)? => kept.push(entry),
                None if self.options.preserve_digests => return Err(PushError::Incomplete(digest)),
                None => is_same = false,
            }
        }
        if is_same {
            return Ok(Document::new(bytes, &media_type));
        }
        // An attestation is about one manifest, and says nothing about another one.
        kept.retain(|entry| {
            let about = entry.pointer("/annotations/vnd.docker.reference.digest").and_then(Value::as_str);
            let about = about.and_then(|about| about.parse::<Digest>().ok());
            about.is_none_or(|about| sent.get(&about).is_none_or(|document| document.digest == about))
        });
        fields.insert("manifests".to_owned(), Value::Array(kept));
        fields.insert("mediaType".to_owned(), json!(OCI_INDEX));
        let new = Document::new(serde_json::to_vec(&fields).map_err(|error| bad(error.to_string()))?, OCI_INDEX);
        self.observer.notice(&format!("the index lists what was sent, so its digest is {}", new.digest));
        Ok(new)
    }
}

/// Returns the type that a document gives itself, or else the usual one.
fn type_of(bytes: &[u8], usual: &str) -> String {
    let fields: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let own = fields.get("mediaType").and_then(Value::as_str).filter(|own| !own.is_empty());
    own.unwrap_or(usual).to_owned()
}
