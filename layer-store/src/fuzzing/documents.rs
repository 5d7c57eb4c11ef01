//! Documents that a registry, an archive, another user's store or a user feeds. Whatever the bytes, reading them ends
//! with a document or an error.

use crate::oci::manifest::{self, Document};
use crate::oci::media_type::{DOCKER_MANIFEST, OCI_INDEX};
use crate::oci::platform::Platform;
use crate::oci::tolerant;
use crate::{Reference, archive, policy, registry, store};

/// Reads bytes as a manifest, an index and a config.
pub fn image_documents(bytes: &[u8]) {
    let host = Platform::host();
    for content_type in [None, Some(OCI_INDEX), Some(DOCKER_MANIFEST)] {
        match manifest::parse(bytes, content_type) {
            Ok(Document::Manifest(read)) => {
                for descriptor in read.layers.iter().chain([&read.config]) {
                    assert!(descriptor.short().len() <= 12);
                    let _ = descriptor.verify("layer", bytes);
                }
            }
            Ok(Document::Index(read)) => {
                for entry in &read.entries {
                    let _ = (entry.platform.fit(&host), entry.platform.named());
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    if let Ok(read) = manifest::parse_config(bytes, 1) {
        assert_eq!(read.diff_ids.len(), 1);
    }
    let _ = tolerant::config(bytes).map(|config| serde_json::to_string(&config));
    let platform = tolerant::config_platform(bytes).assumed(&host);
    assert_eq!(platform.distance_to(&platform), Some(0));
    let _ = String::from_utf8_lossy(bytes).parse::<Reference>();
}

/// Reads bytes as the list of a layout and as that of a docker archive, in which every other file has the same bytes.
pub fn archive_lists(bytes: &[u8]) {
    archive::fuzzing::lists(bytes);
}

/// Reads bytes as each document of a store.
pub fn store_documents(bytes: &[u8]) {
    store::fuzzing::documents(bytes);
}

/// Reads bytes as a file with logins, and asks it for some.
pub fn login_file(bytes: &[u8]) {
    registry::fuzzing::login_file(bytes);
}

/// Reads bytes as what a registry sends besides images: errors, tokens, challenges, ranges and lists of signatures.
pub fn registry_answer(bytes: &[u8]) {
    registry::fuzzing::answer(bytes);
}

/// Reads bytes as a policy, a file of `registries.d`, a key and a signed document.
pub fn policy(bytes: &[u8]) {
    policy::fuzzing::documents(bytes);
}
