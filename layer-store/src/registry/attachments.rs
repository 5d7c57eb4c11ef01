//! Signatures that a registry has for a manifest. cosign stores them as an image whose tag is made of the manifest's
//! digest; each of its layers is a signed document.

use std::collections::HashMap;

use serde::Deserialize;

use super::client::Repository;
use super::error::PullError;
use crate::oci::ImageError;
use crate::oci::manifest::Descriptor;
use crate::policy::Attachment;
use crate::{Digest, policy};

/// How many signatures of one manifest are looked at.
const MOST: usize = 64;

/// The largest signed document, in bytes. Real ones have a few hundred.
const DOCUMENT_LIMIT: u64 = 64 << 10;

#[derive(Deserialize)]
struct Signatures {
    layers: Vec<Signature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Signature {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// Reads the manifest of signatures.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Signature>, ImageError> {
    let malformed =
        |error: serde_json::Error| ImageError::Malformed { what: "manifest".to_owned(), cause: error.to_string() };
    serde_json::from_slice(bytes).map(|signatures: Signatures| signatures.layers).map_err(malformed)
}

impl Repository {
    /// Fetches the signatures of a manifest. None of them is verified yet.
    pub(super) async fn signatures(&self, manifest: &Digest) -> Result<Vec<Attachment>, PullError> {
        let tag = format!("sha256-{}.sig", manifest.hex());
        let answer = match self.manifest(&tag).await {
            Ok(answer) => answer,
            Err(PullError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let image = format!("{}:{tag}", self.name());
        let bad = |cause| PullError::Image { image: image.clone(), cause };
        let mut attachments = Vec::new();
        for layer in parse(&answer.bytes)
            .map_err(bad)?
            .into_iter()
            .filter(|layer| layer.media_type == policy::MEDIA_TYPE)
            .take(MOST)
        {
            let Some(signature) = layer.annotations.get(policy::ANNOTATION) else { continue };
            let document = Descriptor::new(&layer.media_type, &layer.digest, layer.size).map_err(bad)?;
            let payload = self.small_blob(&document, DOCUMENT_LIMIT).await?.bytes;
            document.verify("signed document", &payload).map_err(bad)?;
            attachments.push(Attachment { payload, signature: signature.clone() });
        }
        Ok(attachments)
    }
}
