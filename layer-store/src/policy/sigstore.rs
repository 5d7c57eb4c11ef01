//! Signatures as cosign and skopeo write them into a registry: a document ("simple signing") that names the digest of a
//! manifest and the image that it was signed as, and a signature of that document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::key::Key;
use crate::Digest;

/// The type of the document.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature, in base64.
pub(crate) const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What the document says it is.
const TYPE: &str = "cosign container image signature";

/// A signature that a registry has for a manifest.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    /// The document, byte for byte as it was signed.
    pub(crate) payload: Vec<u8>,
    /// The signature, in base64.
    pub(crate) signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    critical: Critical,
    // Its content is not covered by any promise, but the field must be there.
    #[expect(dead_code, reason = "only checked to be there")]
    #[serde(deserialize_with = "present")]
    optional: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: IdentityOfSigner,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityOfSigner {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// Without a separate function, a missing `Value` would be read as null.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
    Value::deserialize(from)
}

/// Reads a signed document.
pub(super) fn parse(bytes: &[u8]) -> Result<Payload, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("its signed document is malformed: {error}"))
}

impl Attachment {
    /// Checks that one of the keys has signed the manifest, under a name that `accepts` allows.
    ///
    /// # Errors
    /// Says what is wrong, in words that follow the name of the image.
    pub(super) fn verify(&self, keys: &[Key], manifest: &Digest, accepts: impl Fn(&str) -> bool) -> Result<(), String> {
        let signature = STANDARD.decode(&self.signature).map_err(|_| "its signature is not base64".to_owned())?;
        // Nothing in the document is looked at before this.
        if !keys.iter().any(|key| key.verifies(&self.payload, &signature)) {
            return Err("its signature is by none of the keys".to_owned());
        }
        let payload = parse(&self.payload)?;
        let Critical { kind, image, identity } = payload.critical;
        if kind != TYPE {
            return Err(format!("its signed document has the type {kind:?}"));
        }
        if !accepts(&identity.reference) {
            return Err(format!("it was signed as {}", identity.reference));
        }
        if image.digest != manifest.to_string() {
            return Err(format!("the signature is for the manifest {}, the image has {manifest}", image.digest));
        }
        Ok(())
    }
}
